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
from tqdm import tqdm

import parallel
from files import InputError
from model import causal_attention, repeat_heads

BLOCK = 64  # tokens by which the cache grows
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
    """One prompt in flight; `length` of its tokens are in the cache."""

    index: int
    prompt: list
    length: int
    random: np.random.Generator
    ids: list = field(default_factory=list)
    logprob: float = 0.0
    done: bool = False

    def response(self, tokenizer):
        stopped = self.ids[-1] in tokenizer.stop_ids
        text = tokenizer.decode(self.ids[:-1] if stopped else self.ids)
        return Response(self.ids, text, "stop" if stopped else "length", self.logprob)


# The cache


class Cache:
    """Keys and values of the rows in flight, the row with most tokens first.

    In each layer, groups of consecutive rows are contiguous tensors (2, rows, KV, capacity, hd),
    hardly longer than their longest row. On a CPU 32 rows are a group: attention over 256 rows
    takes 2.6 times as long with a single one.
    """

    def __init__(self, model, max_batch):
        config = model.config
        self.device, self.dtype = model.device, model.compute_dtype
        self.heads, self.head_dim = config.num_key_value_heads, config.head_dim
        self.group_size = 32 if model.device.type == "cpu" else max_batch
        self.layers = [[] for _ in range(config.num_hidden_layers)]  # groups of each
        self.room = 0  # tokens that every row can still take
        self.graph = None  # on CUDA: the decoding step over these tensors

    def rows(self, layer):
        """Views (2, KV, capacity, hd), one a row."""
        groups = [group.unbind(1) for group in self.layers[layer]]
        return list(itertools.chain.from_iterable(groups))

    def rearrange(self, keep, lengths):
        """Rows `keep` become rows 0, 1, …, and new ones follow.

        lengths: tokens of all of them, longest first. What a row does not hold yet is 0.
        """
        self.room = BLOCK - lengths[0] % BLOCK
        self.graph = None
        shapes = []
        for first in range(0, len(lengths), self.group_size):
            rows = len(lengths[first : first + self.group_size])
            capacity = round_up(lengths[first] + self.room, 32)
            shapes.append((2, rows, self.heads, capacity, self.head_dim))
        for layer in range(len(self.layers)):
            before = self.rows(layer)
            groups = [torch.zeros(s, dtype=self.dtype, device=self.device) for s in shapes]
            self.layers[layer] = groups
            for new, old, length in zip(self.rows(layer), keep, lengths):
                new[:, :, :length] = before[old][:, :, :length]


def round_up(n, to):
    return math.ceil(n / to) * to


