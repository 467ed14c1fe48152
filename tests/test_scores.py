"""The field's own scores beside the judges' verdicts, and IFEval's checks."""

import pytest
from test_s3ft import write_rows

import report
from data import Example, benchmarks, gsm8k, ifeval, jsonl, nq, user
from files import InputError

FOLLOWED = [  # (kind, its arguments, a response that follows, one that does not)
    ("existence", {"keywords": ["cat", "dog"]}, "A dog, a CAT.", "A dog."),
    ("frequency", {"keyword": "war", "relation": "at least", "frequency": 2}, "War, war", "war"),
    ("forbidden_words", {"forbidden_words": ["rock"]}, "rocks", "a Rock!"),
    (
        "letter_frequency",
        {"letter": "Q", "let_relation": "less than", "let_frequency": 2},
        "q",
        "qQ",
    ),
    ("number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n***\nb"),
    ("number_words", {"num_words": 3, "relation": "at least"}, "one two-three", "one two"),
    (
        "nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Now"},
        'So.\n\n"now, then',
        "Now.\n\nThen",
    ),
    ("number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a]"),
    ("postscript", {"postscript_marker": "P.S."}, "Hi\np. s. me", "PS me"),
    ("postscript", {"postscript_marker": "P.P.S"}, "p.p.s", "p.s."),
    ("number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n- c"),
    ("constrained_response", {}, "So: My answer is no.", "No."),
    ("number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* ** **"),
    ("multiple_sections", {"section_spliter": "PART", "num_sections": 2}, "PART 1 PART2", "PART 1"),
    ("json_format", {}, '```json\n{"a": 1}\n```', "[" * 100_000),
    ("title", {}, "<<A>>", "<< >>"),
    ("two_responses", {}, "a\n******\nb", "a\n******\n a"),
    ("repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It."),
    ("end_checker", {"end_phrase": "The end."}, '"Well. the END."', "The end. Or not."),
    ("no_comma", {}, "a;b", "a,b"),
    ("quotation", {}, ' "a" ', '"'),
]
OPTIONAL = [
    (
        "response_language",
        {"language": "de"},
        "Das ist ein kurzer Satz über Hunde.",
        "A dog it is.",
    ),
    ("english_capital", {}, "THIS IS THE ANSWER TO IT", "This is the answer to it"),
    ("english_lowercase", {}, "this is the answer to it", "das ist die antwort auf alle fragen"),
    (
        "number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "Dr. No is.",
        "A. B is. C.",
    ),
    (
        "capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "IT IS it",
        "It IS",
    ),
]


def instructed(*instructions):
    return Example("1", user("x"), "", {"instructions": instructions})


@pytest.mark.parametrize("kind, arguments, right, wrong", FOLLOWED + OPTIONAL)
def test_instructions(kind, arguments, right, wrong):
    if kind in ifeval.missing():
        pytest.skip("langdetect or nltk is not installed")
    example = instructed([kind, arguments])
    assert ifeval.judge(right, example).correct and not ifeval.judge(wrong, example).correct
    assert not ifeval.judge(" \n", example).correct  # an empty response follows nothing


def test_every_instruction_has_a_test():
    assert {kind for kind, *_ in FOLLOWED + OPTIONAL} == set(ifeval.CHECKS)


def test_strict_and_loose():
    example = instructed(["no_comma", {}], ["end_checker", {"end_phrase": "bye"}])
    scores = ifeval.metrics("Sure, here it is:\nWell, bye", example)
    assert [*scores.values()] == [0, [0, 1], 0, [0, 1]]
    scores = ifeval.metrics("Sure, here it is:\nWell **bye**", example)  # without first line, stars
    assert [*scores.values()] == [0, [0, 0], 1, [1, 1]]


def test_prompts_of_ifeval(tmp_path, monkeypatch):
    row = {"key": 7, "prompt": "Be short.", "instruction_id_list": ["punctuation:no_comma"]}
    row["kwargs"] = [{"num_words": None}]
    other = {**row, "instruction_id_list": ["language:response_language"]}
    other["kwargs"] = [{"language": "de"}]
    write_rows(tmp_path / "input_data.jsonl", [row, other])
    monkeypatch.setattr(ifeval, "missing", lambda: ["response_language"])
    (example,) = benchmarks.load("ifeval", tmp_path)
    assert (example.question, example.check["instructions"]) == ("Be short.", [["no_comma", {}]])
    for change in ({"kwargs": [{"n": 1}]}, {"kwargs": []}, {"instruction_id_list": ["a:b"]}):
        write_rows(tmp_path / "input_data.jsonl", [{**row, **change}])
        with pytest.raises(InputError, match="input_data.jsonl:1: "):
            benchmarks.load("ifeval", tmp_path)


