"""Runs of s3ft.py that are interrupted, and what has to be the same afterwards.

    python tests/kill.py 5 --task gsm8k --ckpt llama --limit 64 --eval-limit 64

runs this command undisturbed, then again with five times kill -9 at random moments, and prints
what differs.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("targets.jsonl", "adapter_model.safetensors", "model.safetensors")


def launcher(processes):
    if processes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={processes}"]


def command(args, out, processes=1, program="s3ft.py"):
    return [*launcher(processes), ROOT / program, *map(str, args), "--out", out]


def finish(args, out, processes=1, timeout=240, program="s3ft.py"):
    """The finished process. TimeoutExpired if it hangs."""
    argv = command(args, out, processes, program)
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout)


def workers(out):
    """{rank: process id} of the job whose run directory is `out`; a lone process has rank 0."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if str(out).encode() in words and b"torch.distributed.run" not in words:
            rank = [v.removeprefix(b"RANK=") for v in variables if v.startswith(b"RANK=")]
            found[int(rank[0]) if rank else 0] = int(entry)
    return found


def interrupt(args, out, mark, send, processes=1, rank=0, program="s3ft.py"):
    """Start the command; once it says `mark`, send a signal to one process. (exit code, stderr)"""
    argv = command(args, out, processes, program)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = b""
    while mark.encode() not in said:
        chunk = os.read(process.stderr.fileno(), 4096)
        assert chunk, said.decode()
        said += chunk
    os.kill(workers(out)[rank], send)
    said += process.communicate(timeout=120)[1]
    return process.returncode, said.decode()


def without_drift(scores):
    """The scores that do not hang on the last bits of a log-probability."""
    for measures in scores.values():
        del measures["drift nats"]
    return scores


def outputs(run):
    """{name: value} of what has to be the same; log-probabilities may differ in their last bits."""
    found = {}
    for file in run.rglob("*"):
        name = str(file.relative_to(run))
        if file.name in COMPARED:
            found[name] = file.read_bytes()
        if file.name == "eval.json":
            found[name] = without_drift(json.loads(file.read_text()))
        if file.name == "train.csv":  # all but the seconds
            found[name] = [line.rpartition(",")[0] for line in file.read_text().splitlines()]
    for line in (run / "candidates.jsonl").read_text().splitlines():
        row = json.loads(line)
        for source in ("own", "paraphrase"):
            response = row.get(source, {})
            found[row["id"], source] = response.get("ids"), response.get("correct")
    return found


def main(kills, *args):
    folder = Path(tempfile.mkdtemp())
    start = time.time()
    whole = finish(args, folder / "whole", timeout=None)
    took = time.time() - start
    print(f"{folder}: undisturbed, exit code {whole.returncode}, {took:.0f} s")
    for _ in range(int(kills)):
        process = subprocess.Popen(command(args, folder / "killed"), stderr=subprocess.DEVNULL)
        seconds = random.uniform(0, took)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        print(f"after {seconds:.0f} s, exit code {process.wait()}")  # 0: it was over
    last = finish(args, folder / "killed", timeout=None)
    expected, found = outputs(folder / "whole"), outputs(folder / "killed")
    different = [name for name in expected if found.get(name) != expected[name]]
    print(f"{len(expected)} values compared, different: {different or 'none'}")
    sys.exit(last.returncode or expected != found)


if __name__ == "__main__":
    main(*sys.argv[1:])
