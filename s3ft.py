"""Selective Self-to-Supervised Fine-Tuning (S3FT; Gupta et al., Findings of NAACL 2025, arXiv 2502.08130).

    python s3ft.py --task gsm8k --ckpt ./llama

For each training pair (x, y) the base model M answers: ŷ = M(x). Where a judge finds ŷ right, ŷ is the target. Else M rephrases
the gold response: ỹ = M([x; y]), and ỹ is the target where the judge finds it right, else y. Then ordinary fine-tuning on the
targets. Everything lands in one run directory (`--out`), and the same command goes on where an earlier one stopped.

From top to bottom: policies, selection, training, evaluation, the command line. The transformer is in model.py, generation and
scoring in sampler.py, the judges in judges.py; what a task asks of the model, in data/. Under torchrun the same command runs on several
processes (parallel.py), with the same results.
"""
import argparse
import collections
import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import random
import resource
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import parallel

TASKS = {"gsm8k": ("numeric", 400), "mbpp": ("code", 400), "nq": ("reading", 64)}  # the judge, and the longest response in tokens
BENCHMARKS = ("mmlu", "truthfulqa", "hellaswag", "svamp")

# A target is the first acceptable candidate of its policy; a row without one is left out. One table of candidates serves all.
POLICIES = {
    "sft": ("gold",),
    "ssr": ("self", "gold"),
    "sdft": ("paraphrase", "gold"),
    "self": ("self",),
    "s3ft": ("self", "paraphrase", "gold"),
}


