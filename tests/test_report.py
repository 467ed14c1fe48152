"""report.py: the statistics against values known from elsewhere; the page with every part, without some, with hostile text."""
import json
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import report
from files import read_json, write_json, write_text

EVIL = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\n$\\frac{1}{0}$ \x00 & \"'"
GOOD = {"length": 1.2, "numbers": 0.75, "copy": False}


# ------------------------------------------------------------------------------------------------------------------ statistics

@pytest.mark.parametrize("b, c, p", [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (2, 8, 0.109375), (10, 10, 1.0),
                                     (4, 16, 2 * (1 + 20 + 190 + 1140 + 4845) / 2 ** 20)])
def test_mcnemar(b, c, p):
    """By hand: 2·(1 + 10 + 45) / 2¹⁰ for (2, 8)."""
    assert report.mcnemar(b, c) == report.mcnemar(c, b) == pytest.approx(p, rel=1e-9)


def test_mcnemar_of_many_items():
    """Near the normal distribution, corrected for continuity: z = (240 - 1) / √14000; and no overflow."""
    assert report.mcnemar(6880, 7120) == pytest.approx(math.erfc(239 / 14000 ** 0.5 / 2 ** 0.5), rel=0.01)
    assert report.mcnemar(7000, 7000) == 1.0 and report.mcnemar(0, 14000) == 0.0


@pytest.mark.parametrize("correct, n, low, high", [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)])
def test_wilson(correct, n, low, high):
    """The last: Newcombe 1998, table I."""
    assert report.wilson(correct, n) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_agrees_with_what_is_known():
    shares = [1] * 300 + [0] * 700                                    # normal: 0.3 ± 1.96 √(0.21 / 1000)
    assert report.bootstrap([shares]) == pytest.approx((0.2716, 0.3284), abs=0.002)
    assert report.bootstrap([shares]) == report.bootstrap([shares[::-1]])
    graded = np.random.default_rng(1).normal(0.5, 0.1, 400).tolist()  # more than 50 values: the other way of drawing
    half = 1.96 * np.std(graded) / 20
    assert report.bootstrap([graded]) == pytest.approx((np.mean(graded) - half, np.mean(graded) + half), abs=0.001)
    two = report.bootstrap([shares, [0, 1] * 50])                     # the mean over groups: variances add, over 2²
    half = 1.96 * (0.21 / 1000 + 0.25 / 100) ** 0.5 / 2
    assert two == pytest.approx((0.4 - half, 0.4 + half), abs=0.003)
    assert report.bootstrap([[0.0, 0.0]]) == (0.0, 0.0)


def test_bootstrap_of_three_items_is_the_exact_distribution():
    """Of 0, 0, 1 the resampled sum is binomial(3, ⅓): P(0) = 8/27, P(3) = 1/27 > 2.5 %, so that the interval is all of it."""
    assert report.bootstrap([[0, 0, 1]]) == (0.0, 1.0)


def test_an_interval_that_leaves_out_0_is_not_enough():
    """Four items won and none lost: the bootstrap leaves out 0, the exact test gives p = 1/8."""
    a, b = {i: int(i < 24) for i in range(64)}, {i: int(i < 20) for i in range(64)}
    found = report.compare([(a, b)], [(a, b)])
    assert found["low"] > 0 and found["p"] == 0.125 and found["outcome"] == report.OPEN
    b = {i: int(i < 4) for i in range(64)}
    assert report.compare([(a, b)], [(a, b)])["outcome"] == "higher" and report.compare([(b, a)], [(b, a)])["outcome"] == "lower"
    assert report.compare([(a, {})], [(a, {})]) == {}
    assert report.compare([({1: 1, 2: 0}, {2: 1, 3: 0})], [])["n"] == 1   # of the shared items alone


# ---------------------------------------------------------------------------------------------------------------- run directory

def jsonl(path, rows):
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def response(text="It is 1.", correct=True, **more):
    reason = "right" if correct else "wrong number: 1 is not 2"
    return {"text": text, "ids": [5, 6, 7, 8], "finish": "stop", "correct": correct, "reason": reason, "logprob": -2.0, **more}


