"""Variants of the method in forks/, against their formulas, and what else a fork may bring."""

import importlib.util
import json
import math
import signal
from types import ModuleType, SimpleNamespace

import kill
import pytest
import tiny
import torch
from test_parallel import assert_equal_runs
from test_s3ft import command, figures, read_rows
from test_train import differences, gradients, load, rows

import model as llama
import s3ft
from data import Example, user
from train import accumulate_gradients


@pytest.fixture
def fork(monkeypatch):
    """A file of forks/ as a module; what it adds to the tables of s3ft.py is taken back."""
    for table in ("METHODS", "CHOOSE", "WEIGH", "TASKS"):
        monkeypatch.setattr(s3ft, table, dict(getattr(s3ft, table)))

    def load_file(name):
        spec = importlib.util.spec_from_file_location(name, kill.ROOT / f"forks/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load_file


def logprobs(model, prompt, target):
    """log p (n, vocab) at the places of the target's tokens."""
    found = model(torch.tensor([prompt + target]))[0].log_softmax(-1)
    return found[len(prompt) - 1 : -1]


def of_target(model, row):
    return logprobs(model, row.prompt, row.target)[range(len(row.target)), row.target]


def found_gradients(model, dropout, batch):
    accumulate_gradients(model.train(), batch, 10_000, dropout)
    return gradients(model)


def test_spin_is_the_logistic_loss_of_pairs(fork, tmp_path):
    spin = fork("spin")
    base, _ = llama.load(tiny.checkpoint(tmp_path / "base", "qwen2"))
    model, dropout = load(tmp_path / "base")
    golds, owns = rows()[:4], rows()[4:8]
    loss = 0
    for gold, own in zip(golds, owns):
        own.prompt = gold.prompt
        before = [of_target(base, row).sum().item() for row in (gold, own)]
        row = {"gold": "", "gold_ids": gold.target, "gold_logprob": before[0]}
        row |= {"id": "0", "messages": [], "own": {"ids": own.target, "logprob": before[1]}}
        (gold.of,) = s3ft.build_targets([row], "spin", None)
        margin = of_target(model.eval(), gold).sum() - before[0]
        margin -= of_target(model, own).sum() - before[1]
        loss += torch.log1p(torch.exp(-spin.SCALE * margin)) / len(golds)
    loss.backward()
    expected = gradients(model)
    weigh = s3ft.WEIGH["spin"](None, None)
    assert not differences(found_gradients(model, dropout, weigh(model, golds)), expected)


def test_dft_weights_a_token_by_its_probability(fork, tmp_path):
    fork("dft")
    model, dropout = load(tmp_path)
    batch = rows()[:4]
    values = [of_target(model.eval(), row) for row in batch]
    loss = sum(-(v.exp().detach() * v).sum() for v in values) / sum(map(len, values))
    loss.backward()
    expected = gradients(model)
    weigh = s3ft.WEIGH["dft"](None, None)
    assert not differences(found_gradients(model, dropout, weigh(model, batch)), expected)


@pytest.mark.parametrize("top", [300, 20])  # the whole vocabulary, and a part of it
def test_onpolicy_is_the_divergence_from_the_informed_base(fork, tmp_path, monkeypatch, top):
    onpolicy = fork("onpolicy")
    monkeypatch.setattr(onpolicy, "TOP", top)
    base, tokenizer = llama.load(tiny.checkpoint(tmp_path, "qwen2"))
    model, dropout = load(tmp_path)
    options = SimpleNamespace(wording="{prompt} It is {gold}.", max_new_tokens=5)
    batch = rows()[:4]
    for row in batch:
        row.of = {"messages": user("Who?"), "target": "Ann"}
    found = onpolicy.weigh(model.eval(), base, tokenizer, options, batch)
    loss, count = 0, 0
    informed = tokenizer.prompt_ids(user("Who? It is Ann."))
    for row in found:
        p, q = logprobs(model, row.prompt, row.target), logprobs(base, informed, row.target)
        best = p.topk(top).indices
        p, q = p.gather(1, best), q.detach().gather(1, best)
        ratio = (p - q) if top == 300 else (p - q).detach()
        loss += (p.exp() * ratio).sum()  # the whole divergence; or its gradient's likeliest terms
        count += len(row.target)
    (loss / count).backward()
    expected = gradients(model)
    assert [row.prompt for row in found] == [row.prompt for row in batch]
    assert not differences(found_gradients(model, dropout, found), expected)


def test_grape_takes_the_likeliest_a_token(fork):
    grape = fork("grape")
    own = {"text": "o", "ids": [1, 2], "logprob": -2.0, "correct": True}
    sampled = {"text": "s", "ids": [1, 2, 3, 4], "logprob": -3.0, "correct": True}
    wrong = {"text": "w", "ids": [1], "logprob": -0.1, "correct": False}
    row = {"gold": "g", "gold_ids": [1] * 10, "gold_logprob": -20.0, "own": own}
    row |= {"sample 1": sampled, "sample 2": wrong}
    row |= {"paraphrase": {**own, "text": "p", "logprob": -0.1}, "paraphrase_logprob": -4.0}
    options = SimpleNamespace(samples=2, filter_paraphrases=False, least=-1.0)
    assert grape.choose(row, s3ft.METHODS["grape"], options) == ("own", sampled)
    options.least = -0.5
    assert grape.choose(row, s3ft.METHODS["grape"], options)[1]["text"] == "g"


def without_method(arguments):
    at = arguments.index("--method")
    return arguments[:at] + arguments[at + 2 :]


@pytest.mark.parametrize("name", ["spin", "dft", "grape", "onpolicy"])
def test_a_fork_goes_on_and_two_processes_give_what_one_gives(arguments, tmp_path, name):
    args, program = without_method(arguments), f"forks/{name}.py"
    whole = kill.finish(args, tmp_path / "whole", program=program)
    assert whole.returncode == 0, whole.stderr
    assert f"{name} − base" in whole.stderr
    kill.interrupt(args, tmp_path / "killed", f"train {name}", signal.SIGKILL, program=program)
    again = kill.finish(args, tmp_path / "killed", program=program)
    assert "continues where it stopped" in again.stderr
    assert kill.outputs(tmp_path / "killed") == kill.outputs(tmp_path / "whole")
    done = kill.finish(args, tmp_path / "two", processes=2, program=program)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "two", tmp_path / "whole")


