"""A study: methods compared on one task and one checkpoint, learning rate and epochs chosen on training examples held out.

    python experiments/study.py --task mbpp --ckpt DIR --limit 374 --validate-on 374 [--further NAME=OPTIONS …] [more options of s3ft.py]

1. validate-LR-EPOCHS: sft and s3ft under each of --settings, trained on three quarters of --validate-on training examples, tested on the
   others. The setting with the highest mean of the two scores is every arm's; the lighter one among equals. No test example is used.
2. main: base, sft and s3ft with two seeds each, sdft and ssr, on --limit training examples; the task's test set, and 200 items each of four
   general benchmarks (MMLU with five examples).
3. NAME, for each --further: main again, one seed, with these options of s3ft.py changed.

A step is a run of s3ft.py in a folder of its own. What one has generated the next ones take over. A finished step leaves its last line in
run.json and loses its merged checkpoints (the adapters stay); the same command skips it, and goes on in the one that was stopped.
experiments/results.py makes the tables. Not covered: a choice of its own for each arm, several processes.
"""
import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from files import read_json, replace, write_json, write_text  # noqa: E402


def step(args, name, before, *options):
    """Run s3ft.py in `--out`/name, with the base model's results and, where they serve, the candidates of `before`; its last line, as a dict."""
    out = args.out / name
    if (out / "run.json").exists():
        return read_json(out / "run.json")
    names = {option.partition("=")[0] for option in options}
    if before and not out.exists() and not {"--max-new-tokens", "--dtype"} & names:                  # with these, nothing is the same
        before = args.out / before
        with replace(out) as new:
            new.mkdir()
            if not {"--select-shots", "--judge"} & names:                    # with these, others are generated, or judged otherwise
                shutil.copy(before / "candidates.jsonl", new)
            shutil.copytree(before / "base", new / "base")
            rows = (before / "bench.jsonl").read_text().splitlines() if (before / "bench.jsonl").exists() else []
            write_text(new / "bench.jsonl", "".join(row + "\n" for row in rows if json.loads(row)["model"] == "base"))
    print(f"study: {name}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(ROOT / "s3ft.py"), "--task", args.task, "--ckpt", args.ckpt, "--seed", str(args.seed), "--out", str(out),
                           *options, *args.rest], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def finish(out, found):
    """Note that the step is done, then remove its merged checkpoints."""
    write_json(out / "run.json", found)
    for model in out.glob("*/model"):
        shutil.rmtree(model)


def study(args):
    settings, scores, before = args.settings.split(","), {}, None
    for setting in settings if len(settings) > 1 else ():
        lr, epochs = setting.split("/")
        name = f"validate-{lr}-{epochs}"
        found = step(args, name, before, "--method", "sft,s3ft", "--limit", args.validate_on, "--validate", "0.25", "--lr", lr, "--epochs", epochs)
        finish(args.out / name, found)
        scores[setting], before = {arm: next(iter(values.values()))["score"] for arm, values in found["scores"].items()}, name
    chosen = max(settings, key=lambda setting: scores[setting]["sft"] + scores[setting]["s3ft"] if scores else 0)
    write_json(args.out / "chosen.json", {"scores": scores, "chosen": chosen})
    print(f"study: {chosen} is chosen; scores: {scores}", file=sys.stderr, flush=True)

    lr, epochs = chosen.split("/")
    options = ["--limit", args.limit, "--lr", lr, "--epochs", epochs, "--bench", "mmlu,truthfulqa,hellaswag,svamp", "--bench-limit", "200",
               "--shots", "5"]  # of mmlu: without examples Qwen2.5-Coder-0.5B is at chance (NOTES.md)
    if not (args.out / "main/run.json").exists():
        step(args, "main", before, *options, "--method", "sft,s3ft", "--seeds", f"{args.seed},{args.seed + 1}")
        finish(args.out / "main", step(args, "main", None, *options, "--method", "sdft,ssr"))
    for name, _, changes in (further.partition("=") for further in args.further):
        finish(args.out / name, step(args, name, "main", *options, *shlex.split(changes)))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the running step's, which saves its state; then we end too
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--task", required=True)
    p.add_argument("--ckpt", required=True, metavar="DIR")
    p.add_argument("--limit", required=True, metavar="N", help="training examples")
    p.add_argument("--validate-on", required=True, metavar="N", help="training examples of the validation runs, a quarter of them held out")
    p.add_argument("--settings", default="1e-4/1,3e-4/1,3e-4/2", metavar="LR/EPOCHS,…", help="the lighter first; a single one is taken as it is")
    p.add_argument("--further", action="append", default=[], metavar="NAME=OPTIONS", help="one more step, such as 'samples=--method s3ft --samples 4'")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, metavar="DIR", help="default: runs/study-TASK-CKPT, and the seed if it is not 0")
    ARGS, ARGS.rest = p.parse_known_args()
    if not re.fullmatch(r"[\d.e-]+/\d+(,[\d.e-]+/\d+)*", ARGS.settings):
        p.error(f"--settings: {ARGS.settings!r} should read LR/EPOCHS, comma-separated, such as 1e-4/1,3e-4/2")
    ARGS.out = ARGS.out or ROOT / f"runs/study-{ARGS.task}-{Path(ARGS.ckpt).resolve().name}{f'-{ARGS.seed}' * (ARGS.seed > 0)}"
    study(ARGS)
