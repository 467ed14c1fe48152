"""DFT: gold, each token weighted by its own probability (Wu et al. 2025, arXiv 2508.05629).

    python forks/dft.py --task mbpp --ckpt ./llama [options of s3ft.py]

The probability is that under the current model, without gradient and without dropout.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import s3ft  # noqa: E402
import sampler  # noqa: E402


def weigh(model, rows):
    prompts, targets = [row.prompt for row in rows], [row.target for row in rows]
    logprobs = sampler.token_values(model, prompts, targets, sampler.token_logprobs)
    for row, values in zip(rows, logprobs):
        row.weight = values.exp().tolist()
    return rows


s3ft.METHODS["dft"] = ("gold",)
s3ft.WEIGH["dft"] = lambda tokenizer, options: weigh

if __name__ == "__main__":
    s3ft.main(["--method", "dft", *sys.argv[1:]])