def parse(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--report", metavar="RUN", help="rebuild RUN/report.html from the files of the run, and stop")
    p.add_argument("--task", metavar="TASK", help="gsm8k, mbpp, nq, or FILE.jsonl with {prompt, gold, …} a row")
    p.add_argument("--ckpt", metavar="DIR", help="Hugging Face directory of the base model")
    p.add_argument("--data", metavar="DIR", help="the task's files as published (default: the set fetched into data/, else the sample)")
    p.add_argument("--out", metavar="DIR", help="run directory (default: runs/TASK-CKPT)")
    p.add_argument("--test", metavar="FILE.jsonl", help="of --task FILE.jsonl: the test examples (default: a share of FILE)")
    p.add_argument("--test-fraction", type=float, default=0.2, metavar="F", help="of --task FILE.jsonl without --test: that share")
    p.add_argument("--judge", metavar="NAME", help="of --task FILE.jsonl: numeric, code, reading or exact (default: by the rows' fields); of "
                   "any task: model, the base model itself, or model:DIR, another checkpoint. A task's own rule still gives its scores")
    p.add_argument("--unsafe-code", action="store_true", help="run generated programs even where this machine cannot isolate them")
    p.add_argument("--method", default="s3ft", help=f"comma-separated: {', '.join(POLICIES)}")
    p.add_argument("--limit", type=int, metavar="N", help="train on N examples, a seeded choice")
    p.add_argument("--eval-limit", type=int, metavar="N", help="test on N examples, a seeded choice")
    p.add_argument("--validate", type=float, metavar="F", help="hold this share of the training examples out and test on them, not on the "
                   "test set: for choosing --lr and --epochs")
    p.add_argument("--eval-only", action="store_true", help="score the checkpoint and stop")
    p.add_argument("--bench", default="", metavar="NAMES", help="general benchmarks, comma-separated: mmlu, truthfulqa, hellaswag, svamp")
    p.add_argument("--bench-limit", type=int, metavar="N", help="N items of each benchmark, a seeded choice")
    p.add_argument("--bench-data", metavar="DIR", help="folders mmlu/, … with the files as published (default: data/, once fetched)")
    p.add_argument("--shots", type=int, default=0, metavar="K", help="K examples before each question of mmlu, and with --eval-only "
                   "K training examples before each question of the task")
    p.add_argument("--select-shots", type=int, default=0, metavar="K", help="K training examples before each question, for own responses")
    p.add_argument("--show", type=int, default=0, metavar="N", help="print N rows as they are learnt, prompt and target apart")
    p.add_argument("--samples", type=int, default=0, metavar="K", help="K more responses of the base model at --temperature; of all "
                   "that are right, the likeliest is the target")
    p.add_argument("--temperature", type=float, default=0.7)
    p.add_argument("--max-new-tokens", type=int, metavar="N", help="longest response (default: 400, nq 64)")
    p.add_argument("--substance", choices=["on", "off"], default="on",
                   help="off: a paraphrase needs the judge's word alone, as in the paper (see `refusal`)")
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--lr", type=float, help="peak learning rate (default: 2e-4, with --full 1e-5)")
    p.add_argument("--batch", type=int, default=8, metavar="N", help="examples of an optimiser step")
    p.add_argument("--micro-tokens", type=int, metavar="N", help="tokens of a micro-batch (default: by memory)")
    p.add_argument("--lora-rank", type=int, default=8)
    p.add_argument("--lora-alpha", type=float, default=16)
    p.add_argument("--lora-dropout", type=float, default=0.1)
    p.add_argument("--lora-targets", default="all", metavar="NAMES", help="all, or comma-separated such as q_proj,v_proj")
    p.add_argument("--full", action="store_true", help="train all weights (float32 master weights) instead of LoRA")
    p.add_argument("--fsdp", action="store_true", help="under torchrun, for training: each process holds a part of every weight (FSDP2)")
    p.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="under torchrun, for generation and scoring: N processes share a "
                   "model that one device cannot hold; goes with --fsdp")
    p.add_argument("--recompute", action="store_true", help="in training keep the inputs of layers alone and compute the rest again: "
                   "less memory, more time")
    p.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    p.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    p.add_argument("--slots", type=int, metavar="N", help="responses generated at once (default: by memory)")
    p.add_argument("--seed", type=int, default=0, help="of the choice of examples, of shots and samples")
    p.add_argument("--seeds", metavar="N,N", help="train each method once for each of these: order, dropout, adapter (default: --seed)")
    args = p.parse_args(argv)
    if args.report:
        return args
    for name in ("task", "ckpt"):
        if not getattr(args, name):
            p.error(f"--{name} is needed")
    args.method = args.method.split(",")
    for name in args.method:
        if name not in POLICIES:
            p.error(f"--method: {name!r} is not one of {', '.join(POLICIES)}")
    if args.task not in TASKS and not args.task.endswith(".jsonl"):
        p.error(f"--task: {args.task!r} is neither one of {', '.join(TASKS)} nor a FILE.jsonl")
    rules = [TASKS[args.task][0]] if args.task in TASKS else ["numeric", "code", "reading", "exact"]
    if args.judge and args.judge.partition(":")[0] != "model" and args.judge not in rules:
        p.error(f"--judge: {args.judge!r} is not one of {', '.join(rules)}, model, model:DIR")
    for name in ("test_fraction", "validate"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-')}: should lie between 0 and 1")
    args.bench = [name for name in args.bench.split(",") if name]
    for name in args.bench:
        if name not in BENCHMARKS:
            p.error(f"--bench: {name!r} is not one of {', '.join(BENCHMARKS)}")
    if args.test and args.task in TASKS or args.data and args.task not in TASKS:
        p.error("--test goes with --task FILE.jsonl, --data with the other tasks")
    if min(args.shots, args.select_shots, args.samples) < 0 or args.shots and not args.eval_only and "mmlu" not in args.bench:
        p.error("--shots K goes with --eval-only or --bench mmlu; for the own responses in selection there is --select-shots K")
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else [args.seed]
    except ValueError:
        p.error(f"--seeds: {args.seeds!r} should be numbers, comma-separated")
    if not all(0 <= seed < 2 ** 32 for seed in [args.seed, *args.seeds]):
        p.error("--seed, --seeds: should be from 0 to 4294967295")
    if not 0 <= args.lora_dropout < 1:
        p.error("--lora-dropout: should be at least 0 and below 1")
    if args.max_new_tokens is None:
        args.max_new_tokens = TASKS.get(args.task, (None, 400))[1]
    for name in ("limit", "eval_limit", "tensor_parallel", "max_new_tokens", "epochs", "batch", "micro_tokens", "lora_rank", "lora_alpha", "lr", "slots",
                 "bench_limit", "temperature"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            p.error(f"--{name.replace('_', '-')}: should be greater than 0")
    if args.fsdp and parallel.SIZE == 1:
        p.error("--fsdp: goes with several processes: torchrun --standalone --nproc-per-node N s3ft.py …")
    if args.tensor_parallel != 1 and (not args.fsdp or parallel.SIZE % args.tensor_parallel or (args.judge or "").startswith("model")):
        p.error(f"--tensor-parallel: goes with --fsdp, a number of processes ({parallel.SIZE}) that it divides, and a judge that is a rule")
    return args


if __name__ == "__main__":
    ARGS = parse()  # before torch is imported: --help and wrong options answer at once

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # a thread that waits yields early: one busy neighbour no longer costs nine tenths
import safetensors
import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from tqdm import tqdm

import judges
import model as llama
import report
import sampler
import sandbox
from data import bench, gsm8k, jsonl, mbpp, nq, svamp
from files import InputError, Journal, lock, read_json, replace, write_json, write_text


def say(text):
    if parallel.RANK == 0:
        print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------------- selection

CHUNK = 100  # texts, or items of a benchmark, that are scored together, and lost by a kill


def verdicts(judge, pairs, progress):
    """judge(response, example) of each pair, in order, several at once; InputError names the example whose data the judge cannot use."""
    def judge_pair(pair):
        try:
            return judge(*pair)
        except InputError as error:
            raise InputError(f"{pair[1].id}: {error}; mend or remove this row")
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from tqdm(pool.map(judge_pair, pairs), total=len(pairs), desc=progress, unit="response", delay=1, disable=parallel.RANK > 0)
    finally:
        pool.shutdown(cancel_futures=True)


def ask(base, tokenizer, journal, kind, prompts, examples, judge, args, longest=None, **sampling):
    """Generate for `prompts` {id: token ids} whatever `journal` lacks under `kind`, then judge whatever is not judged.

    At most `longest` tokens each (default: --max-new-tokens); greedily, unless `sampling` holds a temperature and a seed.
    """
    label, todo = f"{journal.path.parent.name}: {kind}", [i for i in prompts if kind not in journal.rows.get(i, {})]
    if len(todo) < len(prompts):
        say(f"{kind}: {len(prompts) - len(todo)} of {len(prompts)} responses are there already")
    if todo:
        start = time.perf_counter()
        responses = sampler.generate(base, tokenizer, [prompts[i] for i in todo], longest or args.max_new_tokens, slots=args.slots, share=True,
                                     on_done=lambda n, response: journal.add(todo[n], **{kind: response._asdict()}), progress=label, **sampling)
        add_speed(args.out, "generate", sum(len(r.ids) for r in responses if r) / parallel.TEAM, start)
        journal.exchange()

    def verdict(response, example):
        return judge(response["text"], example) if response["finish"] == "stop" else judges.Verdict(False, "unfinished")
    todo = [i for i in prompts if "correct" not in journal.rows[i][kind]][parallel.RANK::parallel.SIZE]
    pairs = [(journal.rows[i][kind], examples[i]) for i in todo]
    for (response, example), found in zip(pairs, verdicts(verdict, pairs, f"{label}, judge")):
        measures = {"substance": judges.substance(response["text"], example.gold)} if kind == "paraphrase" else {}
        journal.add(example.id, **{kind: {**response, **found._asdict(), **measures}})
    journal.exchange()


def shared(items, n, progress, unit):
    """Parts of at most n items, at least four for each process; a bar shows what all of them have done."""
    done, n = parallel.tally(), min(n, math.ceil(len(items) / 4 / parallel.SIZE)) if parallel.SIZE > 1 else n
    with tqdm(total=len(items), desc=progress, unit=unit, disable=parallel.RANK > 0 or not items) as bar:
        for part in parallel.pieces(items, n):
            yield part
            bar.update(done(len(part)) - bar.n)


def select(base, tokenizer, examples, judge, args, shots=()):
    """The table of candidates, one row an example in order: own response, paraphrase, verdicts, log-probabilities under the base.

    Only what the methods in use can need is generated: no candidate for sft, a paraphrase of every row for sdft. With `shots`,
    [(prompt, gold)], own responses and log-probabilities are those after these examples; what is learnt stands after x alone.
    """
    journal = Journal(args.out / "candidates.jsonl")
    wanted = {source for method in args.method for source in POLICIES[method]}
    by_id = {e.id: e for e in examples}
    for e in [e for e in examples if e.id not in journal.rows][parallel.RANK::parallel.SIZE]:
        journal.add(e.id, prompt=e.prompt, gold=e.gold, gold_ids=tokenizer.target_ids(e.prompt, e.gold))
    journal.exchange()
    prompts = {e.id: tokenizer.prompt_ids(e.prompt, shots) for e in examples}
    if "self" in wanted:
        ask(base, tokenizer, journal, "self", prompts, by_id, judge, args)
        for k in range(1, args.samples + 1):
            ask(base, tokenizer, journal, f"sample {k}", prompts, by_id, judge, args, temperature=args.temperature, seed=args.seed + k)
    if "paraphrase" in wanted:
        need = [e for e in examples if "sdft" in args.method or not candidate(journal.rows[e.id], "self", args)]
        ask(base, tokenizer, journal, "paraphrase",
            {e.id: tokenizer.prompt_ids(paraphrase_request(e, args)) for e in need}, by_id, judge, args)

    # log p(gold | x) and log p(ỹ | x); log p(ŷ | x) is known from generation. (The paper's figure compares the three.)
    todo = [(i, kind, ids) for i in by_id for row in [journal.rows[i]] for kind, ids in
            (("gold", row["gold_ids"]), ("paraphrase", row.get("paraphrase", {}).get("ids"))) if ids and f"{kind}_logprob" not in row]
    for part in shared(todo, CHUNK, "score", "text"):
        sums = sampler.logprobs(base, [prompts[i] for i, _, _ in part], [ids for _, _, ids in part])
        for (i, kind, _), value in zip(part, sums):
            journal.add(i, **{f"{kind}_logprob": value})
    journal.exchange()
    journal.compact(by_id)
    return [journal.rows[e.id] for e in examples]


def paraphrase_request(example, args):
    """[x; y], what the base model is asked for where its own response is wrong; the wording is the task's."""
    return args.paraphrase.format(prompt=example.prompt, gold=example.gold)


def refusal(response, args):
    """Why a response cannot be a target; None where it can: it is finished, judged right and, if a paraphrase, has the substance of gold.

    A word-for-word copy counts as gold, which it is. The numeric judge sees the final answer alone, and a paraphrase was shown
    it: one that drops the reasoning would pass, or that has it wrong. So it has to keep at least half of gold's numbers and half of its
    length, and its equations have to hold.
    """
    s = response.get("substance") if args.substance == "on" else None
    if response["finish"] != "stop":
        return "unfinished"
    if not response["correct"]:
        return "judged wrong"
    if s and s["copy"]:
        return "a copy of gold"
    if s and s.get("reference"):  # runs that began before these two were measured go on without
        return "right, but speaks of the reference"
    if s and args.rule == "numeric" and min(s["numbers"], s["length"]) < 0.5:
        return "right, without the substance of gold"
    if s and args.rule == "numeric" and s.get("false equations"):
        return "right, with a false equation"


def candidate(row, source, args):
    """What a row has to offer as {text, ids, …} of a source, None where that is nothing. "self" is the likeliest of the acceptable
    own responses under the base model, the greedy one among equals."""
    if source == "gold":
        return {"text": row["gold"], "ids": row["gold_ids"]}
    kinds = [source, *(f"sample {k}" for k in range(1, args.samples + 1))] if source == "self" else [source]
    return max((row[k] for k in kinds if k in row and not refusal(row[k], args)), key=lambda response: response["logprob"], default=None)


def targets_of(candidates, method, args):
    """[{id, source, prompt, target, ids}] of a policy; `ids` are the target's tokens, its end token included."""
    targets = []
    for row in candidates:
        found = next(((s, c) for s in POLICIES[method] if (c := candidate(row, s, args))), None)
        if found:
            source, response = found
            targets.append({"id": row["id"], "source": source, "prompt": row["prompt"], "target": response["text"], "ids": response["ids"]})
    return targets


# -------------------------------------------------------------------------------------------------------------------- training

def train(model, rows, args, directory, seed):
    """Fine-tune `model` on rows [(prompt ids, target ids)]: AdamW, linear warm-up, cosine decay, clipped gradients.

    The loss of a step is the sum over the target tokens of its global batch divided by their number, whatever the
    micro-batches and processes. State goes to `directory`/state.safetensors every now and then, so that a killed run goes on from
    there; all that is random is a function of (`seed`, step, row), so that it ends in the same weights.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    replicated = [p for p in parameters.values() if not isinstance(p, DTensor)]              # FSDP sums the gradients of what it shards
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.lr, weight_decay=0.0, fused=True)
    steps = steps_of(len(rows), args, seed)
    state = directory / "state.safetensors"
    model.train()
    first, budget = load_state(state, parameters, optimizer) if state.exists() else (
        0, args.micro_tokens or int(parallel.total(default_budget(model) / parallel.SIZE)[0]))  # one number for all processes
    log = resume_csv(directory / "train.csv", first) if parallel.RANK == 0 else os.devnull
    if first:
        say(f"{directory.name}: training goes on after step {first} of {len(steps)}")
    say(f"{directory.name}: micro-batches of {budget} tokens, {parallel.free_memory(model.device) / 1e9:.1f} GB of memory free")
    saved, cost, tokens, start = time.perf_counter(), 0.0, 0, time.perf_counter()
    with (open(log, "a", newline="") as file, interrupt_later() as interrupted,
          tqdm(total=len(steps), initial=first, desc=f"train {directory.name}", unit="step", disable=parallel.RANK > 0) as bar):
        writer = csv.writer(file)
        for step in range(first, len(steps)):
            began = time.perf_counter()
            batch = [rows[i] for i in steps[step]]
            rate = learning_rate(step, len(steps), args.lr)
            for g in optimizer.param_groups:
                g["lr"] = rate
            while True:
                try:
                    loss = accumulate_gradients(model, batch, budget, seed * 1_000_003 + step)
                    break
                except torch.OutOfMemoryError:
                    if args.fsdp or budget < max(len(p) + len(t) for p, t in batch):         # (with FSDP all have to make the same passes)
                        raise InputError(f"{directory}: step {step + 1} does not fit into the memory; what was saved before stays. "
                                         "Leave out long rows, or use --recompute, a lower --micro-tokens or --dtype bfloat16 in another --out")
                    optimizer.zero_grad(set_to_none=True)
                    budget //= 2
                    say(f"{directory.name}: out of memory; micro-batches of {budget} tokens from here")
            # A kill costs at most ten seconds of work, or twenty times what saving costs where that is more.
            late = parallel.RANK == 0 and step + 1 < len(steps) and time.perf_counter() - saved > max(10, 20 * cost)
            loss, stop, late = parallel.total(loss, len(interrupted), late)   # what one process decides, and Ctrl-C, goes for all
            sum_over_processes(replicated)
            norm = llama.whole(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)).item()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise InputError(f"{directory}: step {step + 1}: loss {loss}, gradient norm {norm}; what was saved before stays. "
                                 "Try a lower --lr or --dtype float32 in another --out")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds, n = time.perf_counter() - began, sum(len(p) + len(t) for p, t in batch)
            tokens += n
            writer.writerow([step + 1, f"{loss:.6f}", f"{rate:.3e}", f"{norm:.5f}", n, f"{seconds:.3f}", f"{n / seconds:.1f}"])
            bar.set_postfix_str(f"loss {loss:.3f}, {tokens / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
            bar.update()
            if stop or late:
                file.flush()
                saved = time.perf_counter()
                save_state(state, parameters, optimizer, step + 1, budget)
                cost, saved = time.perf_counter() - saved, time.perf_counter()
            if stop:
                raise KeyboardInterrupt
    model.eval()
    add_speed(args.out, "train", tokens / parallel.SIZE, start)


@contextlib.contextmanager
def interrupt_later():
    """Yield a list that a first Ctrl-C fills, without an exception in the middle of a step; a second one ends the process."""
    interrupted = []

    def note(*_):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        interrupted.append(True)
    before = signal.signal(signal.SIGINT, note)
    try:
        parallel.barrier()                                                   # from here on all processes do so
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if interrupted else before)


def accumulate_gradients(model, batch, budget, seed=0):
    """Add the gradient of the mean loss over the target tokens of `batch` [(prompt ids, target ids)]; return that loss. Of several
    processes each does this for its share of the rows: gradients and losses have to be summed.

    Micro-batches of at most `budget` tokens are laid end to end, without padding. The head is applied to target tokens alone,
    `chunk` at a time, forward and backward at once: there are never more logits than that. Dropout is drawn from (seed, row).
    """
    chunk = 1024 if model.device.type == "cuda" else 128                     # a GPU wants few launches, a CPU logits that fit its cache
    count, total = sum(len(t) for _, t in batch), 0.0
    shares = [micro_batches(rows, budget) for rows in share_out(batch, parallel.SIZE)]
    for n in range(max(map(len, shares))):                                   # as many passes in each process, as FSDP needs it
        rows = shares[parallel.RANK][n] if n < len(shares[parallel.RANK]) else [([0, 0], [])]
        lengths = [len(p) + len(t) - 1 for p, t in rows]
        ids = torch.tensor([i for p, t in rows for i in (p + t)[:-1]], device=model.device)                    # (N,)
        positions = torch.cat([torch.arange(n, device=model.device) for n in lengths])
        learnt = torch.tensor([k >= len(p) - 1 for (p, _), n in zip(rows, lengths) for k in range(n)], device=model.device)
        targets = torch.tensor([i for _, t in rows for i in t], dtype=torch.long, device=model.device)
        model.dropout.texts = [(llama.text_key(seed, p + t), n) for (p, t), n in zip(rows, lengths)]
        h = model.hidden(ids[None], positions[None], llama.packed_attention(model.config, lengths, model.device))[0, learnt]
        leaf = h.detach().requires_grad_()                                   # (target tokens, d)
        for states, wanted in zip(leaf.split(chunk), targets.split(chunk)):
            loss = F.cross_entropy(model.head(states), wanted, reduction="sum") / count
            loss.backward()
            total += loss.detach()
        h.backward(leaf.grad)
    model.dropout.texts = None
    return float(total)


def share_out(batch, n):
    """The rows of a batch in n lists of about as many tokens: each, the longest first, to the list that has the fewest."""
    lists, load = [[] for _ in range(n)], [0] * n
    for row in batch if n == 1 else sorted(batch, key=lambda row: -len(row[0]) - len(row[1])):
        least = load.index(min(load))
        lists[least].append(row)
        load[least] += len(row[0]) + len(row[1])
    return lists


def sum_over_processes(parameters):
    """Add up the gradients that the processes have found."""
    if parallel.SIZE > 1:
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for sent in [torch.distributed.all_reduce(p.grad, async_op=True) for p in parameters]:
            sent.wait()


def micro_batches(batch, budget):
    """The rows [(prompt ids, target ids)] in order, in parts of at most `budget` tokens, or of one row."""
    parts, room = [], 0
    for row in batch:
        room -= len(row[0]) + len(row[1])
        if room < 0:
            parts.append([])
            room = budget - len(row[0]) - len(row[1])
        parts[-1].append(row)
    return parts


def default_budget(model):
    """Tokens of a micro-batch: a power of two for which half of the free memory suffices; at most 1,024 on a CPU, where more
    gain nothing (NOTES.md, "Speed"), and 16,384 on CUDA. What backward keeps of a token is measured on two short texts."""
    def kept(n):
        """Bytes of all that a forward pass over n tokens saves for the backward one."""
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive = model.hidden(torch.zeros(1, n, dtype=torch.long, device=model.device))  # noqa: F841: keeps addresses apart
        return sum(storages.values())
    state = sum(12 * p.numel() / (parallel.SIZE if isinstance(p, DTensor) else 1)            # gradient and two moments, float32
                for p in model.parameters() if p.requires_grad)
    fits = (parallel.free_memory(model.device) - state) / 2 / (kept(128) - kept(64)) * 64
    return min(16_384 if model.device.type == "cuda" else 1024, 2 ** max(6, int(math.log2(max(fits, 1)))))


def steps_of(n, args, seed):
    """The batches [[row numbers]] of all epochs: each epoch is a permutation of the n rows, drawn from (seed, epoch)."""
    steps = []
    for epoch in range(args.epochs):
        order = list(range(n))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        steps += [order[i:i + args.batch] for i in range(0, n, args.batch)]
    return steps


def learning_rate(step, steps, peak):
    """Linear warm-up over the first tenth, then a cosine down to zero."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def save_state(path, parameters, optimizer, step, budget):
    """Weights in training and the moments of AdamW, as safetensors; step and micro-batch stand in the file's metadata."""
    tensors = {}
    for name, p in parameters.items():
        for part, tensor in (("", p.detach()), (":m", optimizer.state[p]["exp_avg"]), (":v", optimizer.state[p]["exp_avg_sq"])):
            tensor = llama.whole(tensor)                                     # of all processes; one keeps and writes it
            if parallel.RANK == 0:
                tensors[name + part] = tensor.cpu()
    if parallel.RANK == 0:
        with replace(path) as temporary:
            llama.write_tensors(temporary, tensors, {"step": str(step), "budget": str(budget)})


def load_state(path, parameters, optimizer):
    """The step after which `path` was saved and the tokens of a micro-batch there; fills weights and moments."""
    with safetensors.safe_open(path, "pt") as f:
        step, budget = (int(f.metadata()[name]) for name in ("step", "budget"))
        for name, p in parameters.items():
            value, m, v = (llama.like(p, f.get_slice(name + part)[llama.own_part(p, p.shape)].to(p.device)) for part in ("", ":m", ":v"))
            p.data.copy_(value)
            optimizer.state[p] = {"step": torch.tensor(float(step), device=p.device), "exp_avg": m, "exp_avg_sq": v}
    return step, budget


def resume_csv(path, step):
    """`path` with its header and the rows of the first `step` steps."""
    rows = path.read_text().splitlines()[1:step + 1] if path.exists() and step else []
    write_text(path, "\n".join(["step,loss,learning_rate,gradient_norm,tokens,seconds,tokens_per_second", *rows]) + "\n")
    return path


def projections(args):
    """The names in --lora-targets; InputError where one is no projection (lm_head, say, which may be the embedding too)."""
    names = llama.PROJECTIONS if args.lora_targets == "all" else args.lora_targets.split(",")
    if unknown := ", ".join(name for name in names if name not in llama.PROJECTIONS):
        raise InputError(f"--lora-targets: {unknown} is not among {', '.join(llama.PROJECTIONS)}; mend the names, or leave the option out")
    return names


def fine_tune(targets, arm, args, seed):
    """Train one arm from the base checkpoint; leaves targets.jsonl, train.csv, adapter/ and model/ under `--out`/arm."""
    directory = args.out / arm
    state = directory / "state.safetensors"
    if parallel.RANK == 0:
        write_text(directory / "targets.jsonl", "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in targets))
    if (directory / "model").exists():
        if parallel.RANK == 0:
            state.unlink(missing_ok=True)
        return say(f"{arm}: is trained already")
    if not targets:
        raise InputError(f"{arm}: no row has a target, there is nothing to train on; use another --method or more rows")
    model, tokenizer = llama.load(args.ckpt, torch.float32 if args.full else args.dtype, args.device, args.dtype if args.fsdp else None)
    model.compute_dtype = args.dtype  # with --full the float32 weights are the master copy, cast wherever they are used
    model.recompute = args.recompute
    if not args.full:
        llama.add_lora(model, args.lora_rank, args.lora_alpha, args.lora_dropout, projections(args), seed)
    train(model, [(tokenizer.prompt_ids(t["prompt"]), t["ids"]) for t in targets], args, directory, seed)
    if not args.full:
        llama.save_adapter(model, directory / "adapter", args.ckpt)
    llama.save(model, tokenizer, directory / "model")
    if parallel.RANK == 0:
        state.unlink(missing_ok=True)
    parallel.barrier()


# ------------------------------------------------------------------------------------------------------------------ evaluation

def respond(loaded, file, examples, judge, args, shots=(), longest=None):
    """{id: response} of the model that `loaded()` gives, asked and judged where the journal `file` lacks it; `longest` as in `ask`,
    less where the context has no room for it."""
    journal = Journal(file)
    if any("correct" not in journal.rows.get(e.id, {}).get("response", {}) for e in examples):
        model, tokenizer = loaded()
        prompts = {e.id: tokenizer.prompt_ids(e.prompt, shots) for e in examples}
        room = model.config.context - max(map(len, prompts.values()))
        ask(model, tokenizer, journal, "response", prompts, {e.id: e for e in examples}, judge, args, min(longest or args.max_new_tokens, room))
        journal.compact([e.id for e in examples])
    return {e.id: journal.rows[e.id]["response"] for e in examples}


def score_choices(loaded, journal, arm, items):
    """Add to `journal` the log-probability of every choice of the benchmark's `items` under the model, and their scores."""
    (model, tokenizer), cut = loaded(), 0
    for part in shared(items, CHUNK, f"{arm}: {items[0].bench}", "item"):
        pairs = [bench.pairs(tokenizer, item, model.config.context) for item in part]
        values = iter(sampler.logprobs(model, *zip(*itertools.chain(*pairs))))
        cut += sum(any(len(prompt) + len(c) > model.config.context for prompt, c in of_item) for of_item in pairs)
        for item, of_item in zip(part, pairs):
            logprobs = list(itertools.islice(values, len(of_item)))
            journal.add(item.id, model=arm, bench=item.bench, context=item.context, choices=item.choices,
                        logprobs=logprobs, scores=bench.scores(item, logprobs))
    (cut,) = parallel.total(cut / parallel.TEAM)
    if cut:
        say(f"{arm}: {cut:.0f} {items[0].bench} items fill the context of {model.config.context} tokens; what is too long begins later")


def evaluate(path, arm, examples, rule, items, args, shots=()):
    """Score the checkpoint at `path` on the task's test examples and the benchmarks' `items` {name: list}.

    {score: {n, score, low, high}}; responses go to `--out`/arm/eval.jsonl, items of benchmarks to `--out`/bench.jsonl.
    """
    loaded = functools.cache(lambda: llama.load(path, args.dtype, args.device))  # only where something is left to do
    responses = respond(loaded, args.out / arm / "eval.jsonl", examples, rule, args, shots)
    scores = {Path(args.task).stem: report.estimate([int(r["correct"]) for r in responses.values()])}
    journal = Journal(args.out / "bench.jsonl", ("model", "bench", "id"))
    for name, of in items.items():
        todo = [item for item in of if (arm, name, item.id) not in journal.rows]
        for item in of:                                                      # what is scored already was this very text
            text = item.prompt if name == "svamp" else item.context
            if journal.rows.get((arm, name, item.id), {}).get("context", text) != text:
                raise InputError(f"{journal.path}: {item.id} was scored with another text; use the same --bench-data or another --out")
        if name == "svamp" and todo:
            found = respond(loaded, args.out / arm / "svamp.jsonl", of, judges.numeric, args, longest=TASKS["gsm8k"][1])  # not the task's
            for e in todo[parallel.RANK::parallel.SIZE]:
                journal.add(e.id, model=arm, bench=name, context=e.prompt, choices=[], logprobs=[],
                            response=found[e.id]["text"], scores={"acc": int(found[e.id]["correct"])})
        elif todo:
            score_choices(loaded, journal, arm, todo)
        journal.exchange()
        rows = [journal.rows[arm, name, item.id]["scores"] for item in of]
        scores |= {f"{name} {kind}": report.estimate([row[kind] for row in rows]) for kind in rows[0]}
    return scores


# ----------------------------------------------------------------------------------------------------------------- command line

def load_task(args):
    """(training, test) examples of --task; notes in `args` where they come from, the rule that scores, the request for a paraphrase."""
    if args.task in TASKS:
        task, root = {"gsm8k": gsm8k, "mbpp": mbpp, "nq": nq}[args.task], Path(__file__).parent / "data"
        args.data = Path(args.data or (root / args.task if (root / args.task).exists() else root / "sample" / args.task))
        args.rule, args.paraphrase = TASKS[args.task][0], task.PARAPHRASE
        return task.load(args.data, "train"), task.load(args.data, "test")
    args.data, args.rule, args.paraphrase = Path(args.task), jsonl.rule(args.task), jsonl.PARAPHRASE
    if args.judge and (args.rule == "exact" or not args.judge.startswith("model")):
        args.rule = args.judge  # a model scores only where the rows hold nothing for a rule
    examples = jsonl.load(args.task, args.rule)
    return (examples, jsonl.load(args.test, args.rule)) if args.test else jsonl.split(examples, args.test_fraction, args.seed)


def load_benchmarks(args):
    """{name: items} of --bench, --bench-limit of each."""
    folder = Path(args.bench_data or Path(__file__).parent / "data")
    return {name: sample(svamp.load(folder / name) if name == "svamp" else bench.load(name, folder / name, args.shots if name == "mmlu" else 0),
                         args.bench_limit, args.seed) for name in args.bench}


def judge_named(name, base, tokenizer, args):
    """The judge of that name as a function (response, example) -> Verdict."""
    kind, _, path = name.partition(":")
    if kind == "model":
        return judges.by_model(*(llama.load(path, args.dtype, args.device) if path else (base, tokenizer)))
    if kind == "code":
        say(f"generated programs run under: {', '.join(sandbox.require(args.unsafe_code))}")
        return functools.partial(judges.code, unsafe=args.unsafe_code)
    return judges.JUDGES[kind][0]


def draw_shots(examples, k, limit, seed):
    """(k examples as [(prompt, gold)], `limit` others): what stands in a context is not asked. The others are the very ones of a run
    without shots; where fewer than k examples are left beside these, the k are taken from all. InputError where k is all there are."""
    if k and k >= len(examples):
        raise InputError(f"{k} shots: there are only {len(examples)} training examples; ask for fewer")
    used = {e.id for e in sample(examples, limit, seed)}
    beside = [e for e in examples if e.id not in used]
    chosen = {e.id for e in random.Random(f"{seed}/shots").sample(beside if len(beside) >= k else examples, k)}
    return [(e.prompt, e.gold) for e in examples if e.id in chosen], [e for e in examples if e.id in used - chosen]


def check_golds(examples, rule, args):
    """InputError names the first ten examples whose gold response the judge does not accept against itself."""
    def fault(gold, example):
        try:
            verdict = rule(gold, example)
        except InputError as error:
            return str(error)
        return not verdict.correct and f"the judge does not accept the gold response against itself: {verdict.reason}"
    faults = [f"{args.data}: {e.id}: {found}; mend or remove this row" for e, found in
              zip(examples, verdicts(fault, [(e.gold, e) for e in examples], "check the gold responses")) if found]
    if faults:
        raise InputError("\n".join(faults[:10] + [f"… and {len(faults) - 10} more"] * (len(faults) > 10)))


def settings_of(args, train_set, test_set):
    """What a run's results depend on; a run directory is continued under the same settings only, "versions" excepted."""
    free = {"out", "method", "show", "slots", "eval_only", "device", "unsafe_code", "report", "seeds", "bench", "bench_data", "bench_limit",
            "fsdp", "recompute", "tensor_parallel"}
    settings = {k: str(v) if isinstance(v, (Path, torch.dtype)) else v for k, v in vars(args).items() if k not in free}
    for name, examples in (("training data", train_set), ("test data", test_set)):
        settings[name] = hashlib.sha256(repr(examples).encode()).hexdigest()[:16]
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "safetensors", "tokenizers", "numpy"))
    return {**settings, "versions": f"Python {platform.python_version()}, {packages}"}


def claim(out, settings):
    """Make the run directory, or continue in one that was made under the same settings."""
    file = out / "config.json"
    if file.exists():
        old = read_json(file)
        for name in {**settings, **old}:
            if old.get(name) != settings.get(name) and name != "versions":
                raise InputError(f"{out}: was made with {name} = {old.get(name)!r}, now it is {settings.get(name)!r}; "
                                 "use the same settings or another --out")
        say(f"{out}: continues where it stopped" + f", with other versions than {old.get('versions')}" * (
            old.get("versions") != settings["versions"]))
    else:
        write_json(file, settings)


def add_speed(out, what, tokens, start):
    """Add to the run's account the tokens of all processes, and the seconds since `start`."""
    file, (tokens,) = out / "speed.json", parallel.total(tokens)
    if parallel.RANK == 0:
        speed = read_json(file) if file.exists() else {}
        old = speed.get(what, {"tokens": 0, "seconds": 0.0})
        speed[what] = {"tokens": old["tokens"] + round(tokens), "seconds": round(old["seconds"] + time.perf_counter() - start, 3)}
        write_json(file, speed)


def default_dtype(device):
    """bfloat16 where the hardware multiplies it, else float32."""
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if "cuda" in device else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bfloat16" if fast else "float32"


def sample(examples, limit, seed):
    """A seeded choice of `limit` examples, in the order of the file; all of them without a limit."""
    if limit is None:
        return examples
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), min(limit, len(examples))))]


