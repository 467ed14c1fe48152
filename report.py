"""What a run shows to people: the tables on the terminal and report.html, made from the files of the run directory alone.

    summary(out) -> figures      every figure, JSON-able
    text(figures) -> str         the tables for a terminal
    write(out) -> figures        summary(out), and `out`/report.html: self-contained, no script, opens from disk

What the figures mean is said in MEANING, which the page shows. Texts of models and data are escaped wherever they stand.
"""
import csv
import html
import json
import math
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path

import numpy as np

from files import read_json, read_jsonl, write_text

# Colours of Okabe & Ito (2008) or near them, and dashes: told apart in any kind of colour vision, and in grey
METHODS = {"base": ("#000000", ""), "sft": ("#d55e00", ""), "ssr": ("#cc79a7", "7 3"), "sdft": ("#009e73", "8 3 2 3"),
           "self": ("#e69f00", "2 3"), "s3ft": ("#0072b2", "")}
KINDS = {"self": ("#0072b2", ""), "paraphrase": ("#b35900", "7 3"), "gold": ("#555555", "2 3")}
MEASURED = ("log-probability per token", "tokens")                           # of each candidate
PRIMARY = ("mmlu acc", "truthfulqa mc2", "hellaswag acc_norm", "svamp acc")  # the scores that count; all are shown
BENCHES, OPEN, RESAMPLES = "benchmarks, mean", "not decidable at this n", 10_000
MEANING = """
Scores are means over test items, in %, with 95 % intervals: Wilson's where every item scores 0 or 1, else the bootstrap's. With
several seeds of a method (arms s3ft, s3ft.1, …) an item's score is its mean over them. Average drop: the mean over the benchmarks of
base − arm. Two arms are compared on the items that both have. Right alone: items that only the first, or only the second, got right.
p: the probability of so uneven a split between equals (McNemar's exact test, of the first seeds). The outcome is open unless the
bootstrap interval of the paired differences leaves out 0 and p is below 0.05. Not covered: chance in training beyond the seeds that
were run, a correction for the number of comparisons. Log-probabilities are natural, under the base model, given the prompt alone; the
outermost bars hold the farthest half per cent too. Losses are running means; a lower loss on other targets is no better model."""


# ------------------------------------------------------------------------------------------------------------------ statistics

def wilson(correct, n, z=1.96):
    """95 % interval of a share (Wilson 1927)."""
    p, d = correct / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    middle = (p + z * z / (2 * n)) / d
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(groups):
    """95 % percentile interval of the mean over groups of each group's mean (Efron & Tibshirani 1993, chapter 13).

    Items are drawn anew within their group; where few values occur (0 and 1), as multinomial counts of them, which cost little.
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
    n = only_a + only_b
    ways = accumulate(range(min(only_a, only_b)), lambda c, k: c * (n - k) // (k + 1), initial=1)  # C(n, 0), C(n, 1), … exactly
    return min(1.0, 2 * sum(ways) / 2 ** n)


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


# --------------------------------------------------------------------------------------------------------- from files to figures

def rows_of(path):
    """The rows of a JSONL file; none where it is absent."""
    return (row for _, row in read_jsonl(path)) if path.exists() else ()


def read_run(out):
    """Whatever the report needs of the directory; what is absent, or not there yet, stays empty."""
    settings = read_json(out / "config.json") if (out / "config.json").exists() else {}
    task, folders = Path(settings.get("task", "task")).stem, sorted(path.name for path in out.iterdir())
    seeds = {m: arms for m in METHODS if (arms := [name for name in folders if re.fullmatch(rf"{m}(\.[0-9]+)?", name)])}
    items, losses, targets, rows = {task: {}}, {}, {}, {}  # items: {measure: {arm: {id: score}}}
    for arm in sum(seeds.values(), []):
        items[task][arm] = {row["id"]: int(row["response"]["correct"]) for row in rows_of(out / arm / "eval.jsonl")
                            if "correct" in row["response"]}
        if (log := out / arm / "train.csv").exists():
            losses[arm] = [float(step["loss"]) for step in csv.DictReader(log.read_text().splitlines()) if step["loss"]]
    for row in rows_of(out / "bench.jsonl"):
        for metric, score in row["scores"].items():
            items.setdefault(f"{row['bench']} {metric}", {}).setdefault(row["model"], {})[row["id"]] = score
    for method, (arm, *_) in seeds.items():                # all seeds of a method learn the same targets
        targets[method] = {row["id"]: (row["source"], row["target"]) for row in rows_of(out / arm / "targets.jsonl")}
    for row in rows_of(out / "candidates.jsonl"):          # until all are there, a row is in parts
        rows.setdefault(row["id"], {}).update(row)
    return {"settings": settings, "task": task, "seeds": seeds, "items": items, "losses": losses,
            "targets": {method: chosen for method, chosen in targets.items() if chosen},
            "prompts": {i: row["prompt"] for i, row in rows.items()}, "candidates": {i: candidates_of(row) for i, row in rows.items()}}


def candidates_of(row):
    """{name: candidate} of what a row of candidates.jsonl holds, MEASURED; log-probabilities are those given the prompt alone."""
    found = {name: c for name, c in row.items() if name in ("self", "paraphrase") or name.startswith("sample ")}
    found["gold"] = {"text": row["gold"], "ids": row["gold_ids"]}
    for name, c in found.items():
        n, total = len(c["ids"]), row.get(f"{name}_logprob") if name in ("paraphrase", "gold") else c["logprob"]
        c |= {"tokens": n, "log-probability per token": math.nan if total is None or n == 0 else round(total / n, 4)}
    return found


def values_of(candidates, measure):
    """{kind: its finite values}."""
    found = {kind: [row[kind][measure] for row in candidates if kind in row] for kind in KINDS}
    return {kind: finite for kind, values in found.items() if (finite := [v for v in values if math.isfinite(v)])}


def summary(out):
    """Every figure of the run directory `out`; "rows": the names in the main table, a method's seeds taken together."""
    return figures_of(read_run(Path(out)))


