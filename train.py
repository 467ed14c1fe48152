"""Fine-tuning: packed rows, a weighted loss, the optimiser loop and its saved state.

The loss of a step is Σ weight · −log p(target token) over its batch, divided by the number of
target tokens, whatever the micro-batches and processes. A weight of 1 is ordinary fine-tuning.
"""

import math
import random
import time
from dataclasses import dataclass, field

import safetensors
import torch

import parallel
from files import InputError, replace, write_text
from model import packed_attention, write_tensors

COLUMNS = "step,loss,learning_rate,gradient_norm,tokens,seconds"
trained = {"tokens": 0, "seconds": 0.0}  # by this job, for the figures of the run


@dataclass
class Row:
    """Token ids of a prompt and its target, and the weight of each target token in the loss.

    weight: one number; or for each target token a number, or [(token, weight), …] in its stead.
    """

    prompt: list
    target: list
    weight: float | list = 1.0
    dropout_seed: int = 0
    of: dict = field(default_factory=dict)  # the target it was made from, for `weigh`

    def __len__(self):
        return len(self.prompt) + len(self.target)


class RowDropout:
    """Dropout for adapters, whose masks depend on a row's seed and on the projection alone.

    So they do not depend on the row's company, on the process, or on recomputation. Projections of
    the same input, as q, k and v, have the same mask.
    """

    def __init__(self, p):
        self.p = p
        self.rows = []  # of the pass at hand: [(seed, tokens)]
        self.last = None, None  # input and output

    def __call__(self, x, index):  # x (1, N, in)
        if self.last[0] is not x:
            self.last = x, x * self.mask(x[0], index)  # Linear divides by 1 - p
        return self.last[1]

    def mask(self, x, index):
        """(N, in) in the dtype of x: 0 for what is dropped, else 1."""
        mask = torch.empty_like(x)
        lengths = [tokens for _, tokens in self.rows]
        for (seed, _), part in zip(self.rows, mask.split(lengths)):
            generator = torch.Generator(x.device).manual_seed(hash((seed, index)))
            # Four elements share a random number: one for each would take a tenth of a step.
            count = part.numel() // 4 + 1
            numbers = torch.empty(count, dtype=torch.int64, device=x.device)
            numbers.random_(-(2**63), None, generator=generator)
            sixteen_bits = numbers.view(torch.int16)[: part.numel()].view_as(part)
            torch.ge(sixteen_bits, self.p * 2**16 - 2**15, out=part)
        return mask


# One step


def accumulate_gradients(model, rows, micro_tokens, dropout):
    """Add this process's part of the gradient of the loss over `rows`; return its part of it."""
    count = sum(len(row.target) for row in rows)
    mine = parallel.mine(sorted(rows, key=len))
    total = 0.0
    for micro in parallel.in_step(micro_batches(mine, micro_tokens)):
        micro = micro or [Row([0, 0], [])]  # joins the passes of other processes
        lengths = [len(row) - 1 for row in micro]
        dropout.rows = [(row.dropout_seed, n) for row, n in zip(micro, lengths)]
        ids, positions, predicts, targets, weights = pack(micro, model.device)
        attend = packed_attention(model.config, lengths, model.device)
        hidden = model.hidden(ids, positions, attend)[0]  # (N, d)
        total += backward(model, hidden[predicts], targets, weights / count)
    return float(total)


def micro_batches(rows, limit):
    """Lists of consecutive rows with at most so many tokens, or of one row."""
    batches, room = [], 0
    for row in rows:
        room -= len(row)
        if room < 0:
            batches.append([])
            room = limit - len(row)
        batches[-1].append(row)
    return batches


def pack(rows, device):
    """Rows laid end to end, without padding.

    ids and positions (1, N); predicts (N,): is the next token a target? targets and weights (M, K)
    of the M places where it is. K tokens of a place may have a weight; mostly one has.
    """
    ids, positions, predicts, places = [], [], [], []
    for row in rows:
        ids += (row.prompt + row.target)[:-1]
        positions += range(len(row) - 1)
        predicts += [False] * (len(row.prompt) - 1) + [True] * len(row.target)
        weights = row.weight if isinstance(row.weight, list) else [row.weight] * len(row.target)
        for token, weight in zip(row.target, weights, strict=True):
            places.append(weight if isinstance(weight, list) else [(token, weight)])
    most = max(map(len, places), default=1)
    places = [place + [(0, 0.0)] * (most - len(place)) for place in places]
    pairs = torch.tensor(places, dtype=torch.float64, device=device).view(-1, most, 2)
    ids = torch.tensor([ids], device=device)
    positions = torch.tensor([positions], device=device)
    predicts = torch.tensor(predicts, device=device)
    return ids, positions, predicts, pairs[..., 0].long(), pairs[..., 1].float()


