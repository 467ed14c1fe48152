"""Makes tests/golden.json: what transformers computes on the tiny checkpoints. Needs transformers and peft, unlike the suite.

    python tests/make_golden.py        # with transformers 5.23, torch 2.13
"""
import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
import peft
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

# One LoRA step: loss and gradients of transformers + peft on two rows of unlike length, prompt tokens masked.
with tempfile.TemporaryDirectory() as directory:
    tiny.checkpoint(directory, "qwen2")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, p in model.named_parameters():
        if ".lora_" in name:
            p.data = tiny.values(name.replace(".default", "").removeprefix("base_model.model."), p.shape)
    ids, labels, mask = (torch.zeros(2, 16, dtype=torch.long) for _ in range(3))
    for row, (prompt, target) in enumerate(tiny.PAIRS):
        n = len(prompt + target)
        ids[row, :n], mask[row, :n] = torch.tensor(prompt + target), 1
        labels[row] = torch.tensor([-100] * len(prompt) + target + [-100] * (16 - n))
    loss = model(ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    golden["lora"] = {"loss": loss.item(), "gradients": {
        name.replace(".default", "").removeprefix("base_model.model."): [p.grad.sum().item(), p.grad.norm().item()]
        for name, p in model.named_parameters() if p.requires_grad}}
Path(__file__).with_name("golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
