"""The Llama-style transformer: Hugging Face directories in and out, chat template, LoRA.

    model, tokenizer = load("./llama", dtype=torch.bfloat16)      # any directory of the families in FAMILIES
    logits = model(ids)                                           # (B, T) int64 -> (B, T, vocab) float32
    save(model, tokenizer, "./out")                               # transformers opens it with the same logits

Modules carry the names of the Hugging Face tensors, so that a state dict is a checkpoint and needs no translation.
Whatever cannot be computed exactly is refused with one line that names the file. Not covered: mixture of experts, quantised
weights, rope types besides default, linear and llama3, tokenizers without a tokenizer.json. Tasks, judges and the cache of
the sampler are elsewhere: attention over past keys is a function the caller passes in (`attend`).
"""
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import threading
import uuid
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import safetensors
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

import parallel
from files import InputError, read_json, replace, write_json

FAMILIES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# The format for checkpoints that bring no chat template of their own.
PLAIN_TEMPLATE = """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}
{% else %}{{ m.role | capitalize }}: {{ m.content }}

{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


# ---------------------------------------------------------------------------------------------------------------- configuration

@dataclasses.dataclass(frozen=True)
class Config:
    """What the computation needs of config.json. `windows`: for each layer the sliding window in tokens, or None. `members`: of a team
    of so many processes, each computes the heads and the part of the MLP that stand here (`part_of_team`)."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    context: int
    tied: bool
    rope_theta: float
    rope_scaling: dict
    windows: tuple
    members: int = 1


def read_config(path):
    """(Config, the raw dict) of `path`/config.json, old layout (`rope_theta`, `rope_scaling`) or new (`rope_parameters`)."""
    file = Path(path) / "config.json"
    raw = read_json(file, dict)

    def refuse(what, mend="mend it or download it again"):
        raise InputError(f"{file}: {what}; {mend}")

    def number(name, default=None, kind=int, of=raw):
        value = of.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not 0 < value < 2 ** 40:         # NaN is neither
            refuse(f"\"{name}\" should be a positive number, found {value!a:.60}")
        return value

    families = raw.get("architectures") or [f for f, model_type in FAMILIES.items() if raw.get("model_type") == model_type]
    if not isinstance(families, list) or len(families) != 1 or families[0] not in [*FAMILIES]:
        refuse(f"architecture {families or raw.get('model_type')} is not supported", f"use one of {', '.join(FAMILIES)}")
    family = FAMILIES[families[0]]
    if raw.get("quantization_config"):
        refuse("quantised weights are not supported", "use the checkpoint in bfloat16 or float32")
    if raw.get("hidden_act", "silu") != "silu":
        refuse(f"activation {raw['hidden_act']!r} is not supported", "use a checkpoint with silu")

    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        refuse(f"\"rope_scaling\" should be an object, found {rope!r}")
    rope = dict(rope)
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    needed = {"default": (), "linear": ("factor",),
              "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}
    if rope["rope_type"] not in [*needed]:
        refuse(f"rope type {rope['rope_type']!r} is not supported", f"use a checkpoint with one of {', '.join(needed)}")
    if any(isinstance(value, dict) for value in rope.values()):
        refuse("a rope for each type of layer is not supported", "use a checkpoint with one rope for all")
    for name in needed[rope["rope_type"]]:
        number(name, kind=float, of=rope)
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        refuse("a partial rotary factor is not supported", "use a checkpoint without")
    theta = number("rope_theta", raw.get("rope_theta", 10000.0), float, rope)

    layers, heads = number("num_hidden_layers"), number("num_attention_heads")
    kv_heads = number("num_key_value_heads", heads if family == "llama" else None)
    if heads % kv_heads:
        refuse(f"{heads} attention heads are not a multiple of {kv_heads} key-value heads")
    head_dim = number("head_dim") if raw.get("head_dim") else 128 if family == "qwen3" else number("hidden_size") // heads
    # Sliding windows as transformers has them: none in Llama, every layer in Mistral, by layer_types or from max_window_layers in Qwen.
    window = raw.get("sliding_window", 4096) if family == "mistral" or raw.get("use_sliding_window") else None
    if family == "llama" or window is None:
        windows = (None,) * layers
    else:
        number("sliding_window", window)
        first, kinds = (0, None) if family == "mistral" else (raw.get("max_window_layers", 28), raw.get("layer_types"))
        if not isinstance(first, int):
            refuse(f"\"max_window_layers\" should be a number, found {first!r}")
        kinds = kinds or [("full" if i < first else "sliding") + "_attention" for i in range(layers)]
        if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
            refuse(f"\"layer_types\" should be {layers} times \"full_attention\" or \"sliding_attention\"")
        windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)

    return Config(number("vocab_size"), number("hidden_size"), number("intermediate_size"), layers, heads, kv_heads, head_dim,
                  number("rms_norm_eps", 1e-6, float), number("max_position_embeddings"), bool(raw.get("tie_word_embeddings", False)),
                  float(theta), rope, windows), raw


