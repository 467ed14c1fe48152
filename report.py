"""What a run shows to people: the tables on the terminal and report.html, made from the files of the run directory alone.

    summary(out) -> figures      every figure, JSON-able
    text(figures) -> str         the tables for a terminal
    write(out) -> figures        summary(out), and `out`/report.html: self-contained, no script, opens from disk

A score is a mean over test items. Its 95 % interval is Wilson's where every item scores 0 or 1, else the bootstrap's. Two arms
are compared on the items that both have: a bootstrap of the paired differences, and McNemar's exact test where items score 0 or
1. The average drop is the paper's: the mean over the benchmarks of base − arm. With several seeds of a method (arms s3ft, s3ft.1,
…) an item's score is its mean over the seeds, and McNemar's test takes the first seed. Not covered: chance in training beyond the
seeds that were run (intervals are over test items), and a correction for the number of comparisons.

Texts of models and data are escaped wherever they stand and never enter a picture. Only the pictures need matplotlib.
"""
import csv
import html
import io
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np

from files import read_json, read_jsonl, write_text

# Colours of Okabe & Ito (2008) or near them, and strokes: told apart in any kind of colour vision, and in grey.
METHODS = {"base": ("#000000", "-"), "sft": ("#d55e00", "-"), "ssr": ("#cc79a7", "--"), "sdft": ("#009e73", "-."),
           "self": ("#e69f00", ":"), "s3ft": ("#0072b2", "-")}
KINDS = {"self": ("own response", "#0072b2", "-"), "paraphrase": ("paraphrase", "#b35900", "--"),
         "gold": ("gold", "#555555", ":"), "samples": ("sampled response", "#009e73", "-.")}
SOURCES = ("self", "paraphrase", "gold")
PRIMARY = {"mmlu": "acc", "truthfulqa": "mc2", "hellaswag": "acc_norm", "svamp": "acc"}  # the score that counts; all are shown
BENCHES, OPEN, RESAMPLES = "mean of the benchmarks", "not decidable at this n", 10_000


# ------------------------------------------------------------------------------------------------------------------ statistics

def wilson(correct, n, z=1.96):
    """95 % interval of a share (Wilson 1927)."""
    p, d = correct / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    middle = (p + z * z / (2 * n)) / d
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(groups):
    """95 % percentile interval of the mean over groups of each group's mean (Efron & Tibshirani 1993, chapter 13).

    Items are drawn anew within their group. Where few values occur (0 and 1), n draws with replacement are made as what they
    are, multinomial counts of the values: thousands of items cost no more than ten.
    """
    rng, means = np.random.default_rng(0), np.zeros(RESAMPLES)
    for values in groups:
        values, n = np.sort(np.array(values, dtype=float)), len(values)
        distinct, counts = np.unique(values, return_counts=True)
        sums = rng.multinomial(n, counts / n, size=RESAMPLES) @ distinct if len(distinct) < 50 else np.array(
            [rng.choice(values, n).sum() for _ in range(RESAMPLES)])
        means += sums / n / len(groups)
    return tuple(round(float(x), 12) for x in np.percentile(means, [2.5, 97.5]))  # rounded, so that a bound of 0 is 0


def mcnemar(only_a, only_b):
    """Exact two-sided p where a alone is right on `only_a` items and b alone on `only_b` (McNemar 1947): tails of a fair coin."""
    n, ways, tail = only_a + only_b, 1, 0
    for k in range(min(only_a, only_b) + 1):
        tail += ways                          # ways = C(n, k), in whole numbers
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2 ** n)


def estimate(values):
    """{n, score, low, high} of the items' scores."""
    low, high = wilson(sum(values), len(values)) if all(v in (0, 1) for v in values) else bootstrap([values])
    return {"n": len(values), "score": sum(values) / len(values), "low": low, "high": high}


