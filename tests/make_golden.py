"""Makes golden.json: what transformers and PEFT compute on the tiny checkpoints.

python tests/make_golden.py  # needs transformers and peft, as the suite does not
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import peft
import tiny
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

IDS = torch.arange(48).reshape(2, 24) * 11 % 256
TEXTS = (
    "Tell me a story about a llama who learns to count.",
    "What is 17 + 25? Explain.",
    "Name three rivers.",
)


def load(path, **options):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)


def logits(family):
    """Every 43rd logit."""
    with tempfile.TemporaryDirectory() as directory:
        tiny.checkpoint(directory, family)
        model = load(directory, attn_implementation="eager").eval()
    with torch.inference_mode():
        return model(IDS).logits[..., ::43].double().round(decimals=5).tolist()


def lora_step():
    """Loss and gradients of two rows of unlike length, their prompts masked."""
    with tempfile.TemporaryDirectory() as directory:
        tiny.checkpoint(directory, "qwen2")
        model = load(directory)
    targets = ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets)
    model = peft.get_peft_model(model, config)
    adapters = {}
    for name, p in model.named_parameters():
        if ".lora_" in name:
            name = name.replace(".default", "").removeprefix("base_model.model.")
            p.data = tiny.values(name, p.shape)
            adapters[name] = p
    ids, labels, mask = (torch.zeros(2, 16, dtype=torch.long) for _ in range(3))
    for row, (prompt, target) in enumerate(tiny.PAIRS):
        n = len(prompt + target)
        ids[row, :n], mask[row, :n] = torch.tensor(prompt + target), 1
        labels[row] = -100
        labels[row, len(prompt) : n] = torch.tensor(target)
    loss = model(ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    gradients = {name: [p.grad.sum().item(), p.grad.norm().item()] for name, p in adapters.items()}
    return {"loss": loss.item(), "gradients": gradients}


def story(model, tokenizer, text):
    """A greedy response of the default checkpoint."""
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(rendered, add_special_tokens=False, return_tensors="pt").input_ids
    ids = model.generate(prompt, max_new_tokens=100, do_sample=False)[0, prompt.shape[1] :]
    return {"text": text, "prompt": prompt[0].tolist(), "ids": ids.tolist()}


if __name__ == "__main__":
    golden = {"transformers": transformers.__version__, "torch": torch.__version__}
    golden["logits"] = {family: logits(family) for family in tiny.FAMILIES}
    golden["lora"] = lora_step()
    model, tokenizer = load(ROOT / "llama"), AutoTokenizer.from_pretrained(ROOT / "llama")
    golden["story"] = [story(model, tokenizer, text) for text in TEXTS]
    text = json.dumps(golden, separators=(",", ":"))
    Path(__file__).with_name("golden.json").write_text(text + "\n")
