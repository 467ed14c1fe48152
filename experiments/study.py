"""A study: methods compared on one task and one checkpoint, learning rate and epochs chosen on training examples held out.

    python experiments/study.py OUT [--settings 1e-4/1,3e-4/1,3e-4/2] --task mbpp --ckpt DIR [further options of s3ft.py]

1. OUT/validate-LR-EPOCHS: sft and s3ft under each setting, trained on three quarters of the training examples (of --limit) and tested
   on the others. The setting with the higher mean score of the two is every arm's; the lighter one among equals. Test examples are not used.
2. OUT/main: base, sft and s3ft with two seeds each, sdft and ssr, on all training examples (of --limit), tested on the test set and on 250
   items each of four general benchmarks.
3. OUT/samples, with --samples K: s3ft alone, the likeliest of 1 + K own responses.

A step is a run of s3ft.py. What one has generated the next ones take over. A finished step leaves its last line in run.json and loses
its merged checkpoints (the adapters stay); the same command skips it and goes on in the one that was stopped.
"""
import argparse
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from files import read_json, replace, write_json, write_text  # noqa: E402

BENCHES = ["--bench", "mmlu,truthfulqa,hellaswag,svamp", "--bench-limit", "250"]


def step(out, before, *options):
    """Run s3ft.py in `out`, with the candidates and the base model's test results of the step `before`; its last line, as a dict."""
    if (out / "run.json").exists():
        return read_json(out / "run.json")
    if before and not out.exists():
        with replace(out) as new:
            new.mkdir()
            shutil.copy(before / "candidates.jsonl", new)
            shutil.copytree(before / "base", new / "base")
            rows = (before / "bench.jsonl").read_text().splitlines() if (before / "bench.jsonl").exists() else []
            write_text(new / "bench.jsonl", "".join(row + "\n" for row in rows if json.loads(row)["model"] == "base"))
    print(f"study: {out} {' '.join(options)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(ROOT / "s3ft.py"), "--out", str(out), *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def finish(out, found):
    """Note that the step is done, then remove its merged checkpoints."""
    write_json(out / "run.json", found)
    for model in out.glob("*/model"):
        shutil.rmtree(model)


def study(args, options):
    scores, before = {}, None
    for setting in args.settings.split(",") if "," in args.settings else ():
        lr, epochs = setting.split("/")
        out = args.out / f"validate-{lr}-{epochs}"
        found = step(out, before, *options, "--method", "sft,s3ft", "--validate", "0.25", "--lr", lr, "--epochs", epochs)
        finish(out, found)
        (task,) = found["scores"]["base"]
        scores[setting] = {arm: values[task]["score"] for arm, values in found["scores"].items()}
        before = out
    chosen = max(scores, key=lambda setting: scores[setting]["sft"] + scores[setting]["s3ft"], default=args.settings)
    write_json(args.out / "chosen.json", {"scores": scores, "chosen": chosen})
    print(f"study: {scores}: {chosen} is chosen", file=sys.stderr, flush=True)

    lr, epochs = chosen.split("/")
    options, main = [*options, *BENCHES, "--lr", lr, "--epochs", epochs], args.out / "main"
    seeds = f"{args.seed},{args.seed + 1}"
    if not (main / "run.json").exists():
        step(main, before, *options, "--method", "sft,s3ft", "--seeds", seeds)
        finish(main, step(main, None, *options, "--method", "sdft,ssr"))
    if args.samples:
        out = args.out / "samples"
        finish(out, step(out, main, *options, "--method", "s3ft", "--samples", args.samples))


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    p.add_argument("out", type=Path, metavar="OUT")
    p.add_argument("--settings", default="1e-4/1,3e-4/1,3e-4/2", metavar="LR/EPOCHS,…", help="the lighter first; a single one is not compared")
    p.add_argument("--samples", metavar="K")
    p.add_argument("--seed", type=int, default=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the running step's, which saves its state; then we end too
    ARGS, REST = p.parse_known_args()
    study(ARGS, [*REST, "--seed", str(ARGS.seed)])
