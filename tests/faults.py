"""What can be wrong with a checkpoint, and words of what is said about it."""

import json

import safetensors.torch
import tiny
import torch

import model as llama
from files import InputError

# Damages: functions of the checkpoint's path


def absent(name):
    return lambda path: (path / name).unlink()


def holds(name, content):
    return lambda path: (path / name).write_bytes(content)


def config(name="config.json", **changes):
    def damage(path):
        values = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps({**values, **changes}))

    return damage


def rope(**values):
    return config(rope_scaling=values)


def setting(**changes):
    return config("tokenizer_config.json", **changes)


def window(**changes):
    base = {"sliding_window": 7, "use_sliding_window": True}
    return config(architectures=["Qwen2ForCausalLM"], **{**base, **changes})


def template(source):
    return holds("chat_template.jinja", source.encode())


def weights(change):
    """`change` gets the dict of the tensors."""

    def damage(path):
        tensors = safetensors.torch.load_file(path / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, path / "model.safetensors")

    return damage


def tensor(name, value):
    return weights(lambda tensors: tensors.update({name: value}))


def index(shard):
    """The weights in a.safetensors, and an index that names `shard` for each of them."""

    def damage(path):
        (path / "model.safetensors").rename(path / "a.safetensors")
        names = tiny.shapes(tiny.config("llama3"))
        value = {"weight_map": dict.fromkeys(names, shard)}
        (path / "model.safetensors.index.json").write_text(json.dumps(value))

    return damage


def cut_off(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def more_tokens(path):
    tok = tiny.tokenizer()
    tok.add_tokens([f"<{n}>" for n in range(41)])
    tok.save(str(path / "tokenizer.json"))


def no_end(path):
    texts = template("{{ messages | join('\n', attribute='content') }}")
    for damage in setting(eos_token=None), texts, config(eos_token_id=None):
        damage(path)


NORM, BIAS = "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"
NAN = torch.full((32,), float("nan"))
LOOP = "{% for i in range(999999999) %}{% endfor %}"

CHECKPOINTS = {  # fault: (damage to a tiny Llama, words)
    "config.json absent": (absent("config.json"), "config.json"),
    "config.json cut off": (holds("config.json", b'{"arch'), "config.json"),
    "a text for a number": (config(num_hidden_layers="3"), "num_hidden_layers"),
    "a NaN": (config(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "heads that do not divide": (config(num_key_value_heads=3), "multiple of 3"),
    "another architecture": (config(architectures=["GPT2LMHeadModel"]), "GPT2"),
    "quantised": (config(quantization_config={"bits": 4}), "quantised"),
    "another activation": (config(hidden_act="gelu"), "silu"),
    "part of the head rotated": (config(partial_rotary_factor=0.5), "rotary"),
    "an unknown rope type": (rope(rope_type="yarn", factor=4.0), "yarn"),
    "a rope type that is a list": (rope(rope_type=["linear"]), "linear"),
    "a rope without its numbers": (rope(rope_type="llama3"), "factor"),
    "an unknown layer type": (window(layer_types=["chunked"] * 3), "layer_types"),
    "a text for a window": (window(sliding_window="7"), "sliding_window"),
    "no weights": (absent("model.safetensors"), "model.safetensors"),
    "pickled weights alone": (pickled, "pickled weights"),
    "weights cut off": (cut_off, "cannot be read"),
    "another shape": (tensor(NORM, torch.ones(31)), "[31]"),
    "a tensor missing": (weights(lambda tensors: tensors.pop(NORM)), NORM),
    "a tensor too many": (tensor("extra", torch.ones(2)), "extra"),
    "a bias in one layer": (tensor(BIAS, torch.ones(32)), "_proj.bias"),
    "NaN in a weight": (tensor(NORM, NAN), NORM),
    "eight bits": (tensor(NORM, torch.ones(32, dtype=torch.int8)), "I8"),
    "tied but two tensors": (config(tie_word_embeddings=True), "tie_word_embeddings"),
    "a shard absent": (index("b.safetensors"), "b.safetensors"),
    "tokenizer.json absent": (absent("tokenizer.json"), "tokenizer.json"),
    "more tokens than rows": (more_tokens, "300"),
    "a tokenizer's setting a list": (holds("tokenizer_config.json", b"[]"), "tokenizer_config"),
    "eos_token a number": (setting(eos_token=5), ""),
    "no end token": (no_end, "end token"),
    "a text for an end's id": (config(eos_token_id="257"), ""),
    "chat_template a number": (setting(chat_template=5), ""),
    "a template cut off": (template("{% for m in messages %}"), "template"),
    "a template that raises": (template("{{ raise_exception('alternate') }}"), "alternate"),
    "a template that never ends": (template(LOOP), "template"),
    "a template of attributes": (template("{{ x.__class__.__mro__ }}"), "SecurityError"),
    "a template not UTF-8": (holds("chat_template.jinja", b"\xff\xfe"), "utf-8"),
}


def message(damage, folder):
    """What loading a tiny checkpoint says after `damage`; None if it loads."""
    path = tiny.checkpoint(folder / "checkpoint", "llama3")
    damage(path)
    try:
        llama.load(path)
    except (InputError, OSError) as error:
        return str(error).replace(str(path), "CKPT")
