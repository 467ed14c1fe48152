"""judges.py: labelled rows, text made to mislead, the data sets' own golds, the command line.

A label says whether a careful human calls the response right. The notes name what a row attacks.
"""

import json
import os
import random
import runpy
import subprocess
import sys
import types
from fractions import Fraction
from pathlib import Path

import pytest
import tiny

import judges
import model
import sandbox
from data import Example, nq, user
from files import InputError, read_jsonl

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
SAMPLE = ROOT / "data" / "sample"


def cases(name):
    return [row for _, row in read_jsonl(TESTS / name)]


def numeric(response, answer="72"):
    return judges.numeric(response, Example("1", user(""), "", {"answer": answer}))


def reading(response, answers=("Paris",), question="what is the capital of france ?"):
    check = {"answers": list(answers), "question": question}
    return judges.reading(response, Example("1", user(""), "", check))


NUMERIC, READING = cases("numeric_cases.jsonl"), cases("reading_cases.jsonl")


# Labelled rows


@pytest.mark.parametrize("note", dict.fromkeys(row["note"] for row in NUMERIC))
def test_numeric_rows(note):
    rows = [row for row in NUMERIC if row["note"] == note]
    verdicts = [numeric(row["response"], row["answer"]).correct for row in rows]
    assert verdicts == [row["correct"] for row in rows]


@pytest.mark.parametrize("why", dict.fromkeys(row["why"] for row in READING))
def test_reading_rows(why):
    rows = [row for row in READING if row["why"] == why]
    verdicts = [reading(row["response"], row["answers"], row["question"]).correct for row in rows]
    assert verdicts == [row["correct"] for row in rows]


@pytest.mark.parametrize(
    "response, label",
    [
        ("The answer is 72 (36 + 36).", True),
        ("#### 3 * 24 = 70 + 2, so 72", True),
        ("#### seventy-two", True),
        ("Answer:\n48/2 = 24\n48+24 = 72\n#### 72", True),
        ("She had 72 clips at first.", False),
        ("#### seventy-three\n#### 72", False),
        ("#### 73 = 72", False),
    ],
)
def test_known_errors_of_numeric(response, label):
    """Whoever mends one moves it to numeric_cases.jsonl."""
    assert numeric(response).correct != label


@pytest.mark.parametrize(
    "response, answers, question, label",
    [
        ("Hamilton killed Aaron Burr.", ["Aaron Burr"], "who killed hamilton ?", False),
        ("a cousin of Edna Marsh", ["Edna Marsh"], "who wrote it ?", False),
        ("It came out in 2012 and in 2013.", ["2012"], "when did it come out ?", False),
        ("The passage does not say, but oak.", [], "is the door oak or pine ?", False),
        ("The weather is calm.", ["mostly calm"], "what is the weather like ?", True),
        ("It is Ira Stone's, not Bo Park's.", ["Ira Stone"], "whose is it ?", True),
    ],
)
def test_known_errors_of_reading(response, answers, question, label):
    assert reading(response, answers, question).correct != label


@pytest.mark.parametrize(
    "response, reason",
    [
        ("#### 72", "right"),
        ("", "not one quantity: []"),
        ("She sold many.", "not one quantity: []"),
        ("#### 70-72", "not one quantity: ['70-72']"),
        ("#### 72\n#### 73", "not one quantity: ['72', '73']"),
        ("I do not think the answer is 72", "in doubt: '72'"),
        ("#### 72\nQuestion: Bob", "goes on: 'Question:'"),
        ("#### 72\nSorry, 73", "goes on: 'Sorry'"),
        ("#### 12", "another number: '12'"),
    ],
)
def test_numeric_reasons(response, reason):
    assert numeric(response) == (reason == "right", reason)


@pytest.mark.parametrize(
    "response, reason",
    [
        ("Paris", "right"),
        ("", "empty, or more than 60 words"),
        ("Lyon", "another answer"),
        ("Paris?", "a question"),
        ("unanswerable", "abstains"),
        ("Paris or Lyon", "in doubt: or"),
    ],
)
def test_reading_reasons(response, reason):
    assert reading(response) == (reason == "right", reason)