def compare(pairs, first):
    """The difference a − b over pairs of tables {id: score}, one pair a benchmark; {} where a pair shares no item.

    `first`: the pairs of the first seeds. The outcome is open unless the interval leaves out 0 and, where it applies, p < 0.05.
    """
    groups = [[a[i] - b[i] for i in a if i in b] for a, b in pairs]
    if not groups or not all(groups):
        return {}
    low, high = bootstrap(groups)
    found = {"n": sum(map(len, groups)), "difference": sum(sum(d) / len(d) for d in groups) / len(groups),
             "low": low, "high": high, "outcome": OPEN if low <= 0 <= high else "higher" if low > 0 else "lower"}
    flips = Counter(a[i] - b[i] for a, b in first for i in a if i in b)
    if len(first) == 1 and set(flips) <= {-1, 0, 1}:
        found |= {"only_a": flips[1], "only_b": flips[-1], "p": mcnemar(flips[1], flips[-1])}
        found["outcome"] = found["outcome"] if found["p"] < 0.05 else OPEN
    return found


# --------------------------------------------------------------------------------------------------------------- reading a run

def rows_of(path):
    """The rows of a JSONL file; none where it is absent."""
    return (row for _, row in read_jsonl(path)) if path.exists() else ()


def candidates_of(row):
    """(kind, {text, ids, logprob, …}) of whatever a row of candidates.jsonl holds; log-probabilities are those given x alone."""
    if "self" in row:
        yield "self", row["self"]
    if "paraphrase" in row:
        yield "paraphrase", {**row["paraphrase"], "logprob": row.get("paraphrase_logprob")}
    yield "gold", {"text": row["gold"], "ids": row["gold_ids"], "logprob": row.get("gold_logprob")}
    for name, response in row.items():
        if name.startswith("sample "):
            yield "samples", response


def per_token(c):
    """Log-probability of a candidate per token; NaN where it is not known."""
    return c["logprob"] / len(c["ids"]) if c["ids"] and c.get("logprob") is not None else math.nan


def collect(out):
    """Whatever the report needs of the directory, each file read once, row by row; what is absent stays empty."""
    settings, speed, scored = (read_json(out / name) if (out / name).exists() else {}
                               for name in ("config.json", "speed.json", "eval.json"))
    task = next((task for by_task in scored.values() for task in by_task), "task")
    items, primary, targets, curves = {task: {}}, {}, {}, {}                  # items: {measure: {arm: {id: score}}}
    for row in rows_of(out / "bench.jsonl"):
        for metric, value in row["scores"].items():
            primary.setdefault(row["bench"], PRIMARY.get(row["bench"], metric))
            items.setdefault(f"{row['bench']} {metric}", {}).setdefault(row["model"], {})[row["id"]] = value
    names = {*scored, *(arm for by_arm in items.values() for arm in by_arm)}
    arms = [name for name in names if re.fullmatch(rf"({'|'.join(METHODS)})(\.[0-9]+)?", name)]
    arms.sort(key=lambda arm: (list(METHODS).index(arm.split(".")[0]), int(arm.partition(".")[2] or 0)))
    for arm in arms:
        items[task][arm] = {row["id"]: int(row["response"]["correct"]) for row in rows_of(out / arm / "eval.jsonl")}
        if chosen := {row["id"]: row["source"] for row in rows_of(out / arm / "targets.jsonl")}:
            targets[arm] = chosen
        if (out / arm / "train.csv").exists():
            with open(out / arm / "train.csv", newline="") as file:
                curves[arm] = [{k: float(row[k]) for k in ("loss", "tokens", "seconds")} for row in csv.DictReader(file)]

    shown = "s3ft" if "s3ft" in targets else [None, *targets][-1]  # the arm whose targets are browsed, three of each source
    browsed = {i: s for s in SOURCES for i in [i for i, source in targets.get(shown, {}).items() if source == s][:3]}
    logprob, tokens = ({name: [] for kind in KINDS for name in (kind, f"{kind}, judged right")} for _ in range(2))
    examples, reasons, substance = {}, {}, []
    for row in rows_of(out / "candidates.jsonl"):
        if row["id"] in browsed:
            examples[row["id"]] = row
        for kind, c in candidates_of(row):
            for name in (kind, f"{kind}, judged right")[:1 + bool(c.get("correct"))]:
                tokens[name].append(len(c["ids"]))
                logprob[name] += [value] if math.isfinite(value := per_token(c)) else []
            if "reason" in c:
                reasons.setdefault(kind, Counter())[c["reason"].partition(":")[0]] += 1
            if "substance" in c and c["correct"]:
                substance.append([c["substance"][k] for k in ("length", "numbers", "copy")])
    return {"task": task, "arms": arms, "items": items, "primary": [task, *(f"{b} {m}" for b, m in primary.items())],
            "targets": targets, "curves": {arm: c for arm, c in curves.items() if c}, "settings": settings, "speed": speed,
            "logprob": {k: v for k, v in logprob.items() if v}, "tokens": {k: v for k, v in tokens.items() if v},
            "reasons": reasons, "substance": substance, "shown": shown, "browsed": browsed, "examples": examples}


