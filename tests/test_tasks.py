"""Other tasks than GSM8K from end to end on tiny checkpoints: JSONL files, shots, a model as judge, MBPP and NQ in one command each."""
import json
import math
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import judges
import model as llama
import pytest
import s3ft
import sampler
import tiny
import torch
from data import Example, jsonl
from files import InputError
from test_results import results
from test_s3ft import ROOT, s3ft_command

LABELS = [{"prompt": f"Is {n} even or odd?", "gold": ("even", "odd")[n % 2]} for n in range(20)]


def write(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


# ----------------------------------------------------------------------------------------------------------------- JSONL files

@pytest.mark.parametrize("fields, name", [({}, "exact"), ({"answer": "7"}, "numeric"), ({"answers": []}, "reading"), ({"tests": ["assert f()"]}, "code")])
def test_the_fields_of_the_first_row_name_the_judge(tmp_path, fields, name):
    assert jsonl.rule(write(tmp_path / "t.jsonl", [{"prompt": "p", "gold": "g", **fields}])) == name


def test_a_jsonl_file_is_read_for_its_judge(tmp_path):
    file = write(tmp_path / "t.jsonl", [{"prompt": "p", "gold": "g", "answer": "7", "more": 1}, "\n", {"prompt": "q", "gold": "h"}])
    assert jsonl.load(file, "exact") == [Example("t.jsonl:1", "p", "g", {"answer": "7"}), Example("t.jsonl:3", "q", "h", {"answer": "h"})]
    assert [e.prompt for e in jsonl.load(file, "model:/some/where")] == ["p", "q"]
    assert [e.check for e in jsonl.load(file, "reading")] == [{"answers": [], "question": ""}] * 2
    with pytest.raises(InputError, match="t.jsonl:3: \"answer\" should be a text; mend"):
        jsonl.load(file, "numeric")


@pytest.mark.parametrize("row, message", [
    ({"prompt": "p"}, '"gold" should be a text'), ({"prompt": "", "gold": "g"}, "should not be empty"), ({"prompt": 3, "gold": "g"}, '"prompt"'),
    ({"prompt": "p", "gold": "g", "answers": "x"}, '"answers" should be a list of texts'), ("{\n", "not JSON"),
    ({"prompt": "p", "gold": "g", "answers": ["x", 1]}, '"answers" should be a list of texts')])
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=f"t.jsonl:2: .*{message}"):
        jsonl.load(write(tmp_path / "t.jsonl", [{"prompt": "p", "gold": "g"}, row]), "reading")
    with pytest.raises(InputError, match="no examples"):
        jsonl.load(write(tmp_path / "empty.jsonl", []), "exact")


def test_a_prompt_stands_on_one_side_only():
    examples = [Example(str(n), f"prompt {n % 10}", "g") for n in range(30)]
    train, test = jsonl.split(examples, 0.3, 0)
    assert sorted(train + test, key=lambda e: int(e.id)) == examples and len(test) == 9
    assert not {e.prompt for e in train} & {e.prompt for e in test}
    assert jsonl.split(examples, 0.3, 0) == (train, test) != jsonl.split(examples, 0.3, 1)


def test_exact():
    example = Example("1", "", "", {"answer": "Not abnormal"})
    assert judges.exact(" not\n ABNORMAL ", example).correct
    assert not any(judges.exact(text, example).correct for text in ("abnormal", "not abnormal.", "", "notabnormal", "not abnormal normal"))


# ------------------------------------------------------------------------------------------------------------------------ shots

def test_shots_stand_before_the_question_and_are_not_asked():
    examples = [Example(str(n), f"prompt {n}", f"gold {n}") for n in range(10)]
    for limit, k, n in ((None, 3, 7), (9, 3, 6), (7, 3, 7), (4, 3, 4), (99, 3, 7)):
        shots, others = s3ft.draw_shots(examples, k, limit, 0)
        assert len(shots) == k and n <= len(others) <= n + k and not {e.prompt for e in others} & {prompt for prompt, _ in shots}
        plain = s3ft.sample(examples, limit, 0)
        assert others == (plain if limit in (4, 7) else [e for e in plain if (e.prompt, e.gold) not in shots])  # what a run without shots uses
    assert s3ft.draw_shots(examples, 0, 5, 0) == ([], s3ft.sample(examples, 5, 0)) and s3ft.draw_shots(examples, 0, None, 0) == ([], examples)
    with pytest.raises(InputError, match="10 shots: there are only 10"):
        s3ft.draw_shots(examples, 10, None, 0)


