"""sampler.py against the whole model, one prompt at a time and without a cache."""

import random

import numpy as np
import pytest
import tiny
import torch

import model as llama
import sampler
from files import InputError

NEW = 70  # tokens of a response: the cache has to grow
DRAW = random.Random(3)
PROMPTS = [DRAW.choices(range(256), k=DRAW.randrange(1, 100)) for _ in range(20)]


@pytest.fixture(scope="module", params=["smollm2", "mistral-window", "qwen3"])
def pair(request, tmp_path_factory):
    ckpt = tiny.checkpoint(tmp_path_factory.mktemp("ckpt"), request.param)
    model, tokenizer = llama.load(ckpt)
    tokenizer.stop_ids |= set(range(0, 300, 31))  # rows end at all times
    return model, tokenizer


@torch.inference_mode()
def one_at_a_time(model, tokenizer, prompt):
    """(greedy ids, their log-probability)"""
    ids, logprob = [], 0.0
    while len(ids) < NEW and not tokenizer.stop_ids.intersection(ids):
        logprobs = model(torch.tensor([prompt + ids]))[0, -1].log_softmax(-1)
        ids.append(logprobs.argmax().item())
        logprob += logprobs[ids[-1]].item()
    return ids, logprob


@pytest.fixture(scope="module")
def expected(pair):
    return [one_at_a_time(*pair, prompt) for prompt in PROMPTS]


def generate(pair, prompts, **options):
    """Token ids alone."""
    return [response.ids for response in sampler.generate(*pair, prompts, NEW, **options)]


def test_greedy_equals_one_at_a_time_for_any_max_batch(pair, expected):
    tokenizer = pair[1]
    for max_batch in (1, 5, None):
        responses = sampler.generate(*pair, PROMPTS, NEW, max_batch=max_batch)
        for response, (ids, logprob) in zip(responses, expected, strict=True):
            assert response.ids == ids
            assert response.logprob == pytest.approx(logprob, abs=1e-3)
            stopped = ids[-1] in tokenizer.stop_ids
            assert response.finish_reason == ("stop" if stopped else "length")
            assert response.text == tokenizer.decode(ids[:-1] if stopped else ids)
    assert {response.finish_reason for response in responses} == {"stop", "length"}


def test_order_and_company_do_not_matter(pair, expected):
    """Of 80 rows 70 are in flight, in several groups of the cache."""
    order = list(range(20)) * 4
    random.Random(1).shuffle(order)
    found = generate(pair, [PROMPTS[i] for i in order], max_batch=70)
    assert found == [expected[i][0] for i in order]


def test_a_sample_depends_on_seed_and_prompt_alone(pair):
    options = {"temperature": 1.3, "seed": 3}
    found = generate(pair, PROMPTS, max_batch=5, **options)
    assert found == generate(pair, PROMPTS[::-1], max_batch=11, **options)[::-1]
    (response,) = sampler.generate(*pair, PROMPTS[:1], NEW, **options)
    logprob = sampler.logprobs(pair[0], PROMPTS[:1], [found[0]])[0]  # at temperature 1
    assert response.ids == found[0] and response.logprob == pytest.approx(logprob, abs=1e-3)
    for other in {"temperature": 1.3, "seed": 4}, {"temperature": 0.0}:
        same = [a == b for a, b in zip(found, generate(pair, PROMPTS, **other))]
        assert sum(same) < 3


def test_a_sampled_token_follows_the_distribution():
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0, 0.5]])
    uniform = (np.arange(20_000) + 0.5) / 20_000
    tokens = sampler.sample_token(logits.expand(20_000, -1), 0.7, uniform)
    shares = (logits[0] / 0.7).softmax(-1)
    torch.testing.assert_close(tokens.bincount() / 20_000, shares, atol=2e-4, rtol=0)
    assert sampler.sample_token(logits, 0.7, [np.nextafter(1, 0)]).item() == 4
    assert sampler.sample_token(logits, 0, [0.9]).item() == 0


def test_rows_that_end_make_room(pair, monkeypatch):
    """Neither are ended rows computed for long, nor do waiting ones wait for the longest."""
    sizes, hidden = [], llama.Transformer.hidden

    def look(model, ids, *args, **options):
        if ids.shape[1] == 1:
            sizes.append(len(ids))
        return hidden(model, ids, *args, **options)

    monkeypatch.setattr(llama.Transformer, "hidden", look)
    for max_batch, passes in (4, 1.4), (20, 3):
        sizes.clear()
        written = sum(map(len, generate(pair, PROMPTS, max_batch=max_batch)))
        assert sum(sizes) < 1.2 * written
        assert len(sizes) < passes * written / max_batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_graphs_equal_the_cpu(pair, expected):
    model, tokenizer = llama.load(pair[1].path, torch.float32, "cuda")
    tokenizer.stop_ids = pair[1].stop_ids
    found = generate((model, tokenizer), PROMPTS, max_batch=8)
    assert found == [ids for ids, _ in expected]


def test_what_does_not_fit_is_refused(pair):
    with pytest.raises(InputError, match="prompt 1 has 500 tokens"):
        sampler.generate(*pair, [[1], [1] * 500], 13)
    with pytest.raises(InputError, match="prompt 0 has 0 tokens"):
        sampler.generate(*pair, [[]], 5)
    assert len(sampler.generate(*pair, [[1] * 500], 12)) == 1
    for prompt, text in ([1] * 500, [1] * 14), ([], [1]):
        with pytest.raises(InputError, match="pair 0"):
            sampler.logprobs(pair[0], [prompt], [text])
    assert len(sampler.logprobs(pair[0], [[1] * 500], [[1] * 13])) == 1


@torch.inference_mode()
def test_logprobs_equal_the_whole_model(pair):
    """Texts share beginnings, in prompt and continuation; there are windows; some say nothing."""
    model, _ = pair
    shared = [PROMPTS[0] * 2 + prompt[:9] for prompt in PROMPTS[:6]]
    prompts = shared * 3 + PROMPTS
    texts = [PROMPTS[3][: i % 9] for i in range(len(prompts))]
    expected = []
    for prompt, text in zip(prompts, texts):
        logprobs = model(torch.tensor([prompt + text]))[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt + text) - 1)
        expected.append(logprobs[places, text].sum().item())
    assert sampler.logprobs(model, prompts, texts) == pytest.approx(expected, abs=1e-3)
    assert sampler.logprobs(model, [], []) == sampler.generate(*pair, [], 9) == []
