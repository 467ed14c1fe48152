"""What a run shows to people: tables for the terminal, and report.html.

    python report.py runs/gsm8k-llama

Both come from the files of the run directory, which may still be growing.
"""

import csv
import html
import itertools
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from evaluate import compare, estimate
from files import InputError, json_object, read_json, write_text

SOURCES = ("own", "paraphrase", "gold")
BENCHMARKS = ("mmlu acc", "truthfulqa mc2", "hellaswag acc_norm", "svamp acc")
MEAN, DROP = "benchmarks, mean", "average drop"
LOGPROB = "log-probability per token"
DIFFERENCE = ("n", "difference", "low", "high", "only_a", "only_b", "p", "outcome")
MEANING = """
Scores are means over test items, with 95 % intervals: Wilson's if all items score 0 or 1, else
bootstrap. With several seeds, an item's score is its mean over them. Average drop: base minus
method, mean over the benchmarks. only_a, only_b: items that only the first, or only the second, got
right, and McNemar's exact p, if all items score 0 or 1. A difference is decided if its bootstrap
interval leaves out 0 and p, if given, is below 0.05. Nothing corrects for the number of
comparisons. Only several seeds show how much trainings vary. Log-probabilities are natural, under
the base model, given the prompt. Losses are those of the first seed, as means of up to 50 equal
parts. Losses on different targets are not comparable."""
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: auto; padding: 1rem }
pre { overflow-x: auto } details pre, h1, summary { white-space: pre-wrap; overflow-wrap: anywhere }
svg { width: 30rem; max-width: 100%; font-size: 13px } polyline { fill: none; stroke-width: 1.5 }
.c0 { stroke: #0072b2 } .c1 { stroke: #d55e00; stroke-dasharray: 7 3 }
.c2 { stroke: #000; stroke-dasharray: 2 3 } .c3 { stroke: #009e73; stroke-dasharray: 8 3 2 3 }
.c4 { stroke: #a49; stroke-dasharray: 12 4 }
"""


def read_rows(path):
    """Rows of a JSONL file, none if it is absent. A last line without its newline is not read."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = []
    try:
        for line in lines:
            rows.append(json_object(line))
    except InputError as error:
        raise InputError(f"{path}:{len(rows) + 1}: {error}; remove this line")
    return rows


def summary(out):
    """The figures of a run directory, JSON-able."""
    out = Path(out)
    settings = read_json(out / "config.json", dict)
    task = Path(settings["task"]).stem
    candidates = read_candidates(out / "candidates.jsonl")
    figures = {"settings": settings, "losses": {}, "targets": {}, "examples": []}
    figures["candidates"] = {source: describe(rows) for source, rows in candidates.items() if rows}
    rows = find_rows(out)
    for name, (arm, *_) in rows.items():  # all seeds have the same targets
        figures["losses"][name] = read_losses(out / arm / "train.csv")
        targets = read_rows(out / arm / "targets.jsonl")
        figures["targets"][name] = {"n": len(targets)}
        for source in SOURCES:
            chosen = [target for target in targets if target["source"] == source]
            figures["targets"][name][source] = len(chosen)
            figures["examples"] += [{**target, "method": name} for target in chosen[:3]]
    return figures | score(read_items(out, task), rows)


def find_rows(out):
    """{method: its arms, one a seed}, base first."""
    logs = [*out.glob("*/eval.jsonl"), *out.glob("*/train.csv")]
    methods = {"base": []}
    for arm in sorted({log.parent.name for log in logs}):
        methods.setdefault(arm.partition(".")[0], []).append(arm)
    rows = {}
    for method, arms in methods.items():
        rows[method if len(arms) == 1 else f"{method} ({len(arms)} seeds)"] = arms
    return rows


def read_losses(path):
    """[[step, loss]], means of up to 50 equal parts."""
    steps = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(0, 1), ndmin=2)
    parts = np.array_split(steps, min(50, len(steps)))
    return [part.mean(axis=0).tolist() for part in parts]


def read_candidates(path):
    """{source: responses}, each with its log-probability given the prompt."""
    rows = defaultdict(dict)
    for part in read_rows(path):
        rows[part["id"]].update(part)
    found = {source: [] for source in SOURCES}
    for row in rows.values():
        row["gold"] = {"ids": row["gold_ids"]}
        for source, responses in found.items():
            response = row.get(source, {})
            logprob = row.get(f"{source}_logprob", response.get("logprob"))
    return found


def describe(responses):
    """Means, verdicts and the histogram of log-probabilities, in steps of 0.05."""
    tokens = [len(response["ids"]) for response in responses]
    logprobs = [response["logprob"] / len(response["ids"]) for response in responses]
    reasons = Counter(response["reason"].partition(":")[0] for response in responses)
    verdicts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
    bins = np.bincount((-20 * np.array(logprobs)).astype(int))
    histogram = [[-k / 20, 100 * n / len(tokens)] for k, n in enumerate(bins)]
    found = {"n": len(tokens), "tokens": float(np.mean(tokens)), LOGPROB: float(np.mean(logprobs))}
    return {**found, "verdicts": verdicts, "histogram": histogram}


def read_items(out, task):
    """{measure: {arm: {id: score}}}, the task first."""
    items = {task: defaultdict(dict)}
    for path in sorted(out.glob("*/eval.jsonl")):
        for row in read_rows(path):
            if "correct" in row["response"]:
                items[task][path.parent.name][row["id"]] = int(row["response"]["correct"])
    for row in read_rows(out / "bench.jsonl"):
        for metric, score in row["scores"].items():
            table = items.setdefault(f"{row['bench']} {metric}", defaultdict(dict))
            table[row["model"]][row["id"]] = score
    return items


def score(items, rows):
    """Scores of rows and arms; comparisons of rows with base, and of s3ft with the others."""
    scores, comparisons = defaultdict(dict), defaultdict(dict)
    for measure, table in items.items():
        for name, arms in rows.items():
            table[name] = mean_by_item([table[arm] for arm in arms])
        for name, values in table.items():
            if values:
                scores[name][measure] = estimate(list(values.values()))
    groups = {name: [name] for name in items}
    groups[MEAN] = [name for name in BENCHMARKS if name in items]
    for a, b in itertools.permutations(rows, 2):
        for name, group in groups.items():
            found = compare([(items[measure][a], items[measure][b]) for measure in group])
            comparisons[name][f"{a} − {b}"] = found
    return {"rows": list(rows), "scores": scores, "comparisons": comparisons}


def mean_by_item(tables):
    """{id: mean score} of the items that all tables {id: score} hold."""
    means = {}
    for id in tables[0]:
        scores = [table[id] for table in tables if id in table]
        if len(scores) == len(tables):
            means[id] = sum(scores) / len(scores)
    return means


def table(rows, columns):
    """{name: {column: value}} as lines of equal columns, without control characters."""
    lines = [["", *columns]]
    for name, found in rows.items():
        cells = [show(found.get(column)) for column in columns]
        lines.append([show(name), *cells])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)) for line in lines)


