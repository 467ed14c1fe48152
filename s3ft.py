"""Selective Self-to-Supervised Fine-Tuning (Gupta et al. 2025, arXiv 2502.08130).

    python s3ft.py --task gsm8k --ckpt ./llama

For each training pair (x, y) the base model M answers greedily: ŷ = M(x). If a judge finds ŷ right,
ŷ is the target. If not, M rephrases the gold response: ỹ = M([x; y]). If the judge finds ỹ right, ỹ
is the target, else y. Then comes ordinary fine-tuning on the targets.

Where the default differs from the paper:
- A response that did not end by itself is never a target: it would teach the model not to stop.
- Targets are the sampled token ids, not their text tokenised again.
- A rule judges Natural Questions; the paper asks the model (`--judge model`).
What goes beyond it is an option: --samples, --filter-paraphrases, --full, four more methods.

From top to bottom: methods, selection, targets, fine-tuning, a run, the command line.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # on a busy machine, waiting threads yield early
import torch

import evaluate
import exchange
import judges
import kernels
import model as llama
import parallel
import report
import sandbox
from data import benchmarks, gsm8k, ifeval, jsonl, mbpp, nq
from evaluate import generate_and_judge
from files import InputError, lock, read_json, write_json, write_jsonl
from journal import Journal
from parallel import say
from train import Row, RowDropout, train, trained

TASKS = {"gsm8k": gsm8k, "mbpp": mbpp, "nq": nq}
METHODS = {  # a target is the first acceptable response of:
    "sft": ("gold",),
    "ssr": ("own", "gold"),
    "sdft": ("paraphrase", "gold"),
    "self": ("own",),  # a row without one is left out
    "s3ft": ("own", "paraphrase", "gold"),
}
# What a fork may add to: {method: choose(row, sources, options)} instead of first_acceptable, and
# {method: weigh_by(tokenizer, options)}, which returns the `weigh` of `train`.
CHOOSE, WEIGH = {}, {}
LORA_ALPHA, LORA_DROPOUT = 16, 0.1  # the paper's
TEMPERATURE = 0.7  # of --samples
TEST_SHARE = 0.2  # of the prompts in FILE.jsonl without --test
DATA = Path(__file__).parent / "data"


# Selection


def select(model, tokenizer, examples, judge, options):
    """Generate and judge the candidates; returns the rows of candidates.jsonl, one an example.

    They are the base model's own responses and, where a method needs it, its paraphrase of gold,
    with the log-probability of each text given x.
    """
    journal = Journal(options.out / "candidates.jsonl")
    for example in parallel.mine([e for e in examples if e.id not in journal.rows]):
        ids = tokenizer.target_ids(example.messages, example.gold)
        journal.add(example.id, messages=example.messages, gold=example.gold, gold_ids=ids)
    journal.sync()

    max_new_tokens = options.max_new_tokens

    def ask(source, wanted, **more):
        generate_and_judge(model, tokenizer, journal, source, wanted, judge, max_new_tokens, **more)

    request = functools.partial(paraphrase_request, wording=options.wording)
    if options.import_responses:
        requests = [("own", e, e.messages) for e in examples]
        requests += [("paraphrase", e, request(e)) for e in examples]
        file = options.import_responses
        exchange.read_responses(file, requests, journal, tokenizer, max_new_tokens)
    sources = set().union(*(METHODS[method] for method in options.method))
    if options.export_requests:
        for source in ("own", "paraphrase"):  # what another engine has made already is judged
            ask(source, [e for e in examples if source in journal.rows[e.id]])
        return export(tokenizer, examples, journal, sources, request, options)
    if "own" in sources:  # ŷ = M(x)
        ask("own", examples)
        for k, source in enumerate(own_sources(options)[1:], 1):
            ask(source, examples, temperature=TEMPERATURE, seed=options.seed + k)
    if "paraphrase" in sources:  # ỹ = M([x; y])
        needed = [e for e in examples if needs_paraphrase(journal.rows[e.id], options)]
        ask("paraphrase", needed, messages_of=request)
    add_logprobs(model, tokenizer, examples, journal, options)
    journal.compact([example.id for example in examples])
    return [journal.rows[example.id] for example in examples]


def export(tokenizer, examples, journal, sources, request, options):
    """Write requests for what the methods still lack; returns their numbers {source: count}."""
    rows = journal.rows
    own = [(e, e.messages) for e in examples if "own" in sources and "own" not in rows[e.id]]
    wanted = [e for e in examples if "paraphrase" not in rows[e.id]]
    paraphrases = [(e, request(e)) for e in wanted if needs_paraphrase(rows[e.id], options)]
    more = tokenizer, options.ckpt.name, options.max_new_tokens
    counts = {}
    for source, requests in ("own", own), ("paraphrase", paraphrases):
        counts[source] = exchange.write_requests(options.export_requests, source, requests, *more)
    say(f"{options.export_requests}: requests for {counts}; --import-responses takes the answers")
    return counts


def needs_paraphrase(row, options):
    """Has a method no acceptable response before it comes to the paraphrase?"""
    for sources in (METHODS[method] for method in options.method):
        if "paraphrase" in sources:
            before = sources[: sources.index("paraphrase")]
            if not any(acceptable(row, source, options) for source in before):
                return True
    return False


def paraphrase_request(example, wording):
    """[x; y] as messages: the task's wording of "say y in your own words"."""
    request = wording.format(prompt=example.question, gold=example.gold)
    return [*example.messages[:-1], {"role": "user", "content": request}]