@pytest.mark.parametrize(
    "text, value",
    [
        ("72", 72),
        ("1,250", 1250),
        ("−5", -5),
        ("- $5", -5),
        ("25%", 25),
        ("0.1", Fraction(1, 10)),
        ("9" * 40, 10**40 - 1),
        ("1,25", None),
        ("", None),
        ("-", None),
        ("1/0", None),
        ("x", None),
        ("7²", None),
        ("7" * 10**6, None),
    ],
)
def test_quantity(text, value):
    assert judges.quantity(text) == value


@pytest.mark.parametrize("gold", ["", "x", "1 or 2", "1,25", "\ud800"])
def test_an_answer_that_is_no_number_is_an_error_of_the_data(gold):
    with pytest.raises(InputError, match="is not one quantity"):
        numeric("#### 72", gold)


@pytest.mark.parametrize("gold", ["", "``", "\u200b"])
def test_an_answer_without_words_is_an_error_of_the_data(gold):
    with pytest.raises(InputError, match="has no words"):
        reading("Paris", ["Paris", gold])


# Text made to mislead

FRAMES = [
    "#### {}",
    "\\boxed{{{}}}",
    "The answer is {}.",
    "Answer: {}",
    "A: {}",
    "<answer>{}</answer>",
    "{}",
    "**{}**",
    "#### {} apples",
    "$\\boxed{{{}}}$ clips",
    "The answer is 1 + 2 = {}",
    "5 + 5 = 10.\n#### {}",
    "So there are {} clips in all.",
]


def test_a_number_in_any_frame_is_right_for_itself_only():
    draw = random.Random(0)
    for _ in range(1000):
        size = 10 ** draw.randrange(1, 9)
        value = Fraction(draw.randrange(-size, size), draw.choice([1, 1, 1, 2, 4, 5, 100]))
        number = float(value)
        forms = [f"{number:,.2f}", f"{number:.2f}".replace("-", "−"), f"{number:.2f}%", f"{value}"]
        response = draw.choice(FRAMES).format(draw.choice(forms))
        assert numeric(response, str(value)).correct, (response, value)
        for other in (value + 1, -value, value * 10, value % 1000, value + Fraction(1, 100)):
            assert other == value or not numeric(response, str(other)).correct, (response, other)


AFTER = ["1", "0", ",5", ".5", "-3", " or 73", " 3", "²", "½", "k", "x", " million", "e3", ":20"]
AFTER += ["/2/2024", " not", "?", " and a half", "^2", "+1", "*2", " to 73", "~", "٢", "\n#### 73"]
BEFORE = ["1", "0.", "-", "−", "~", "≈", "<", "±", "not ", "about ", "70-", "70 or ", "7:", "2*"]


def test_one_token_more_spoils_a_right_answer():
    for frame in FRAMES[:5] + ["{}", "So she has {} left."]:
        assert numeric(frame.format("72")).correct
        for spoiler in AFTER:
            assert not numeric(frame.format("72" + spoiler)).correct, (frame, spoiler)
        for spoiler in BEFORE:
            assert not numeric(frame.format(spoiler + "72")).correct, (frame, spoiler)


PIECES = "72|73|1/2|,|.|-| |\n|#### |\\boxed{|}|$|%|**|=|+|The answer is |A: |not |or | clips|²|<<"
PIECES = [*PIECES.split("|"), "\ud800", "\0", "\u202e", "٧", "Paris ", "Lyon. ", "unanswerable "]


def test_broken_text_never_raises_and_never_fits_two_golds():
    draw = random.Random(1)
    for i in range(1500):
        row = draw.choice(NUMERIC + READING)
        text = row["response"] if i % 2 else "".join(draw.choices(PIECES, k=draw.randrange(1, 12)))
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(text) + 1)
            new = draw.choice(["", draw.choice(PIECES), chr(draw.randrange(0x3000))])
            text = text[:at] + new + text[at + draw.randrange(2) :]
        for verdict in (numeric(text), reading(text), reading(text, [])):
            assert verdict.correct == (verdict.reason == "right") and verdict.reason.isascii()
        if numeric(text).correct:
            assert not numeric(text, "73").correct and not numeric(text, "-72").correct, text
            assert not numeric(text + "\n#### 73").correct, text
            assert not numeric("#### 73\n" + text).correct, text
        if reading(text).correct:
            assert not reading(text, ["Zanzibar"]).correct and not reading(text, []).correct, text
            assert not reading(text + "\nunanswerable").correct, text


