"""One undisturbed run of the whole command, which many tests look at or compare with."""

import json
import os

# Before torch is imported: more threads slow a tiny model down, above all while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
import kill
import pytest
import tiny

import model as llama
import sampler
from data import user


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def arguments(tmp_path_factory):
    """Options of a run: 12 training rows, 5 of which the model answers rightly, and a benchmark."""
    folder = tmp_path_factory.mktemp("task")
    ckpt = tiny.checkpoint(folder / "ckpt", "qwen2", max_position_embeddings=1024)
    model, tokenizer = llama.load(ckpt)
    questions = [f"Question {n}?" for n in range(60)]
    prompts = [tokenizer.prompt_ids(user(question)) for question in questions]
    right, wrong = [], []
    for question, response in zip(questions, sampler.generate(model, tokenizer, prompts, 24)):
        if response.finish_reason == "length":
            wrong.append({"prompt": question, "gold": "no"})
        elif response.text.strip() and "\0" not in response.text:
            gold = response.text + " "  # other ids than the response, for the judge the same
            right.append({"prompt": question, "gold": gold})
    train = write_rows(folder / "train.jsonl", right[:5] + wrong[:7])
    test = write_rows(folder / "test.jsonl", right[5:7] + wrong[7:10])
    item = {"ctx_a": "A cat sees mice.", "ctx_b": "it", "activity_label": "Cats", "label": 1}
    item["endings"] = ["runs.", "sleeps all day.", "eats two of them.", "flies."]
    write_rows(folder / "hellaswag/hellaswag_val.jsonl", [item] * 9)
    options = ["--task", train, "--test", test, "--ckpt", ckpt, "--method", "sft,s3ft"]
    options += ["--bench", "hellaswag", "--bench-data", folder, "--max-new-tokens", 24]
    options += ["--epochs", 2, "--batch", 4, "--lr", 1e-3, "--judge", "exact"]
    return [*options, "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="session")
def whole(arguments, tmp_path_factory):
    """(finished process, run directory)"""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = kill.finish([*arguments, "--show", 1], out)
    assert process.returncode == 0, process.stderr
    return process, out
