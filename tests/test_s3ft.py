"""s3ft.py: the choice of targets, the training step, continuing, evaluation, the command line and the report."""
import argparse
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import judges
import kill
import model as llama
import pytest
import s3ft
import tiny
import torch
from data import Example
from files import InputError, Journal

ROOT = Path(__file__).resolve().parents[1]
GOOD = {"numbers": 1.0, "length": 1.0, "copy": False, "reference": False, "false equations": 0}


def options(**changes):
    args = s3ft.parse(["--task", "gsm8k", "--ckpt", "x"])
    return argparse.Namespace(**{**vars(args), "dtype": torch.float32, "device": "cpu", "lr": 1e-2, "rule": "numeric", "judge": "numeric",
                                 "paraphrase": s3ft.gsm8k.PARAPHRASE, **changes})


def candidate(text, correct=True, finish="stop", **more):
    return {"text": text, "ids": [ord(c) for c in text] + [258], "finish": finish, "correct": correct, "reason": "", "logprob": -1.0, **more}


def row(own=None, paraphrase=None):
    out = {"id": "1", "prompt": "x", "gold": "g", "gold_ids": [103, 258]}
    return out | ({"self": own} if own else {}) | ({"paraphrase": paraphrase} if paraphrase else {})


# ------------------------------------------------------------------------------------------------------------------- selection

RIGHT, WRONG = candidate("s"), candidate("s", correct=False)
REPHRASED, MISPHRASED = candidate("p", substance=GOOD), candidate("p", correct=False, substance=GOOD)
TABLE = [(row(RIGHT, REPHRASED), dict(sft="g", ssr="s", sdft="p", self="s", s3ft="s")),
         (row(WRONG, REPHRASED), dict(sft="g", ssr="g", sdft="p", self=None, s3ft="p")),
         (row(WRONG, MISPHRASED), dict(sft="g", ssr="g", sdft="g", self=None, s3ft="g")),
         (row(RIGHT, MISPHRASED), dict(sft="g", ssr="s", sdft="g", self="s", s3ft="s"))]


@pytest.mark.parametrize("method", s3ft.POLICIES)
def test_policies(method):
    for candidates, expected in TABLE:
        targets = s3ft.targets_of([candidates], method, options())
        assert [t["target"] for t in targets] == ([expected[method]] if expected[method] else [])
        for t in targets:
            assert t["ids"] == [ord(expected[method]), 258]  # the sampled ids with the end of the turn
            assert t["source"] == {"g": "gold", "s": "self", "p": "paraphrase"}[expected[method]]


def test_unfinished_is_never_a_target_whatever_the_judge_says():
    cut = candidate("s", finish="length"), candidate("p", finish="length", substance=GOOD)
    for method in s3ft.POLICIES:
        assert all(t["source"] == "gold" for t in s3ft.targets_of([row(*cut)], method, options(substance="off")))


@pytest.mark.parametrize("change", [{"numbers": 0.4}, {"length": 0.4}, {"copy": True}, {"reference": True}, {"false equations": 1}])
def test_a_paraphrase_without_substance_falls_back_to_gold(change):
    rows = [row(WRONG, candidate("p", substance=GOOD | change))]
    assert s3ft.targets_of(rows, "s3ft", options())[0]["source"] == "gold"
    assert s3ft.targets_of(rows, "s3ft", options(substance="off"))[0]["source"] == "paraphrase"
    source = s3ft.targets_of(rows, "s3ft", options(rule="code"))[0]["source"]  # tests see the whole program
    assert source == ("gold" if change.keys() & {"copy", "reference"} else "paraphrase")


def test_a_run_begun_before_equations_were_read_goes_on():
    rows = [row(WRONG, candidate("p", substance={"numbers": 1.0, "length": 1.0, "copy": False}))]
    assert s3ft.targets_of(rows, "s3ft", options())[0]["source"] == "paraphrase"


