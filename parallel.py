"""Several processes as one job, as torchrun starts them: who does what, and what happens when one of them dies.

    torchrun --nproc-per-node 4 s3ft.py --task gsm8k --ckpt ./llama

All processes run the same program. They meet in torch.distributed's collectives, take pieces of work from a counter in its store, and
share files on a common disk. In a process of its own everything here does nothing. Not covered: processes that come or go during a job.
"""
import itertools
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK, LOCAL_SIZE = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
SILENT = 20  # seconds without a sign of life after which a process counts as dead; 3 where something points to a death
DONE, SUSPICION = b"\0", b"\xff"  # said to `watch`, beside the numbers of signals

calls, store, device, watcher = itertools.count(), None, "cpu", None
TEAM, team = 1, None  # processes that share one model in generation and scoring (`model.load`), and their group


def start(on, members=1):
    """Join the job, with collectives over NCCL on "cuda", else over gloo, in teams of so many members; the device of this process."""
    global store, device, watcher, TEAM, team
    device = f"cuda:{LOCAL_RANK}" if on == "cuda" and SIZE > 1 else on
    if SIZE > 1:
        import torch.distributed as dist
        store, *_ = next(dist.rendezvous("env://"))
        if on == "cuda":
            import torch
            torch.cuda.set_device(device)
        # Nobody waits for long in a collective for another reason than work: the dead are found by `watch`, not by a time limit.
        dist.init_process_group("nccl" if on == "cuda" else "gloo", store=store.clone(), rank=RANK, world_size=SIZE, timeout=timedelta(days=9))
        TEAM = members
        groups = [dist.new_group(range(first, first + TEAM)) for first in range(0, SIZE, TEAM)] if TEAM > 1 else [None]
        team = groups[RANK // TEAM % len(groups)]
        signals, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)     # `watch` sees a signal even where this thread waits in C
        signal.signal(signal.SIGTERM, lambda *_: None)
        thread = threading.Thread(target=watch, args=(store.clone(), signals), daemon=True)
        thread.start()
        watcher, sys.excepthook = (thread, writer), bereaved
    return device


def bereaved(*error):
    """A collective fails at once where another process dies: leave the word to `watch`; only what it cannot explain is a traceback."""
    watcher[1].send(SUSPICION)
    time.sleep(8)
    sys.__excepthook__(*error)
    os._exit(1)


def finish(code=0):
    """Leave the job and end this process; with code 0 once all processes are here."""
    if SIZE > 1 and watcher:
        sys.stdout.flush()
        if not code:
            barrier()
            watcher[1].send(DONE)
            watcher[0].join()
        os._exit(code)  # other threads may wait in a collective for ever, and torch, taken down, has aborted a process that was done (NOTES.md)
    sys.exit(code)


def watch(store, signals):
    """A thread of each process, with a store client of its own and a socket on which signals, DONE and SUSPICION arrive. Give a sign of life every second; end this process when another one is silent, torchrun asks for it, or torchrun is gone.

    One line on stderr names the rank that died. Process 0 listens to all, the others to process 0.
    """
    heard = {rank: (0, time.monotonic()) for rank in (range(1, SIZE) if RANK == 0 else [0])}
    since = {}                                                               # when what has been said to this thread was said first
    while True:
        came = signals.recv(99) if select.select([signals], [], [], 1)[0] else b""
        now = time.monotonic()
        since = {byte: now for byte in came} | since
        if DONE[0] in since:
            return
        try:
            store.add(f"alive {RANK}", 1)
            for rank, (count, _) in list(heard.items()):
                if (new := store.add(f"alive {rank}", 0)) != count:
                    heard[rank] = new, now
            if store.add("over", 0):
                os._exit(1)                                                  # somebody has said why
        except Exception:  # the store is torchrun's: whatever its client raises, it cannot be reached
            print(f"s3ft.py: process {RANK}: torchrun, which started this job, is gone; the same command goes on", file=sys.stderr, flush=True)
            os._exit(1)
        asked = since.get(signal.SIGTERM)                                    # by torchrun: another process has ended
        silent = [rank for rank, (_, then) in heard.items() if now - then > (3 if asked or SUSPICION[0] in since else SILENT)]
        alone = silent or asked and now - asked > 6
        if signal.SIGINT in since and (alone or now - since[signal.SIGINT] > 15):  # Ctrl-C, and the main thread waits for one that has left
            os._exit(interrupted())
        if alone:
            who = f"process {', '.join(map(str, silent))} of {SIZE} has died" if silent else "a process of the job has died (torchrun names it)"
            complain(f"{who}; the same command goes on from what is saved", by="")
            os._exit(1)


def complain(words, by=f"process {RANK}: " * (RANK > 0)):
    """Say on stderr why the job ends, if no other process has said so; the others end without a word."""
    if not store or store.add("over", 1) == 1:
        print(f"s3ft.py: {by}{words}", file=sys.stderr, flush=True)


def interrupted():
    """Say that Ctrl-C ends the job, process 0 for all; the exit code."""
    if RANK == 0:
        print("\ns3ft.py: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
    return 130


def barrier():
    """Wait for all processes."""
    total(0)


def total(*values):
    """Sums over the processes, as float64."""
    if SIZE == 1:
        return list(values)
    import torch
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def team_sum(tensor):
    """The sum of a tensor over the processes of a team, in place."""
    import torch.distributed as dist
    dist.all_reduce(tensor, group=team)
    return tensor


def team_least(value):
    """The least of the integers that the processes of a team have; the value itself without teams."""
    if TEAM > 1:
        import torch
        values = torch.zeros(TEAM, dtype=torch.int64, device=device)
        values[RANK % TEAM] = value
        return team_sum(values).min().item()
    return value


def tally(share=True):
    """A function add(n) to a number that all processes share (not `share`: each has its own), which gives the sum so far. As with a
    collective, all processes have to make the same tallies in the same order; a team, which does the same work, adds once."""
    if share and SIZE > 1:
        name = f"tally {next(calls)}"
        return lambda n: team_least(store.add(name, n) if RANK % TEAM == 0 else 2 ** 62)
    own = 0

    def add(n):
        nonlocal own
        own += n
        return own
    return add


def pieces(items, n, share=True):
    """Consecutive parts of n items, each to the process that asks first, so that the faster ones get more; see `tally`."""
    add = tally(share)
    starts = (n * (add(1) - 1) for _ in itertools.count())
    return (items[start:start + n] for start in itertools.takewhile(lambda start: start < len(items), starts))


def free_memory(device):
    """Bytes that this process can have on a torch.device; on a CPU within the limit of the control group too, as in a container."""
    if device.type == "cuda":
        import torch
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2     # where nothing better is known
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.exists():
        free = int(re.search(r"MemAvailable: *(\d+)", meminfo.read_text())[1]) * 1024
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        cached = int(re.search(r"inactive_file (\d+)", (group / "memory.stat").read_text())[1])  # files that were read: given up when needed
        free = min(free, int(limit) - int((group / "memory.current").read_text()) + cached)
    return free // LOCAL_SIZE
