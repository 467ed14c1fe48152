"""The tasks of data/: what a row becomes, which rows are refused, and the sets themselves.

S3FT_DATA names a folder with the published sets (gsm8k/, …). Without it the sets that were
fetched into data/ are used, if they are there.
"""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest

import judges
from data import Example, gsm8k, jsonl, mbpp, nq, user
from files import InputError

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"gsm8k": gsm8k, "mbpp": mbpp, "nq": nq}


def folder_of(task, source):
    if source == "sample":
        return ROOT / "data/sample" / task
    for folder in Path(os.environ.get("S3FT_DATA", ROOT / "data")), ROOT / "data":
        if (folder / task).is_dir():
            return folder / task
    pytest.skip(f"needs the published {task}: set S3FT_DATA or run python data/fetch.py {task}")


def write(path, *rows):
    """Write rows, or bytes as they are, as lines of a file; return its folder."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path.parent


def lines_of(path, *rows):
    write(path, *rows)
    return path


def refused(load, *args):
    with pytest.raises(InputError) as error:
        load(*args)
    return str(error.value)


# Whole sets

COUNTS = {
    ("gsm8k", "sample"): {"train": 220, "test": 110},
    ("mbpp", "sample"): {"train": 54, "validation": 12, "test": 35},
    ("nq", "sample"): {"train": 132, "test": 84},
    ("gsm8k", "published"): {"train": 7473, "test": 1319},
    ("mbpp", "published"): {"train": 374, "validation": 90, "test": 500},
    ("nq", "published"): {"train": 3800, "test": 2000},
}


@pytest.mark.parametrize("task, source", COUNTS)
def test_counts_and_ids(task, source):
    module = TASKS[task]
    judge, _ = judges.JUDGES[module.JUDGE]
    for split, count in COUNTS[task, source].items():
        examples = module.load(folder_of(task, source), split)
        assert len({example.id for example in examples}) == len(examples) == count
        for example in examples:
            assert example.question.strip() and example.gold.strip()
            if source == "sample" and task != "mbpp":  # programs: see test_judges.py
                assert judge(example.gold, example).correct, example.id
        request = module.PARAPHRASE.format(prompt=example.question, gold=example.gold)
        assert example.question in request and example.gold in request


@pytest.mark.parametrize("source", ["sample", "published"])
def test_half_of_nq_has_no_answer_and_no_question_is_on_both_sides(source):
    questions = {}
    for split in ("train", "test"):
        examples = nq.load(folder_of("nq", source), split)
        assert sum(not example.check["answers"] for example in examples) == len(examples) / 2
        texts = [example.check["question"] for example in examples]
        questions[split] = {" ".join(re.findall(r"\w+", text.casefold())) for text in texts}
    assert not questions["train"] & questions["test"]


def test_the_arithmetic_of_the_sample_is_right():
    """Each mark <<expression=value>> holds and is followed by its value; the last is the answer."""
    questions = set()
    for name in "train.jsonl", "test.jsonl":
        for line in (folder_of("gsm8k", "sample") / name).read_text().splitlines():
            row = json.loads(line)
            questions.add(re.sub(r"\d+(?:[.,]\d+)*", "#", row["question"]).lower())
            text = row["answer"].replace(",", "")
            marks = re.findall(r"<<([-+*/().0-9 ]+)=([-0-9.]+)>>(\S*)", text)
            assert 1 <= len(marks) <= 3 and len(marks) == text.count("<<"), line
            for expression, value, shown in marks:
                exact = re.sub(r"([0-9.]+)", r"Fraction('\1')", expression)
                assert eval(exact) == Fraction(value) and shown.startswith(value), line
            assert text.endswith(f"\n#### {value}"), line
    assert len(questions) == 330


# What a row becomes

GSM8K = {"question": " How many? ", "answer": "Half is 24/2 = <<24/2=12>>12.\n#### 1,012"}
MBPP = {
    "text": "Add.",
    "code": 'import re\r\ndef add(a, b):\r\n\treturn a + b  # "\\d"\r\n',
    "task_id": 601,
    "test_setup_code": "x = 1\r\ny = 2",
    "test_list": ["assert add(1, 2) == 3", "assert add(x, y) == 3"],
    "challenge_test_list": ["assert add(0, 0) == 0"],
}
OWN = {"prompt": "Say yes.", "gold": "yes"}
NQ = {"instruction": "Read. Passage: The sky. Question: Who? Answer:", "gt_answer": "the sky"}
SVAMP = {"Body": "Ann has 5 pens. She lost 2 ", "Question": "How many are left?", "Answer": 3.0}


def test_gsm8k(tmp_path):
    (example,) = gsm8k.load(write(tmp_path / "test.jsonl", GSM8K), "test")
    prompt = gsm8k.PROMPT.format(question="How many?")
    gold = "Half is 24/2 = 12.\n#### 1,012"
    assert example == Example("test.jsonl:1", user(prompt), gold, {"answer": "1,012"})


def test_svamp(tmp_path):
    (tmp_path / "SVAMP.json").write_text(json.dumps([SVAMP, {**SVAMP, "Answer": 3.5}]))
    first, second = gsm8k.load_svamp(tmp_path)
    prompt = gsm8k.PROMPT.format(question="Ann has 5 pens. She lost 2 How many are left?")
    assert first == Example("SVAMP.json:1", user(prompt), "#### 3", {"answer": "3"})
    assert second.check == {"answer": "3.5"}
    for answer in "many", None, True, float("inf"), 10**400:
        rows = [SVAMP, {**SVAMP, "Answer": answer}, "x"]
        (tmp_path / "SVAMP.json").write_text(json.dumps(rows))
        first, second = refused(gsm8k.load_svamp, tmp_path).split("\n")
        assert 'SVAMP.json: row 2: "Answer" should be a number; mend' in first
        assert "SVAMP.json: row 3: not as published" in second


def test_mbpp(tmp_path):
    rows = {**MBPP, "task_id": 3}, b"", {**MBPP, "extra": 1}, {**MBPP, "task_id": 510}
    folder = write(tmp_path / "mbpp.jsonl", *rows)
    (example,) = mbpp.load(folder, "train")
    tests = ["assert add(1, 2) == 3", "assert add(x, y) == 3", "assert add(0, 0) == 0"]
    assert example.id == "mbpp.jsonl:3"
    assert example.gold == '```python\nimport re\ndef add(a, b):\n\treturn a + b  # "\\d"\n```'
    assert example.check == {"tests": tests, "setup": "x = 1\ny = 2"}
    shown = [test in example.question for test in tests]
    assert shown == [True, False, False] and "Task: Add.\n" in example.question
    assert [example.id for example in mbpp.load(folder, "test")] == ["mbpp.jsonl:4"]


def nq_folder(folder, **files):
    """Write NQ's files: those of the keywords, each a list of rows, the others empty."""
    names = [
        f"{kind}_{part}" for part in ("train", "test") for kind in ("answerable", "unanswerable")
    ]
    for name, rows in {**dict.fromkeys(names, []), **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def test_nq(tmp_path):
    odd = "Question: is this { a question } ? Answer: no . Passage: here ends"
    instruction = f"Read.\nPassage: {odd} \nQuestion: who asks ? \nAnswer: "
    rows = [{"instruction": instruction, "gt_answer": a} for a in ("Ann", '["Cy", " Cy X "]')]
    empty = {**NQ, "gt_answer": ""}
    nq_folder(tmp_path, answerable_train=rows, answerable_val2=[NQ], unanswerable_train=[empty])
    first, second, third, fourth = nq.load(tmp_path, "train")
    prompt = nq.PROMPT.format(passage=odd, question="who asks ?")
    check = {"answers": ["Ann"], "question": "who asks ?"}
    assert first == Example("answerable_train.json:1", user(prompt), "Ann", check)
    assert second.gold == "Cy" and second.check["answers"] == ["Cy", "Cy X"]
    assert third.id == "answerable_val2.json:1"
    assert fourth.gold == "unanswerable" and fourth.check == {"answers": [], "question": "Who?"}


def test_squad(tmp_path):
    file = tmp_path / "dev-v2.0.json"
    questions = [
        {"id": "a1", "question": " What? ", "answers": [{"text": "sea"}], "is_impossible": False},
        {"id": "a2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": " The {sea} is blue. ", "qas": questions}
    file.write_text(json.dumps({"data": [{"title": "Sea", "paragraphs": [paragraph]}]}))
    first, second = nq.load(tmp_path, "test")
    prompt = nq.PROMPT.format(passage="The {sea} is blue.", question="What?")
    check = {"answers": ["sea"], "question": "What?"}
    assert first == Example("dev-v2.0.json:a1", user(prompt), "sea", check)
    assert second.gold == "unanswerable" and second.check["answers"] == []
    file.write_text(json.dumps({"data": [{"paragraphs": [{"qas": questions}]}]}))
    with pytest.raises(InputError, match="dev-v2.0.json: row 1: .*KeyError: 'context'"):
        nq.load(tmp_path, "test")


def test_jsonl(tmp_path):
    file = tmp_path / "t.jsonl"
    write(file, {**OWN, "answer": "7", "more": 1}, b"", OWN)
    first, second = jsonl.load(file, "exact")
    assert first == Example("t.jsonl:1", user("Say yes."), "yes", {"answer": "7"})
    assert second == Example("t.jsonl:3", user("Say yes."), "yes", {"answer": "yes"})
    assert jsonl.load(file, "reading")[0].check == {"answers": [], "question": ""}
    with pytest.raises(InputError, match='t.jsonl:3: "answer" should be a text; mend'):
        jsonl.load(file, "numeric")
    for field, judge in ("answer", "numeric"), ("answers", "reading"), ("tests", "code"):
        write(file, {**OWN, field: "7"})
        assert jsonl.describe(file) == ("prompt and gold", judge)
    write(file, OWN, {**OWN, "answer": "7"})
    with pytest.raises(InputError, match="t.jsonl:2: has prompt and gold for judge numeric, the"):
        jsonl.describe(file)


SYSTEM, ASKED = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}
SAID = {"role": "assistant", "content": "2"}
FORMATS = [  # (row, messages, gold, judge)
    ({"messages": [SYSTEM, ASKED, SAID, ASKED, SAID]}, [SYSTEM, ASKED, SAID, ASKED], "2", "label"),
    ({"prompt": "1 + 1?", "completion": "2\r\n3"}, [ASKED], "2\n3", "label"),
    ({"prompt": [SYSTEM, ASKED], "completion": [SAID]}, [SYSTEM, ASKED], "2", "label"),
    ({"prompt": "1 + 1?", "gold": "one " * 6}, [ASKED], "one " * 6, "exact"),
    ({"instruction": "1 + 1?", "input": "", "output": "2"}, [ASKED], "2", "label"),
    ({"instruction": "1", "input": "+ 1", "output": "2"}, user("1\n\n+ 1"), "2", "label"),
    ({"question": "1 + 1?", "answer": "2"}, [ASKED], "2", "label"),
    ({"question": "1 + 1?", "answer": 2, "tests": None}, [ASKED], "2", "numeric"),
    ({"messages": [{**SYSTEM, "content": ""}, ASKED, SAID], "prompt": None}, [ASKED], "2", "label"),
    ({"question": "1 + 1?", "answer": "2", "answers": ["2"]}, [ASKED], "2", "reading"),
]


@pytest.mark.parametrize("row, messages, gold, judge", FORMATS)
def test_formats_that_trainers_take(tmp_path, row, messages, gold, judge):
    lines, array = lines_of(tmp_path / "t.jsonl", row), tmp_path / "t.json"
    array.write_text(json.dumps([row], indent=1))
    for file, id in (lines, "t.jsonl:1"), (array, "t.json:1"):
        _, found = jsonl.describe(file)
        (example,) = jsonl.load(file, found)
        assert (example.id, example.messages, example.gold, found) == (id, messages, gold, judge)
        assert jsonl.load(file, "model")[0].check == {}
        if judge == "numeric":
            assert example.check == {"answer": "2"}


@pytest.mark.parametrize("field", ["answer", "gold"])
def test_a_judge_compares_with_what_follows_the_thought_in_gold(tmp_path, field):
    asked = "question" if field == "answer" else "prompt"
    file = lines_of(tmp_path / "t.jsonl", {asked: "1 + 1?", field: "<think>It is</think>\ntwo"})
    (example,) = jsonl.load(file, "label")
    assert example.check["answer"] == "two" and example.gold.startswith("<think>")


BAD_FORMATS = [
    ([{"text": "a"}], "t.jsonl:1: has the fields text; known are messages, prompt and completion,"),
    ([OWN, {"instruction": "a", "output": "b"}], "t.jsonl:2: has instruction and output for judge"),
    ([{"messages": [ASKED]}], "t.jsonl:1: the last messages should be the user's and the assi"),
    ([{"messages": [SAID, SAID]}], "t.jsonl:1: the last messages should be the user's and the"),
    ([{"messages": [{"role": "tool", "content": "a"}, SAID]}], "t.jsonl:1: a message has the role"),
    ([{"messages": "hi"}], "t.jsonl:1: not as published"),
    ([b"{", b'"prompt": "a"', b"}"], "t.jsonl: a row spans several lines; `jq -c . FILE`"),
    ([b'{"prompt": "a"}\r{"prompt": "b"}'], "t.jsonl: holds old line ends"),
    ([b'[{"prompt": "a",]'], "t.jsonl: not JSON"),
    ([b"[7]"], "t.jsonl: row 1: not as published"),
]


@pytest.mark.parametrize("rows, said", BAD_FORMATS)
def test_a_file_of_another_format_is_named(tmp_path, rows, said):
    file = lines_of(tmp_path / "t.jsonl", *rows)
    assert refused(jsonl.describe, file).startswith(f"{tmp_path}/{said}")


def test_a_prompt_stands_on_one_side_only():
    examples = [Example(str(n), user(f"prompt {n % 10}"), "g") for n in range(30)]
    train, test = jsonl.split(examples, 0.3, 0)
    assert len(train) == 21 and len(test) == 9
    assert not {e.question for e in train} & {e.question for e in test}
    assert jsonl.split(examples, 0.3, 0) == (train, test) != jsonl.split(examples, 0.3, 1)


# Bad rows

FILES = {"gsm8k": "train.jsonl", "mbpp": "mbpp.jsonl", "own": "own.jsonl"}
ROWS = {"gsm8k": GSM8K, "mbpp": MBPP, "own": OWN}


def load_file(task, folder):
    if task == "own":
        return jsonl.load(folder / "own.jsonl", "exact")
    return TASKS[task].load(folder, "train")


BAD = [
    ("gsm8k", b"{'a': 1}", "not JSON"),
    ("gsm8k", b"[1, 2]", "a dict is needed"),
    ("gsm8k", b'{"question": "caf\xe9"}', "utf-8"),
    ("gsm8k", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
    ("gsm8k", {"question": 7}, '"question" should be a text that is not empty'),
    ("gsm8k", {"question": "a\0b"}, "a text holds"),
    ("gsm8k", {"answer": "1 + 1 = 2"}, 'a last line "#### number"'),
    ("gsm8k", {"answer": "so\n#### 2 or 3"}, 'a last line "#### number"'),
    ("gsm8k", {"answer": "\n#### 2"}, "a solution"),
    ("gsm8k", {"answer": "2"}, "a solution"),
    ("mbpp", {"task_id": 602}, '"task_id" should be a number that no line before has'),
    ("mbpp", {"task_id": True}, '"task_id" should be a number'),
    ("mbpp", {"code": "def add(:"}, "not Python: 'def add(:"),
    ("mbpp", {"code": "(" * 10_000 + ")" * 10_000}, "not Python"),
    ("mbpp", {"test_setup_code": "x ="}, "not Python"),
    ("mbpp", {"test_list": []}, '"test_list" should not be empty'),
    ("mbpp", {"test_list": [7]}, '"test_list" should be a list of texts'),
    ("mbpp", {"test_list": ["print(1)"]}, "one assert statement, found 'print(1)'"),
    ("mbpp", {"test_list": ["assert add(1, 2"]}, "not Python: 'assert add(1, 2'"),
    ("mbpp", {"test_list": ["assert '\ud800'"]}, "a text holds '\\ud800'"),
    ("own", {"gold": " "}, '"gold" should be a text that is not empty'),
    ("own", {"answer": [7]}, '"answer" should be a text'),
]


@pytest.mark.parametrize("task, bad, message", BAD)
def test_a_bad_line_is_named(tmp_path, task, bad, message):
    bad = bad if isinstance(bad, bytes) else {**ROWS[task], **bad}
    good = [{**ROWS[task], "task_id": n} for n in (602, 700)]
    said = refused(load_file, task, write(tmp_path / FILES[task], good[0], bad, good[1]))
    assert said.startswith(f"{tmp_path}/{FILES[task]}:2: ") and message in said
    assert said.endswith("; mend or remove it") and "\n" not in said


BAD_NQ = [
    ({"instruction": 7}, '"instruction" should be a text'),
    ({"instruction": "Passage: x Answer:"}, '"instruction" should read'),
    ({"gt_answer": ""}, '"gt_answer" should be empty in unanswerable_*.json alone'),
    ({"gt_answer": None}, "not as published (AttributeError"),
    ({"gt_answer": '["a", '}, "not as published (JSONDecodeError"),
    ({"gt_answer": "[1, 2]"}, "should be a text"),
    ({"gt_answer": '["\\ud800"]'}, "a text holds '\\ud800'"),
]


@pytest.mark.parametrize("change, message", BAD_NQ)
def test_a_bad_row_of_nq_is_named(tmp_path, change, message):
    nq_folder(tmp_path, answerable_train=[NQ, {**NQ, **change}])
    said = refused(nq.load, tmp_path, "train")
    assert said.startswith(f"{tmp_path}/answerable_train.json: row 2: ")
    assert message in said and "\n" not in said


def test_missing_and_empty_files_are_named(tmp_path):
    assert f"{tmp_path}/mbpp.jsonl: no such file" in refused(mbpp.load, tmp_path, "train")
    assert "/answerable_train.json: no such file" in refused(nq.load, tmp_path, "train")
    assert f"{tmp_path}: no examples" in refused(nq.load, nq_folder(tmp_path), "test")
    assert "no examples" in refused(mbpp.load, write(tmp_path / "mbpp.jsonl", MBPP), "test")
    assert "no examples" in refused(gsm8k.load, write(tmp_path / "train.jsonl"), "train")
    nq_folder(tmp_path, answerable_train={})
    assert "holds a JSON dict, a list is needed" in refused(nq.load, tmp_path, "train")


@pytest.mark.parametrize("task, key", [("gsm8k", "answer"), ("mbpp", "code"), ("own", "gold")])
def test_ten_faults_are_listed(tmp_path, task, key):
    bad = [{**ROWS[task], key: ""}, b"{", {**ROWS[task], key: [3]}]
    folder = write(tmp_path / FILES[task], *bad * 4)
    *named, rest = refused(load_file, task, folder).split("\n")
    assert [int(line.split(":")[1]) for line in named] == list(range(1, 11)) and rest[0] == "…"


@pytest.mark.parametrize("task", FILES)
def test_byte_order_mark_and_windows_line_ends_are_fine(tmp_path, task):
    row = b"\xef\xbb\xbf" + json.dumps(ROWS[task]).encode() + b"\r\n\r\n  "
    assert len(load_file(task, write(tmp_path / FILES[task], row))) == 1