# --------------------------------------------------------------------------------------------------------------------- figures

def summary(out):
    """Every figure of the run directory `out`; "rows": the names in the main table, a method's seeds taken together."""
    return figures_of(collect(Path(out)))


def figures_of(run):
    seeds, items, primary = {}, run["items"], run["primary"]
    for arm in run["arms"]:
        seeds.setdefault(arm.split(".")[0], []).append(arm)
    rows = {arms[0] if len(arms) == 1 else f"{method} ({len(arms)} seeds)": arms for method, arms in seeds.items()}

    def table(arms, measure):  # {id: mean over the arms}, of the items that all of them have
        tables = [items[measure].get(arm, {}) for arm in arms]
        return {i: sum(t[i] for t in tables) / len(tables) for i in tables[0] if all(i in t for t in tables)}

    base, s3ft = (next((row for row in rows if row.split()[0] == method), None) for method in ("base", "s3ft"))
    pairs = [(row, base) for row in rows if base and row != base]
    pairs += [(s3ft, row) for row in rows if s3ft and row not in (base, s3ft)]
    comparisons = []
    for measure, parts in [*((m, [m]) for m in primary), (BENCHES, primary[1:])]:
        for a, b in pairs:
            means, firsts = ([(table(rows[a][:k], m), table(rows[b][:k], m)) for m in parts] for k in (None, 1))
            if found := compare(means, firsts):
                comparisons.append({"measure": measure, "a": a, "b": b, **found})
    return {"task": run["task"], "rows": list(rows), "primary": primary,
            "scores": {name: {m: estimate(list(t.values())) for m in items if (t := table(arms, m))}
                       for name, arms in {**rows, **{arm: [arm] for arm in run["arms"]}}.items()},
            "average_drop": {c["a"]: {"score": 0 - c["difference"], "low": 0 - c["high"], "high": 0 - c["low"]}
                             for c in comparisons if (c["measure"], c["b"]) == (BENCHES, base)},
            "comparisons": comparisons,
            "targets": {arm: {s: list(chosen.values()).count(s) for s in SOURCES} for arm, chosen in run["targets"].items()},
            "logprob_per_token": {kind: spread(values) for kind, values in run["logprob"].items()},
            "tokens": {kind: spread(values) for kind, values in run["tokens"].items()},
            "reasons": {kind: dict(found.most_common()) for kind, found in run["reasons"].items()},
            "training": {arm: training(steps) for arm, steps in run["curves"].items()}}


def spread(values):
    low, median, high = np.percentile(values, [5, 50, 95]).tolist()
    return {"n": len(values), "mean": float(np.mean(values)), "median": median, "p5": low, "p95": high}


