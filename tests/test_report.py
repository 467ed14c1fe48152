"""report.py: the statistics against values known from elsewhere; the page with every part, without some, with hostile text."""
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import report
from files import write_json, write_text

EVIL = "\x1b[2J</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>\n$\\frac{1}{0}$ \x00 & \"'"
HOSTILE = ['</script><img src=x onerror=alert(1)>', '"><svg onload=alert(1)>', "</style><script>alert(1)</script>", "<!-- ", "<plaintext>",
           "</td></table></details><h2>", "</title></h1></summary><b>", "&#60;i&#62;&lt;i&gt;", "]]><![CDATA[<i>", "' onload='alert(1)",
           "\u202e<b>\u2066", "<" * 2000]

ROW = {"prompt": "x", "gold": "y", "gold_ids": [1]}
LAST = ["Settings", "What the figures mean"]


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
    assert report.bootstrap([[0, 0, 1]]) == (0.0, 1.0)                # the sum is binomial(3, ⅓): P(0) = 8/27, P(3) = 1/27 > 2.5 %


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
    """A run directory: `arms` {arm: items right of 20}; 10 training rows, three or more a source; row 2 learns its second sample."""
    write_json(out / "config.json", {"task": "gsm8k", "ckpt": words, words: words, "samples": 2, "versions": {"torch": "2.9"}})
    learnt = ["self"] * 2 + ["sample 2"] + ["paraphrase"] * 3 + ["gold"] * 4
    rows = [{"id": f"{words}:{i}", "prompt": words, "gold": f"gold {i} {words}", "gold_ids": [1, 2], "gold_logprob": -3.0, "more": 1,
             "self": response(f"self {i} {words}", i < 2, reason=f"{words}: {words}", logprob=-0.4 * (i + 1)),
             "sample 1": response(words, i == 8, finish="length"),  # right in a row of gold, but not finished: not acceptable
             "sample 2": response(f"sample 2 {i} {words}", i in (0, 2))} for i in range(10)]
    for i, row in enumerate(rows[3:], 3):
        row["paraphrase"] = response(f"paraphrase {i} {words}", i < 6, substance={"length": 1.2}, logprob=-0.01)
        row["paraphrase_logprob"] = -1.6
    jsonl(out / "candidates.jsonl", rows)
    for arm, right in arms.items():
        jsonl(out / arm / "eval.jsonl", [{"id": i, "response": response(correct=i < right)} for i in range(20)])
        if arm != "base":
            jsonl(out / arm / "targets.jsonl", [{"id": f"{words}:{i}", "source": name.replace("sample 2", "self"), "prompt": words,
                                                 "target": f"{name} {i} {words}", "ids": [1]} for i, name in enumerate(learnt)])
            write_text(out / arm / "train.csv", "step,loss,tokens\n" + "".join(f"{i},{2 / i:.6f},100\n" for i in range(1, 21)))
    return out


def add_bench(out, scores):
    """`scores`: {(arm, bench): [scores of an item]}."""
    jsonl(out / "bench.jsonl", [{"model": arm, "bench": bench, "id": i, "context": EVIL, "choices": [EVIL], "scores": s}
                                for (arm, bench), items in scores.items() for i, s in enumerate(items)])


# -------------------------------------------------------------------------------------------------------------------- figures