def test_a_shot_is_a_turn_of_each_side(tmp_path):
    _, tokenizer = llama.load(tiny.checkpoint(tmp_path))
    whole = tokenizer.prompt_ids("and 2?", [("what is 1?", "one<|end|>")])
    messages = [("user", "what is 1?"), ("assistant", "one<|end|>"), ("user", "and 2?")]
    assert whole == tokenizer._encode([{"role": r, "content": c} for r, c in messages], True)
    alone = tokenizer.prompt_ids("what is 1?")
    assert whole[:len(alone)] == alone
    honest = tokenizer.prompt_ids("and 2?", [("what is 1?", "one")])
    assert whole.count(tokenizer.turn_end) == honest.count(tokenizer.turn_end) > tokenizer.prompt_ids("and 2?").count(tokenizer.turn_end)


# -------------------------------------------------------------------------------------------------------------- a model as judge

class Words:
    """A tokenizer of whole texts: a text is one token, and its number can be looked up."""

    def __init__(self):
        self.texts = []

    def encode_text(self, text):
        return [{"Yes": 1, "No": 2, " Yes": 3, " No": 4, "yes": 5, "no": 5}[text]]

    def prompt_ids(self, text):
        self.texts.append(text)
        return [len(self.texts)]


@pytest.fixture
def opinion(monkeypatch):
    """A judge by a model whose p(Yes) in the two orders is what the test wants, and what it was asked."""
    words, odds = Words(), []

    def logprobs(model, prompts, continuations):
        values = {prompt[0]: {1: p * 0.6, 3: p * 0.3, 2: (1 - p) * 0.9, 4: 1e-300, 5: 0.1} for prompt, p in zip(prompts[::4], odds)}
        return [math.log(values[prompt[0]][token]) for prompt, (token,) in zip(prompts, continuations)]
    monkeypatch.setattr(sampler, "logprobs", logprobs)
    model = type("Model", (), {"config": type("Config", (), {"context": 100})})
    return judges.by_model(model, words), odds, words.texts


def test_a_model_has_to_agree_in_both_orders(opinion):
    judge, odds, asked = opinion
    example = Example("1", "the question", "gold text")
    for p, q, right in (0.99, 0.99, True), (0.99, 0.6, False), (0.6, 0.99, False), (0.2, 0.2, False):
        odds[:] = p, q
        verdict = judge("my words", example)
        assert verdict.correct == right and verdict.reason.startswith("agree: " if right else "disagree: ")
        assert f"{math.log(p / (1 - p)):.2f}" in verdict.reason  # Yes and " Yes" together; a token that begins both words is neither
    assert asked[0].index("my words") < asked[0].index("gold text") and asked[1].index("my words") > asked[1].index("gold text")
    tag = asked[0].split(" Question:")[0]  # not to be known by who wrote the answers
    assert asked[0].count(tag) == asked[1].count(tag) == 4 and len(tag) == 12
    judge("other words", example)
    assert tag not in asked[-1]


@pytest.mark.parametrize("text", ["", " \n", ":", "Solution:", "The answer is", "```python\n```", "Sure, here is the solution:", "x" * 20_000])
def test_what_says_nothing_is_rejected_unasked(opinion, text):
    judge, odds, asked = opinion
    odds[:] = 0.99, 0.99
    assert not judge(text, Example("1", "q", "42")).correct and asked == []
    assert judge("yes", Example("1", "q", "Yes.")).correct  # it is the gold response


# -------------------------------------------------------------------------------------------------------------- the whole command

