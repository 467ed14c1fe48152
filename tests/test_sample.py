"""The embedded sample data (data/sample/gsm8k) keeps the promises of GSM8K's format.

Every row of both files is read; a failure lists each offender as `file:line: what is wrong`.
Arithmetic in the calculator marks `<<expr=value>>` is evaluated over a small syntax tree with
exact fractions, never with eval.
"""

import ast
import json
import operator
import re
from fractions import Fraction
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "data" / "sample" / "gsm8k"
LEAST_ROWS = {"train.jsonl": 200, "test.jsonl": 100}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.USub: operator.neg}
NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
MARK = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
FINAL = re.compile(r"#### (-?(?:\d{1,3}(?:,\d{3})+|\d+))")


def number(text):
    """The exact value of a written number such as `1,250` or `0.50`."""
    if not re.fullmatch(NUMBER, text):
        raise ValueError(f"{text!r} is not a number")
    return Fraction(text.replace(",", ""))


def evaluate(expression):
    """The exact value of an expression over numbers, + - * / and parentheses."""
    def value(node):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return Fraction(ast.get_source_segment(expression, node))
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.operand))
        raise ValueError(f"{expression!r} is not plain arithmetic")
    return value(ast.parse(expression, mode="eval").body)


def lines(name):
    """Pairs of a place (`file:line`) and the text of that line."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [(f"{name}:{i}", line) for i, line in enumerate(text.removesuffix("\n").split("\n"), 1)]


def rows(name):
    return [(place, json.loads(line)) for place, line in lines(name)]


def check(complaints):
    """Fail with all complaints, each of which names its file and line."""
    assert not complaints, "\n" + "\n".join(complaints)


def final(row):
    """The final answer as a number, or None where the last line is no `#### n`."""
    match = FINAL.fullmatch(row["answer"].split("\n")[-1])
    return number(match[1]) if match else None


def step_errors(answer):
    """What is wrong with the calculator marks of one answer."""
    marks = list(MARK.finditer(answer))
    if not 1 <= len(marks) <= 3:
        yield f"{len(marks)} marks, not 1 to 3"
    if len(marks) != answer.count("<<") or len(marks) != answer.count(">>"):
        yield "a malformed mark"
    for mark in marks:
        try:
            claimed = number(mark[2])
            if evaluate(mark[1]) != claimed:
                yield f"{mark[0]} is false: {mark[1]} is {evaluate(mark[1])}"
            shown = re.match(NUMBER, answer[mark.end():])
            if not shown or number(shown[0]) != claimed:
                yield f"{mark[0]} is not followed by its value"
        except (ValueError, SyntaxError, ZeroDivisionError) as error:
            yield f"{mark[0]}: {error}"


@pytest.mark.parametrize("name", LEAST_ROWS)
def test_rows_are_complete(name):
    complaints = []
    for place, line in lines(name):
        try:
            row = json.loads(line)
        except ValueError as error:
            complaints.append(f"{place}: not JSON: {error}")
            continue
        if type(row) is not dict or list(row) != ["question", "answer"]:
            complaints.append(f"{place}: keys are not exactly question, answer")
        elif not all(type(text) is str and text.strip() == text != "" for text in row.values()):
            complaints.append(f"{place}: a text is empty, padded or no string")
    if len(lines(name)) < LEAST_ROWS[name]:
        complaints.append(f"{name}:{len(lines(name))}: ends too early, wants {LEAST_ROWS[name]} rows or more")
    if not (FOLDER / name).read_bytes().endswith(b"}\n"):
        complaints.append(f"{name}:{len(lines(name))}: does not end with one newline")
    check(complaints)


@pytest.mark.parametrize("name", LEAST_ROWS)
def test_marks_are_true(name):
    check([f"{place}: {error}" for place, row in rows(name) for error in step_errors(row["answer"])])


@pytest.mark.parametrize("name", LEAST_ROWS)
def test_final_answer_is_last_mark(name):
    complaints = []
    for place, row in rows(name):
        values = [mark[2] for mark in MARK.finditer(row["answer"])]
        if final(row) is None:
            complaints.append(f"{place}: the last line is not `#### n` with a whole number n")
        elif not values or not re.fullmatch(NUMBER, values[-1]) or number(values[-1]) != final(row):
            complaints.append(f"{place}: #### {final(row)} is not the last mark's value in {values}")
    check(complaints)


@pytest.mark.parametrize("name", LEAST_ROWS)
def test_neighbours_have_different_answers(name):
    answers = [(place, final(row)) for place, row in rows(name)]
    check([f"{place}: answer {answer} is also the answer of the row before"
           for (_, before), (place, answer) in zip(answers, answers[1:]) if answer == before])


@pytest.mark.parametrize("mask", [r"(?!)", r"\d+(?:[.,]\d+)*"], ids=["as written", "digits masked"])
def test_questions_are_unique(mask):
    seen, complaints = {}, []
    for name in LEAST_ROWS:
        for place, row in rows(name):
            first = seen.setdefault(re.sub(mask, "#", row["question"]).lower(), place)
            if first != place:
                complaints.append(f"{place}: the same question as {first}")
    check(complaints)
