"""Tiny checkpoints and training rows.

A weight is a formula of its tensor's name, so that golden values need no weights in the repository.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import safetensors.torch
import tokenizers
import torch

BASE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 257,
    "torch_dtype": "float32",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
THETA, TIED = {"rope_theta": 500000.0}, {"tie_word_embeddings": True}
WINDOW = {"sliding_window": 7}
FAMILIES = {  # (model_type, what differs from BASE)
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "llama3": ("Llama", {**THETA, "rope_scaling": LLAMA3}),
    "llama3-new-layout": ("Llama", {"rope_theta": None, "rope_parameters": {**LLAMA3, **THETA}}),
    "llama-linear": ("Llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm2": ("Llama", {**TIED, "num_attention_heads": 8}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral-window": ("Mistral", WINDOW),
    "qwen2": (
        "Qwen2",
        {**TIED, "rope_theta": 1e6, "sliding_window": 9, "use_sliding_window": False},
    ),
    "qwen2-window": ("Qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**TIED, "head_dim": 16}),
}
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SPECIALS = ["<|begin|>", "<|eos|>", "<|turn|>", "<|end|>"]  # 256 .. 259, after the bytes
END = 259

PAIRS = [  # (prompt ids, target ids)
    ([5, 90, 17, 33], [60, 61, 62, 200, 258]),
    ([1, 2, 3, 4, 5, 6, 7, 8, 9], [100, 3, 250, 7, 99, 12, 258]),
]


def training_pair(i):
    """(prompt ids, target ids) of many lengths."""
    prompt = [n % 256 for n in range(i, i + 3 + 5 * (i % 4))]
    target = [(7 * n + i) % 256 for n in range(1 + (i * i) % 11)]
    return prompt, [*target, END]


def config(family):
    kind, changes = FAMILIES[family]
    names = {"architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower()}
    values = {**names, **BASE, **changes}
    if values["rope_theta"] is None:
        del values["rope_theta"]
    return values


def shapes(config):
    """{tensor name: shape}, written from the families' definitions and not from model.py."""
    d, f = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    projections = {
        "self_attn.q_proj": (q, d),
        "self_attn.k_proj": (kv, d),
        "self_attn.v_proj": (kv, d),
        "self_attn.o_proj": (d, q),
        "mlp.gate_proj": (f, d),
        "mlp.up_proj": (f, d),
        "mlp.down_proj": (d, f),
    }
    biased = set()
    if config.get("attention_bias"):
        biased |= {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
    if config.get("mlp_bias"):
        biased |= {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    if config["model_type"] == "qwen2":
        biased = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}

    found = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, shape in projections.items():
            found[f"{layer}{name}.weight"] = shape
            if name in biased:
                found[f"{layer}{name}.bias"] = shape[:1]
        found[f"{layer}input_layernorm.weight"] = (d,)
        found[f"{layer}post_attention_layernorm.weight"] = (d,)
        if config["model_type"] == "qwen3":
            found[f"{layer}self_attn.q_norm.weight"] = (head,)
            found[f"{layer}self_attn.k_norm.weight"] = (head,)
    return found


def values(name, shape):
    """The tensor of that name: normal numbers, drawn from the name alone."""
    random = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    normal = torch.from_numpy(random.standard_normal(tuple(shape), dtype=np.float32))
    if "norm" in name:
        return 1 + 0.2 * normal
    return normal * (0.6 if "embed" in name else 0.3)


def weights(config):
    return {name: values(name, shape) for name, shape in shapes(config).items()}


def tokenizer(special=SPECIALS, plain=()):
    """Bytes as tokens 0 .. 255, then the specials. Those in `plain` are not flagged so."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    tok = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    for content in special:
        token = tokenizers.AddedToken(content, special=content not in plain, normalized=False)
        tok.add_tokens([token])
    return tok


def sentence_piece():
    """Characters as pieces in the layout of Llama 2: a space before each stretch of text."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(161)), "▁", *map(chr, range(33, 127))]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tok = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    spaces = tokenizers.normalizers.Replace(" ", "▁")
    before = tokenizers.normalizers.Prepend("▁")
    tok.normalizer = tokenizers.normalizers.Sequence([before, spaces])
    back = tokenizers.decoders.Replace("▁", " ")
    fallback, fuse = tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()
    tok.decoder = tokenizers.decoders.Sequence([back, fallback, fuse])
    tok.add_special_tokens(SPECIALS)
    return tok


def checkpoint(path, family="smollm2", template=TEMPLATE, pieces=1, tok=None, **changes):
    """Write a Hugging Face directory to `path` and return it; several pieces have an index."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    raw = {**config(family), **changes}
    tensors, weight_map = weights(raw), {}
    for n in range(pieces):
        file = "model.safetensors" if pieces == 1 else f"model-{n + 1}-of-{pieces}.safetensors"
        names = list(tensors)[n::pieces]
        piece = {name: tensors[name] for name in names}
        safetensors.torch.save_file(piece, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if pieces > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|eos|>"}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if template:
        settings["chat_template"] = template
    (path / "config.json").write_text(json.dumps(raw))
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tok or tokenizer()).save(str(path / "tokenizer.json"))
    return path
