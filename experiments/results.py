"""The tables of RESULTS.md and README.md, made from experiments/results/*.json.

    python experiments/results.py                # write all tables anew
    python experiments/results.py NAME=STUDY …   # first make NAME.json from a study

A study is a run directory of s3ft.py; or a folder of them, whose `main` comes first. A table stands
between `<!-- NAME -->` and `<!-- end -->`; the one named summary has a row a study. NAME.json holds
the score of every test item under every arm, so that all intervals can be checked.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import report  # noqa: E402
import s3ft  # noqa: E402
from evaluate import bootstrap, compare, estimate  # noqa: E402
from files import InputError, read_json, read_jsonl, write_text  # noqa: E402

RESULTS = ROOT / "experiments/results"
PAGES = (ROOT / "RESULTS.md", ROOT / "README.md")
PAPER = {  # of Mistral-7B-Instruct-v0.2: base, SFT, S3FT, the difference of the last two
    "gsm8k": "40.3 53.4 56.9 3.5",
    "mbpp": "22.2 32.8 39.4 6.6",
    "nq": "64.7 60.0 67.1 7.1",
}
CUT = 0.57  # the paper's average drop after S3FT, 2.5 points, over that after SFT, 4.4
METHODS = ("base", "sft", "ssr", "sdft", "self", "s3ft")
DRIFT = "drift nats"
SIDE_SCORES = {  # {measure: column}, of those that a study has
    "svamp": "svamp",  # of GSM8K's study
    "nq": "judge",
    "nq answerable f1": "answerable f1",
    "nq answerable lenient": "holds an answer",
    "nq unanswerable lenient": "abstains",
    "gsm8k flexible_extract": "flexible",
    "svamp acc": "svamp",
}
COLOURS = {"sft": "#d55e00", "s3ft": "#0072b2", "others": "#999"}  # of the figure
UNDECIDED = "not decidable"


# From a study to NAME.json


def collect(name, study):
    """Write NAME.json of a study. An arm that main has too is named after its step: "sft, r64"."""
    main = study if (study / "config.json").exists() else study / "main"
    if not (main / "config.json").exists():
        raise InputError(f"{study}: is no study; run experiments/study.py or s3ft.py first")
    settings = read_json(main / "config.json", dict)
    task = settings["task"]
    settings |= {"ckpt": Path(settings["ckpt"]).name, "data": task}  # no paths of this machine
    items, targets = report.read_items(main, task), count_targets(main)
    for file in sorted(study.glob("*/config.json")):
        step = file.parent
        if step.name == "main" or step.name.startswith("validate"):
            continue
        counts = count_targets(step)
        suffix = {method: f", {step.name}" if method in targets else "" for method in counts}
        for method in counts:
            targets[method + suffix[method]] = counts[method]
        for measure, arms in report.read_items(step, task).items():
            del arms["base"]  # main has it
            for arm, scores in arms.items():
                items[measure][arm + suffix[arm.partition(".")[0]]] = scores
    chosen = study / "chosen.json"
    record = {
        "settings": settings,
        "chosen": read_json(chosen, dict) if chosen.exists() else {},
        "figures": {"targets": targets},
        "items": shorten(items, task),
        "logprobs": read_logprobs(main / "candidates.jsonl"),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    write_text(RESULTS / f"{name}.json", "{\n" + ",\n".join(lines) + "\n}\n")


def count_targets(step):
    """{method: {source: number}}; the seeds of a method have the same targets."""
    found = {}
    for file in sorted(step.glob("*/targets.jsonl")):
        targets = [row for _, row in read_jsonl(file)]
        method = file.parent.name.partition(".")[0]
        found[method] = s3ft.count_sources(targets)
    return found


def shorten(items, task):
    """{measure: {arm: "01-0", or a list of numbers}}, in the order of the base's items.

    "-" or None stands for an item that the arm was not asked.
    """
    found = {}
    for measure, arms in items.items():
        found[measure] = {}
        for arm, scores in arms.items():
            found[measure][arm] = in_order(scores, arms["base"])
    if "svamp acc" in found and task == "gsm8k":  # SVAMP is its neighbour, no general benchmark
        found["svamp"] = found.pop("svamp acc")
    return found


def in_order(scores, ids):
    values = [round(scores[id], 4) if id in scores else None for id in ids]
    if set(values) <= {0, 1, None}:
        return "".join("-" if value is None else str(int(value)) for value in values)
    return values


def read_logprobs(file):
    """{source: log-probability per token}, of the rows that have all three sources."""
    found = {source: [] for source in report.SOURCES}
    for _, row in read_jsonl(file):
        if "own" in row and "paraphrase" in row:
            row["own_logprob"] = row["own"]["logprob"]
            for source, values in found.items():
                ids = s3ft.response(row, source)["ids"]
                logprob = row[f"{source}_logprob"]
                values.append(round(logprob / len(ids), 3))
    return found


# From NAME.json to tables


@dataclass
class Study:
    task: str
    seeds: dict  # {method: its arms}
    scores: dict  # {measure: {method: {number of the item: mean over the seeds}}}
    targets: dict  # {method: {source: number}}
    logprobs: dict  # {source: log-probability per token of each row}


def read_study(file):
    record = read_json(file, dict)
    task = record["settings"]["task"]
    seeds = {}
    for arm in sorted(record["items"][task], key=order):
        method = re.sub(r"\.[0-9]+", "", arm)
        seeds.setdefault(method, []).append(arm)
    scores = {}
    for measure, table in record["items"].items():
        scores[measure] = {}
        for method, arms in seeds.items():
            tables = [table.get(arm, "") for arm in arms]  # a benchmark may not have been asked
            scores[measure][method] = mean_by_item(tables)
    return Study(task, seeds, scores, record["figures"]["targets"], record["logprobs"])


def read_studies():
    return {file.stem: read_study(file) for file in sorted(RESULTS.glob("*.json"))}


def order(arm):
    """A sort key: arms of further steps ("s3ft, samples") last."""
    method, _, step = arm.partition(", ")
    method, _, seed = method.partition(".")
    known = METHODS.index(method) if method in METHODS else len(METHODS)
    return step, known, method, seed


def mean_by_item(tables):
    """{number: mean score} of the items that all tables have; they are as `shorten` has them."""
    means = {}
    for k, scores in enumerate(zip(*tables)):
        if not {"-", None} & set(scores):
            means[k] = sum(map(float, scores)) / len(scores)
    return means


def headline(study):
    """The field's own measure of the task."""
    f1 = f"{study.task} f1"
    return f1 if f1 in study.scores else study.task