def backward(model, hidden, targets, weights):
    """Backward pass of Σ weights · −log p(targets), both (M, K); returns it. hidden (M, d).

    The head runs forward and backward on some tokens at a time: only their logits exist at once.
    """
    size = 128 if hidden.device.type == "cpu" else 1024  # a CPU's cache holds so many
    leaf = hidden.detach().requires_grad_()
    total = 0.0
    chunks = zip(*(t.split(size) for t in (leaf, targets, weights)))
    for h, target, weight in chunks:
        logprobs = model.head(h).log_softmax(-1).gather(-1, target)
        loss = -(weight * logprobs).sum()
        loss.backward()
        total += loss.detach()
    hidden.backward(leaf.grad)
    return total


# The loop


def batch_schedule(n, epochs, batch, seed):
    """[numbers of the rows] of each step: an epoch is a permutation drawn from (seed, epoch)."""
    steps = []
    for epoch in range(epochs):
        order = list(range(n))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        steps += [order[i : i + batch] for i in range(0, n, batch)]
    return steps


def learning_rate(step, steps, peak):
    """Linear warm-up over the first tenth, then a cosine down to zero."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def train(model, rows, directory, *, epochs, lr, batch, micro_tokens, seed, dropout, weigh=None):
    """Fine-tune the parameters that require gradients.

    AdamW, linear warm-up, cosine decay, gradients clipped to norm 1. weigh(model, rows) -> rows may
    give a batch's rows other weights under the current model, and add rows. Steps are logged in
    `directory`/train.csv; a killed run goes on from state.safetensors there.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=0.0, fused=True)
    steps = batch_schedule(len(rows), epochs, batch, seed)
    state, log = directory / "state.safetensors", directory / "train.csv"
    first = load_state(state, parameters, optimizer) if state.exists() else 0
    start_log(log, first)
    model.train()
    saved, seconds_to_save = time.perf_counter(), 0.0
    bar = parallel.bar(len(steps) - first, f"train {directory.name}", "step")
    for step in range(first, len(steps)):
        start = time.perf_counter()
        chosen = [rows[i] for i in steps[step]]
        for i, row in zip(steps[step], chosen):
            row.dropout_seed = hash((seed, step, i))  # of numbers, so every process has the same
        if weigh:
            model.eval()  # without dropout
            chosen = weigh(model, chosen)
            model.train()
        loss = accumulate_gradients(model, chosen, micro_tokens, dropout)
        # The state is saved every ten seconds, or so seldom that it takes a twentieth of the time.
        late = parallel.is_main and start - saved > max(10, 20 * seconds_to_save)
        loss, late = parallel.all_reduce([loss, late])
        rate = learning_rate(step, len(steps), lr)
        norm = update(optimizer, parameters.values(), rate)
        if not math.isfinite(loss + norm):
            what = f"step {step + 1}: loss {loss}, gradient norm {norm}"
            raise InputError(f"{directory}: {what}; try a lower --lr or --dtype float32")
        tokens, seconds = sum(map(len, chosen)), time.perf_counter() - start
        trained["tokens"] += tokens
        trained["seconds"] += seconds
        if parallel.is_main:
            with open(log, "a") as file:
                line = f"{step + 1},{loss:.6f},{rate:.3e},{norm:.5f},{tokens},{seconds:.3f}"
                print(line, file=file)
        bar.set_postfix_str(f"loss {loss:.3f}, {tokens / seconds:.0f} tokens/s", refresh=False)
        bar.update()
        if late:
            saved = time.perf_counter()
            save_state(state, parameters, optimizer, step + 1)
            seconds_to_save = time.perf_counter() - saved
    bar.close()
    model.eval()


def update(optimizer, parameters, rate):
    """A step of the optimiser on the sum of all processes' gradients; returns their norm."""
    parallel.sum_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return parallel.full_tensor(norm).item()


def start_log(path, step):
    """The file with its header and the lines of the first `step` steps."""
    lines = path.read_text().splitlines()[1 : step + 1] if path.exists() else []
    if parallel.is_main:
        write_text(path, "\n".join([COLUMNS, *lines, ""]))


def save_state(path, parameters, optimizer, step):
    """Write trained weights and AdamW's moments, with the step as metadata."""
    tensors = {}
    for name, p in parameters.items():
        moments = optimizer.state[p]
        parts = {"": p.detach(), ":m": moments["exp_avg"], ":v": moments["exp_avg_sq"]}
        for part, tensor in parts.items():
            tensors[name + part] = parallel.full_tensor(tensor).cpu()
    if parallel.is_main:
        with replace(path) as temporary:
            write_tensors(temporary, tensors, {"step": str(step)})


def load_state(path, parameters, optimizer):
    """Fill weights and moments from `path`; return the step after which it was saved."""
    with safetensors.safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        for name, p in parameters.items():
            weight, m, v = (file.get_tensor(name + part) for part in ("", ":m", ":v"))
            p.data.copy_(parallel.place(p, weight))
            optimizer.state[p] = {
                "step": torch.tensor(float(step), device=p.device),
                "exp_avg": parallel.place(p, m),
                "exp_avg_sq": parallel.place(p, v),
            }
    return step
