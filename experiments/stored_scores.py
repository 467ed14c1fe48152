"""Do our scores of stored responses agree, one by one, with the field's own code?

    python -m pip install lm_eval==0.4.13 transformers langdetect nltk
    python experiments/stored_scores.py RUN [--data DIR]

Reads the responses in a run directory of s3ft.py. IFEval and flexible-extract are compared with
lm-evaluation-harness 0.4.13, reading with the official SQuAD 2.0 functions that transformers holds.
Prints a line of JSON for each file of responses and score: values, and how many of them are equal.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, where "lm_eval" would be another file
import judges  # noqa: E402
from data import gsm8k, ifeval, nq  # noqa: E402
from files import read_json, read_jsonl  # noqa: E402


def their_ifeval(text, row):
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0
    return utils.process_results(row, [text])


def their_flexible_extract(text, example):
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    last = RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    (said,) = last.apply([[text]], [None])
    ignored = [",", r"\$", r"(?s).*#### ", r"\.$"]
    gold = example.check["answer"]
    found = exact_match_hf_evaluate(said, [gold], regexes_to_ignore=ignored, ignore_case=True)
    return {"flexible_extract": int(found["exact_match"])}


def their_squad(text, example):
    from transformers.data.metrics import squad_metrics as squad

    abstains = judges.abstentions(text)
    text = "" if abstains and all(abstains) else text
    golds = [gold for gold in example.check["answers"] if squad.normalize_answer(gold)] or [""]
    return {
        "f1": max(squad.compute_f1(gold, text) for gold in golds),
        "exact_match": max(squad.compute_exact(gold, text) for gold in golds),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("run", type=Path)
    p.add_argument(
        "--data", type=Path, default=ROOT / "data", help="with ifeval/, svamp/ and so on"
    )
    options = p.parse_args()
    task = read_json(options.run / "config.json", dict)["task"]
    loaders = {"gsm8k": gsm8k, "nq": nq}
    sets = {"svamp": (gsm8k.metrics, their_flexible_extract)}
    kinds = {}
    if task in loaders:
        tests = loaders[task].load(options.data / task, "test")
        theirs = {"gsm8k": their_flexible_extract, "nq": their_squad}[task]
        kinds["eval"] = (tests, loaders[task].metrics, theirs)
    if (options.data / "svamp").exists():
        kinds["svamp"] = (gsm8k.load_svamp(options.data / "svamp"), *sets["svamp"])
    if (options.data / "ifeval").exists():
        kinds["ifeval"] = (ifeval.load(options.data / "ifeval"), ifeval.metrics, their_ifeval)
    for kind, (examples, ours, theirs) in kinds.items():
        examples = {example.id: example for example in examples}
        for file in sorted(options.run.glob(f"*/{kind}.jsonl")):
            compare(file, examples, ours, theirs, options.data)


def compare(file, examples, ours, theirs, data):
    published = {}
    if theirs is their_ifeval:
        rows = read_jsonl(data / "ifeval/input_data.jsonl")
        published = {f"input_data.jsonl:{line}": row for line, row in rows}
    pairs, unequal = defaultdict(list), Counter()
    for _, row in read_jsonl(file):
        example = examples[row["id"]]
        text = judges.after_thought(row["response"]["text"])
        our_scores = ours(text, example)
        for name, value in theirs(text, published.get(row["id"], example)).items():
            values = value if isinstance(value, list) else [value]
            found = our_scores[name] if isinstance(value, list) else [our_scores[name]]
            names = [name] * len(values)
            if isinstance(value, list):
                names = [kind for kind, _ in example.check["instructions"]]
            for each, a, b in zip(names, found, values, strict=True):
                pairs[name].append((float(a), float(b)))
                if abs(a - b) > 1e-9:
                    unequal[f"{row['id']} {each}"] += 1
    for name, values in pairs.items():
        a, b = zip(*values)
        equal = sum(abs(x - y) < 1e-9 for x, y in values)
        means = {"ours": sum(a) / len(a), "theirs": sum(b) / len(b)}
        print(json.dumps({"file": str(file), "score": name, "n": len(a), "equal": equal, **means}))
    print(json.dumps({"unequal": unequal}))


if __name__ == "__main__":
    main()
