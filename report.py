"""What a run shows to people: tables for the terminal, and report.html.

    python report.py runs/gsm8k-llama

Both are made from the files of the run directory; what is not there yet is left out.
"""

import csv
import html
import itertools
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from evaluate import compare, estimate
from files import InputError, read_json, read_jsonl, write_text

SOURCES = ("own", "paraphrase", "gold")
BENCHMARKS = ("mmlu acc", "truthfulqa mc2", "hellaswag acc_norm", "winogrande acc", "svamp acc")
IFEVAL = "ifeval prompt_level_strict_acc"  # no part of the mean: the paper's benchmarks are
BASELINES = ("base", "sft", "ssr", "sdft", "self")  # other arms are compared with all
MEAN = "benchmarks, mean"
LOGPROB = "log-probability per token"
MEANING = """
Scores are means over test items in points of 100, with 95 % intervals: Wilson's if all items score
0 or 1, otherwise bootstrap. With several seeds, an item's score is its mean over them. Average
drop: base minus method, mean over the benchmarks. Right alone: items that only the first, or only
the second, got right; p is McNemar's exact test. The outcome is open unless the bootstrap interval
leaves out 0 and p, if given, is below 0.05, without correction for the number of comparisons.
Drift: the nats that a token of the base's own responses has lost, times 100.
Log-probabilities are natural, under the base model, given the prompt. Losses are those of first
seeds, in means of up to 50 equal parts; losses on different targets are not comparable."""
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: auto; padding: 1rem }
pre { overflow-x: auto } body > pre::first-line { font-weight: bold }
details pre, h1, summary { white-space: pre-wrap; overflow-wrap: anywhere }
svg { width: 30rem; max-width: 100%; font-size: 13px } polyline { fill: none; stroke-width: 1.5 }
.c0 { stroke: #0072b2 } .c1 { stroke: #d55e00; stroke-dasharray: 7 3 }
.c2 { stroke: #000; stroke-dasharray: 2 3 } .c3 { stroke: #009e73; stroke-dasharray: 8 3 2 3 }
.c4 { stroke: #a49; stroke-dasharray: 12 4 }
"""


def read_rows(path):
    """Rows of a JSONL file; none if it is absent."""
    return [row for _, row in read_jsonl(path)] if path.exists() else []


def summary(out):
    """The figures of a run directory, JSON-able.

    scores {measure: {name: estimate}}, comparisons {measure: {"a − b": what compare gives}},
    targets {method: {source: count}}, candidates {property: {source: values}},
    ranks {measure: {"order": text}}, losses {method: [loss of a step]}, settings,
    examples {source: [target]}.
    """
    out = Path(out)
    settings = read_json(out / "config.json")
    methods = find_methods(out)
    losses, targets, examples = {}, defaultdict(dict), {}
    for name, (arm, *_) in methods.items():  # the seeds of a method have the same targets
        log = out / arm / "train.csv"
        lines = log.read_text().splitlines() if log.exists() else []
        steps = [float(step["loss"]) for step in csv.DictReader(lines) if step["loss"]]
        if steps:
            losses[name] = steps
        learnt = read_rows(out / arm / "targets.jsonl")
        more = [target["source"] for target in learnt]  # a fork may have sources of its own
        for source in dict.fromkeys([*SOURCES, *more]):
            chosen = [target for target in learnt if target["source"] == source]
            if chosen:
                targets[name][source] = len(chosen)
                examples.setdefault(source, chosen[:3])
    task = Path(settings["task"]).stem
    scores, comparisons = score(read_items(out, task), methods)
    return {
        "settings": settings,
        "scores": scores,
        "ranks": ranks(scores, task, methods),
        "comparisons": comparisons,
        "targets": targets,
        "candidates": read_candidates(out / "candidates.jsonl"),
        "losses": losses,
        "examples": examples,
    }


def find_methods(out):
    """{method: its arms, one a seed}, base first."""
    logs = ("eval.jsonl", "train.csv")
    arms = {path.parent.name for path in out.glob("*/*") if path.name in logs}
    seeds = defaultdict(list)
    for arm in sorted(arms, key=lambda arm: (arm != "base", arm)):
        seeds[arm.partition(".")[0]].append(arm)
    methods = {}
    for method, arms in seeds.items():
        methods[f"{method} ({len(arms)} seeds)" if arms[1:] else method] = arms
    return methods


def merged(parts):
    """The rows of a journal, whose lines may be parts of rows, as after a kill."""
    rows = defaultdict(dict)
    for part in parts:
        rows[part["id"]].update(part)
    return rows.values()


def read_candidates(path):
    """{property: {source: values}} of the responses whose log-probability is known."""
    rows = merged(read_rows(path))
    found = {LOGPROB: defaultdict(list), "tokens": defaultdict(list)}
    for row in rows:
        row["gold"] = {"ids": row["gold_ids"]}
        row["own_logprob"] = row.get("own", {}).get("logprob")
    for source in SOURCES:
        for row in rows:
            logprob = row.get(f"{source}_logprob")  # given the prompt
            if logprob is not None:
                tokens = len(row[source]["ids"])
                found["tokens"][source].append(tokens)
                found[LOGPROB][source].append(logprob / tokens)
                if source != "gold":
                    reason = row[source].get("reason", "not judged").partition(":")[0]
                    engine = row[source].get("engine", "s3ft.py")
                    for name in f"verdict: {reason}", f"made by {engine}":
                        found.setdefault(name, Counter())[source] += 1
    return found


def read_items(out, task):
    """{measure: {arm: {id: score}}}, the task first."""
    items = defaultdict(lambda: defaultdict(dict))
    for path in sorted(out.glob("*/eval.jsonl")):
        for row in merged(read_rows(path)):
            if "correct" in row["response"]:
                scores = {task: int(row["response"]["correct"])}
                metrics = {f"{task} {name}": x for name, x in row.get("metrics", {}).items()}
                if f"{task} f1" in metrics:  # the field's own measure stands first
                    scores = metrics | scores
                for measure, score in {**scores, **metrics}.items():
                    items[measure][path.parent.name][row["id"]] = score
    for row in read_rows(out / "bench.jsonl"):
        for metric, score in row["scores"].items():
            table = items[f"{row['bench']} {metric}"][row["model"]]
            if isinstance(score, list):
                table |= {f"{row['id']}/{k}": each for k, each in enumerate(score)}
            else:
                table[row["id"]] = score
    return items


def mean_by_item(tables):
    """{id: mean score} of the items that all tables {id: score} hold."""
    means = {}
    for id in tables[0]:
        scores = [table[id] for table in tables if id in table]
        if len(scores) == len(tables):
            means[id] = sum(scores) / len(scores)
    return means


def score(items, methods):
    """Scores of methods and arms; comparisons of methods with base, of s3ft and forks with all."""
    scores, comparisons = defaultdict(dict), defaultdict(dict)
    for measure, arms in items.items():
        for name, seeds in methods.items():
            arms[name] = mean_by_item([arms[seed] for seed in seeds])
        for name in {**methods, **arms}:
            values = [*arms[name].values()]
            if values:
                scores[measure][name] = estimate(values)
    benchmarks = [measure for measure in BENCHMARKS if measure in items]
    singles = [*items][:1] + benchmarks + [IFEVAL] * (IFEVAL in items)
    groups = {measure: [measure] for measure in singles}
    groups[MEAN] = benchmarks
    for a, b in itertools.permutations(methods, 2):
        for name, measures in groups.items():
            drop = a == "base" and name == MEAN
            if drop or b == "base" or a.partition(" ")[0] not in BASELINES:
                found = compare([(items[measure][a], items[measure][b]) for measure in measures])
                if found and drop:
                    scores["average drop"][b] = found
                elif found and f"{b} − {a}" not in comparisons[name]:
                    comparisons[name][f"{a} − {b}"] = found
    return scores, comparisons


def ranks(scores, task, methods):
    """{measure of the task: {order: "s3ft > sft > base"}} if two measures contradict each other."""
    tables = {}
    for measure, table in scores.items():
        if (measure == task or measure.startswith(f"{task} ")) and "answerable" not in measure:
            tables[measure] = {name: table[name]["score"] for name in methods if name in table}
    common = list(methods)
    for table in tables.values():
        common = [name for name in common if name in table]
    turned = False
    for a, b in itertools.combinations(common, 2):
        signs = {np.sign(table[a] - table[b]) for table in tables.values()}
        turned = turned or {-1, 1} <= signs
    found = {}
    for measure, table in tables.items() if turned else ():
        order = sorted(common, key=lambda name: -table[name])
        found[measure] = {"order": " > ".join(order)}
    return found


def text(figures):
    """The tables for a terminal, without control characters; scores in points of 100."""
    tables = [("scores", figures["scores"]), ("the order depends on", figures["ranks"])]
    for measure, found in figures["comparisons"].items():
        tables.append((measure, {name: comparison(row) for name, row in found.items()}))
    tables += [("targets", figures["targets"]), ("candidates", figures["candidates"])]
    return "\n\n".join(align(heading, rows) for heading, rows in tables if rows)


def comparison(found):
    """The cells of what `evaluate.compare` found."""
    cells = {"difference": found}
    if "p" in found:
        cells["right alone"] = f"{found['only_a']} : {found['only_b']}"
        cells["p"] = f"{found['p']:.3f}"
    return {**cells, "the first is": found["outcome"]}


def align(heading, rows):
    """{name: {column: value}} as lines of equal columns."""
    columns = dict.fromkeys(itertools.chain(*rows.values()))
    lines = [[heading, *columns]]
    for name, found in rows.items():
        lines.append([name, *(found.get(column, "–") for column in columns)])
    lines = [list(map(show, line)) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)) for line in lines)


def show(value):
    """A value as text: an estimate, the mean of a list, or what it is."""
    if isinstance(value, dict):
        middle = value.get("score", value.get("difference"))
        points = [round(100 * x, 1) + 0.0 for x in (middle, value["low"], value["high"])]
        value = "{:.1f} [{:.1f}, {:.1f}] n={}".format(*points, value["n"])
    elif isinstance(value, list):
        value = f"{np.mean(value):.2f} n={len(value)}"
    return "".join(c if c.isprintable() else " " for c in str(value))


def plot(x_name, y_name, curves):
    """Curves {label: [[x, y]]} as inline SVG, from the origin on."""
    if not curves:
        return "nothing yet"
    points = np.concatenate([[[0, 0]], *curves.values()])
    low, high = points.min(0), points.max(0)
    unit = 0.4 * 10.0 ** np.floor(np.log10(high - low))  # a quarter of its multiples is round
    low = unit * np.floor(low / unit)
    high = unit * np.ceil(high / unit)
    scale = [420, -220] / (high - low)
    parts = [f'<text y="12">{y_name}</text><text x="45" y="288">{x_name}</text>']
    for tick in np.linspace(low, high, 5):
        x, y = [45, 250] + (tick - low) * scale
        parts.append(
            f'<path d="M45,{y:.0f}h420" stroke="#ddd"/><text y="{y + 4:.0f}">{tick[1]:g}</text>'
            f'<text x="{x:.0f}" y="270" text-anchor="middle">{tick[0]:g}</text>'
        )
    for k, (label, points) in enumerate(curves.items()):
        places = [f"{x:.1f},{y:.1f}" for x, y in [45, 250] + (points - low) * scale]
        y = 308 + 18 * k
        parts.append(
            f'<polyline class="c{k % 5}" points="{" ".join(places)}"/>'
            f'<polyline class="c{k % 5}" points="45,{y} 75,{y}"/>'
            f'<text x="82" y="{y + 4}">{html.escape(label)}</text>'
        )
    return f'<svg viewBox="0 0 480 {310 + 18 * len(curves)}">{"".join(parts)}</svg>'


def write(out):
    """Write report.html into a run directory: one file, no script. Returns the figures."""
    figures = summary(out)
    tables = html.escape(text(figures)).replace("\n\n", "</pre><pre>")
    bars, losses, examples = {}, {}, ""
    for source, values in figures["candidates"][LOGPROB].items():
        counts = [*np.bincount((-20 * np.clip(values, -10, 0)).astype(int)), 0]  # bars of 0.05
        bars[source] = [[-(k + 0.5) / 20, 100 * n / len(values)] for k, n in enumerate(counts)]
    for name, values in figures["losses"].items():
        parts = np.array_split([*enumerate(values, 1)], min(50, len(values)))
        losses[name] = [part.mean(axis=0) for part in parts]
    for target in itertools.chain(*figures["examples"].values()):
        title = html.escape(f"{target['source']}: {target['id']}")
        words = html.escape(
            f"PROMPT\n{target['messages'][-1]['content']}\n\nTARGET\n{target['target']}"
        )
        examples += f"<details><summary>{title}</summary><pre>{words}</pre></details>"
    title = f"S3FT run: {html.escape(str(out))}"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<h1>{title}</h1><pre>{tables}</pre>"
        f"<h2>Candidates</h2>{plot(LOGPROB, '% of the responses', bars)}"
        f"<h2>Training</h2>{plot('step', 'loss per target token', losses)}"
        f"<h2>Examples</h2>{examples}"
        f"<h2>Settings</h2><pre>{html.escape(json.dumps(figures['settings'], indent=1))}</pre>"
        f"<h2>What the figures mean</h2><p>{MEANING}</p>"
    )
    write_text(Path(out) / "report.html", page)
    return figures


def main():
    try:
        print(text(write(sys.argv[-1])))
    except (InputError, OSError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