def own_sources(options):
    """The names of own responses in a row: the greedy one, then those of --samples."""
    return ["own", *(f"sample {k}" for k in range(1, options.samples + 1))]


def add_logprobs(model, tokenizer, examples, journal, options):
    """Add log p(y | x) and log p(ỹ | x) for the paper's figure; log p(ŷ | x) is known."""
    todo = []
    for example in examples:
        row = journal.rows[example.id]
        for source in ("gold", "paraphrase"):
            if source in row and f"{source}_logprob" not in row:
                todo.append((example, source))
        for source in own_sources(options):
            if source in row and row[source]["logprob"] is None:  # another engine's
                todo.append((example, source))

    def prompt_and_text(item):
        example, source = item
        ids = response(journal.rows[example.id], source)["ids"]
        return [(tokenizer.prompt_ids(example.messages), ids)]

    for (example, source), values in evaluate.score(model, todo, prompt_and_text, "score"):
        found = {f"{source}_logprob": values[0]}
        if source in own_sources(options):
            found = {source: {**journal.rows[example.id][source], "logprob": values[0]}}
        journal.add(example.id, **found)
    journal.sync()


# Targets


def build_targets(rows, method, options):
    """The training set of a method: [{id, source, messages, target, ids}], one a row.

    What a fork's choose() puts beside its response as "kept" stands there too.
    """
    choose = CHOOSE.get(method, first_acceptable)
    targets = []
    for row in rows:
        source, best = choose(row, METHODS[method], options)
        if best:
            target = {"id": row["id"], "source": source, "messages": row["messages"]}
            target |= {"target": best["text"], "ids": best["ids"]}
            targets.append(target | best.get("kept", {}))
    return targets


def first_acceptable(row, sources, options):
    """(source, response) of the first source with an acceptable response; else (None, None)."""
    for source in sources:
        found = acceptable(row, source, options)
        if found:
            return source, max(found, key=lambda each: each["logprob"])
    return None, None


def acceptable(row, source, options):
    """The right responses of a source; own ones may be several."""
    names = own_sources(options) if source == "own" else [source]
    found = [response(row, name) for name in names]
    found = [each for each in found if each and each["correct"]]
    if source == "paraphrase" and found and options.filter_paraphrases:
        numeric = options.eval_judge == "numeric"
        if judges.lacks_substance(found[0]["text"], row["gold"], numeric):
            return []
    return found