def benchmarks(study):
    """The scores {method: {item: score}} of each general benchmark."""
    scores = study.scores
    return [scores[name] for name in report.BENCHMARKS if name in scores]


def drop(study, method):
    """The mean over the benchmarks of base minus method."""
    pairs = [(scores["base"], scores[method]) for scores in benchmarks(study)]
    return compare(pairs)


def study_table(study):
    """A row a method: scores, the difference to SFT, average drop, and targets by source."""
    task = study.scores[headline(study)]
    side = [name for name in SIDE_SCORES if name in study.scores and name != headline(study)]
    heads = [SIDE_SCORES[name] for name in side] + ["− sft"]
    heads += ["drop"] * bool(benchmarks(study)) + ["drop: ifeval"] * (report.IFEVAL in study.scores)
    heads += ["drift"] * (DRIFT in study.scores) + ["own/paraphrase/gold"]
    table = [["", headline(study), *heads]]
    for method, arms in study.seeds.items():
        name = f"{method} ({len(arms)} seeds)" if len(arms) > 1 else method
        values = list(task[method].values())
        row = [name, show(estimate(values))]
        for measure in side:
            scores = study.scores[measure]
            row.append(mean(scores[method]))
        if method != "base":
            sft = sft_beside(method, study)
            row.append("" if method == sft else difference(task, method, sft))
            if benchmarks(study):
                row.append(show(drop(study, method)))
            if report.IFEVAL in study.scores:
                row.append(difference(study.scores[report.IFEVAL], "base", method))
            if DRIFT in study.scores:
                row.append(mean(study.scores[DRIFT][method]))
            counts = study.targets[method].values()
            row.append("/".join(map(str, counts)))
        table.append(row)
    return markdown(table)


def sft_beside(method, study):
    """SFT of the same step ("sft, harder") if there is one, else of the main step."""
    sft = re.sub("^[^,]+", "sft", method)
    return sft if sft in study.seeds else "sft"