def rope_frequencies(config):
    """Inverse frequencies (head_dim / 2,) float32; llama3 as in Llama 3.1 (transformers, modeling_rope_utils)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies, rope = 1.0 / config.rope_theta ** exponents, config.rope_scaling
    if rope["rope_type"] == "linear":
        return frequencies / rope["factor"]
    if rope["rope_type"] == "llama3":  # long waves are stretched by `factor`, short ones kept, those between interpolated
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # turns within the original context
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies
    return frequencies


# ------------------------------------------------------------------------------------------------------------------ transformer

class Linear(nn.Linear):
    """One projection; `add_lora` attaches an adapter to it. `project` computes it, alone or with its neighbours."""

    def __init__(self, size_in, size_out, bias):
        super().__init__(size_in, size_out, bias)
        self.lora_A = self.lora_B = None

    def forward(self, x):
        return project(x, self)


def project(x, *linears):
    """x (…, in) -> (…, sum of out): x Wᵀ + b of projections that read the same x, and scale · B(A(dropout(x))) where one has an
    adapter. Those adapters share the dropped places of x; PEFT draws for each its own."""
    adapted = [m for m in linears if m.lora_A is not None]
    weights = joined([m.weight for m in linears])
    biases = joined([m.bias for m in linears]) if linears[0].bias is not None else [None] * len(weights)
    if not adapted:
        return products(x, weights, biases)
    dropout = adapted[0].lora_dropout
    p = dropout.p if adapted[0].training else 0.0
    keep = dropout.mask(x.flatten(0, -2), adapted[0].lora_index) if p else None
    A = torch.cat([m.lora_A.weight for m in adapted])                        # (sum of ranks, in)
    B = torch.block_diag(*(m.lora_B.weight * (m.lora_scale / (1 - p)) if m in adapted else A.new_empty(m.out_features, 0)
                           for m in linears))                                # (sum of out, sum of ranks)
    return LowRank.apply(x, keep, A, B, *weights, *biases)


def products(x, weights, biases):
    """x Wᵀ + b of each pair, side by side, in the dtype of x."""
    y = [F.linear(x, w.to(x.dtype), None if b is None else b.to(x.dtype)) for w, b in zip(weights, biases, strict=True)]
    return y[0] if len(y) == 1 else torch.cat(y, -1)


def joined(tensors):
    """[one view of all], along their first dimension, where they lie side by side in memory and get no gradient; else the list itself."""
    first, end = tensors[0], tensors[0].data_ptr()
    for t in tensors:
        if t.data_ptr() != end or t.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() or (
                t.requires_grad and torch.is_grad_enabled()):
            return tensors
        end += t.nbytes
    return [first.as_strided((sum(map(len, tensors)), *first.shape[1:]), first.stride())]


class LowRank(torch.autograd.Function):
    """y = x Wᵀ + b + (x · keep) Aᵀ Bᵀ with W frozen, in the dtype of x; A and B float32 (Hu et al. 2021, equation 3).

    Written out because autograd would keep x · keep and both summands of every projection; here x and a mask are kept.
    """

    @staticmethod
    def forward(ctx, x, keep, A, B, *weights_and_biases):
        weights, biases = (weights_and_biases[i:][:len(weights_and_biases) // 2] for i in (0, len(weights_and_biases) // 2))
        rows, A, B = x.flatten(0, -2), A.to(x.dtype), B.to(x.dtype)          # (N, in)
        y, low = products(rows, weights, biases), (rows if keep is None else rows * keep) @ A.T        # (N, out), (N, rank)
        ctx.save_for_backward(rows, keep, A, B, low, *weights)
        return y.addmm_(low, B.T).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, dy):
        rows, keep, A, B, low, *weights = ctx.saved_tensors
        shape, dy = dy.shape, dy.flatten(0, -2)
        dlow, (dx, *more) = dy @ B, (d @ w for d, w in zip(dy.split([len(w) for w in weights], -1), weights))
        for part in more:
            dx += part
        if keep is None:
            dx.addmm_(dlow, A)
        else:
            rows, dx = rows * keep, dx.addcmul_(dlow @ A, keep)
        return dx.view(*shape[:-1], -1), None, dlow.T @ rows, dy.T @ low, *[None] * (2 * len(weights))


class Dropout:
    """Masks of dropout, each a function of a text and of the projection: they do not depend on what stands beside the text, on the
    process, or on how often they are asked for (activation checkpointing does so twice)."""

    def __init__(self, p):
        self.p, self.texts = p, None                                         # texts: [(key, tokens)] of a row laid end to end

    def mask(self, x, index):
        """(N, in) in the dtype of x: 1 where an element is kept, 0 with probability p, to within 1/65536 of it: 16 random bits an
        element are drawn 2.8 times as fast as torch's own on a CPU (NOTES.md, "Dropout")."""
        keep, a, random = torch.empty_like(x), 0, torch.Generator(x.device)
        for key, n in self.texts or [(torch.randint(2 ** 62, ()).item(), len(x))]:
            random.manual_seed(hash((key, index)))                           # of numbers alone: the same in every process
            bits = torch.empty(n * x.shape[1] // 4 + 1, dtype=torch.int64, device=x.device).random_(-2 ** 63, None, generator=random)
            torch.ge(bits.view(torch.int16)[:n * x.shape[1]].view(n, -1), round(self.p * 65536) - 32768, out=keep[a:a + n])
            a += n
        return keep


def text_key(seed, ids):
    """A number that is a function of a seed and of token ids."""
    return int.from_bytes(hashlib.blake2b(np.asarray([seed, *ids], dtype=np.int64).tobytes(), digest_size=16).digest(), "little")


class RMSNorm(nn.RMSNorm):
    def forward(self, x):                                                    # in float32
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary position embedding (Su et al. 2021), half-split layout, in float32: (a, b) -> (a cos - b sin, b cos + a sin).

    x (B, heads, T, hd); cos (B, 1, T, hd) holds (cos, cos) and sin (-sin, sin).
    """
    y = x.float()
    return torch.addcmul(y * cos, y.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


def causal_attention(q, k, v, window=None):
    """q (B, H, T, hd) of the last T of S positions, k and v (B, KV, S, hd) -> (B, H, T, hd).

    With a window w, position i sees i-w+1 .. i. Short texts in bfloat16 on a CPU: two products, which are twice as fast there as the
    fused kernel, backward included (NOTES.md, "Attention by two products").
    """
    groups, T, S = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    two_products = q.device.type == "cpu" and q.dtype == torch.bfloat16 and S <= 512
    plain = T == S and (window is None or S <= window) and not two_products
    if not plain:
        distance = torch.arange(S - T, S, device=q.device)[:, None] - torch.arange(S, device=q.device)
        visible = (distance >= 0) & (distance < (window or S))                                  # (T, S)
    if two_products:
        rows = (q * q.shape[-1] ** -0.5).unflatten(1, (-1, groups)).flatten(2, 3)               # (B, KV, H / KV · T, hd)
        scores = (rows @ k.transpose(2, 3)).unflatten(2, (groups, T)) + torch.where(visible, 0, -math.inf).to(q.dtype)
        return (scores.softmax(-1).flatten(2, 3) @ v).view(q.shape)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if plain else visible, is_causal=plain)


def packed_attention(config, lengths, device):
    """`attend` for texts of these lengths laid end to end as one row: each token sees those before it in its own text.

    On CUDA flash attention for variable lengths, elsewhere text by text.
    """
    ends = list(itertools.accumulate(lengths, initial=0))
    bounds = torch.tensor(ends, dtype=torch.int32, device=device)

    def attend(layer, q, k, v):                                              # q (1, H, N, hd), k and v (1, KV, N, hd)
        window = config.windows[layer]
        if q.is_cuda and q.dtype != torch.float32:                           # the kernel knows half precision alone
            from torch.nn.attention.varlen import varlen_attn
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
            q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))              # (N, H, hd)
            y = varlen_attn(q, k, v, bounds, bounds, max(lengths), max(lengths), window_size=(window - 1 if window else -1, 0))
            return y.transpose(0, 1)[None]
        return torch.cat([causal_attention(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], window) for a, b in zip(ends, ends[1:])], dim=2)
    return attend


class Attention(nn.Module):
    def __init__(self, config, layer, biases, qk_norm):
        super().__init__()
        self.config, self.layer = config, layer
        widths = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads, "v_proj": config.num_kv_heads}
        for name, heads in widths.items():                                   # all three have a bias, or none has one
            setattr(self, name, Linear(config.hidden_size, heads * config.head_dim, bias=not biases.isdisjoint(widths)))
        self.o_proj = Linear(config.num_heads * config.head_dim, config.hidden_size, bias="o_proj" in biases)
        if qk_norm:
            self.q_norm, self.k_norm = (RMSNorm(config.head_dim, config.norm_eps) for _ in range(2))

    def forward(self, x, cos, sin, attend):
        c = self.config
        heads = project(x, self.q_proj, self.k_proj, self.v_proj).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
        qk, v = heads.split((c.num_heads + c.num_kv_heads, c.num_kv_heads), dim=1)               # (B, heads, T, hd)
        if hasattr(self, "q_norm"):
            qk = torch.cat([self.q_norm(qk[:, :c.num_heads]), self.k_norm(qk[:, c.num_heads:])], dim=1)
        q, k = rotate(qk, cos, sin).split((c.num_heads, c.num_kv_heads), dim=1)
        y = attend(self.layer, q, k, v) if attend else causal_attention(q, k, v, c.windows[self.layer])
        y = self.o_proj(y.transpose(1, 2).flatten(2))                      # (B, T, d)
        return parallel.team_sum(y) if c.members > 1 else y


class MLP(nn.Module):
    def __init__(self, config, biases):
        super().__init__()
        self.config = config
        for name in ("gate_proj", "up_proj"):
            setattr(self, name, Linear(config.hidden_size, config.intermediate_size, bias=not biases.isdisjoint(("gate_proj", "up_proj"))))
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias="down_proj" in biases)

    def forward(self, x):
        gate, up = project(x, self.gate_proj, self.up_proj).chunk(2, dim=-1)
        y = self.down_proj(F.silu(gate) * up)
        return parallel.team_sum(y) if self.config.members > 1 else y


class Layer(nn.Module):
    def __init__(self, config, layer, biases, qk_norm):
        super().__init__()
        self.self_attn, self.mlp = Attention(config, layer, biases, qk_norm), MLP(config, biases)
        self.input_layernorm, self.post_attention_layernorm = (RMSNorm(config.hidden_size, config.norm_eps) for _ in range(2))

    def forward(self, x, cos, sin, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """`model(ids)`; `hidden` and `head` are its two halves, for those who want logits at a few positions only."""

    def __init__(self, config, raw_config, biases=frozenset(), qk_norm=False):
        super().__init__()
        self.config, self.raw_config, self.dropout, self.recompute = config, raw_config, Dropout(0.0), False
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(Layer(config, i, biases, qk_norm) for i in range(config.num_layers))
        self.model.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self):
        return self.lm_head.weight.device

    def hidden(self, ids, positions=None, attend=None):
        """ids (B, T) -> (B, T, d), normed. positions (B, T): 0 .. T-1 unless given.

        attend(layer, q, k, v) -> (B, H, T, hd) replaces causal attention within the row; q (B, H, T, hd), k, v (B, KV, T, hd)
        are rotated already.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        angles = positions[:, None, :, None].float() * self.frequencies    # (B, 1, T, hd / 2)
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
        x = self.model.embed_tokens(ids).to(self.compute_dtype)
        for layer in self.model.layers:
            if self.recompute and self.training:
                x = checkpoint(layer, x, cos, sin, attend, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, cos, sin, attend)
        return self.model.norm(x)

    def head(self, h):
        """h (…, d) -> logits (…, vocab) float32."""
        return self.lm_head(h).float()

    def forward(self, ids):
        return self.head(self.hidden(ids))


# ------------------------------------------------------------------------------------------------------------------ load and save

def shards(path):
    """{tensor name: safetensors file} of a directory with one file or an index of several."""
    path, index = Path(path), Path(path) / "model.safetensors.index.json"
    if (path / "model.safetensors").exists():
        files = [path / "model.safetensors"]
    elif index.exists():
        weight_map = read_json(index, dict).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(f, str) and Path(f).name == f for f in weight_map.values()):
            raise InputError(f"{index}: no \"weight_map\" of tensor names to file names; download it again")
        files = [path / name for name in sorted(set(weight_map.values()))]
    else:
        pickled = " (pickled weights are never opened; convert them to safetensors)" if list(path.glob("*.bin")) else ""
        raise InputError(f"{path}: no model.safetensors and no model.safetensors.index.json{pickled}; download them")
    tensors = {}
    for file in files:
        try:
            with safetensors.safe_open(file, "pt") as f:
                tensors.update(dict.fromkeys(f.keys(), file))
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{file}: cannot be read as safetensors ({error}); download it again")
    return tensors


