"""sampler.py against decoding one prompt at a time with the whole model and no cache."""
import random

import model as llama
import numpy as np
import pytest
import sampler
import tiny
import torch
from files import InputError

CAP = 90
PROMPTS = [[r.randrange(256) for _ in range(r.randrange(1, 150))] for r in [random.Random(0)] for _ in range(30)]


@pytest.fixture(scope="module", params=["smollm2", "mistral-window", "qwen3"])
def pair(request, tmp_path_factory):
    model, tokenizer = llama.load(tiny.checkpoint(tmp_path_factory.mktemp("ckpt"), request.param))
    tokenizer.stop_ids |= set(range(0, 300, 31))  # a random model would seldom stop by itself
    return model, tokenizer


@torch.inference_mode()
def one_at_a_time(model, tokenizer, prompt, pick):
    ids, logprob = [], 0.0
    while len(ids) < CAP and not (ids and ids[-1] in tokenizer.stop_ids):
        row = model(torch.tensor([prompt + ids]))[0, -1]
        ids.append(pick(row, len(ids)))
        logprob += row.log_softmax(-1)[ids[-1]].item()
    return ids, logprob


@pytest.fixture(scope="module")
def reference(pair):
    return [one_at_a_time(*pair, p, lambda row, step: row.argmax().item()) for p in PROMPTS]


@pytest.mark.parametrize("slots", [1, 3, 8, None])
def test_greedy_equals_one_at_a_time(pair, reference, slots):
    responses = sampler.generate(*pair, PROMPTS, CAP, slots=slots)
    assert [r.ids for r in responses] == [ids for ids, _ in reference]
    assert [r.logprob for r in responses] == pytest.approx([lp for _, lp in reference], abs=1e-3)
    assert len({len(r.ids) for r in responses}) > 10 and {r.finish for r in responses} == {"stop", "length"}  # rows end at all times
    for r in responses:
        assert (r.finish == "stop") == (r.ids[-1] in pair[1].stop_ids)
        assert r.text == pair[1].decode(r.ids[:-1] if r.finish == "stop" else r.ids)


def test_many_rows_in_several_groups(pair, reference):
    order = [i for n in range(4) for i in random.Random(n).sample(range(len(PROMPTS)), len(PROMPTS))]
    responses = sampler.generate(*pair, [PROMPTS[i] for i in order], CAP, slots=100)
    assert [r.ids for r in responses] == [reference[i][0] for i in order]


def test_a_long_row_that_ends_early_leaves_the_others_room(pair, monkeypatch):
    model, tokenizer = pair                                                  # the last groups' rows are shorter, and so is their room
    prompts = [[i] * 100 if i == 0 else [i] * 10 for i in range(40)]
    first = sampler.generate(model, tokenizer, prompts[:1], 1)[0].ids
    monkeypatch.setattr(tokenizer, "stop_ids", set(first))
    responses = sampler.generate(model, tokenizer, prompts, CAP)
    assert len(responses[0].ids) == 1 and any(len(r.ids) > 64 for r in responses[32:])
    assert [r.ids for r in responses[32:]] == [sampler.generate(model, tokenizer, [p], CAP)[0].ids for p in prompts[32:]]


def test_order_and_company_do_not_matter(pair, reference):
    chosen = random.Random(1).sample(range(len(PROMPTS)), 11)
    responses = sampler.generate(*pair, [PROMPTS[i] for i in chosen], CAP, slots=4)
    assert [r.ids for r in responses] == [reference[i][0] for i in chosen]


def test_what_all_prompts_begin_with_is_read_once(pair, monkeypatch):
    prefix = [random.Random(2).randrange(256) for _ in range(77)]
    prompts = [prefix + p[:60] for p in PROMPTS[:9]] + [prefix + PROMPTS[0][:1]]
    read, hidden = 0, llama.Transformer.hidden

    def counted(model, ids, positions=None, attend=None):
        nonlocal read
        read += ids.numel() if ids.shape[1] > 1 or len(ids) == 1 else 0
        return hidden(model, ids, positions, attend)
    with monkeypatch.context() as m:
        m.setattr(llama.Transformer, "hidden", counted)
        sampler.generate(*pair, prompts, 1)
    assert read < 77 + 10 * 61
    responses = sampler.generate(*pair, prompts, CAP, slots=4)
    assert [r.ids for r in responses] == [one_at_a_time(*pair, p, lambda row, step: row.argmax().item())[0] for p in prompts]


def test_samples_are_a_function_of_seed_prompt_and_step(pair):
    options = dict(temperature=1.3)
    first = sampler.generate(*pair, PROMPTS, CAP, slots=5, seed=3, **options)
    other = sampler.generate(*pair, PROMPTS[::-1], CAP, slots=11, seed=3, **options)[::-1]
    assert [r.ids for r in first] == [r.ids for r in other]
    assert [r.ids for r in first] != [r.ids for r in sampler.generate(*pair, PROMPTS, CAP, slots=5, seed=4, **options)]
    for i in (0, 7):  # and equals one at a time

        def pick(row, step, i=i):
            u = sampler.random_numbers(3, PROMPTS[i], CAP)[step]
            return sampler.choose(row[None], 1.3, [u]).item()
        assert one_at_a_time(*pair, PROMPTS[i], pick)[0] == first[i].ids