def figures_of(run):
    items, candidates = run["items"], list(run["candidates"].values())
    primary = [run["task"], *(measure for measure in items if measure in PRIMARY)]
    rows = {method if arms == [method] else f"{method} ({len(arms)} seeds)": arms for method, arms in run["seeds"].items()}
    every = {**rows, **{arm: [arm] for arms in rows.values() for arm in arms}}

    def table(measure, arms):  # {id: mean over the arms}, of the items that all of them have
        tables = [items[measure].get(arm, {}) for arm in arms]
        return {i: sum(t[i] for t in tables) / len(tables) for i in tables[0] if all(i in t for t in tables)}

    scores = {name: {m: estimate(list(t.values())) for m in items if (t := table(m, arms))} for name, arms in every.items()}
    pairs = [(row, "base") for row in rows if "base" in rows and row != "base"]
    pairs += [(ours, row) for ours in rows if ours.startswith("s3ft") for row in rows if row not in ("base", ours)]
    comparisons = []
    for name, parts in [*((measure, [measure]) for measure in items), (BENCHES, primary[1:])]:
        for a, b in pairs:
            means, firsts = ([(table(m, rows[a][:k]), table(m, rows[b][:k])) for m in parts] for k in (None, 1))
            if c := compare(means, firsts):
                comparisons.append({"measure": name, "a": a, "b": b, **c})
                if (name, b) == (BENCHES, "base"):
                    scores[a]["average drop"] = {"n": c["n"], "score": 0 - c["difference"], "low": 0 - c["high"], "high": 0 - c["low"]}
    measured = {measure: {kind: {"n": len(values), "mean": sum(values) / len(values)}
                          for kind, values in values_of(candidates, measure).items()} for measure in MEASURED}
    return {"rows": list(rows), "primary": primary, "scores": scores, "comparisons": comparisons, **measured,
            "targets": {m: {kind: [s for s, _ in t.values()].count(kind) for kind in KINDS} for m, t in run["targets"].items()},
            "samples": sampling(candidates),
            "reasons": {kind: Counter(row[kind]["reason"].partition(":")[0] for row in candidates if "reason" in row.get(kind, {}))
                        for kind in KINDS if kind != "gold"}}


def sampling(candidates):
    """By how much samples raised the share of rows that have an acceptable own response; {} without samples."""
    own = [{name: c.get("correct", False) and c["finish"] == "stop" for name, c in row.items() if name not in ("paraphrase", "gold")}
           for row in candidates if "self" in row]
    n, k, greedy, some = len(own), max(map(len, own), default=1) - 1, sum(o["self"] for o in own), sum(any(o.values()) for o in own)
    return {"samples": k, "n": n, "greedy": greedy, "any": some, "words":
            f"self share: {100 * greedy / n:.1f} % greedily, {100 * some / n:.1f} % with --samples {k} "
            f"({greedy:,} and {some:,} of {n:,} rows have an acceptable own response)"} if k else {}


# ------------------------------------------------------------------ tables: in a cell, what follows the first line is shown small