def load(path, dtype=torch.float32, device="cpu", fsdp=None):
    """(model, tokenizer) of a Hugging Face directory; weights in `dtype` on `device`.

    Files are memory-mapped and read tensor by tensor: peak memory is the model plus one mapped shard. With `fsdp`, a dtype, each process
    of a job reads and keeps its part of every weight alone, and they compute in that dtype (see `shard`); in a team, its share of the
    heads and of the MLP (`part_of_team`), for generation and scoring. InputError where a tensor is missing, extra or of another shape,
    where the memory does not suffice, and where the configuration asks for something that is not computed here.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such directory; a Hugging Face checkpoint directory is needed (README, \"Your own checkpoint\")")
    config, raw = read_config(path)
    files = shards(path)
    biases = {p for p in PROJECTIONS for part in ("self_attn", "mlp") if f"model.layers.0.{part}.{p}.bias" in files}
    qk_norm = "model.layers.0.self_attn.q_norm.weight" in files
    with torch.device("meta"):
        full = dict(Transformer(config, raw, biases, qk_norm).named_parameters(remove_duplicate=False))
        model = Transformer(config if fsdp else part_of_team(config, path), raw, biases, qk_norm)
    if fsdp:
        shard(model, device, fsdp)
    needed = sum(p.numel() for p in set(model.parameters())) * dtype.itemsize / (parallel.SIZE if fsdp else 1)
    if needed > (free := parallel.free_memory(torch.device(device))):
        raise InputError(f"{path}: the weights need {needed / 1e9:.1f} GB as {str(dtype).removeprefix('torch.')}, and this process can have "
                         f"{free / 1e9:.1f} GB on {device}; use --dtype bfloat16, fewer processes a machine, or a larger one (README, \"Several GPUs\")")
    expected = dict(model.named_parameters(remove_duplicate=False))
    if config.tied and "lm_head.weight" not in files:
        del expected["lm_head.weight"]
    unread = {name for name in files if not name.endswith("rotary_emb.inv_freq")}  # a buffer of old checkpoints, computed here
    for kind, names in (("missing", expected.keys() - unread), ("not expected", unread - expected.keys())):
        if names:
            raise InputError(f"{path}: tensors {kind}: {', '.join(sorted(names)[:3])}{' …' if len(names) > 3 else ''} ({len(names)}); "
                             "config.json and weights have to be of one checkpoint: download both again")

    weights, member = {}, parallel.RANK % model.config.members
    for file in sorted(set(files.values())):
        with safetensors.safe_open(file, "pt") as f:
            for name in sorted(expected.keys() & f.keys()):
                shape, kind = list(full[name].shape), f.get_slice(name)
                if list(kind.get_shape()) != shape:
                    raise InputError(f"{file}: {name} has shape {kind.get_shape()}, config.json asks for {shape}; download both again")
                if kind.get_dtype() not in ("F64", "F32", "F16", "BF16"):
                    raise InputError(f"{file}: {name} is {kind.get_dtype()}; use a checkpoint in bfloat16, float16 or float32")
                tensor = kind[own_part(expected[name], shape, member)]
                if not tensor.sum(dtype=torch.float32).isfinite():           # one NaN or infinity makes the sum one
                    raise InputError(f"{file}: {name} holds NaN or infinite values; download it again, or use a checkpoint from before")
                if name.endswith(("o_proj.bias", "down_proj.bias")) and member > 0:
                    tensor = torch.zeros_like(tensor)                        # the team adds up what its members compute
                weights[name] = like(expected[name], tensor.to(device, dtype, copy=True))
    head, embedding = weights.get("lm_head.weight"), weights["model.embed_tokens.weight"]
    if config.tied and head is not None and not torch.equal(head, embedding):
        raise InputError(f"{path}: config.json ties lm_head to the embedding, but the files hold two different tensors; "
                         "set \"tie_word_embeddings\" as the model was trained, or download it again")
    return fill(model, weights), Tokenizer(path, config.vocab_size)


def fill(model, weights):
    """`model`, made on the meta device, with `weights` {name: tensor} of one dtype and device, ready for use; a tied lm_head may be
    absent. The tensors of `weights` are replaced one group at a time, so that memory holds hardly more than the model."""
    embedding = weights["model.embed_tokens.weight"]
    for group in (PROJECTIONS[:3], PROJECTIONS[4:6]) if not isinstance(embedding, DTensor) else ():  # what reads one input lies side by side
        for name in [name for name in weights if f".{group[0]}." in name]:
            names = [name.replace(group[0], other) for other in group]
            parts = [weights.pop(n) for n in names]
            weights |= zip(names, torch.cat(parts).split([len(part) for part in parts]))
    if model.config.tied:
        weights["lm_head.weight"] = embedding
    model.load_state_dict(weights, assign=True)
    if model.config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.frequencies = rope_frequencies(model.config).to(embedding.device)
    model.compute_dtype = embedding.dtype
    return model.eval()


def part_of_team(config, path):
    """The configuration of what one member of a team computes: its share of the heads and of the MLP (Shoeybi et al. 2019)."""
    n = parallel.TEAM
    if config.num_kv_heads % n or config.num_heads % n or config.intermediate_size % n:
        raise InputError(f"{path}: {config.num_kv_heads} key-value heads, {config.num_heads} heads and an MLP of {config.intermediate_size} cannot "
                         f"be divided by --tensor-parallel {n}; use another number")
    return dataclasses.replace(config, num_heads=config.num_heads // n, num_kv_heads=config.num_kv_heads // n,
                               intermediate_size=config.intermediate_size // n, members=n)


def shard(model, device, dtype):
    """FSDP2 (`fully_shard`): of each weight of a model on the meta device a process keeps some rows (`own_part`). A layer's weights are
    gathered, in `dtype`, while it computes, and gradients are summed over the processes."""
    mesh = init_device_mesh(torch.device(device).type, (parallel.SIZE,))
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)                               # sums, not means
        module.set_force_sum_reduction_for_comms(True)                       # gloo has nothing else
    register_fsdp_forward_method(model, "hidden")


def own_part(parameter, shape, member=0):
    """Which part of a stored tensor of that shape is this process's of a parameter, as an index: rows where FSDP shards it, rows or columns
    where a team divides it, else all."""
    if isinstance(parameter, DTensor):
        n = math.ceil(shape[0] / parallel.SIZE)
        return slice(min(parallel.RANK * n, shape[0]), min((parallel.RANK + 1) * n, shape[0]))
    return tuple(slice(None) if n == own else slice(member * own, (member + 1) * own) for n, own in zip(shape, parameter.shape))


def like(parameter, rows):
    """`rows`, which are `own_part` of a tensor, as a tensor that is sharded like the parameter."""
    if not isinstance(parameter, DTensor):
        return rows
    return DTensor.from_local(rows, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride())


def whole(tensor):
    """The tensor itself, or gathered from all processes where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def write_tensors(path, tensors, metadata):
    """A safetensors file with the rights that any other file gets; OSError where it cannot be written."""
    try:
        safetensors.torch.save_file(tensors, path, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: {error}")
    os.umask(mask := os.umask(0))                                            # the library makes files for their owner alone
    os.chmod(path, 0o666 & ~mask)


def save(model, tokenizer, path):
    """Write a directory that transformers opens with the same logits: weights in the compute dtype, LoRA merged in float32. Of a job
    all processes have to call it, and one writes."""
    weights = {}
    for name, module in model.named_modules():
        for part, tensor in module.named_parameters(recurse=False):
            if ".lora_" not in name:
                tensor = whole(tensor.detach())
                if parallel.RANK == 0:
                    merged = tensor.float() + lora_delta(module) if part == "weight" and getattr(module, "lora_A", None) else tensor
                    weights[f"{name}.{part}"] = merged.to(model.compute_dtype).cpu().contiguous()
    if parallel.RANK:
        return
    if model.config.tied:
        del weights["lm_head.weight"]
    raw = {**model.raw_config, "dtype": str(model.compute_dtype).removeprefix("torch.")}
    raw.pop("torch_dtype", None)  # the old name of the same entry
    with replace(path) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "model.safetensors", weights, {"format": "pt"})
        write_json(temporary / "config.json", raw)
        tokenizer.save(temporary)


