"""Batched generation with a key-value cache, and log-probabilities of given text.

    responses = generate(model, tokenizer, prompts, max_new_tokens=256)  # lists of token ids
    sums = logprobs(model, prompts, continuations)  # log p(continuation | prompt), natural log

`generate` keeps up to `max_batch` rows in flight. Every pass adds a token to each of them, or reads
new prompts, longest first, in the place of rows that ended.
Shapes: R rows, T tokens, H heads, KV key-value heads, hd head size, d hidden size.
"""

import collections
import itertools
import math
import os
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import kernels
import parallel
from files import InputError
from model import causal_attention, repeat_heads

BLOCK = 64  # the cache is read in multiples of so many places
PREFILL = 16  # prompts that one pass reads: of similar length, so that little is padding


class Response(NamedTuple):
    """ids: sampled tokens, the end token included. text: decoded, special tokens left out.
    finish_reason: "stop" or "length". logprob: log p(ids | prompt) at temperature 1."""

    ids: list
    text: str
    finish_reason: str
    logprob: float


@dataclass(eq=False)
class Row:
    """One prompt in flight. The cache holds its first `length` tokens once the prompt is read."""

    index: int
    prompt: list
    random: np.random.Generator
    length: int
    ids: list = field(default_factory=list)
    logprob: float = 0.0
    done: bool = False

    def response(self, tokenizer):
        stopped = self.ids[-1] in tokenizer.stop_ids
        text = tokenizer.decode(self.ids[:-1] if stopped else self.ids)
        return Response(self.ids, text, "stop" if stopped else "length", self.logprob)


# Generation


class Batch:
    """The rows in flight. Row i has place i of the cache (layers, 2, rows, KV, capacity, hd)."""

    def __init__(self, model, max_batch, longest, waiting):
        config = model.config
        self.model, self.max_batch = model, max_batch
        self.waiting = collections.deque(waiting)
        self.rows = []
        self.unread = []  # the last of them, whose prompts are not in the cache yet
        shape = [config.num_hidden_layers, 2, max_batch, config.num_key_value_heads]
        shape += [round_up(longest, BLOCK), config.head_dim]
        self.cache = torch.zeros(shape, dtype=model.compute_dtype, device=model.device)
        self.graph, self.recorded = None, None  # on CUDA: a decoding step, and its sizes

    def refill(self):
        """The last row takes the place of one that ended; waiting rows take what is free."""
        for place in reversed(range(len(self.rows))):
            if self.rows[place].done:
                last = self.rows.pop()
                if not last.done:
                    used = self.cache[:, :, :, :, : last.length]
                    used[:, :, place] = used[:, :, len(self.rows)]
                    self.rows[place] = last
        free = self.max_batch - len(self.rows)
        if free >= self.max_batch / 8:  # several prompts are read together
            self.unread = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
            self.rows += self.unread

    def step(self):
        """One forward pass: read some prompts, or add a token to every row.

        Returns [(rows, their hidden states (rows, d))], which the next tokens come from.
        """
        if not self.unread:
            self.refill()
        if self.unread:
            rows, self.unread = self.unread[:PREFILL], self.unread[PREFILL:]
            return [(rows, self.prefill(rows))]
        if not self.rows:
            idle_pass(self.model)
            return []
        tokens = [row.ids[-1] for row in self.rows]
        lengths = [row.length for row in self.rows]
        h = self.decode(tokens, lengths)
        for row in self.rows:
            row.length += 1
        # The logits of 128 rows reuse memory that those of more would have to ask for.
        parts = range(0, len(self.rows), 128)
        return [(self.rows[i : i + 128], h[i : i + 128]) for i in parts]

    def prefill(self, rows):
        """Read the prompts of rows; hidden states (n, d) at their ends."""
        longest = max(row.length for row in rows)
        ids = [row.prompt + [0] * (longest - row.length) for row in rows]  # padding is not seen
        first = self.rows.index(rows[0])
        places = self.cache[:, :, first : first + len(rows), :, :longest]

        def attend(layer, q, k, v):  # q (n, H, T, hd), k and v (n, KV, T, hd)
            places[layer, 0], places[layer, 1] = k, v
            return causal_attention(q, k, v, self.model.config.sliding_window[layer])

        h = self.model.hidden(torch.tensor(ids, device=self.model.device), attend=attend)
        return h[range(len(rows)), [row.length - 1 for row in rows]]

    def decode(self, tokens, lengths):
        """Add a token to every row: lists -> hidden states (R, d).

        On CUDA the step is a recorded graph: launching its kernels takes longer than running them.
        It is recorded anew when the rows cross a multiple of 64, or the longest one of BLOCK.
        """
        n, capacity = len(tokens), round_up(max(lengths) + 1, BLOCK)
        if self.model.device.type != "cuda" or parallel.together:
            given = torch.tensor([tokens, lengths], device=self.model.device)
            return self.decode_eagerly(given, capacity)
        sizes = min(self.max_batch, round_up(n, 64)), capacity
        padding = [0] * (sizes[0] - n)  # writes in places that no row has
        given = torch.tensor([tokens + padding, lengths + padding], device=self.model.device)
        if self.recorded != sizes:
            self.given = given
            self.decode_eagerly(given, capacity)  # kernels are chosen before the recording
            torch.cuda.synchronize()
            self.graph, self.recorded = torch.cuda.CUDAGraph(), sizes
            with torch.cuda.graph(self.graph):
                self.out = self.decode_eagerly(self.given, capacity)
        self.given.copy_(given)
        self.graph.replay()
        return self.out[:n]

    def decode_eagerly(self, given, capacity):
        tokens, lengths = given
        windows = self.model.config.sliding_window
        seen = {window: kernels.visible(lengths, capacity, window) for window in {*windows}}
        cache = self.cache[:, :, : len(tokens), :, :capacity]

        def attend(layer, q, k, v):  # q (R, H, 1, hd), k and v (R, KV, 1, hd)
            q = q.unflatten(1, (k.shape[1], -1))[:, :, :, 0]  # (R, KV, H / KV, hd)
            window = windows[layer]
            sees = lengths, window, seen[window]
            given = q, k[:, :, 0], v[:, :, 0], *cache[layer], *sees
            y = kernels.attend(self.model.kernels, *given)
            return y.flatten(1, 2)[:, :, None]

        return self.model.hidden(tokens[:, None], lengths[:, None], attend)[:, 0]


