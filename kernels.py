"""Faster generation on a CPU, if a measurement says so.

    print(kernels.enable(model))

Attention over the cache is compiled from kernels.c where there is a C compiler. Products take
weights that are packed, that is, laid out as oneDNN multiplies them.
Shapes: R rows, KV key-value heads, H query heads, hd head size.
"""

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

CLEARLY = 1.3  # times as fast: with less, noise would choose
COMPILE = "-O3 -march=native -ffast-math -fopenmp -fPIC -c".split()
LINK = "-shared -fopenmp".split()  # -ffast-math here would make the process flush denormals
has_onednn = torch.backends.mkldnn.is_available()


def enable(model):
    """Let a model that is never trained use what is faster here; returns a line for the user.

    Packed weights stay beside the plain ones. They may take a quarter of the free memory.
    """
    model.kernels, packs, words = choose(model.compute_dtype, model.config.head_dim)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and packs]
    if 4 * sum(m.weight.nbytes for m in linears) < parallel.free_memory():
        for m in linears:
            m.packed = pack(m.weight.detach())
    return words


@functools.cache
def choose(dtype, head_dim):
    """(the compiled library or None, are packed weights faster?, a line about both)"""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x, weights = draw(64, 576), draw(8, 1536, 576)
    packs = [pack(weight) for weight in weights]
    plain = lambda: [F.linear(x, weight) for weight in weights]  # noqa: E731
    gain = speedup(plain, lambda: [multiply(x, packed) for packed in packs])
    packing, words = gain > CLEARLY, f"products by packed weights {gain:.1f} times as fast"
    try:
        library = build(dtype, head_dim)
    except OSError as error:
        words += f"; attention is PyTorch's: {error}; install gcc, or name a compiler as CC"
        return None, packing, words

    q, k, v = draw(32, 3, 3, head_dim), draw(32, 3, head_dim), draw(32, 3, head_dim)
    keys, values = draw(2, 32, 3, 256, head_dim)
    lengths = torch.arange(32) + 200
    given = q, k, v, keys, values, lengths, None, visible(lengths, 256, None)
    old, new = (functools.partial(attend, each, *given) for each in (None, library))
    gain, apart = speedup(old, new), (old() - new()).abs().max().item()
    if gain < CLEARLY or apart > 20 * torch.finfo(dtype).eps:
        library = None
    words += f", compiled attention {gain:.1f} times, {apart:.0e} apart"
    return library, packing, f"{words}; used from {CLEARLY} on"


@torch.no_grad()
def speedup(old, new):
    """How many times as fast as `old` is `new`? By the shortest of several durations each."""
    durations = {old: [], new: []}
    for work in (old, new) * 15:
        start = time.perf_counter()
        work()
        durations[work].append(time.perf_counter() - start)
    return min(durations[old]) / min(durations[new])


def build(dtype, head_dim):
    """The library compiled for these sizes. OSError says why there is none."""
    compiler = os.environ.get("CC", "cc")
    source = str(Path(__file__).with_name("kernels.c"))
    sizes = f"-DHD={head_dim}", f"-DBF16={int(dtype == torch.bfloat16)}"
    with tempfile.TemporaryDirectory() as folder:
        compiled, linked = f"{folder}/kernels.o", f"{folder}/kernels.so"
        for command in (
            [compiler, *COMPILE, *sizes, source, "-o", compiled],
            [compiler, *LINK, compiled, "-lm", "-o", linked],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"{compiler} fails ({done.stderr.strip()[-200:]!r})")
        return ctypes.CDLL(linked)


def pack(weight):
    """A weight (out, in) laid out as oneDNN multiplies it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def multiply(x, packed, bias=None):
    """x @ weight.T + bias, by the packed weight."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def visible(lengths, capacity, window):
    """Does a row see a place of its cache? (R, 1, 1, capacity)"""
    distance = lengths[:, None] - torch.arange(capacity, device=lengths.device)
    return ((distance >= 0) & (distance < (window or math.inf)))[:, None, None]


def attend(library, q, k, v, keys, values, lengths, window, visible):
    """Attention of one new token a row: q (R, KV, H / KV, hd), k and v (R, KV, hd) -> like q.

    k and v go to place lengths[row] (R,) of keys and values (R, KV, capacity, hd). A row sees
    `window` places up to there, or all; `visible` says the same. By PyTorch without a library.
    """
    if library:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, (R, KV, group, _) = torch.empty_like(q), q.shape
        tensors = q, k, v, keys, values, lengths, out
        addresses = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        stride = ctypes.c_long(keys.stride(1))
        library.attend(*addresses, R, KV, group, stride, window or 2**30)
        return out
    rows = torch.arange(len(lengths), device=q.device)
    keys[rows, :, lengths], values[rows, :, lengths] = k, v
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
