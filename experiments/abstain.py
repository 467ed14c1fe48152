"""Why does S3FT learn to abstain less well than SFT on Natural Questions? Two methods that tell.

    python experiments/abstain.py --task nq --ckpt CKPT --out RUN …   # the options of s3ft.py

word      s3ft, but what the passage does not answer keeps the gold word "unanswerable": no
          paraphrase, and no own sentence, abstains
sentence  sft, but the gold word is the sentence "The passage does not say.": is it harder to learn?
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import s3ft  # noqa: E402
from data.nq import ABSTAIN  # noqa: E402
from model import read_config  # noqa: E402
from tokenizer import Tokenizer  # noqa: E402

SENTENCE = "The passage does not say."


@functools.cache
def tokenizer(ckpt):
    return Tokenizer(ckpt, read_config(ckpt).vocab_size)


def word(row, sources, options):
    if row["gold"] == ABSTAIN:
        return "gold", s3ft.response(row, "gold")
    return s3ft.first_acceptable(row, sources, options)


def sentence(row, sources, options):
    if row["gold"] != ABSTAIN:
        return "gold", s3ft.response(row, "gold")
    ids = tokenizer(options.ckpt).target_ids(row["messages"], SENTENCE)
    return "gold", {"text": SENTENCE, "ids": ids}


s3ft.METHODS |= {"word": ("own", "paraphrase", "gold"), "sentence": ("gold",)}
s3ft.CHOOSE |= {"word": word, "sentence": sentence}

if __name__ == "__main__":
    s3ft.main(["--method", "word,sentence", *sys.argv[1:]])
