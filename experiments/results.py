"""RESULTS.md, from what the studies left.

    python experiments/results.py NAME=STUDY …    add the finished arms of a study (experiments/study.py) to experiments/results/NAME.json and NAME.svg
    python experiments/results.py                 write the tables of RESULTS.md and README.md anew, from these files alone

Both are prose with blocks `<!-- NAME --> … <!-- end -->`: the tables of that study, or, named summary, a row for each. The paper's three claims are judged
by rule (`claims`). The JSON holds every item's score for every arm, items in the order of the files: whoever doubts an interval can
compute another. Not covered: the prose.
"""
import csv
import json
import re
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import judges  # noqa: E402
import report  # noqa: E402
from files import InputError, read_json, write_text  # noqa: E402

RESULTS = ROOT / "experiments/results"
CUT = 0.57  # the paper: an average drop of 2.5 points where SFT's is 4.4
SHORT = 20  # tokens of an answer that shows no working


def read_step(step):
    """A run as report.read_run gives it, of the arms that are finished, neighbours and classes taken apart."""
    run, done = report.read_run(step), read_json(step / "eval.json")
    run["seeds"] = {method: kept for method, arms in run["seeds"].items() if (kept := [arm for arm in arms if arm in done])}
    run["targets"] = {method: targets for method, targets in run["targets"].items() if method in run["seeds"]}
    items = run["items"] = {measure: {arm: {i: scores[i] for i in arms["base"]} for arm, scores in arms.items() if arm in done}
                            for measure, arms in run["items"].items()}               # in one order: several processes leave each its own
    if run["task"] == "gsm8k":                                               # SVAMP is no general ability there: it is taken out of the mean
        items["svamp"] = items.pop("svamp acc")
    for part in ("answerable", "unanswerable") if run["task"] == "nq" else ():
        items[part] = {arm: {i: s for i, s in scores.items() if i.startswith(part)} for arm, scores in items["nq"].items()}
    return run


def together(main, **further):
    """The run main with the arms of further steps beside its own: "s3ft, samples"."""
    for step, run in further.items():
        for arm in run["targets"]:
            main["seeds"][f"{arm}, {step}"], main["targets"][f"{arm}, {step}"] = [f"{arm}, {step}"], run["targets"][arm]
            for measure, arms in run["items"].items():
                main["items"][measure][f"{arm}, {step}"] = arms[arm]
    return main


def row_of(method, figures):
    """The name of a method's row: "sft", or "sft (2 seeds)"."""
    return next(row for row in figures["rows"] if row.partition(" (")[0] == method)


def claims(run, figures):
    """{claim: {verdict, what it rests on}}: "held", "not held" or "not decidable", by 95 % intervals of paired bootstraps; for
    the task McNemar's p of the first seeds has to agree (report.compare)."""
    def verdict(low, high):
        return "held" if low > 0 else "not held" if high < 0 else report.OPEN

    def mean(measure, arms):
        tables = [run["items"][measure][arm] for arm in arms]
        return {i: sum(t[i] for t in tables) / len(tables) for i in tables[0]}
    found, seeds = {}, run["seeds"]
    task = next(c for c in figures["comparisons"] if (c["measure"], c["a"], c["b"]) == (run["task"], row_of("s3ft", figures), row_of("sft", figures)))
    found["task score above SFT's"] = {"verdict": {"higher": "held", "lower": "not held"}.get(task["outcome"], task["outcome"]),
                                       **{k: task[k] for k in ("n", "difference", "low", "high")}}

    groups, drop = [], {method: figures["scores"][row_of(method, figures)]["average drop"] for method in ("sft", "s3ft")}
    for measure in figures["primary"][1:]:
        base, sft, s3ft = (mean(measure, seeds[method]) for method in ("base", "sft", "s3ft"))
        groups.append([CUT * (base[i] - sft[i]) - (base[i] - s3ft[i]) for i in base])
    low, high = report.bootstrap(groups)
    found[f"average drop at most {CUT} of SFT's"] = {
        "verdict": verdict(low, high) if drop["sft"]["low"] > 0 else "not decidable: SFT itself shows no drop at this n", "sft": drop["sft"]["score"],
        "sft low": drop["sft"]["low"], "sft high": drop["sft"]["high"], "s3ft": drop["s3ft"]["score"],
        f"{CUT} sft - s3ft": CUT * drop["sft"]["score"] - drop["s3ft"]["score"], "low": low, "high": high}

    own = {kind: {i: row[kind]["log-probability per token"] for i, row in run["candidates"].items() if kind in row} for kind in report.KINDS}
    for a, b in (("self", "paraphrase"), ("paraphrase", "gold")):
        differences = [own[a][i] - own[b][i] for i in own[a] if i in own[b] and np.isfinite(own[a][i] - own[b][i])]
        low, high = report.bootstrap([differences])
        found[f"log-probability: {a} above {b}"] = {"verdict": verdict(low, high), "difference": float(np.mean(differences)), "low": low, "high": high,
                                                   "rows": len(differences), "rows higher": sum(d > 0 for d in differences)}
    return found


