"""data/mbpp.py and data/nq.py: the embedded samples, the published sets where they are at hand, broken rows, SQuAD's format.

S3FT_DATA names a folder with mbpp/ and nq/ as published; without it the sets fetched into data/ are used, if they are there.
"""
import json
import os
from pathlib import Path

import judges
import pytest
from data import mbpp, nq
from files import InputError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample"
TASKS = {"mbpp": mbpp, "nq": nq}


def published(task):
    folders = [Path(os.environ["S3FT_DATA"]) / task] if "S3FT_DATA" in os.environ else []
    folder = next((f for f in [*folders, ROOT / "data" / task] if f.is_dir()), None)
    return folder or pytest.skip(f"needs the published {task}: set S3FT_DATA or run python data/fetch.py {task}")


def folder_of(task, source):
    return SAMPLE / task if source == "sample" else published(task)


def refused(task, folder, split="train"):
    with pytest.raises(InputError) as error:
        TASKS[task].load(folder, split)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what holds of every set ----

COUNTS = {("mbpp", "sample"): {"train": 54, "validation": 12, "test": 35}, ("nq", "sample"): {"train": 132, "test": 84},
          ("mbpp", "published"): {"train": 374, "validation": 90, "test": 500},
          ("nq", "published"): {"train": 3800, "test": 2000}}


@pytest.mark.parametrize("task, source", COUNTS)
def test_counts_and_ids(task, source):
    splits = {split: TASKS[task].load(folder_of(task, source), split) for split in COUNTS[task, source]}
    assert {split: len(examples) for split, examples in splits.items()} == COUNTS[task, source]
    examples = sum(splits.values(), [])
    assert len({e.id for e in examples}) == len(examples)
    assert all(e.prompt.strip() and e.gold.strip() for e in examples)
    request = TASKS[task].PARAPHRASE.format(prompt=examples[0].prompt, gold=examples[0].gold)
    assert examples[0].prompt in request and examples[0].gold in request


@pytest.mark.parametrize("source", ["sample", "published"])
def test_no_question_on_both_sides(source):
    folder = folder_of("nq", source)
    train, test = ({nq.same(e.check["question"]) for e in nq.load(folder, split)} for split in ("train", "test"))
    assert train and test and not train & test


@pytest.mark.parametrize("source", ["sample", "published"])
def test_nq_has_as_many_questions_without_an_answer(source):
    for split in ("train", "test"):
        examples = nq.load(folder_of("nq", source), split)
        assert sum(not e.check["answers"] for e in examples) == len(examples) / 2
        for e in examples:
            assert e.check["question"] in e.prompt and "Passage: " in e.prompt and nq.ABSTAIN in e.prompt
            assert e.gold == (e.check["answers"][0] if e.check["answers"] else nq.ABSTAIN)
    if source == "sample":
        assert all(e.gold in e.prompt for e in nq.load(SAMPLE / "nq", "train") + nq.load(SAMPLE / "nq", "test"))


@pytest.mark.parametrize("source", ["sample", "published"])
def test_judge_accepts_every_gold_answer_and_no_abstention_for_it(source):
    for split in ("train", "test"):
        for e in nq.load(folder_of("nq", source), split):
            for gold in e.check["answers"] or [nq.ABSTAIN]:
                assert judges.reading(gold, e).correct, (e.id, gold)
            assert judges.reading(nq.ABSTAIN, e).correct == (not e.check["answers"]), e.id


def test_judge_accepts_every_gold_program_of_the_sample():
    for split in mbpp.SPLITS:
        for e in mbpp.load(SAMPLE / "mbpp", split):
            verdict = judges.code(e.gold, e, unsafe=True)  # our own programs, also where nothing isolates them
            assert verdict.correct, (e.id, verdict)


# ---- MBPP ----

ROW = {"text": "Add.", "code": "import re\r\ndef add(a, b):\r\n\treturn a + b  # \"\\d\"\r\n", "task_id": 601,
       "test_setup_code": "x = 1\r\ny = 2", "test_list": ["assert add(1, 2) == 3", "assert add(x, y) == 3"],
       "challenge_test_list": ["assert add(0, 0) == 0"]}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path.parent


def test_mbpp_row(tmp_path):
    folder = write(tmp_path / "mbpp.jsonl", {**ROW, "task_id": 3}, "", {**ROW, "extra": 1}, {**ROW, "task_id": 510})
    example, = mbpp.load(folder, "train")
    assert example.id == "mbpp.jsonl:3"
    assert example.gold == "```python\nimport re\ndef add(a, b):\n\treturn a + b  # \"\\d\"\n```"
    assert example.check == {"tests": [*ROW["test_list"], "assert add(0, 0) == 0"], "setup": "x = 1\ny = 2"}
    assert "Add." in example.prompt and ROW["test_list"][0] in example.prompt
    assert not any(test in example.prompt for test in example.check["tests"][1:])
    assert [e.id for e in mbpp.load(folder, "test")] == ["mbpp.jsonl:4"]
    assert "no task of the validation split" in refused("mbpp", folder, "validation")


