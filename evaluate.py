"""Judged responses, scores of a task and of general benchmarks, their intervals and paired tests.

Every response and every scored item goes to a journal at once, so that a killed run goes on.
"""

import itertools
import math
import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

import judges
import parallel
import sampler
from data import benchmarks, gsm8k, ifeval
from files import InputError
from journal import Journal

RESAMPLES = 10_000  # of the bootstrap
CHUNK = 100  # items scored together, and lost by a kill
generated = {"tokens": 0, "seconds": 0.0}  # by this job, for the figures of the run


# Responses


def generate_and_judge(
    model, tokenizer, journal, source, examples, judge, max_new_tokens, messages_of=None, **sampling
):
    """Add to `journal`, under `source`, a judged response to each example.

    The prompt is messages_of(example), by default the example's own messages. Greedy, unless
    `sampling` has a temperature and a seed. What the journal holds is kept.
    """
    todo = []
    for example in examples:
        if source not in journal.rows.get(example.id, {}):
            messages = messages_of(example) if messages_of else example.messages
            todo.append((example, tokenizer.prompt_ids(messages)))
    parallel.say(f"{source}: {len(examples) - len(todo)} of {len(examples)} responses are there")
    todo.sort(key=lambda pair: len(pair[1]))
    todo = parallel.mine(todo)  # every process gets prompts of all lengths

    def done(index, response):
        example, _ = todo[index]
        if tokenizer.in_thought(response.text):
            response = response._replace(finish_reason="thought")  # it never ended
        journal.add(example.id, **{source: response._asdict()})

    start = time.perf_counter()
    sampling |= {"on_done": done, "progress": f"{journal.path.parent.name}: {source}"}
    prompts = [prompt for _, prompt in todo]
    responses = sampler.generate(model, tokenizer, prompts, max_new_tokens, **sampling)
    journal.sync()
    tokens = sum(len(response.ids) for response in responses)
    generated["tokens"] += parallel.all_reduce([tokens])[0]
    generated["seconds"] += time.perf_counter() - start

    pairs = [(journal.rows[example.id][source], example) for example in examples]
    pairs = parallel.mine([pair for pair in pairs if "correct" not in pair[0]])
    for (response, example), verdict in zip(pairs, judge_all(judge, pairs)):
        journal.add(example.id, **{source: {**response, **verdict._asdict()}})
    journal.sync()


