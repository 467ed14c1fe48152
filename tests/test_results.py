"""The judgement of the paper's claims."""
import random
import sys

import pytest
import report
from test_s3ft import ROOT

sys.path.insert(0, str(ROOT / "experiments"))
import results  # noqa: E402

ARMS = ("base", "sft", "sft.1", "s3ft", "s3ft.1")


def study(task, drops, n=500, logprobs=(-0.1, -0.4, -0.8)):
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
    run = study(task, drops, logprobs=logprobs)
    assert tuple(c["verdict"] for c in results.claims(run, report.figures_of(run)).values()) == verdicts
