"""train.py: the loss and its weights, dropout, the optimiser's steps, training that was killed."""

import math

import job
import pytest
import tiny
import torch

import model as llama
import train
from files import InputError
from train import Row, RowDropout, accumulate_gradients

SETTINGS = {"epochs": 2, "lr": 1e-2, "batch": 5, "micro_tokens": 60, "seed": 3}


def rows():
    return [Row(*tiny.training_pair(i)) for i in range(21)]


def load(path, full=False, p=0.0):
    """(model in training, its dropout); adapters are not zero."""
    model, _ = llama.load(tiny.checkpoint(path, "smollm2" if full else "qwen2"))
    dropout = RowDropout(p)
    if not full:
        llama.add_lora(model, 4, 8, dropout, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = tiny.values(name, parameter.shape) * 0.1
    return model.train(), dropout


def loss_by_autograd(model, rows):
    """The sum as train.py's first lines say it, row by row and without packing."""
    total, count = 0.0, 0
    for row in rows:
        logprobs = model(torch.tensor([row.prompt + row.target]))[0].log_softmax(-1)
        places = range(len(row.prompt) - 1, len(row) - 1)
        total -= (torch.tensor(row.weight) * logprobs[places, row.target]).sum()
        count += len(row.target)
    return total / count


def gradients(model):
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def differences(found, expected):
    """Names of the gradients that are not equal."""
    assert found.keys() == expected.keys() and found
    errors = {name: (found[name] - expected[name]).norm() for name in found}
    return [name for name in found if errors[name] > 1e-5 * expected[name].norm() + 1e-7]


def losses(directory):
    lines = (directory / "train.csv").read_text().splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


# The loss


@pytest.mark.parametrize("full", [False, True])
def test_loss_and_gradients_are_those_of_the_sum(tmp_path, full):
    """With weights of 2, of -0.5, of 0, and one for each token; in micro-batches of any size."""
    model, dropout = load(tmp_path, full)
    batch = rows()[:8]
    batch[1].weight, batch[2].weight, batch[3].weight = 2.0, -0.5, 0.0
    batch[5].weight = [0.5 * n for n in range(len(batch[5].target))]
    loss = loss_by_autograd(model.eval(), batch)
    loss.backward()
    expected = gradients(model.train())
    for micro_tokens in (1, 45, 10_000):
        found = accumulate_gradients(model, batch, micro_tokens, dropout)
        assert found == pytest.approx(loss.item(), rel=1e-5)
        assert not differences(gradients(model), expected)


def test_a_place_may_have_several_tokens_and_every_target_has_a_weight(tmp_path):
    model, dropout = load(tmp_path)
    alone, both = Row([1, 2], [3]), Row([1, 2], [3], [[(3, 1.0), (7, 0.5), (9, -2.0)]])
    model.eval()
    loss = sum(w * loss_by_autograd(model, [Row([1, 2], [t])]) for t, w in both.weight[0])
    loss.backward()
    expected = gradients(model.train())
    found = accumulate_gradients(model, [both, Row([4], [5], 0.0)], 10_000, dropout)
    assert 2 * found == pytest.approx(loss.item(), rel=1e-5)
    found = {name: 2 * gradient for name, gradient in gradients(model).items()}
    assert not differences(found, expected)
    alone.weight = [1.0, 1.0]
    with pytest.raises(ValueError):
        accumulate_gradients(model, [alone], 10_000, dropout)


def test_weigh_sets_weights_and_adds_rows_under_the_current_model(tmp_path):
    model, dropout = load(tmp_path)
    asked, seeds = [], set()

    def weigh(model, batch):
        for row in batch:
            row.weight = 0.0 if row.target[0] < 9 else 0.5
            seeds.add(row.dropout_seed)
        batch = [*batch, Row([1, 2, 3], [4, 5], -0.5)]
        with torch.no_grad():
            asked.append(loss_by_autograd(model, batch).item())
        return batch

    train.train(model, rows(), tmp_path / "arm", **SETTINGS, dropout=dropout, weigh=weigh)
    assert losses(tmp_path / "arm") == pytest.approx(asked, rel=1e-4)
    assert len(seeds) == 2 * 21  # another dropout in every epoch


# Dropout


def masks(dropout, seeds, index, tokens=40, size=30):
    """{seed: mask} of rows that are packed together."""
    dropout.rows = [(seed, tokens + seed % 7) for seed in seeds]
    lengths = [length for _, length in dropout.rows]
    x = dropout(torch.ones(1, sum(lengths), size), index)[0]
    return dict(zip(seeds, x.split(lengths)))


def test_a_mask_depends_on_the_seed_of_its_row_and_on_the_projection():
    dropout = RowDropout(0.5)
    expected = masks(dropout, [2], 3)[2]
    assert torch.equal(masks(dropout, [1, 2, 3], 3)[2], expected)
    assert torch.equal(masks(dropout, [3, 2], 3)[2], expected)
    for other in masks(dropout, [2], 4)[2], masks(dropout, [9], 3)[9]:
        assert (other == expected).float().mean() == pytest.approx(0.5, abs=0.1)


def test_dropout_drops_a_share_everywhere():
    x = masks(RowDropout(0.1), [7], 0, tokens=401, size=403)[7]
    dropped = x == 0
    assert dropped.float().mean() == pytest.approx(0.1, abs=0.004)
    for dim in (0, 1):  # no row and no column more
        assert abs(dropped.float().mean(dim) - 0.1).max() < 0.1
    for neighbours in dropped[:, 1:] & dropped[:, :-1], dropped[1:] & dropped[:-1]:
        assert neighbours.float().mean() == pytest.approx(0.01, abs=0.002)
    assert torch.equal(x[~dropped], torch.ones(x.numel() - dropped.sum()))


def test_the_adapter_makes_up_for_what_is_dropped(tmp_path):
    model, dropout = load(tmp_path, p=0.25)
    mlp = model.train().model.layers[0].mlp
    x, dropout.rows = torch.randn(1, 6, 32), [(1, 6)]
    for linear in mlp.gate_proj, mlp.up_proj:  # of one input: they have one mask
        torch.nn.init.normal_(linear.lora_B)
        read = dropout(x, mlp.gate_proj.lora_index)
        assert (read == 0).any()
        change = linear.lora_scale / 0.75 * read @ linear.lora_A.T @ linear.lora_B.T
        assert torch.allclose(linear(x), x @ linear.weight.T + change, atol=1e-5)


def test_dropout_acts_in_training_alone_and_on_adapters_alone(tmp_path):
    model, dropout = load(tmp_path, p=0.5)
    ids = torch.arange(24)[None]
    dropout.rows = [(1, 24)]
    noisy, calm = model(ids), model.eval()(ids)
    assert not torch.equal(noisy, calm) and torch.equal(model(ids), calm)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert torch.equal(model.train()(ids), model.eval()(ids))


def test_recomputation_and_micro_batches_keep_the_dropout(tmp_path):
    model, dropout = load(tmp_path, p=0.3)
    batch = rows()[:8]
    for i, row in enumerate(batch):
        row.dropout_seed = i
    accumulate_gradients(model, batch, 10_000, dropout)
    expected = gradients(model)
    calls = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for model.recompute in (False, True):
        calls.clear()
        accumulate_gradients(model, batch, 10_000, dropout)
        assert len(calls) == 1 + model.recompute
        assert not differences(gradients(model), expected)
    accumulate_gradients(model, batch, 30, dropout)
    assert not differences(gradients(model), expected)
    batch[0].dropout_seed = 99
    accumulate_gradients(model, batch, 30, dropout)
    assert differences(gradients(model), expected)


# The loop


def test_training_is_adamw_on_clipped_gradients(tmp_path):
    """Against torch's own loop, without packing, micro-batches or state."""
    model, dropout = load(tmp_path, full=True)
    train.train(model, rows(), tmp_path / "arm", **SETTINGS, dropout=dropout)
    assert not model.training
    reference, _ = load(tmp_path, full=True)
    optimizer = torch.optim.AdamW(reference.parameters(), weight_decay=0.0)
    steps = train.batch_schedule(21, epochs=2, batch=5, seed=3)
    expected = []
    for number, step in enumerate(steps):
        optimizer.zero_grad()
        loss = loss_by_autograd(reference, [rows()[i] for i in step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = train.learning_rate(number, len(steps), 1e-2)
        optimizer.step()
        expected.append(loss.item())
    assert losses(tmp_path / "arm") == pytest.approx(expected, rel=1e-3)
    for found, exact in zip(model.parameters(), reference.parameters()):
        assert (found - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("case", ["ldk", "fdk"])
def test_a_killed_training_ends_in_the_same_weights(tmp_path, case):
    """LoRA and all weights; killed after a step of the first and of the second epoch."""
    ckpt = tiny.checkpoint(tmp_path / "ckpt")
    whole, log = job.train_case(tmp_path / "a", ckpt, case)
    assert len(log) == 1 + 10
    for stop in (2, 7):
        assert job.train_case(tmp_path / "b", ckpt, case, stop) is None
    before = train.trained["tokens"]
    weights, log_again = job.train_case(tmp_path / "b", ckpt, case)
    assert log_again == log
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    last_steps = [int(line.split(",")[4]) for line in log[8:]]
    assert train.trained["tokens"] - before == sum(last_steps)


def test_an_epoch_visits_every_row_once():
    steps = train.batch_schedule(21, 3, 4, seed=0)
    assert [len(step) for step in steps] == [4, 4, 4, 4, 4, 1] * 3
    epochs = [sum(steps[i : i + 6], []) for i in (0, 6, 12)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != list(range(21))
    assert steps == train.batch_schedule(21, 3, 4, seed=0) != train.batch_schedule(21, 3, 4, seed=1)


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [train.learning_rate(step, 100, 2.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0) and 0 <= rates[99] < 2e-3
    assert train.learning_rate(0, 1, 1.0) == 1.0


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    model, dropout = load(tmp_path)
    next(p for p in model.parameters() if p.requires_grad).data[0, 0] = math.nan
    with pytest.raises(InputError, match="step 1: loss nan.*; try a lower --lr"):
        train.train(model, rows(), tmp_path / "arm", **SETTINGS, dropout=dropout)
    assert losses(tmp_path / "arm") == []