def round_up(n, to):
    return math.ceil(n / to) * to


def default_max_batch(model, longest):
    """Rows that a quarter of the free memory holds: at most 256, on CUDA 1,024."""
    config = model.config
    heads = 2 * config.num_hidden_layers * config.num_key_value_heads
    row = heads * config.head_dim * round_up(longest, BLOCK) * model.compute_dtype.itemsize
    most = 1024 if model.device.type == "cuda" else 256
    return max(1, min(most, parallel.free_memory() // 4 // row))


def idle_pass(model):
    """A pass that counts for nothing, beside those of other processes."""
    model.hidden(torch.zeros(1, 1, dtype=torch.long, device=model.device))


def sample_token(logits, temperature, uniform):
    """Next tokens (R,) from logits (R, vocab) and random numbers (R,) in [0, 1); 0 is greedy."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
    u = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None]
    return (cumulative <= u * cumulative[:, -1:]).sum(-1)


def make_rows(prompts, most, max_new_tokens, seed):
    """A Row a prompt, longest first. InputError if one is empty, or does not fit the model."""
    rows = []
    for i, prompt in enumerate(prompts):
        if not prompt or len(prompt) + max_new_tokens > most:
            what = f"prompt {i} has {len(prompt)} tokens, and {max_new_tokens} follow"
            raise InputError(f"{what}; the model takes 1 to {most}: shorten it or leave it out")
        random = np.random.default_rng([seed, *prompt])
        rows.append(Row(i, prompt, random, len(prompt)))
    return sorted(rows, key=lambda row: -row.length)


@torch.no_grad()
def generate(
    model,
    tokenizer,
    prompts,
    max_new_tokens,
    temperature=0.0,
    seed=0,
    max_batch=None,
    on_done=lambda index, response: None,
    progress=None,
):
    """One Response a prompt, in the order of `prompts` (lists of token ids). 0 is greedy.

    A sample depends on (seed, prompt, step) alone, not on its company; equal prompts get equal
    samples. on_done(index, response) is called as soon as a response is there; `progress` names
    a bar. InputError if a prompt and max_new_tokens do not fit the model.
    """
    rows = make_rows(prompts, model.config.max_position_embeddings, max_new_tokens, seed)
    longest = max(map(len, prompts), default=0) + max_new_tokens
    max_batch = min(max_batch or default_max_batch(model, longest), max(1, len(prompts)))
    batch = Batch(model, max_batch, longest, rows)
    responses = [None] * len(prompts)
    start, written = time.perf_counter(), 0
    bar = parallel.bar(len(prompts), progress, "prompt")
    while parallel.most(len(batch.waiting) + sum(not row.done for row in batch.rows)):
        for rows, h in batch.step():
            logits = model.head(h)  # (rows, vocab) float32
            uniform = [row.random.random() for row in rows] if temperature else []
            tokens = sample_token(logits, temperature, uniform)
            logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist()):
                row.ids.append(token)
                row.logprob += logprob
                if token in tokenizer.stop_ids or len(row.ids) == max_new_tokens:
                    row.done = True
                    responses[row.index] = row.response(tokenizer)
                    on_done(row.index, responses[row.index])
                    bar.update()
            written += len(rows)
            rate = written / (time.perf_counter() - start)
            bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
    bar.close()
    return responses


# Scoring


def shared_beginning(a, b):
    return len(os.path.commonprefix([a, b]))  # of lists too, whatever its name


def passes(texts, budget):
    """Indices of the texts, in groups of about `budget` tokens.

    They are in lexicographic order: neighbours share their beginnings, which count once.
    """
    groups, before, room = [], [], 0
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        new = len(texts[i]) - shared_beginning(before, texts[i])
        if new > room:
            groups.append([])
            new = len(texts[i])
            room = max(budget, 2 * new)  # a long beginning is read once for several texts
        groups[-1].append(i)
        room -= new
        before = texts[i]
    return groups


def read_texts(model, texts):
    """Hidden states (T, d) of texts read as one row, and each text's places in them.

    What neighbours share is read once; a token sees those before it in its own text.
    """
    ids, places, before, path = [], [], [], []
    for text in texts:
        shared = shared_beginning(before, text)
        read = len(ids)
        ids += text[shared:]
        path = path[:shared] + [*range(read, len(ids))]
        places.append(torch.tensor(path))
        before = text
    depth = torch.zeros(len(ids), dtype=torch.long)
    visible = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for place in places:
        depth[place] = torch.arange(len(place))
        visible[place[:, None], place] = place[:, None] >= place
    distance = depth[:, None] - depth
    windows = model.config.sliding_window
    masks = {}
    for window in {*windows}:
        within = distance < (window or math.inf)
        bias = torch.where(visible & within, 0, -math.inf)
        masks[window] = bias.to(model.device, model.compute_dtype)

    def attend(layer, q, k, v):  # q (1, H, T, hd), k and v (1, KV, T, hd)
        mask = masks[windows[layer]]
        return F.scaled_dot_product_attention(q, *repeat_heads(q, k, v), attn_mask=mask)

    ids = torch.tensor(ids, device=model.device)
    return model.hidden(ids[None], depth[None].to(model.device), attend)[0], places


def logprobs(model, prompts, continuations):
    """log p(continuation | prompt) of each pair of token-id lists: a sum over its tokens, natural.

    InputError if a pair does not fit the model.
    """
    found = token_values(model, prompts, continuations, token_logprobs)
    return [values.double().sum().item() for values in found]


def token_logprobs(logits, targets):
    """log p of each target token. logits (n, vocab), targets (n,)."""
    return -F.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def token_values(model, prompts, continuations, value):
    """For each pair of token-id lists a tensor of value(logits, targets) of the continuation.

    logits (n, vocab) of n tokens, targets (n,) their ids. InputError if a pair does not fit.
    """
    texts = [p + c[:-1] for p, c in zip(prompts, continuations)]
    most = model.config.max_position_embeddings
    for i, text in enumerate(texts):
        if not prompts[i] or len(text) > most:
            raise InputError(f"pair {i} has {len(text) + 1} tokens; shorten it to 2 to {most + 1}")
    out = [None] * len(texts)
    budget = 768 if model.device.type == "cpu" else 4096  # attention grows with its square
    for group in parallel.in_step(passes(texts, budget)):
        if group is None:
            idle_pass(model)
            continue
        h, places = read_texts(model, [texts[i] for i in group])
        lengths = [len(continuations[i]) for i in group]
        predicting = [place[len(place) - n :] for place, n in zip(places, lengths)]
        targets = torch.tensor([*itertools.chain(*(continuations[i] for i in group))])
        values = []
        for at, target in zip(torch.cat(predicting).split(128), targets.split(128)):
            logits = model.head(h[at.to(h.device)])
            values.append(value(logits, target.to(h.device)))
        for i, own in zip(group, torch.cat(values).split(lengths)):
            out[i] = own
    return out
