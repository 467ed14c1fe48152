"""GSM8K, grade-school math word problems, and SVAMP, its neighbour for testing.

GSM8K: Cobbe et al. 2021, arXiv 2110.14168, the authors' train.jsonl and test.jsonl.
SVAMP: Patel et al. 2021, arXiv 2103.07191, the authors' SVAMP.json.
"""

import re
from pathlib import Path

from data import Example, some, text, user
from files import InputError, parse_rows, read_json, read_jsonl
from judges import quantity

JUDGE = "numeric"
MAX_NEW_TOKENS = 400

PROMPT = """{question}

Let's think step by step: first explain each calculation, one a line. When all calculations are \
done, finish with the line "The answer is N", where N is the final number."""
PARAPHRASE = """{prompt}

Reference solution:
{gold}

Use the reference solution as a guide and write your own solution to the problem, step by step."""


def load(directory, split):
    """Examples of {split}.jsonl, "train" or "test". InputError names file and line of bad rows."""

    def parse(line, row):
        question = text(row, "question").strip()
        gold = re.sub("<<[^<>]*>>", "", text(row, "answer")).strip()  # the marks are for a tool
        solution, _, answer = gold.rpartition("\n#### ")
        if not solution or quantity(answer) is None:
            raise InputError('"answer" should be a solution and a last line "#### number"')
        messages = user(PROMPT.format(question=question))
        return Example(f"{split}.jsonl:{line}", messages, gold, {"answer": answer})

    file = Path(directory) / f"{split}.jsonl"
    return some(read_jsonl(file, parse), file)


def load_svamp(directory):
    """Examples of SVAMP.json, asked as GSM8K's are. InputError names file and row of bad rows."""

    def parse(number, row):
        question = f"{text(row, 'Body').strip()} {text(row, 'Question').strip()}"
        answer = str(row["Answer"]).removesuffix(".0")
        if quantity(answer) is None:
            raise InputError('"Answer" should be a number')
        messages = user(PROMPT.format(question=question))
        return Example(f"SVAMP.json:{number}", messages, f"#### {answer}", {"answer": answer})

    file = Path(directory) / "SVAMP.json"
    return some(parse_rows(f"{file}: row ", enumerate(read_json(file, list), 1), parse), file)


def metrics(response, example):
    """flexible_extract: is the last number right? As in lm-evaluation-harness 0.4.13."""
    numbers = re.findall(r"-?[$0-9.,]{2,}|-?[0-9]+", response) or ["[invalid]"]
    texts = numbers[-1], example.check["answer"]
    said, gold = (re.sub("[,$]", "", text).removesuffix(".") for text in texts)
    return {"flexible_extract": int(said == gold)}