BAIT = (
    "#|#### |#### 7\n|\\boxed{|\\boxed{7}|<answer>|*|**a|_a|$|\n| |\\text{|\\frac{1}{|answer to |"
)
BAIT += (
    "the answer is 7 |the answer to |A: |<<|7|7,|1,000,|-|=|= $|a=|(|\\|\ud800|? |'|!|.)|. no|-$|"
)
BAIT += (
    "final |...|'s |4 July |\u0301|ﷺ|u.s.|unanswerable. |not contain |Paris |```\n|`|~~~|a. |Dr. "
)
HOSTILE = """
import judges
import model
from data import Example, user
example = Example("1", user(""), "", {"answer": "7", "answers": ["Paris"], "tests": []})
for bait in %r.split("|"):
    for head in "", "#### ", "The answer is ":
        for size in judges.LONGEST, 1_000_000:
            text = (head + bait * size)[:size]
            judges.numeric(text, example)
            judges.reading(text, example)
    if bait[0] in "`~<71":
        text = (bait * size)[:size]
        judges.FENCE.findall(text)
        judges.lacks_substance(text, text[1:], True)
"""


def test_hostile_text_takes_no_longer_than_its_length():
    """Some seconds; a quadratic pattern would take hours for a megabyte."""
    subprocess.run([sys.executable, "-c", HOSTILE % BAIT], cwd=ROOT, check=True, timeout=300)


def test_a_text_beyond_any_model_is_wrong():
    assert not numeric("#### 72" + " " * 1_000_000).correct
    assert not reading("Paris " * 1_000_000).correct


# The golds of the data sets


def folders(task):
    return [
        SAMPLE / task,
        *([Path(os.environ["S3FT_DATA"]) / task] if "S3FT_DATA" in os.environ else []),
    ]


def some(rows, count):
    return random.Random(0).sample(rows, min(count, len(rows)))


@pytest.mark.parametrize("folder", folders("gsm8k"), ids=str)
def test_golds_of_gsm8k(folder):
    rows = []
    for split in "train", "test":
        rows += [row["answer"] for _, row in read_jsonl(folder / f"{split}.jsonl")]
    rows = some(rows, 600)
    answers = [row.rpartition("####")[2].strip() for row in rows]
    for solution, answer, other in zip(rows, answers, answers[1:]):
        assert numeric(solution, answer).correct, solution
        assert (
            judges.quantity(other) == judges.quantity(answer)
            or not numeric(solution, other).correct
        )


@pytest.mark.parametrize("folder", folders("nq"), ids=str)
def test_golds_of_nq(folder):
    examples = some(nq.load(folder, "train") + nq.load(folder, "test"), 600)
    for example, other in zip(examples, examples[1:]):
        answers = example.check["answers"]
        for gold in answers or ["The passage does not say."]:
            assert judges.reading(gold, example).correct, example
        assert judges.reading(nq.ABSTAIN, example).correct == (not answers), example
        if other.gold not in (nq.ABSTAIN, *answers):
            assert not judges.reading(other.gold, example).correct, example


# What a paraphrase has to keep; equality


@pytest.mark.parametrize(
    "paraphrase, gold, rule, reason",
    [
        ("a b c", "A, b; c!", False, "copies gold"),
        ("She has 1,250.", "She has <<1250=1250>>1250.", True, "copies gold"),
        ("so 4", "2 + 2 is 4, I see", True, "less than half as long as gold"),
        ("so 4", "2 + 2 is 4", False, ""),
        ("at last it is 4 then", "from 2 and 3 comes 4", True, "fewer than half of gold's numbers"),
        ("first 2 and then 4 clips", "from 2 and 3 comes 4", True, ""),
        ("It is far away.", "It is not near.", True, ""),
    ],
)
def test_substance(paraphrase, gold, rule, reason):
    assert judges.lacks_substance(paraphrase, gold, rule) == reason


