"""Makes tests/golden.json: what transformers computes on the tiny checkpoints. Needs transformers and peft, unlike the suite.

    python tests/make_golden.py        # with transformers 5.23, torch 2.13
"""
import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import tiny
import torch
import transformers

IDS = torch.arange(48).reshape(2, 24) * 11 % 256
golden = {"transformers": transformers.__version__, "torch": torch.__version__, "logits": {}}
for family in tiny.FAMILIES:
    with tempfile.TemporaryDirectory() as directory:
        tiny.checkpoint(directory, family)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.inference_mode():
            logits = model(IDS).logits
    golden["logits"][family] = [[[round(v, 5) for v in row[::43].tolist()] for row in sequence] for sequence in logits]
Path(__file__).with_name("golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