def answers(step, run):
    """{task or svamp: {arm: how its answers look}}; "both": {base or sft: [n, only this arm's right, only that one's right] of what both finish}."""
    found, arms = {}, sum(run["seeds"].values(), [])
    for what, file in ((run["task"], "eval.jsonl"), ("svamp", "svamp.jsonl")):
        given = {arm: rows for arm in arms if (rows := {row["id"]: row["response"] for row in report.rows_of(step / arm / file)})}
        finished = {arm: {i: r for i, r in rows.items() if r["finish"] == "stop"} for arm, rows in given.items()}
        for arm, rows in given.items():
            lengths, short = [len(r["ids"]) for r in rows.values()], [r for r in rows.values() if len(r["ids"]) <= SHORT]
            row = {"n": len(rows), "mean": round(float(np.mean(lengths)), 1), "median": float(np.median(lengths)), "short": len(short),
                   "short and right": sum(r["correct"] for r in short), "finished": len(finished[arm]), "both": {}}
            if what in ("gsm8k", "svamp"):
                row["false equation"] = sum(judges.false_equations(r["text"]) > 0 for r in finished[arm].values())
            for other, seed in (("base", "base"), ("sft", re.sub("^[^.]+", "sft", arm))):  # SFT's arm of the same seed
                if arm not in ("base", seed) and seed in given:
                    pairs = [(r["correct"], finished[seed][i]["correct"]) for i, r in finished[arm].items() if i in finished[seed]]
                    row["both"][other] = [len(pairs), pairs.count((True, False)), pairs.count((False, True))]
            found.setdefault(what, {})[arm] = row
    return found


def trained(step):
    """{tokens, seconds} of all the training steps of a run, from its train.csv: speed.json lacks those before an interruption."""
    rows = [row for log in step.glob("*/train.csv") for row in csv.DictReader(log.read_text().splitlines())]
    return {"tokens": sum(int(row["tokens"]) for row in rows), "seconds": round(sum(float(row["seconds"]) for row in rows), 3)}


def recall(run, record):
    """Add to a run the arms that the record of an earlier part of the study has and the run lacks; InputError where its items are others."""
    for measure, arms in record["items"].items():
        table = run["items"].get(measure, {"base": {}})
        for arm, scores in arms.items():
            if len(scores) != len(table["base"]):
                raise InputError(f"{measure}: {len(scores)} items in the record, {len(table['base'])} in the study; remove the JSON to begin anew")
            if arm not in table:
                table[arm] = dict(zip(table["base"], map(int, scores) if isinstance(scores, str) else scores))
    for row in record["figures"]["rows"]:
        method = row.partition(" (")[0]
        arms = {arm for table in run["items"].values() for arm in table if re.fullmatch(rf"{re.escape(method)}(\.[0-9]+)?", arm)}
        run["seeds"][method] = sorted(arms)
    run["seeds"] = {m: run["seeds"][m] for m in (*report.METHODS, *run["seeds"]) if m in run["seeds"]}   # the methods' own order


