"""Your own task: a JSONL file with one example a line.

{"prompt": "what the user says", "gold": "the reference response", …what the judge needs}

numeric  "answer": the number, as a text
code     "tests": a list of asserts; "setup" (optional): code that they need
reading  "answers": a list of texts, empty if unanswerable; "question" (optional)
exact    "answer", if it is not the gold response
model    nothing
"""

import random
from pathlib import Path

import judges
from data import Example, some, text, user
from files import check_text, read_jsonl

MAX_NEW_TOKENS = 400
PARAPHRASE = """{prompt}

Reference response:
{gold}

Use the reference response as a guide and write your own response."""


def default_judge(file):
    """The judge whose field the first row has; "exact" if it has none."""
    rows = read_jsonl(file)
    for field, judge in ("tests", "code"), ("answers", "reading"), ("answer", "numeric"):
        if rows and field in rows[0][1]:
            return judge
    return "exact"


def load(file, judge):
    """Examples of `file` for the judge of this name. InputError names file and line of bad rows."""
    _, fields = judges.JUDGES[judge.partition(":")[0]]

    def parse(line, row):
        prompt, gold = text(row, "prompt"), text(row, "gold")
        if judge == "exact":
            row = {"answer": gold, **row}
        check = check_text(judges.check_fields(fields, row))
        return Example(f"{Path(file).name}:{line}", user(prompt), gold, check)

    return some(read_jsonl(file, parse), file)


def split(examples, fraction, seed):
    """(training, test) examples: a seeded share of the distinct prompts is for testing alone."""
    prompts = sorted({example.question for example in examples})
    count = round(fraction * len(prompts))
    held_out = set(random.Random(seed).sample(prompts, count))
    train, test = [], []
    for example in examples:
        side = test if example.question in held_out else train
        side.append(example)
    return train, test
