"""Requests for other engines out, their responses in."""

import json
from pathlib import Path

import kill
import pytest
import tiny
from conftest import write_rows

import exchange
import model as llama
import sampler
from data import Example, user
from files import InputError, read_jsonl
from journal import Journal


def rows_of(path):
    return [row for _, row in read_jsonl(path)]


def respond(requests, tokenizer, model):
    """Lines of an engine, from token ids."""
    prompts = [row["prompt_token_ids"] for row in requests]
    return sampler.generate(model, tokenizer, prompts, requests[0]["max_tokens"])


def test_another_engine_gives_the_same_run(arguments, whole, tmp_path):
    """Own responses by ids, paraphrases by text: the targets of an undisturbed run."""
    out, folder = tmp_path / "run", tmp_path / "requests"
    done = kill.finish([*arguments, "--export-requests", folder], out)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["requests"] == {"own": 12, "paraphrase": 12}
    ckpt = arguments[arguments.index("--ckpt") + 1]
    model, tokenizer = llama.load(ckpt)
    asked = rows_of(folder / "own.ids.jsonl")
    chats = rows_of(folder / "own.jsonl")
    assert tokenizer.prompt_ids(chats[3]["body"]["messages"]) == asked[3]["prompt_token_ids"]
    lines = []
    for row, made in zip(asked, respond(asked, tokenizer, model)):
        ids = made.ids[:-1] if made.finish_reason == "stop" else made.ids  # as many engines do
        lines.append({"id": row["id"], "token_ids": ids, "finish_reason": made.finish_reason})
    own = write_rows(tmp_path / "own.jsonl", lines)
    done = kill.finish([*arguments, "--import-responses", own, "--export-requests", folder], out)
    assert done.returncode == 0, done.stderr
    asked = rows_of(folder / "paraphrase.ids.jsonl")
    assert len(asked) == 7 and not rows_of(folder / "own.jsonl")
    lines = []
    for row, made in zip(asked, respond(asked, tokenizer, model)):
        message = {"role": "assistant", "content": made.text}
        choices = [{"message": message, "finish_reason": made.finish_reason}]
        body = {"model": "other", "choices": choices}
        response = {"status_code": 200, "body": body}
        lines.append({"custom_id": row["id"], "response": response, "error": None})
    done = kill.finish([*arguments, "--import-responses", write_rows(own, lines)], out)
    assert done.returncode == 0, done.stderr
    assert "made by other" in done.stderr and "made by own.jsonl" in done.stderr
    for arm in ("sft", "s3ft"):
        expected = rows_of(whole[1] / arm / "targets.jsonl")
        found = rows_of(out / arm / "targets.jsonl")
        assert [(row["id"], row["source"]) for row in found] == [
            (row["id"], row["source"]) for row in expected
        ]
        assert [row["ids"] for row in found if row["source"] == "own"] == [
            row["ids"] for row in expected if row["source"] == "own"
        ]
    expected = {row["id"]: row for row in rows_of(whole[1] / "candidates.jsonl")}
    for row in rows_of(out / "candidates.jsonl"):
        before = expected[row["id"]]["own"]
        assert row["own"]["ids"] == before["ids"]
        assert row["own"]["logprob"] == pytest.approx(before["logprob"], abs=1e-3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return llama.load(tiny.checkpoint(tmp_path_factory.mktemp("ckpt") / "ckpt"))[1]


def read(rows, tokenizer, folder, limit=50):
    """The journal after an import into a run of two examples with one question."""
    examples = [Example("a", user("One?"), "1"), Example("b", user("One?"), "1")]
    for first in "cd":
        examples.append(Example(f"{first}2", user(first) + user("And?"), "1"))
    journal = Journal(folder / "candidates.jsonl")
    for example in examples:
        journal.add(example.id, gold="1")
    requests = [("own", example, example.messages) for example in examples]
    path = write_rows(Path(folder) / "responses.jsonl", rows)
    exchange.read_responses(path, requests, journal, tokenizer, limit)
    return journal.rows


def test_text_is_tokenised_as_the_template_continues(tokenizer, tmp_path):
    rows = read([{"prompt": "One?", "text": "It is one."}], tokenizer, tmp_path)
    expected = tokenizer.target_ids(user("One?"), "It is one.")
    for id in "ab":  # both ask this
        own = rows[id]["own"]
        assert own["ids"] == expected and own["finish_reason"] == "stop"
        assert own["text"] == "It is one." and own["engine"] == "responses.jsonl"


@pytest.mark.parametrize(
    "row, finish",
    [
        ({"text": "It is", "finish_reason": "length"}, "length"),
        ({"text": "one " * 60}, "length"),  # longer than the run allows
        ({"token_ids": [40, 41]}, "length"),  # no end token, and nothing says that it ended
        ({"token_ids": [40, 41], "finish_reason": "stop"}, "stop"),
    ],
)
def test_what_did_not_end_is_unfinished(row, finish, tokenizer, tmp_path):
    own = read([{"id": "a", **row}], tokenizer, tmp_path)["a"]["own"]
    assert own["finish_reason"] == finish and len(own["ids"]) <= 50
    assert (own["ids"][-1] in tokenizer.stop_ids) == (finish == "stop")


def test_what_is_there_stays(tokenizer, tmp_path):
    read([{"id": "own/a", "text": "first"}], tokenizer, tmp_path)
    rows = read([{"id": "a", "text": "second"}, {"id": "b", "text": "x"}], tokenizer, tmp_path)
    assert rows["a"]["own"]["text"] == "first" and rows["b"]["own"]["text"] == "x"


@pytest.mark.parametrize(
    "row, words",
    [
        ({"id": "c", "text": "x"}, "'c' is no request"),
        ({"text": "x"}, "None is no request"),
        ({"id": ["a"], "text": "x"}, "is no request"),
        ({"id": "a"}, 'neither a "text" nor "token_ids"'),
        ({"id": "a", "text": "x", "finish_reason": "tool_calls"}, "tool_calls"),
        ({"id": "a", "token_ids": [10**6]}, "vocabulary"),
        ({"id": "a", "token_ids": []}, "vocabulary"),
        ({"id": "a", "text": "x\0"}, "no character"),
        ({"id": "a", "text": "", "finish_reason": "length"}, "empty, and did not end"),
        ({"prompt": "And?", "text": "x"}, "ends several conversations"),
        ({"custom_id": "own/a", "response": None, "error": {"code": 500}}, "engine failed"),
        (
            {"custom_id": "own/a", "response": {"body": {"choices": []}}},
            "another form|as published",
        ),
    ],
)
def test_bad_rows_are_named(row, words, tokenizer, tmp_path):
    with pytest.raises(InputError, match=f"responses.jsonl:2: .*({words})"):
        read([{"id": "b", "text": "fine"}, row], tokenizer, tmp_path)
    with pytest.raises(InputError, match="responses.jsonl:2: a second response"):
        read([{"id": "b", "text": "fine"}] * 2, tokenizer, tmp_path)
