"""The Llama-style transformer: Hugging Face directories in and out, and LoRA.

    model, tokenizer = load("./llama", dtype=torch.bfloat16)
    logits = model(ids)                    # (B, T) int64 -> (B, T, vocab) float32
    save(model, tokenizer, "./out")        # transformers opens it with the same logits

Covered: Llama, Mistral, Qwen2 and Qwen3. What cannot be computed exactly (another architecture or
rope type, quantised weights) is refused with one line that names the file.
Shapes: B rows, T tokens, H heads, KV key-value heads, hd head size, d hidden size, N packed tokens.
"""

import itertools
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import files
import kernels
from files import InputError, read_json, write_json
from tokenizer import Tokenizer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPE_TYPES = {  # and the numbers that each needs
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


# Configuration


@dataclass(frozen=True)
class Config:
    """What the computation needs of config.json, under the names that it has there."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope: dict
    tied: bool  # lm_head is the embedding
    sliding_window: tuple  # for each layer a number of tokens, or None
    raw: dict  # the whole file
    biases: frozenset = frozenset()  # names of the projections that have one
    qk_norm: bool = False


def read_config(path):
    """The Config of `path`/config.json. InputError names what is not computed here."""
    file = Path(path) / "config.json"
    raw = read_json(file, dict)
    try:
        return parse_config(raw)
    except ValueError as error:
        raise InputError(f"{file}: {error}; mend the file, or use another checkpoint")


def check(holds, what):
    if not holds:
        raise ValueError(what)


def positive(name, value, kind=int):
    numeric = isinstance(value, (int, kind)) and not isinstance(value, bool)
    found = f'"{name}" should be a positive number, found {value!a:.60}'
    check(numeric and 0 < value < 2**40, found)  # NaN is neither
    return value


def parse_config(raw):
    """The Config of a config.json. ValueError says what is wrong or not computed here."""
    names = raw.get("architectures") or [f"{raw.get('model_type')}ForCausalLM"]
    check(isinstance(names, list), f'"architectures" {names!a:.60} should be a list')
    family = str(names[0]).removesuffix("ForCausalLM").lower()
    check(family in FAMILIES, f"architecture {names!a:.60} is none of {', '.join(FAMILIES)}")
    check(not raw.get("quantization_config"), "quantised weights are not supported")
    check(raw.get("hidden_act", "silu") == "silu", "only the activation silu is supported")

    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}  # new layout, old layout
    check(isinstance(rope, dict), f"rope {rope!a:.60} should be an object")
    rope = {"rope_type": rope.get("type", "default"), **rope}
    check(str(rope["rope_type"]) in ROPE_TYPES, f"rope {rope!a:.60} is not supported")
    for name in ROPE_TYPES[rope["rope_type"]]:
        positive(name, rope.get(name), float)
    partial = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    check(partial == 1.0, "a partial rotary factor is not supported")
    theta = rope.get("rope_theta", raw.get("rope_theta", 10000.0))

    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "max_position_embeddings")
    sizes = {name: positive(name, raw.get(name)) for name in names}
    heads = sizes["num_attention_heads"]
    kv_heads = positive("num_key_value_heads", raw.get("num_key_value_heads") or heads)
    check(heads % kv_heads == 0, f"{heads} heads are not a multiple of {kv_heads} key-value heads")
    head_dim = 128 if family == "qwen3" else sizes["hidden_size"] // heads
    return Config(
        **sizes,
        num_key_value_heads=kv_heads,
        head_dim=positive("head_dim", raw.get("head_dim") or head_dim),
        rms_norm_eps=positive("rms_norm_eps", raw.get("rms_norm_eps", 1e-6), float),
        rope_theta=positive("rope_theta", theta, float),
        rope=rope,
        tied=bool(raw.get("tie_word_embeddings", False)),
        sliding_window=sliding_windows(raw, family, sizes["num_hidden_layers"]),
        raw=raw,
    )


def sliding_windows(raw, family, layers):
    """The window of each layer as in transformers: none in Llama, in Mistral all, in Qwen some."""
    window = raw.get("sliding_window", 4096)
    switched_off = family.startswith("qwen") and not raw.get("use_sliding_window")
    if family == "llama" or switched_off or window is None:
        return (None,) * layers
    positive("sliding_window", window)
    if family == "mistral":
        return (window,) * layers
    first = raw.get("max_window_layers", 28)
    check(isinstance(first, int), '"max_window_layers" should be a number')
    by_depth = ["full_attention"] * first + ["sliding_attention"] * layers
    kinds = raw.get("layer_types") or by_depth[:layers]
    known = isinstance(kinds, list) and {*map(str, kinds)} <= {*by_depth, "full_attention"}
    check(known and len(kinds) == layers, f'"layer_types" {kinds!a:.60} is not supported')
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def rope_frequencies(config):
    """Inverse frequencies (hd / 2,) float32; llama3 as in Llama 3.1."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    rope = config.rope
    if rope["rope_type"] == "linear":
        return frequencies / rope["factor"]
    if rope["rope_type"] == "llama3":  # long waves are stretched, short ones kept
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies
    return frequencies


# Transformer


class Linear(nn.Linear):
    """One projection; `add_lora` attaches an adapter to it."""

    def __init__(self, size_in, size_out, bias=False):
        super().__init__(size_in, size_out, bias)
        self.lora_A = self.lora_B = None
        self.packed = None  # the weight as oneDNN multiplies it, if it stays as it is

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.packed is None:
            y = F.linear(x, self.weight.to(x.dtype), bias)
        else:
            y = kernels.multiply(x, self.packed, bias)
        if self.lora_A is None:
            return y
        scale = self.lora_scale
        if self.training:
            x = self.lora_dropout(x, self.lora_index)
            scale = scale / (1 - self.lora_dropout.p)
        low = F.linear(x, self.lora_A.to(x.dtype))  # (…, rank)
        return y + F.linear(low, (scale * self.lora_B).to(x.dtype))


class RMSNorm(nn.RMSNorm):
    """Computed in float32, whatever the dtypes."""

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def rotate(x, cos, sin):
    """Rotary position embedding (Su et al. 2021) of x (B, H, T, hd), in float32.

    cos (B, 1, T, hd) holds (cos, cos), sin (-sin, sin): dimension i is paired with i + hd / 2.
    """
    swapped = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)