def claims(study, sft, method):
    """Verdicts: task score, average drop, IFEval, log-probabilities."""
    task, ifeval = study.scores[headline(study)], study.scores.get(report.IFEVAL)

    lost = drop(study, sft)  # nothing, if its step had no benchmarks
    cut = UNDECIDED if lost else ""
    if lost and lost["low"] > 0:  # else there is nothing to cut
        groups = []
        for scores in benchmarks(study):
            arms = [list(scores[arm].values()) for arm in ("base", sft, method)]
            base, sft_scores, method_scores = np.array(arms)
            groups.append(CUT * (base - sft_scores) - (base - method_scores))
        cut = verdict(groups)

    own, paraphrase, gold = np.array(list(study.logprobs.values()))
    first = verdict([own - paraphrase])
    second = verdict([paraphrase - gold])
    likeliest = second if first == "held" else first
    return [above(task, sft, method), cut, above(ifeval, sft, method), likeliest]


def above(scores, sft, method):
    """Whether the method scores above SFT."""
    found = compare([(scores[method], scores[sft])]) if scores else {}
    if not found:
        return ""
    return {"higher": "held", "lower": "not held"}.get(found["outcome"], undecided(found))


def verdict(groups):
    """Whether the mean over the groups is above 0."""
    low, high = bootstrap(groups)
    if low > 0:
        return "held"
    difference = np.mean([np.mean(group) for group in groups])
    found = {"n": sum(map(len, groups)), "difference": difference, "low": low, "high": high}
    return "not held" if high < 0 else undecided(found)


def undecided(found):
    """The verdict, with the number of items that would end it if the difference stayed."""
    half = (found["high"] - found["low"]) / 2
    if not found["difference"]:
        return UNDECIDED
    n = found["n"] * (half / found["difference"]) ** 2
    return f"{UNDECIDED} (n {float(f'{n:.2g}'):,.0f})" if n < 1e6 else UNDECIDED


def summary(studies):
    """The paper's rows; then one a study, and one more for a further step with SFT of its own."""
    heads = ["base", "sft", "s3ft", "s3ft − sft", "drop: sft", "drop: s3ft"]
    ifeval = any(report.IFEVAL in study.scores for study in studies.values())
    heads += ["ifeval: sft", "ifeval: s3ft"] * ifeval
    judged = ["task above SFT", f"drop ≤ {CUT} of SFT's", "IFEval above SFT", "own likeliest"]
    table = [["points", *heads, *judged]]
    for task, figures in PAPER.items():
        table.append([f"the paper, {task}", *figures.split()])
    for name, study in studies.items():
        task = study.scores[headline(study)]
        for method in study.seeds:
            sft = method.replace("s3ft", "sft")
            if sft == method or sft not in task:
                continue
            step = method.removeprefix("s3ft")
            row = [f"{name}{step}, n={len(task[sft])}"]
            for arm in ("base", sft, method):
                row.append(mean(task[arm]))
            row.append(difference(task, method, sft))
            for arm in (sft, method):
                row.append(show(drop(study, arm)))
            for arm in (sft, method) if ifeval else ():
                scores = study.scores.get(report.IFEVAL)
                row.append(difference(scores, "base", arm) if scores else "")
            row += claims(study, sft, method)
            table.append(row)
    return markdown(table)


# The figures, and what drift tells


def arms_of(studies):
    """[(study, arm, gain on the task, drop on IFEval, drift)] of what has them, in points."""
    found = []
    for name, study in studies.items():
        task = study.scores[headline(study)]
        ifeval, drift = study.scores.get(report.IFEVAL), study.scores.get(DRIFT)
        for arm in study.seeds if ifeval and drift else ():
            if arm != "base" and ifeval[arm]:
                gain = compare([(task[arm], task["base"])])["difference"]
                forgot = compare([(ifeval["base"], ifeval[arm])])["difference"]
                values = gain, forgot, np.mean(list(drift[arm].values()))
                found.append((name, arm, *(100 * float(value) for value in values)))
    return found