def run(tmp_path, *args, context=2048):
    ckpt = tiny.checkpoint(tmp_path / "ckpt", max_position_embeddings=context)
    done = s3ft_command("--ckpt", ckpt, "--out", tmp_path / "run", "--limit", 6, "--eval-limit", 4, "--max-new-tokens", 12, "--epochs", 1,
                        "--dtype", "float32", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("judge", ["exact", "model", "model:{}/ckpt"])
def test_a_jsonl_task(tmp_path, judge):
    file, judge = write(tmp_path / "parity.jsonl", LABELS), judge.format(tmp_path)
    figures, said = run(tmp_path, "--task", file, *(["--judge", judge] if judge != "exact" else ["--select-shots", 2]))
    assert figures["judge"] == judge and figures["scores"]["s3ft"]["parity"]["n"] == 4 and sum(figures["targets"].values()) == 6
    candidates = rows(tmp_path / "run/candidates.jsonl")
    assert all(c["self"]["reason"] for c in candidates)


def test_test_examples_of_a_file_of_their_own(tmp_path):
    file, test = write(tmp_path / "a.jsonl", LABELS[:8]), write(tmp_path / "b.jsonl", LABELS[8:])
    figures, _ = run(tmp_path, "--task", file, "--test", test, "--eval-only", "--shots", 4)
    tested = rows(tmp_path / "run/base/eval.jsonl")
    assert len(tested) == 4 and all(row["id"].startswith("b.jsonl:") for row in tested) and list(figures["scores"]) == ["base"]


@pytest.mark.parametrize("task", ["mbpp", "nq"])
def test_the_embedded_samples_of_the_other_tasks(tmp_path, task):
    args = ["--unsafe-code"] if task == "mbpp" else []
    figures, said = run(tmp_path, "--task", task, "--data", ROOT / "data/sample" / task, *args)
    assert figures["scores"]["base"][task]["n"] == 4 and sum(figures["targets"].values()) == 6
    assert ("generated programs run under: " in said) == (task == "mbpp")


def test_validation_is_on_training_examples_held_out(tmp_path):
    """None is learnt, none comes from the test split; what is learnt is a part of the --limit examples that a run without it learns."""
    args = ["--task", "gsm8k", "--data", ROOT / "data/sample/gsm8k", "--method", "sft"]
    run(tmp_path, *args, "--out", tmp_path / "whole")
    figures, _ = run(tmp_path, *args, "--validate", 0.34)
    tested, learnt, whole = ({row["id"] for row in rows(tmp_path / file)} for file in (
        "run/base/eval.jsonl", "run/sft/targets.jsonl", "whole/sft/targets.jsonl"))
    assert len(tested) == 2 and tested | learnt == whole and not tested & learnt


def test_a_study(tmp_path, monkeypatch):
    """Goes on after a kill, chooses by held-out examples, takes over what was generated, and again does nothing; then its tables."""
    ckpt = tiny.checkpoint(tmp_path / "ckpt", max_position_embeddings=2048)
    command = [sys.executable, ROOT / "experiments/study.py", "--task", "gsm8k", "--ckpt", ckpt, "--limit", 6, "--validate-on", 4,
               "--settings", "1e-9/1,1e-2/1", "--further", "samples=--method s3ft --samples 1",
               "--further", "harder=--method sft,s3ft --epochs 2", "--further", "shots=--method s3ft --select-shots 2", "--out", tmp_path / "study", "--data", ROOT / "data/sample/gsm8k",
               "--eval-limit", 4, "--max-new-tokens", 8, "--dtype", "float32", "--bench-data", benchmarks(tmp_path / "bench"), "--bench-limit", 2]
    killed = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in killed.stderr:
        if "train s3ft" in line:
            os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = subprocess.run(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "sft: is trained already" in done.stderr, done.stderr
    study = tmp_path / "study"
    scores = {name: json.loads((study / name / "run.json").read_text())["scores"] for name in (
        "validate-1e-9-1", "validate-1e-2-1", "main", "samples", "harder")}
    assert [list(found) for found in scores.values()] == [["base", "sft", "s3ft"]] * 2 + [
        ["base", "sft", "s3ft", "sft.1", "s3ft.1", "sdft", "ssr"], ["base", "s3ft"], ["base", "sft", "s3ft"]]
    assert json.loads((study / "chosen.json").read_text())["chosen"] == "1e-9/1"  # equals: the lighter one
    configs = {name: json.loads((study / name / "config.json").read_text()) for name in ("samples", "harder")}
    assert {name: (config["lr"], config["epochs"]) for name, config in configs.items()} == {"samples": (1e-9, 1), "harder": (1e-9, 2)}
    assert scores["samples"]["base"] == scores["main"]["base"] and len(scores["main"]["base"]) == 7
    assert not list(study.glob("*/*/model")) and len(list(study.glob("main/*/adapter"))) == 6
    own = {row["id"]: row["self"] for row in rows(study / "main/candidates.jsonl")}
    assert all(own[row["id"]] == row["self"] for name in ("validate-1e-2-1", "samples", "harder") for row in rows(study / name / "candidates.jsonl"))
    asked = {row["id"]: row["self"] for row in rows(study / "shots/candidates.jsonl")}  # not those of main
    assert (both := own.keys() & asked.keys()) and all(own[i]["ids"] != asked[i]["ids"] for i in both)
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/*/*")}
    again = subprocess.run(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    assert again.returncode == 0 and len(again.stderr.splitlines()) == 1 and before == {path: path.stat().st_mtime_ns for path in study.glob("*/*/*")}

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.collect("x", study)
    assert ElementTree.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")
    page = results.refresh("Before.\n<!-- x -->\nearlier\n<!-- end -->\n<!-- summary -->\n<!-- end -->\nAfter.\n")
    assert page.startswith("Before.\n<!-- x -->\n| the paper's claim |") and page.endswith("<!-- end -->\nAfter.\n") and "earlier" not in page
    arms = ("base", "sft (2 seeds)", "sft", "sft.1", "ssr", "sdft", "s3ft (2 seeds)", "s3ft", "s3ft.1", "s3ft, samples", "sft, harder",
            "s3ft, harder")
    assert [page.count(f"\n| {arm} | 0.0 [0.0, 49.0] |") for arm in arms] == [1] * len(arms), page
    assert "| 1e-9/1 (chosen) | 0.0 |" in page and page.count("\n| x: ckpt") == page.count("\n| x, harder: ckpt") == 1


@pytest.mark.parametrize("args, message", [
    (["--task", "poems"], "neither one of gsm8k, mbpp, nq nor a FILE.jsonl"), (["--task", "gsm8k", "--judge", "code"], "not one of numeric, model"),
    (["--task", "x.jsonl", "--judge", "bleu"], "not one of numeric, code, reading, exact, model"), (["--task", "nq", "--shots", 3], "--eval-only"),
    (["--task", "x.jsonl"], "x.jsonl: no such file"), (["--task", "gsm8k", "--fsdp"], "torchrun"),
    (["--task", "gsm8k", "--tensor-parallel", 2], "goes with --fsdp"), (["--task", "x.jsonl", "--test-fraction", 1.5], "between 0 and 1"),
    (["--task", "gsm8k", "--validate", 1], "between 0 and 1")])
def test_wrong_options_are_one_line(tmp_path, args, message):
    done = s3ft_command(*args, "--ckpt", tiny.checkpoint(tmp_path / "ckpt"), "--out", tmp_path / "run")
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("args, message", [
    (["--max-new-tokens", "0"], "--max-new-tokens: should be greater than 0"), (["--lora-dropout", "1"], "below 1"), (["--lora-dropout", "-0.1"], "below 1"),
    (["--seeds", "0,-1"], "from 0 to"), (["--seed", str(2 ** 60)], "from 0 to"), (["--device", "gpu"], "invalid choice"), (["--lim", "3"], "--lim"),
    (["--test", "mine.jsonl"], "--test goes with --task FILE.jsonl"), (["--task", "own.jsonl", "--data", "d"], "--data with the other tasks")])
def test_options_without_sense_are_refused(capsys, args, message):
    with pytest.raises(SystemExit):
        s3ft.parse(["--task", "gsm8k", "--ckpt", "x", *args])
    assert message in capsys.readouterr().err


def test_adapters_on_unknown_projections_are_refused(tmp_path):
    """Before anything is generated: a name that is wrong would train less than was asked for, lm_head would be lost in a tied model."""
    for names, message in (("q_proj,kproj", "kproj is not among q_proj"), ("lm_head", "lm_head is not among")):
        with pytest.raises(InputError, match=message):
            s3ft.main(s3ft.parse(["--task", "gsm8k", "--ckpt", "nowhere", "--out", str(tmp_path / "run"), "--lora-targets", names]))


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    args = ["--task", "gsm8k", "--ckpt", "nowhere", "--device"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device is there"):
        s3ft.main(s3ft.parse([*args, "cuda"]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(s3ft.parallel, "LOCAL_SIZE", 4)  # NCCL does not allow two processes on one GPU
    for device in ("cuda", "auto"):
        with pytest.raises(InputError, match="4 processes on a machine with 3 GPUs; use --nproc-per-node 3"):
            s3ft.main(s3ft.parse([*args, device]))
    with pytest.raises(InputError, match="nowhere: no such directory"):
        s3ft.main(s3ft.parse([*args, "cpu"]))


@pytest.mark.parametrize("change, message", [
    ({"gold": "five"}, "t.jsonl:4: the judge does not accept the gold response"), ({"answer": "7 or 8"}, "t.jsonl:4: the answer '7 or 8'")])
def test_a_gold_response_that_its_judge_rejects_is_named(tmp_path, change, message):
    file = write(tmp_path / "t.jsonl", [{"prompt": f"p{n}", "gold": f"#### {n}", "answer": str(n)} | (change if n == 3 else {}) for n in range(6)])
    done = s3ft_command("--task", file, "--ckpt", tiny.checkpoint(tmp_path / "ckpt"), "--out", tmp_path / "run", "--max-new-tokens", 9)
    assert done.returncode == 2 and message in done.stderr and "mend or remove this row" in done.stderr and not (tmp_path / "run").exists()

# ------------------------------------------------------------------------------------------------------- benchmarks, seeds, report

def benchmarks(folder):
    """Small benchmarks of our own in the published formats."""
    for name in ("mmlu/test", "mmlu/dev", "truthfulqa", "hellaswag", "svamp"):
        (folder / name).mkdir(parents=True)
    sums = [f"What is {n} plus 1?,{n + 1},{n},{n + 2},{n + 3},A\n" for n in range(7)]
    for subject in ("adding", "more_adding"):
        (folder / f"mmlu/test/{subject}_test.csv").write_text("".join(sums))
        (folder / f"mmlu/dev/{subject}_dev.csv").write_text("".join(sums[:5]))
    (folder / "truthfulqa/mc_task.json").write_text(json.dumps([
        {"question": f"Is {n} even?", "mc1_targets": {"Yes.": 1, "No.": 0}, "mc2_targets": {"Yes.": 1, "It is.": 1, "No.": 0}} for n in range(8)]))
    write(folder / "hellaswag/hellaswag_val.jsonl", [
        {"ind": n, "activity_label": "Baking", "ctx_a": f"Someone takes {n} eggs.", "ctx_b": "they", "ctx": f"Someone takes {n} eggs. they",
         "endings": ["bake.", "swim in them.", "read them aloud.", "fly."], "label": 0, "source_id": "x", "split": "val", "split_type": "x"}
        for n in range(8)])
    (folder / "svamp/SVAMP.json").write_text(json.dumps([
        {"ID": f"chal-{n}", "Body": f"Tom has {n} nuts.", "Question": "How many nuts has he with 1 more?", "Answer": n + 1.0,
         "Equation": f"( {n}.0 + 1.0 )", "Type": "Addition"} for n in range(8)]))
    return folder


def test_arms_by_seed_benchmarks_and_report(tmp_path):
    """One command; again it does nothing; with one benchmark more it does that one; --report makes the page from files alone."""
    folder = benchmarks(tmp_path / "bench")
    args = ["--task", "gsm8k", "--data", ROOT / "data/sample/gsm8k", "--method", "sft,s3ft", "--seeds", "0,5", "--samples", 2, "--bench-data",
            folder, "--bench-limit", 5]
    figures, _ = run(tmp_path, *args, "--bench", "mmlu,truthfulqa,hellaswag")
    arms = ["base", "sft", "s3ft", "sft.5", "s3ft.5"]
    assert list(figures["scores"]) == arms
    for arm in arms:
        assert set(figures["scores"][arm]) >= {"gsm8k", "mmlu acc", "truthfulqa mc1", "truthfulqa mc2", "hellaswag acc", "hellaswag acc_norm"}
        assert all(s["low"] <= s["score"] <= s["high"] and s["n"] == (4 if name == "gsm8k" else 5) for name, s in figures["scores"][arm].items())
    table = rows(tmp_path / "run/bench.jsonl")
    assert len(table) == 5 * 3 * 5 and {(r["model"], r["bench"]) for r in table} == {(a, b) for a in arms for b in ("mmlu", "truthfulqa", "hellaswag")}
    assert all(len(r["logprobs"]) == len(r["choices"]) and max(r["logprobs"]) < 0 and r["scores"] for r in table)
    assert all("sample 2" in row for row in rows(tmp_path / "run/candidates.jsonl"))
    logs = [(tmp_path / f"run/{arm}/train.csv").read_text().splitlines()[1].split(",")[1:4] for arm in ("sft", "sft.5")]
    assert logs[0] != logs[1] and rows(tmp_path / "run/sft/targets.jsonl") == rows(tmp_path / "run/sft.5/targets.jsonl")

    again, said = run(tmp_path, *args, "--bench", "mmlu,truthfulqa,hellaswag,svamp")
    assert said.count("is trained already") == 4 and rows(tmp_path / "run/bench.jsonl")[:75] == table
    assert all(again["scores"][arm] == {**figures["scores"][arm], "svamp acc": again["scores"][arm]["svamp acc"]} for arm in arms)
    lengths = {len(row["response"]["ids"]) for row in rows(tmp_path / "run/base/svamp.jsonl")}
    assert max(lengths) > 12, lengths                                        # the task's --max-new-tokens is not SVAMP's
    wider = ["--method", "sft", "--seeds", 0, "--bench", "svamp"]            # of the arms that are there: more items, those before stay
    before = rows(tmp_path / "run/base/svamp.jsonl")
    figures, _ = run(tmp_path, *args, *wider, "--bench-limit", 8)
    after = {row["id"]: row for row in rows(tmp_path / "run/base/svamp.jsonl")}
    assert len(before) == 5 and len(after) == figures["scores"]["base"]["svamp acc"]["n"] == 8 and all(after[row["id"]] == row for row in before)
    problems = (folder / "svamp/SVAMP.json").read_text()
    (folder / "svamp/SVAMP.json").write_text(problems.replace("nuts", "pens"))
    done = s3ft_command("--ckpt", tmp_path / "ckpt", "--out", tmp_path / "run", "--limit", 6, "--eval-limit", 4, "--max-new-tokens", 12, "--epochs", 1,
                        "--dtype", "float32", *args, *wider)
    assert done.returncode == 2 and "was scored with another text" in done.stderr.splitlines()[-1]
    (tmp_path / "run/report.html").unlink()
    done = s3ft_command("--report", tmp_path / "run")
    assert done.returncode == 0 and "s3ft (2 seeds)" in done.stderr and (tmp_path / "run/report.html").exists(), done.stderr


def test_svamp_in_a_small_context(tmp_path):
    """A prompt and SVAMP's 400 tokens do not fit: responses are cut sooner, the run does not end."""
    figures, _ = run(tmp_path, "--task", "gsm8k", "--data", ROOT / "data/sample/gsm8k", "--eval-only", "--bench", "svamp", "--bench-data",
                     benchmarks(tmp_path / "bench"), context=600)
    assert figures["scores"]["base"]["svamp acc"]["n"] == 8


def test_a_missing_benchmark_is_named_before_anything_runs(tmp_path):
    done = s3ft_command("--task", "gsm8k", "--ckpt", tiny.checkpoint(tmp_path / "ckpt"), "--out", tmp_path / "run", "--bench", "mmlu",
                        "--bench-data", tmp_path / "nowhere")
    assert done.returncode == 2 and "python data/fetch.py mmlu" in done.stderr.splitlines()[-1] and not (tmp_path / "run").exists()