def response(row, source):
    """{text, ids, logprob, correct, …} of a source, or None. An unfinished one is not correct."""
    if source == "gold":
        return {"text": row["gold"], "ids": row["gold_ids"], "logprob": 0.0, "correct": True}
    return row.get(source)


def count_sources(targets):
    sources = [target["source"] for target in targets]
    known = dict.fromkeys([*report.SOURCES, *sources])  # a fork may have sources of its own
    return {source: sources.count(source) for source in known}


# Fine-tuning


def fine_tune(targets, arm, seed, options):
    """Train the base model on targets; leaves train.csv, adapter/ and model/ in out/arm."""
    directory = options.out / arm
    if (directory / "model").exists():
        return say(f"{arm}: is trained already")
    if not targets:
        raise InputError(f"{arm}: no row has a target; use another --method or more rows")
    if parallel.is_main:
        write_jsonl(directory / "targets.jsonl", targets)
    # With --full the weights in float32 are the master copy, cast wherever they are used.
    dtype = torch.float32 if options.full else options.dtype
    model, tokenizer = load_model(options.ckpt, options, dtype)
    model.compute_dtype = options.dtype
    model.recompute = options.recompute
    dropout = RowDropout(LORA_DROPOUT)
    weigh_by = WEIGH.get(arm.partition(".")[0])
    if not options.full:
        on = options.lora_on or llama.PROJECTIONS
        llama.add_lora(model, options.lora_rank, LORA_ALPHA, dropout, seed, on)
    train(
        model,
        [Row(tokenizer.prompt_ids(t["messages"]), t["ids"], of=t) for t in targets],
        directory,
        epochs=options.epochs,
        lr=options.lr,
        batch=options.batch,
        micro_tokens=options.micro_tokens,
        seed=seed,
        dropout=dropout,
        weigh=weigh_by(tokenizer, options) if weigh_by else None,
    )
    weights = llama.merged_weights(model, parallel.full_tensor)
    if parallel.is_main:
        if not options.full:
            settings = {"base_model_name_or_path": str(options.ckpt), "r": options.lora_rank}
            settings |= {"lora_alpha": LORA_ALPHA, "lora_dropout": LORA_DROPOUT}
            llama.save_adapter(model, directory / "adapter", settings)
        llama.save(model, tokenizer, directory / "model", weights)
        (directory / "state.safetensors").unlink(missing_ok=True)
    parallel.barrier()


# A run


def run(options):
    """Candidates, targets, arms, scores and the report of one run directory; its figures."""
    train_set, test_set = load_task(options)
    items = load_benchmarks(options)
    base, tokenizer = load_to_generate(options.ckpt, options)
    eval_judge = named_judge(options.eval_judge, base, tokenizer, options)
    train_judge = eval_judge
    if options.judge != options.eval_judge:
        train_judge = named_judge(options.judge, base, tokenizer, options)
    train_set = drop_too_long(train_set, base, tokenizer, options.max_new_tokens, options.wording)
    test_set = drop_too_long(test_set, base, tokenizer, options.max_new_tokens)
    if parallel.is_main:
        options.lock = lock(options.out)  # until the process ends
        open_run(options, train_set, test_set, eval_judge, tokenizer)
    parallel.barrier()

    targets, counts = {}, {}
    if not options.eval_only:
        rows = select(base, tokenizer, train_set, train_judge, options)
        if options.export_requests:
            return {"run": str(options.out), "task": options.task, "requests": rows}
        for method in options.method:
            targets[method] = build_targets(rows, method, options)
            counts[method] = count_sources(targets[method])
            say(f"{method}: targets {counts[method]}")
            show(targets[method], tokenizer, options.show)

    scores = score_arm("base", base, tokenizer, test_set, eval_judge, items, options)
    del base, train_judge  # frees the memory
    for seed in options.seeds:
        for method in targets:
            arm = method if seed == options.seed else f"{method}.{seed}"
            fine_tune(targets[method], arm, seed, options)
            model, tokenizer = load_to_generate(options.out / arm / "model", options)
            scores = score_arm(arm, model, tokenizer, test_set, eval_judge, items, options)
            del model  # the next one is trained without it in memory
    if parallel.is_main:
        say(report.text(report.write(options.out)))
    return {
        "run": str(options.out),
        "task": options.task,
        "generate_tokens_per_second": rate(evaluate.generated),
        "train_tokens_per_second": rate(trained),
        "targets": counts.get("s3ft") or counts.get(options.method[-1], {}),
        "targets_by_method": counts,
        "scores": scores,
    }