def draw(across, points):
    """An SVG with a line from the base to each arm, of points [(study, arm, across, down)].

    To the right goes what `across` names, downward what IFEval loses.
    """
    xs = np.array([0, *(point[2] for point in points)])
    ys = np.array([0, *(point[3] for point in points)])

    def place(x, y):
        x = 40 + 440 * (x - xs.min()) / (np.ptp(xs) or 1)
        y = 50 + 240 * (y - ys.min()) / (np.ptp(ys) or 1)
        return x, y

    x0, y0 = place(0, 0)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 330" font-family="sans-serif" '
        'font-size="12"><rect width="640" height="330" fill="#fff"/>'
        f'<path d="M40,{y0:.0f}h440M{x0:.0f},50v240" stroke="#bbb"/>'
        f'<text x="10" y="20">to the right: {across}, {xs.min():+.0f} to {xs.max():+.0f}; '
        f"downward: loss on IFEval in points, {ys.min():+.0f} to {ys.max():+.0f}</text>"
    ]
    labels, places = [], []
    for study, arm, *values in sorted(points, key=lambda point: point[3]):
        method = arm.partition(",")[0]
        colour = COLOURS.get(method, COLOURS["others"])
        x, y = place(*values)
        below = y + 3
        while any(abs(x - a) < 80 and abs(below - b) < 9 for a, b in places):
            below += 1  # under the labels that are there
        places.append((x, below))
        parts.append(
            f'<path d="M{x0:.1f},{y0:.1f}L{x:.1f},{y:.1f}" stroke="{colour}" stroke-width="1.5"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
        )
        labels.append(
            f'<text x="{x + 6:.1f}" y="{below:.1f}" font-size="9" stroke="#fff" stroke-width="3" '
            f'paint-order="stroke">{study}: {arm}</text>'
        )
    return "".join(parts + labels) + "</svg>\n"


def ranks_alike(a, b):
    """Spearman's rank correlation, with mean ranks for ties."""

    def ranks(values):
        values = np.array(values)
        below = (values[:, None] > values).sum(1)
        return below + ((values[:, None] == values).sum(1) - 1) / 2

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def drift_line(arms):
    """What drift tells of the loss on IFEval, over all arms."""
    if len(arms) < 3:
        return "Not measured yet."
    rho = ranks_alike([arm[4] for arm in arms], [arm[3] for arm in arms])
    return f"Rank correlation of drift with the loss on IFEval: {rho:.2f} ({len(arms)} arms)"


def mean(scores):
    values = list(scores.values())
    return f"{100 * np.mean(values):.1f}" if values else ""


def difference(scores, a, b):
    return show(compare([(scores[a], scores[b])]))


def show(found):
    """A score or a difference, in points: "4.5 [1.7, 7.3]"; nothing of nothing."""
    if not found:
        return ""
    value = found["difference"] if "difference" in found else found["score"]
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * value:.1f} [{low:.1f}, {high:.1f}]"


def markdown(table):
    rows = []
    for row in table:
        row = row + [""] * (len(table[0]) - len(row))
        rows.append("| " + " | ".join(row) + " |")
    rows.insert(1, "|---" * len(table[0]) + "|")
    return "\n".join(rows)


def refresh(text):
    """A Markdown text with all its tables written anew."""
    studies = read_studies()

    def block(match):
        name = match[1]
        if name == "drift":
            return f"<!-- drift -->\n{drift_line(arms_of(studies))}\n<!-- end -->"
        if name != "summary" and name not in studies:
            raise InputError(f"<!-- {name} -->: there is no {name}.json; mend the name")
        table = summary(studies) if name == "summary" else study_table(studies[name])
        return f"<!-- {name} -->\n{table}\n<!-- end -->"

    return re.sub(r"(?s)<!-- ([\w-]+) -->\n.*?<!-- end -->", block, text)


def main():
    try:
        for argument in sys.argv[1:]:
            name, _, study = argument.partition("=")
            collect(name, Path(study))
        arms = arms_of(read_studies())
        gains, drifts = [arm[:4] for arm in arms], [(*arm[:2], arm[4], arm[3]) for arm in arms]
        write_text(RESULTS / "arms.svg", draw("gain on the task in points", gains))
        write_text(RESULTS / "drift.svg", draw("drift in 0.01 nats a token", drifts))
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            write_text(page, refresh(text))
    except InputError as error:
        print(f"results.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