@pytest.mark.parametrize("change, message", [
    *[({key: None}, f'"{key}" should be') for key in ROW], ({"task_id": "601"}, '"task_id" should be a int'),
    ({"task_id": True}, '"task_id" should be'), ({"text": ""}, '"text" should be'), ({"test_list": []}, '"test_list" should be'),
    ({"test_list": "assert add(1, 2) == 3"}, '"test_list" should be'), ({"code": "def add(:"}, "is not Python"),
    ({"code": "x = '\0'"}, "character 6"), ({"test_setup_code": "x ="}, "is not Python"),
    ({"test_list": ["assert add(1, 2) == 3", "add(1, 2)"]}, "a test should be one assert statement, found 'add(1, 2)'"),
    ({"test_list": ["assert add(1, 2"]}, "one assert statement"), ({"test_list": ["assert 1; assert 2"]}, "one assert statement"),
    ({"test_list": [7]}, "one assert statement, found 7"), ({"challenge_test_list": [""]}, "one assert statement"),
    ({"code": "(" * 10_000 + ")" * 10_000}, "is not Python"), ({"task_id": 602}, '"task_id" 602 stands in line 2 already')])
def test_mbpp_bad_row(tmp_path, change, message):
    folder = write(tmp_path / "mbpp.jsonl", {**ROW, "task_id": 20}, {**ROW, "task_id": 602}, {**ROW, **change})
    line = refused("mbpp", folder)
    assert line.startswith(f"{tmp_path}/mbpp.jsonl:3: {message}" if message[0] in '"a' else f"{tmp_path}/mbpp.jsonl:3: ")
    assert message in line and "mend" in line


def test_mbpp_missing_key_and_file(tmp_path):
    folder = write(tmp_path / "mbpp.jsonl", {key: ROW[key] for key in ROW if key != "challenge_test_list"})
    assert '"challenge_test_list" should be' in refused("mbpp", folder)
    assert refused("mbpp", tmp_path / "no").startswith(f"{tmp_path}/no/mbpp.jsonl: no such file;")


# ---- Natural Questions and SQuAD ----

def instruction(passage, question):
    return f"Given the passage, answer.\n   Passage: {passage} \n   Question: {question} \n   Answer: "


def nq_folder(path, answerable, unanswerable=(("It rains.", "why does it rain ?", ""),), part="train"):
    for name, rows in ("answerable", answerable), ("unanswerable", unanswerable):
        rows = [row if isinstance(row, dict) else {"instruction": instruction(*row[:2]), "gt_answer": row[2]} for row in rows]
        (path / f"{name}_{part}.json").write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_nq_rows(tmp_path):
    odd = "Question: is this { a question } ? Answer: no . Passage: here ends"
    nq_folder(tmp_path, [(odd, "who asks ?", "Ann"), ("Bo sat .", "Who sat?", "Bo"), ("Bo sat .", "who  SAT", "he")])
    nq_folder(tmp_path, [("Cy ran .", "who ran ?", '["Cy", " Cy X "]')], [("Cy ran .", "who swam ?", "")], part="test")
    first, second, third = nq.load(tmp_path, "train")
    assert odd in first.prompt and (first.id, first.gold) == ("answerable_train.json:1", "Ann")
    assert first.check == {"answers": ["Ann"], "question": "who asks ?"}
    assert second.id == "answerable_train.json:2" and second.gold == "Bo"  # the first of equal questions about a passage
    assert third.gold == "unanswerable" and third.check == {"answers": [], "question": "why does it rain ?"}
    assert [e.check["answers"] for e in nq.load(tmp_path, "test")] == [["Cy", "Cy X"], []]


def test_nq_val_files_are_training_rows_and_test_questions_leave(tmp_path):
    nq_folder(tmp_path, [("Al ate .", "who ate ?", "Al")])
    nq_folder(tmp_path, [("Di dug .", "who dug ?", "Di"), ("Ed won .", "Who won ?", "Ed")], [], part="val2")
    nq_folder(tmp_path, [("Flo won .", "who won", "Flo")], part="test")
    assert [e.id for e in nq.load(tmp_path, "train")] == ["answerable_train.json:1", "answerable_val2.json:1"]
    (tmp_path / "unanswerable_train.json").unlink()
    assert refused("nq", tmp_path).startswith(f"{tmp_path}/unanswerable_train.json: no such file;")


