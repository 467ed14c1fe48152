"""Batched generation with a key-value cache, and log-probabilities of given text.

    responses = generate(model, tokenizer, prompts, max_new_tokens=256)     # prompts: lists of token ids, any lengths
    sums = logprobs(model, prompts, continuations)                          # log p(continuation | prompt), natural log

`generate` keeps a number of rows ("slots") in flight: what all prompts begin with is read once, the rest longest first and several
at a time; every step adds one token to each live row, and new prompts take the place of finished ones. Not covered: beam search,
penalties, speculative decoding. Tasks, judges and training are elsewhere.
"""
import itertools
import math
import os
import sys
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import parallel
from files import InputError
from model import causal_attention, text_key

BLOCK = 64  # the cache's capacity is a multiple of this many positions


class Response(NamedTuple):
    """ids: sampled tokens, the end token included; text: decoded, special tokens left out; finish: "stop" or "length";
    logprob: log p(ids | prompt) under the model at temperature 1."""
    ids: list
    text: str
    finish: str
    logprob: float


@dataclass
class Row:
    """One prompt in flight. `length`: its tokens in the cache; `uniform`: its random numbers, one a step."""
    index: int
    length: int
    uniform: list
    ids: list = field(default_factory=list)
    logprob: float = 0.0
    done: bool = False