def judge_all(judge, pairs):
    """Yield the verdict on each of [(response, example)], in order; several threads judge."""

    def verdict(pair):
        response, example = pair
        if response["finish_reason"] != "stop":
            return judges.Verdict(False, "unfinished")
        try:
            return judge(judges.after_thought(response["text"]), example)
        except InputError as error:
            raise InputError(f"{example.id}: {error}; mend or remove this row")

    threads = max(1, os.cpu_count() // parallel.local_world_size)
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(verdict, pairs)
        yield from tqdm(found, "judge", len(pairs), delay=1, disable=not parallel.is_main)


def score(model, items, pairs_of, name):
    """Yield (item, [log p(text | prompt), …]) of this process's items.

    pairs_of(item): its [(prompt ids, text ids), …].
    """
    mine = parallel.mine(items)
    chunks = [mine[i : i + CHUNK] for i in range(0, len(mine), CHUNK)]
    bar = parallel.bar(len(mine), name, "item")
    for chunk in parallel.in_step(chunks):
        chunk = chunk or []  # joins the passes of other processes
        pairs = [pairs_of(item) for item in chunk]
        flat = [*itertools.chain(*pairs)]
        prompts, texts = [prompt for prompt, _ in flat], [text for _, text in flat]
        values = iter(sampler.logprobs(model, prompts, texts))
        for item, own in zip(chunk, pairs):
            yield item, [next(values) for _ in own]
            bar.update()
    bar.close()


# Scores


FREE_TEXT = {"svamp": (gsm8k, judges.numeric), "ifeval": (ifeval, ifeval.judge)}
MOST_FOR_DRIFT = 200  # responses of the base


def evaluate(model, tokenizer, out, arm, task, examples, judge, items, max_new_tokens, metrics):
    """Score a model on the task's test `examples` and on the benchmarks' `items` {name: list}.

    Returns {score: {n, score, low, high}}: the judge's under the task's name, those of
    metrics(response, example) under "TASK NAME", a benchmark's under "BENCH NAME". Responses go to
    out/arm/eval.jsonl, items to out/bench.jsonl.
    """
    tables = defaultdict(list)

    def collect(prefix, scores):
        for name, value in scores.items():
            tables[f"{prefix} {name}"] += value if isinstance(value, list) else [value]

    file = out / arm / "eval.jsonl"
    for row in answer(model, tokenizer, file, examples, judge, max_new_tokens, metrics):
        tables[task].append(int(row["response"]["correct"]))
        collect(task, row["metrics"])
    journal = Journal(out / "bench.jsonl", ("model", "bench", "id"))
    answered = examples[:: math.ceil(len(examples) / MOST_FOR_DRIFT)]  # of all kinds
    for name, asked in {"drift": answered, **items}.items():
        todo = [item for item in asked if (arm, name, item.id) not in journal.rows]
        if name == "drift":
            rows = add_drift(model, tokenizer, out, arm, todo)
        elif todo and name in FREE_TEXT:
            file = out / arm / f"{name}.jsonl"
            rows = add_answers(model, tokenizer, file, todo, *FREE_TEXT[name])
        else:
            rows = add_choices(model, tokenizer, todo, f"{arm}: {name}")
        for item, row in rows:
            journal.add(item.id, model=arm, bench=name, **row)
        journal.sync()
        for item in asked:
            collect(name, journal.rows[arm, name, item.id]["scores"])
    return {name: estimate(values) for name, values in tables.items()}


def answer(model, tokenizer, file, examples, judge, max_new_tokens, metrics):
    """The journal's row of each example: {response, judged, metrics}; what it lacks is made."""
    journal = Journal(file)
    generate_and_judge(model, tokenizer, journal, "response", examples, judge, max_new_tokens)
    for example in parallel.mine(examples):
        said = judges.after_thought(journal.rows[example.id]["response"]["text"])
        found = metrics(said, example)
        if journal.rows[example.id].get("metrics") != found:
            journal.add(example.id, metrics=found)
    journal.sync()
    ids = [example.id for example in examples]
    journal.compact({**dict.fromkeys(ids), **journal.rows})  # others are of a larger --bench-limit
    return [journal.rows[id] for id in ids]


def add_answers(model, tokenizer, file, examples, task, judge):
    """Yield (example, row of bench.jsonl) of a benchmark that is answered in free text."""
    max_new_tokens = task.MAX_NEW_TOKENS
    rows = answer(model, tokenizer, file, examples, judge, max_new_tokens, task.metrics)
    for example, row in parallel.mine(list(zip(examples, rows))):
        response, scores = row["response"], row["metrics"]
        if task is gsm8k:
            scores = {"acc": int(response["correct"]), **scores}
        said = {"context": example.question, "response": response["text"]}
        yield example, {**said, "scores": scores}


def add_drift(model, tokenizer, out, arm, examples):
    """Yield (example, row of bench.jsonl): what the base's own response has lost per token.

    In nats, log p of its tokens under the base less that under this model; of the base itself it
    shows what rounding does. RL's Razor (arXiv 2509.04259) predicts forgetting from it.
    """
    rows = Journal(out / "base/eval.jsonl").rows

    def pair_of(example):
        return [(tokenizer.prompt_ids(example.messages), rows[example.id]["response"]["ids"])]

    for example, logprobs in score(model, examples, pair_of, f"{arm}: drift"):
        response = rows[example.id]["response"]
        nats = (response["logprob"] - logprobs[0]) / len(response["ids"])
        row = {"context": example.question, "choices": [response["text"]], "logprobs": logprobs}
        yield example, {**row, "scores": {"nats": nats}}


def add_choices(model, tokenizer, items, name):
    """Yield (item, row of bench.jsonl) of a benchmark with choices, compared by probability."""

    def pairs_of(item):
        return benchmarks.pairs(tokenizer, item, model.config.max_position_embeddings)

    for item, logprobs in score(model, items, pairs_of, name):
        row = {"context": item.context, "choices": item.choices, "logprobs": logprobs}
        yield item, row | {"scores": benchmarks.scores(item, logprobs)}


# Statistics


def wilson(correct, n, z=1.96):
    """95 % interval of a share (Wilson 1927)."""
    p = correct / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def bootstrap(groups):
    """95 % interval of the mean over groups of each group's mean (Efron & Tibshirani 1993).

    Items are drawn anew within their group, as counts of its distinct values.
    """
    rng, means = np.random.default_rng(0), np.zeros(RESAMPLES)
    for values in groups:
        n = len(values)
        distinct, counts = np.unique(np.array(values, dtype=float), return_counts=True)
        drawn = rng.multinomial(n, counts / n, RESAMPLES)  # (RESAMPLES, distinct values)
        means += drawn @ distinct / n / len(groups)
    return np.percentile(means, [2.5, 97.5]).round(12).tolist()  # so that a bound of 0 is 0


def mcnemar(only_a, only_b):
    """Exact two-sided p that a alone is right on only_a items, b alone on only_b (McNemar 1947)."""
    n = only_a + only_b
    ways = term = 1  # the binomial coefficients of n and 0, 1, … exactly
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        ways += term
    return min(1.0, 2 * ways / 2**n)


def estimate(values):
    """{n, score, low, high} of the items' scores: Wilson's interval of 0 and 1, else bootstrap."""
    n, binary = len(values), set(values) <= {0, 1}
    low, high = wilson(sum(values), n) if binary else bootstrap([values])
    return {"n": n, "score": sum(values) / n, "low": low, "high": high}


def compare(pairs):
    """The mean difference a - b over pairs of tables {id: score}, one pair a benchmark.

    {n, difference, low, high, only_a, only_b, p, outcome}: "higher" or "lower" if the interval
    leaves out 0 and, where an item scores 0 or 1, McNemar's p is below 0.05. Empty where a pair
    shares no item.
    """
    groups = []
    for a, b in pairs:
        groups.append([a[i] - b[i] for i in a if i in b])
    if not groups or not all(groups):
        return {}
    low, high = bootstrap(groups)
    means = [sum(group) / len(group) for group in groups]
    found = {
        "n": sum(map(len, groups)),
        "difference": sum(means) / len(means),
        "low": low,
        "high": high,
    }
    decided = low > 0 or high < 0
    first, *others = groups
    if not others and set(first) <= {-1, 0, 1}:
        found["only_a"] = first.count(1)
        found["only_b"] = first.count(-1)
        found["p"] = mcnemar(found["only_a"], found["only_b"])
        decided = decided and found["p"] < 0.05
    direction = "higher" if low > 0 else "lower"
    return found | {"outcome": direction if decided else "not decidable at this n"}