def training(steps):
    """Of one arm's train.csv: loss over the first and the last tenth of the steps, and what the training took."""
    tenth, loss = -(-len(steps) // 10), [s["loss"] for s in steps]
    return {"steps": len(steps), "first_tenth": float(np.mean(loss[:tenth])), "last_tenth": float(np.mean(loss[-tenth:])),
            "tokens": int(sum(s["tokens"] for s in steps)), "seconds": round(sum(s["seconds"] for s in steps), 3)}


# --------------------------------------------------------------------------- tables: the part of a cell after "\n" is shown small

def cell(found, key="score", sign=""):
    """A share or a difference with its interval, in points."""
    if not found:
        return "–"
    middle, low, high = (f"{round(100 * found[k], 1) + 0.0:{sign}.1f}" for k in (key, "low", "high"))
    return f"{middle}\n[{low}, {high}]"


def score_table(figures, names, measures):
    scores, drops = figures["scores"], figures["average_drop"]
    size = {m: max((s[m]["n"] for s in scores.values() if m in s), default=0) for m in measures}
    table = [["", *(f"{m}\nn = {size[m]}" for m in measures), *(["average drop\nbase − arm"] if drops else [])]]
    for name in names:
        cells = [cell(s := scores[name].get(m)) + (f", n = {s['n']}" if s and s["n"] < size[m] else "") for m in measures]
        table.append([name, *cells, *([cell(drops.get(name))] if drops else [])])
    return table


def comparison_table(figures, measures):
    table = [["", "difference\nin points", "right alone\n1st : 2nd", "p\nby chance", "the first is"]]
    for c in (c for c in figures["comparisons"] if c["measure"] in measures):
        alone, p = "–", "–"
        if "p" in c:
            alone = f"{c['only_a']} : {c['only_b']}"
            p = f"{c['p']:.3f}\n{100 * c['p']:.1f} in 100" if c["p"] >= 0.001 else "< 0.001\nunder 1 in 1,000"
        pair = f"{c['a']} against {c['b']}\n{c['measure']}, n = {c['n']}"
        table.append([pair, cell(c, "difference", "+"), alone, p, c["outcome"]])
    return table


def text(figures):
    """The tables for a terminal."""
    targets = [["targets", *SOURCES], *([arm, *map(str, counts.values())] for arm, counts in figures["targets"].items())]
    lines = ["scores in %, with 95 % intervals over the test items"]
    for table in (score_table(figures, figures["rows"], figures["primary"]), targets,
                  comparison_table(figures, [figures["task"], BENCHES])):
        if len(table) > 1:
            table = [[c.replace("\n", " ") for c in row] for row in table]
            widths = [max(map(len, column)) for column in zip(*table)]
            lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in table] + [""]
    means = [f"{KINDS[k][0]} {found['mean']:.2f}" for k, found in figures["logprob_per_token"].items() if k in KINDS]
    return "\n".join(lines + [f"log-probability per token under the base model, mean: {', '.join(means)}"] * bool(means))


# ------------------------------------------------------------------------------------------------------------------------ page

STYLE = """
:root { color-scheme: light; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
small, .note { color: #555; font-size: .85rem; font-weight: normal; } th > small, td > small { display: block; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .scroll { overflow-x: auto; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #ddd; }
td, th[scope=col] { white-space: nowrap; } th[scope=row] { min-width: 7rem; }
.words td { white-space: normal; overflow-wrap: anywhere; }
.pair { display: flex; flex-wrap: wrap; } figure { margin: .8rem 0; } svg { max-width: 100%; height: auto; }
.bar { display: flex; height: 1.3rem; max-width: 40rem; margin: .1rem 0 .9rem; } .key { white-space: nowrap; margin-left: .8em; }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
details { border-left: 4px solid #ccc; padding-left: .8rem; margin: .6rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 .9rem; font: 14px/1.45 ui-monospace, monospace; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } h2 { break-after: avoid; }
  tr, figure { break-inside: avoid; } .scroll { overflow: visible; } td, th { padding-right: .7rem; } pre { font-size: 9pt; }
  details::details-content { content-visibility: visible; height: auto; } }
"""


def html_table(table, kind=""):
    """Rows of text; the first row heads the columns, the first cell its row."""
    def show(tag, value):
        first, _, small = html.escape(value).partition("\n")
        return f"<{tag}>{first}{f'<small>{small}</small>' if small else ''}</{tag[:2]}>"
    lines = ["".join(show("td" if i else 'th scope="row"', c) for i, c in enumerate(row)) for row in table[1:]]
    lines.insert(0, "".join(show('th scope="col"', c) for c in table[0]))
    return f'<div class="scroll"><table class="{kind}">{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def candidate_table(figures):
    """Log-probability and length of each kind of candidate."""
    table = [["", "n", "log p a token, mean", "tokens, mean"]]
    for name, tokens in figures["tokens"].items():
        kind, _, right = name.partition(",")
        cells = [f"{v['mean']:{form}}\nmedian {v['median']:{form}}, 90 % in [{v['p5']:{form}}, {v['p95']:{form}}]" if v else "–"
                 for v, form in ((figures["logprob_per_token"].get(name), ".2f"), (tokens, ".0f"))]
        table.append([KINDS[kind][0] + right, str(tokens["n"]), *cells])
    return table