def fitting(examples, tokenizer, context, args, shots):
    """(examples that fit the model's context, number left out): prompt and response, paraphrase request and its response, gold."""
    kept = []
    for e in examples:
        prompt, request = len(tokenizer.prompt_ids(e.prompt, shots)), len(tokenizer.prompt_ids(paraphrase_request(e, args)))
        if max(request, prompt) + args.max_new_tokens <= context and prompt + len(tokenizer.target_ids(e.prompt, e.gold)) <= context:
            kept.append(e)
    return kept, len(examples) - len(kept)


def show(targets, tokenizer, n):
    """Print n rows as the model sees them: the prompt dim, the tokens that are learnt green, ends of tokens marked."""
    colour = sys.stderr.isatty()
    for t in targets[:n]:
        prompt = tokenizer.tok.decode(tokenizer.prompt_ids(t["prompt"]), skip_special_tokens=False)
        target = "|".join(tokenizer.tok.decode([i], skip_special_tokens=False) for i in t["ids"])
        say(f"--- {t['id']}, target: {t['source']}, {len(t['ids'])} tokens")
        say(f"\x1b[2m{prompt}\x1b[0m\x1b[32m{target}\x1b[0m" if colour else f"{prompt}[[{target}]]")


def main(args):
    if args.report:
        figures = report.write(Path(args.report))
        say(report.text(figures))
        return {"run": args.report, **figures}
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is there; leave the option out, or install a PyTorch that is built for yours")
    args.device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    if args.device == "cuda" and parallel.LOCAL_SIZE > (gpus := torch.cuda.device_count()):
        raise InputError(f"{parallel.LOCAL_SIZE} processes on a machine with {gpus} GPU{'s' * (gpus > 1)}; use --nproc-per-node {gpus}, or --device cpu")
    args.device = parallel.start(args.device, args.tensor_parallel)
    projections(args)  # names that are wrong are refused now, not after the generation
    train_set, test_set = load_task(args)
    if args.validate:
        train_set, test_set = jsonl.split(sample(train_set, args.limit, args.seed), args.validate, args.seed)
    items = load_benchmarks(args)
    args.judge = args.judge or args.rule
    k = args.shots if args.eval_only else args.select_shots
    args.out = Path(args.out or f"runs/{Path(args.task).stem}-{Path(args.ckpt).resolve().name}" + (f"-{k}shot" if k else ""))
    args.dtype = getattr(torch, default_dtype(args.device) if args.dtype == "auto" else args.dtype)
    args.lr = args.lr or (1e-5 if args.full else 2e-4)

    say(f"task {args.task} from {args.data}, judge {args.judge}, checkpoint {args.ckpt}, {args.dtype} on {args.device}"
        f"{f', {parallel.SIZE} processes' if parallel.SIZE > 1 else ''}, run directory {args.out}")
    base, tokenizer = llama.load(args.ckpt, args.dtype, args.device)
    rule = judge_named(args.rule, base, tokenizer, args)
    judge = rule if args.judge == args.rule else judge_named(args.judge, base, tokenizer, args)
    shots, learnt = draw_shots(train_set, k, args.limit, args.seed)
    sets, left_out = {}, {}
    for split, examples, before in (("train", learnt, shots if args.select_shots else ()),
                                    ("test", sample(test_set, args.eval_limit, args.seed), shots if args.eval_only else ())):
        sets[split], left_out[split] = fitting(examples, tokenizer, base.config.context, args, before)
        if left_out[split]:
            say(f"{left_out[split]} {split} examples do not fit the model's context of {base.config.context} tokens and are left out")
        if not sets[split]:
            raise InputError(f"{args.data}: no {split} example is left; give more rows, a lower --max-new-tokens or fewer shots")
    if parallel.RANK == 0:
        if not args.rule.startswith("model") and not (args.out / "config.json").exists():  # in a directory that is continued, they were checked
            check_golds(sets["train"] + sets["test"], rule, args)
        held = lock(args.out)  # noqa: F841: as long as it is open, no other run can have the directory
        claim(args.out, settings_of(args, sets["train"], sets["test"]))
    parallel.barrier()
    say(f"{len(sets['train'])} of {len(train_set)} training and {len(sets['test'])} of {len(test_set)} test examples are used")

    methods = [] if args.eval_only else args.method
    candidates = select(base, tokenizer, sets["train"], judge, args, shots) if methods else []
    targets = {method: targets_of(candidates, method, args) for method in methods}
    for kind in ("self", "paraphrase"):
        fates = collections.Counter(refusal(row[kind], args) or "can be a target" for row in candidates if "reason" in row.get(kind, {}))
        left_out |= {kind: dict(fates.most_common())} if fates else {}
        say(f"{kind}: {', '.join(f'{n} {fate}' for fate, n in fates.most_common()) or 'not needed'}")
    for method in methods:
        left_out[f"{method}, without a target"] = without = len(candidates) - len(targets[method])
        say(f"{method}: {without} of {len(candidates)} examples have no target and are left out") if without else None
        show(targets[method], tokenizer, args.show)
    del base, judge, candidates

    # Arms: each method for each seed; that of --seed bears the method's name alone.
    arms = {method if seed == args.seed else f"{method}.{seed}": (method, seed) for seed in args.seeds for method in methods}
    file = args.out / "eval.json"
    scores = read_json(file) if file.exists() else {}
    for arm in ["base", *arms]:
        if arm != "base":
            method, seed = arms[arm]
            fine_tune(targets[method], arm, args, seed)
        path = args.ckpt if arm == "base" else args.out / arm / "model"
        scores[arm] = {**scores.get(arm, {}), **evaluate(path, arm, sets["test"], rule, items, args, shots if args.eval_only else ())}
        if parallel.RANK == 0:
            write_json(file, scores)

    peaks = parallel.total(*(peak_gb(args.device) * (rank == parallel.RANK) for rank in range(parallel.SIZE)))
    if parallel.RANK:
        return None
    say(report.text(report.write(args.out)))
    speed = read_json(args.out / "speed.json")
    counts = {method: {s: sum(t["source"] == s for t in targets[method]) for s in ("self", "paraphrase", "gold")} for method in methods}
    main_arm = "s3ft" if "s3ft" in methods else methods[-1] if methods else None
    return {"run": str(args.out), "task": args.task, "judge": args.judge, "checkpoint": args.ckpt,
            "dtype": str(args.dtype).removeprefix("torch."),
            **{f"{what}_tokens_per_second": round(s["tokens"] / s["seconds"], 1) for what in ("generate", "train")
               if (s := speed.get(what)) and s["seconds"]},
            "targets": counts.get(main_arm, {}), "targets_by_method": counts, "left_out": left_out,
            "peak_gb": peaks[0], **({"peak_gb_by_process": peaks} if parallel.SIZE > 1 else {}), "scores": scores}


def peak_gb(device):
    """The most memory that this process has had, GB."""
    peak = torch.cuda.max_memory_allocated() if "cuda" in str(device) else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e9, 2)


def interrupt(*_):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends at once
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)
    code = 2
    try:
        if result := main(ARGS):
            print(json.dumps(result))
        code = 0
    except InputError as error:
        parallel.complain(error)
    except OSError as error:  # a full disk, no rights, a sandbox that cannot start
        parallel.complain(f"{error}; when that is mended, the same command goes on" + f" in {ARGS.out}" * bool(ARGS.out))
    except KeyboardInterrupt:
        code = parallel.interrupted()
    parallel.finish(code)
