"""SPIN: gold against the model's own response (Chen et al. 2024, arXiv 2401.01335).

    python forks/spin.py --task mbpp --ckpt ./llama --lr 3e-5 [--iterations N] [options of s3ft.py]

The loss of a pair is log(1 + exp(-SCALE · margin)), margin = log p(y) - log p0(y) - log p(ŷ) +
log p0(ŷ): y is gold, ŷ the base's own response, p0 the base. So log p(y) has a weight w, and
log p(ŷ) has -w. A further iteration starts at the last one's model, in OUT-2.
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import s3ft  # noqa: E402
import sampler  # noqa: E402

SCALE = 0.1  # the paper's λ


def choose(row, sources, options):
    kept = {"own": row["own"]["ids"], "base": row["gold_logprob"] - row["own"]["logprob"]}
    return "gold", {**s3ft.response(row, "gold"), "kept": kept}


def weigh(model, rows):
    owns = [dataclasses.replace(row, target=row.of["own"]) for row in rows]
    both = [*rows, *owns]
    now = sampler.logprobs(model, [row.prompt for row in both], [row.target for row in both])
    tokens = sum(len(row.target) for row in both)  # the loss is divided by them
    for gold, own, log_y, log_own in zip(rows, owns, now, now[len(rows) :]):
        margin = log_y - log_own - gold.of["base"]
        gold.weight = SCALE * tokens / len(rows) / (1 + math.exp(min(SCALE * margin, 700)))
        own.weight = -gold.weight
    return both


def run(options, once=s3ft.run):
    first = options.out
    for k in range(2, options.iterations + 1):
        once(options)
        options.ckpt = (options.out / "spin/model").resolve()
        if not options.ckpt.exists():
            raise s3ft.InputError(f"--iterations goes on from {options.ckpt}; train that first")
        options.out, options.import_responses = Path(f"{first}-{k}"), None
    return once(options)


s3ft.METHODS["spin"] = ("own", "gold")  # what it asks for
s3ft.CHOOSE["spin"] = choose
s3ft.WEIGH["spin"] = lambda tokenizer, options: weigh

if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--iterations", help="start again at the result", type=int, default=1)
    s3ft.FREE += ("iterations",)  # more of them may follow
    s3ft.run = run
    s3ft.main(["--method", "spin", *sys.argv[1:]], [own])