LABELS = ["spam", "Spam", "not spam", "no", "A", "C++", "72"]
LABELLED = [  # (response, gold, right)
    ("Spam", "spam", True),
    ("I would call it **spam**.", "spam", True),
    ("This is\nnot  spam.", "not spam", True),
    ("This is not spam.", "spam", False),
    ("It isn't spam.", "spam", False),
    ("Perhaps spam.", "spam", False),
    ("spam or no", "spam", False),
    ("This isn’t spam", "spam", False),
    ("SPAM", "Spam", True),
    ("72", "72", True),
    ("The answer is 72.5", "72", False),
    ("antispam", "spam", False),
    ("No.", "no", True),
    ("Es ist GROß.", "Groß", True),
    ("A", "A", True),
    ("It is a C++ program.", "C++", True),
    ("It is a program.", "A", False),
    ("", "no", False),
]


@pytest.mark.parametrize("response, gold, right", LABELLED)
def test_a_label_is_named_alone(response, gold, right):
    example = Example("1", user(""), gold, {"answer": gold, "labels": LABELS})
    assert judges.label(response, example).correct == right


def test_exact_looks_past_case_and_white_space_alone():
    example = Example("1", user(""), "", {"answer": "Not abnormal"})
    assert judges.exact(" not\n ABNORMAL ", example).correct
    for text in ("abnormal", "not abnormal.", "", "notabnormal"):
        assert not judges.exact(text, example).correct


# Code

try:
    UNSAFE = not sandbox.require()
except InputError:  # nothing isolates programs here, and these are our own
    UNSAFE = True
F = "def f(x):\n    return x + 1\n"


def code(response, *tests, setup=""):
    example = Example("1", user(""), "", {"tests": list(tests), "setup": setup})
    return judges.code(response, example, unsafe=UNSAFE)


@pytest.mark.parametrize(
    "response",
    [
        F,
        f"Here it is:\n```python\n{F}```\nIt adds one.",
        f"```\n{F}```",
        f"~~~Python3\n{F}~~~",
        f"```python\n{F}",
        "1. So:\n   ```py\n   def f(x):\n       return x + 1\n   ```",
        f"```python\nstep = 1\n```\nand\n```python\n{F.replace('1', 'step')}```",
        f"```python\n{F}```\nIt prints:\n```\n>>> f(1)\n2\n```",
        f"```python\n{F}\nif __name__ == '__main__':\n    print(f(int(input())))\n```",
    ],
)
def test_where_the_program_is(response):
    assert code(response, "assert f(1) == 2") == (True, "right")
    assert code(response, "assert f(1) == 2", "assert f(2) == 4") == (False, "wrong value: test 2")


@pytest.mark.parametrize(
    "response, reason",
    [
        ("I cannot.", "syntax error"),
        ("def f(x): 1 / 0", "raised: ZeroDivisionError"),
        ("def f(x): return f", "not plain data"),
    ],
)
def test_code_reasons(response, reason):
    verdict = code(response, "assert f(1) == 2")
    assert not verdict.correct and verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    "attack",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "class Yes(int):\n    def __eq__(self, other): return True\nf = lambda x: Yes(0)",
        "import builtins; builtins.bool = lambda x: True\nf = lambda x: 0",
        "print('right'); print('{\"correct\": true}')\nf = lambda x: None",
        "import sys\ndef f(x): return [*sys._getframe(1).f_locals.values()]",
        "import gc\ndef f(x): return [o for o in gc.get_objects() if type(o) is int][:9]",
        "value = [2]\ndef f(x): return 'value[0]'",
        'import os\nos.write(1, b\'[["str",""],["int","0x7e1"]]\')\nos._exit(0)',
    ],
)
def test_forged_verdicts_buy_nothing(attack):
    assert not code(attack, "assert f(1) == 2017").correct
    assert not code(attack, "assert abs(f(1) - 2017) < 1e-6").correct


@pytest.mark.parametrize(
    "test, right, wrong",
    [
        ("assert f(1) == 4", "4.0", "4.1"),
        ("assert 2 == f(1), 'message'", "2", "'2'"),
        ("assert not f(1)", "[]", "[0]"),
        ("assert f(1) is None", "None", "0"),
        ("assert set(f(1)) == {1, 2}", "[2, 1]", "[1]"),
        ("assert f(1) == {'a': 2}", "__import__('collections').Counter('aa')", "{'a': 1}"),
        ("assert math.isclose(f(1), 0.5, rel_tol=1e-3)", "0.5001", "0.51"),
        ("assert abs(f(1) - 2.5) < 1e-6", "2.5", "2.6"),
        ("assert f(1)[1:] == [2]", "[1, 2]", "[1]"),
        ("assert f(1) and f(2) == [0] * 3", "[0, 0, 0]", "[0]"),
        ("assert f(1) == float('inf')", "1e999", "1"),
        ("assert f(1) == f(2) == 10**20", "100 * 10**18", "0"),
        ("assert f(1) != 3", "10**5000", "3"),
    ],
)
def test_asserts(test, right, wrong):
    assert code(f"def f(x): return {right}", test).correct == ("5000" not in right)
    assert not code(f"def f(x): return {wrong}", test).correct


