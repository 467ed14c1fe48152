"""model.py: the logits of transformers, checkpoints in and out, LoRA against PEFT.

golden.json holds what transformers and PEFT compute; make_golden.py makes it.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import tiny
import torch

import model as llama
from train import Row, accumulate_gradients

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
IDS = torch.arange(48).reshape(2, 24) * 11 % 256
RANK, ALPHA = 4, 8


@torch.inference_mode()
def logits(model):
    return model(IDS)


def assert_near(found, expected, share):
    """The error's norm is below a share of the expected tensor's."""
    assert (found.float() - expected).norm() < share * expected.norm()


# Logits


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_of_transformers(tmp_path, family):
    model, _ = llama.load(tiny.checkpoint(tmp_path, family))
    expected = torch.tensor(GOLDEN["logits"][family])
    torch.testing.assert_close(logits(model)[..., ::43], expected, atol=1e-4, rtol=0)


def test_shards_hold_the_same_model_and_dtypes_are_kept(tmp_path):
    whole, _ = llama.load(tiny.checkpoint(tmp_path / "one", "llama3"))
    parts, _ = llama.load(tiny.checkpoint(tmp_path / "three", "llama3", pieces=3))
    assert torch.equal(logits(whole), logits(parts))
    narrow, _ = llama.load(tmp_path / "one", torch.bfloat16)
    assert narrow.lm_head.weight.dtype == torch.bfloat16
    assert logits(narrow).dtype == torch.float32
    assert_near(logits(narrow), logits(whole), 0.05)


def test_other_spellings_of_the_same_checkpoint(tmp_path):
    """No number of key-value heads; a tied model whose file has the head alone."""
    for family in "llama2", "smollm2":
        path = tiny.checkpoint(tmp_path / family, family)
        expected = logits(llama.load(path)[0])
        raw = json.loads((path / "config.json").read_text())
        tensors = safetensors.torch.load_file(path / "model.safetensors")
        if raw["tie_word_embeddings"]:
            tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        else:
            raw["num_key_value_heads"] = None
        (path / "config.json").write_text(json.dumps(raw))
        safetensors.torch.save_file(tensors, path / "model.safetensors", {"format": "pt"})
        assert torch.equal(logits(llama.load(path)[0]), expected)


def written_out(q, k, v, window):
    """Attention position by position, in float64."""
    q, k, v = q.double(), k.double().repeat_interleave(3, 1), v.double().repeat_interleave(3, 1)
    out = []
    for i in range(q.shape[2]):
        seen = slice(max(0, i + 1 - window), i + 1)
        scores = k[:, :, seen] @ q[:, :, i, :, None] / math.sqrt(q.shape[3])
        out.append((scores.softmax(2) * v[:, :, seen]).sum(2))
    return torch.stack(out, 2)


@pytest.mark.parametrize("T, window", [(40, None), (40, 9), (40, 64), (520, 9)])
def test_attention_as_written_out(T, window):
    """In bfloat16 short rows go through two products, long ones through torch's kernel."""
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, heads, T, 16, generator=random) for heads in (6, 2, 2)]
    for dtype, share in (torch.float32, 1e-5), (torch.bfloat16, 0.02):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        y, expected = llama.causal_attention(*leaves, window), written_out(*leaves, window or T)
        assert_near(y, expected.float(), share)
        gradients = torch.autograd.grad(y.float().square().sum(), leaves)
        for found, exact in zip(gradients, torch.autograd.grad(expected.square().sum(), leaves)):
            assert_near(found, exact.float(), share)


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = pytest.param("cuda", torch.bfloat16, 0.02, marks=NEEDS_GPU)


@pytest.mark.parametrize("device, dtype, share", [("cpu", torch.float32, 1e-5), GPU])
@pytest.mark.parametrize("family", ["qwen2", "mistral-window"])
def test_packed_texts_do_not_see_each_other(tmp_path, family, device, dtype, share):
    model, _ = llama.load(tiny.checkpoint(tmp_path, family), dtype, device)
    texts = [torch.arange(n, 2 * n, device=device) * 7 % 250 for n in (1, 45, 20)]
    lengths = [len(text) for text in texts]
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])
    attend = llama.packed_attention(model.config, lengths, model.device)
    with torch.no_grad():
        packed = model.hidden(torch.cat(texts)[None], positions[None], attend)[0]
        alone = torch.cat([model.hidden(text[None])[0] for text in texts])
    assert_near(packed, alone.float(), share)


# Save