def test_scores_comparisons_and_targets(tmp_path):
    figures = report.summary(make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 14}))
    assert json.loads(json.dumps(figures)) == figures
    low, high = report.wilson(14, 20)
    assert figures["scores"]["s3ft"] == {"gsm8k": {"n": 20, "score": 0.7, "low": low, "high": high}}
    assert [(c["a"], c["b"]) for c in figures["comparisons"]] == [("sft", "base"), ("s3ft", "base"), ("s3ft", "sft")]
    last = figures["comparisons"][-1]
    assert last["difference"] == pytest.approx(0.55) and (last["only_a"], last["only_b"]) == (11, 0)
    assert last["p"] == 2 / 2 ** 11 and last["outcome"] == "higher" and figures["comparisons"][0]["outcome"] == report.OPEN
    assert figures["targets"]["s3ft"] == {"self": 3, "paraphrase": 3, "gold": 4}
    means = {kind: found["mean"] for kind, found in figures["log-probability per token"].items()}
    assert means == pytest.approx({"self": -0.55, "paraphrase": -0.4, "gold": -1.5})  # given x alone, not given [x; y]
    assert figures["tokens"]["paraphrase"] == {"n": 7, "mean": 4} and figures["tokens"]["gold"] == {"n": 10, "mean": 2}
    assert figures["reasons"]["paraphrase"] == {"right": 3, "wrong number": 4}
    terminal = report.text(figures)
    assert "70.0 [48.1, 85.5]" in terminal and re.search("mean +-0.55 +-0.40 +-1.50", terminal) and "4 40 %" in terminal


def test_by_how_much_samples_raise_the_self_share(tmp_path):
    out = make_run(tmp_path, {"base": 5, "s3ft": 14})
    line = "self share: 20.0 % greedily, 30.0 % with --samples 2 (2 and 3 of 10 rows have an acceptable own response)"
    figures = report.write(out)
    assert figures["samples"] == {"samples": 2, "n": 10, "greedy": 2, "any": 3, "words": line}
    assert figures["targets"]["s3ft"]["self"] == 3 and report.text(figures).count(line) == read_page(out)[0].count(line) == 1
    rows = map(json.loads, (out / "candidates.jsonl").read_text().splitlines())
    jsonl(out / "candidates.jsonl", [{name: c for name, c in row.items() if "sample" not in name} for row in rows])
    figures = report.write(out)
    assert figures["samples"] == {} and "self share" not in report.text(figures) + read_page(out)[0]


def test_average_drop_and_primary_scores(tmp_path):
    out, arms = make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 5}), ("base", "sft", "s3ft")
    add_bench(out, {**{(arm, "mmlu"): [{"acc": int(i < right)} for i in range(10)] for arm, right in zip(arms, (8, 4, 7))},
                    **{(arm, "truthfulqa"): [{"mc1": 0, "mc2": v}, {"mc1": 1, "mc2": v / 2}] for arm, v in zip(arms, (0.8, 0.4, 0.8))},
                    **{(arm, "hellaswag"): [{"acc": 0, "acc_norm": 1}] * n for arm, n in zip(arms, (3, 3, 2))}})
    figures = report.write(out)
    assert figures["primary"] == ["gsm8k", "mmlu acc", "truthfulqa mc2", "hellaswag acc_norm"]
    drops = {arm: scores["average drop"] for arm, scores in figures["scores"].items() if "average drop" in scores}
    assert drops["sft"]["score"] == pytest.approx((0.4 + 0.3 + 0) / 3) and drops["s3ft"]["score"] == pytest.approx(0.1 / 3)
    assert set(drops) == {"sft", "s3ft"} and drops["sft"]["low"] > 0 and drops["s3ft"]["low"] <= 0 < drops["s3ft"]["high"]
    graded = figures["scores"]["base"]["truthfulqa mc2"]
    assert graded["score"] == pytest.approx(0.6) and graded["low"] == pytest.approx(0.4)  # the bootstrap's
    found = {(c["a"], c["b"], c["measure"]): c for c in figures["comparisons"]}
    against = found["s3ft", "sft", report.BENCHES]
    assert against["difference"] == pytest.approx(0.7 / 3 - 0.1 / 3) and against["n"] == 14 and "p" not in against
    assert "p" not in found["sft", "base", "truthfulqa mc2"] and "alert(1)" not in read_page(out)[0]
    assert report.text(figures).count("100.0 [34.2, 100.0], n = 2") == 1  # an arm with fewer items says so


