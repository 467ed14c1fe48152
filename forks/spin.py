"""SPIN: gold against the model's own response (Chen et al. 2024, arXiv 2401.01335).

    python forks/spin.py --task mbpp --ckpt ./llama [--iterations N] [options of s3ft.py]

The loss of a pair is log(1 + exp(-SCALE · margin)), margin = log p(y) - log p0(y) - log p(ŷ) +
log p0(ŷ): y is gold, ŷ the base's own response, p0 the base. Its gradient is that of y with a
weight, and of ŷ with minus that. A further iteration starts at the last one's model, in OUT-2.
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import s3ft  # noqa: E402
import sampler  # noqa: E402
from files import read_jsonl  # noqa: E402

SCALE = 0.1  # the paper's λ


def weigh_by(tokenizer, options):
    table = {row["id"]: row for _, row in read_jsonl(options.out / "candidates.jsonl")}

    def weigh(model, rows):
        before = [table[row.of["id"]] for row in rows]
        owns = [dataclasses.replace(row, target=b["own"]["ids"]) for row, b in zip(rows, before)]
        both = [*rows, *owns]
        now = sampler.logprobs(model, [row.prompt for row in both], [row.target for row in both])
        tokens = sum(len(row.target) for row in both)  # the loss is divided by them
        for gold, own, base, log_y, log_own in zip(rows, owns, before, now, now[len(rows) :]):
            margin = log_y - base["gold_logprob"] - log_own + base["own"]["logprob"]
            gold.weight = SCALE * tokens / len(rows) / (1 + math.exp(min(SCALE * margin, 700)))
            own.weight = -gold.weight
        return both

    return weigh


s3ft.METHODS["spin"] = ("own", "gold")  # what it asks for
s3ft.CHOOSE["spin"] = lambda row, sources, options: ("gold", s3ft.response(row, "gold"))
s3ft.WEIGH["spin"] = weigh_by

if __name__ == "__main__":
    p = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    p.add_argument("--iterations", type=int, default=1)
    mine, argv = p.parse_known_args()

    def run(options, once=s3ft.run):
        first = options.out
        for k in range(2, mine.iterations + 1):
            once(options)
            options.ckpt = (options.out / "spin/model").resolve()
            options.out, options.import_responses = Path(f"{first}-{k}"), None
        return once(options)

    s3ft.run = run
    s3ft.main(["--method", "spin", *argv])