def rate(work):
    """Tokens a second; 0 if nothing was left to do."""
    return round(work["tokens"] / work["seconds"], 1) if work["seconds"] else 0.0


def score_arm(arm, model, tokenizer, test_set, judge, items, options):
    """Evaluate a model; returns the scores of all arms so far, as eval.json holds them."""
    max_new_tokens, out = options.max_new_tokens, options.out
    name = Path(options.task).stem
    by_judge = jsonl.METRICS.get(options.eval_judge, lambda response, example: {})
    metrics = getattr(TASKS.get(options.task), "metrics", by_judge)
    more = test_set, judge, items, max_new_tokens, metrics
    found = evaluate.evaluate(model, tokenizer, out, arm, name, *more)
    file = out / "eval.json"
    scores = read_json(file, dict) if file.exists() else {}
    scores[arm] = scores.get(arm, {}) | found
    if parallel.is_main:
        write_json(file, scores)
    parallel.barrier()
    return scores


def load_task(options):
    """(training examples, test examples)"""
    seed = options.seed
    if options.task in TASKS:
        load = TASKS[options.task].load
        train_set, test_set = load(options.data, "train"), load(options.data, "test")
    else:
        train_set = jsonl.load(options.task, options.eval_judge)
        if options.test:
            test_set = jsonl.load(options.test, options.eval_judge)
        else:
            train_set, test_set = jsonl.split(train_set, TEST_SHARE, seed)
        if options.eval_judge == "label":
            jsonl.add_labels(train_set + test_set)
    if options.system:
        train_set, test_set = with_system(train_set, options), with_system(test_set, options)
    train_set = sample(train_set, options.limit, seed)
    if options.validate:
        train_set, test_set = jsonl.split(train_set, options.validate, seed)
    test_set = sample(test_set, options.eval_limit, seed)
    counts = f"{len(train_set)} training and {len(test_set)} test examples"
    say(f"task {options.task} from {options.data}: {counts}, judge {options.judge}")
    return train_set, test_set


def with_system(examples, options):
    """The examples, with the system prompt of --system where they have none."""
    prompt = {"role": "system", "content": options.system}
    found = []
    for example in examples:
        first = example.messages[0]["role"]
        messages = [prompt, *example.messages] if first != "system" else example.messages
        found.append(dataclasses.replace(example, messages=messages))
    return found


def sample(examples, limit, seed):
    """A seeded choice of `limit` examples, in their order; all of them without a limit."""
    if limit is None or limit >= len(examples):
        return examples
    chosen = random.Random(seed).sample(range(len(examples)), limit)
    return [examples[i] for i in sorted(chosen)]


def load_benchmarks(options):
    """{name: items} of --bench, a seeded choice of each."""
    items = {}
    for name in options.bench:
        folder = options.bench_data / name
        found = benchmarks.load(name, folder, options.shots)
        items[name] = sample(found, options.bench_limit, options.seed)
    if "ifeval" in items and ifeval.missing():
        say(f"ifeval: without {', '.join(ifeval.missing())}; see data/ifeval.py")
    return items


def load_model(path, options, dtype=None):
    shard = functools.partial(parallel.shard, dtype=options.dtype) if options.fsdp else None
    model, tokenizer = llama.load(path, dtype or options.dtype, parallel.device, shard)
    tokenizer.thinks = options.think
    return model, tokenizer


