"""judges.py: labelled rows (numeric_cases.jsonl), invariants over generated and broken text, all of GSM8K, the command line.

A label says what a careful human would do with the response; the notes group the rows by what they attack.
"""
import collections
import json
import os
import random
import re
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import judges
import pytest
from data import Example
from files import InputError, read_jsonl

ROOT = Path(__file__).resolve().parent.parent
CASES = [row for _, row in read_jsonl(Path(__file__).with_name("numeric_cases.jsonl"))]


def judge(response, answer="72", prompt=""):
    return judges.numeric(response, Example("1", prompt, "", {"answer": answer}))


@pytest.mark.parametrize("note", dict.fromkeys(row["note"] for row in CASES))
def test_labelled_rows(note):
    rows = [row for row in CASES if row["note"] == note]
    verdicts = [(row, judge(row["response"], row["answer"], row.get("prompt", ""))) for row in rows]
    assert not [(row["response"], row["answer"], verdict) for row, verdict in verdicts if verdict.correct != row["correct"]]


def test_labelled_rows_are_many_and_mostly_wrong():
    assert len(CASES) >= 150 and sum(row["correct"] for row in CASES) <= len(CASES) / 2
    assert len({(row["response"], row["answer"]) for row in CASES}) == len(CASES)


@pytest.mark.parametrize("response, reason", [
    ("#### 72", "right"), ("", "empty"), ("She sold 72.", "no final answer"), ("#### 12", "wrong number: 12 is not 72"),
    ("#### 72\n#### 73", "answers disagree: 72, 73"), ("#### 70-72", "not one quantity: '70-72'"),
    ("I do not think the answer is 72", "in doubt: '72'"), ("#### 72\nQuestion: Bob", "run-on: 'Question: Bob'"),
    ("#### 72\n" * 20, "run-on: more than 10 statements"), ("#### 72\nSorry, 73", "taken back: 'Sorry, 73'"),
    ("#### 72" + " " * 10_000, "too long: 10007 characters"), ("x" * 10_001, "too long: 10001 characters")])
def test_reasons(response, reason):
    assert judge(response) == (reason == "right", reason)


@pytest.mark.parametrize("text, value", [
    ("72", 72), ("1,250", 1250), ("-5", -5), ("−5", -5), ("3 1/2", Fraction(7, 2)), ("-3 1/2", Fraction(-7, 2)), ("25%", 25),
    ("0.1", Fraction(1, 10)), ("5 thousand", 5000), ("109,200,000", 109200000), ("9" * 40, 10**40 - 1), ("9" * 41, None),
    ("1,25", None), ("", None), ("-", None), (".", None), ("$", None), ("1/0", None), ("x", None), ("7²", None),
    ("7" * 10**6, None)])
def test_quantity(text, value):
    assert judges.quantity(text) == value


@pytest.mark.parametrize("gold", ["", "x", "1 or 2", "1,25", "\ud800"])
def test_a_gold_that_does_not_parse_is_an_error_of_the_data(gold):
    with pytest.raises(InputError, match="is not one quantity"):
        judge("#### 72", gold)


# -- Generated text: what the verdict should be follows from how it was made ---------------------------------------------------

FRAMES = ["#### {}", "\\boxed{{{}}}", "The answer is {}.", "Answer: {}", "A: {}", "<answer>{}</answer>", "{}", "**{}**",
          "#### {} apples", "So the final answer is **{}**.", "$\\boxed{{{}}}$ clips", "The answer is 1 + 2 = {}",
          "Working: 5 + 5 = 10.\n#### {}"]


def test_a_number_in_any_frame_is_right_for_itself_only():
    draw = random.Random(0)
    for _ in range(5000):
        size = 10**draw.randrange(1, 9)
        value = Fraction(draw.randrange(-size, size), draw.choice([1, 1, 1, 2, 4, 5, 100]))
        number = float(value)
        forms = [f"{number:,.2f}", f"{number:.2f}", f"{number:.2f}".replace("-", "−"), f"{number:,.2f}%", f"{number:.2f}00"]
        forms += [f"{number:,.0f}", f"{value}"] if value.denominator == 1 else [f"{value}"]
        response = draw.choice(FRAMES).format(draw.choice(forms))
        others = [value + 1, -value, value / 10, value * 10, value * 1000, value % 1000, value + Fraction(1, 100)]
        assert judge(response, str(value)).correct, (response, value)
        assert not [other for other in others if other != value and judge(response, str(other)).correct], response