def repeat_heads(q, k, v):
    """k and v with as many heads as q: (B, KV, T, hd) -> (B, H, T, hd)."""
    groups = q.shape[1] // k.shape[1]
    return k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)


def causal_attention(q, k, v, window=None):
    """q (B, H, T, hd), k and v (B, KV, T, hd) -> (B, H, T, hd).

    With a window w, position i sees i - w + 1 .. i.
    """
    T = q.shape[2]
    places = torch.arange(T, device=q.device)
    distance = places[:, None] - places
    visible = (distance >= 0) & (distance < (window or T))  # (T, T)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and T <= 512:
        # Two products are twice as fast there as the fused kernel; training gains a seventh.
        q = q.unflatten(1, (k.shape[1], -1)) * q.shape[-1] ** -0.5
        k, v = k[:, :, None], v[:, :, None]
        scores = q @ k.transpose(3, 4)  # (B, KV, H / KV, T, T)
        scores = scores + torch.where(visible, 0, -math.inf).to(q.dtype)
        return (scores.softmax(-1) @ v).flatten(1, 2)
    k, v = repeat_heads(q, k, v)
    if window and window < T:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def packed_attention(config, lengths, device):
    """`attend` for texts of these lengths laid end to end: a token sees its own text only."""
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)

    def attend(layer, q, k, v):  # q (1, H, N, hd), k and v (1, KV, N, hd)
        window = config.sliding_window[layer]
        if q.is_cuda and q.dtype != torch.float32:  # the kernel needs half precision
            from torch.nn.attention.varlen import varlen_attn

            heads = q, *repeat_heads(q, k, v)
            q, k, v = (t[0].transpose(0, 1) for t in heads)  # (N, H, hd)
            left = window - 1 if window else -1
            y = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(left, 0))
            return y.transpose(0, 1)[None]
        texts = zip(*(t.split(lengths, dim=2) for t in (q, k, v)))
        return torch.cat([causal_attention(*text, window) for text in texts], dim=2)

    return attend


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        size, biases = config.hidden_size, config.biases
        q = config.num_attention_heads * config.head_dim
        kv = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(size, q, "q_proj" in biases)
        self.k_proj = Linear(size, kv, "k_proj" in biases)
        self.v_proj = Linear(size, kv, "v_proj" in biases)
        self.o_proj = Linear(q, size, "o_proj" in biases)
        norm = RMSNorm if config.qk_norm else nn.Identity
        self.q_norm = norm(config.head_dim, config.rms_norm_eps)
        self.k_norm = norm(config.head_dim, config.rms_norm_eps)

    def forward(self, x, cos, sin, attend):
        def heads(y):  # (B, T, heads · hd) -> (B, heads, T, hd)
            return y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        q = rotate(self.q_norm(heads(self.q_proj(x))), cos, sin)
        k = rotate(self.k_norm(heads(self.k_proj(x))), cos, sin)
        y = attend(self.layer, q, k, heads(self.v_proj(x)))
        return self.o_proj(y.transpose(1, 2).flatten(2))  # (B, T, d)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        size, inner, biases = config.hidden_size, config.intermediate_size, config.biases
        self.gate_proj = Linear(size, inner, "gate_proj" in biases)
        self.up_proj = Linear(size, inner, "up_proj" in biases)
        self.down_proj = Linear(inner, size, "down_proj" in biases)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, cos, sin, attend):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Transformer(nn.Module):
    """`model(ids)`; `hidden` and `head` are its halves, for logits at a few positions only."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32  # of activations; weights are cast to it
        self.kernels = None  # what is compiled for generation
        self.recompute = False  # in training: keep the inputs of layers alone
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [Layer(config, i) for i in range(config.num_hidden_layers)]
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self):
        return self.lm_head.weight.device

    def hidden(self, ids, positions=None, attend=None):
        """ids (B, T) -> (B, T, d), normed. positions (B, T): 0 .. T - 1 unless given.

        attend(layer, q, k, v) -> (B, H, T, hd) replaces causal attention within the row;
        q (B, H, T, hd) and k, v (B, KV, T, hd) are rotated already.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        if attend is None:
            windows = self.config.sliding_window
            attend = lambda layer, q, k, v: causal_attention(q, k, v, windows[layer])  # noqa: E731
        angles = positions[:, None, :, None].float() * self.frequencies  # (B, 1, T, hd / 2)
        cos = torch.cat([angles.cos(), angles.cos()], -1)
        sin = torch.cat([-angles.sin(), angles.sin()], -1)
        x = self.model.embed_tokens(ids).to(self.compute_dtype)
        for layer in self.model.layers:
            if self.recompute and self.training:
                x = checkpoint(layer, x, cos, sin, attend, use_reentrant=False)
            else:
                x = layer(x, cos, sin, attend)
        return self.model.norm(x)

    def head(self, h):
        """h (…, d) -> logits (…, vocab) float32."""
        return self.lm_head(h).float()

    def forward(self, ids):
        return self.head(self.hidden(ids))


