"""A study: methods compared on one task and one checkpoint.

    for name in mbpp mmlu truthfulqa hellaswag ifeval; do python data/fetch.py $name; done
    python experiments/study.py mbpp CKPT [options of s3ft.py]

1. validate-LR-EPOCHS: sft and s3ft under each of --settings, scored on a quarter of some training
   examples. Each takes the setting that is best for it. No test item is used.
2. main: the base, s3ft with two seeds, sdft and ssr, on the test set and the benchmarks.
3. sft: with two seeds, under its own setting.
4. The further steps of the task, with one seed.

A step is a run directory of s3ft.py in runs/study-TASK-CKPT. A finished step loses its merged
checkpoints. The same command continues where it stopped; experiments/results.py makes the tables.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import s3ft  # noqa: E402
from files import read_json, read_jsonl, replace, write_json, write_jsonl  # noqa: E402

SIZES = {
    "gsm8k": "--limit 1000 --eval-limit 400",
    "mbpp": "--limit 374",  # all of both sets
    "nq": "--limit 800 --eval-limit 600",
}
VALIDATE_ON = {"gsm8k": 400, "mbpp": 374, "nq": 480}  # training examples
FURTHER = {  # may not change what the base model is asked, since its responses are taken over
    "gsm8k": {"filtered": "--method s3ft --filter-paraphrases"},
}
# Without examples Qwen2.5-Coder-0.5B scores 26.8 % on MMLU, which is chance; with five, 31.6 %.
BENCH = "--bench mmlu,truthfulqa,hellaswag,ifeval --bench-limit 1000 --shots 5"


def study(options):
    """Make all steps that are not finished."""
    scores, before = {}, None
    if len(options.settings) > 1:
        for setting in options.settings:
            name = "validate-" + setting.replace("/", "-")
            limit = VALIDATE_ON[options.task]
            call = f"--method sft,s3ft --limit {limit} --validate 0.25 {rates(setting)}"
            scores[setting] = step(options, name, before, call)
            before = name
    chosen = {method: choose(options.settings, scores, method) for method in ("sft", "s3ft")}
    write_json(options.out / "chosen.json", {"scores": scores, "chosen": chosen})
    say(f"{chosen} are chosen; scores {scores}")

    common = f"{SIZES[options.task]} {BENCH}"
    seeds = f"--seeds {options.seed},{options.seed + 1}"
    main = f"{common} {rates(chosen['s3ft'])}"
    step(options, "main", before, f"{main} --method s3ft {seeds}", f"{main} --method sdft,ssr")
    step(options, "sft", "main", f"{common} {rates(chosen['sft'])} --method sft {seeds}")
    for name, changes in FURTHER.get(options.task, {}).items():
        step(options, name, "main", f"{main} {changes}")


def rates(setting):
    lr, epochs = setting.split("/")
    return f"--lr {lr} --epochs {epochs}"


def choose(settings, scores, method):
    """The setting that is best for a method; the first among equals, or without scores."""
    return max(settings, key=lambda setting: scores.get(setting, {}).get(method, 0))


def step(options, name, before, *calls):
    """Call s3ft.py once or more on out/name; {arm: the judge's score of the task}.

    What the step `before` has of the base model is taken over; only its candidates if it has
    another test set.
    """
    out = options.out / name
    if not (out / "run.json").exists():
        if before and not out.exists():
            take_over(options.out / before, out)
        for call in calls:
            found = run(options, out, call)
        write_json(out / "run.json", found)
    for model in out.glob("*/model"):
        shutil.rmtree(model)
    scores = read_json(out / "run.json", dict)["scores"]
    return {arm: measures[options.task]["score"] for arm, measures in scores.items()}


def take_over(before, out):
    with replace(out) as new:
        new.mkdir()
        shutil.copy(before / "candidates.jsonl", new)
        if before.name.startswith("validate") != out.name.startswith("validate"):
            return
        shutil.copytree(before / "base", new / "base")
        if (before / "bench.jsonl").exists():
            rows = [row for _, row in read_jsonl(before / "bench.jsonl")]
            write_jsonl(new / "bench.jsonl", [row for row in rows if row["model"] == "base"])


def run(options, out, call):
    """The last line of s3ft.py, decoded. The user's own options come last, so they win."""
    say(f"{out.name}: {call}")
    fixed = f"--task {options.task} --seed {options.seed} {call}".split()
    paths = ["--ckpt", options.ckpt, "--data", ROOT / "data" / options.task, "--out", out]
    command = [sys.executable, ROOT / "s3ft.py", *fixed, *paths, *options.rest]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def say(text):
    print(f"study: {text}", file=sys.stderr, flush=True)


def settings(text):
    """An argparse type: LR/EPOCHS, …"""
    if not re.fullmatch(r"[\d.e-]+/\d+(,[\d.e-]+/\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} should read LR/EPOCHS,…, as in 1e-4/2,3e-4/2")
    return text.split(",")


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    p.add_argument("task", choices=SIZES)
    p.add_argument("ckpt", help="Hugging Face directory of the base model")
    p.add_argument("--settings", type=settings, default="1e-4/2,3e-4/2,1e-3/2", help="LR/EPOCHS,…")
    p.add_argument("--seed", type=s3ft.number(int, -1), default=0)
    p.add_argument("--out", type=Path, help="default: runs/study-TASK-CKPT")
    options, options.rest = p.parse_known_args()
    name = f"study-{options.task}-{Path(options.ckpt).resolve().name}"
    options.out = options.out or ROOT / "runs" / name
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends the step, which ends this
    study(parse())