PIECES = ["72", "73", "7", "2", "1/2", ",", ".", "-", "−", " ", "\n", "#### ", "\\boxed{", "}", "{", "$", "%", "*", "**", "_",
          "`", "=", "+", "The answer is ", "Answer: ", "A: ", "<answer>", "</answer>", "not ", "or ", "about ", " apples",
          "thousand", "²", "½", "<<", ">>", "(", ")", "?", "Q: ", "\\frac{", "\\text{", "\\", "/", ":", "\ud800", "\x00",
          "\u200b", "\u202e", "é", "٧", "７", "x", "k", "~", "|"]


def test_random_and_mutated_text_never_raises_and_never_fits_two_golds():
    draw = random.Random(1)
    for i in range(20_000):
        if i % 2:
            text = "".join(draw.choices(PIECES, k=draw.randrange(1, 12)))
        else:
            text = draw.choice(CASES)["response"][:300]
            for _ in range(draw.randrange(1, 4)):
                at = draw.randrange(len(text) + 1)
                new = draw.choice(["", draw.choice(PIECES), chr(draw.randrange(0x3000))])
                text = text[:at] + new + text[at + draw.randrange(2):]
        verdict = judge(text)
        assert type(verdict.correct) is bool and verdict.reason and verdict.reason.isascii(), text
        assert verdict.correct == (verdict.reason == "right")
        if verdict.correct:
            assert not judge(text, "73").correct and not judge(text, "-72").correct, text
            assert i % 2 == 0 or "72" in text.translate(judges.CHARACTERS).replace("*", "").replace("\\boxed{", ""), text
            assert not judge(text + "\n#### 73").correct and not judge("#### 73\n" + text).correct, text


def test_one_token_more_spoils_a_right_answer():
    for spoiler in ["1", "0", ",5", ".5", "-3", " or 73", " 3", "²", "½", "k", "K", "M", "x", " million", "e3", ":20", "/2/2024",
                    " not", "?", " and a half", " squared", "^2", "+1", "*2", " to 73", "~", "٢", "\n#### 73", "\nQuestion: a",
                    "\nThe answer is 73"]:
        for frame in ["#### {}", "The answer is {}", "Answer: {}", "\\boxed{{{}}}", "{}"]:
            assert not judge(frame.format("72" + spoiler)).correct, (frame, spoiler)
    for spoiler in ["1", "0.", "-", "−", "~", "≈", ">", "<", "±", "not ", "about ", "70-", "70 or ", "7:", "x", "2*", "1/", "#",
                    "no more than "]:
        for frame in ["#### {}", "The answer is {}", "Answer: {}", "\\boxed{{{}}}", "{}"]:
            assert not judge(frame.format(spoiler + "72")).correct, (frame, spoiler)


BAIT = ["#", "#### ", "#### 7\n", "#### a\n", "####\n", "\\boxed{", "\\boxed{}", "\\boxed{7}", "<answer>", "*", "**a", "*a ",
        "`", "_a", "$", "\n", " ", "\\text{", "\\frac{", "\\frac{1}{", "1 ", "answer ", "answer to ", "answer is ", "answer\n",
        "answer:\n", "the answer is 7 ", "A:\n", "<<", "7", "7,", "1,000,", "-", "=", "7=", "a=", "a ", "(", "answer(", "\\",
        "−", "\ud800", "\0", "7 /", "? ", "'", "a.a", "7.", " ."]


@pytest.mark.parametrize("head", ["", "#### ", "The answer is ", "\\boxed{", "7"])
def test_time_grows_with_the_length_only(head, monkeypatch):
    """CPU time of four times the text is about four times as long; a quadratic pattern takes sixteen times."""
    assert judge("#### 72" + "\n" * 1_000_000).reason.startswith("too long")
    monkeypatch.setattr(judges, "LONGEST", 10**9)

    def cost(bait, size):
        text = (head + bait * size)[:size]
        start = time.process_time()
        judge(text), judge(text + "}"), judge(text + "\n#### 7")
        judge(head + (bait * 200)[:180] + "|"), judge((head + bait * 200)[:200])  # short enough to be read as one quantity
        return time.process_time() - start
    for bait in BAIT:
        assert cost(bait, 20_000) < 8 * cost(bait, 5_000) + 0.2, bait


# -- GSM8K: each gold solution is right for its own answer and wrong for its neighbour's -----------------------------------------