EXAMPLES = [Example(str(n), f"prompt {n}", f"{n}+1 = {n + 1}\n#### {n + 1}", {"answer": str(n + 1)}) for n in range(6)]


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """A base model that says what the test wants: asked for prompt n, it answers `says[n]`; for a paraphrase, `rephrases[n]`."""
    model, tokenizer = llama.load(tiny.checkpoint(tmp_path / "ckpt"))
    tokenizer.asked = []

    def generate(model, tokenizer, prompts, max_new_tokens, slots=None, on_done=None, progress=None, temperature=0.0, seed=0, share=False):
        out = []
        for i, ids in enumerate(prompts):
            text = tokenizer.decode(ids)
            n = int(text.split("prompt ")[1].split()[0])
            words, finish, *logprob = (tokenizer.rephrases if "solution" in text else tokenizer.samples[seed] if temperature else tokenizer.says)[n]
            tokenizer.asked.append((n, "solution" in text))
            out.append(s3ft.sampler.Response(tokenizer.encode_text(words) + [259], words, finish, *logprob or [-3.0]))
            on_done(i, out[-1])
        return out
    monkeypatch.setattr(s3ft.sampler, "generate", generate)
    return model, tokenizer


def test_selection_follows_the_paper(scripted, tmp_path):
    model, tokenizer = scripted
    steps = "{} plus 1 makes {}. "
    tokenizer.says = {0: ("The answer is 1.", "stop"), 1: ("The answer is 2", "length"), **{n: ("The answer is 99.", "stop") for n in (2, 3, 4, 5)}}
    tokenizer.rephrases = {n: (steps.format(n, n + 1) + f"The answer is {n + 1}.", "stop") for n in range(6)}
    tokenizer.rephrases |= {3: ("The answer is 77.", "stop"), 4: ("The answer is 5.", "length")}
    args = options(out=tmp_path / "run", method=["s3ft", "sft"])
    table = s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, args)
    sources = [t["source"] for t in s3ft.targets_of(table, "s3ft", args)]
    assert sources == ["self", "paraphrase", "paraphrase", "gold", "gold", "paraphrase"]
    assert sorted(tokenizer.asked) == sorted([(n, False) for n in range(6)] + [(n, True) for n in range(1, 6)])  # no paraphrase where right
    written = [json.loads(line) for line in (tmp_path / "run/candidates.jsonl").read_text().splitlines()]
    assert written == table and [r["id"] for r in written] == [e.id for e in EXAMPLES]
    for r, e in zip(table, EXAMPLES):
        prompt = tokenizer.prompt_ids(e.prompt)
        assert r["gold_logprob"] == pytest.approx(s3ft.sampler.logprobs(model, [prompt], [tokenizer.target_ids(e.prompt, e.gold)])[0], abs=1e-3)
        assert r["self"]["logprob"] == -3.0 and ("paraphrase" in r) == ("paraphrase_logprob" in r)
    assert table[1]["self"]["reason"] == "unfinished" and not table[1]["self"]["correct"]

    tokenizer.asked = []  # again: nothing is asked; with sdft beside it: the one paraphrase that lacks
    assert s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, args) == table and tokenizer.asked == []
    s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, options(out=tmp_path / "run", method=["s3ft", "sdft"]))
    assert tokenizer.asked == [(0, True)]


def test_of_several_right_responses_the_likeliest_is_the_target(scripted, tmp_path):
    model, tokenizer = scripted
    right = "The answer is {}."
    tokenizer.says = {n: (right.format(n + 1) if n < 3 else "The answer is 99.", "stop", -3.0) for n in range(6)}
    tokenizer.samples = {
        1: {0: ("So 1.\n#### 1", "stop", -2.0), 1: ("So 2.\n#### 2", "stop", -4.0), 2: ("So 3.\n#### 3", "stop", -3.0),
            3: ("So 4.\n#### 4", "stop", -9.0), 4: ("So 5.\n#### 5", "length", -1.0), 5: ("The answer is 98.", "stop", -1.0)},
        2: {n: ("The answer is 99.", "stop", -0.1) for n in range(6)} | {3: ("Or 4.\n#### 4", "stop", -8.0)}}
    args = options(out=tmp_path / "run", method=["ssr"], samples=2)
    targets = s3ft.targets_of(s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, args), "ssr", args)
    assert [t["target"].split()[0] for t in targets] == ["So", "The", "The", "Or", "4+1", "5+1"]  # the greedy one among equals
    assert [t["source"] for t in targets] == ["self"] * 4 + ["gold"] * 2


