"""The default checkpoint itself: the golden story of transformers, and the whole command. Skipped where ./llama is not there."""
import json
import subprocess
import sys
from pathlib import Path

import model as llama
import pytest
import sampler
import torch

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
pytestmark = pytest.mark.skipif(not (ROOT / "llama/model.safetensors").exists(), reason="no ./llama; python data/fetch.py checkpoint llama")


def test_golden_story():
    model, tokenizer = llama.load(ROOT / "llama", torch.float32)
    prompts = [tokenizer.prompt_ids(s["text"]) for s in GOLDEN["story"]]
    assert prompts == [s["prompt"] for s in GOLDEN["story"]]
    responses = sampler.generate(model, tokenizer, prompts, 60)
    assert [r.ids for r in responses] == [s["ids"][:60] for s in GOLDEN["story"]]


def test_the_whole_command(tmp_path):
    run = subprocess.run([sys.executable, ROOT / "s3ft.py", "--task", "gsm8k", "--ckpt", ROOT / "llama", "--data", ROOT / "data/sample/gsm8k",
                          "--limit", "8", "--eval-limit", "4", "--max-new-tokens", "96", "--epochs", "1", "--out", tmp_path / "run"],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    candidates = [json.loads(line) for line in open(tmp_path / "run/candidates.jsonl")]
    assert len(candidates) == sum(figures["targets"].values()) == 8 and figures["scores"]["s3ft"]["gsm8k"]["n"] == 4
    assert figures["targets"]["self"] == sum(c["self"]["correct"] for c in candidates)

    def per_token(kind, rows):  # the paper's figure: own responses are likelier than gold
        return sum(c["self"]["logprob"] if kind == "self" else c["gold_logprob"] for c in rows) / sum(
            len(c["self"]["ids"] if kind == "self" else c["gold_ids"]) for c in rows)
    assert per_token("self", candidates) > per_token("gold", candidates) + 0.2
    losses = [float(line.split(",")[1]) for line in (tmp_path / "run/s3ft/train.csv").read_text().splitlines()[1:]]
    assert len(losses) == 1 and all(0 < x < 5 for x in losses)
