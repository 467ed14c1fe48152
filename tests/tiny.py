"""Tiny checkpoints with weights that are a formula of the tensor's name, so that golden values need no weights in the repository."""
import json
import zlib
from pathlib import Path

import numpy as np
import safetensors.torch
import tokenizers
import torch

BASE = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            rms_norm_eps=1e-5, max_position_embeddings=512, hidden_act="silu", rope_theta=10000.0, tie_word_embeddings=False,
            bos_token_id=256, eos_token_id=257, initializer_range=0.02)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
# What differs between the families: (architecture, changes to the configuration).
FAMILIES = {
    "llama2": ("LlamaForCausalLM", dict(num_key_value_heads=4)),
    "llama3": ("LlamaForCausalLM", dict(rope_theta=500000.0, rope_scaling=LLAMA3)),
    "llama3-new-layout": ("LlamaForCausalLM", dict(rope_parameters=dict(LLAMA3, rope_theta=500000.0))),
    "llama-linear": ("LlamaForCausalLM", dict(rope_scaling=dict(type="linear", factor=4.0))),
    "llama-biases": ("LlamaForCausalLM", dict(attention_bias=True, mlp_bias=True)),
    "smollm2": ("LlamaForCausalLM", dict(tie_word_embeddings=True, num_attention_heads=8)),
    "mistral": ("MistralForCausalLM", dict(sliding_window=None, head_dim=16)),
    "mistral-window": ("MistralForCausalLM", dict(sliding_window=7)),
    "qwen2": ("Qwen2ForCausalLM", dict(tie_word_embeddings=True, rope_theta=1000000.0, sliding_window=512, use_sliding_window=False)),
    "qwen2-window": ("Qwen2ForCausalLM", dict(sliding_window=7, use_sliding_window=True, max_window_layers=1)),
    "qwen3": ("Qwen3ForCausalLM", dict(head_dim=16, tie_word_embeddings=True)),
}
TEMPLATE = ("{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}")

PAIRS = [([5, 90, 17, 33], [60, 61, 62, 200, 258]), ([1, 2, 3, 4, 5, 6, 7, 8, 9], [100, 3, 250, 7, 99, 12, 258])]  # (prompt, target) ids


def config(family):
    architecture, changes = FAMILIES[family]
    values = {**BASE, **changes}
    if "rope_parameters" in values:
        del values["rope_theta"]
    return {"architectures": [architecture], "model_type": architecture.removesuffix("ForCausalLM").lower(), "torch_dtype": "float32", **values}


def shapes(c):
    """{tensor name: shape} of a configuration, written from the families' definitions and not from model.py."""
    d, f = c["hidden_size"], c["intermediate_size"]
    head = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    kind = c["architectures"][0]
    out = {"model.embed_tokens.weight": (c["vocab_size"], d), "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,)}
        for name, (rows, columns) in {"self_attn.q_proj": (q, d), "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d),
                                      "self_attn.o_proj": (d, q), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f)}.items():
            out[p + name + ".weight"] = (rows, columns)
            attention = name.startswith("self_attn")
            if (c.get("attention_bias") and attention) or (c.get("mlp_bias") and not attention) \
                    or (kind == "Qwen2ForCausalLM" and attention and "o_proj" not in name):
                out[p + name + ".bias"] = (rows,)
        if kind == "Qwen3ForCausalLM":
            out |= {p + "self_attn.q_norm.weight": (head,), p + "self_attn.k_norm.weight": (head,)}
    return out


def values(name, shape):
    """The tensor of that name: normal numbers, drawn from the name alone."""
    normal = np.random.Generator(np.random.Philox(zlib.crc32(name.encode()))).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(1 + 0.2 * normal if "norm" in name else normal * (0.6 if "embed" in name else 0.3))


def weights(c):
    return {name: values(name, shape) for name, shape in shapes(c).items()}


def tokenizer():
    """Bytes as tokens 0-255, then the specials."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tok = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    tok.add_special_tokens(["<|begin|>", "<|eos|>", "<|turn|>", "<|end|>"])  # 256 .. 259
    return tok


def checkpoint(path, family="smollm2", template=TEMPLATE, pieces=1, dtype=torch.float32, **changes):
    """Write a whole Hugging Face directory to `path` and return it; `pieces` > 1 writes shards with an index."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    c = {**config(family), **changes}
    tensors = {k: v.to(dtype) for k, v in weights(c).items()}
    if pieces == 1:
        safetensors.torch.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for n in range(pieces):
            file, part = f"model-{n + 1:05}-of-{pieces:05}.safetensors", dict(list(tensors.items())[n::pieces])
            safetensors.torch.save_file(part, path / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text(json.dumps(c))
    tokenizer().save(str(path / "tokenizer.json"))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|eos|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | ({"chat_template": template} if template else {})))
    return path