def show(value):
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return f"{value['score']:.3f} [{value['low']:.3f}, {value['high']:.3f}] n={value['n']}"
    return "".join(c if c.isprintable() else " " for c in str(value))


def tables(figures):
    """{heading: table}"""
    scores, comparisons = figures["scores"], figures["comparisons"]
    measures = list(dict.fromkeys(itertools.chain(*scores.values())))
    primary = [measure for measure in measures if measure in (measures[0], *BENCHMARKS, DROP)]
    shown = {"Scores": table({name: scores[name] for name in figures["rows"]}, primary)}
    for measure in (task, MEAN):
        shown[f"Comparisons: {measure}"] = table(comparisons[measure], DIFFERENCE)
    shown["Targets"] = table(figures["targets"], ("n", *SOURCES))
    shown["Candidates"] = table(figures["candidates"], ("n", LOGPROB, "tokens", "verdicts"))
    shown["All scores"] = table(scores, measures)
    return shown


def text(figures):
    """The tables for a terminal."""
    shown = list(tables(figures).items())[:4]
    return "\n\n".join(f"{heading}\n{table}" for heading, table in shown)


# The page


def plot(x_name, y_name, curves):
    """Curves {label: [[x, y]]} as inline SVG; y starts at 0."""
    if not curves:
        return "nothing yet"
    points = np.concatenate(list(curves.values()))
    low, high = points.min(axis=0), points.max(axis=0)
    low[1] = min(low[1], 0)
    scale = [420, -220] / np.maximum(high - low, 1e-9)
    parts = [f'<text y="12">{y_name}</text><text x="250" y="276">{x_name}</text>']
    for tick in np.linspace(low, high, 5):
        x, y = [45, 240] + (tick - low) * scale
        parts.append(
            f'<path d="M45,{y:.0f}h420" stroke="#ddd"/><text y="{y:.0f}">{tick[1]:.3g}</text>'
            f'<text x="{x:.0f}" y="258" text-anchor="middle">{tick[0]:.3g}</text>'
        )
    for k, (label, points) in enumerate(curves.items()):
        places = [f"{x:.1f},{y:.1f}" for x, y in [45, 240] + (points - low) * scale]
        y = 295 + 18 * k
        parts.append(
            f'<polyline class="c{k % 5}" points="{" ".join(places)}"/>'
            f'<polyline class="c{k % 5}" points="45,{y} 75,{y}"/>'
            f'<text x="82" y="{y + 4}">{html.escape(label)}</text>'
        )
    return f'<svg viewBox="0 0 480 {300 + 18 * len(curves)}">{"".join(parts)}</svg>'


def example(row):
    """A target to unfold."""
    title = html.escape(f"{row['id']}: {row['method']} learns {row['source']}")
    words = html.escape(f"{row['messages'][-1]['content']}\n\n{row['target']}")
    return f"<details><summary>{title}</summary><pre>{words}</pre></details>"


def write(out):
    """Write report.html into a run directory: one file, no script. Returns the figures."""
    figures = summary(out)
    histograms = {source: found["histogram"] for source, found in figures["candidates"].items()}
    pre = []
    for heading, lines in tables(figures).items():
        pre.append(f"<h2>{heading}</h2><pre>{html.escape(lines)}</pre>")
    title = html.escape(f"S3FT run: {figures['task']}, {settings.get('ckpt', '')}")
    page = f"""<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>
{"".join(pre[:4])}
<h2>Log-probabilities of the candidates</h2>{plot(LOGPROB, "% of the responses", histograms)}
<h2>Training</h2>{plot("step", "loss per target token", figures["losses"])}
<h2>Examples</h2>{"".join(map(example, figures["examples"]))}
{"".join(pre[4:])}
<h2>What the figures mean</h2><p>{MEANING}</p>
"""
    write_text(Path(out) / "report.html", page)
    return figures


def main():
    try:
        print(text(write(sys.argv[-1])))
    except InputError as error:
        print(f"report.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