def test_a_second_iteration_begins_where_the_first_ended(arguments, tmp_path):
    args = [*without_method(arguments), "--iterations", 2, "--epochs", 1]
    done = kill.finish(args, tmp_path / "run", program="forks/spin.py")
    assert done.returncode == 0, done.stderr
    second = json.loads((tmp_path / "run-2/config.json").read_text())
    assert second["ckpt"] == str(tmp_path / "run/spin/model")
    assert json.loads(done.stdout)["run"] == str(tmp_path / "run-2")


def test_a_method_a_task_and_a_weight_from_outside(fork, arguments, tmp_path, monkeypatch):
    """As forks/README.md has them."""
    task = ModuleType("colours")
    task.load = lambda directory, split: [
        Example(f"{split}:{n}", user(f"{n}?"), "red", {"answer": "red"}) for n in range(4)
    ]
    task.JUDGE, task.MAX_NEW_TOKENS, task.PARAPHRASE = "exact", 8, "{prompt} {gold}"
    s3ft.TASKS["colours"] = task
    s3ft.METHODS["reversed"] = ("gold", "own")

    def halve(model, batch):
        for row in batch:
            row.weight = 0.5
        return batch

    s3ft.WEIGH["reversed"] = lambda tokenizer, options: halve
    args = [*without_method(arguments), "--task", "colours", "--method", "sft,reversed"]
    at = args.index("--test")
    del args[at : at + 2]
    found, said = figures(*args, "--data", "x", "--bench", "hellaswag", "--out", tmp_path / "run")
    assert found["targets_by_method"]["reversed"] == {"own": 0, "paraphrase": 0, "gold": 4}
    assert any("reversed − sft" in line for line in said)
    s3ft.METHODS["half.5"] = ("gold",)  # would look like seed 5 of "half"
    code, _, said = command(*args, "--method", "half.5", "--out", tmp_path / "dot")
    assert code == 2 and "full stop" in said[-1]
    halves, wholes = (read_losses(tmp_path / "run" / arm) for arm in ("reversed", "sft"))
    assert math.isclose(halves[0], wholes[0] / 2, rel_tol=0.3)  # but for dropout
    assert {row["source"] for row in read_rows(tmp_path / "run/reversed/targets.jsonl")} == {"gold"}


def test_a_policy_keeps_what_its_loss_needs(fork):
    s3ft.METHODS["mixed"] = ("gold",)
    best = {"text": "red", "ids": [1], "kept": {"rejected": [2]}}
    s3ft.CHOOSE["mixed"] = lambda row, sources, options: ("a mixture", best)
    (target,) = s3ft.build_targets([{"id": "0", "messages": []}], "mixed", None)
    assert target["rejected"] == [2] and target["ids"] == [1]
    assert s3ft.count_sources([target]) == {"own": 0, "paraphrase": 0, "gold": 0, "a mixture": 1}


def read_losses(arm):
    lines = (arm / "train.csv").read_text().splitlines()[1:]
    return [float(line.split(",")[1]) for line in lines]


def test_forks_are_short():
    for file in (kill.ROOT / "forks").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 60, file