def make_run(out, arms, words="Question"):
    """A run directory: `arms` {arm: items right of 20}; 9 training rows, three for each source."""
    write_json(out / "config.json", {"task": "gsm8k", "ckpt": f"/models/{words}", "versions": {"torch": "2"}, "note": words})
    write_json(out / "speed.json", {"generate": {"tokens": 1000, "seconds": 2.5}})
    score = {"n": 20, "correct": 0, "score": 0.0, "low": 0.0, "high": 1.0}
    write_json(out / "eval.json", {arm: {"gsm8k": score} for arm in arms})
    rows = []
    for i in range(9):
        rows.append({"id": f"{words}:{i}", "prompt": words, "gold": words, "gold_ids": [1, 2], "gold_logprob": -3.0, "more": 1,
                     "self": response(words, i < 3, reason=f"{words}: {words}", logprob=-0.4 * (i + 1))})
        if i >= 3:
            rows[-1] |= {"paraphrase": response(words, i < 6, substance=GOOD, logprob=-0.01), "paraphrase_logprob": -1.6}
        rows[-1] |= {"sample 1": response(words, False), "sample 2": response(words)} if i == 0 else {}
    jsonl(out / "candidates.jsonl", rows)
    sources = ["self"] * 3 + ["paraphrase"] * 3 + ["gold"] * 3
    for arm, right in arms.items():
        jsonl(out / arm / "eval.jsonl", [{"id": i, "response": response(correct=i < right)} for i in range(20)])
        if arm != "base":
            jsonl(out / arm / "targets.jsonl", [{"id": r["id"], "source": s, "prompt": words, "target": words, "ids": [1]}
                                                for r, s in zip(rows, sources)])
            steps = "".join(f"{i},{2 / i:.6f},1e-4,100,2.000,x\n" for i in range(1, 21))
            write_text(out / arm / "train.csv", "step,loss,learning_rate,tokens,seconds,more\n" + steps)
    return out


def add_bench(out, scores):
    """`scores`: {(arm, bench): [scores of an item]}."""
    jsonl(out / "bench.jsonl", [{"model": arm, "bench": bench, "id": i, "context": EVIL, "choices": [EVIL], "scores": s}
                                for (arm, bench), items in scores.items() for i, s in enumerate(items)])


def test_scores_comparisons_and_targets(tmp_path):
    out = make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 14})
    figures = report.summary(out)
    assert json.loads(json.dumps(figures)) == figures
    low, high = report.wilson(14, 20)
    assert figures["scores"]["s3ft"] == {"gsm8k": {"n": 20, "score": 0.7, "low": low, "high": high}}
    assert [(c["a"], c["b"]) for c in figures["comparisons"]] == [("sft", "base"), ("s3ft", "base"), ("s3ft", "sft")]
    last = figures["comparisons"][-1]
    assert last["difference"] == pytest.approx(0.55) and (last["only_a"], last["only_b"]) == (11, 0)
    assert last["p"] == 2 / 2 ** 11 and last["outcome"] == "higher" and figures["comparisons"][0]["outcome"] == report.OPEN
    assert figures["targets"]["s3ft"] == {"self": 3, "paraphrase": 3, "gold": 3} and figures["average_drop"] == {}
    means = {kind: found["mean"] for kind, found in figures["logprob_per_token"].items()}
    assert means == pytest.approx({
        "self": -0.5, "self, judged right": -0.2, "gold": -1.5, "samples": -0.5, "samples, judged right": -0.5,
        "paraphrase": -0.4, "paraphrase, judged right": -0.4})  # given x alone, not given [x; y]
    assert figures["logprob_per_token"]["self"]["median"] == pytest.approx(-0.5) and figures["tokens"]["samples"]["n"] == 2
    assert figures["reasons"]["paraphrase"] == {"right": 3, "wrong number": 3}
    assert figures["training"]["sft"]["last_tenth"] == pytest.approx((2 / 19 + 2 / 20) / 2, abs=1e-5)
    terminal = report.text(figures)
    assert "70.0 [48.1, 85.5]" in terminal and "own response -0.50" in terminal and max(map(len, terminal.splitlines())) <= 130