# ------------------------------------------------------------------------------------------------------------------------- LoRA

def add_lora(model, rank=8, alpha=16, dropout=0.1, targets=PROJECTIONS, seed=0):
    """Freeze the model and attach float32 adapters to every projection named in `targets` (Hu et al. 2021): ΔW = alpha/rank · B A.

    A (rank, in) starts Kaiming-uniform as in PEFT, drawn from `seed` alone; B (out, rank) starts at zero.
    """
    random, numbers = torch.Generator().manual_seed(seed), itertools.count()
    model.requires_grad_(False)
    model.dropout.p = dropout
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in targets:
            A, B = (nn.Linear(i, o, bias=False, device=model.device) for i, o in ((module.in_features, rank), (rank, module.out_features)))
            with torch.no_grad():
                bound = 1 / math.sqrt(module.in_features)
                A.weight.copy_((torch.rand(A.weight.shape, generator=random) * 2 - 1) * bound)
                B.weight.zero_()
            module.lora_A, module.lora_B, module.lora_scale = A, B, alpha / rank
            module.lora_dropout, module.lora_index = model.dropout, next(numbers)
    model.lora = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": list(targets)}


def lora_delta(module):
    """ΔW (out, in) float32 of one projection."""
    return module.lora_scale * (module.lora_B.weight.detach() @ module.lora_A.weight.detach())


