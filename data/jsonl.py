"""Your own task: a JSONL file with one example a line.

    {"prompt": "what the user says", "gold": "the reference response", …what the judge needs}

    numeric  "answer": the number, in a text             reading  "answers": a list of texts (empty: unanswerable), "question"
    code     "tests": a list of asserts, "setup"         exact    "answer", where it is not the gold response itself
    model    nothing                                     ("setup" and "question" may be absent)
"""
import random
from pathlib import Path

import judges
from data import Example
from files import InputError, read_jsonl, whole_text

# For the request for a paraphrase: any text task.
PARAPHRASE = """{prompt}

Reference response:
{gold}

Use the reference response as a guide and write your own response."""
RULES = {"tests": "code", "answers": "reading", "answer": "numeric"}  # the judge that a field is for


def rule(file):
    """The name of the judge whose field the first row of `file` carries; "exact" where it carries none."""
    _, row = next(iter(read_jsonl(file)), (0, {}))
    return next((name for field, name in RULES.items() if field in row), "exact")


def load(file, judge):
    """The examples of `file` with what `judge`, by name, needs; InputError names file and line of bad rows."""
    def example(line, row):
        prompt, gold = judges.check_fields({"prompt": (str, None), "gold": (str, None)}, whole_text(row)).values()
        if not prompt.strip() or not gold.strip():
            raise InputError('"prompt" and "gold" should not be empty')
        fields = judges.JUDGES[judge.partition(":")[0]][1]
        check = judges.check_fields(fields, {"answer": gold, **row} if judge == "exact" else row)
        return Example(f"{Path(file).name}:{line}", prompt, gold, check)
    examples = read_jsonl(file, example)
    if not examples:
        raise InputError(f"{file}: no examples in this file; download it again, or name one that has rows")
    return examples


def split(examples, fraction, seed):
    """(training, test) examples: a seeded share of the distinct prompts is for testing, so that none stands on both sides."""
    prompts = sorted({e.prompt for e in examples})
    test = set(random.Random(seed).sample(prompts, round(fraction * len(prompts))))
    return [e for e in examples if e.prompt not in test], [e for e in examples if e.prompt in test]