def test_average_drop_and_primary_scores(tmp_path):
    out = make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 5})
    add_bench(out, {("base", "mmlu"): [{"acc": 1}] * 8 + [{"acc": 0}] * 2, ("sft", "mmlu"): [{"acc": 1}] * 4 + [{"acc": 0}] * 6,
                    ("s3ft", "mmlu"): [{"acc": 1}] * 7 + [{"acc": 0}] * 3,
                    **{(arm, "truthfulqa"): [{"mc1": 0, "mc2": v}, {"mc1": 1, "mc2": v / 2}]
                       for arm, v in (("base", 0.8), ("sft", 0.4), ("s3ft", 0.8))},
                    **{(arm, "hellaswag"): [{"acc": 0, "acc_norm": 1}] * 3 for arm in ("base", "sft", "s3ft")}})
    figures = report.write(out)
    assert figures["primary"] == ["gsm8k", "mmlu acc", "truthfulqa mc2", "hellaswag acc_norm"]
    assert figures["average_drop"]["sft"]["score"] == pytest.approx((0.4 + 0.3 + 0) / 3)
    assert figures["average_drop"]["s3ft"]["score"] == pytest.approx(0.1 / 3)
    assert figures["average_drop"]["sft"]["low"] > 0 > figures["average_drop"]["s3ft"]["low"] - 1e-9
    graded = figures["scores"]["base"]["truthfulqa mc2"]
    assert graded["score"] == pytest.approx(0.6) and graded["low"] == pytest.approx(0.4)  # the bootstrap's
    (against,) = [c for c in figures["comparisons"] if (c["a"], c["b"], c["measure"]) == ("s3ft", "sft", report.BENCHES)]
    assert against["difference"] == pytest.approx(0.7 / 3 - 0.1 / 3) and against["n"] == 15 and "p" not in against
    (graded,) = [c for c in figures["comparisons"] if (c["a"], c["b"], c["measure"]) == ("sft", "base", "truthfulqa mc2")]
    assert "p" not in graded
    page = (out / "report.html").read_text()
    assert "truthfulqa mc1" in page and "average drop" in page and "alert(1)" not in page


def test_an_arm_with_fewer_items_says_so(tmp_path):
    out = make_run(tmp_path, {"base": 5, "s3ft": 5})
    add_bench(out, {("base", "mmlu"): [{"acc": 1}] * 8, ("s3ft", "mmlu"): [{"acc": 1}] * 4})
    assert "100.0 [51.0, 100.0], n = 4" in report.text(report.summary(out))


def test_several_seeds_are_one_row(tmp_path):
    out = make_run(tmp_path, {"base": 5, "s3ft": 14, "s3ft.1": 10, "s3ft.2": 12, "sft": 5})
    figures = report.summary(out)
    assert figures["rows"] == ["base", "sft", "s3ft (3 seeds)"] and list(figures["scores"])[3:] == ["s3ft", "s3ft.1", "s3ft.2"]
    pooled = figures["scores"]["s3ft (3 seeds)"]["gsm8k"]
    assert pooled["score"] == pytest.approx(0.6) and pooled["n"] == 20
    against = figures["comparisons"][-1]
    assert (against["a"], against["b"]) == ("s3ft (3 seeds)", "sft") and against["difference"] == pytest.approx(0.35)
    assert (against["only_a"], against["only_b"]) == (9, 0)  # of the first seed


# ------------------------------------------------------------------------------------------------------------------------ page

class Tags(HTMLParser):
    VOID = {"meta", "path", "use"}

    def __init__(self, page):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def read_page(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert not tags.open or tags.open == ["html"]
    allowed = set("html meta title style body h1 h2 p div span i b small table tr th td details summary pre code figure svg "
                  "metadata rdf:rdf cc:work dc:type dc:format dc:creator cc:agent dc:title defs g path use text clippath "
                  "rect".split())
    assert {tag for tag, _ in tags.seen} <= allowed
    for tag, attributes in tags.seen:
        assert not any(name.startswith("on") for name in attributes)
        assert not [v for name, v in attributes.items() if name in ("src", "href", "xlink:href") and not v.startswith("#")]
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


def headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


def test_the_page_holds_every_part_and_is_the_same_again(tmp_path):
    pytest.importorskip("matplotlib")
    out = make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 14, "s3ft.1": 13})
    report.write(out)
    page = read_page(out)
    assert headings(page) == ["Scores", "Comparisons", "Where the targets come from", "Candidates under the base model",
                              "What the judge said", "Training", "Examples of s3ft", "Settings"]
    assert page.count("<svg") == page.count('role="img" aria-label=') == 3 and page.count("<details>") == 10
    assert "own response judged wrong (Question: Question); paraphrase judged right, 1.20 times gold&#x27;s words" in page
    assert "1,000 tokens in 2 s" in page and "not decidable at this n" in page
    report.write(out)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("drawn", [True, False])