def cell(found, key="score", sign="", full=0):
    """A share or a difference with its interval, in points, and its n where that is not the `full` one."""
    middle, low, high = (f"{round(100 * found[k], 1) + 0.0:{sign}.1f}" for k in (key, "low", "high"))
    return f"{middle}\n[{low}, {high}]" + (f", n = {found['n']:,}" if found["n"] < full else "")


def score_table(figures, names, measures):
    scores = figures["scores"]
    full = {m: max(n) for m in measures if (n := [found[m]["n"] for found in scores.values() if m in found])}
    return [["scores", *full], ["n", *(f"{n:,}" for n in full.values())]] + [
        [name, *(cell(scores[name][m], full=full[m]) if m in scores[name] else "–" for m in full)] for name in names]


def comparison_table(figures, measures):
    table = [["difference", "of", "in points", "right alone", "p", "the first is"]]
    for c in (c for c in figures["comparisons"] if c["measure"] in measures):
        alone = f"{c['only_a']} : {c['only_b']}" if "p" in c else "–"
        p = "–" if "p" not in c else f"{c['p']:.3f}" if c["p"] >= 0.001 else "< 0.001"
        table.append([f"{c['a']} − {c['b']}", f"{c['measure']}\nn = {c['n']:,}", cell(c, "difference", "+"), alone, p, c["outcome"]])
    return table


def candidate_table(figures):
    """Means, then the judge's reasons by count."""
    kinds, reasons = list(figures["tokens"]), figures["reasons"]
    table = [["candidates", *kinds], ["n", *(f"{figures['tokens'][kind]['n']:,}" for kind in kinds)]]
    for measure in MEASURED:
        table.append([f"{measure}, mean", *(f"{figures[measure][k]['mean']:.2f}" if k in figures[measure] else "–" for k in kinds)])
    for reason, _ in sum(map(Counter, reasons.values()), Counter()).most_common(12):
        table.append([f"judge: {reason[:60]}", *(f"{reasons[kind].get(reason, 0):,}" if kind in reasons else "–" for kind in kinds)])
    return table


def tables_of(figures):
    """{heading: table} that terminal and page share."""
    targets = [[method, *(f"{n:,}\n{100 * n / sum(counts.values()):.0f} %" for n in counts.values())]
               for method, counts in figures["targets"].items()]
    return {"Scores": score_table(figures, figures["rows"], [*figures["primary"], "average drop"]),
            "Comparisons": comparison_table(figures, [figures["primary"][0], BENCHES]),
            "Targets": [["targets", *KINDS], *targets],
            "Candidates": candidate_table(figures)}