def test_sft_alone_generates_nothing(scripted, tmp_path):
    s3ft.select(*scripted, EXAMPLES, judges.numeric, options(out=tmp_path / "run", method=["sft"]))
    assert scripted[1].asked == []


def test_a_torn_line_is_made_again(scripted, tmp_path):
    model, tokenizer = scripted
    tokenizer.says = {n: (f"The answer is {n + 1}.", "stop") for n in range(6)}
    args = options(out=tmp_path / "run", method=["ssr"])
    table = s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, args)
    file = tmp_path / "run/candidates.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    tokenizer.asked = []
    again = s3ft.select(model, tokenizer, EXAMPLES, judges.numeric, args)
    assert tokenizer.asked == [(5, False)] and again[:5] == table[:5]
    assert again[5].pop("gold_logprob") == pytest.approx(table[5].pop("gold_logprob"), abs=1e-3) and again[5] == table[5]


def test_journal_names_a_damaged_line(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"id": 1}\n{"id": 2\n{"id": 3}\n')
    with pytest.raises(InputError, match="j.jsonl:2: not JSON"):
        Journal(tmp_path / "j.jsonl")


# -------------------------------------------------------------------------------------------------------------------- training

@pytest.fixture
def model(tmp_path):
    model, _ = llama.load(tiny.checkpoint(tmp_path / "qwen2", "qwen2"))
    llama.add_lora(model, 4, 8, 0.0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = tiny.values(name, p.shape) * 0.1
    return model


ROWS = [([n % 256 for n in range(i, i + 3 + 5 * (i % 4))], [(7 * n + i) % 256 for n in range(1 + (i * i) % 11)] + [259]) for i in range(21)]


def gradients(model, rows, budget):
    model.zero_grad()
    loss = s3ft.accumulate_gradients(model, rows, budget)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_do_not_depend_on_micro_batches(model):
    rows = ROWS[:8]
    longest = max(len(p) + len(t) for p, t in rows)
    loss, expected = gradients(model, rows, 8 * longest)
    for size in (1, 2):
        other, found = gradients(model, rows, size * longest)
        assert other == pytest.approx(loss, rel=1e-5) and found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], atol=1e-5 * expected[name].norm().item(), rtol=0)


def test_loss_is_the_mean_over_target_tokens_alone(model):
    with torch.no_grad():
        values = [model(torch.tensor([p + t]))[0].log_softmax(-1) for p, t in ROWS[:5]]
    expected = [-v[len(p) - 1 + n, token].item() for v, (p, t) in zip(values, ROWS) for n, token in enumerate(t)]
    assert gradients(model, ROWS[:5], 50)[0] == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def run_training(path, monkeypatch, die_after=None, **changes):
    """Train from the tiny checkpoint; `die_after`: raise once that many steps are saved, then train again to the end."""
    args = options(out=path, epochs=2, batch=4, lora_dropout=0.2, micro_tokens=60, **changes)
    for attempt in (1, 2):
        model, _ = llama.load(tiny.checkpoint(path / "ckpt", "qwen2"))
        if not args.full:
            llama.add_lora(model, 4, 8, 0.2)
        save = s3ft.save_state
        with monkeypatch.context() as m:
            clock = iter(range(0, 10 ** 9, 11))
            m.setattr(s3ft.time, "perf_counter", lambda: next(clock))  # so that every step is saved

            def save_and_die(state, parameters, optimizer, step, budget):
                save(state, parameters, optimizer, step, budget)
                if attempt == 1 and step == die_after:
                    raise KeyboardInterrupt
            m.setattr(s3ft, "save_state", save_and_die)
            try:
                s3ft.train(model, ROWS, args, path / "arm", args.seed)
                break
            except KeyboardInterrupt:
                assert attempt == 1
                args.micro_tokens = None                                      # less memory may be free now: what was begun goes on
    rows = [line.split(",")[:5] for line in (path / "arm/train.csv").read_text().splitlines()]
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, rows