# Load and save


def open_tensors(path):
    """{tensor name: its slice in a safetensors file}; one file, or an index of several."""
    index = path / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.exists():
        weight_map = read_json(index, dict).get("weight_map")
        if not isinstance(weight_map, dict):
            raise InputError(f'{index}: no "weight_map" of tensors to files; download it again')
        shards = {Path(str(shard)).name for shard in weight_map.values()}
    tensors = {}
    for shard in sorted(shards):
        try:
            file = safetensors.safe_open(path / shard, "pt")
            tensors |= {name: file.get_slice(name) for name in file.keys()}
        except (OSError, safetensors.SafetensorError) as error:
            mend = "download it again, or convert pickled weights to safetensors"
            raise InputError(f"{path / shard}: cannot be read ({error}); {mend}")
    return tensors


def load(path, dtype=torch.float32, device="cpu", shard=None):
    """(model, tokenizer) of a Hugging Face directory; weights in `dtype` on `device`.

    shard(model) may distribute the still empty model over processes; it returns a function
    (parameter, whole tensor) -> what this process keeps. InputError if a tensor is missing,
    extra, of another shape or not finite, or if the configuration is not computed here.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such directory; name a Hugging Face checkpoint directory")
    config = read_config(path)
    tensors = open_tensors(path)
    biases = frozenset(name.split(".")[-2] for name in tensors if name.endswith(".bias"))
    qk_norm = any(name.endswith("q_norm.weight") for name in tensors)
    with torch.device("meta"):
        model = Transformer(replace(config, biases=biases, qk_norm=qk_norm))
    place = shard(model) if shard else lambda parameter, tensor: tensor.to(device)
    parameters = dict(model.named_parameters())
    check_names(path, config, parameters, tensors)
    weights = {}
    for name, parameter in parameters.items():
        tensor = read_tensor(f"{path}: {name}", tensors[name], list(parameter.shape))
        weights[name] = place(parameter, tensor.to(dtype, copy=True))
    model.load_state_dict(weights, assign=True, strict=False)
    if config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.frequencies = rope_frequencies(config).to(device)
    model.compute_dtype = dtype
    return model.eval(), Tokenizer(path, config.vocab_size)


def check_names(path, config, parameters, tensors):
    """InputError if the files lack a tensor, or hold one that the model does not have."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if config.tied and head in tensors:
        stored = tensors.pop(head)
        if not torch.equal(stored[:], tensors.setdefault(embedding, stored)[:]):
            what = "config.json ties lm_head to the embedding, but the files hold two tensors"
            raise InputError(f'{path}: {what}; set "tie_word_embeddings" as it was trained')
    found = {name for name in tensors if not name.endswith("rotary_emb.inv_freq")}  # computed here
    missing, extra = parameters.keys() - found, found - parameters.keys()
    for kind, names in (("missing", missing), ("not expected", extra)):
        if names:
            what = f"{len(names)} tensors {kind}, {min(names)} for one"
            raise InputError(f"{path}: {what}; download config.json and weights of one checkpoint")


