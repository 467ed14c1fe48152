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

# One story of the default checkpoint (python data/fetch.py checkpoint llama), greedy in float32.
CKPT = Path(__file__).parents[1] / "llama"
tokenizer = transformers.AutoTokenizer.from_pretrained(CKPT)
model = transformers.AutoModelForCausalLM.from_pretrained(CKPT, dtype=torch.float32)
golden["story"] = []
for text in ("Tell me a story about a llama who learns to count.", "What is 17 + 25? Explain.", "Name three rivers."):
    prompt = tokenizer(tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False),
                       add_special_tokens=False, return_tensors="pt").input_ids
    ids = model.generate(prompt, max_new_tokens=100, do_sample=False)[0, prompt.shape[1]:].tolist()
    golden["story"].append({"text": text, "prompt": prompt[0].tolist(), "ids": ids})
Path(__file__).with_name("golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
