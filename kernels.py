"""Two steps of generation that a CPU does faster than by plain PyTorch: attention over the cache,
compiled from kernels.c where there is a C compiler, and products by packed weights.

`enable()` chooses, by measuring; until then, on a GPU and in training all is PyTorch's.
"""

import contextlib
import ctypes
import functools
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import parallel

libraries = {}  # what is compiled, by the dtype of activations
packing = set()  # dtypes whose products are faster by packed weights
CLEARLY = 1.2  # times as fast: no choice is left to chance
COMPILE = "-O3 -march=native -ffast-math -fopenmp -fPIC -c".split()
LINK = "-shared -fopenmp".split()  # with -ffast-math, the whole process would lose tiny numbers


def enable(dtype):
    """Use what is clearly faster here with activations of `dtype`; returns a line about it."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    x, weights = draw(64, 576).to(dtype), draw(8, 1536, 576).to(dtype)
    packs = [pack(weight) for weight in weights]
    gain = speedup(
        lambda: [F.linear(x, w) for w in weights], lambda: [multiply(x, p) for p in packs]
    )
    packing.update([dtype] if gain > CLEARLY else [])
    words = f"products by packed weights {gain:.1f} times as fast"
    try:
        library = build(dtype)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{words}; attention is PyTorch's, for nothing can be compiled: {error}"
    q, cache, lengths = draw(32, 3, 3, 64), draw(2, 32, 3, 256, 64), torch.arange(32) + 200
    keys, values = cache.to(dtype)
    given = q.to(dtype), *q.to(dtype).unbind(2)[:2], keys, values, lengths, None
    plain = functools.partial(plain_attend, *given, visible(lengths, 256, None))
    compiled = functools.partial(compiled_attend, library, *given)
    gain, apart = speedup(plain, compiled), (plain() - compiled()).abs().max().item()
    if gain > CLEARLY and apart < 20 * torch.finfo(dtype).eps:
        libraries[dtype] = library
    return f"{words}, compiled attention {gain:.1f} times, {apart:.0e} apart"


@torch.no_grad()
def speedup(old, new):
    """How many times as fast as `old` is `new`? By the shortest of several durations each."""
    durations = {old: [], new: []}
    for work in (old, new) * 15:
        start = time.perf_counter()
        work()
        durations[work].append(time.perf_counter() - start)
    return min(durations[old]) / min(durations[new])


def build(dtype):
    """The compiled library. OSError or CalledProcessError where that fails."""
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    compiler, source = os.environ.get("CC", "cc"), str(Path(__file__).with_name("kernels.c"))
    with tempfile.TemporaryDirectory() as folder:
        compiled, linked = f"{folder}/kernels.o", f"{folder}/kernels.so"
        bf16 = f"-DBF16={int(dtype == torch.bfloat16)}"
        run([compiler, *COMPILE, bf16, source, "-o", compiled])
        run([compiler, *LINK, compiled, "-lm", "-o", linked])
        return ctypes.CDLL(linked)


# Attention


def visible(lengths, capacity, window):
    """Does a row see a place of its cache? (R, 1, 1, capacity)"""
    distance = lengths[:, None] - torch.arange(capacity, device=lengths.device)
    return ((distance >= 0) & (distance < (window or math.inf)))[:, None, None]


def attend(q, k, v, keys, values, lengths, window, visible):
    """Attention of one new token a row: q (R, KV, H / KV, hd), k and v (R, KV, hd) -> like q.

    k and v go to place lengths[row] (R,) of keys and values (R, KV, capacity, hd). A row sees
    `window` places up to there, or all; `visible` says the same.
    """
    if q.device.type == "cpu" and q.dtype in libraries:
        return compiled_attend(libraries[q.dtype], q, k, v, keys, values, lengths, window)
    return plain_attend(q, k, v, keys, values, lengths, window, visible)


def plain_attend(q, k, v, keys, values, lengths, window, visible):
    rows = torch.arange(len(lengths), device=q.device)
    keys[rows, :, lengths], values[rows, :, lengths] = k, v
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)


def compiled_attend(library, q, k, v, keys, values, lengths, window):
    q, k, v, out = (
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        torch.empty_like(q, memory_format=torch.contiguous_format),
    )
    tensors = q, k, v, keys, values, lengths, out
    addresses = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    library.attend(*addresses, *q.shape, keys.stride(1) // q.shape[3], window or 2**30)
    return out


# Products

pack = torch.ops.mkldnn._reorder_linear_weight  # lays a weight out as oneDNN multiplies it


@contextlib.contextmanager
def packed(model):
    """While the block runs, projections hold packed weights too, if there is room for them."""
    linears, dtype = [], model.compute_dtype
    if dtype in packing and model.device.type == "cpu" and not parallel.together:
        linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    if sum(m.weight.nbytes for m in linears) > parallel.free_memory() / 4:
        linears = []
    for m in linears:
        m.packed = pack(m.weight.detach().to(dtype))
    try:
        yield
    finally:
        for m in linears:
            m.packed = None


def multiply(x, packed, bias=None):
    """x @ weight.T + bias, by the packed weight."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
