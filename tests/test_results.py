"""The studies: the choice of a setting, and the judgement of the paper's claims."""
import argparse
import json
import random
import re
import statistics
import sys

import pytest
import report
import s3ft
from test_s3ft import ROOT

sys.path.insert(0, str(ROOT / "experiments"))
import results  # noqa: E402
import study  # noqa: E402

ARMS = ("base", "sft", "sft.1", "s3ft", "s3ft.1")


def run_of(task, drops, n=500, logprobs=(-0.1, -0.4, -0.8)):
    """A run where base answers all, sft and s3ft lose these shares of a benchmark, and score `task` (shares) on the task."""
    def scores(share, seed):
        wrong = set(random.Random(seed).sample(range(n), round((1 - share) * n)))
        return {f"{i}": int(i not in wrong) for i in range(n)}
    share = dict(zip(ARMS, (1, *(1 - drops[0],) * 2, *(1 - drops[1],) * 2)))
    items = {"gsm8k": {arm: scores(task[arm.startswith("s3ft")], arm) for arm in ARMS},
             "mmlu acc": {arm: scores(share[arm], arm) for arm in ARMS}}
    noise = random.Random(0)
    candidates = {str(i): {kind: {"tokens": 9, "log-probability per token": mean + noise.gauss(0, 0.2)} for kind, mean in zip(report.KINDS, logprobs)}
                  for i in range(200)}
    return {"settings": {}, "task": "gsm8k", "seeds": {"base": ["base"], "sft": ["sft", "sft.1"], "s3ft": ["s3ft", "s3ft.1"]}, "items": items,
            "losses": {}, "targets": {}, "prompts": {}, "candidates": candidates}


@pytest.mark.parametrize("task, drops, logprobs, verdicts", [
    ((0.5, 0.7), (0.3, 0.05), (-0.1, -0.4, -0.8), ("held", "held", "held", "held")),
    ((0.7, 0.5), (0.3, 0.28), (-0.4, -0.1, -0.8), ("not held", "not held", "not held", "held")),
    ((0.5, 0.5), (0.04, 0.02), (-0.4, -0.4, -0.4), (report.OPEN,) * 4),
    ((0.5, 0.7), (0.0, 0.0), (-0.1, -0.8, -0.4), ("held", "not decidable: SFT itself shows no drop at this n", "held", "not held"))])
def test_claims(task, drops, logprobs, verdicts):
    run = run_of(task, drops, logprobs=logprobs)
    assert tuple(c["verdict"] for c in results.claims(run, report.figures_of(run)).values()) == verdicts


@pytest.mark.parametrize("scores, chosen", [(((4, 5), (6, 6), (5, 6)), "3e-4/1"), (((4, 5), (5, 6), (4, 9)), "3e-4/2"), (((5, 5), (4, 6), (6, 4)), "1e-4/1")])
def test_the_choice_of_a_setting(tmp_path, monkeypatch, scores, chosen):
    """The best mean of sft and s3ft on the examples held out, the lighter of equals; the arms are trained with it."""
    steps, left = [], iter(scores)

    def step(args, name, before, *options):
        steps.append((name, dict(zip(options[::2], options[1::2]))))
        return {"scores": {arm: {"gsm8k": {"score": s}} for arm, s in zip(("base", "sft", "s3ft"), (9, *next(left, (0, 0))))}}
    monkeypatch.setattr(study, "step", step)
    monkeypatch.setattr(study, "finish", lambda out, found: None)
    study.study(argparse.Namespace(settings="1e-4/1,3e-4/1,3e-4/2", validate_on="8", limit="20", further=[], seed=3, out=tmp_path))
    assert json.loads((tmp_path / "chosen.json").read_text())["chosen"] == chosen
    validations, main = steps[:3], steps[3:]
    assert all(options["--validate"] == "0.25" and options["--limit"] == "8" for _, options in validations)
    assert [name for name, _ in main] == ["main"] * 2 and main[0][1]["--seeds"] == "3,4"
    assert all((options["--lr"] + "/" + options["--epochs"], options["--limit"]) == (chosen, "20") and "--validate" not in options for _, options in main)


@pytest.mark.parametrize("options, kept", [
    (["--lr", "1"], {"base", "bench.jsonl", "candidates.jsonl"}), (["--select-shots=4"], {"base", "bench.jsonl"}), (["--judge", "model"], {"base", "bench.jsonl"}),
    (["--max-new-tokens", "800"], set())])