def save_adapter(model, path, base):
    """Write the adapters in PEFT's layout; `base` is the checkpoint's name or directory, for the reader."""
    if parallel.RANK:                                                        # adapters are never sharded: one process has all of them
        return
    weights = {f"base_model.model.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters() if ".lora_" in name}
    with replace(path) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "adapter_model.safetensors", weights, {"format": "pt"})
        write_json(temporary / "adapter_config.json", {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "bias": "none",
            "fan_in_fan_out": False, "inference_mode": True, **model.lora})


# -------------------------------------------------------------------------------------------------------------------- tokenizer

@contextlib.contextmanager
def deadline(seconds):
    """TimeoutError within, after so many seconds; in threads other than the main one, which get no signals, never."""
    def expire(*_):
        raise TimeoutError(f"it took more than {seconds} seconds")
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Tokenizer:
    """tokenizer.json, the chat template and the stop set of a checkpoint.

    Text that comes from data is always encoded as text: a special token spelled out in it ("<|im_end|>") becomes ordinary
    tokens and cannot open or close a turn.
    """
    FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
             "tokenizer.model", "vocab.json", "merges.txt", "generation_config.json")

    def __init__(self, path, vocab_size):
        self.path = Path(path)
        file = self.path / "tokenizer.json"
        if not file.exists():
            raise InputError(f"{file}: no such file; save the tokenizer in the fast format (transformers: AutoTokenizer … save_pretrained)")
        try:
            self.tok = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise InputError(f"{file}: cannot be read as a tokenizer ({error}); download it again")
        self.tok.no_padding(), self.tok.no_truncation()
        if (largest := max(self.tok.get_vocab().values(), default=-1)) >= vocab_size:
            raise InputError(f"{file}: token id {largest} lies outside of the embedding's {vocab_size} rows; download tokenizer and weights again")
        added = self.tok.get_added_tokens_decoder()
        self.special = {token.content: i for i, token in added.items() if token.special}
        self.forgeable = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or r"(?!)")

        config = read_json(self.path / "tokenizer_config.json", dict) if (self.path / "tokenizer_config.json").exists() else {}
        try:
            names = {"bos_token": "", "eos_token": ""} | {n: t["content"] if isinstance(t, dict) else t for n in (
                "bos_token", "eos_token", "unk_token", "pad_token") if (t := config.get(n))}
            source = config.get("chat_template") or PLAIN_TEMPLATE
            if isinstance(source, list):
                source = {t["name"]: t["template"] for t in source}.get("default", PLAIN_TEMPLATE)
            "".join([source, *names.values()])                               # a TypeError, if one is no text
        except (TypeError, KeyError):
            raise InputError(f"{self.path}/tokenizer_config.json: \"chat_template\" should be a text, or a list of {{\"name\", \"template\"}}, "
                             "and tokens texts, or objects with \"content\"; mend it or download it again")
        if (self.path / "chat_template.jinja").exists():
            try:
                source = (self.path / "chat_template.jinja").read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{self.path}/chat_template.jinja: not UTF-8 ({error.reason}); download it again")
        self.render = self._compile(source, names)

        # Stop set: every end the files name, and the end of an assistant's turn in the template.
        eos = self.tok.token_to_id(names["eos_token"])
        self.stop_ids = set() if eos is None else {eos}
        for name in ("config.json", "generation_config.json"):
            ends = read_json(self.path / name, dict).get("eos_token_id") if (self.path / name).exists() else None
            ends = ends if isinstance(ends, list) else [ends] if ends is not None else []
            if not all(type(end) is int for end in ends):
                raise InputError(f"{self.path / name}: \"eos_token_id\" should be a number or a list of numbers, found {ends!r}; mend it")
            self.stop_ids |= set(ends)
        mark = uuid.uuid4().hex
        after = self.render([{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}], False).partition(mark)[2]
        ends = [i for i in self.tok.encode(after, add_special_tokens=False).ids if i in self.special.values()]
        self.turn_end = ends[0] if ends else eos if eos is not None else min(self.stop_ids, default=None)
        if self.turn_end is None:
            raise InputError(f"{self.path}: neither tokenizer_config.json, generation_config.json nor the chat template names an end token; "
                             "set \"eos_token\" in tokenizer_config.json")
        self.stop_ids.add(self.turn_end)

    def _compile(self, source, names):
        """The template as a function (messages, add_generation_prompt) -> text, in jinja2's sandbox with what real templates call."""
        def raise_exception(message):
            raise jinja2.exceptions.TemplateError(message)

        env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
        env.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        env.globals.update(raise_exception=raise_exception, strftime_now=lambda f: datetime.datetime.now().strftime(f))
        try:
            template = env.from_string(source)
        except jinja2.exceptions.TemplateError as error:
            raise InputError(f"{self.path}: the chat template cannot be compiled ({error}); a chat_template.jinja there replaces it")

        def render(messages, add_generation_prompt):
            try:
                with deadline(10):
                    return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **names)
            except Exception as error:  # a template is a program: whatever it raises is its author's word
                raise InputError(f"{self.path}: the chat template failed ({type(error).__name__}: {error}); a chat_template.jinja there replaces it")
        return render

    def _encode(self, messages, add_generation_prompt):
        """Token ids of the rendered messages, special tokens in the messages' own text read as text."""
        mark, forged = uuid.uuid4().hex, []

        def hide(match):
            forged.append(match[0])
            return mark
        messages = [{**m, "content": self.forgeable.sub(hide, m["content"])} for m in messages]
        pieces = self.render(messages, add_generation_prompt).split(mark)
        ids = self.tok.encode(pieces[0], add_special_tokens=False).ids
        for text, piece in zip(forged, pieces[1:]):
            ids += self.encode_text(text) + self.tok.encode(piece, add_special_tokens=False).ids
        return ids

    def encode_text(self, text):
        """Token ids of text in which no special token is read and to which none is added."""
        self.tok.encode_special_tokens = True
        try:
            return self.tok.encode(text, add_special_tokens=False).ids
        finally:
            self.tok.encode_special_tokens = False

    def prompt_ids(self, text, shots=()):
        """Token ids of one user turn and the opening of the assistant's; `shots`: (user, assistant) turns before them."""
        turns = [{"role": role, "content": said} for shot in shots for role, said in zip(("user", "assistant"), shot)]
        return self._encode([*turns, {"role": "user", "content": text}], True)

    def target_ids(self, text, answer):
        """Token ids of `answer` after `prompt_ids(text)`, up to and including the end of the turn."""
        prompt = self.prompt_ids(text)
        whole = self._encode([{"role": "user", "content": text}, {"role": "assistant", "content": answer}], False)
        target = whole[len(prompt):]
        if whole[:len(prompt)] == prompt and self.turn_end in target:
            return target[:target.index(self.turn_end) + 1]
        return self.encode_text(answer) + [self.turn_end]  # the template does not put an answer where it opens the turn

    def decode(self, ids):
        """Text of token ids, special tokens left out."""
        return self.tok.decode(ids, skip_special_tokens=True)

    def save(self, path):
        for name in self.FILES:
            if (self.path / name).exists():
                shutil.copyfile(self.path / name, Path(path) / name)
