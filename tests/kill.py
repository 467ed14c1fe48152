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


def stages(said):
    """The names of the progress bars in what a run has said, in order of appearance: its stages."""
    bars = re.findall(r"(?:^|[\r\n])([^\r\n|]*?)(?:, \d+ at once)?: +\d+%\|", said)
    return list(dict.fromkeys(re.sub("^(whole|killed): ", "", bar) for bar in bars))


def run_with_kills(args, out, moments, processes=1, draw=random):
    """Start the command again and again, kill -9 each so many seconds after one of the stages appears, `moments` [(stages or None,
    seconds)]; then let it finish: (the finished process, what each kill interrupted: whom it hit, and the last thing that was said)."""
    interrupted = []
    for wanted, seconds in moments:
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command(args, out, processes), stdout=subprocess.DEVNULL, stderr=said)
            try:
                while wanted and not set(wanted) & set(stages(os.pread(said.fileno(), 10 ** 7, 0).decode())) and process.poll() is None:
                    time.sleep(0.05)
                process.wait(seconds)
                interrupted.append("the run was over")
            except subprocess.TimeoutExpired:
                rank, victim = draw.choice([("torchrun", process.pid), *sorted(workers(out).items())] if processes > 1 else [(0, process.pid)])
                lines = [line for line in re.split(r"[\r\n]+", os.pread(said.fileno(), 10 ** 7, 0).decode()) if line.strip()] or ["nothing said yet"]
                interrupted.append(f"{rank}: {lines[-1][:70]}")
                os.kill(victim, signal.SIGKILL)
                process.wait()
                while workers(out):                                          # they notice that torchrun is gone
                    time.sleep(0.1)
    return subprocess.run(command(args, out, processes), capture_output=True, text=True), interrupted


def timeline(args, out, processes):
    """An undisturbed run: ([(seconds, stage that began then)], its whole time)."""
    start, seen = time.time(), {None: 0.0}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command(args, out, processes), stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            for stage in stages(os.pread(said.fileno(), 10 ** 7, 0).decode()):
                seen.setdefault(stage, time.time() - start)
            time.sleep(0.05)
        said.seek(0)
        assert process.returncode == 0, said.read()
    return [(seconds, stage) for stage, seconds in seen.items()], time.time() - start


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--processes", type=int, default=1)
    p.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "s3ft-kill")
    p.add_argument("args", nargs="+", help="after --: the options of s3ft.py, without --out")
    args = p.parse_args()
    begun, whole_time = timeline(args.args, args.folder / "whole", args.processes)
    # Moments are uniform over the undisturbed run, each said as seconds after its stage has begun, or a later one where that is done.
    draw, moments = random.Random(args.seed), []
    for at in sorted(draw.uniform(0, whole_time) for _ in range(args.kills)):
        k = max(k for k, (seconds, _) in enumerate(begun) if seconds <= at)
        moments.append(([stage for _, stage in begun[k:]] if k else None, at - begun[k][0]))
    print(f"undisturbed: {whole_time:.0f} s; stages: {', '.join(f'{stage} at {seconds:.0f}' for seconds, stage in begun[1:])}", flush=True)
    last, interrupted = run_with_kills(args.args, args.folder / "killed", moments, args.processes, draw)
    for (wanted, seconds), what in zip(moments, interrupted):
        print(f"killed {seconds:5.1f} s into {wanted[0] if wanted else 'the start'}: {what}")
    sys.stderr.write(last.stderr * (last.returncode != 0))
    whole, killed = outputs(args.folder / "whole"), outputs(args.folder / "killed")
    for name in sorted(whole.keys() | killed.keys()):
        print(f"{'equal' if whole.get(name) == killed.get(name) else 'DIFFERENT'}  {name}")
    sys.exit(last.returncode or whole != killed)


if __name__ == "__main__":
    main()
