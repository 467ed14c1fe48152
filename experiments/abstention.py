"""Why does one arm abstain where another answers? How likely "unanswerable" is, question by question, beside what the greedy response does.

    python experiments/abstention.py RUN ARM [ARM …] [--data data/nq]

RUN: a run of nq that still has its merged checkpoints; an arm `base` is the checkpoint itself. Where the word is the likeliest response but has less than half of the
probability, answers in several forms share the rest: greedy decoding abstains, though the model would rather answer. Of each arm and kind of
question: n; abstentions; their share with p < 1/2; the mean of p. AUROC: how well p tells the two kinds apart, whatever the threshold.
"""
import argparse
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import s3ft  # noqa: E402, F401, first of all: it sets torch's environment
import judges  # noqa: E402
import model as llama  # noqa: E402
import sampler  # noqa: E402
import torch  # noqa: E402
from data import nq  # noqa: E402
from files import InputError, Journal, read_json  # noqa: E402


def probabilities(arm, run, examples):
    """{id: (p of "unanswerable" as the whole response, whether the response abstains)} of the questions that the arm was tested on."""
    if not (run / arm / "eval.jsonl").exists():
        raise InputError(f"{run / arm}: no answers to the test questions are there; name a run of nq and one of its arms")
    config, responses = read_json(run / "config.json"), Journal(run / arm / "eval.jsonl").rows
    model, tokenizer = llama.load(config["ckpt"] if arm == "base" else run / arm / "model", getattr(torch, config["dtype"].removeprefix("torch.")))
    asked = [examples[i] for i in responses]
    logs = sampler.logprobs(model, [tokenizer.prompt_ids(e.prompt) for e in asked], [tokenizer.target_ids(e.prompt, "unanswerable") for e in asked],
                            progress=arm)
    return {e.id: (math.exp(log), judges.abstains(responses[e.id]["response"]["text"], judges.tokens(e.check.get("question") or "")))
            for e, log in zip(asked, logs)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("arms", nargs="+", metavar="ARM")
    parser.add_argument("--data", default=ROOT / "data/nq", type=Path)
    args = parser.parse_args()
    examples = {e.id: e for split in ("train", "test") for e in nq.load(args.data, split)}  # with --validate a run is tested on training questions
    for arm in args.arms:
        found = probabilities(arm, args.run, examples)
        parts = {kind: [pair for i, pair in found.items() if i.startswith(kind)] for kind in ("answerable", "unanswerable")}
        for kind, pairs in parts.items():
            declined = [p for p, abstains in pairs if abstains]
            print(f"{arm}, {kind}: n = {len(pairs)}, {len(declined)} abstentions, {sum(p < 0.5 for p in declined)} of them with p < 1/2, "
                  f"mean p {sum(p for p, _ in pairs) / len(pairs):.3f}")
        wins = [(a > b) + (a == b) / 2 for a, _ in parts["unanswerable"] for b, _ in parts["answerable"]]
        print(f"{arm}: AUROC {sum(wins) / len(wins):.3f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"abstention.py: {error}", file=sys.stderr)
        sys.exit(2)
