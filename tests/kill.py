"""Does kill -9 lose anything? Runs a command of s3ft.py undisturbed, then again with kills at random moments, and compares.

    python tests/kill.py --kills 5 --seed 0 -- --task gsm8k --ckpt llama --dtype float32 --limit 64 --eval-limit 64

With --processes N the command runs under torchrun, and a kill hits one of the processes, or torchrun itself. Compared, byte for byte: targets, adapters, merged weights, scores, losses; token for token: all candidates. Prints a line a file.
The short form with a tiny checkpoint is in test_s3ft.py.
"""
import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("targets.jsonl", "adapter_model.safetensors", "model.safetensors", "eval.json")


def command(args, out, processes=1):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *torchrun, str(ROOT / "s3ft.py"), *map(str, args), "--out", str(out)]


def workers(out):
    """{rank: process id} of a running job whose run directory is `out`; torchrun itself has no rank."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if str(out).encode() in words and b"torch.distributed.run" not in words:
                variables = dict(pair.partition(b"=")[::2] for pair in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"))
                found[int(variables[b"RANK"])] = int(entry)
        except (OSError, KeyError):                                          # it has ended, or is none of ours
            continue
    return found


def outputs(run):
    """What must not depend on interruptions. Log-probabilities may differ in the last bits with the company in the batch."""
    found = {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.name in COMPARED}
    for f in run.rglob("train.csv"):
        found[str(f.relative_to(run))] = [line.split(",")[:5] for line in f.read_text().splitlines()]
    rows = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    found["candidates.jsonl"] = [{kind: (row[kind]["ids"], row[kind]["correct"]) for kind in ("self", "paraphrase") if kind in row} for row in rows]
    return found


def run_with_kills(args, out, moments, processes=1, draw=random):
    """Start the command again and again, kill -9 each after so many seconds; then let it finish: (the finished process, what each
    kill interrupted: whom it hit, and the last thing that was said)."""
    interrupted = []
    for seconds in moments:
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command(args, out, processes), stdout=subprocess.DEVNULL, stderr=said)
            try:
                process.wait(seconds)
                interrupted.append("the run was over")
            except subprocess.TimeoutExpired:
                rank, victim = draw.choice([("torchrun", process.pid), *sorted(workers(out).items())] if processes > 1 else [(0, process.pid)])
                said.seek(0)
                last = ([line for line in re.split(r"[\r\n]+", said.read()) if line.strip()] or ["nothing said yet"])[-1]
                interrupted.append(f"{rank}, {last[:70]}")
                os.kill(victim, signal.SIGKILL)
                process.wait()
                while workers(out):                                          # they notice that torchrun is gone
                    time.sleep(0.1)
    return subprocess.run(command(args, out, processes), capture_output=True, text=True), interrupted


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seconds", type=float, help="the latest moment of a kill (default: so that the kills spread over the run)")
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "s3ft-kill")
    p.add_argument("args", nargs="+", help="after --: the options of s3ft.py, without --out")
    args = p.parse_args()
    times = []
    for _ in range(2):                                                       # a whole run, and one that finds everything done
        start = time.time()
        subprocess.run(command(args.args, args.folder / "whole", args.processes), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.time() - start)
    # Each start loads the model anew and then goes on from the last one: the moments are spread so that kills fall all over the run.
    draw = random.Random(args.seed)
    latest = args.seconds or times[1] + 2 * (times[0] - times[1]) / args.kills
    moments = [draw.uniform(times[1] / 2, latest) for _ in range(args.kills)]
    print(f"undisturbed: {times[0]:.0f} s, with everything done {times[1]:.0f} s", flush=True)
    last, interrupted = run_with_kills(args.args, args.folder / "killed", moments, args.processes, draw)
    for seconds, what in zip(moments, interrupted):
        print(f"killed after {seconds:5.1f} s: {what}")
    sys.stderr.write(last.stderr * (last.returncode != 0))
    whole, killed = outputs(args.folder / "whole"), outputs(args.folder / "killed")
    for name in sorted(whole.keys() | killed.keys()):
        print(f"{'equal' if whole.get(name) == killed.get(name) else 'DIFFERENT'}  {name}")
    sys.exit(last.returncode or whole != killed)


if __name__ == "__main__":
    main()