def test_a_step_takes_over_what_is_the_same(tmp_path, monkeypatch, options, kept):
    part(tmp_path, {"base": 1})
    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: argparse.Namespace(returncode=0, stdout="{}\n"))
    study.step(argparse.Namespace(task="mbpp", ckpt="x", seed=0, out=tmp_path, rest=[]), "next", "main", *options)
    assert {path.name for path in tmp_path.glob("next/*")} == kept


def test_the_cost_of_training_counts_every_step(tmp_path):
    for arm, rows in (("sft", ["1,2.1,3e-4,0.5,100,2.500,40.0", "2,2.0,3e-4,0.5,60,1.500,40.0"]), ("s3ft.1", ["1,1.9,3e-4,0.5,40,1.000,40.0"])):
        s3ft.resume_csv(tmp_path / arm / "train.csv", 0).open("a").write("\n".join(rows) + "\n")
    assert results.trained(tmp_path) == {"tokens": 200, "seconds": 5.0}


def part(study, arms, items=4):
    """The directory of a study that has finished these arms and begun one more; `arms`: {name: right answers of each of "mbpp" and "mmlu acc"}."""
    main = study / "main"
    (main / "base").mkdir(parents=True)
    (study / "chosen.json").write_text('{"scores": {}, "chosen": "3e-4/2"}')
    (main / "config.json").write_text('{"task": "mbpp", "ckpt": "a/tiny", "versions": "of %s"}' % study.name)
    (main / "eval.json").write_text(json.dumps(dict.fromkeys(arms)))
    (main / "speed.json").write_text('{"generate": {"tokens": 60, "seconds": 60}}')
    (main / "candidates.jsonl").write_text("".join(json.dumps({
        "id": str(i), "prompt": "p", "gold": "g", "gold_ids": [1], "gold_logprob": -1.0 - i, "paraphrase_logprob": -0.5,
        "self": {"text": "s", "ids": [1], "logprob": -0.1, "finish": "stop", "correct": True},
        "paraphrase": {"text": "s", "ids": [1], "finish": "stop"}}) + "\n" for i in range(items)))
    for arm, right in {**arms, "ssr": 1}.items():
        (main / arm).mkdir(exist_ok=True)
        (main / arm / "eval.jsonl").write_text("".join(json.dumps({"id": str(i), "response": {
            "correct": i < right, "finish": "stop", "ids": [1], "text": ""}}) + "\n" for i in range(items)))
        (main / arm / "targets.jsonl").write_text('{"id": "0", "source": "self", "target": "t"}\n' if arm != "base" else "")
        with open(main / "bench.jsonl", "a") as file:
            file.writelines(json.dumps({"bench": "mmlu", "model": arm, "id": str(i), "scores": {"acc": int(i < right)}}) + "\n"
                            for i in sorted(range(items), reverse=arm != "base"))                # several processes leave another order
    return study


