"""The studies in experiments/: the choice of a setting, the claims, and the tables in the pages."""

import argparse
import json
import random
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))
import results  # noqa: E402
import study  # noqa: E402

HELD, NOT, OPEN = "held", "not held", results.UNDECIDED


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "task, drops, logprobs, verdicts",
    [  # task scores and drops of sft and s3ft; log-probabilities of own, paraphrase, gold
        ((0.5, 0.7), (0.3, 0.05), (-0.1, -0.4, -0.8), [HELD, HELD, HELD, HELD]),
        ((0.7, 0.5), (0.3, 0.28), (-0.4, -0.1, -0.8), [NOT, NOT, HELD, NOT]),
        ((0.5, 0.5), (0.04, 0.02), (-0.4, -0.4, -0.8), [OPEN, OPEN, HELD, OPEN]),
        ((0.5, 0.7), (0.0, 0.2), (-0.1, -0.8, -0.4), [HELD, OPEN, NOT, NOT]),
    ],
)
def test_claims(task, drops, logprobs, verdicts):
    def right(share, n=400):
        return {i: int(i < share * n) for i in range(n)}

    def noisy(mean):
        return [mean + noise.gauss(0, 0.2) for _ in range(200)]

    arms, noise = ("base", "sft", "s3ft"), random.Random(0)
    general = [0.8, 0.8 - drops[0], 0.8 - drops[1]]
    scores = {
        "gsm8k": dict(zip(arms, map(right, [0.5, *task]))),
        "mmlu acc": dict(zip(arms, map(right, general))),
        results.report.IFEVAL: dict(zip(arms, map(right, general))),
    }
    values = [noisy(mean) for mean in logprobs]
    found = results.Study("gsm8k", {}, scores, {}, dict(enumerate(values)))
    claims = results.claims(found, "sft", "s3ft")
    assert [claim.partition(" (")[0] for claim in claims] == verdicts
    for name in "mmlu acc", results.report.IFEVAL:  # a further step may have no benchmarks
        scores[name] |= {"sft": {}, "s3ft": {}}
    assert results.claims(found, "sft", "s3ft")[1:3] == ["", ""]


def test_each_method_has_the_setting_that_is_best_for_it(tmp_path, monkeypatch):
    """On held-out examples; the first among equals. The base's responses and items are kept."""
    calls, taken_over, left = [], [], iter([(4, 5), (6, 6), (5, 6)])

    def run(options, out, call):
        calls.append(call)
        taken_over.append({file.name for file in out.glob("*")})
        sft, s3ft = next(left, (0, 0))
        for name in ("config.json", "candidates.jsonl", "base/eval.jsonl", "sft/eval.jsonl"):
            write(out / name)
        write(out / "bench.jsonl", {"model": "base"}, {"model": "s3ft"})
        return {"scores": {"sft": {"nq": {"score": sft}}, "s3ft": {"nq": {"score": s3ft}}}}

    monkeypatch.setattr(study, "run", run)
    settings = ["1e-4/1", "3e-4/1", "3e-4/2"]
    options = argparse.Namespace(task="nq", settings=settings, seed=3, out=tmp_path)
    for _ in range(2):  # the second time all is there
        study.study(options)
        assert len(calls) == 6
    chosen = json.loads((tmp_path / "chosen.json").read_text())["chosen"]
    assert chosen == {"sft": "3e-4/1", "s3ft": "3e-4/1"}
    assert ["--validate 0.25" in call for call in calls] == [True] * 3 + [False] * 3
    assert "--method s3ft --seeds 3,4" in calls[3] and "--method sdft,ssr" in calls[4]
    assert "--lr 3e-4 --epochs 1 --method sft --seeds 3,4" in calls[5]
    all_of_it = {"base", "bench.jsonl", "candidates.jsonl"}
    assert taken_over[:4] == [set(), all_of_it, all_of_it, {"candidates.jsonl"}]
    assert taken_over[5] == all_of_it
    assert (
        study.choose(["a", "b"], {"a": {"sft": 2, "s3ft": 1}, "b": {"sft": 1, "s3ft": 2}}, "sft")
        == "a"
    )