@pytest.mark.parametrize("full", [False, True])
def test_a_killed_training_ends_in_the_same_weights(tmp_path, monkeypatch, full):
    whole, log = run_training(tmp_path / "a", monkeypatch, full=full)
    assert len(log) == 1 + 12 and float(log[-1][1]) < float(log[1][1])
    for step in (1, 7):
        weights, rows = run_training(tmp_path / f"b{step}", monkeypatch, die_after=step, full=full)
        assert rows == log and all(torch.equal(weights[name], whole[name]) for name in whole)
    other, _ = run_training(tmp_path / "c", monkeypatch, seed=1, full=full)
    assert not all(torch.equal(other[name], whole[name]) for name in whole)


def test_out_of_memory_halves_the_micro_batches(tmp_path, monkeypatch, capsys):
    """The step is done again from its beginning: dropout, gradient and all; a row that never fits is an error."""
    whole, log = run_training(tmp_path / "a", monkeypatch)
    accumulate, budgets = s3ft.accumulate_gradients, []

    def too_much(limit):
        def run(model, batch, budget, seed):
            budgets.append(budget)
            loss = accumulate(model, batch, budget, seed)                         # what was added before memory ran out has to go
            if budget > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return loss
        return run
    monkeypatch.setattr(s3ft, "accumulate_gradients", too_much(60))
    args = options(out=tmp_path / "b", epochs=2, batch=4, lora_dropout=0.2, micro_tokens=240)
    model, _ = llama.load(tiny.checkpoint(tmp_path / "b/ckpt", "qwen2"))
    llama.add_lora(model, 4, 8, 0.2)
    s3ft.train(model, ROWS, args, tmp_path / "b/arm", args.seed)
    assert budgets[:4] == [240, 120, 60, 60] and "micro-batches of 60 tokens" in capsys.readouterr().err
    assert all(torch.equal(p, whole[name]) for name, p in model.named_parameters() if p.requires_grad)
    longest = max(len(p) + len(t) for p, t in ROWS)
    monkeypatch.setattr(s3ft, "accumulate_gradients", too_much(longest - 1))      # rows one at a time fit
    s3ft.train(model, ROWS, options(out=tmp_path / "d", epochs=1, batch=4, micro_tokens=2 * longest - 2), tmp_path / "d/arm", 0)
    assert budgets[-1] == longest - 1
    monkeypatch.setattr(s3ft, "accumulate_gradients", too_much(0))
    with pytest.raises(InputError, match="step 1 does not fit into the memory"):
        s3ft.train(model, ROWS, options(out=tmp_path / "c"), tmp_path / "c/arm", 0)


