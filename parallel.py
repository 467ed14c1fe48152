"""Several processes as one job, as torchrun starts them: who does what, sums, and FSDP2.

    torchrun --nproc-per-node 4 s3ft.py --task gsm8k --ckpt ./llama

All processes run the same program and meet in torch.distributed's collectives. A single process
exchanges nothing. When one of several ends with an error, torchrun ends the rest.
"""

import ctypes
import os
import re
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from tqdm import tqdm

rank = int(os.environ.get("RANK", 0))
world_size = int(os.environ.get("WORLD_SIZE", 1))
local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
device = "cpu"  # of this process, once `start` has run
is_main = rank == 0  # the process that speaks, and writes what is written once
together = False  # do forward passes need all processes, as with FSDP?
LONGEST_WAIT = timedelta(hours=3)  # in a collective, while others generate


def start(kind):
    """Join the job, over NCCL on "cuda", else over gloo."""
    global device
    device = kind
    return_freed_memory()
    if world_size > 1:
        if kind == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=LONGEST_WAIT)


def return_freed_memory():
    """Let glibc give blocks above 4 MB back to the system when they are freed.

    All weights of 0.5B then train in 15 GB. Else it grows beyond 16, and 12 are left after it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD


def leave(code, words=""):
    """End this process; with a code other than 0, `words` say why.

    If all fail alike, only the first prints: the others wait, and torchrun ends them meanwhile.
    """
    if words:
        time.sleep(0 if is_main else 5)
        print(f"s3ft.py: {words}", file=sys.stderr)
    else:
        barrier()
        if world_size > 1:
            sys.stdout.flush()
            os._exit(code)  # while Python ends, threads of torch's may abort the process
    sys.exit(code)


def say(text):
    """A line on stderr, from one process for all."""
    if is_main:
        print(text, file=sys.stderr, flush=True)


def bar(total, name, unit):
    """A progress bar, from one process for all; none without a name."""
    return tqdm(total=total, desc=name, unit=unit, disable=not (total and name and is_main))


def mine(items):
    """Every n-th item is this process's, n being the number of processes."""
    return items[rank::world_size]


def all_reduce(values, operation=dist.ReduceOp.SUM):
    """Combine a list of numbers over the processes, as float64."""
    if world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, operation)
    return tensor.tolist()


def barrier():
    """Wait for all processes."""
    all_reduce([0])


def sum_gradients(parameters):
    """Add up the gradients of the processes; FSDP does it for what it distributes."""
    for p in parameters:
        if world_size > 1 and not is_distributed(p):
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)


# FSDP2


def shard(model, dtype):
    """Distribute every weight of a still empty model over the processes; return `place`.

    A layer's weights are gathered, in `dtype`, while it computes; gradients are summed. From then
    on forward passes are collective: all processes have to make equally many.
    """
    global together
    together = True
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(torch.device(device).type, (world_size,))
    policy = fsdp.MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for module in (*model.model.layers, model):
        fsdp.fully_shard(module, mesh=mesh, mp_policy=policy)
        module.set_gradient_divide_factor(1.0)  # sums, not means
        module.set_force_sum_reduction_for_comms(True)  # gloo has nothing else
    fsdp.register_fsdp_forward_method(model, "hidden")
    return place


def is_distributed(tensor):
    return hasattr(tensor, "full_tensor")


def place(parameter, tensor):
    """What this process keeps of a whole tensor, as `parameter` is distributed."""
    tensor = tensor.to(device)
    if not is_distributed(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def full_tensor(tensor):
    """The tensor itself, or gathered from all processes if it is distributed."""
    return tensor.full_tensor() if is_distributed(tensor) else tensor


def most(count):
    """Under FSDP the largest count of all processes, otherwise `count`."""
    return int(all_reduce([count], dist.ReduceOp.MAX)[0]) if together else count


def in_step(items):
    """Yield the items; under FSDP also None, until every process has had its last."""
    yield from [*items, *[None] * (most(len(items)) - len(items))]


def free_memory():
    """Bytes that this process can still have on its device."""
    if "cuda" in device:
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # if nothing says more
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        free = 1024 * int(re.search(r"MemAvailable: *(\d+)", meminfo.read_text())[1])
    if limit.exists() and limit.read_text().strip().isdigit():  # of a container
        used = int(re.search(r"anon (\d+)", limit.with_name("memory.stat").read_text())[1])
        free = min(free, int(limit.read_text()) - used)
    return free // local_world_size