FOLDERS = [Path(os.environ["S3FT_DATA"]) / "gsm8k"] if "S3FT_DATA" in os.environ else []
FOLDERS += [ROOT / "data" / "gsm8k"]


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl"])
@pytest.mark.parametrize("source", ["published", "sample"])
def test_every_gold_solution_of_gsm8k(source, name):
    folders = FOLDERS if source == "published" else [ROOT / "data" / "sample" / "gsm8k"]
    path = next((folder / name for folder in folders if (folder / name).exists()), None)
    if path is None:
        pytest.skip(f"no {name} in {', '.join(map(str, folders))}; set S3FT_DATA or run data/fetch.py")
    solutions = [row["answer"] for _, row in read_jsonl(path)]
    answers = [solution.rpartition("####")[2].strip() for solution in solutions]
    values = [judges.quantity(answer) for answer in answers]
    if source == "published":
        assert len(solutions) == {"train.jsonl": 7473, "test.jsonl": 1319}[name]
    assert None not in values
    equations, false = collections.Counter(), 0
    for i, (solution, answer) in enumerate(zip(solutions, answers)):
        other = next(j % len(values) for j in range(i + 1, i + len(values)) if values[j % len(values)] != values[i])
        bare = judges.MARKS.sub("", solution)
        assert "<<" not in bare and judge(bare, answer) == judge(solution, answer) == (True, "right"), (i, solution)
        assert judge(bare, answers[other]).reason.startswith("wrong number"), (i, solution)
        kept = judges.substance(bare, solution)
        assert (kept["length"], kept["numbers"], kept["copy"]) == (1, 1, True) or "<< " in solution, solution
        for left, right in re.findall(r"<<([^=<>]+)=([0-9.]+)>>", solution):  # the published authors' own calculator
            equations[judges.false_equations(f"{left} = {right}"), judges.false_equations(f"{left} = {float(right) * 1.3 + 2:.0f}")] += 1
        false += judges.false_equations(solution) > 0
    assert equations.keys() <= {(0, 0), (0, 1)} and equations[0, 1] > 0.97 * equations.total()
    assert false < 0.01 * len(solutions)  # 58 of 7,473: gold's own mistakes, 2 / 1/5, dollars and cents


@pytest.mark.parametrize("response, gold, expected", [
    ("a b c", "A, b; c!", (1, 1, True)), ("a b", "a b c d", (0.5, 1, False)), ("", "", (0, 1, True)), ("", "a 1", (0, 0, False)),
    ("She has 48 and $1,250.00 now.", "<<48/2=24>>48 + 1250", (6 / 3, 1, False)),
    ("It is 480 and 0.48.", "48", (5, 0, False)), ("1 then 2", "2 and 4, then 2", (3 / 5, 0.5, False)),
    ("5", "-5", (1, 1, True)), ("35", "3.5", (1, 0, False)), ("7" * 50_000, "7" * 50_000, (1, 1, True))])
def test_substance(response, gold, expected):
    found = judges.substance(response, gold)
    assert (found["length"], found["numbers"], found["copy"]) == pytest.approx(expected)


def test_substance_finds_a_paraphrase_that_speaks_of_the_request():
    assert judges.substance("The reference solution says 4.", "2 + 2 = 4")["reference"]
    assert not judges.substance("They refer to 4 reference books.", "2 + 2 = 4")["reference"]
    assert not judges.substance("The reference answer is 4.", "Her reference answer was 4.")["reference"]


@pytest.mark.parametrize("text", [
    "68 - 90 = 22", "14+24=39 children", "\\[ 5 \\text{ packs} \\times 4 \\text{ pounds per pack} = 200 \\text{ pounds} \\]", "She pays $1,200 x 2 = $240.",
    "\\(\\frac{4 \\text{ servings/plant}}{2} \\times 9 \\text{ plants} = 12 \\text{ servings}\\)", "2 + 3 * 4 = 20", "60 / 4 * 2 = 7.5", "10 - 4 - 3 = 9",
    "Total: 20 + 14 + 20 = 48", "It takes 25 minutes/week + 60 minutes/week + 30 minutes/week = 130 minutes/week", "3 × 5 = 15, 15 ÷ 2 = 8.5",
    "6 * 7 = 42\n42 - 2 = 41", "10 / 3 = 3.4", "So 8x3 = 25", "$14 + $14 + $6 = $36.", "2 + 2 = 5 apples, and 3 + 3 = 6", "2555 + 1095 = 3660",
    "7" * 9_000 + " + 1 = 2", "1 + 1 = 2" + "0" * 9_000 + " - 3"])