@pytest.mark.parametrize(
    "response, answers, exact_match, f1, lenient",
    [
        ("The Cat!", ["cat"], 1, 1, 1),
        ("It was a black cat.", ["dog", "black cat"], 0, 2 / 3, 1),
        ("concatenate", ["cat"], 0, 0, 0),
        ("The passage does not say it.", ["cat"], 0, 0, 0),  # the empty prediction
        ("unanswerable", [], 1, 1, 1),
        ("The passage does not mention it. It may be a cat.", [], 0, 0, 1),
        ("a cat", [], 0, 0, 0),
    ],
)
def test_squad_scores(response, answers, exact_match, f1, lenient):
    check = {"answers": answers} if answers else {}
    scores = nq.metrics(response, Example("1", user("x"), "", check))
    part = "answerable" if answers else "unanswerable"
    expected = {"exact_match": exact_match, "f1": pytest.approx(f1), "lenient": lenient}
    assert scores == expected | {f"{part} {name}": value for name, value in expected.items()}


@pytest.mark.parametrize(
    "response, answer, right",
    [
        ("It is 72 dollars, not 70.", "70", 1),
        ("#### $1,250.", "1,250", 1),
        ("-3", "3", 0),
        ("5.$", "5", 1),
        ("none", "3", 0),
    ],
)
def test_flexible_extract(response, answer, right):
    example = Example("1", user("x"), "", {"answer": answer})
    assert gsm8k.metrics(response, example) == {"flexible_extract": right}


def test_a_label_anywhere():
    example = Example("1", user("x"), "", {"answer": "spam", "labels": ["spam", "not spam"]})
    for response, scores in {"Spam": [1, 1], "Perhaps spam": [0, 1], "not spam": [0, 0]}.items():
        assert [*jsonl.label_metrics(response, example).values()] == scores


def test_winogrande(tmp_path):
    row = {"sentence": "Ann gave Bea a book as _ had two .", "option1": "Ann", "option2": "Bea"}
    file = write_rows(tmp_path / "dev.jsonl", [{**row, "answer": "1"}])
    (item,) = benchmarks.load("winogrande", tmp_path)
    begin = "Ann gave Bea a book as "
    assert item.context == [begin + "Ann", begin + "Bea"]
    assert item.choices == [" had two ."] * 2
    assert benchmarks.scores(item, [-1.0, -2.0]) == {"acc": 1}
    write_rows(file, [{**row, "answer": ""}])  # as in the authors' test set
    with pytest.raises(InputError, match="dev.jsonl:1: .*answer"):
        benchmarks.load("winogrande", tmp_path)
    with pytest.raises(InputError, match="put the authors' dev.jsonl there"):
        benchmarks.load("winogrande", tmp_path / "nowhere")


def test_the_order_of_arms_may_depend_on_the_measure(tmp_path):
    for arm, correct, f1 in (("base", False, 0.5), ("sft", True, 0.2), ("ssr", True, 0.2)):
        response = {"id": 1, "response": {"correct": correct}}
        rows = [response, {"id": 1, "metrics": {"f1": f1, "lenient": 1}}]  # as a kill leaves them
        write_rows(tmp_path / arm / "eval.jsonl", rows)
    (tmp_path / "config.json").write_text('{"task": "nq"}')
    figures = report.summary(tmp_path)
    assert [*figures["scores"]][:3] == ["nq f1", "nq lenient", "nq"]  # the field's first
    assert figures["ranks"]["nq"]["order"] == "sft > ssr > base"
    assert figures["ranks"]["nq f1"]["order"] == "base > sft > ssr"
    assert "the order depends on  order" in report.text(figures)
    assert not report.ranks(figures["scores"], "nq", ["sft", "ssr"])  # equals contradict nobody
