"""MBPP, short Python problems with three asserts each (Austin et al. 2021, arXiv 2108.07732).

The authors' file mbpp.jsonl and their split by task_id; 1 to 10 were their few-shot prompts. The
prompt shows the first assert and the judge runs all, so code made for the visible one alone fails.
"""

import ast
import warnings
from pathlib import Path

from data import Example, some, text, user
from files import InputError, check_text, read_jsonl
from judges import check_fields

JUDGE = "code"
MAX_NEW_TOKENS = 400
SPLITS = {"train": range(601, 975), "validation": range(511, 601), "test": range(11, 511)}
TEXT, LIST = (str, None), (list, None)
FIELDS = {"test_setup_code": TEXT, "test_list": LIST, "challenge_test_list": LIST}

PROMPT = """Write Python code for the task below. Reply with one ```python block and nothing else.

Task: {text}
Test that it has to pass:
```python
{test}
```"""
PARAPHRASE = """{prompt}

Reference solution:
{gold}

Do not copy the reference solution. Write the program again in your own style: give its variables \
other names, add a short comment to each step, and simplify what can be simplified. Reply with one \
```python block."""


def load(directory, split):
    """Examples of mbpp.jsonl, split "train", "validation" or "test". InputError names bad lines."""
    line_of_task = {}

    def parse(line, row):
        task = row.get("task_id")
        if type(task) is not int or line_of_task.setdefault(task, line) != line:
            raise InputError('"task_id" should be a number that no line before has')
        description, code = text(row, "text").strip(), text(row, "code")
        setup, shown, hidden = check_text(list(check_fields(FIELDS, row).values()))
        if not shown:
            raise InputError('"test_list" should not be empty')
        for program in code, setup:
            statements(program)
        for test in shown + hidden:
            if statements(test) != [ast.Assert]:
                raise InputError(f"a test should be one assert statement, found {test!a:.60}")
        messages = user(PROMPT.format(text=description, test=shown[0].strip()))
        check = {"tests": shown + hidden, "setup": unix(setup)}
        gold = f"```python\n{unix(code)}\n```"
        return task, Example(f"mbpp.jsonl:{line}", messages, gold, check)

    file = Path(directory) / "mbpp.jsonl"
    tasks = read_jsonl(file, parse)
    return some([example for task, example in tasks if task in SPLITS[split]], file)


def statements(code):
    """The kinds of statements in `code`. InputError if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d" in a string
            return [type(node) for node in ast.parse(code).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"this is not Python: {code!a:.60}")


def unix(code):
    return code.replace("\r\n", "\n").replace("\r", "\n").rstrip()
