"""Do our scores of stored responses agree, one by one, with the field's own code?

    python -m pip install lm_eval==0.4.13 langdetect nltk
    python experiments/stored_scores.py RUN [--data DIR] [--squad evaluate-v2.0.py]

Reads the responses in a run directory of s3ft.py. IFEval and flexible-extract are compared with
lm-evaluation-harness 0.4.13, reading with the functions of SQuAD 2.0's official script.
Prints a line of JSON for each file of responses and score: values, and how many of them are equal.
"""

import argparse
import functools
import json
import runpy
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, where "lm_eval" would be another file
import judges  # noqa: E402
from data import gsm8k, ifeval, nq  # noqa: E402
from files import read_json, read_jsonl  # noqa: E402


def their_ifeval(text, example):
    import langdetect
    from lm_eval.tasks.ifeval import instructions_registry, utils

    langdetect.DetectorFactory.seed = 0
    names, kwargs = zip(*example.check["instructions"])
    kinds = {kind.partition(":")[2]: kind for kind in instructions_registry.INSTRUCTION_DICT}
    row = {"key": 0, "prompt": example.question, "kwargs": kwargs}
    return utils.process_results(row | {"instruction_id_list": [kinds[n] for n in names]}, [text])


def their_flexible_extract(text, example):
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    last = RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    (said,) = last.apply([[text]], [None])
    ignored = [",", r"\$", r"(?s).*#### ", r"\.$"]
    gold = example.check["answer"]
    found = exact_match_hf_evaluate(said, [gold], regexes_to_ignore=ignored, ignore_case=True)
    return {"flexible_extract": int(found["exact_match"])}


def their_squad(text, example, squad):
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
    p.add_argument("--squad", help="the official script, for a run on nq")
    options = p.parse_args()
    task = read_json(options.run / "config.json", dict)["task"]
    data = options.data
    kinds = {  # file of responses: (examples, our scores, theirs)
        "svamp": (lambda: gsm8k.load_svamp(data / "svamp"), gsm8k.metrics, their_flexible_extract),
        "ifeval": (lambda: ifeval.load(data / "ifeval"), ifeval.metrics, their_ifeval),
    }
    if task == "gsm8k":
        tests = lambda: gsm8k.load(data / task, "test")  # noqa: E731
        kinds["eval"] = (tests, gsm8k.metrics, their_flexible_extract)
    if options.squad:
        script = SimpleNamespace(**runpy.run_path(options.squad))
        theirs = functools.partial(their_squad, squad=script)
        kinds["eval"] = (lambda: nq.load(data / task, "test"), nq.metrics, theirs)
    for kind, (load, ours, theirs) in kinds.items():
        files = sorted(options.run.glob(f"*/{kind}.jsonl"))
        examples = {example.id: example for example in load()} if files else {}
        for file in files:
            compare(file, examples, ours, theirs)


def compare(file, examples, ours, theirs):
    pairs, unequal = defaultdict(list), []
    for _, row in read_jsonl(file):
        example = examples[row["id"]]
        text = judges.after_thought(row["response"]["text"])
        our_scores = ours(text, example)
        for name, value in theirs(text, example).items():
            both = our_scores[name], value
            if not isinstance(value, list):
                both = [our_scores[name]], [value]
            for a, b in zip(*both, strict=True):
                pairs[name].append((float(a), float(b)))
                if abs(a - b) > 1e-9:
                    unequal.append(f"{row['id']} {name}")
    for name, values in pairs.items():
        a, b = zip(*values)
        equal = sum(abs(x - y) < 1e-9 for x, y in values)
        means = {"ours": sum(a) / len(a), "theirs": sum(b) / len(b)}
        print(json.dumps({"file": str(file), "score": name, "n": len(a), "equal": equal, **means}))
    print(json.dumps({"unequal": unequal}))


if __name__ == "__main__":
    main()