def test_names_of_the_setup_and_of_builtins():
    setup = "from math import isclose\nimport math as m\ndef near(a, b): return isclose(a, b)"
    for test in ("assert isclose(f(1), 2)", "assert m.sqrt(f(3)) == 2", "assert near(f(1), 2)"):
        assert code(F, test, setup=setup).correct
        assert not code(F.replace("1", "2"), test, setup=setup).correct
    assert code("def sum(a, b): return a * b", "assert sum(10, 15) == 150").correct
    assert not code("def f(a): return a", "assert sum(10, 15) == 25").correct
    queue = "class Q:\n    def size(self): return 3"
    assert code(queue, "assert q.size() == 3", setup="q = Q()").reason.startswith("not") is False


@pytest.mark.parametrize(
    "test",
    [
        "",
        "x = f(1)",
        "assert f(1) == (",
        "assert f(1); assert f(2)",
        "assert 1 == 1",
        "assert all(f(i) for i in range(3))",
        "assert (y := f(1))",
        "assert f(1) == " + "-" * 50_000 + "1",
    ],
)
def test_asserts_that_the_data_should_not_have(test):
    with pytest.raises(InputError, match="is not one assert about a call"):
        code(F, test)
    with pytest.raises(InputError, match="a list with an assert in it"):
        code(F)


@pytest.mark.parametrize("folder", folders("mbpp"), ids=str)
def test_solutions_of_mbpp(folder):
    for _, row in some(read_jsonl(folder / "mbpp.jsonl"), 30):
        tests = row["test_list"] + row["challenge_test_list"]
        setup = row["test_setup_code"].replace("\r", "")
        assert code(row["code"].replace("\r", ""), *tests, setup=setup).correct, row["task_id"]


# A model as judge


class Words:
    """A tokenizer whose tokens are words, and a model's config."""

    max_position_embeddings = 120

    def target_ids(self, messages, answer):
        return ["</think>", answer, "end"]

    def prompt_ids(self, messages):
        return messages[-1]["content"].split()


@pytest.fixture
def asked(monkeypatch):
    """(judge, its odds in the order of asking, the prompts it asked)."""
    words, odds, prompts = Words(), [], []
    words.config = words

    def logprobs(model, texts, continuations):
        assert texts[0] == texts[1] and texts[0][-1] == "</think>"
        assert len(texts[0]) <= words.max_position_embeddings
        assert continuations == [["Yes"], ["No"]]
        prompts.append(" ".join(texts[0]))
        return [odds[len(prompts) - 1], 0.0]

    monkeypatch.setitem(sys.modules, "sampler", types.SimpleNamespace(logprobs=logprobs))
    return judges.by_model(words, words), odds, prompts


@pytest.mark.parametrize("there, back, label", [(2, 2, True), (2, 0.5, False), (0.5, 2, False)])
def test_the_model_has_to_agree_in_both_orders(asked, there, back, label):
    judge, odds, prompts = asked
    odds += [there, back]
    verdict = judge("It is five.", Example("1", user("What?"), "Five it is.", {}))
    assert verdict == (label, f"log odds: {there:.2f}, {back:.2f}")
    assert prompts[0].index("It is five.") < prompts[0].index("Five it is.")
    assert prompts[1].index("It is five.") > prompts[1].index("Five it is.")
    tag = prompts[0].split()[0]
    assert prompts[0].count(tag) == prompts[1].count(tag) == 4


@pytest.mark.parametrize("response", ["", ":", "Solution:", "The answer is", "Yes."])
def test_text_that_says_nothing_is_not_put_to_the_model(asked, response):
    judge, _, prompts = asked
    assert judge(response, Example("1", user("What?"), "5", {})).reason.startswith("says nothing")
    assert not prompts