def test_several_seeds_are_one_row(tmp_path):
    out = make_run(tmp_path, {"base": 5, "s3ft": 14, "s3ft.1": 10, "s3ft.2": 12, "sft": 5})
    jsonl(out / "s3ft.2/eval.jsonl", [{"id": i, "response": response(correct=i < 12)} for i in range(19)])
    figures = report.summary(out)
    assert figures["rows"] == ["base", "sft", "s3ft (3 seeds)"] and list(figures["scores"])[3:] == ["s3ft", "s3ft.1", "s3ft.2"]
    pooled = figures["scores"]["s3ft (3 seeds)"]["gsm8k"]
    assert pooled["score"] == pytest.approx(12 / 19) and pooled["n"] == 19  # items that all seeds have
    against = figures["comparisons"][-1]
    assert (against["a"], against["b"]) == ("s3ft (3 seeds)", "sft") and against["difference"] == pytest.approx(7 / 19)
    assert (against["only_a"], against["only_b"]) == (9, 0)  # of the first seed


def test_the_terminal_stays_narrow_and_whole(tmp_path):
    """Five arms, three benchmarks; control characters in a reason would move the cursor."""
    arms = ["base", "sft", "ssr", "sdft", "self", "s3ft", "s3ft.1"]
    out = make_run(tmp_path, {arm: 10 for arm in arms}, words=EVIL)
    add_bench(out, {(arm, bench): [{score: k % 2} for k in range(40)] for arm in arms
                    for bench, score in (("mmlu", "acc"), ("truthfulqa", "mc2"), ("hellaswag", "acc_norm"))})
    figures = report.summary(out)
    terminal = report.text(figures)
    assert not [c for c in figures["comparisons"] if c["measure"] == report.BENCHES and "p" in c]
    assert max(map(len, terminal.splitlines())) <= 120 and terminal.count(report.OPEN) == 18
    assert "judge:  [2J</pre>" in terminal and terminal.replace("\n", "").isprintable()


# ------------------------------------------------------------------------------------------------------------------------ page

class Checked(HTMLParser):
    """A page in which nothing runs, is fetched, or is a tag that some text brought, and every tag is closed by its own end."""
    TAGS = set("html meta title style h1 h2 p table tr th td details summary svg path polyline text".split())

    def handle_starttag(self, tag, attributes):
        assert tag in self.TAGS and not [name for name, _ in attributes if name.startswith("on") or name in ("src", "href", "style")]
        self.open += [tag] if tag != "meta" else []
        self.tags.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read_page(out):
    """report.html, checked, and its headings."""
    page, parser = (out / "report.html").read_text(encoding="utf-8"), Checked()
    parser.open, parser.tags = [], []
    parser.feed(page)
    assert parser.open == [] and "url(" not in page and "@import" not in page
    return page, re.findall("<h2>(.*?)</h2>", page)


def test_the_page_holds_every_part_and_is_the_same_again(tmp_path):
    out = make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 14, "s3ft.1": 13})
    figures = report.write(out)
    page, headings = read_page(out)
    assert headings == ["Scores", "Comparisons", "Targets", "Candidates", "Training", "Examples", "All scores of all arms",
                        *LAST]
    assert re.findall('aria-label="(.*?)"', page) == [
        "% of the candidates by log-probability per token", "% of the candidates by tokens", "loss per target token by step"]
    assert page.count("<polyline") == 3 + 3 + 3 and page.count(">s3ft</text>") == 1 and "s3ft.1</text>" not in page
    assert page.count("<details>") == 9 and report.OPEN in page
    assert "<th>versions</th><td>{&quot;torch&quot;: &quot;2.9&quot;}</td>" in page
    assert report.write(out) == figures == report.summary(out) and read_page(out)[0] == page