def read_tensor(name, stored, shape):
    """A tensor of a checkpoint. InputError if it has another shape, or is not of finite floats."""
    if stored.get_shape() != shape:
        what = f"has shape {stored.get_shape()}, config.json asks for {shape}"
        raise InputError(f"{name} {what}; download both again")
    if stored.get_dtype() not in ("F64", "F32", "F16", "BF16"):
        mend = "use a checkpoint in bfloat16, float16 or float32"
        raise InputError(f"{name} is {stored.get_dtype()}; {mend}")
    tensor = stored[:]
    if not tensor.sum(dtype=torch.float32).isfinite():  # one NaN or infinity makes the sum one
        raise InputError(f"{name} holds NaN or infinite values; download it again")
    return tensor


def merged_weights(model, whole=lambda tensor: tensor):
    """{tensor name: tensor on the CPU in the compute dtype}, LoRA merged in float32.

    `whole` gathers a tensor that is distributed over processes.
    """
    weights = {}
    for path, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            tensor = whole(parameter.detach())
            if kind == "weight" and getattr(module, "lora_A", None) is not None:
                tensor = tensor.float() + module.lora_scale * (module.lora_B @ module.lora_A)
            if not kind.startswith("lora_"):
                weights[f"{path}.{kind}"] = tensor.detach().to("cpu", model.compute_dtype)
    if model.config.tied:
        del weights["lm_head.weight"]
    return weights


def save(model, tokenizer, path, weights=None):
    """Write a directory that transformers opens with the same logits.

    weights: what `merged_weights` gave, if it was called before.
    """
    config = {**model.config.raw, "dtype": str(model.compute_dtype).removeprefix("torch.")}
    config.pop("torch_dtype", None)  # the old name of the same entry
    with files.replace(path) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "model.safetensors", weights or merged_weights(model))
        write_json(temporary / "config.json", config)
        tokenizer.save(temporary)


def write_tensors(path, tensors, metadata=None):
    """A safetensors file with the rights of any other file. OSError if it cannot be written."""
    try:
        safetensors.torch.save_file(tensors, path, metadata or {"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: {error}")
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)  # the library makes files for their owner alone


# LoRA


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(model, rank, alpha, dropout, seed, on=PROJECTIONS):
    """Freeze the model; attach float32 adapters to these projections of its layers.

    ΔW = alpha / rank · B A (Hu et al. 2021). A (rank, in) starts Kaiming-uniform as in PEFT,
    drawn from `seed`; B (out, rank) starts at zero. In training, dropout(x, index) is what the
    adapter of projection `index` reads; dropout.p is the share of zeros in it.
    """
    random = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    named = model.model.layers.named_modules()
    projections = [module for name, module in named if name.split(".")[-1] in on]
    for index, module in enumerate(projections):
        A = torch.rand(rank, module.in_features, generator=random) * 2 - 1
        A = A / math.sqrt(module.in_features)
        B = torch.zeros(module.out_features, rank)
        module.lora_A = nn.Parameter(A.to(model.device))
        module.lora_B = nn.Parameter(B.to(model.device))
        module.lora_scale = alpha / rank
        module.lora_dropout, module.lora_index = dropout, index


def save_adapter(model, path, settings):
    """Write the adapters in PEFT's layout; settings: more entries of adapter_config.json."""
    weights = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            weights[f"base_model.model.{name}.weight"] = parameter.detach().cpu()
    projections = {name.split(".")[-3] for name in weights}
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
    config |= {"inference_mode": True, "target_modules": sorted(projections), **settings}
    with files.replace(path) as temporary:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "adapter_model.safetensors", weights)
        write_json(temporary / "adapter_config.json", config)
