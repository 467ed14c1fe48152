"""What is compiled, and packed weights, against plain PyTorch."""

import shutil

import pytest
import tiny
import torch

import kernels
import model as llama
import sampler

PROMPTS = [[i % 50 + 1 for i in range(n)] for n in (3, 40, 9, 71, 20, 1)]


@pytest.fixture
def build():
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    return kernels.build


@pytest.mark.parametrize("head_dim", [24, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_compiled_attention_equals_pytorch(build, dtype, head_dim):
    """Rows of all lengths, a window, a cache longer than what is in use; the cache is written."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator).to(dtype)  # noqa: E731
    q, k, v = draw(7, 2, 3, head_dim), draw(7, 2, head_dim), draw(7, 2, head_dim)
    cache, library = draw(2, 7, 2, 90, head_dim), build(dtype, head_dim)
    lengths = torch.tensor([0, 1, 15, 16, 40, 63, 64])
    for window in (None, 16, 1):
        found, exact = cache.clone(), cache.double()
        y = kernels.attend(library, q, k, v, *found[:, :, :, :70], lengths, window, None)
        given = q.double(), k.double(), v.double(), *exact[:, :, :, :70], lengths, window
        expected = kernels.attend(None, *given, kernels.visible(lengths, 70, window))
        error = 2e-6 if dtype == torch.float32 else 0.01
        torch.testing.assert_close(y.double(), expected, atol=error, rtol=error)
        torch.testing.assert_close(found.double(), exact, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["smollm2", "mistral", "qwen3"])
def test_generation_is_the_same(build, family, tmp_path):
    """Compiled attention and packed weights: the tokens of plain PyTorch, and its logprobs."""
    model, tokenizer = llama.load(tiny.checkpoint(tmp_path / "ckpt", family))
    expected = sampler.generate(model, tokenizer, PROMPTS, 40)
    model.kernels = build(torch.float32, model.config.head_dim)
    for module in model.modules():
        if isinstance(module, llama.Linear):
            module.packed = kernels.pack(module.weight.detach())
    found = sampler.generate(model, tokenizer, PROMPTS, 40, max_batch=4)
    assert [r.ids for r in found] == [r.ids for r in expected]
    assert [r.logprob for r in found] == pytest.approx([r.logprob for r in expected], abs=1e-4)


def test_without_a_compiler_attention_is_pytorch(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler")
    model, _ = llama.load(tiny.checkpoint(tmp_path / "ckpt"))
    kernels.choose.cache_clear()
    assert "attention is PyTorch's" in kernels.enable(model)
    assert model.kernels is None
    kernels.choose.cache_clear()


def test_small_numbers_survive(build):
    """Code linked with -ffast-math would round denormal numbers to zero in the whole process."""
    build(torch.float32, 64)
    assert (torch.tensor([1e-40]) * 1).item() > 0
