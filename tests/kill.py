"""Runs of s3ft.py that are interrupted, and what has to be the same afterwards.

    python tests/kill.py --kills 5 --seed 0 -- --task gsm8k --ckpt llama --limit 64 --eval-limit 64

runs this command undisturbed, then again with kill -9 at random moments, and prints a line for each
file that has to be equal. With --processes N the command runs under torchrun, and a kill hits one
process of the job.
"""

import argparse
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
COMPARED = ("targets.jsonl", "adapter_model.safetensors", "model.safetensors", "eval.json")


def launcher(processes):
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else [])]


def command(args, out, processes=1):
    return [*launcher(processes), ROOT / "s3ft.py", *map(str, args), "--out", out]


def finish(args, out, processes=1):
    """The finished process; TimeoutExpired if it hangs."""
    argv = command(args, out, processes)
    return subprocess.run(argv, capture_output=True, text=True, timeout=3600)


def workers(out):
    """{rank: process id} of the job whose run directory is `out`; rank 0 is also a lone process."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if str(out).encode() in words and b"torch.distributed.run" not in words:
            ranks = [v.removeprefix(b"RANK=") for v in variables if v.startswith(b"RANK=")]
            found[int(ranks[0]) if ranks else 0] = int(entry)
    return found


def interrupt(args, out, mark, send, processes=1, rank=0):
    """Start the command; once it says `mark`, send a signal to one process. (exit code, stderr)"""
    argv = command(args, out, processes)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = b""
    while mark.encode() not in said:
        chunk = os.read(process.stderr.fileno(), 4096)
        assert chunk, said.decode()
        said += chunk
    os.kill(workers(out)[rank], send)
    said += process.communicate(timeout=120)[1]
    return process.returncode, said.decode()


def outputs(run):
    """{name: value} of what has to be the same; log-probabilities may differ in their last bits."""
    found = {}
    for file in run.rglob("*"):
        name = str(file.relative_to(run))
        if file.name in COMPARED:
            found[name] = file.read_bytes()
        if file.name == "train.csv":  # all but the seconds
            found[name] = [line.rpartition(",")[0] for line in file.read_text().splitlines()]
    for line in (run / "candidates.jsonl").read_text().splitlines():
        row = json.loads(line)
        responses = [row.get(source, {}) for source in ("own", "paraphrase")]
        found[row["id"]] = [(r.get("ids"), r.get("correct"), r.get("reason")) for r in responses]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("args", nargs="+", help="after --: options of s3ft.py, without --out")
    options = parser.parse_args()
    folder, draw = Path(tempfile.mkdtemp()), random.Random(options.seed)
    start = time.time()
    whole = finish(options.args, folder / "whole", options.processes)
    took = time.time() - start
    print(f"{folder}: undisturbed, exit code {whole.returncode}, {took:.0f} s")
    for _ in range(options.kills):
        argv = command(options.args, folder / "killed", options.processes)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = draw.uniform(0, took)
        try:
            process.wait(seconds)
            print("the run was over")
            break
        except subprocess.TimeoutExpired:
            found = workers(folder / "killed") or {"launcher": process.pid}
            victim = draw.choice(list(found))
            os.kill(found[victim], signal.SIGKILL)
            process.wait()
            print(f"killed {victim} after {seconds:.1f} s")
    last = finish(options.args, folder / "killed", options.processes)
    print(f"continued, exit code {last.returncode}")
    expected, found = outputs(folder / "whole"), outputs(folder / "killed")
    for name in sorted(expected.keys() | found.keys()):
        print("equal" if expected.get(name) == found.get(name) else "DIFFERENT", name)
    sys.exit(whole.returncode or last.returncode or expected != found)


if __name__ == "__main__":
    main()