def collect(name, study):
    """Write NAME.json and NAME.svg of a study, all its finished arms. Those that NAME.json has from earlier and the study lacks stay."""
    if not (study / "main/eval.json").exists():
        raise InputError(f"{study}: no finished arm is there; run its command (experiments/{{mbpp,gsm8k,nq}}.sh) first")
    steps = [study / "main", *(step.parent for step in sorted(study.glob("*/run.json")) if step.parent.name != "main")]
    runs = {step.name: read_step(step) for step in steps if not step.name.startswith("validate-")}
    given = answers(study / "main", runs["main"])
    run, file = together(**runs), RESULTS / f"{name}.json"
    settings = {k: v for k, v in run["settings"].items() if v is not None} | {"ckpt": Path(run["settings"]["ckpt"]).name, "data": run["settings"]["task"]}
    record, targets = read_json(file) if file.exists() else None, {}
    if record:
        if changed := [k for k in {**settings, **record["settings"]} if k != "versions" and settings.get(k) != record["settings"].get(k)]:
            raise InputError(f"{file}: was made with other settings ({', '.join(changed)}); remove it, or give the study another name")
        recall(run, record)
        targets = record["figures"]["targets"]
        given = {what: record.get("answers", {}).get(what, {}) | arms for what, arms in given.items()}
    figures = report.figures_of(run)
    figures["targets"] = targets | figures["targets"]
    judged = {"main": claims(run, figures)} if {"sft", "s3ft"} <= run["seeds"].keys() else {}
    for step in [s for s in runs if s != "main" and {f"sft, {s}", f"s3ft, {s}"} <= run["seeds"].keys()]:
        judged[step] = claims(of := {**run, "seeds": {m: run["seeds"][m if m == "base" else f"{m}, {step}"] for m in ("base", "sft", "s3ft")}},
                              report.figures_of(of))
    items = {measure: {arm: "".join(map(str, scores.values())) if set(scores.values()) <= {0, 1} else [round(s, 4) for s in scores.values()]
                       for arm, scores in arms.items()} for measure, arms in run["items"].items()}
    logprobs = {kind: [round(v, 3) for v in values] for kind, values in report.values_of(run["candidates"].values(), report.MEASURED[0]).items()}
    cost = record["cost"] if record else {}
    for step in steps:                                                       # a part of the study is known by when its base was scored
        done = read_json(step / "run.json") if (step / "run.json").exists() else {}
        part = f"{step.name}, {time.strftime('%F', time.gmtime((step / 'base/eval.jsonl').stat().st_mtime))}"
        peaks = [found["peak_gb"] for found in (cost.get(part, {}), done) if "peak_gb" in found]
        cost[part] = {**read_json(step / "speed.json"), "train": trained(step), **({"peak_gb": max(peaks)} if peaks else {})}
    chosen = read_json(study / "chosen.json")
    chosen = record["chosen"] if record and not chosen["scores"] else chosen
    found = {"settings": settings, "chosen": chosen, "claims": judged, "cost": cost, "answers": given, "figures": figures, "items": items,
             "logprobs": logprobs}
    write_text(file, "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n")
    _, picture = next(report.pictures(run))
    alone = '<svg xmlns="http://www.w3.org/2000/svg" width="480" font-family="sans-serif" font-size="13" style="background: #fff"'
    write_text(RESULTS / f"{name}.svg", picture.replace("<svg", alone, 1))


def answer_table(found):
    """Rows for Markdown of what `answers` has found."""
    table = [["answers", "n", "tokens: mean, median", f"at most {SHORT} tokens, of them right", "finished", "of them with a false equation",
              "both finish, right alone: arm, base", "arm, SFT of its seed"]]
    for what, arms in found.items():
        for arm, row in arms.items():
            both = ["{:,}, {} : {}".format(*row["both"][other]) if other in row["both"] else "–" for other in ("base", "sft")]
            table.append([f"{what}, {arm}", f"{row['n']:,}", f"{row['mean']:.0f}, {row['median']:g}", f"{row['short']}, {row['short and right']}",
                          f"{row['finished']}", f"{row.get('false equation', '–')}", *both])
    return table


