"""report.py: figures against values computed by hand; runs under way; hostile text."""

import json
import sys
from html.parser import HTMLParser

import pytest

import report
from evaluate import wilson
from files import InputError, write_json, write_jsonl, write_text

HOSTILE = [
    "\x1b[2J</pre></script><script>alert(1)</script> \x00 & \"'",
    "'\"><svg onload=alert(1)><img src=x onerror=alert(1)>",
    "</style></title></details></svg><plaintext><!-- ]]>&#60;i&#62;",
    "\u202eevil\u2066\r\x85\u2028",
]


def response(correct, logprob=-2.0):
    reason = "right" if correct else "wrong number: 1 is not 2"
    return {"ids": [5, 6, 7, 8], "logprob": logprob, "correct": correct, "reason": reason}


def make_run(out, arms, words="words"):
    """A run directory. arms: {name: test items right of 20}; 10 training rows: 2 own, 3, 5 gold."""
    write_json(out / "config.json", {"task": "gsm8k", "ckpt": words, words: words})
    rows, targets = [], []
    for i in range(10):
        row = {"id": f"{words}:{i}", "messages": [{"role": "user", "content": words}]}
        source = "own" if i < 2 else "paraphrase" if i < 5 else "gold"
        targets.append({**row, "source": source, "target": f"{source} {i} {words}", "ids": [1]})
        row |= {"gold": words, "gold_ids": [1, 2], "gold_logprob": -3.0}
        row["own"] = response(i < 2, logprob=-0.4 * (i + 1)) | ({"reason": words} if i > 8 else {})
        if i >= 2:  # the log-probability given the request is not the one to show
            row |= {"paraphrase": response(i < 5, logprob=-0.01), "paraphrase_logprob": -1.6}
        rows.append(row)
    write_jsonl(out / "candidates.jsonl", rows)
    for arm, right in arms.items():
        items = [{"id": i, "response": response(i < right)} for i in range(20)]
        write_jsonl(out / arm / "eval.jsonl", items)
        if arm != "base":
            write_jsonl(out / arm / "targets.jsonl", targets)
            write_text(out / arm / "train.csv", "step,loss\n1,2.0\n2,1.0\n")
    return out


def add_bench(out, tables):
    rows = []
    for (arm, bench), items in tables.items():
        for i, scores in enumerate(items):
            rows.append({"id": i, "model": arm, "bench": bench, "context": "", "scores": scores})
    write_jsonl(out / "bench.jsonl", rows)


def test_figures_by_hand(tmp_path):
    figures = report.summary(make_run(tmp_path, {"base": 5, "sft": 3, "s3ft": 14}))
    assert json.loads(json.dumps(figures)) == figures
    low, high = wilson(14, 20)
    assert figures["scores"]["gsm8k"]["s3ft"] == {"n": 20, "score": 0.7, "low": low, "high": high}
    found = figures["comparisons"]["gsm8k"]
    assert list(found) == ["s3ft − base", "s3ft − sft", "sft − base"]
    best = found["s3ft − sft"]
    assert best["difference"] == pytest.approx(0.55) and best["outcome"] == "higher"
    assert (best["only_a"], best["only_b"], best["p"]) == (11, 0, 2 / 2**11)
    assert figures["targets"]["s3ft"] == {"own": 2, "paraphrase": 3, "gold": 5}
    candidates = figures["candidates"]
    assert candidates[report.LOGPROB]["own"] == pytest.approx([-0.1 * i for i in range(1, 11)])
    assert candidates[report.LOGPROB]["paraphrase"] == [-0.4] * 8
    assert candidates["tokens"]["gold"] == [2] * 10
    assert candidates["verdict: wrong number"] == {"own": 7, "paraphrase": 5}
    assert "-0.55 n=10" in report.text(figures)


def test_average_drop_over_the_primary_scores(tmp_path):
    out = make_run(tmp_path, {"base": 5, "s3ft": 5, "sft": 3})
    tables = {}
    for arm, right, mc2 in ("base", 8, 0.8), ("s3ft", 7, 0.8), ("sft", 4, 0.4):
        tables[arm, "mmlu"] = [{"acc": int(i < right)} for i in range(10)]
        tables[arm, "truthfulqa"] = [{"mc1": 0, "mc2": mc2}, {"mc1": 1, "mc2": mc2 / 2}]
    add_bench(out, tables)
    figures = report.summary(out)
    drops = figures["scores"]["average drop"]
    assert [drops[name]["difference"] for name in ("s3ft", "sft")] == pytest.approx([0.05, 0.35])
    mean = figures["comparisons"][report.MEAN]["s3ft − sft"]
    assert mean["difference"] == pytest.approx(0.6 / 2) and mean["n"] == 12 and "p" not in mean
    assert "truthfulqa mc1" in figures["scores"]
    assert list(figures["comparisons"]) == ["gsm8k", "mmlu acc", "truthfulqa mc2", report.MEAN]


def test_seeds_are_averaged_item_by_item(tmp_path):
    out = make_run(tmp_path, {"base": 5, "s3ft": 14, "s3ft.1": 10, "s3ft.12": 12})
    items = [{"id": i, "response": response(i < 12)} for i in range(19)]
    write_jsonl(out / "s3ft.12/eval.jsonl", items)  # the row holds items that all seeds have
    figures = report.summary(out)
    scores = figures["scores"]["gsm8k"]
    assert list(scores) == ["base", "s3ft (3 seeds)", "s3ft", "s3ft.1", "s3ft.12"]
    assert scores["s3ft (3 seeds)"]["score"] == pytest.approx(12 / 19)
    found = figures["comparisons"]["gsm8k"]["s3ft (3 seeds) − base"]
    assert found["difference"] == pytest.approx(7 / 19) and found["n"] == 19