class Cache:
    """Keys and values of the rows in flight, the row with most tokens first.

    Consecutive rows form groups of `size` (on CUDA one group), in each layer a contiguous tensor (2, rows, KV, capacity, hd) hardly
    longer than its longest row: products over it need no copy and read little that is masked (NOTES.md, "Cache layout"). All of it
    lies in one buffer allocated beforehand for `slots` rows of `longest` tokens.
    """

    def __init__(self, model, slots, longest):
        c = model.config
        self.layers, self.heads, self.head_dim = c.num_layers, c.num_kv_heads, c.head_dim
        self.groups = ()                                                     # (rows, capacity) of each
        self.size = slots if model.device.type == "cuda" else 32
        shape = self.layers, 2 * slots * self.heads * round_up(longest) * self.head_dim
        self.buffer = torch.zeros(shape, dtype=model.compute_dtype, device=model.device)
        self.spare = torch.empty_like(self.buffer[0])                        # where a layer's rows wait while they move

    def __getitem__(self, layer):
        return self.views(self.buffer[layer], self.groups)

    def views(self, buffer, groups):
        """[keys and values (2, rows, KV, capacity, hd)] of `groups` [(rows, capacity)], laid end to end in a layer's buffer."""
        shapes = [(2, rows, self.heads, capacity, self.head_dim) for rows, capacity in groups]
        ends = list(itertools.accumulate(map(math.prod, shapes), initial=0))
        return [buffer[a:b].view(shape) for shape, a, b in zip(shapes, ends, ends[1:])]

    def resize(self, keep, lengths):
        """Rows `keep`, in this order, become rows 0, 1, … of len(lengths) rows, longest first, which hold so many tokens.

        There is room in each for as many more, up to where the longest reaches a multiple of BLOCK. Capacities are multiples of 32,
        which the kernels like. What else the groups hold is left over and finite: attention gives it weight 0, and 0 · NaN is NaN.
        """
        room = round_up(lengths[0] + 1) - lengths[0]
        after = tuple((len(lengths[i:i + self.size]), round_up(lengths[i] + room, 32)) for i in range(0, len(lengths), self.size))
        runs = itertools.groupby(enumerate(keep), lambda pair: (pair[0] // self.size, pair[1] // self.size))
        runs = [(groups, list(pairs)) for groups, pairs in runs]             # rows that go from one group to one other together
        used = 2 * self.heads * self.head_dim * sum(rows * capacity for rows, capacity in self.groups)
        for layer in self.buffer if keep else ():
            old, new = self.views(self.spare[:used].copy_(layer[:used]), self.groups), self.views(layer, after)
            for (to, of), pairs in runs:
                first, n, rows = pairs[0][0] % self.size, lengths[pairs[0][0]], [i % self.size for _, i in pairs]
                new[to][:, first:first + len(pairs), :, :n] = old[of][:, rows, :, :n]
        self.groups = after


def round_up(n, to=BLOCK):
    return math.ceil(n / to) * to


def default_slots(model, longest):
    """Rows in flight: what a quarter of the free memory holds, at most 256, on CUDA 1,024 (NOTES.md, "256 slots" and "On a GPU")."""
    c = model.config
    row = 2 * c.num_layers * c.num_kv_heads * c.head_dim * round_up(longest) * model.compute_dtype.itemsize
    return max(1, min(1024 if model.device.type == "cuda" else 256, parallel.free_memory(model.device) // 4 // row))


def prefill(model, cache, first, prompts, shared=()):
    """Read `prompts` into the cache's rows first, first + 1, … of one group; hidden states (n, d) at their last tokens.

    shared: keys and values (2, KV, P, hd) a layer of the P tokens with which all of them begin, where these are known.
    """
    n, T, P = len(prompts), max(map(len, prompts)), shared[0].shape[2] if shared else 0
    group = [cache[layer][first // cache.size] for layer in range(cache.layers)]
    ids = torch.tensor([p[P:] + [0] * (T - len(p)) for p in prompts], device=model.device)  # (n, T - P), padded on the right,

    def attend(layer, q, k, v):                                              # where causal attention never looks
        kv = torch.stack([k, v])                                             # (2, n, KV, T - P, hd)
        if shared:
            kv = torch.cat([shared[layer][:, None].expand(-1, n, -1, -1, -1), kv], dim=3)
        group[layer][:, first % cache.size:][:, :n, :, :T] = kv
        return causal_attention(q, *kv, model.config.windows[layer])
    h = model.hidden(ids, torch.arange(P, T, device=model.device)[None], attend)            # (n, T - P, d)
    last = torch.tensor([len(p) - 1 - P for p in prompts], device=model.device)
    return h[torch.arange(n, device=model.device), last]


def read_shared(model, cache, prompts):
    """Keys and values (2, KV, P, hd) a layer of the tokens with which all prompts begin; each prompt keeps one of its own."""
    P = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)  # of lists too, whatever its name
    if len(prompts) == 1 or P == 0:
        return ()
    cache.resize([], [P])
    prefill(model, cache, 0, [prompts[0][:P]])
    return [cache[layer][0][:, 0, :, :P].clone() for layer in range(cache.layers)]


def decode(model, cache, tokens, lengths):
    """Add one token to every row: tokens, lengths (R,) int64 -> hidden states (R, d)."""
    places = []                                                              # of each group: its rows, their lengths, biases by window
    for (n, capacity), at in zip(cache.groups, lengths.split(cache.size)):
        distance = at[:, None] - torch.arange(capacity, device=model.device)                                # (n, capacity)
        places.append((torch.arange(n, device=model.device), at, {w: torch.where(
            (distance >= 0) & (distance < (w or math.inf)), 0, -math.inf).to(model.compute_dtype)[:, None, None]
            for w in set(model.config.windows)}))

    def attend(layer, q, k, v):                                              # q (R, H, 1, hd), k and v (R, KV, 1, hd)
        kv, y = torch.cat([k, v], dim=2).transpose(1, 2), []                 # (R, 2, KV, hd)
        heads = (q * cache.head_dim ** -0.5).view(len(q), cache.heads, -1, cache.head_dim)                  # (R, KV, H / KV, hd)
        for group, (rows, at, biases), q_n, kv_n in zip(cache[layer], places, heads.split(cache.size), kv.split(cache.size)):
            group[:, rows, :, at] = kv_n
            keys, values = group                                             # (n, KV, capacity, hd)
            scores = q_n @ keys.transpose(2, 3) + biases[model.config.windows[layer]]                       # (n, KV, H / KV, capacity)
            y.append(scores.softmax(-1) @ values)
        return torch.cat(y).view(q.shape)
    return model.hidden(tokens[:, None], lengths[:, None], attend)[:, 0]


class Decoder:
    """`decode` for lists of tokens and lengths; on CUDA as a graph for each size of the cache, since the kernels of a small model
    take less time than their launch."""

    def __init__(self, model, cache):
        self.model, self.cache, self.graphs = model, cache, {}

    def __call__(self, tokens, lengths):
        given, key = torch.tensor([tokens, lengths], device=self.model.device), self.cache.groups
        if self.model.device.type != "cuda":
            return decode(self.model, self.cache, *given)
        if key not in self.graphs:
            static, graph, pool = given.clone(), torch.cuda.CUDAGraph(), next((g.pool() for g, *_ in self.graphs.values()), None)
            decode(self.model, self.cache, *static)                          # kernels are chosen before they are recorded; a step
            torch.cuda.synchronize()                                         # done twice writes the same keys and values
            with torch.cuda.graph(graph, pool=pool):
                h = decode(self.model, self.cache, *static)
            self.graphs[key] = graph, static, h
        graph, static, h = self.graphs[key]
        static.copy_(given)
        graph.replay()
        return h


def choose(logits, temperature, uniform):
    """Next tokens (R,) from logits (R, vocab): the largest at temperature 0, else by inverting the distribution at `uniform` (R,)."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).double().cumsum(-1)
    u = torch.tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


def random_numbers(seed, prompt, n):
    """n numbers in [0, 1), a function of the seed and the prompt's tokens."""
    return np.random.Generator(np.random.Philox(key=text_key(seed, prompt))).random(n).tolist()


@torch.inference_mode()
def generate(model, tokenizer, prompts, max_new_tokens, temperature=0.0, seed=0, slots=None, on_done=None, progress=None, share=False):
    """One Response a prompt, in the order of `prompts` (lists of token ids). temperature 0 is greedy.

    A sample is a function of (seed, prompt, step): it does not depend on slots, order or company; equal prompts get equal
    samples, so vary `seed` for several. `on_done(index, response)` is called as soon as a response is known; `progress` names
    a progress bar. With `share`, the processes of a job divide the prompts, and each has None for those that others answer.
    InputError where a prompt and max_new_tokens do not fit the model's context.
    """
    for i, prompt in enumerate(prompts):
        if not prompt or len(prompt) + max_new_tokens > model.config.context:
            raise InputError(f"prompt {i} has {len(prompt)} tokens; at least 1 is needed, and with {max_new_tokens} new ones at most "
                             f"{model.config.context}, the model's context: shorten it, leave it out or ask for fewer new tokens")
    if not prompts:
        return []
    longest, out, written = max(map(len, prompts)) + max_new_tokens, [None] * len(prompts), 0
    workers = parallel.SIZE // parallel.TEAM if share else 1
    slots = parallel.team_least(min(slots or default_slots(model, longest), math.ceil(len(prompts) / workers)))
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))      # longest first
    queue, taken, done = itertools.chain.from_iterable(parallel.pieces(order, 1, share)), [], parallel.tally(share)
    bar = tqdm(total=len(prompts), desc=progress and f"{progress}, {slots} at once", unit="prompt", disable=progress is None or parallel.RANK > 0)

    def accept(rows, h):
        """The next token of each of `rows` from hidden states h (len(rows), d)."""
        logits = model.head(h)                                               # (rows, vocab) float32
        tokens = choose(logits, temperature, [r.uniform[len(r.ids)] for r in rows])
        logprobs = -logits.sub_(logits.gather(1, tokens[:, None])).exp_().sum(-1).log()  # log p(t) = -log Σ exp(l - l_t)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist()):
            row.ids.append(token)
            row.logprob += logprob
            stop = token in tokenizer.stop_ids
            if stop or len(row.ids) == max_new_tokens:
                row.done, row.length = True, 0                               # until its place is taken, it writes at position 0
                text = tokenizer.decode(row.ids[:-1] if stop else row.ids)
                out[row.index] = Response(row.ids, text, "stop" if stop else "length", row.logprob)
                if on_done:
                    on_done(row.index, out[row.index])

    def answer(queue, slots):
        """Fill `out` at the indices that `queue` gives, with at most `slots` rows at once."""
        nonlocal written, taken
        cache, rows, live = Cache(model, slots, longest), [], []
        step, shared = Decoder(model, cache), read_shared(model, cache, prompts)
        while True:
            # New prompts come when an eighth of the slots is free, so that several are read together.
            free = slots - len(live)
            come = list(itertools.islice(queue, free)) if free >= slots / 8 else []
            if not come and not live:
                return
            taken += come
            new = [Row(i, len(prompts[i]), random_numbers(seed, prompts[i], max_new_tokens) if temperature else [0.0] * max_new_tokens)
                   for i in come]
            full = any(r.length >= cache.groups[i // cache.size][1] for i, r in enumerate(rows))
            wide = rows and cache.groups[0][1] - 2 * BLOCK > max(r.length for r in live + new)
            idle = len(rows) - len(live) >= len(rows) / (2 if model.device.type == "cuda" else 8)  # a graph a size: fewer there
            if new or idle or full or wide:
                cache.resize([i for i, r in enumerate(rows) if not r.done], [r.length for r in live + new])
                rows = live + new
            if new:
                starts = [len(live), *range((len(live) // 16 + 1) * 16, len(rows), 16)]  # of like length: 16 hold little padding
                for a, b in zip(starts, [*starts[1:], len(rows)]):
                    accept(rows[a:b], prefill(model, cache, a, [prompts[r.index] for r in rows[a:b]], shared))
            else:
                h = step([r.ids[-1] for r in rows], [r.length for r in rows])
                h = h if len(live) == len(rows) else h[[not r.done for r in rows]]
                for row in live:
                    row.length += 1
                for n in range(0, len(live), 128):                           # logits of more rows would not be reused memory
                    accept(live[n:n + 128], h[n:n + 128])
            written += len(new or live)
            bar.set_postfix_str(f"{written / (bar.format_dict['elapsed'] or 1):.0f} tokens/s", refresh=False)
            if ended := sum(r.done for r in new or live):
                bar.update(done(ended) - bar.n)
            live = [r for r in rows if not r.done]

    with bar:                                                                # it is closed before an error is reported
        while True:
            try:
                answer(queue, slots)
                return out
            except torch.OutOfMemoryError:
                if slots == 1 or parallel.TEAM > 1:                          # a team has to run out of memory together
                    raise InputError(f"a response of {longest} tokens does not fit into the memory; ask for fewer new tokens, or with "
                                     "--tensor-parallel for fewer --slots")
                slots //= 2
                tqdm.write(f"out of memory; {slots} responses at once from here", file=sys.stderr)
                queue, taken = itertools.chain([i for i in taken if out[i] is None], queue), []


# --------------------------------------------------------------------------------------------------------------------- scoring

def passes(texts, budget):
    """A walk through texts (lists of token ids) in alphabetical order, each from where it parts from the one before, cut into
    passes of `budget` tokens: lists of (index, start, stop). A text that a pass breaks off goes on in the next."""
    out, before, room = [], [], 0
    for i in sorted(range(len(texts)), key=texts.__getitem__):
        start = len(os.path.commonprefix([before, texts[i]]))                # of lists too, whatever its name
        before = texts[i]
        while len(texts[i]) - start > room:
            if room:
                out[-1].append((i, start, start + room))
            out.append([])
            start, room = start + room, budget
        out[-1].append((i, start, len(texts[i])))
        room -= len(texts[i]) - start
    return out


@torch.inference_mode()
def logprobs(model, prompts, continuations, progress=None, budget=None):
    """log p(continuation | prompt) of each pair of token-id lists: the sum over the continuation's tokens, natural log.

    What texts share is read once, be it a prompt, examples in context or half an answer: in alphabetical order they are a walk
    through the tree of their beginnings. A pass reads `budget` tokens of the walk (default: 1,024, on CUDA 4,096) as one row, in
    which a token sees those before it in its own text; keys, values and hidden states of the text with which a pass ends are kept
    for the next.
    """
    texts = [p + c[:-1] for p, c in zip(prompts, continuations, strict=True)]
    for i, text in enumerate(texts):
        if not prompts[i] or len(text) > model.config.context:
            raise InputError(f"pair {i} has {len(prompts[i])} + {len(continuations[i])} tokens; a prompt of at least 1 is "
                             f"needed, and the model's context holds {model.config.context}")
    c, device, out = model.config, model.device, [0.0] * len(texts)
    budget = budget or (4096 if device.type == "cuda" else 1024)
    kept = [torch.empty(2, 1, c.num_kv_heads, 0, c.head_dim, dtype=model.compute_dtype, device=device)] * c.num_layers
    h = torch.empty(0, c.hidden_size, dtype=model.compute_dtype, device=device)
    with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
        for group in passes(texts, budget):
            P, T = group[0][1], sum(stop - start for _, start, stop in group)
            column, depth = torch.arange(P), torch.arange(P + T)             # columns: P tokens that are kept, then T new ones
            visible, ids, done, where, targets = torch.zeros(T, P + T, dtype=torch.bool), [], [], [], []
            for i, start, stop in group:
                a, b = len(ids), len(ids) + stop - start
                ids += texts[i][start:stop]
                column = torch.cat([column[:start], torch.arange(P + a, P + b)])             # where each token of this text is
                depth[P + a:P + b] = torch.arange(start, stop)
                visible[a:b, column] = torch.ones(b - a, stop, dtype=torch.bool).tril(start)
                if stop == len(texts[i]):
                    done.append(i)
                    where.append(column[len(prompts[i]) - 1:][:len(continuations[i])])
                    targets += continuations[i]
            distance, last = depth[P:, None] - depth, column.to(device)      # (T, P + T); the last text's columns
            masks = {w: (visible & (distance < (w or math.inf))).to(device) for w in set(c.windows)}

            def attend(layer, q, k, v):                                      # q (1, H, T, hd), k and v (1, KV, T, hd)
                kv = torch.cat([kept[layer][:, :, :, :P], torch.stack([k, v])], dim=3)       # (2, 1, KV, P + T, hd)
                kept[layer] = kv[:, :, :, last]
                k, v = kv.repeat_interleave(c.num_heads // c.num_kv_heads, dim=2)
                return F.scaled_dot_product_attention(q, k, v, attn_mask=masks[c.windows[layer]])
            new = model.hidden(torch.tensor(ids, device=device)[None], depth[None, P:].to(device), attend)[0]
            h = torch.cat([h[:P], new])                                      # (P + T, d)
            if done:
                states, targets = h[torch.cat(where).to(device)], torch.tensor(targets, dtype=torch.long, device=device)
                values = torch.cat([-F.cross_entropy(model.head(x), t, reduction="none")
                                    for x, t in zip(states.split(512), targets.split(512))]).cpu().double()
                for i, part in zip(done, values.split([len(w) for w in where])):
                    out[i] = part.sum().item()
            h = h[last]
            bar.update(len(done))
    return out
