"""How far does a model as judge agree with the rule? Asks it about the responses of finished runs. The table of NOTES.md comes from here.

    python experiments/agreement.py CKPT RUN [RUN …] [--rows 100]

RUN: run directories whose responses a rule has judged. Finished own responses and paraphrases of
RUN/candidates.jsonl, each text once. A false accept is a response that the rule finds wrong and the model agrees to.
"""
import argparse
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import s3ft  # noqa: E402, first of all: it sets torch's environment
import judges  # noqa: E402
import model as llama  # noqa: E402
import torch  # noqa: E402
from data import Example  # noqa: E402
from files import read_jsonl  # noqa: E402
from tqdm import tqdm  # noqa: E402


def responses(run):
    """{(prompt, text): (Example, text, the rule's verdict)} of the finished candidates of a run."""
    found = {}
    for _, row in read_jsonl(run / "candidates.jsonl"):
        for kind in ("self", "paraphrase"):
            if kind in row and row[kind]["finish"] == "stop":
                text = row[kind]["text"]
                found[row["prompt"], text] = Example(row["id"], row["prompt"], row["gold"]), text, row[kind]["correct"]
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ckpt")
    p.add_argument("runs", nargs="+", type=Path)
    p.add_argument("--rows", type=int, default=100, help="responses of a run, drawn by a seed")
    args = p.parse_args()
    judge = judges.by_model(*llama.load(args.ckpt, getattr(torch, s3ft.default_dtype("cpu"))))
    print("| run | responses, of them right | margin | false accepts | false rejects | agreement |\n|---|---|---|---|---|---|")
    for run in args.runs:
        rows = list(responses(run).values())
        rows = random.Random(0).sample(rows, min(args.rows, len(rows)))
        odds = []  # the lower of the two orders; what was rejected unasked has none
        for example, text, _ in tqdm(rows, desc=run.name, unit="response"):
            reason = judge(text, example).reason
            odds.append(min(map(float, re.findall(r"[-.0-9]+", reason.partition("odds")[2])), default=-99.0))
        right = [correct for *_, correct in rows]
        for margin in sorted({-2, -1, 0, 1, judges.MARGIN}):
            said = [o >= margin for o in odds]
            accepts, rejects = sum(s and not r for s, r in zip(said, right)), sum(r and not s for s, r in zip(said, right))
            print(f"| {run.name} | {len(rows)}, {sum(right)} | {margin} | {accepts} of {len(rows) - sum(right)} | {rejects} of {sum(right)} | "
                  f"{100 * (len(rows) - accepts - rejects) / len(rows):.0f} % |", flush=True)


if __name__ == "__main__":
    main()
