"""The default checkpoint: what transformers says with it, and the whole command."""

import json
import os

import kill
import pytest
import torch
from test_s3ft import SAMPLE, figures, read_rows

import model as llama
import sampler
from data import user

CKPT = kill.ROOT / "llama"
STORY = json.loads((kill.ROOT / "tests/golden.json").read_text())["story"]
needs = "needs ./llama; python data/fetch.py checkpoint llama"
pytestmark = pytest.mark.skipif(not (CKPT / "model.safetensors").exists(), reason=needs)


@pytest.fixture(autouse=True)
def all_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    yield
    torch.set_num_threads(threads)


def test_the_story_of_transformers():
    model, tokenizer = llama.load(CKPT)
    prompts = [tokenizer.prompt_ids(user(story["text"])) for story in STORY]
    assert prompts == [story["prompt"] for story in STORY]
    responses = sampler.generate(model, tokenizer, prompts, 40)
    assert [response.ids for response in responses] == [story["ids"][:40] for story in STORY]


def test_the_whole_command(tmp_path):
    args = ["--task", "gsm8k", "--ckpt", CKPT, "--data", SAMPLE / "gsm8k", "--limit", 4]
    args += ["--eval-limit", 1, "--max-new-tokens", 48, "--epochs", 1, "--out", tmp_path / "run"]
    found, _ = figures(*args)
    rows = read_rows(tmp_path / "run/candidates.jsonl")
    assert len(rows) == sum(found["targets"].values()) == 4
    assert found["targets"]["own"] == sum(row["own"]["correct"] for row in rows)
    assert found["scores"]["s3ft"]["gsm8k"]["n"] == 1
    own = sum(row["own"]["logprob"] for row in rows) / sum(len(row["own"]["ids"]) for row in rows)
    gold = sum(row["gold_logprob"] for row in rows) / sum(len(row["gold_ids"]) for row in rows)
    assert own > gold + 0.2  # the paper's figure: a token of its own is likelier
    (line,) = (tmp_path / "run/s3ft/train.csv").read_text().splitlines()[1:]
    assert 0 < float(line.split(",")[1]) < 5