def test_examples_say_what_each_candidate_was_and_which_is_the_target(tmp_path):
    report.write(make_run(tmp_path, {"base": 5, "s3ft": 14}))
    examples = re.findall("<summary>Question:([0-9]): s3ft learns (.*?)</summary>(.*?)</details>", read_page(tmp_path)[0], re.S)
    taken = [(i, kind, re.findall("<th>([a-z0-9 ]+)</th><td>THE TARGET, ", rows)) for i, kind, rows in examples]
    assert taken[1:4] == [("1", "self", ["self"]), ("2", "self", ["sample 2"]), ("3", "paraphrase", ["paraphrase"])]
    assert len(taken) == 9 and taken[8] == ("8", "gold", ["gold"])
    assert ("<td>reason: wrong number: 1 is not 2, log-probability per token: -0.4, tokens: 4, length: 1.2\n"
            "paraphrase 7 Question</td>") in examples[7][2]


def test_pictures_hold_every_candidate_and_step(tmp_path, monkeypatch):
    """The bars of a kind add up to 100 %, one that is far off included; a curve begins and ends at its first and last step."""
    run = report.read_run(make_run(tmp_path, {"base": 5, "sft": 3}))
    run["candidates"]["Question:0"]["self"]["tokens"] = 10_000
    monkeypatch.setattr(report, "plot", lambda x, y, curves: curves)
    *histograms, ((label, _, _, steps, losses),) = (curves for _, curves in report.pictures(run))
    for curves in histograms:
        assert [curve[0] for curve in curves] == list(report.KINDS)
        assert all(sum(ys[1:-1:2]) == pytest.approx(100) and len(xs) == len(ys) == 82 for *_, xs, ys in curves)
    assert label == "sft" and list(steps) == list(range(1, 21)) and losses == pytest.approx([2 / i for i in steps], abs=1e-6)


def test_axes_have_round_numbers():
    for low, high, ticks in ((-1.87, -0.02, "-1.5 -1 -0.5"), (1, 1, "1 1.2 1.4 1.6 1.8 2"), (3, 7000, "2000 4000 6000")):
        svg = report.plot("x", "y", [("a", "#000", "", [low, high], [0, 0.9])])
        assert " ".join(re.findall('y="281.0" text-anchor="middle">(.*?)<', svg)) == ticks and "nan" not in svg


def make_evil_run(out, words):
    """`words` wherever a text of data, models or settings can stand; a file's name cannot hold a slash."""
    name = words.replace("/", "")
    make_run(out, {"base": 5, "s3ft": 14}, words=words)
    write_json(out / "config.json", {"task": f"{name}.jsonl", "ckpt": name, words: words})
    for folder in ("<b>s3ft", "s3ft.<b>", "s3ft.1x"):
        (out / folder).mkdir()
    add_bench(out, {("base", words): [{words: 1}], ("s3ft", words): [{words: 0}], (words, "mmlu"): [{"acc": 1}]})
    assert report.write(out)["rows"] == ["base", "s3ft"]
    return out


def test_hostile_text_is_text(tmp_path):
    """The page has the tags of a harmless run's, and says the same but for the words."""
    def parsed(folder, words):
        parser, text = Checked(), []
        parser.open, parser.tags, parser.handle_data = [], [], text.append
        parser.feed((make_evil_run(tmp_path / folder, words) / "report.html").read_text(encoding="utf-8"))
        text = "".join(text)
        for said in (words, words.replace("/", "")):
            text = text.replace(json.dumps(said)[1:-1], "Question").replace(said, "Question")  # the settings are shown as JSON
        return parser.tags, re.sub("(?s)judge: .*?log-", "", text)   # the table cuts a reason at 60
    harmless = parsed("harmless", "Question")
    for i, words in enumerate([EVIL, *HOSTILE]):
        assert parsed(str(i), words) == harmless, words
    assert len(harmless[0]) > 400 and harmless[1].count("Question") > 50


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_a_browser_finds_no_element_in_hostile_text(tmp_path):
    """In the document that chromium makes of the page; where it writes text out, "<" stands for an element alone."""
    def elements(folder, words):
        page = make_evil_run(tmp_path / folder, words) / "report.html"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom", page.as_uri()]
        document = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
        return Counter(re.findall("<[^ >]*", document))
    words = "".join([EVIL, *HOSTILE]).replace("alert(1)", "document.title=1")  # an alert would wait for someone
    assert elements("hostile", words) == elements("harmless", "Question")