def test_hostile_text_is_text(tmp_path, monkeypatch, drawn):
    if drawn:
        pytest.importorskip("matplotlib")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = make_run(tmp_path, {"base": 5, "s3ft": 14}, words=EVIL)
    evaluated = read_json(out / "eval.json")
    write_json(out / "eval.json", {arm: {EVIL: {}} for arm in [*evaluated, EVIL, "../s3ft"]})
    add_bench(out, {("base", EVIL): [{EVIL: 1}], ("s3ft", EVIL): [{EVIL: 0}], (EVIL, "mmlu"): [{"acc": 1}]})
    report.write(out)
    page = read_page(out)
    assert page.count("onerror=alert(1)") > 50 and ("pip install matplotlib" in page) is not drawn
    assert not any("alert" in svg for svg in re.findall("<svg.*?</svg>", page, re.S))


def test_without_matplotlib_all_tables_are_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figures = report.write(make_run(tmp_path, {"base": 5, "s3ft": 14}))
    page = read_page(tmp_path)
    assert "pip install matplotlib" in page and "<svg" not in page and len(headings(page)) == 8
    assert figures == report.summary(tmp_path)


@pytest.mark.parametrize("gone, headed", [
    (["candidates.jsonl", "s3ft/targets.jsonl", "s3ft/train.csv"], ["Scores", "Comparisons", "Settings"]),
    (["speed.json", "config.json", "eval.json", "candidates.jsonl"], ["Scores", "Settings"]),
    (["s3ft/eval.jsonl"], None), (["base/eval.jsonl"], None), (["s3ft/targets.jsonl"], None),
])
def test_what_is_absent_is_left_out(tmp_path, gone, headed):
    out = make_run(tmp_path, {"base": 5, "s3ft": 14})
    for name in gone:
        (out / name).unlink()
    report.text(report.write(out))
    found = headings(read_page(out))
    assert headed is None or found == headed


def test_evaluation_alone(tmp_path):
    write_json(tmp_path / "config.json", {"task": "nq"})
    write_json(tmp_path / "eval.json", {"base": {"nq": {"n": 2}}})
    jsonl(tmp_path / "base/eval.jsonl", [{"id": i, "response": response(correct=i == 0)} for i in range(2)])
    assert "50.0 [9.5, 90.5]" in report.text(report.write(tmp_path)) and headings(read_page(tmp_path)) == ["Scores", "Settings"]


def test_one_arm_without_base(tmp_path):
    figures = report.write(make_run(tmp_path, {"ssr": 5}))
    assert figures["comparisons"] == [] and figures["rows"] == ["ssr"] and "Examples of ssr" in headings(read_page(tmp_path))


def test_odd_candidates(tmp_path):
    """sft alone scores gold and no more; an empty response, log-probabilities that are not finite or not known."""
    out = make_run(tmp_path, {"base": 5, "sft": 3})
    row = {"prompt": "x", "gold": "y", "gold_ids": [1]}
    jsonl(out / "candidates.jsonl", [{"id": 1, **row, "gold_logprob": float("-inf")}, {"id": 2, **row},
                                     {"id": 3, **row, "self": response(ids=[], logprob=0.0)}])
    jsonl(out / "sft/targets.jsonl", [{"id": i, "source": "gold"} for i in (1, 2, 3, 4)])
    figures = report.write(out)
    assert figures["logprob_per_token"] == {} and figures["tokens"]["gold"]["n"] == 3 and figures["tokens"]["self"]["mean"] == 0
    jsonl(out / "candidates.jsonl", [])
    assert report.write(out)["tokens"] == {}
    read_page(out)
