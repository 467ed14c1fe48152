"""Which wording of a task's PROMPT and PARAPHRASE draws right responses from a checkpoint?

    python data/fetch.py nq
    python experiments/prompts.py nq CKPT

Prints a row for each wording. Both tables are about the same training examples: for nq, 24 that
the passage answers and 24 that it does not. Paraphrases are asked for with the present PROMPT, of
all of them; "copies" are accepted paraphrases that repeat gold word for word.
"""

import argparse
import os
import random
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as in s3ft.py
import torch  # noqa: E402

import judges  # noqa: E402
import model as llama  # noqa: E402
import s3ft  # noqa: E402
import sampler  # noqa: E402
from data import gsm8k, mbpp, nq  # noqa: E402
from evaluate import judge_all  # noqa: E402
from files import InputError  # noqa: E402

PASSAGE_FIRST = "Passage: {passage}\n\nQuestion: {question}\n\n"
PASSAGE_LAST = "\n\nPassage: {passage}\n\nQuestion: {question}"
PROMPTS = {
    "nq": {
        "present": nq.PROMPT,
        "published with the data": "Given the following passage and question, answer the "
        "question.\nFirst make sure if it can be answered by the passage.\nIf it cannot be "
        'answered based on the passage, reply "unanswerable"'
        "\n\nPassage: {passage}\nQuestion: {question}\nAnswer:",
        "answer from the passage": PASSAGE_FIRST + "Answer the question from the passage. If the "
        "passage does not contain the answer, say that it is unanswerable.",
        "one sentence": PASSAGE_FIRST + "Answer the question in one short sentence, from the "
        'passage alone. If the passage does not answer it, reply "unanswerable".',
        "request first": "Answer the question from the passage. If the passage does not contain "
        "the answer, say that the question is unanswerable." + PASSAGE_LAST,
        "only this passage": "Passage: {passage}\n\nUsing only this passage, answer the question "
        "below. If the passage gives no answer, say that the question is unanswerable.\n\n"
        "Question: {question}",
    },
    "gsm8k": {
        "present": gsm8k.PROMPT,
        "sentence": "{question}\n\nThink step by step. End with one sentence: "
        '"The answer is" followed by the number.',
        "boxed": "{question}\n\nPlease reason step by step, and put your final answer within "
        "\\boxed{{}}.",
    },
    "mbpp": {
        "present": mbpp.PROMPT,
        "code only": "{text}\n\nYour code has to pass this test:\n{test}\n\nReply with only the "
        "Python code, in one ```python block.",
        "assertion": "{text}\nYour code should satisfy the following assertion:\n"
        "```python\n{test}\n```",
    },
}
REFERENCE = "{prompt}\n\nReference answer: {gold}\n\n"
SOLUTION = "{prompt}\n\nReference solution:\n{gold}\n\n"
PARAPHRASES = {
    "nq": {
        "present": nq.PARAPHRASE,
        "own words": REFERENCE + "Say the reference answer in your own words.",
        "guide": REFERENCE + "Use the reference answer as a guide and answer the question in your "
        "own words.",
        "full sentence": REFERENCE + "Write the reference answer as a complete sentence that "
        'answers the question, and add nothing else. If it is "unanswerable", write that the '
        "passage does not answer the question.",
        "one short sentence": REFERENCE + "Say the same as the reference answer in one short "
        'sentence of your own. If it is "unanswerable", say that the passage does not answer the '
        "question.",
    },
    "gsm8k": {
        "present": gsm8k.PARAPHRASE,
        "own words": SOLUTION + "Write this solution again in your own words. Keep every step, "
        "every number and the final answer.",
    },
    "mbpp": {
        "present": mbpp.PARAPHRASE,
        "guide": SOLUTION + "Use the reference solution as a guide and write your own solution to "
        "the task, in one ```python block.",
    },
}


def choose(task, data, rows):
    """A seeded choice of training examples: so many of each kind, as [(kind, example)]."""
    kinds = {}
    for example in task.load(data, "train"):
        kinds.setdefault(kind_of(example), []).append(example)
    chosen = []
    for kind, examples in kinds.items():
        some = random.Random(1).sample(examples, min(rows, len(examples)))
        chosen += [(kind, example) for example in some]
    return chosen


def kind_of(example):
    if "answers" not in example.check:
        return "all"
    return "answerable" if example.check["answers"] else "unanswerable"


def respond(model, tokenizer, task, name, asked):
    """Judged responses {text, ids, finish_reason, correct, reason, …} to [(example, messages)]."""
    prompts = [tokenizer.prompt_ids(messages) for _, messages in asked]
    limit = task.MAX_NEW_TOKENS
    responses = sampler.generate(model, tokenizer, prompts, limit, progress=name)
    pairs = []
    for response, (example, _) in zip(responses, asked):
        pairs.append((response._asdict(), example))
    judge, _ = judges.JUDGES[task.JUDGE]
    verdicts = judge_all(judge, pairs)
    return [pair[0] | verdict._asdict() for pair, verdict in zip(pairs, verdicts)]


def print_head(title, chosen):
    kinds = dict.fromkeys(kind for kind, _ in chosen)
    heads = [title, *(f"right, {kind}" for kind in kinds), "copies", "unfinished", "tokens"]
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")


def print_row(name, chosen, responses, show):
    """Right responses of each kind, copies of gold, unfinished ones, mean number of tokens."""
    right, total = Counter(), Counter()
    copies = unfinished = tokens = 0
    shown = []
    for (kind, example), response in zip(chosen, responses):
        total[kind] += 1
        right[kind] += response["correct"]
        copies += response["correct"] and response["text"].split() == example.gold.split()
        unfinished += response["finish_reason"] != "stop"
        tokens += len(response["ids"])
        if total[kind] <= show:
            shown.append(f"    {kind}, gold {example.gold!a:.60}, {response['reason']}:")
            shown.append(f"    {response['text']!a}")
    counts = [f"{right[kind]} of {total[kind]}" for kind in total]
    cells = [name, *counts, str(copies), str(unfinished), f"{tokens / len(chosen):.0f}"]
    print("| " + " | ".join(cells) + " |", *shown, sep="\n", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("task", choices=s3ft.TASKS)
    p.add_argument("ckpt", help="Hugging Face directory")
    p.add_argument("--data", help="the task's files (default: data/TASK)")
    p.add_argument("--rows", type=int, default=24, help="examples of a kind (default: 24)")
    p.add_argument("--show", type=int, default=0, help="print so many responses of a kind")
    options = p.parse_args()
    task = s3ft.TASKS[options.task]
    data = options.data or ROOT / "data" / options.task
    dtype = torch.bfloat16 if s3ft.multiplies_bfloat16("cpu") else torch.float32
    model, tokenizer = llama.load(options.ckpt, dtype)

    present = task.PROMPT
    print_head("PROMPT", choose(task, data, options.rows))
    for name, wording in PROMPTS[options.task].items():
        task.PROMPT = wording  # load fills it in
        chosen = choose(task, data, options.rows)
        asked = [(example, example.messages) for _, example in chosen]
        responses = respond(model, tokenizer, task, name, asked)
        print_row(name, chosen, responses, options.show)

    task.PROMPT = present
    chosen = choose(task, data, options.rows)
    print_head("PARAPHRASE", chosen)
    for name, wording in PARAPHRASES[options.task].items():
        asked = []
        for _, example in chosen:
            asked.append((example, s3ft.paraphrase_request(example, wording)))
        responses = respond(model, tokenizer, task, name, asked)
        print_row(name, chosen, responses, options.show)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"prompts.py: {error}", file=sys.stderr)
        sys.exit(2)