def test_a_study_in_parts(tmp_path, monkeypatch):
    """Arms that two machines finished give the figures of one that finished them all; an arm begun is in neither."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    first, second = {"base": 1, "sft": 2, "s3ft": 4}, {"base": 1, "sft.1": 3, "s3ft.1": 4, "sdft": 2}
    results.collect("parts", part(tmp_path / "first", first))
    items = results.read_json(tmp_path / "parts.json")["items"]
    assert "sdft" not in items["mbpp"] and items["mmlu acc"] == {"base": "1000", "sft": "1100", "s3ft": "1111"}
    results.collect("parts", part(tmp_path / "second", second))
    results.collect("whole", part(tmp_path / "third", first | second))
    parts, whole = (results.read_json(tmp_path / f"{name}.json") for name in ("parts", "whole"))
    assert sorted(parts["figures"]["rows"]) == sorted(whole["figures"]["rows"]) == ["base", "s3ft (2 seeds)", "sdft", "sft (2 seeds)"]
    assert parts["figures"]["scores"] == whole["figures"]["scores"] and parts["claims"] == whole["claims"]
    assert parts["figures"]["scores"]["s3ft (2 seeds)"]["mbpp"]["score"] == 1 and "ssr" not in parts["figures"]["scores"]
    assert {c["a"] + c["b"]: c for c in parts["figures"]["comparisons"]} == {c["a"] + c["b"]: c for c in whole["figures"]["comparisons"]}
    assert parts["figures"]["targets"].keys() == {"sft", "s3ft", "sdft"}
    for peak in (9.0, 3.0):                                                  # of two runs of one part: the larger counts
        (tmp_path / "second/main/run.json").write_text(json.dumps({"peak_gb": peak}))
        results.collect("parts", tmp_path / "second")
    assert [step["peak_gb"] for step in results.read_json(tmp_path / "parts.json")["cost"].values()] == [9.0]
    (tmp_path / "second/main/config.json").write_text('{"task": "mbpp", "ckpt": "a/tiny", "lr": 1}')
    with pytest.raises(results.InputError, match="other settings .lr."):
        results.collect("parts", tmp_path / "second")
    with pytest.raises(results.InputError, match="items in the record"):
        results.collect("whole", part(tmp_path / "fourth", first, items=5))


def test_how_the_answers_look(tmp_path):
    """Counted by hand; the questions that one of two arms leaves unfinished are not in what both finish."""
    def write(arm, *responses, file="eval.jsonl"):
        (tmp_path / arm).mkdir(exist_ok=True)
        (tmp_path / arm / file).write_text("".join(json.dumps({"id": str(i), "response": {
            "correct": right, "finish": finish, "ids": [1] * n, "text": text}}) + "\n" for i, (n, right, finish, text) in enumerate(responses)))
    true, false = "3 + 4 = 7", "3 + 4 = 8, 2 + 2 = 5"
    write("base", (30, True, "stop", true), (40, False, "length", false), (20, True, "stop", false), (21, False, "stop", false))
    write("sft", (10, False, "stop", true), (10, True, "stop", true), (10, True, "stop", true), (12, True, "stop", false))
    write("s3ft.1", (99, True, "length", true))
    write("sft.1", (1, True, "stop", true), file="svamp.jsonl")
    write("s3ft.1", (5, False, "stop", false), file="svamp.jsonl")
    found = results.answers(tmp_path, {"task": "gsm8k", "seeds": {"base": ["base"], "sft": ["sft", "sft.1"], "s3ft": ["s3ft.1"]}})
    assert found["gsm8k"] == {
        "base": {"n": 4, "mean": 27.8, "median": 25.5, "short": 1, "short and right": 1, "finished": 3, "both": {}, "false equation": 2},
        "sft": {"n": 4, "mean": 10.5, "median": 10.0, "short": 4, "short and right": 3, "finished": 4, "both": {"base": [3, 1, 1]}, "false equation": 1},
        "s3ft.1": {"n": 1, "mean": 99.0, "median": 99.0, "short": 0, "short and right": 0, "finished": 0, "both": {"base": [0, 0, 0]}, "false equation": 0}}
    assert found["svamp"]["s3ft.1"]["both"] == {"sft": [1, 0, 1]} and found["svamp"]["s3ft.1"]["false equation"] == 1
    assert results.answer_table(found)[2] == ["gsm8k, sft", "4", "10, 10", "4, 3", "4", "1", "3, 1 : 1", "–"]


@pytest.mark.parametrize("file", sorted(results.RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_the_differences_follow_from_the_items(file):
    """Whoever doubts an interval can compute it from the JSON: differences and right alone, by the items' places."""
    record = results.read_json(file)
    arms = {row: [arm for arm in sorted(record["items"][record["settings"]["task"]]) if re.fullmatch(re.escape(row.partition(" (")[0]) + r"(\.\d+)?", arm)]
            for row in record["figures"]["rows"]}
    for c in record["figures"]["comparisons"]:
        means, firsts = [], []
        for measure in record["figures"]["primary"][1:] if c["measure"] == report.BENCHES else [c["measure"]]:
            a, b = ([[float(score) for score in record["items"][measure][arm]] for arm in arms[c[side]]] for side in "ab")
            means.append([dict(enumerate(map(statistics.mean, zip(*tables)))) for tables in (a, b)])
            firsts.append([dict(enumerate(tables[0])) for tables in (a, b)])
        found = report.compare(means, firsts)
        assert {k: c[k] for k in ("n", "outcome")} == {k: found[k] for k in ("n", "outcome")} and c.get("only_a") == found.get("only_a")
        assert c["difference"] == pytest.approx(found["difference"], abs=1e-4) and c["low"] == pytest.approx(found["low"], abs=2e-4)


@pytest.mark.parametrize("page", ["RESULTS.md", "README.md"])
def test_the_pages_show_what_was_measured(page):
    text = (ROOT / page).read_text()
    assert "<!-- end -->" in text and results.refresh(text) == text