def text(figures):
    """The tables for a terminal, control characters taken out."""
    lines = ["in points, with 95 % intervals over the test items", ""]
    for table in (table for table in tables_of(figures).values() if table[1:] and table[0][1:]):
        table = [[re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", c) for c in row] for row in table]
        widths = [max(map(len, column)) for column in zip(*table)]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in table] + [""]
    return "\n".join([*lines, figures["samples"].get("words", "")]).rstrip()


# ------------------------------------------------------------------------------------------------------------------------ page

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #ddd; }
td { white-space: pre; color: #555; font-size: .85em; } td::first-line { color: #222; font-size: 1.18em; }
.words th { white-space: nowrap; } .words td { white-space: pre-wrap; overflow-wrap: anywhere; }
svg { width: 30rem; max-width: 100%; margin: .8rem 0; font-size: 13px; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } h2 { break-after: avoid; } tr, svg { break-inside: avoid; }
  table { display: table; } td, th { padding-right: .7rem; } details::details-content { content-visibility: visible; height: auto; } }
"""


def html_table(table, kind=""):
    """Rows of text, the first row and column of which are heads; "" where there is nothing beside these."""
    rows = [[f"<td>{html.escape(c)}</td>" if i and j else f"<th>{html.escape(c)}</th>" for j, c in enumerate(row)]
            for i, row in enumerate(table)]
    return f'<table class="{kind}"><tr>{"</tr><tr>".join(map("".join, rows))}</tr></table>' if table[1:] and table[0][1:] else ""


def plot(x_name, y_name, curves):
    """Curves [(label, colour, dashes, xs, ys)] as inline SVG; y begins at 0."""
    xs, ys = (np.concatenate([curve[k] for curve in curves]) for k in (-2, -1))
    low, span, top, legend = xs.min(), np.ptp(xs) or 1, ys.max() or 1, 45
    texts, lines = [(0, 12, "start", y_name), (255, 299, "middle", x_name)], []

    def at(x, y):
        return 45 + 420 * (x - low) / span, 265 - 215 * y / top

    def ticks(first, last):  # round numbers, at most seven
        step = next(s * 10.0 ** e for e in range(-9, 12) for s in (1, 2, 5) if last - first < 6 * s * 10.0 ** e)
        return [k * step for k in range(math.ceil(first / step), math.floor(last / step) + 1)]

    texts += [(at(x, 0)[0], 281, "middle", f"{x:g}") for x in ticks(low, low + span)]
    texts += [(39, at(low, y)[1] + 4, "end", f"{y:g}") for y in ticks(0, top)]
    lines += [f'<path d="M45,{at(low, y)[1]:.1f}h420" stroke="#ddd"/>' for y in ticks(0, top)]
    for label, colour, dashes, xs, ys in curves:
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dashes}"'
        points = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in zip(xs, ys))
        lines.append(f'<polyline points="{points}" {stroke}/>')
        if label:
            lines.append(f'<path d="M{legend},30h22" {stroke}/>')
            texts.append((legend + 27, 34, "start", label))
            legend += 42 + 7 * len(label)
    lines += [f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>' for x, y, anchor, words in texts]
    return f'<svg viewBox="0 0 480 305" role="img" aria-label="{y_name} by {x_name}">{"".join(lines)}</svg>'


def pictures(run):
    """(section, picture): shares of the candidates by log-probability and by length; loss by step."""
    for measure in MEASURED:
        if groups := values_of(run["candidates"].values(), measure):
            low, high = np.percentile(np.concatenate(list(groups.values())), [0.5, 99.5])
            edges, curves = np.histogram_bin_edges([low, high], 40), []
            for kind, values in groups.items():
                shares = 100 * np.histogram(np.clip(values, low, high), edges)[0] / len(values)
                curves.append((kind, *KINDS[kind], np.repeat(edges, 2), [0, *np.repeat(shares, 2), 0]))
            yield "Candidates", plot(measure, "% of the candidates", curves)
    curves = []
    for arm, loss in ((arm, loss) for arm, loss in run["losses"].items() if loss):
        (method, _, seed), window = arm.partition("."), -(-len(loss) // 50)
        means = np.convolve(loss, np.ones(window) / window, "valid")
        curves.append(("" if seed else arm, *METHODS[method], range(window, len(loss) + 1), means))
    if curves:
        yield "Training", plot("step", "loss per target token", curves)


def examples(run):
    """Three rows of each source to unfold: the candidates, what the judge said of each, and which of them is the target."""
    method, targets = [("", {}), *run["targets"].items()][-1]  # of s3ft, where it is an arm
    for kind in KINDS:
        for i in [i for i, (source, _) in targets.items() if source == kind and i in run["candidates"]][:3]:
            table = [["", ""], ["prompt", "\n" + run["prompts"][i]]]
            for name, c in run["candidates"][i].items():
                facts = ["THE TARGET"] * (c["text"] == targets[i][1]) + [f"{f}: {c[f]}" for f in ("reason", *MEASURED) if f in c]
                facts += [f"{name}: {value:.3g}" for name, value in c.get("substance", {}).items()]
                table.append([name, f"{', '.join(facts)}\n{c['text'][:5000]}"])
            yield f"<details><summary>{html.escape(str(i))}: {method} learns {kind}</summary>{html_table(table, 'words')}</details>"


def write(out):
    """Write `out`/report.html; the figures in it."""
    run = read_run(Path(out))
    figures = figures_of(run)
    parts = {heading: html_table(table) for heading, table in tables_of(figures).items()}
    parts["Targets"] += f"<p>{figures['samples']['words']}</p>" if figures["samples"] else ""
    for heading, picture in pictures(run):
        parts[heading] = parts.get(heading, "") + picture
    every = html_table(score_table(figures, figures["scores"], [*run["items"], "average drop"]))
    parts |= {"Examples": "".join(examples(run)),
              "Comparisons on each benchmark": html_table(comparison_table(figures, figures["primary"][1:])),
              "All scores of all arms": every if every != parts["Scores"] else "",
              "Settings": html_table([["", ""]] + [[name, json.dumps(value)] for name, value in run["settings"].items()], "words"),
              "What the figures mean": f"<p>{MEANING}</p>"}
    body = "".join(f"<h2>{heading}</h2>{part}" for heading, part in parts.items() if part)
    title = html.escape(f"S3FT run: {run['task']}, {Path(str(run['settings'].get('ckpt', ''))).name}")
    write_text(Path(out) / "report.html", f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
               f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>{title}</h1>{body}</html>\n')
    return figures
