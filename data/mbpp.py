"""MBPP (Austin et al. 2021, arXiv 2108.07732): short Python problems with three asserts each, in the authors' file mbpp.jsonl.

Each line holds {"text", "code", "task_id", "test_setup_code", "test_list", "challenge_test_list"}. The split is the authors':
task ids 11-510 test, 511-600 validation, 601-974 train; 1-10 were their few-shot prompts and are in none. The prompt shows the
first assert, for the name and the types; the judge uses all, so that code written for the visible one alone fails.
Not covered: the later "sanitized" file, whose fields have other names. Nothing is run here.
"""
import ast
import re
import warnings
from pathlib import Path

from data import Example
from files import InputError, read_jsonl, whole_text

SPLITS = {"train": range(601, 975), "validation": range(511, 601), "test": range(11, 511)}
FIELDS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str, "challenge_test_list": list}

# Both chosen by measurement on two checkpoints (NOTES.md, "The requests for code").
PROMPT = """Write Python code for the task below. Reply with one ```python block and nothing else.

Task: {text}
Test that it has to pass:
```python
{test}
```"""
PARAPHRASE = """{prompt}

Reference solution:
{gold}

Do not copy the reference solution. Write the program again in your own style: give its variables other names, add a short \
comment to each step, and simplify what can be simplified. Reply with one ```python block."""


def load(directory, split):
    """Examples of `directory`/mbpp.jsonl, split "train", "validation" or "test"; InputError names file and line of bad rows."""
    file, lines = Path(directory) / "mbpp.jsonl", {}

    def parse(line, row):
        fault = fault_of(whole_text(row))
        if not fault and lines.setdefault(row["task_id"], line) != line:
            fault = f"\"task_id\" {row['task_id']} stands in line {lines[row['task_id']]} already"
        if fault:
            raise InputError(fault)
        code, setup = (re.sub(r"\r\n?", "\n", row[key]).rstrip() for key in ("code", "test_setup_code"))
        prompt = PROMPT.format(text=row["text"].strip(), test=row["test_list"][0].strip())
        check = {"tests": row["test_list"] + row["challenge_test_list"], "setup": setup}
        return row["task_id"], Example(f"mbpp.jsonl:{line}", prompt, f"```python\n{code}\n```", check)
    examples = [example for task, example in read_jsonl(file, parse) if task in SPLITS[split]]
    if not examples:
        raise InputError(f"{file}: no task of the {split} split in this file (task_id {SPLITS[split][0]} to {SPLITS[split][-1]}); "
                         "download the whole file")
    return examples


def fault_of(row):
    """What is wrong with a row, in words; None where it is fine."""
    for key, kind in FIELDS.items():
        value = row.get(key)
        if type(value) is not kind or key in ("text", "code", "test_list") and not (value.strip() if kind is str else value):
            return f"\"{key}\" should be a {kind.__name__} with something in it, found {row.get(key)!a:.60}"
    if statements(row["code"]) is None or statements(row["test_setup_code"]) is None:
        return "\"code\" or \"test_setup_code\" is not Python"
    for test in row["test_list"] + row["challenge_test_list"]:
        if statements(test) != [ast.Assert]:
            return f"a test should be one assert statement, found {test!a:.60}"


def statements(code):
    """The kinds of statements in `code`, or None where it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\\d" in a string
            return [type(node) for node in ast.parse(code).body]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