# ------------------------------------------------------------------------------------------------------- runs that lack something

@pytest.mark.parametrize("gone, headed", [
    (["candidates.jsonl", "s3ft/targets.jsonl", "s3ft/train.csv"], ["Scores", "Comparisons", *LAST]),
    (["config.json", "candidates.jsonl", "base/eval.jsonl", "s3ft/eval.jsonl"], ["Targets", "Training", LAST[-1]]),
    (["s3ft/eval.jsonl"], ["Scores", "Targets", "Candidates", "Training", "Examples", *LAST]),
    (["s3ft/targets.jsonl", "base/eval.jsonl"], ["Scores", "Targets", "Candidates", "Training", *LAST]),  # under Targets: the samples
])
def test_what_is_absent_is_left_out(tmp_path, gone, headed):
    out = make_run(tmp_path, {"base": 5, "s3ft": 14})
    for name in gone:
        (out / name).unlink()
    report.text(report.write(out))
    assert read_page(out)[1] == headed


def test_one_arm_alone(tmp_path):
    write_json(tmp_path / "nq/config.json", {"task": "data/nq.jsonl"})
    jsonl(tmp_path / "nq/base/eval.jsonl", [{"id": i, "response": response(correct=i == 0)} for i in range(2)])
    assert re.search(r"scores +nq\nn +2\nbase +50.0 \[9.5, 90.5\]$", report.text(report.write(tmp_path / "nq")))
    assert read_page(tmp_path / "nq")[1] == ["Scores", *LAST]
    figures = report.write(make_run(tmp_path / "ssr", {"ssr": 5}))
    assert figures["comparisons"] == [] and figures["rows"] == ["ssr"] and "ssr learns gold" in read_page(tmp_path / "ssr")[0]


def test_a_run_that_was_cut_off(tmp_path):
    """Rows in parts, responses not yet judged, a train.csv without steps, one whose last line is not whole."""
    out = make_run(tmp_path, {"base": 5, "s3ft": 14})
    said = {name: value for name, value in response().items() if name not in ("correct", "reason")}
    jsonl(out / "candidates.jsonl", [{**ROW, "id": 1}, {**ROW, "id": 2}, {"id": 1, "self": said}, {"id": 2, "self": said},
                                     {"id": 1, "self": response()}])
    jsonl(out / "s3ft/eval.jsonl", [{"id": 0, "response": response()}, {"id": 1, "response": said}])
    write_text(out / "s3ft/train.csv", "step,loss,tokens\n1,0.5,100\n2")
    write_text(out / "s3ft.1/train.csv", "step,loss,tokens\n")
    figures = report.write(out)
    assert figures["tokens"]["self"]["n"] == 2 and figures["reasons"]["self"] == {"right": 1}
    assert figures["scores"]["s3ft"]["gsm8k"]["n"] == 1 and "loss per target token by step" in read_page(out)[0]


def test_odd_candidates(tmp_path):
    """No own responses, or an empty one; log-probabilities that are not finite or not known; a target without its candidates."""
    out = make_run(tmp_path, {"base": 5, "sft": 3})
    jsonl(out / "candidates.jsonl", [{**ROW, "id": 1, "gold_logprob": float("-inf")}, {**ROW, "id": 2},
                                     {**ROW, "id": 3, "self": response(ids=[], logprob=0.0)}])
    jsonl(out / "sft/targets.jsonl", [{"id": i, "source": "gold", "target": "y"} for i in (4, 3, 2, 1)])
    figures = report.write(out)
    assert figures["log-probability per token"] == {} and read_page(out)[0].count("<details>") == 3
    assert figures["tokens"] == {"self": {"n": 1, "mean": 0}, "gold": {"n": 3, "mean": 1}}