def load_to_generate(path, options):
    """A model that is not trained, and so may take what is faster; small ones are quick anyway."""
    model, tokenizer = load_model(path, options)
    on_cpu = parallel.device == "cpu" and kernels.has_onednn
    if on_cpu and not options.fsdp and model.config.hidden_size >= 512:
        say(f"{path}: {kernels.enable(model)}")
    return model, tokenizer


def named_judge(name, base, tokenizer, options):
    """The judge of that name: a function (response, example) -> Verdict."""
    kind, _, path = name.partition(":")
    if kind == "model":
        return judges.by_model(*(load_to_generate(path, options) if path else (base, tokenizer)))
    if kind == "code":
        layers = sandbox.require(options.unsafe_code)
        say(f"generated programs run under: {', '.join(layers)}")
        return functools.partial(judges.code, unsafe=options.unsafe_code)
    judge, _ = judges.JUDGES[kind]
    return judge


def drop_too_long(examples, base, tokenizer, max_new_tokens, wording=None):
    """The examples that fit the model with `max_new_tokens`.

    With a wording their gold fits too, and so does the request for a paraphrase.
    """
    max_seq_len = base.config.max_position_embeddings
    kept = []
    for example in examples:
        prompt = len(tokenizer.prompt_ids(example.messages))
        tokens = [prompt + max_new_tokens]
        if wording:
            request = tokenizer.prompt_ids(paraphrase_request(example, wording))
            gold = tokenizer.target_ids(example.messages, example.gold)
            tokens += [len(request) + max_new_tokens, prompt + len(gold)]
        if max(tokens) <= max_seq_len:
            kept.append(example)
    if len(kept) < len(examples):
        say(f"{len(examples) - len(kept)} examples do not fit the model's {max_seq_len} tokens")
    if not kept:
        raise InputError("no example is left; give more rows, or a lower --max-new-tokens")
    return kept


def open_run(options, train_set, test_set, judge, tokenizer):
    """Make the run directory, or continue one that was made under the same settings."""
    settings = settings_of(options, train_set, test_set)
    file = options.out / "config.json"
    if not file.exists():
        if not options.eval_judge.startswith("model"):  # a model may doubt anything
            check_golds(train_set + test_set, judge, tokenizer)
        return write_json(file, settings)
    old = read_json(file, dict)
    for name in {**settings, **old}:
        same = old.get(name, "None") == settings.get(name, "None")  # an option may be new
        if not same and name != "torch":
            what = f"was made with {name} = {old.get(name)!r}, now it is {settings.get(name)!r}"
            raise InputError(f"{options.out}: {what}; use another --out, or the same settings")
    say(f"{options.out}: continues where it stopped")


def settings_of(options, train_set, test_set):
    """What the results of a run depend on."""
    settings = {name: str(value) for name, value in vars(options).items() if name not in FREE}
    settings["torch"] = torch.__version__
    files = [(file.name, file.stat().st_size) for file in sorted(options.ckpt.glob("*.*"))]
    settings["checkpoint files"] = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    for name, examples in (("training data", train_set), ("test data", test_set)):
        settings[name] = hashlib.sha256(repr(examples).encode()).hexdigest()[:16]
    return settings


def check_golds(examples, judge, tokenizer):
    """InputError names the first ten examples whose gold, as it is learnt, the judge refuses."""
    golds = []
    for example in examples:
        learnt = tokenizer.decode(tokenizer.target_ids(example.messages, example.gold))
        golds.append(({"text": learnt, "finish_reason": "stop"}, example))
    faults = []
    for example, verdict in zip(examples, evaluate.judge_all(judge, golds)):
        if not verdict.correct:
            what = f"the judge does not accept the gold response ({verdict.reason})"
            faults.append(f"{example.id}: {what}; mend or remove this row")
    if faults:
        raise InputError("\n".join(faults[:10]))


def show(targets, tokenizer, n):
    """Print n rows as the model sees them: the prompt, then [[the|tokens|that it learns]]."""
    decode = functools.partial(tokenizer.tok.decode, skip_special_tokens=False)
    for target in targets[:n]:
        prompt = decode(tokenizer.prompt_ids(target["messages"]))
        learnt = "|".join(decode([token]) for token in target["ids"])
        say(f"--- {target['id']}, target: {target['source']}\n{prompt}[[{learnt}]]")