def test_micro_batches_follow_the_free_memory(tmp_path, monkeypatch):
    model, _ = llama.load(tiny.checkpoint(tmp_path, "qwen2"))
    llama.add_lora(model, 4, 8, 0.2)
    model.train()
    budgets = []
    for free in (1e15, 12e6, 6e6, 3e6, 1):
        monkeypatch.setattr(s3ft.parallel, "free_memory", lambda device: free)
        budgets.append(s3ft.default_budget(model))
    assert budgets[0] == 1024 and 64 < budgets[1] < 1024 and budgets[1:4] == [budgets[1], budgets[1] // 2, budgets[1] // 4] and budgets[4] == 64
    n, saved = budgets[1], []                                                 # the tensors kept in a micro-batch of that size
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model.hidden(torch.zeros(1, n, dtype=torch.long))
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    assert 3e6 < sum(kept.values()) < 6e6, sum(kept.values())


def test_every_epoch_visits_every_row_once():
    steps = s3ft.steps_of(21, options(epochs=3, batch=4), 0)
    assert len(steps) == 18 and all(sorted(sum(steps[e:e + 6], [])) == list(range(21)) for e in (0, 6, 12))
    assert steps[:6] != steps[6:12] and steps == s3ft.steps_of(21, options(epochs=3, batch=4), 0) != s3ft.steps_of(21, options(epochs=3, batch=4), 1)


def test_learning_rate():
    rates = [s3ft.learning_rate(s, 100, 1.0) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0 and rates[55] == pytest.approx(0.5) and 0 <= rates[99] < 1e-3
    assert s3ft.learning_rate(0, 1, 1.0) == 1.0


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_saved(tmp_path, monkeypatch):
    model, _ = llama.load(tiny.checkpoint(tmp_path / "ckpt", "qwen2"))
    llama.add_lora(model)
    (tmp_path / "arm").mkdir()
    next(p for p in model.parameters() if p.requires_grad).data[0, 0] = math.nan
    with pytest.raises(InputError, match="step 1: loss nan"):
        s3ft.train(model, ROWS, options(out=tmp_path), tmp_path / "arm", 0)


def test_micro_batches_keep_order_and_budget():
    rows = [([1] * random.Random(i).randrange(1, 200), [2] * 50) for i in range(50)] + [([1] * 2000, [2])]
    parts = s3ft.micro_batches(rows, 600)
    sizes = [sum(len(p) + len(t) for p, t in part) for part in parts]
    assert sum(parts, []) == rows and max(sizes[:-1]) <= 600 and parts[-1] == rows[-1:]
    assert all(size + len(after[0][0]) + len(after[0][1]) > 600 for size, after in zip(sizes, parts[1:]))


def test_full_training_keeps_float32_masters(tmp_path):
    """A bfloat16 weight near 1 cannot hold an update of 1e-4; the float32 master can."""
    args = options(out=tmp_path, full=True, lr=1e-4, epochs=1, ckpt=tiny.checkpoint(tmp_path / "ckpt", "qwen2"), dtype=torch.bfloat16)
    targets = [{"id": str(i), "source": "gold", "prompt": "x", "target": "", "ids": t} for i, (_, t) in enumerate(ROWS)]
    seen = {}
    save = llama.save
    try:
        llama.save = lambda model, tokenizer, path: (seen.update(model.state_dict()), save(model, tokenizer, path))
        s3ft.fine_tune(targets, "sft", args, 0)
    finally:
        llama.save = save
    start = tiny.weights(tiny.config("qwen2"))
    moved = [(seen[n] != t).float().mean() for n, t in start.items() if "norm" in n]
    assert all(t.dtype == torch.float32 for t in seen.values()) and min(moved) > 0.9
    assert llama.load(tmp_path / "sft/model", torch.bfloat16)[0].raw_config["dtype"] == "bfloat16"


# ------------------------------------------------------------------------------------------------------- evaluation and the rest

def test_another_setting_on_an_old_directory_is_named(tmp_path):
    args = options(out=tmp_path / "run")
    s3ft.claim(args.out, s3ft.settings_of(args, EXAMPLES, EXAMPLES))
    s3ft.claim(args.out, s3ft.settings_of(options(out=args.out, method=["sft"], slots=3), EXAMPLES, EXAMPLES))  # free to change
    with pytest.raises(InputError, match=r"lr = 0.01, now it is 0.5"):
        s3ft.claim(args.out, s3ft.settings_of(options(lr=0.5), EXAMPLES, EXAMPLES))
    with pytest.raises(InputError, match="test data"):
        s3ft.claim(args.out, s3ft.settings_of(args, EXAMPLES, EXAMPLES[:3]))


def s3ft_command(*args, **env):
    return subprocess.run([sys.executable, ROOT / "s3ft.py", *map(str, args)], capture_output=True, text=True, env={**os.environ, **env}, cwd=ROOT)


@pytest.mark.parametrize("args, message", [
    (["--ckpt", "/nowhere"], "/nowhere: no such directory"),
    (["--ckpt", "{ckpt}", "--data", "/nowhere"], "/nowhere/train.jsonl: no such file"),
    (["--ckpt", "{ckpt}", "--max-new-tokens", "500"], "no train example is left"),
    (["--ckpt", "{ckpt}", "--data", "{bad}"], "train.jsonl:2: not JSON"),
])
def test_errors_are_one_line_and_exit_code_2(tmp_path, args, message):
    ckpt, bad = tiny.checkpoint(tmp_path / "ckpt"), tmp_path / "bad"
    bad.mkdir()
    (bad / "train.jsonl").write_text('{"question": "q", "answer": "a\\n#### 1"}\n{"question": \n')
    run = s3ft_command("--task", "gsm8k", "--out", tmp_path / "run", *(a.format(ckpt=ckpt, bad=bad) for a in args))
    assert run.returncode == 2 and run.stdout == "" and "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("s3ft.py: ") and message in run.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("line, message", [
    ('{"question": "q"}', "\"answer\" should be"), ('{"question": "", "answer": "a\\n#### 1"}', "\"question\" should be"),
    ('{"question": "q", "answer": "no mark"}', "last line"), ('{"question": 3, "answer": "a\\n#### 1"}', "\"question\" should be"),
    ('{"question": "q", "answer": "a\\n#### 7 or 8"}', "'7 or 8' is not one number"), ("[" * 100_000, "not JSON"), ("9" * 5000, "not JSON"),
    ('[1]', "object was expected"), ('{"question": "q", "answer": "a\\n#### "}', "last line"),
])
def test_bad_rows_are_named_by_file_and_line(tmp_path, line, message):
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "a\\n#### 1"}\n\n' + line + "\n")
    with pytest.raises(InputError, match="train.jsonl:3: .*" + message):
        s3ft.gsm8k.load(tmp_path, "train")


