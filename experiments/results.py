"""The tables of RESULTS.md and README.md, made from experiments/results/*.json.

    python experiments/results.py                # write all tables anew
    python experiments/results.py NAME=STUDY …   # first make NAME.json from a finished study

A table stands between `<!-- NAME -->` and `<!-- end -->`; the one named summary has a row a study.
NAME.json holds the score of every test item under every arm, so that all intervals can be checked.
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
CUT = 0.57  # the paper's average drop after S3FT, 2.5 points, over that after SFT, 4.4
METHODS = ("base", "sft", "ssr", "sdft", "self", "s3ft")
NQ_PARTS = ("answerable", "unanswerable")
SIDE_SCORES = (*NQ_PARTS, "svamp", "svamp acc")
UNDECIDED = "not decidable"


# From a study to NAME.json


def collect(name, study):
    """Write NAME.json of a study that experiments/study.py has finished."""
    main = study / "main"
    if not (main / "run.json").exists():
        raise InputError(f"{study}: is no finished study; run experiments/study.py first")
    settings = read_json(main / "config.json", dict)
    task = settings["task"]
    settings |= {"ckpt": Path(settings["ckpt"]).name, "data": task}  # no paths of this machine
    items = report.read_items(main, task)
    targets = count_targets(main)
    for file in sorted(study.glob("*/run.json")):
        step = file.parent
        suffix = f", {step.name}"
        if step.name == "main" or step.name.startswith("validate"):
            continue
        for method, counts in count_targets(step).items():
            targets[method + suffix] = counts
        for measure, arms in report.read_items(step, task).items():
            arms.pop("base")  # main has it
            for arm, scores in arms.items():
                items[measure][arm + suffix] = scores
    record = {
        "settings": settings,
        "chosen": read_json(study / "chosen.json", dict),
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
    """{measure: {arm: "0110", or a list of numbers}}, in the order of the base's items."""
    found = {}
    for measure, arms in items.items():
        found[measure] = {}
        for arm, scores in arms.items():
            found[measure][arm] = in_order(scores, arms["base"])
    for part in NQ_PARTS if task == "nq" else ():
        found[part] = {}
        ids = [id for id in items["nq"]["base"] if id.startswith(part)]
        for arm, scores in items["nq"].items():
            found[part][arm] = in_order(scores, ids)
    if task == "gsm8k":  # SVAMP is its neighbour, no general benchmark
        found["svamp"] = found.pop("svamp acc")
    return found


def in_order(scores, ids):
    values = [round(scores[id], 4) for id in ids]
    if set(values) <= {0, 1}:
        return "".join(str(int(value)) for value in values)
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
            tables = [table[arm] for arm in arms]
            scores[measure][method] = mean_by_item(tables)
    return Study(task, seeds, scores, record["figures"]["targets"], record["logprobs"])


def order(arm):
    """A sort key: arms of further steps ("s3ft, samples") last."""
    method, _, step = arm.partition(", ")
    method, _, seed = method.partition(".")
    known = METHODS.index(method) if method in METHODS else len(METHODS)
    return step, known, method, seed


def mean_by_item(tables):
    """{number: mean score} of lists of scores, or of texts of 0 and 1."""
    values = [list(map(float, table)) for table in tables]
    means = np.mean(values, axis=0)
    return dict(enumerate(means.tolist()))


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
    task = study.scores[study.task]
    side = [name for name in SIDE_SCORES if name in study.scores]
    heads = [name.partition(" ")[0] for name in side]
    table = [["", study.task, *heads, "− sft", "average drop", "own/paraphrase/gold"]]
    for method, arms in study.seeds.items():
        name = f"{method} ({len(arms)} seeds)" if len(arms) > 1 else method
        values = list(task[method].values())
        row = [name, show(estimate(values))]
        for measure in side:
            scores = study.scores[measure]
            row.append(mean(scores[method]))
        if method == "base":
            row += ["", "", ""]
        else:
            sft = sft_beside(method, study)
            row.append("" if method == sft else difference(task, method, sft))
            row.append(show(drop(study, method)))
            counts = study.targets[method].values()
            row.append("/".join(map(str, counts)))
        table.append(row)
    return markdown(table)


def sft_beside(method, study):
    """SFT of the same step ("sft, harder") if there is one, else of the main step."""
    sft = re.sub("^[^,]+", "sft", method)
    return sft if sft in study.seeds else "sft"


def claims(study, sft, method):
    """Verdicts on the paper's three claims: task score, average drop, log-probabilities."""
    task = study.scores[study.task]
    found = compare([(task[method], task[sft])])
    score = {"higher": "held", "lower": "not held"}.get(found["outcome"], UNDECIDED)

    cut = UNDECIDED
    if drop(study, sft)["low"] > 0:  # else there is nothing to cut
        groups = []
        for scores in benchmarks(study):
            arms = [list(scores[arm].values()) for arm in ("base", sft, method)]
            base, sft_scores, method_scores = np.array(arms)
            groups.append(CUT * (base - sft_scores) - (base - method_scores))
        cut = verdict(groups)

    own, paraphrase, gold = np.array(list(study.logprobs.values()))
    first = verdict([own - paraphrase])
    second = verdict([paraphrase - gold])
    return [score, cut, second if first == "held" else first]


def verdict(groups):
    """Whether the mean over the groups is above 0."""
    low, high = bootstrap(groups)
    if low > 0:
        return "held"
    return "not held" if high < 0 else UNDECIDED


def summary(studies):
    """One row a study, and one more for a further step that has SFT of its own."""
    heads = ["base", "sft", "s3ft", "s3ft − sft", "drop: sft", "drop: s3ft"]
    judged = ["task above SFT", f"drop ≤ {CUT} of SFT's", "own likeliest"]
    table = [["points", *heads, *judged]]
    for name, study in studies.items():
        task = study.scores[study.task]
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
            row += claims(study, sft, method)
            table.append(row)
    return markdown(table)


def mean(scores):
    values = list(scores.values())
    return f"{100 * np.mean(values):.1f}"


def difference(scores, a, b):
    return show(compare([(scores[a], scores[b])]))


def show(found):
    """A score or a difference, in points: "4.5 [1.7, 7.3]"."""
    value = found["difference"] if "difference" in found else found["score"]
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{100 * value:.1f} [{low:.1f}, {high:.1f}]"


def markdown(table):
    rows = ["| " + " | ".join(row) + " |" for row in table]
    rows.insert(1, "|---" * len(table[0]) + "|")
    return "\n".join(rows)


def refresh(text):
    """A Markdown text with all its tables written anew."""
    studies = {}
    for file in sorted(RESULTS.glob("*.json")):
        studies[file.stem] = read_study(file)

    def block(match):
        name = match[1]
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
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            write_text(page, refresh(text))
    except InputError as error:
        print(f"results.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