def mix(arm, counts):
    """A bar of the targets' sources below its key."""
    share = {s: 100 * n / sum(counts.values()) for s, n in counts.items()}
    key = "".join(f'<span class="key"><i style="background:{KINDS[s][1]}"></i>{KINDS[s][0]} {n} ({share[s]:.0f} %)</span> '
                  for s, n in counts.items())
    bar = "".join(f'<span style="background:{KINDS[s][1]};width:{share[s]:.2f}%"></span>' for s in counts)
    return f'<b>{arm}</b> {key}<div class="bar" aria-hidden="true">{bar}</div>'


def picture(x, y, plot, labels):
    """What `plot` draws into matplotlib's axes, as inline SVG that is the same for the same numbers; "" without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    style = {"svg.hashsalt": x, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure, file = Figure(figsize=(5.1, 3.3), layout="constrained"), io.StringIO()
        axes = figure.subplots()
        plot(axes)
        axes.set(xlabel=x, ylabel=y)
        axes.locator_params(axis="x", nbins=6)
        axes.legend(frameon=False, fontsize=9)
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = re.sub(r'<g id="[^"]*">', "<g>", file.getvalue())  # the same names in each picture, and nothing refers to them
    alt = f'<svg role="img" aria-label="{y} by {x}: {", ".join(labels)}; figures in the table below" '
    return f'<figure>{svg[svg.index("<svg"):].replace("<svg ", alt, 1)}</figure>'


def histogram(groups, x):
    """Shares of each kind of candidate by `x`."""
    def plot(axes):
        low, high = np.percentile(np.concatenate(list(kinds.values())), [0.5, 99.5])
        edges = np.histogram_bin_edges([low, high], 40)
        for kind, values in kinds.items():
            label, colour, stroke = KINDS[kind]
            weights = np.full(len(values), 100 / len(values))
            axes.hist(np.clip(values, low, high), edges, weights=weights, histtype="stepfilled",
                      facecolor=(colour, 0.2), edgecolor=colour, linestyle=stroke, linewidth=1.4, label=label)
    kinds = {kind: values for kind, values in groups.items() if kind in KINDS}
    return picture(x, "% of the candidates", plot, [KINDS[kind][0] for kind in kinds]) if kinds else ""


def loss_curves(curves):
    """Loss by step; further seeds are thin."""
    def plot(axes):
        for arm, steps in curves.items():
            (colour, stroke), window = METHODS[arm.split(".")[0]], max(1, len(steps) // 50)
            smooth = np.convolve([s["loss"] for s in steps], np.ones(window) / window, "valid")
            axes.plot(np.arange(window, len(steps) + 1), smooth, stroke, color=colour, lw=0.8 if "." in arm else 1.6, label=arm)
    return picture("step", "loss per target token", plot, curves)


def verdict(c):
    """What became of a candidate, in words."""
    words, s = "judged right" if c["correct"] else f"judged wrong ({c['reason']})", c.get("substance")
    if s:
        words += f", {s['length']:.2f} times gold's words, {100 * s['numbers']:.0f} % of its numbers{', a copy' * s['copy']}"
    return words


def example(row, source, asked):
    """One row to unfold: why its target is the target, then all candidates. `asked`: which of them the arm looks at, in order."""
    tried = [k for k in asked[:asked.index(source) + 1] if k in row and k != "gold"]
    why = "; ".join([*(f"{KINDS[k][0]} {verdict(row[k])}" for k in tried), f"the target is: {KINDS[source][0]}"])
    shown = [("prompt", "", row["prompt"])]
    for kind, c in candidates_of(row):
        if kind != "samples":
            said = "the target, " * (kind == source) + (verdict(c) + ", " if "correct" in c else "")
            shown.append((KINDS[kind][0], f"{said}{len(c['ids'])} tokens, log p {per_token(c):.2f} a token", c["text"]))
    return f"<details><summary>{html.escape(str(row['id']))}: {html.escape(why)}</summary>" + "".join(
        f"<b>{name}</b> <small>{html.escape(note)}</small><pre>{html.escape(words[:5000])}</pre>" for name, note, words in shown
    ) + "</details>"


def sections(run, figures):
    """(heading, content) of all that the run has, in order."""
    def note(words):
        return f'<p class="note">{words}</p>'

    def more(label, table):
        return f"<details><summary>{label}</summary>{html_table(table)}</details>" if len(table) > 1 else ""

    scores = score_table(figures, figures["rows"], figures["primary"])
    every = score_table(figures, list(figures["scores"]), list(run["items"]))
    yield "Scores", html_table(scores) + note(
        "In %, with 95 % intervals over the test items: Wilson's where an item scores 0 or 1, else the bootstrap's (10,000 "
        "resamples). Average drop: the mean over the benchmarks of base − arm, with its bootstrap interval."
    ) + more("every score of every arm", every if every != scores else [])
    if figures["comparisons"]:
        yield "Comparisons", html_table(comparison_table(figures, [run["task"]])) + note(
            "Both arms answered the same items. Right alone: items that only the first, or only the second, got right. p: were "
            "both equally good, chance alone would split those items at least as unevenly in so many of such tests (McNemar's "
            f"exact test; with several seeds, of the first). {OPEN.capitalize()}: the difference's interval holds 0, or p is at "
            "least 0.05. Nothing is corrected for the number of comparisons."
        ) + more("on the benchmarks", comparison_table(figures, [*figures["primary"][1:], BENCHES]))
    if figures["targets"]:
        yield "Where the targets come from", "".join(mix(arm, counts) for arm, counts in figures["targets"].items())
    if run["tokens"]:
        pictures = histogram(run["logprob"], "log-probability per token") + histogram(run["tokens"], "tokens")
        table = html_table(candidate_table(figures))
        yield "Candidates under the base model", f'<div class="pair">{pictures}</div>{table}' + note(
            "Natural logarithm, given the prompt alone, by the candidate's number of tokens; the unfinished are among them. "
            "The outermost bars also hold the farthest half per cent.")
    if kinds := list(figures["reasons"]):
        common = sum(run["reasons"].values(), Counter()).most_common(20)
        length, numbers, copies = np.mean(run["substance"] or [[0, 0, 0]], axis=0)
        yield "What the judge said", html_table([["", *(KINDS[k][0] for k in kinds)]] + [
            [reason[:80], *(str(run["reasons"][k][reason]) for k in kinds)] for reason, _ in common]) + note(
            f"Paraphrases judged right: {len(run['substance'])}, with {length:.2f} times the words of gold and "
            f"{100 * numbers:.0f} % of its numbers; {100 * copies:.0f} % of them are copies.") * bool(run["substance"])
    if figures["training"]:
        yield "Training", loss_curves(run["curves"]) + html_table(
            [["", "steps", "loss\nfirst tenth", "loss\nlast tenth", "tokens", "seconds"]] + [
                [arm, f"{t['steps']:,}", f"{t['first_tenth']:.3f}", f"{t['last_tenth']:.3f}", f"{t['tokens']:,}",
                 f"{t['seconds']:,.0f}"] for arm, t in figures["training"].items()]) + note(
            "Arms learn different targets: a lower loss says that the targets are more probable, not that they are better. "
            "The curves are running means over a fiftieth of the steps.")
    if run["examples"]:
        asked = [kind for kind in SOURCES if run["shown"] == "s3ft" or kind in run["browsed"].values()]
        yield f"Examples of {run['shown']}", "".join(
            example(run["examples"][i], source, asked) for i, source in run["browsed"].items() if i in run["examples"])
    speed = {f"speed, {k}": f"{v['tokens']:,} tokens in {v['seconds']:,.0f} s" for k, v in run["speed"].items()}
    settings = [[k, v if isinstance(v, str) else json.dumps(v)] for k, v in {**run["settings"], **speed}.items()]
    yield "Settings", html_table([["", ""]] + [[k, v.replace("\n", " ⏎ ")] for k, v in settings], "words")


def write(out):
    """Write `out`/report.html; the figures in it."""
    run = collect(Path(out))
    figures = figures_of(run)
    title = html.escape(f"S3FT run: {run['task']}, {Path(str(run['settings'].get('ckpt', ''))).name}")
    body = "".join(f"<h2>{heading}</h2>{content}" for heading, content in sections(run, figures))
    if "<svg" not in body:
        body = '<p class="note">Without pictures: <code>pip install matplotlib</code> draws them.</p>' + body
    write_text(Path(out) / "report.html", '<!doctype html><html lang="en"><meta charset="utf-8">'
               f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
               f"<body><h1>{title}</h1>{body}</body></html>\n")
    return figures
