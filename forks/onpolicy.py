"""SDFT: the model learns from itself with the gold response in sight (arXiv 2601.19897).

    python forks/onpolicy.py --task mbpp --ckpt ./llama [options of s3ft.py]

In each step the current model answers the prompts at temperature 1. Its answer is pulled towards
what the frozen base, which is shown the gold response, would say at each place: the loss is the KL
divergence of the model from that base, per token. There is no judge. Its gradient is the sum of
p (log p - log q) ∇log p, so p (log q - log p) are the weights, of the TOP likeliest tokens.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import s3ft  # noqa: E402
import sampler  # noqa: E402
from data import Example  # noqa: E402

TOP = 20


def weigh_by(tokenizer, options):
    base, _ = s3ft.load_model(options.ckpt, options)
    return lambda model, rows: weigh(model, base, tokenizer, options, rows)


def weigh(model, base, tokenizer, options, rows):
    prompts = [row.prompt for row in rows]
    informed = []
    for row in rows:
        gold = Example("", row.of["messages"], row.of["target"])
        informed.append(tokenizer.prompt_ids(s3ft.paraphrase_request(gold, options.wording)))
    seed = rows[0].dropout_seed % 2**32
    limit = options.max_new_tokens
    responses = sampler.generate(model, tokenizer, prompts, limit, temperature=1.0, seed=seed)
    own = [response.ids for response in responses]
    found = []
    for row, asked, ids in zip(rows, informed, own):  # one by one: a row takes tokens x vocab
        (log_p,) = sampler.token_values(model, [row.prompt], [ids], log_softmax)
        (log_q,) = sampler.token_values(base, [asked], [ids], log_softmax)
        log_p, tokens = log_p.topk(min(TOP, log_p.shape[1]))  # (n, TOP)
        weights = log_p.exp() * (log_q.gather(1, tokens) - log_p)
        pairs = [[*zip(*place)] for place in zip(tokens.tolist(), weights.tolist())]
        found.append(dataclasses.replace(row, target=ids, weight=pairs))
    return found


def log_softmax(logits, targets):
    return logits.log_softmax(-1)


s3ft.METHODS["onpolicy"] = ("gold",)
s3ft.WEIGH["onpolicy"] = weigh_by

if __name__ == "__main__":
    s3ft.main(["--method", "onpolicy", *sys.argv[1:]])