def test_gsm8k_gold_loses_the_calculator_marks_only(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "q?", "answer": "It is 2*3 = <<2*3=6>>6.\n#### 6"}))
    (example,) = s3ft.gsm8k.load(tmp_path, "test")
    assert example.gold == "It is 2*3 = 6.\n#### 6" and example.check == {"answer": "6"} and example.prompt.startswith("q?\n\n")
    assert example.id == "test.jsonl:1"


RUN = ["--task", "gsm8k", "--method", "sft,s3ft", "--limit", "10", "--eval-limit", "4", "--max-new-tokens", "30", "--epochs", "2",
       "--batch", "4", "--dtype", "float32"]


def test_the_whole_command_and_kill_9(tmp_path):
    """One run undisturbed; one killed again and again at moments spread over it, continued each time; one more for nothing."""
    ckpt = tiny.checkpoint(tmp_path / "ckpt", max_position_embeddings=2048)
    start = time.time()
    whole = s3ft_command(*RUN, "--ckpt", ckpt, "--out", tmp_path / "a", "--show", 1)
    took = time.time() - start
    assert whole.returncode == 0, whole.stderr
    figures = json.loads(whole.stdout.splitlines()[-1])
    assert sum(figures["targets"].values()) == 10 and figures["targets_by_method"]["sft"] == {"self": 0, "paraphrase": 0, "gold": 10}
    assert figures["generate_tokens_per_second"] > 0 and figures["train_tokens_per_second"] > 0
    assert set(figures["scores"]) == {"base", "sft", "s3ft"} and figures["scores"]["sft"]["gsm8k"]["n"] == 4
    assert "<|turn|>assistant\n[[" in whole.stderr  # --show
    for name in ("config.json", "candidates.jsonl", "eval.json", "report.html", "s3ft/targets.jsonl", "s3ft/train.csv",
                 "s3ft/model/config.json", "s3ft/adapter/adapter_config.json"):
        assert (tmp_path / "a" / name).exists(), name
    assert not list((tmp_path / "a").rglob("*.tmp")) and not list((tmp_path / "a").rglob("state.safetensors"))

    again, _ = kill.run_with_kills([*RUN, "--ckpt", ckpt], tmp_path / "b", [(None, took * share) for share in (0.45, 0.6, 0.6, 0.7)])
    assert again.returncode == 0, again.stderr
    assert kill.outputs(tmp_path / "a") == kill.outputs(tmp_path / "b")

    before = kill.outputs(tmp_path / "b")
    third = s3ft_command(*RUN, "--ckpt", ckpt, "--out", tmp_path / "b")
    assert third.returncode == 0 and kill.outputs(tmp_path / "b") == before
    assert "continues where it stopped" in third.stderr and "is trained already" in third.stderr
    assert json.loads(third.stdout)["scores"] == figures["scores"]

    file = tmp_path / "b/candidates.jsonl"  # killed before the judge had spoken, and gone on with another method: it needs no verdict
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        for response in row["self"], row["paraphrase"]:
            del response["correct"], response["reason"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fourth = s3ft_command("--method", "sft", *RUN[:2], *RUN[4:], "--ckpt", ckpt, "--out", tmp_path / "b")
    assert fourth.returncode == 0 and "self: not needed" in fourth.stderr, fourth.stderr
