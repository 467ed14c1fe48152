"""GRAPE: of several right responses the likeliest (Zhang et al. 2025, arXiv 2502.04194).

    python forks/grape.py --task mbpp --ckpt ./llama --samples 4 [--least=-1.0] [options of s3ft.py]

Likeliest per token, under the base model, given x alone. Own responses and samples have to be
right, and so have paraphrases, which are asked for where no own response is right. Gold competes
too, and replaces a winner below --least, in nats per token.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import s3ft  # noqa: E402


def choose(row, sources, options):
    """(source, response) of the likeliest right response."""
    found = []
    for source in sources:
        for response in s3ft.acceptable(row, source, options):
            logprob = row.get(f"{source}_logprob", response["logprob"])  # given x
            found.append((logprob / len(response["ids"]), source, response))
    likeliest, source, response = max(found, key=lambda each: each[0])
    if likeliest < options.least:
        return "gold", s3ft.response(row, "gold")
    return source, response


s3ft.METHODS["grape"] = ("own", "paraphrase", "gold")
s3ft.CHOOSE["grape"] = choose

if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--least", help="in nats per token", type=float, default=float("-inf"))
    s3ft.main(["--method", "grape", *sys.argv[1:]], [own])
