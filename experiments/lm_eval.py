"""Do the benchmarks say what lm-evaluation-harness 0.4.13 says? Item by item: texts, log-probabilities, scores (NOTES.md).

    python experiments/lm_eval.py CKPT DATA [--items 100] [--shots 0] [--batch 8]

DATA holds mmlu/, truthfulqa/ and hellaswag/ as published. The harness (pip install lm_eval==0.4.13 transformers) runs its own
tasks on the same checkpoint in float32 and on the same rows, drawn by a seed; only its reading from the Hub is replaced by these
files. The rate of both is that of whole items, tokenisation included. The last line is JSON.
"""
import argparse
import csv
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # in the place of this folder, in which "lm_eval" would be this file
import model as llama  # noqa: E402
import sampler  # noqa: E402
from data import bench  # noqa: E402
from files import read_json, read_jsonl  # noqa: E402

TASKS = {"mmlu": {"acc": None}, "truthfulqa": {"mc1": "truthfulqa_mc1", "mc2": "truthfulqa_mc2"},
         "hellaswag": {"acc": "hellaswag", "acc_norm": "hellaswag"}}  # our score → the harness's task; of mmlu one a subject


def from_files(data, datasets):
    """A load_dataset that makes the Hub's rows from the published files, by a reading of its own."""
    def rows(kind, subject):
        with open(data / f"mmlu/{kind}/{subject}_{kind}.csv", newline="", encoding="utf-8") as lines:
            return [{"question": r[0], "choices": r[1:5], "answer": "ABCD".index(r[5])} for r in csv.reader(lines)]

    def load_dataset(path, name=None, **_):
        if path == "cais/mmlu":
            parts = {kind: rows(kind, name) for kind in ("dev", "test")}
        elif path == "truthfulqa/truthful_qa":
            parts = {"validation": [{"question": r["question"], **{key: {"choices": list(r[key]), "labels": list(r[key].values())}
                                                                   for key in ("mc1_targets", "mc2_targets")}}
                                    for r in read_json(data / "truthfulqa/mc_task.json")]}
        else:
            found = [{**r, "label": str(r["label"])} for _, r in read_jsonl(data / "hellaswag/hellaswag_val.jsonl")]
            parts = {"train": found[:1], "validation": found}
        return datasets.DatasetDict({key: datasets.Dataset.from_list(value) for key, value in parts.items()})
    return load_dataset


def theirs(lm, name, items, shots):
    """({(id, score): (its value, {choice: logprob})}, {id: context}, seconds) of the harness."""
    import lm_eval
    wanted, files = defaultdict(list), {}
    for item in items:
        file, n = item.id.rsplit(":", 1)
        for task in {task or f"mmlu_{file.removesuffix('_test.csv')}" for task in TASKS[name].values()}:
            wanted[task].append(int(n) - 1)
            files[task] = file
    seconds, ask = 0.0, lm.loglikelihood

    def timed(*args, **options):
        nonlocal seconds
        start = time.perf_counter()
        answers = ask(*args, **options)
        seconds += time.perf_counter() - start
        return answers
    lm.loglikelihood = timed
    rows = {task: sorted(numbers) for task, numbers in wanted.items()}       # unsorted, it would mix them up
    said = lm_eval.simple_evaluate(lm, tasks=list(rows), samples=rows, num_fewshot=shots, bootstrap_iters=0, log_samples=True)
    lm.loglikelihood = ask
    found, contexts = {}, {}
    for task, samples in said["samples"].items():
        for sample in samples:
            id = f"{files[task]}:{sample['doc_id'] + 1}"
            logprobs = {args[1]: answer[0] for args, answer in zip(sample["arguments"], sample["filtered_resps"], strict=True)}
            contexts[id] = sample["arguments"][0][0]
            for score, of in TASKS[name].items():
                if of in (None, task):
                    found[id, score] = sample["acc" if score.startswith("mc") else score], logprobs
    return found, contexts, seconds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ckpt")
    p.add_argument("data", type=Path)
    p.add_argument("--items", type=int, default=100, help="of each benchmark")
    p.add_argument("--shots", type=int, default=0, help="of mmlu")
    p.add_argument("--batch", type=int, default=8, help="of the harness")
    p.add_argument("--bench", default=",".join(TASKS))
    args = p.parse_args()
    try:
        import datasets
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        sys.exit(f"lm_eval.py: {error}; the comparison needs: {sys.executable} -m pip install lm_eval==0.4.13 transformers")
    datasets.load_dataset = from_files(args.data, datasets)
    lm = HFLM(pretrained=args.ckpt, dtype="float32", device="cpu", batch_size=args.batch)
    model, tokenizer = llama.load(args.ckpt)
    figures = {}
    for name in args.bench.split(","):
        shots = args.shots if name == "mmlu" else 0
        items = random.Random(0).sample(bench.load(name, args.data / name, shots), args.items)
        found, contexts, their_seconds = theirs(lm, name, items, shots)
        start = time.perf_counter()
        pairs = [bench.pairs(tokenizer, item, model.config.context) for item in items]
        sums = iter(sampler.logprobs(model, [p for x in pairs for p, _ in x], [c for x in pairs for _, c in x], progress=name))
        logprobs = [[next(sums) for _ in item.choices] for item in items]
        our_seconds = time.perf_counter() - start
        equal_texts, differences, scores = 0, [], defaultdict(list)
        for item, ours in zip(items, logprobs):
            by_text, same = dict(zip(item.choices, ours)), item.context == contexts[item.id]
            for score, value in bench.scores(item, ours).items():
                their_score, their_logprobs = found[item.id, score]
                chosen = item.choices[:item.mc1] if score == "mc1" else item.choices
                same &= set(chosen) == set(their_logprobs)
                differences += [abs(by_text[c] - x) for c, x in their_logprobs.items() if c in by_text]
                scores[score].append((value, float(their_score)))
            equal_texts += same
        figures[name] = {
            "items": len(items), "shots": shots, "equal_texts": equal_texts, "largest_difference": max(differences),
            "scores": {s: {"ours": sum(a for a, _ in v) / len(v), "harness": sum(b for _, b in v) / len(v),
                           "agree": sum(abs(a - b) < 1e-3 for a, b in v)} for s, v in scores.items()},
            "items_per_second": len(items) / our_seconds, "harness_items_per_second": len(items) / their_seconds}
        print(f"{name}: {json.dumps(figures[name])}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