def markdown(table):
    rows = ["| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([rows[0], "|---" * len(table[0]) + "|", *rows[1:]])


def summary(studies):
    """The Markdown of all studies {name: found}, a row each."""
    table = [["in points, 95 % intervals", "base", "sft", "s3ft", "s3ft − sft", "average drop: sft", "s3ft", "task above SFT", f"drop ≤ {CUT} SFT's",
              "own likeliest"]]
    for name, step, found in ((name, step, found) for name, found in studies.items() for step in found["claims"]):
        scores, task, claims = found["figures"]["scores"], found["settings"]["task"], found["claims"][step]
        verdicts = [claim["verdict"].partition(":")[0] for claim in claims.values()]
        sft, s3ft = (row_of(method, found["figures"]) if step == "main" else f"{method}, {step}" for method in ("sft", "s3ft"))
        table.append([f"{name}{f', {step}' * (step != 'main')}: {found['settings']['ckpt']}, n = {scores['base'][task]['n']}",
                      *(f"{100 * scores[row][task]['score']:.1f}" for row in ("base", sft, s3ft)),
                      report.cell(next(iter(claims.values())), "difference", "+"),
                      *(report.cell(scores[row]["average drop"], sign="+") for row in (sft, s3ft)), *verdicts[:2],
                      "held" if verdicts[2:] == ["held", "held"] else " / ".join(verdicts[2:])])
    return markdown(table)


def tables(name, found):
    """The Markdown of a study, `found` as its NAME.json holds it."""
    figures, chosen, seconds = found["figures"], found["chosen"], {}
    asked = [figures["primary"][0], *(m for m in ("answerable", "unanswerable", "svamp") if m in figures["scores"]["base"])]
    for what in ("generate", "train"):
        spent = [step[what] for step in found["cost"].values() if what in step]
        seconds[what] = f"{sum(s['tokens'] for s in spent):,} tokens in {sum(s['seconds'] for s in spent) / 60:.0f} minutes"
    peaks = [step["peak_gb"] for step in found["cost"].values() if "peak_gb" in step]
    validation = [["learning rate / epochs", "base", "sft", "s3ft", "mean"]] + [
        [setting + " (chosen)" * (setting == chosen["chosen"]), *(f"{100 * s[arm]:.1f}" for arm in ("base", "sft", "s3ft")),
         f"{50 * (s['sft'] + s['s3ft']):.1f}"] for setting, s in chosen["scores"].items()]
    judged = [["the paper's claim", "here", "by"]]
    for claim, c in ((f"{claim}{f', {step}' * (step != 'main')}", c) for step, claims in found["claims"].items() for claim, c in claims.items()):
        scale, unit = (1, "") if "log" in claim else (100, " points")
        value = next(k for k in c if k.startswith("difference") or k.endswith("sft - s3ft"))
        by = f"{value} = {scale * c[value]:+.2f}{unit} [{scale * c['low']:+.2f}, {scale * c['high']:+.2f}]"
        by += f"; drops: sft {100 * c['sft']:+.1f} [{100 * c['sft low']:+.1f}, {100 * c['sft high']:+.1f}], s3ft {100 * c['s3ft']:+.1f}" if "sft" in c else ""
        by += f"; higher in {c['rows higher']} of {c['rows']} rows" if "rows" in c else ""
        judged.append([claim, f"**{c['verdict']}**", by])
    figures["comparisons"] = [c for c in figures["comparisons"] if c["b"].partition(", ")[2] in ("", c["a"].partition(", ")[2])]
    parts = {"": markdown(judged),
             "Scores": markdown(report.score_table(figures, figures["scores"], [*dict.fromkeys(asked + figures["primary"]), "average drop"])),
             "Differences": markdown(report.comparison_table(figures, [*asked, report.BENCHES])),
             "Targets": markdown(report.tables_of(figures)["Targets"]),
             "Candidates": markdown(report.candidate_table(figures)) + f"\n\n![log-probability per token](experiments/results/{name}.svg)",
             "The choice of the setting": markdown(validation) if chosen["scores"] else f"Given: {chosen['chosen']}.",
             **({"Answers": markdown(answer_table(found["answers"]))} if found.get("answers") else {}),  # the texts of some studies are gone
             "Cost": f"Generation: {seconds['generate']}; training: {seconds['train']}" + (f"; peak memory {max(peaks)} GB." if peaks else ".")}
    return "\n\n".join(f"**{heading}**\n\n{part}" if heading else part for heading, part in parts.items())


def refresh(text):
    """A Markdown text with every block written anew."""
    studies = {file.stem: read_json(file) for file in sorted(RESULTS.glob("*.json"))}

    def block(found):
        if found[1] not in {"summary", *studies}:
            raise InputError(f"a block is named {found[1]}, but there is no {RESULTS / found[1]}.json; mend the name, or collect that study")
        return f"<!-- {found[1]} -->\n{summary(studies) if found[1] == 'summary' else tables(found[1], studies[found[1]])}\n<!-- end -->"
    return re.sub(r"(?s)<!-- ([\w-]+) -->\n.*?<!-- end -->", block, text)


if __name__ == "__main__":
    try:
        for argument in sys.argv[1:]:
            name, _, study = argument.partition("=")
            collect(name, Path(study))
        for page in (ROOT / "RESULTS.md", ROOT / "README.md"):
            write_text(page, refresh(page.read_text()))
    except InputError as error:
        print(f"results.py: {error}", file=sys.stderr)
        sys.exit(2)