@pytest.mark.parametrize("family", ["smollm2", "llama-biases", "qwen3", "llama3-new-layout"])
def test_a_saved_directory_is_the_same_model(tmp_path, family):
    path = tiny.checkpoint(tmp_path / "a", family, template=None)
    (path / "chat_template.jinja").write_text(tiny.TEMPLATE)
    model, tokenizer = llama.load(path)
    llama.save(model, tokenizer, tmp_path / "b")
    again, tokenizer_again = llama.load(tmp_path / "b")
    assert torch.equal(logits(model), logits(again))
    message = [{"role": "user", "content": "Hi?"}]
    assert tokenizer_again.prompt_ids(message) == tokenizer.prompt_ids(message)
    assert tokenizer_again.stop_ids == tokenizer.stop_ids
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert config["dtype"] == "float32" and "torch_dtype" not in config
    saved = safetensors.torch.load_file(tmp_path / "b/model.safetensors")
    assert saved.keys() == tiny.shapes(config).keys()  # if it is tied, without lm_head


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    model, tokenizer = llama.load(tiny.checkpoint(tmp_path / "a"))
    llama.save(model, tokenizer, tmp_path / "b")
    before = {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        llama.save(model, tokenizer, tmp_path / "b")
    assert {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()} == before
    assert len(list(tmp_path.iterdir())) == 2


# LoRA


def load_adapted(path, **some):
    model, tokenizer = llama.load(tiny.checkpoint(path, "qwen2"))
    llama.add_lora(model, RANK, ALPHA, dropout=lambda x, index: x, seed=0, **some)
    return model, tokenizer


def adapters(model):
    """{name in PEFT: parameter}"""
    return {f"{name}.weight": p for name, p in model.named_parameters() if ".lora_" in name}


def set_adapters(model, scale=1.0):
    for name, parameter in adapters(model).items():
        parameter.data = scale * tiny.values(name, parameter.shape)


def test_a_step_equals_peft(tmp_path):
    """Golden adapters are those of q_proj, v_proj and down_proj."""
    model, _ = load_adapted(tmp_path, on=["q_proj", "v_proj", "down_proj"])
    set_adapters(model)
    golden = GOLDEN["lora"]["gradients"]
    rows = [Row(prompt, target) for prompt, target in tiny.PAIRS]
    loss = accumulate_gradients(model, rows, 10_000, SimpleNamespace())
    assert loss == pytest.approx(GOLDEN["lora"]["loss"], rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in adapters(model).items()}
    assert len(golden) == 18 and golden.keys() == gradients.keys()
    for name, (total, norm) in golden.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4)
        assert gradients[name].sum().item() == pytest.approx(total, abs=1e-4 * norm)
    trained = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}


def test_lora_starts_at_the_base_and_merges_to_the_same_logits(tmp_path):
    base, _ = llama.load(tiny.checkpoint(tmp_path / "a", "qwen2"))
    model, tokenizer = load_adapted(tmp_path / "a")
    assert torch.equal(logits(base), logits(model))
    A = model.model.layers[1].mlp.down_proj.lora_A  # as in PEFT: kaiming_uniform_(a=√5)
    assert 0.9 < A.abs().max() * math.sqrt(A.shape[1]) <= 1 and abs(A.mean()) < 0.02
    assert len(A.unique()) == A.numel()

    set_adapters(model, scale=0.1)
    adapted = logits(model)
    assert (adapted - logits(base)).abs().max() > 0.1
    llama.save(model, tokenizer, tmp_path / "merged")
    merged, _ = llama.load(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), adapted, atol=1e-4, rtol=0)
    assert torch.equal(logits(model), adapted)  # saving did not touch the model


def test_an_adapter_file_has_the_names_and_layout_of_peft(tmp_path):
    model, _ = load_adapted(tmp_path / "a")
    set_adapters(model)
    llama.save_adapter(model, tmp_path / "adapter", {"r": RANK, "lora_alpha": ALPHA})
    saved = safetensors.torch.load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert {f"base_model.model.{name}" for name in GOLDEN["lora"]["gradients"]} < saved.keys()
    assert len(saved) == 3 * 7 * 2
    for name, tensor in saved.items():
        expected = tiny.values(name.removeprefix("base_model.model."), tensor.shape)
        assert torch.equal(tensor, expected)
        assert tensor.shape["lora_B" in name] == RANK
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == RANK and config["lora_alpha"] == ALPHA
    names = "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"
    assert sorted(config["target_modules"]) == names.split()
