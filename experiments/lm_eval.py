"""Do our benchmarks agree, item by item, with lm-evaluation-harness 0.4.13?

    python -m pip install lm_eval==0.4.13 transformers
    python experiments/lm_eval.py CKPT [--data DIR] [--items 100] [--bench NAME …]

The harness runs its own tasks on the same rows in float32. Only its download is replaced: it reads
the files of data/fetch.py. Prints a line of JSON for each benchmark: items whose texts are equal,
the largest difference of a log-probability, and for each score both means and the equal items.
"""

import argparse
import csv
import json
import os
import random
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # not this folder, where "lm_eval" would be this file
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as in s3ft.py
import model as llama  # noqa: E402
import sampler  # noqa: E402
from data import benchmarks  # noqa: E402
from files import read_json, read_jsonl  # noqa: E402

HARNESS_TASKS = {  # {benchmark: {our score: task of the harness}}; mmlu has one a subject
    "mmlu": {"acc": None},
    "truthfulqa": {"mc1": "truthfulqa_mc1", "mc2": "truthfulqa_mc2"},
    "hellaswag": {"acc": "hellaswag", "acc_norm": "hellaswag"},
    "winogrande": {"acc": "winogrande"},
}


# The rows as the Hub has them, read from the published files: {split: rows}


def mmlu_rows(data, subject):
    splits = {}
    for split in ("dev", "test"):
        file = data / f"mmlu/{split}/{subject}_{split}.csv"
        rows = splits[split] = []
        with open(file, newline="", encoding="utf-8") as lines:
            for question, *choices, letter in csv.reader(lines):
                answer = "ABCD".index(letter)
                rows.append({"question": question, "choices": choices, "answer": answer})
    return splits


def truthfulqa_rows(data, _):
    rows = []
    for published in read_json(data / "truthfulqa/mc_task.json"):
        row = {"question": published["question"]}
        for key in ("mc1_targets", "mc2_targets"):
            labels = published[key]
            row[key] = {"choices": list(labels), "labels": list(labels.values())}
        rows.append(row)
    return {"validation": rows}


def hellaswag_rows(data, _):
    rows = []
    for _, row in read_jsonl(data / "hellaswag/hellaswag_val.jsonl"):
        row["label"] = str(row["label"])
        rows.append(row)
    return {"train": rows[:1], "validation": rows}


def winogrande_rows(data, _):
    rows = [row for _, row in read_jsonl(data / "winogrande/dev.jsonl")]
    return {"train": rows[:1], "validation": rows}


ROWS = {
    "allenai/winogrande": winogrande_rows,
    "cais/mmlu": mmlu_rows,
    "truthfulqa/truthful_qa": truthfulqa_rows,
    "Rowan/hellaswag": hellaswag_rows,
}


# Both sides


def theirs(lm, bench, items, shots):
    """{id: {score's name: (value, {(context, choice): log-probability})}} of the harness."""
    from lm_eval import simple_evaluate

    numbers = defaultdict(set)  # of the rows of each task
    files = {}
    for item in items:
        file, number = item.id.rsplit(":", 1)
        for task in HARNESS_TASKS[bench].values():
            task = task or "mmlu_" + file.removesuffix("_test.csv")
            files[task] = file
            numbers[task].add(int(number) - 1)
    samples = {task: sorted(rows) for task, rows in numbers.items()}  # unsorted, it mixes them up
    options = {"num_fewshot": shots, "bootstrap_iters": 0, "log_samples": True}
    results = simple_evaluate(lm, tasks=list(samples), samples=samples, **options)
    found = {}
    for task, rows in results["samples"].items():
        for row in rows:
            logprobs = {}
            for text, (logprob, _) in zip(row["arguments"], row["filtered_resps"]):
                logprobs[tuple(text)] = logprob
            id = f"{files[task]}:{row['doc_id'] + 1}"
            scores = found.setdefault(id, {})
            for name, of in HARNESS_TASKS[bench].items():
                if of in (None, task):
                    metric = "acc" if bench == "truthfulqa" else name
                    scores[name] = (row[metric], logprobs)
    return found


def ours(model, tokenizer, items):
    """[log-probabilities of the choices] of each item."""
    longest = model.config.max_position_embeddings
    found = []
    for item in items:
        pairs = benchmarks.pairs(tokenizer, item, longest)
        prompts, choices = zip(*pairs)
        found.append(sampler.logprobs(model, prompts, choices))
    return found


def compare(items, our_logprobs, their_answers):
    """The figures of a benchmark."""
    equal_texts = 0
    differences = []
    values = defaultdict(list)
    for item, logprobs in zip(items, our_logprobs):
        same = True
        texts = [*zip(benchmarks.contexts(item), item.choices)]
        ours = dict(zip(texts, logprobs))
        for name, value in benchmarks.scores(item, logprobs).items():
            their_value, theirs = their_answers[item.id][name]
            values[name].append((value, float(their_value)))
            scored = texts[: item.mc1] if name == "mc1" else texts
            same = same and set(scored) == set(theirs)
            for text in ours.keys() & theirs.keys():
                differences.append(abs(ours[text] - theirs[text]))
        equal_texts += same
    figures = {"items": len(items), "equal texts": equal_texts}
    figures["largest difference"] = max(differences)
    for name, pairs in values.items():
        our_values, their_values = zip(*pairs)
        figures[name] = {
            "ours": sum(our_values) / len(pairs),
            "harness": sum(their_values) / len(pairs),
            "equal": sum(abs(a - b) < 1e-3 for a, b in pairs),
        }
    return figures


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("ckpt", help="Hugging Face directory")
    p.add_argument("--data", type=Path, default=ROOT / "data", help="with mmlu/ and so on")
    p.add_argument("--items", type=int, default=100, help="of each benchmark, a seeded choice")
    p.add_argument("--bench", nargs="+", choices=HARNESS_TASKS, default=[*HARNESS_TASKS][:3])
    p.add_argument("--shots", type=int, default=0, help="of mmlu")
    options = p.parse_args()

    import datasets

    def load_dataset(path, name=None, **_):
        splits = {}
        for split, rows in ROWS[path](options.data, name).items():
            splits[split] = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict(splits)

    datasets.load_dataset = load_dataset
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=options.ckpt, dtype="float32", device="cpu", batch_size=8)
    model, tokenizer = llama.load(options.ckpt)
    for bench in options.bench:
        shots = options.shots if bench == "mmlu" else 0
        items = benchmarks.load(bench, options.data / bench, shots)
        items = random.Random(0).sample(items, min(options.items, len(items)))
        their_answers = theirs(lm, bench, items, shots)
        figures = compare(items, ours(model, tokenizer, items), their_answers)
        print(json.dumps({"bench": bench, "shots": shots, **figures}), flush=True)


if __name__ == "__main__":
    main()