def default_max_batch(model, longest):
    """Rows that a quarter of the free memory holds: at most 256, on CUDA 1,024."""
    config = model.config
    heads = 2 * config.num_hidden_layers * config.num_key_value_heads
    row = heads * config.head_dim * round_up(longest, BLOCK) * model.compute_dtype.itemsize
    most = 1024 if model.device.type == "cuda" else 256
    return max(1, min(most, parallel.free_memory() // 4 // row))


def prefill(model, cache, first, prompts):
    """Read prompts into the cache's rows first, first + 1, …; hidden states (n, d) at their ends."""
    lengths = [len(prompt) for prompt in prompts]
    T = max(lengths)
    padded = [prompt + [0] * (T - len(prompt)) for prompt in prompts]  # causal: never looked at
    ids = torch.tensor(padded, device=model.device)

    def attend(layer, q, k, v):  # q (n, H, T, hd), k and v (n, KV, T, hd)
        rows = cache.rows(layer)[first:]
        for row, length, keys, values in zip(rows, lengths, k, v):
            row[0, :, :length] = keys[:, :length]
            row[1, :, :length] = values[:, :length]
        return causal_attention(q, k, v, model.config.sliding_window[layer])

    h = model.hidden(ids, attend=attend)
    return h[range(len(prompts)), [length - 1 for length in lengths]]


def decode(model, cache, tokens, lengths):
    """Add one token to every row: tokens, lengths (R,) int64 -> hidden states (R, d)."""
    places = lengths.split(cache.group_size)
    windows = model.config.sliding_window
    biases = {}  # of each window, for each group (rows, 1, 1, capacity): 0 or -inf
    for window in {*windows}:
        biases[window] = []
        for group, at in zip(cache.layers[0], places):
            distance = at[:, None] - torch.arange(group.shape[3], device=at.device)
            visible = (distance >= 0) & (distance < (window or math.inf))
            bias = torch.where(visible, 0, -math.inf).to(cache.dtype)
            biases[window].append(bias[:, None, None])

    def attend(layer, q, k, v):  # q (R, H, 1, hd), k and v (R, KV, 1, hd)
        heads = (q * cache.head_dim**-0.5).reshape(len(q), cache.heads, -1, cache.head_dim)
        split = [t.split(cache.group_size) for t in (heads, k[:, :, 0], v[:, :, 0])]
        out = []
        groups = zip(cache.layers[layer], places, biases[windows[layer]], *split)
        for (keys, values), at, bias, q_group, k_group, v_group in groups:
            rows = torch.arange(len(at), device=at.device)
            keys[rows, :, at] = k_group
            values[rows, :, at] = v_group
            scores = q_group @ keys.transpose(2, 3) + bias  # (rows, KV, H / KV, capacity)
            out.append(scores.softmax(-1) @ values)
        return torch.cat(out).view(q.shape)

    return model.hidden(tokens[:, None], lengths[:, None], attend)[:, 0]


def decode_step(model, cache, tokens, lengths):
    """`decode` of lists; on CUDA a recorded graph, for launches take longer than kernels."""
    given = torch.tensor([tokens, lengths], device=model.device)
    if model.device.type != "cuda" or parallel.is_distributed(model.lm_head.weight):
        return decode(model, cache, *given)
    if cache.graph is None:
        cache.given = given.clone()
        decode(model, cache, *cache.given)  # kernels are chosen before the recording
        torch.cuda.synchronize()
        cache.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(cache.graph):
            cache.out = decode(model, cache, *cache.given)
    cache.given.copy_(given)
    cache.graph.replay()
    return cache.out


# Generation


def sample_token(logits, temperature, uniform):
    """Next tokens (R,) from logits (R, vocab) and random numbers (R,) in [0, 1); 0 is greedy."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
    u = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None]
    tokens = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)[:, 0]
    return tokens.clamp(max=logits.shape[-1] - 1)


class Batch:
    """The rows in flight of one `generate`, in the order of the cache."""

    def __init__(self, model, max_batch, waiting):
        self.model, self.max_batch = model, max_batch
        self.cache = Cache(model, max_batch)
        self.waiting = collections.deque(waiting)
        self.rows = []
        self.unread = []  # rows whose prompts are not in the cache yet

    def live(self):
        return [row for row in self.rows if not row.done]

    def make_room(self):
        """Give free places to waiting rows, drop ended rows, and let the cache grow."""
        live, new = self.live(), []
        free = self.max_batch - len(live)
        if free >= self.max_batch / 8 and not self.unread:  # several prompts are read together
            new = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        ended = len(self.rows) - len(live)
        if new or (live and (ended > len(self.rows) / 8 or self.cache.room == 0)):
            keep = [i for i, row in enumerate(self.rows) if not row.done]
            self.rows = live + new
            self.unread += new
            self.cache.rearrange(keep, [row.length for row in self.rows])

    def step(self):
        """One forward pass: read some prompts, or add a token to every row.

        Returns [(rows, their hidden states (rows, d))], which the next tokens come from.
        """
        self.make_room()
        if self.unread:
            group, self.unread = self.unread[:PREFILL], self.unread[PREFILL:]
            first = self.rows.index(group[0])
            return [(group, prefill(self.model, self.cache, first, [r.prompt for r in group]))]
        live = self.live()
        if not live:
            idle_pass(self.model)
            return []
        tokens, lengths = [row.ids[-1] for row in self.rows], [row.length for row in self.rows]
        h = decode_step(self.model, self.cache, tokens, lengths)
        h = h[[i for i, row in enumerate(self.rows) if not row.done]]
        self.cache.room -= 1
        for row in live:
            row.length += 1
        # The logits of 128 rows reuse memory that those of more would have to ask for.
        return [(live[i : i + 128], h[i : i + 128]) for i in range(0, len(live), 128)]


def idle_pass(model):
    """A pass that counts for nothing, beside those of other processes."""
    model.hidden(torch.zeros(1, 1, dtype=torch.long, device=model.device))


@torch.inference_mode()
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
    check_lengths(prompts, max_new_tokens, model)
    waiting = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        random = np.random.default_rng([seed, *prompts[i]])
        waiting.append(Row(i, prompts[i], len(prompts[i]), random))
    longest = max(map(len, prompts), default=0) + max_new_tokens
    max_batch = min(max_batch or default_max_batch(model, longest), max(1, len(prompts)))
    batch = Batch(model, max_batch, waiting)
    responses = [None] * len(prompts)
    start, written = time.perf_counter(), 0
    silent = progress is None or not parallel.is_main
    bar = tqdm(total=len(prompts), desc=progress, unit="prompt", disable=silent)
    while parallel.most(len(batch.waiting) + len(batch.live()), model):
        for rows, h in batch.step():
            logits = model.head(h)  # (rows, vocab) float32
            uniform = [row.random.random() for row in rows] if temperature else []
            tokens = sample_token(logits, temperature, uniform)
            logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist()):
                row.ids.append(token)
                row.logprob += logprob
                row.done = token in tokenizer.stop_ids or len(row.ids) == max_new_tokens
            written += len(rows)
            rate = written / max(time.perf_counter() - start, 0.01)
            bar.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
            for row in rows:
                if row.done:
                    row.length = 0  # where it writes until its place is taken
                    responses[row.index] = row.response(tokenizer)
                    on_done(row.index, responses[row.index])
                    bar.update()
    bar.close()
    return responses


def check_lengths(prompts, new_tokens, model):
    most = model.config.max_position_embeddings
    for i, prompt in enumerate(prompts):
        if not prompt or len(prompt) + new_tokens > most:
            what = f"prompt {i} has {len(prompt)} tokens, and {new_tokens} follow"
            raise InputError(f"{what}; the model takes 1 to {most}: shorten it or leave it out")


# Scoring


def shared_beginning(a, b):
    return len(os.path.commonprefix([a, b]))  # of lists too, whatever its name


def passes(texts, budget):
    """Numbers of the texts, in groups of about `budget` tokens.

    They are in alphabetical order: neighbours share their beginnings, which count once.
    """
    groups, before, room = [], [], 0
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        new = len(texts[i]) - shared_beginning(before, texts[i])
        if new > room:
            groups.append([])
            new = len(texts[i])
            room = max(budget, 4 * new)  # a long beginning is read once for several texts
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
        path = path[:shared] + list(range(len(ids), len(ids) + len(text) - shared))
        ids += text[shared:]
        places.append(torch.tensor(path))
        before = text
    depth = torch.zeros(len(ids), dtype=torch.long)
    visible = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    for place in places:
        depth[place] = torch.arange(len(place))
        visible[place[:, None], place] = torch.ones(len(place), len(place), dtype=torch.bool).tril()
    distance = depth[:, None] - depth
    windows = model.config.sliding_window
    masks = {w: (visible & (distance < (w or math.inf))).to(model.device) for w in {*windows}}

    def attend(layer, q, k, v):  # q (1, H, T, hd), k and v (1, KV, T, hd)
        mask = masks[windows[layer]]
        return F.scaled_dot_product_attention(q, *repeat_heads(q, k, v), attn_mask=mask)

    ids = torch.tensor(ids, device=model.device)
    return model.hidden(ids[None], depth[None].to(model.device), attend)[0], places


@torch.inference_mode()
def logprobs(model, prompts, continuations):
    """log p(continuation | prompt) of each pair of token-id lists: a sum over its tokens, natural.

    InputError if a pair does not fit the model.
    """
    texts = [p + c[:-1] for p, c in zip(prompts, continuations)]
    most = model.config.max_position_embeddings
    for i, text in enumerate(texts):
        if not prompts[i] or len(text) > most:
            raise InputError(f"pair {i} has {len(text) + 1} tokens; shorten it to 2 to {most + 1}")
    out = [0.0] * len(texts)
    budget = 1024 if model.device.type == "cpu" else 4096
    for group in parallel.in_step(passes(texts, budget), model):
        if group is None:
            idle_pass(model)
            continue
        h, places = read_texts(model, [texts[i] for i in group])
        for i, place in zip(group, places):
            states = h[place[len(prompts[i]) - 1 :].to(h.device)]
            targets = torch.tensor(continuations[i], dtype=torch.long, device=h.device)
            losses = F.cross_entropy(model.head(states), targets, reduction="none")
            out[i] = -losses.double().sum().item()
    return out