def test_choice_follows_the_distribution():
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0, 0.5]])
    u = (np.arange(20_000) + 0.5) / 20_000
    shares = sampler.choose(logits.expand(20_000, -1), 0.7, u).bincount(minlength=5) / 20_000
    torch.testing.assert_close(shares, (logits[0] / 0.7).softmax(-1), atol=2e-4, rtol=0)
    assert sampler.choose(logits, 0, [0.9]).item() == 0


def test_random_numbers_are_uniform_and_independent():
    u = np.array([sampler.random_numbers(s, [1, p], 50) for s in range(10) for p in range(20)])
    assert abs(u.mean() - 0.5) < 0.01 and np.abs(np.corrcoef(u.T) - np.eye(50)).max() < 0.35 and len(np.unique(u)) == u.size


@pytest.mark.parametrize("slots", [8, 30])
def test_finished_rows_make_room(pair, monkeypatch, slots):
    """Rows computed, summed over the steps, stay near the tokens written: no row is dragged along until the last one ends."""
    computed = 0
    decode = sampler.decode

    def counted(model, cache, tokens, lengths):
        nonlocal computed
        computed += len(tokens)
        assert cache.groups[0][1] < max(lengths) + 1 + 3 * sampler.BLOCK  # and the cache is no longer than it need be
        return decode(model, cache, tokens, lengths)
    monkeypatch.setattr(sampler, "decode", counted)
    responses = sampler.generate(*pair, PROMPTS, CAP, slots=slots)
    assert computed < 1.15 * sum(len(r.ids) for r in responses), computed / sum(len(r.ids) for r in responses)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_equal_eager_steps_and_the_cpu(reference, pair, monkeypatch):
    model, tokenizer = llama.load(pair[1].path, torch.float32, "cuda")
    tokenizer.stop_ids = pair[1].stop_ids
    graphs = sampler.generate(model, tokenizer, PROMPTS, CAP, slots=8)
    monkeypatch.setattr(sampler.Decoder, "__call__", lambda self, tokens, lengths: sampler.decode(
        model, self.cache, *torch.tensor([tokens, lengths], device="cuda")))
    assert [r.ids for r in graphs] == [r.ids for r in sampler.generate(model, tokenizer, PROMPTS, CAP, slots=8)] == [ids for ids, _ in reference]


def test_out_of_memory_halves_the_slots(pair, reference, monkeypatch, capsys):
    decode, sizes = sampler.decode, []

    def too_much(model, cache, tokens, lengths):
        sizes.append(len(tokens))
        if len(tokens) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(model, cache, tokens, lengths)
    monkeypatch.setattr(sampler, "decode", too_much)
    seen = []
    responses = sampler.generate(*pair, PROMPTS, CAP, slots=16, on_done=lambda i, response: seen.append(i))
    assert [r.ids for r in responses] == [ids for ids, _ in reference] and sorted(seen) == list(range(len(PROMPTS)))
    assert max(sizes) > 8 and "4 responses at once" in capsys.readouterr().err
    monkeypatch.setattr(sampler, "decode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(InputError, match="does not fit into the memory"):
        sampler.generate(*pair, PROMPTS[:2], CAP)


def test_on_done_is_called_once_a_prompt(pair):
    seen = {}

    def done(i, response):
        assert i not in seen
        seen[i] = response
    responses = sampler.generate(*pair, PROMPTS, 20, slots=4, on_done=done)
    assert [seen[i] for i in range(len(PROMPTS))] == responses
    assert sampler.generate(*pair, [], 20) == []


def test_prompts_that_do_not_fit_are_refused(pair):
    with pytest.raises(InputError, match="prompt 1 has 500 tokens.* 512"):
        sampler.generate(*pair, [[1], [1] * 500], 13)
    assert len(sampler.generate(*pair, [[1] * 500], 12)[0].ids) <= 12
    with pytest.raises(InputError, match="prompt 0 has 0 tokens"):
        sampler.generate(*pair, [[]], 5)
    with pytest.raises(InputError, match="pair 0"):
        sampler.logprobs(pair[0], [[1] * 500], [[1] * 14])


@torch.inference_mode()
def test_logprobs(pair):
    continuations = [[(7 * i + j) % 256 for j in range(i % 9)] for i in range(len(PROMPTS))]  # some are empty
    expected = []
    for p, c in zip(PROMPTS, continuations):
        rows = pair[0](torch.tensor([p + c]))[0].log_softmax(-1)
        expected.append(sum(rows[len(p) - 1 + n, t].item() for n, t in enumerate(c)))
    for budget in (64, 400, 10_000):
        assert sampler.logprobs(pair[0], PROMPTS, continuations, budget=budget) == pytest.approx(expected, abs=1e-3)