def test_text_beyond_the_context_is_wrong(asked):
    judge, odds, prompts = asked
    odds += [0.0] * 200
    for n in range(100):
        verdict = judge("x " * n, Example("1", user("What?"), "5", {}))
    assert prompts and verdict == (False, "too long for the model")


def test_a_checkpoint_as_judge(tmp_path):
    judge = judges.by_model(*model.load(tiny.checkpoint(tmp_path / "tiny")))
    example = Example("1", user("2 + 3?"), "5")
    assert judge("It is five.", example).reason.startswith("log odds: ")
    assert judge("Answer:", example).reason.startswith("says nothing: ")


# The command line


@pytest.fixture
def run(monkeypatch, capsys):
    """Run judges.py as a script, in this process, as importing torch anew takes seconds."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["judges.py", *map(str, args)])
        returncode = 0
        try:
            runpy.run_path(str(ROOT / "judges.py"), run_name="__main__")
        except SystemExit as end:
            returncode = end.code
        stdout, stderr = capsys.readouterr()
        return types.SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)

    return run


def write(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("judge, rows", [("numeric", NUMERIC), ("reading", READING)])
def test_command_line_judges_rows_in_order(run, judge, rows):
    result = run(judge, TESTS / f"{judge}_cases.jsonl")
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [verdict["correct"] for verdict in verdicts] == [row["correct"] for row in rows]
    assert list(verdicts[0]) == ["correct", "reason"]
    count = len(rows)
    assert result.stderr == f"{count} rows, {count} agreements, 0 false accepts, 0 false rejects\n"


def test_command_line_counts_only_rows_with_a_label(tmp_path, run):
    right = {"response": "#### 72", "answer": 72}
    wrong = {"response": "#### 73", "answer": "72"}
    rows = [{**right, "correct": True}, {**right, "correct": False}, {**wrong, "correct": True}]
    result = run("numeric", write(tmp_path / "rows.jsonl", [*rows, wrong]))
    verdicts = [json.loads(line)["correct"] for line in result.stdout.splitlines()]
    assert verdicts == [True, True, False, False]
    assert result.stderr == "3 rows, 1 agreements, 1 false accepts, 1 false rejects\n"
    assert run("numeric", write(tmp_path / "bare.jsonl", [wrong])).stderr == ""


GOOD = {"response": "#### 72", "answer": "72", "answers": ["72"], "tests": ["assert f(1) == 2"]}


@pytest.mark.parametrize(
    "judge, bad",
    [
        (
            "numeric",
            [
                ({"answer": "72"}, '"response" should be a text'),
                ({"response": "#### 72"}, '"answer" should be a text'),
                ({**GOOD, "answer": True}, '"answer" should be a text'),
                ({**GOOD, "answer": "7 or 8"}, "the answer '7 or 8' is not one quantity"),
                ("{", ""),
                ("[1]", ""),
            ],
        ),
        (
            "reading",
            [
                ({**GOOD, "answers": "Paris"}, '"answers" should be a list of texts'),
                ({**GOOD, "answers": [1]}, '"answers" should be a list of texts'),
                ({**GOOD, "answers": ["``"]}, "the answer '``' has no words"),
            ],
        ),
        (
            "code",
            [
                ({**GOOD, "tests": []}, '"tests" should be a list with an assert in it'),
                ({**GOOD, "tests": ["x"]}, "the test 'x' is not one assert about a call"),
            ],
        ),
    ],
)
def test_command_line_names_the_rows_to_mend(tmp_path, run, judge, bad):
    path = write(tmp_path / "rows.jsonl", [GOOD, "", *[row for row, _ in bad]])
    result = run(judge, path, *(["--unsafe-code"] if UNSAFE else []))
    faults = result.stderr.splitlines()[-len(bad) :]
    assert result.returncode == 2 and len(result.stdout.splitlines()) == 1
    assert faults[0].startswith("judges.py: ")
    for number, (fault, (_, message)) in enumerate(zip(faults, bad), 3):
        assert fault.removeprefix("judges.py: ").startswith(f"{path}:{number}: {message}")
        assert "mend" in fault


def test_command_line_without_a_readable_file(tmp_path, run):
    result = run("numeric", tmp_path / "absent")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"judges.py: {tmp_path / 'absent'}: ")
    assert run("numerics", tmp_path).returncode == 2