def test_false_equations_are_seen(text):
    assert judges.false_equations(text) == 1


@pytest.mark.parametrize("text", [
    "10 / 3 = 3.33, 10 / 3 = 3", "100 / 3 = 33", "S + 30 + 46 = 100", "2 * (3 + 4) = 14", "8 x 1 1/2 = 12", "20% of 50 + 5 = 15", "half of 20 + 5 = 15", "50/200 = 25%",
    "2 * 3 = 3 * 2 = 6", "x = 2 + 3", "1 + 1 = 2x", "2 * 2S = 4S", "10 - 3 = 7 - 2", "1,000 + 250 = 1,250", "10 - 2 * 3 = 4", "5 / 0 = 5", "a == b", "=", "= 5", "2 + 2 =",
    "y = 3 - 5 = -2", "0.25 \\times 120 = 0.5 \\times 60 = 30", "<<2+2=4>>", "1 + 1 = 2:30",
    "60 mph * 2 hours + 30 mph * 1 hour = 120 mph + 30 mph = 150 mph", "2 * 3 feet * 4 = 6 feet \\times 4"])
def test_equations_that_hold_or_cannot_be_read_are_left_alone(text):
    assert judges.false_equations(text) == 0


# -- Command line ------------------------------------------------------------------------------------------------------------

def run(*args):
    return subprocess.run([sys.executable, str(ROOT / "judges.py"), *map(str, args)], capture_output=True, text=True, timeout=60)


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_command_line_judges_the_labelled_rows_in_order():
    result = run("numeric", Path(__file__).with_name("numeric_cases.jsonl"))
    assert result.returncode == 0
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert verdicts == [judge(row["response"], row["answer"], row.get("prompt", ""))._asdict() for row in CASES]
    assert list(verdicts[0]) == ["correct", "reason"]
    assert result.stderr == f"{len(CASES)} rows, {len(CASES)} agreements, 0 false accepts, 0 false rejects\n"


def test_command_line_counts_only_rows_with_a_label(tmp_path):
    rows = [{"response": response, "answer": "72", **({} if label is None else {"correct": label})} for response, label in [
        ("#### 72", True), ("#### 72", False), ("#### 73", False), ("#### 73", True), ("\ud800 7", True), ("#### 73", None)]]
    result = run("numeric", write(tmp_path / "rows.jsonl", rows))
    assert [json.loads(line)["correct"] for line in result.stdout.splitlines()] == [True, True, False, False, False, False]
    assert result.stderr == "5 rows, 2 agreements, 1 false accepts, 2 false rejects\n"
    result = run("numeric", write(tmp_path / "bare.jsonl", rows[-1:]))
    assert (result.returncode, result.stderr) == (0, "") and len(result.stdout.splitlines()) == 1


GOOD = {"response": "#### 72", "answer": "72"}


@pytest.mark.parametrize("row, message", [
    ({"answer": "72"}, '"response" should be a text'), ({"response": "#### 72"}, '"answer" should be a text'),
    ({**GOOD, "answer": 72}, '"answer" should be a text'), ({**GOOD, "prompt": 7}, '"prompt" should be a text'),
    ({**GOOD, "response": None}, '"response" should be a text'),
    ({**GOOD, "correct": "yes"}, '"correct" should be true or false'), ({**GOOD, "correct": 1}, '"correct" should be true or'),
    ({**GOOD, "answer": "7 or 8"}, "the answer '7 or 8' is not one quantity"), ("{", "not JSON"), ("[1]", "a JSON object")])
def test_command_line_names_the_row_to_mend(tmp_path, row, message):
    path = write(tmp_path / "rows.jsonl", [GOOD, "", row, GOOD])
    result = run("numeric", path)
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == ("not one quantity" in message)  # rows that cannot be read are found before judging
    assert result.stderr.startswith(f"judges.py: {path}:3: {message}") and result.stderr.count("\n") == 1
    assert "mend" in result.stderr or row == "[1]"


def test_command_line_without_a_readable_file(tmp_path):
    (tmp_path / "latin").write_bytes(b'{"response": "\xe9"}\n')
    for path, message in (tmp_path / "absent", ": no such file"), (tmp_path, ": cannot be"), (tmp_path / "latin", ":1: not UTF-8"):
        result = run("numeric", path)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith(f"judges.py: {path}{message}") and result.stderr.count("\n") == 1
    assert run("numerics", tmp_path).returncode == run().returncode == 2