# The command line

ABOUT = __doc__.split("\n")[0]
FREE = (  # options on which no result depends, save by rounding: a run may go on with others
    *("out", "method", "seeds", "show", "eval_only", "device", "unsafe_code", "micro_tokens"),
    *("bench", "bench_data", "bench_limit", "fsdp", "recompute", "lock"),
    *("export_requests", "import_responses"),
)


def number(kind, above, below=2**32):
    """An argparse type."""

    def check(text):
        if above < kind(text) < below:
            return kind(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not above {above} and below {below}")

    check.__name__ = kind.__name__  # for the message that argparse has for a ValueError
    return check


def names(known):
    """An argparse type: a comma-separated list of known names."""

    def check(text):
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return text.split(",")

    return check


def seeds(text):
    """An argparse type: a comma-separated list of seeds."""
    return [number(int, -1)(part) for part in text.split(",")]


def parse(argv=None, parents=()):
    """The options as they were given."""
    p = argparse.ArgumentParser(description=ABOUT, allow_abbrev=False, parents=parents)
    size, count = number(int, 0), number(int, -1)

    def add(name, help, type=str, default=None, **more):
        p.add_argument(f"--{name}", help=help, type=type, default=default, **more)

    def flag(name, help):
        p.add_argument(f"--{name}", help=help, action="store_true")

    add("task", f"{', '.join(TASKS)}, or FILE.jsonl (formats: data/jsonl.py)", required=True)
    add("ckpt", "Hugging Face directory of the base model", required=True)
    add("data", "the task's files as published (default: data/TASK, else the samples)")
    add("test", "test rows of --task FILE.jsonl (default: a fifth of its prompts)")
    add("system", "system prompt of the examples that have none")
    flag("think", "leave thoughts on, where the chat template has a switch")
    add("out", "run directory (default: runs/TASK-CKPT)", Path)
    add("method", f"one or several of {', '.join(METHODS)}", names(METHODS), ["s3ft"])
    add("judge", f"{', '.join(judges.JUDGES)} or model:DIR (default: the task's rule)")
    flag("filter-paraphrases", "refuse paraphrases without the substance of gold")
    add("samples", f"further own responses a row, at temperature {TEMPERATURE}", count, 0)
    add("limit", "train on so many examples, a seeded choice", size)
    add("eval-limit", "test on so many examples, a seeded choice", size)
    add("validate", "test on this share of the training examples instead", number(float, 0, 1))
    flag("eval-only", "score the checkpoint and stop")
    add("export-requests", "write prompts for another engine into this folder and stop", Path)
    add("import-responses", "JSONL with an engine's responses (form: exchange.py)", Path)
    known = benchmarks.LOADERS
    add("bench", f"general benchmarks, of {', '.join(known)}", names(known), [])
    add("bench-limit", "items of each benchmark, a seeded choice", size)
    add("bench-data", "folder with mmlu/ and so on as published", Path, DATA)
    add("shots", "examples before each question of mmlu, up to 5", count, 0)
    add("max-new-tokens", "longest response (default: the task's)", size)
    add("epochs", "passes over the targets", size, 2)
    add("lr", "peak learning rate (default: 2e-4, with --full 1e-5)", number(float, 0))
    add("batch", "examples of an optimiser step", size, 8)
    add("lora-rank", "rank of the adapters", size, 8)
    add("lora-on", "projections with adapters (default: all)", names(llama.PROJECTIONS))
    flag("full", "train all weights instead of LoRA")
    add("micro-tokens", "tokens of a forward pass in training", size)
    flag("recompute", "in training keep the inputs of layers alone: less memory, more time")
    flag("fsdp", "under torchrun: distribute the weights over the processes")
    add("dtype", "", default="auto", choices=["auto", "float32", "bfloat16"])
    add("device", "", default="auto", choices=["auto", "cpu", "cuda"])
    add("seed", "of every choice of examples, and of sampling", count, 0)
    add("seeds", "train each method once for each of these (default: --seed)", seeds)
    add("show", "print so many rows as the model learns them", count, 0)
    flag("unsafe-code", "run generated programs even where they cannot be isolated")
    return p.parse_args(argv)


def fill_defaults(options):
    """Options as a run needs them. InputError if they do not go together."""
    name = Path(options.task).stem
    task = TASKS.get(options.task, jsonl)
    options.wording = task.PARAPHRASE
    options.ckpt = Path(options.ckpt).resolve()
    if options.task in TASKS:
        rule = task.JUDGE
        fetched = DATA / name
        sample_data = DATA / "sample" / name
        options.data = options.data or (fetched if fetched.exists() else sample_data)
        if options.test or (options.judge or rule).partition(":")[0] not in (rule, "model"):
            raise InputError("--test, and another rule as --judge, go with --task FILE.jsonl")
    elif options.data:
        raise InputError("--data goes with a task by name; --task FILE.jsonl has its own rows")
    elif options.task.endswith((".jsonl", ".json")):
        fields, rule = jsonl.describe(options.task)
        options.data = f"rows with {fields}"
        bare = rule in ("exact", "label")
        if options.judge and (bare or not options.judge.startswith("model")):
            rule = options.judge  # a model scores only rows that have nothing for a rule
    else:
        raise InputError(f"--task {options.task}: neither FILE.jsonl nor {', '.join(TASKS)}")
    if options.eval_only and (options.export_requests or options.import_responses):
        raise InputError("--eval-only asks for no candidates; leave it, or the other option, out")
    options.eval_judge = rule
    options.judge = options.judge or rule
    kind, colon, _ = options.judge.partition(":")
    if kind not in judges.JUDGES or (colon and kind != "model"):
        raise InputError(f"--judge {options.judge}: not one of {', '.join(judges.JUDGES)}")
    options.max_new_tokens = options.max_new_tokens or task.MAX_NEW_TOKENS
    options.out = options.out or Path("runs") / f"{name}-{options.ckpt.name}"
    options.seeds = options.seeds or [options.seed]
    if "." in "".join(options.method):
        what = "a full stop stands before a seed; rename the method"
        raise InputError(f"--method {','.join(options.method)}: {what}")
    options.lr = options.lr or (1e-5 if options.full else 2e-4)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    elif options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU; leave the option out")
    if options.dtype == "auto":
        options.dtype = "bfloat16" if multiplies_bfloat16(options.device) else "float32"
    options.dtype = getattr(torch, options.dtype)
    options.micro_tokens = options.micro_tokens or (1024 if options.device == "cpu" else 16384)
    if options.fsdp and (parallel.world_size == 1 or options.judge.startswith("model")):
        raise InputError("--fsdp goes with torchrun, several processes, and a rule as judge")
    return options


def multiplies_bfloat16(device):
    """Is bfloat16 faster than float32 there?"""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kernels.has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def main(argv=None, parents=()):
    """The command line; parents: parsers of a fork's own options, made with add_help=False."""
    goes_on = "the same command goes on"
    try:
        options = fill_defaults(parse(argv, parents))
        parallel.start(options.device)
        found = run(options)
        if parallel.is_main:
            print(json.dumps(found))
        parallel.leave(0)
    except InputError as error:
        parallel.leave(2, error)
    except OSError as error:  # a full disk, no rights
        parallel.leave(2, f"{error}; when that is mended, {goes_on}")
    except torch.OutOfMemoryError:
        mend = "use --recompute, fewer --micro-tokens, or a lower --max-new-tokens"
        parallel.leave(2, f"out of memory; {mend}")
    except KeyboardInterrupt:
        sys.unraisablehook = lambda _: None  # a half-made progress bar would complain at its end
        parallel.leave(130, f"interrupted; {goes_on}")


if __name__ == "__main__":
    main()
