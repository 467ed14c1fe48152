"""What can be wrong with the files a user brings, and what is said about it.

    python tests/faults.py checkpoints        # a table: fault, message
    python tests/faults.py data
    python tests/faults.py fuzz 100000        # judges on random, mutated and very long texts: none raises, none is slow

`CHECKPOINTS` and `DATA` are the tables; test_faults.py goes through them, and through a short form of the rest.
"""
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import judges  # noqa: E402
import model as llama  # noqa: E402
import tiny  # noqa: E402
from data import Example, gsm8k, jsonl, mbpp, nq  # noqa: E402
from files import InputError  # noqa: E402

# ---------------------------------------------------------------------------------------------------------------- checkpoints


def config(**changes):
    def damage(path):
        values = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**values, **changes}))
    return damage


def text(name, content):
    def damage(path):
        if (path / name).is_file():
            (path / name).unlink()
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return damage


def weights(change):
    """Rewrite model.safetensors after `change`(dict of tensors)."""
    def damage(path):
        tensors = safetensors.torch.load_file(path / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, path / "model.safetensors")
    return damage


def raw(change):
    def damage(path):
        file = path / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))
    return damage


def index(weight_map):
    def damage(path):
        (path / "model.safetensors").rename(path / "a.safetensors")
        names = safetensors.torch.load_file(path / "a.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps(weight_map(names)))
    return damage


def template(source):
    def damage(path):
        (path / "chat_template.jinja").write_text(source)
    return damage


def without(*names):
    def damage(path):
        for name in names:
            (path / name).unlink()
    return damage


def instead(make):
    def damage(path):
        shutil.rmtree(path)
        make(path)
    return damage


def loop(path):
    path.rmdir() if path.is_dir() else path.unlink()
    path.symlink_to(path)


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
CHECKPOINTS = {
    "no such directory": instead(lambda path: None),
    "a file in place of the directory": instead(lambda path: path.write_text("x")),
    "an empty directory": instead(lambda path: path.mkdir()),
    "a link to itself": instead(lambda path: path.symlink_to(path)),
    "config.json absent": without("config.json"),
    "config.json cut off": text("config.json", '{"architectures": ["Llama'),
    "config.json holds a list": text("config.json", "[1, 2]"),
    "config.json is a link to itself": lambda path: loop(path / "config.json"),
    "a text for a number": config(num_hidden_layers="3"),
    "a negative number": config(hidden_size=-32),
    "a number that is no integer": config(num_attention_heads=3.5),
    "head_dim a text": config(head_dim="8"),
    "layer_types of another length": config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, sliding_window=7, layer_types=["full_attention"]),
    "an unknown kind of layer": config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, layer_types=["chunked_attention"] * 3),
    "layer_types a number": config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, layer_types=5),
    "a text for max_window_layers": config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, max_window_layers="2"),
    "a text for the window": config(architectures=["MistralForCausalLM"], sliding_window="7"),
    "a number of 30 digits": config(vocab_size=10 ** 30),
    "an epsilon that is NaN": config(rms_norm_eps=float("nan")),
    "an unknown architecture": config(architectures=["GPT2LMHeadModel"]),
    "architectures a text": config(architectures="LlamaForCausalLM"),
    "architectures a number": config(architectures=5),
    "architectures a list of lists": config(architectures=[["LlamaForCausalLM"]]),
    "quantised": config(quantization_config={"bits": 4}),
    "another activation": config(hidden_act="gelu"),
    "an unknown rope type": config(rope_scaling={"rope_type": "yarn", "factor": 4.0}),
    "rope_scaling a text": config(rope_scaling="linear"),
    "a text for the rope's factor": config(rope_scaling={"rope_type": "linear", "factor": "4"}),
    "a rope type that is a list": config(rope_scaling={"rope_type": ["linear"]}),
    "a rope for each type of layer": config(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 5e5}}),
    "a factor of zero": config(rope_scaling={"rope_type": "linear", "factor": 0}),
    "a rope_theta of 400 digits": config(rope_theta=10 ** 400),
    "heads that do not divide": config(num_attention_heads=8, num_key_value_heads=3),
    "no weights": without("model.safetensors"),
    "pickled weights only": lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
    "weights cut off": raw(lambda data: data[:len(data) // 2]),
    "weights of zero bytes": raw(lambda data: b""),
    "a header that is no JSON": raw(lambda data: data[:8] + b"x" * 40 + data[48:]),
    "a web page in place of the weights": raw(lambda data: b"<!DOCTYPE html><html>404</html>"),
    "a tensor of another shape": weights(lambda t: t.update({UP: t[UP][:-1].contiguous()})),
    "a tensor missing": weights(lambda t: t.pop(UP)),
    "a tensor too many": weights(lambda t: t.update({"model.extra.weight": torch.ones(2)})),
    "NaN in a weight": weights(lambda t: t[UP].__setitem__((3, 4), float("nan"))),
    "infinity in a weight": weights(lambda t: t[NORM].__setitem__(0, float("-inf"))),
    "weights of eight bits": weights(lambda t: t.update({UP: t[UP].to(torch.int8)})),
    "an index that names an absent shard": index(lambda names: {"weight_map": dict.fromkeys(names, "b.safetensors")}),
    "an index without weight_map": index(lambda names: {"metadata": {}}),
    "an index that names a file elsewhere": index(lambda names: {"weight_map": dict.fromkeys(names, "../a.safetensors")}),
    "an index of numbers": index(lambda names: {"weight_map": dict.fromkeys(names, 7)}),
    "tied embeddings that differ": lambda path: (config(tie_word_embeddings=True)(path), weights(
        lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))(path)),
    "tokenizer.json absent": without("tokenizer.json"),
    "tokenizer.json cut off": text("tokenizer.json", '{"version": "1.0", "model"'),
    "more tokens than the embedding has rows": config(vocab_size=200),
    "tokenizer_config.json cut off": text("tokenizer_config.json", '{"eos_token": '),
    "tokenizer_config.json holds a list": text("tokenizer_config.json", "[]"),
    "chat_template a number": text("tokenizer_config.json", '{"chat_template": 5}'),
    "chat_template an object": text("tokenizer_config.json", '{"chat_template": {"default": "x"}}'),
    "chat_template a list of texts": text("tokenizer_config.json", '{"chat_template": ["x"]}'),
    "chat_template a list without the template": text("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}'),
    "eos_token a number": text("tokenizer_config.json", '{"eos_token": 5}'),
    "eos_token an object without content": text("tokenizer_config.json", '{"eos_token": {"x": 1}}'),
    "eos_token a list": text("tokenizer_config.json", '{"eos_token": ["a"]}'),
    "a template that cannot be compiled": template("{% for m in messages %}{{ m.content }}"),
    "a template that raises": template("{{ raise_exception('roles must alternate') }}"),
    "a template that divides by zero": template("{{ 1 / 0 }}"),
    "a template that never ends": template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
    "a template that reads attributes": template("{{ messages.__class__.__mro__[1].__subclasses__() }}"),
    "a template that calls for a file": template("{% include '/etc/passwd' %}"),
    "a template that is not UTF-8": text("chat_template.jinja", b"\xff\xfe{{ messages }}"),
    "no end token": lambda path: (text("tokenizer_config.json", "{}")(path), template("{{ messages[0].content }}")(path),
                                  config(eos_token_id=None)(path)),
    "a text for an end token's id": text("generation_config.json", '{"eos_token_id": "257"}'),
}


def checkpoint_message(damage, folder, family="llama2"):
    """What loading a tiny checkpoint says after `damage`; None where it loads."""
    path = tiny.checkpoint(Path(folder) / "checkpoint", family)
    damage(path)
    try:
        llama.load(path)
    except (InputError, OSError) as error:
        return str(error).replace(str(path), "CKPT")


# ----------------------------------------------------------------------------------------------------------------------- data

GSM8K = {"question": "How many?", "answer": "1 + 1 = 2\n#### 2"}
MBPP = {"text": "Add.", "code": "def add(a, b):\n    return a + b", "task_id": 601, "test_setup_code": "", "test_list": ["assert add(1, 2) == 3"],
        "challenge_test_list": []}
OWN = {"prompt": "Say yes.", "gold": "yes"}
NQ = {"instruction": "Read. Passage: The sky is blue. Question: What is blue? Answer:", "gt_answer": "the sky"}


def lines(row, *bad, before=2):
    """A JSONL file: good rows, the bad ones, a good row. (bytes, first bad line)."""
    good = [json.dumps({**row, **({"task_id": 900 + n} if "task_id" in row else {})}).encode() for n in range(before + 1)]
    return b"\n".join([*good[:before], *bad, good[before]]) + b"\n", before + 1


def as_bytes(row, **changes):
    return json.dumps({**row, **changes}).encode()


def common(row, key):
    """Faults of any JSONL file."""
    return {
        "not JSON": lines(row, b"{'a': 1}"),
        "a line cut off": lines(row, as_bytes(row)[:-9]),
        "a list": lines(row, b"[1, 2]"),
        "a number": lines(row, b"7"),
        "Latin-1": lines(row, as_bytes(row, **{key: "caf?"}).replace(b"?", b"\xe9")),
        "UTF-16": (json.dumps(row).encode("utf-16"), 1),
        "the character NUL": lines(row, as_bytes(row, **{key: "a\0b"})),
        "half of a surrogate pair": lines(row, as_bytes(row, **{key: "a\ud800b"})),
        "nested a hundred thousand deep": lines(row, b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "a number of 10,000 digits": lines(row, b'{"x": ' + b"9" * 10_000 + b"}"),
        "a key missing": lines(row, json.dumps({k: v for k, v in row.items() if k != key}).encode()),
        "a number for a text": lines(row, as_bytes(row, **{key: 7})),
        "null for a text": lines(row, as_bytes(row, **{key: None})),
        "an empty text": lines(row, as_bytes(row, **{key: " "})),
        "one broken line in 10,000": lines(row, b"{", before=9_000 if "task_id" not in row else 50),
    }


# {(task, fault): (bytes, line or row that the message has to name)}
DATA = {("gsm8k", name): case for name, case in common(GSM8K, "question").items()}
DATA |= {("mbpp", name): case for name, case in common(MBPP, "text").items()}
DATA |= {("own", name): case for name, case in common(OWN, "gold").items()}
DATA |= {
    ("gsm8k", "no final answer"): lines(GSM8K, as_bytes(GSM8K, answer="1 + 1 = 2")),
    ("gsm8k", "two final numbers"): lines(GSM8K, as_bytes(GSM8K, answer="so\n#### 2 or 3")),
    ("gsm8k", "nothing before the answer"): lines(GSM8K, as_bytes(GSM8K, answer="\n#### 2")),
    ("mbpp", "a task_id twice"): lines(MBPP, as_bytes(MBPP, task_id=900)),
    ("mbpp", "a text for task_id"): lines(MBPP, as_bytes(MBPP, task_id="601")),
    ("mbpp", "a program that does not parse"): lines(MBPP, as_bytes(MBPP, code="def add(a, b:")),
    ("mbpp", "a test that does not parse"): lines(MBPP, as_bytes(MBPP, test_list=["assert add(1, 2 == 3"])),
    ("mbpp", "a test that is no assert"): lines(MBPP, as_bytes(MBPP, test_list=["print(1)"])),
    ("mbpp", "no tests"): lines(MBPP, as_bytes(MBPP, test_list=[])),
    ("nq", "not JSON"): (b"[{]", None),
    ("nq", "an object in place of the list"): (b"{}", 1),
    ("nq", "a row that is a text"): (json.dumps([NQ, "x"]).encode(), 2),
    ("nq", "no instruction"): (json.dumps([NQ, {"gt_answer": "x"}]).encode(), 2),
    ("nq", "an instruction without a question"): (json.dumps([NQ, NQ | {"instruction": "Passage: x Answer:"}]).encode(), 2),
    ("nq", "an answerable row without an answer"): (json.dumps([NQ, NQ | {"gt_answer": ""}]).encode(), 2),
    ("nq", "a list that is cut off as answer"): (json.dumps([NQ, NQ | {"gt_answer": '["a", '}]).encode(), 2),
    ("nq", "numbers as answers"): (json.dumps([NQ, NQ | {"gt_answer": "[1, 2]"}]).encode(), 2),
    ("nq", "the character NUL"): (json.dumps([NQ, NQ | {"gt_answer": "a\0"}]).encode(), 2),
    ("nq", "half of a surrogate pair"): (json.dumps([NQ, NQ | {"gt_answer": '["\\ud800"]'}]).encode(), 2),
    ("nq", "Latin-1"): (json.dumps([NQ]).encode().replace(b"sky", b"sk\xff"), None),
}
FILES = {"gsm8k": "train.jsonl", "mbpp": "mbpp.jsonl", "own": "own.jsonl", "nq": "answerable_train.json"}


def read(task, folder):
    if task == "own":
        return jsonl.load(Path(folder) / "own.jsonl", "exact")
    return {"gsm8k": gsm8k, "mbpp": mbpp, "nq": nq}[task].load(folder, "train")


def data_message(task, content, folder):
    """What reading a data file of these bytes says; None where it is read."""
    folder = Path(folder)
    if task == "nq":
        for name in ("answerable_test", "unanswerable_test", "unanswerable_train"):
            (folder / f"{name}.json").write_text("[]")
    (folder / FILES[task]).write_bytes(content)
    try:
        read(task, folder)
    except InputError as error:
        return str(error).replace(f"{folder}/", "")


# ----------------------------------------------------------------------------------------------------------------------- fuzz

ALPHABETS = ("0123456789.,$%/-+ =", "The answer is 42.\n#### ", "abc \t\n\r\"'`{}[]()<>\\", "é漢字😀\u202e\u0000\u200b\ud800 ½²٣", "```python\ndef f(x):\n    return x\n")
BAIT = ("1" * 50, "-" * 50, "1," * 50, "1 " * 50, "1/" * 50, "((((" * 20, "####\n" * 20, "\\boxed{" * 20, "```" * 20, "the answer is " * 20, "$" * 50,
        " = " * 30, "not " * 30, "1.1" * 30, "a, and " * 30, "\"'" * 50, "<<" * 50, "\\frac{1}{" * 20, "one hundred " * 20, "1e" * 40, "½" * 40)


def random_text(draw, known):
    """A text: characters of an alphabet, a known response mutated, or a bait said again and again."""
    kind = draw.randrange(4)
    if kind == 0:
        return "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randrange(200)))
    if kind == 1:
        return "".join(draw.choice(BAIT) for _ in range(draw.randrange(1, 6)))
    words = draw.choice(known)
    for _ in range(draw.randrange(6)):
        at, to = sorted(draw.randrange(len(words) + 1) for _ in range(2))
        words = draw.choice([words[:at] + words[to:], words[:to] + words[at:], words[:at] + draw.choice(BAIT)[:20] + words[to:],
                             words[:at] + "".join(draw.choices(draw.choice(ALPHABETS), k=3)) + words[at:]])
    return words[:4000]


def fuzz(n, seed=0):
    """{judge: (texts, slowest in ms, its beginning)} over n random texts, and texts of 1 MB; whatever a judge raises, this raises."""
    draw = random.Random(seed)
    known = [json.loads(line)["response"] for name in ("numeric", "reading") for line in open(ROOT / f"tests/{name}_cases.jsonl", encoding="utf-8")]
    example = {"numeric": Example("1", "", "", {"answer": "42"}), "exact": Example("1", "", "", {"answer": "42"}),
               "reading": Example("1", "", "", {"answers": ["the blue sky", "sky"], "question": "What is blue?"}),
               "extraction of a program": None}
    slowest = dict.fromkeys(example, (0.0, ""))
    long = [(bait * (1_000_000 // len(bait) + 1))[:1_000_000] for bait in (*BAIT, *ALPHABETS, *draw.sample(known, 5))]
    for words in [*(random_text(draw, known) for _ in range(n)), *long]:
        for name, of in example.items():
            start = time.perf_counter()
            if of is not None:
                judges.JUDGES[name][0](words, of)
            elif len(words) <= judges.LONGEST:                               # as the judge has it
                judges.programs(words)
            slowest[name] = max(slowest[name], (1e3 * (time.perf_counter() - start), words[:40]))
    return {name: (n + len(long), *worst) for name, worst in slowest.items()}


if __name__ == "__main__":
    if sys.argv[1] == "fuzz":
        for name, (count, ms, words) in fuzz(int(sys.argv[2])).items():
            print(f"{name}: {count} texts, the slowest {ms:.1f} ms, {words!a}")
    else:
        table = CHECKPOINTS if sys.argv[1] == "checkpoints" else DATA
        for name, case in table.items():
            with tempfile.TemporaryDirectory() as folder:
                message = checkpoint_message(case, folder) if table is CHECKPOINTS else data_message(name[0], case[0], folder)
            print(f"| {name if isinstance(name, str) else ': '.join(name)} | {message} |".replace("\n", " ⏎ "))