def test_a_method_of_a_fork_is_a_method(tmp_path):
    out = make_run(tmp_path, {"base": 5, "a-b c": 9, "a-b c.7": 9, "s3ft": 14})
    figures = report.summary(out)
    assert list(figures["scores"]["gsm8k"])[:3] == ["base", "a-b c (2 seeds)", "s3ft"]
    rows = ["a-b c (2 seeds) − base", "a-b c (2 seeds) − s3ft", "s3ft − base"]
    assert list(figures["comparisons"]["gsm8k"]) == rows


def test_a_run_under_way(tmp_path):
    """Nothing but settings; then rows in parts, unjudged responses, a log that is not whole."""
    write_json(tmp_path / "config.json", {"task": "data/mine.jsonl"})
    assert report.text(report.write(tmp_path)) == report.text(report.summary(tmp_path))
    row = {"id": 1, "messages": [], "gold": "y", "gold_ids": [1]}
    unjudged = {"ids": [1, 2], "logprob": -1.0}
    parts = [row, {"id": 1, "own": unjudged}, {**row, "id": 2}, {"id": 2, "own": response(True)}]
    write_jsonl(tmp_path / "candidates.jsonl", parts)
    judged = [{"id": 0, "response": unjudged}, {"id": 0, "response": response(True)}]
    write_jsonl(tmp_path / "base/eval.jsonl", [*judged, {"id": 1, "response": unjudged}])
    write_text(tmp_path / "s3ft/train.csv", "step,loss,tokens\r\n1,0.5,9\r\n2")
    write_text(tmp_path / "sft/train.csv", "step,loss,tokens\r\n")
    figures = report.write(tmp_path)
    assert figures["scores"]["mine"]["base"]["n"] == 1 and figures["losses"] == {"s3ft": [0.5]}
    assert figures["candidates"][report.LOGPROB] == {"own": [-0.5, -0.5]}
    assert figures["candidates"]["verdict: not judged"] == {"own": 1}
    (tmp_path / "bench.jsonl").write_text('{"id": 1, "model"\n')
    with pytest.raises(InputError, match="bench.jsonl:1: .*remove"):
        report.summary(tmp_path)


class Page(HTMLParser):
    """Tags and text of a page in which every tag is closed by its own end."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == ["html"]

    def handle_starttag(self, tag, attributes):
        assert not {name for name, _ in attributes} & {"src", "href", "style", "onload", "onerror"}
        self.tags.append(tag)
        self.open += [tag] if tag != "meta" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def make_page(out, words):
    """The page of a run that has `words` wherever a text of models, data or settings can stand."""
    folder = words.replace("/", "").replace("\0", "").replace(".", "")
    make_run(out, {"base": 5, "s3ft": 14, folder: 9}, words)
    add_bench(out, {("base", words): [{words: 1}], ("s3ft", words): [{words: 0}]})
    text = report.text(report.write(out))
    assert text.replace("\n", "").isprintable()  # else a name could move the cursor
    return Page(out / "report.html")


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_text_is_text(tmp_path, number):
    """The page has the tags of a harmless run's, nothing that runs, and still shows the words."""
    page, harmless = make_page(tmp_path / "a", HOSTILE[number]), make_page(tmp_path / "b", "words")
    assert page.tags == harmless.tags and not {"script", "link", "img"} & set(page.tags)
    assert page.tags.count("details") == 8 and page.tags.count("polyline") == 2 * (3 + 2)
    assert page.text.count(HOSTILE[number].replace("\r", "\n")) >= 18


def test_plots_hold_everything(tmp_path, monkeypatch):
    """Bars of a source add up to 100 %, an outlier included; curves end at the last step."""
    assert ">-1.5<" in report.plot("x", "y", {"a": [[-1.87, 1]]})  # ticks are round
    out = make_run(tmp_path, {"base": 5, "s3ft": 14})
    write_text(out / "s3ft/train.csv", "step,loss\n" + "".join(f"{i},{i}\n" for i in range(1, 201)))
    with open(out / "candidates.jsonl", "a") as file:
        file.write('{"id": "words:0", "gold_logprob": -1e9}\n')
    drawn = []
    monkeypatch.setattr(report, "plot", lambda x, y, curves: drawn.append(curves))
    report.write(out)
    bars, losses = drawn
    assert list(bars) == ["own", "paraphrase", "gold"]
    assert [sum(y for _, y in bars[name]) for name in bars] == pytest.approx([100] * 3)
    assert [list(losses["s3ft"][i]) for i in (0, -1)] == [[2.5, 2.5], [198.5, 198.5]]


def test_command_line(tmp_path, monkeypatch, capsys):
    out = make_run(tmp_path / "run", {"base": 5, "s3ft": 14})
    monkeypatch.setattr(sys, "argv", ["report.py", str(out)])
    report.main()
    assert "70.0 [48.1, 85.5] n=20" in capsys.readouterr().out and (out / "report.html").exists()
    sys.argv[1] = str(tmp_path / "absent")
    with pytest.raises(SystemExit, match="2"):
        report.main()
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "absent").exists()
