"""Does kill -9 lose anything? Runs a command of s3ft.py undisturbed, then again with kills at random moments, and compares.

    python tests/kill.py --kills 5 --seed 0 -- --task gsm8k --ckpt llama --dtype float32 --limit 64 --eval-limit 64

Compared, byte for byte: targets, adapters, merged weights, scores, losses; token for token: all candidates. Prints a line a file.
The short form with a tiny checkpoint is in test_s3ft.py.
"""
import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("targets.jsonl", "adapter_model.safetensors", "model.safetensors", "eval.json")


def command(args, out):
    return [sys.executable, str(ROOT / "s3ft.py"), *map(str, args), "--out", str(out)]


def outputs(run):
    """What must not depend on interruptions. Log-probabilities may differ in the last bits with the company in the batch."""
    found = {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.name in COMPARED}
    for f in run.rglob("train.csv"):
        found[str(f.relative_to(run))] = [line.split(",")[:5] for line in f.read_text().splitlines()]
    rows = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    found["candidates.jsonl"] = [{kind: (row[kind]["ids"], row[kind]["correct"]) for kind in ("self", "paraphrase") if kind in row} for row in rows]
    return found


def run_with_kills(args, out, moments):
    """Start the command again and again, kill -9 each after so many seconds; then let it finish. The finished process."""
    for seconds in moments:
        process = subprocess.Popen(command(args, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return subprocess.run(command(args, out), capture_output=True, text=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "s3ft-kill")
    p.add_argument("args", nargs="+", help="after --: the options of s3ft.py, without --out")
    args = p.parse_args()
    start = time.time()
    subprocess.run(command(args.args, args.folder / "whole"), check=True, stdout=subprocess.DEVNULL)
    took = time.time() - start
    # Each start goes on from the last: the moments are spread so that the kills fall all over the run.
    moments = [random.Random(f"{args.seed}/{k}").uniform(0.3, 1.7) * took / (args.kills + 1) for k in range(args.kills)]
    print(f"undisturbed: {took:.0f} s; killed after {', '.join(f'{m:.0f}' for m in moments)} s")
    last = run_with_kills(args.args, args.folder / "killed", moments)
    sys.stderr.write(last.stderr)
    whole, killed = outputs(args.folder / "whole"), outputs(args.folder / "killed")
    for name in sorted(whole.keys() | killed.keys()):
        print(f"{'equal' if whole.get(name) == killed.get(name) else 'DIFFERENT'}  {name}")
    sys.exit(last.returncode or whole != killed)


if __name__ == "__main__":
    main()