def write_step(step, arms, n=4):
    """A run directory in which each arm {name: number of right answers} is finished."""
    write(step / "run.json", {})
    write(step / "config.json", {"task": "mbpp", "ckpt": "/home/me/tiny"})
    own = {"ids": [1, 2], "logprob": -0.5}
    row = {"id": "0", "own": own, "paraphrase": own, "gold": "g", "gold_ids": [1]}
    row |= {"paraphrase_logprob": -3.0, "gold_logprob": -4.0}
    write(step / "candidates.jsonl", row, {"id": "1"})
    bench = []
    for arm, right in arms.items():
        order = sorted(range(n), reverse=arm != "base")  # several processes leave another order
        answers = [{"id": str(i), "response": {"correct": i < right}} for i in order]
        write(step / arm / "eval.jsonl", *answers)
        if arm != "base":
            write(step / arm / "targets.jsonl", {"source": "own"}, {"source": "gold"})
        for i in order:
            scores = {"acc": int(i < right)}
            bench.append({"bench": "mmlu", "model": arm, "id": str(i), "scores": scores})
    write(step / "bench.jsonl", *bench)


def test_a_study_becomes_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    with pytest.raises(results.InputError, match="is no study"):
        results.collect("tiny", tmp_path / "study")
    write_step(tmp_path / "study/main", {"base": 1, "sft": 2, "sft.1": 3, "s3ft": 4})
    write_step(tmp_path / "study/harder", {"base": 1, "sft": 0, "s3ft": 1})
    write_step(tmp_path / "study/validate-1e-4-1", {"base": 4, "sft": 4, "s3ft": 4})
    write(tmp_path / "study/chosen.json", {"chosen": "3e-4/2"})
    results.collect("tiny", tmp_path / "study")
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert record["settings"]["ckpt"] == "tiny"
    assert record["items"]["mbpp"]["sft.1"] == "1110"
    assert record["items"]["mmlu acc"]["sft, harder"] == "0000"
    assert "validate" not in str(record)
    assert record["logprobs"] == {"own": [-0.25], "paraphrase": [-1.5], "gold": [-4.0]}
    text = results.refresh("<!-- tiny -->\nold\n<!-- end -->\n<!-- summary -->\n<!-- end -->")
    text = re.sub(r" \[[^]]*\]", "", text)  # the intervals
    assert "| sft (2 seeds) | 62.5 |  | -37.5 | 1/0/1 |" in text
    assert "| s3ft | 100.0 | 37.5 | -75.0 | 1/0/1 |" in text
    assert "| s3ft, harder | 25.0 | 25.0 | 0.0 | 1/0/1 |" in text
    assert "| tiny, n=4 | 25.0 | 62.5 | 100.0 | 37.5 | -37.5 | -75.0 |" in text
    assert "| tiny, harder, n=4 | 25.0 | 0.0 | 25.0 |" in text
    with pytest.raises(results.InputError, match="<!-- other -->"):
        results.refresh("<!-- other -->\n<!-- end -->")


def test_rank_correlation_and_the_figure():
    assert results.ranks_alike([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert results.ranks_alike([1, 2, 2, 3], [4, 1, 1, 0]) == pytest.approx(-1)
    arms = [("mbpp", "sft", 4.0, 2.0, 10.0), ("mbpp", "s3ft", 8.0, 1.0, 5.0)]
    assert results.drift_line([*arms, ("nq", "sft", 1.0, 0.5, 1.0)]) == (
        "Rank correlation of drift with the loss on IFEval: 1.00 (3 arms)"
    )
    image = results.draw("gain", [arm[:4] for arm in arms])
    assert 'cx="480.0" cy="170.0"' in image and ">mbpp: s3ft</text>" in image


def test_the_pages_show_what_was_measured(monkeypatch):
    """All but the intervals and what follows from them, which take long."""
    monkeypatch.setattr("evaluate.RESAMPLES", 10)
    text = (ROOT / "RESULTS.md").read_text()
    varies = r"\[[^]]*\]|not |held|decidable|\(n [\d,]+\)|\s"
    assert re.sub(varies, "", results.refresh(text)) == re.sub(varies, "", text)
    summary = re.search("(?s)<!-- summary -->.*?<!-- end -->", text)[0]
    assert summary in (ROOT / "README.md").read_text()


def test_links_resolve():
    for file in (ROOT / "RESULTS.md", *ROOT.glob("notes/*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)", file.read_text()):
            assert (file.parent / link).exists(), f"{file}: {link}"