@pytest.mark.parametrize("row, message", [
    (("p", "q", ""), '"gt_answer" should be a text'), (("p", "q", "[]"), '"gt_answer" should be'),
    (("p", "q", '["a", ""]'), '"gt_answer" should be'), (("p", "q", "[1]"), '"gt_answer" should be'),
    (("p", "q", '["a"'), '"gt_answer" should be'), (("p", "q", None), '"gt_answer" should be'),
    (("p", "q", ["a"]), '"gt_answer" should be'), ((" ", "q", "a"), '"instruction" should read'),
    (("p", " ", "a"), '"instruction" should read'), ({"gt_answer": "a"}, '"instruction" should be a text'),
    ({"instruction": "Passage: p Question: q", "gt_answer": "a"}, '"instruction" should read "… Passage: …')])
def test_nq_bad_row(tmp_path, row, message):
    nq_folder(nq_folder(tmp_path, [("p", "r", "a"), row]), [("p", "s", "a")], part="test")
    assert refused("nq", tmp_path).startswith(f"{tmp_path}/answerable_train.json: row 2: {message}")


def test_nq_bad_files(tmp_path):
    line = refused("nq", tmp_path)
    assert str(tmp_path) in line and "unanswerable" in line and "dev" in line and "python data/fetch.py nq" in line
    nq_folder(tmp_path, [("p", "q", "a")], [("p", "r", "b")], part="test")
    assert "unanswerable_test.json: row 1: \"gt_answer\" should be an empty text, found 'b'" in refused("nq", tmp_path, "test")
    (tmp_path / "answerable_test.json").write_text('["x"]')
    assert "answerable_test.json: row 1: \"instruction\" should be" in refused("nq", tmp_path, "test")
    (tmp_path / "answerable_test.json").write_text("[")
    assert "cannot be read as JSON" in refused("nq", tmp_path, "test")


def squad(path, *rows, context=" The {sea} is blue . "):
    """rows: (id, question, answers, is_impossible)."""
    qas = [{"id": i, "question": q, "answers": [{"text": a, "answer_start": 0} for a in answers], "is_impossible": impossible,
            **({"plausible_answers": []} if impossible else {})} for i, q, answers, impossible in rows]
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Sea", "paragraphs": [{"context": context, "qas": qas}]}]}))
    return path.parent


def test_squad(tmp_path):
    squad(tmp_path / "train-v2.0.json", ("a1", "What is blue?", ["The {sea}"], False), ("a2", "What is red?", [], True),
          ("a3", "what is BLUE", ["sea"], False), ("a4", "Who swims?", [], True))
    squad(tmp_path / "dev-v2.0.json", ("b1", "What colour?", ["blue", "blue", "is blue"], False), ("b2", "who swims", [], True))
    train, test = nq.load(tmp_path, "train"), nq.load(tmp_path, "test")
    assert [(e.id, e.gold) for e in train] == [("train-v2.0.json:a1", "The {sea}"), ("train-v2.0.json:a2", "unanswerable")]
    assert [(e.id, e.check) for e in test] == [
        ("dev-v2.0.json:b1", {"answers": ["blue", "is blue"], "question": "What colour?"}),
        ("dev-v2.0.json:b2", {"answers": [], "question": "who swims"})]
    prompt = train[0].prompt.replace("What is blue?", "why is the sea wet ?").replace("The {sea} is blue .", "p .")
    nq_folder(tmp_path, [("p .", "why is the sea wet ?", "a")])
    nq_folder(tmp_path, [("p .", "who ?", "a")], part="test")
    assert nq.load(tmp_path, "train")[0].prompt == prompt  # both formats, one prompt


@pytest.mark.parametrize("row, message", [
    (("a", "Who?", [], False), "contradict"), (("a", "Who?", ["x"], True), "contradict"),
    (("a", "Who?", [""], False), '"text" should be'),
    (("a", " ", ["x"], False), '"question" should be'), ((1, "Who?", ["x"], False), '"id" should be'),
    (("b", "Who?", [], True), "the id 'b' stands in this file twice"), (("a", "Who?", ["x"], "no"), '"is_impossible" should be')])
def test_squad_bad_row(tmp_path, row, message):
    squad(tmp_path / "dev-v2.0.json", ("b", "What?", [], True), row)
    line = refused("nq", tmp_path, "test")
    assert line.startswith(f"{tmp_path}/dev-v2.0.json: article 1, paragraph 1, question 2: ") and message in line
    (tmp_path / "dev-v2.0.json").write_text('{"data": [{"paragraphs": 3}]}')
    assert '/dev-v2.0.json: article 1: "paragraphs" should be a list' in refused("nq", tmp_path, "test")
    assert refused("nq", tmp_path).startswith(f"{tmp_path}/train-v2.0.json: no such file;")
