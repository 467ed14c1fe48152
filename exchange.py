"""Requests for another engine, and its responses, as JSONL.

    python s3ft.py --task gsm8k --ckpt ./llama --export-requests requests
    python s3ft.py --task gsm8k --ckpt ./llama --import-responses responses.jsonl

Requests come in two forms: a batch of chat completions as OpenAI and vLLM take it, and token ids.
A response is a line of such a batch's output, or {"id" or "prompt", "text" or "token_ids"} and, if
known, "finish_reason" and "engine".
"""

from collections import defaultdict

import parallel
from files import InputError, check_text, read_jsonl, write_jsonl


def write_requests(folder, source, wanted, tokenizer, model, max_new_tokens):
    """Write folder/source.jsonl and .ids.jsonl for [(example, messages)]; returns their number."""
    chats, prompts = [], []
    for example, messages in wanted:
        id = f"{source}/{example.id}"
        body = {
            "model": model,
            "messages": messages,
            "max_tokens": max_new_tokens,
            "temperature": 0,
        }
        if tokenizer.has_switch:
            body["chat_template_kwargs"] = {"enable_thinking": tokenizer.thinks}
        call = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        chats.append({"custom_id": id, **call})
        ends = {"max_tokens": max_new_tokens, "stop_token_ids": sorted(tokenizer.stop_ids)}
        prompts.append({"id": id, "prompt_token_ids": tokenizer.prompt_ids(messages), **ends})
    if parallel.is_main:
        write_jsonl(folder / f"{source}.jsonl", chats)
        write_jsonl(folder / f"{source}.ids.jsonl", prompts)
    return len(chats)


def read_responses(path, requests, journal, tokenizer, max_new_tokens):
    """Add the responses in a file to the journal, but for those that it has already.

    requests: [(source, example, messages)] of all that may come. InputError names bad rows.
    """
    known, seen = defaultdict(list), set()
    for source, example, messages in requests:
        names = {f"{source}/{example.id}", messages[-1]["content"]}
        for name in names | ({example.id} if source == "own" else set()):
            known[name].append((source, example, messages))

    def parse(number, row):
        id = row.get("custom_id") or row.get("id") or row.get("prompt")
        if not isinstance(id, str) or id not in known:
            raise InputError(f"id or prompt {id!r:.80} is no request of this run")
        conversations = [messages for _, _, messages in known[id]]
        if any(each != conversations[0] for each in conversations):
            raise InputError(f"{id!r:.80} ends several conversations; give the id of one")
        if id in seen:
            raise InputError(f"a second response to {id!r:.80}")
        seen.add(id)
        if "response" in row or row.get("error"):
            row = from_batch(row)
        row["engine"] = row.get("engine") or path.name
        found = []
        for source, example, _ in known[id]:
            found.append((source, example, to_response(row, example, tokenizer, max_new_tokens)))
        return found

    counts = defaultdict(int)
    for places in read_jsonl(path, parse):
        for source, example, response in places:
            if source not in journal.rows[example.id]:
                counts[source] += 1
                if parallel.is_main:
                    journal.add(example.id, **{source: response})
    journal.sync()
    parallel.say(f"{path}: {dict(counts) or 'nothing'} imported, {len(seen)} rows read")


def from_batch(row):
    """A line of a batch's output in the short form."""
    if row.get("error"):
        raise InputError(f"the engine failed: {row['error']!r:.200}")
    body = row["response"]["body"]
    first = body["choices"][0]
    found = {"text": first["message"]["content"], "finish_reason": first.get("finish_reason")}
    # The model's name says less than a fingerprint such as "vllm-0.32.0-0430ae2e".
    return {**found, "engine": body.get("system_fingerprint") or body.get("model")}


def to_response(row, example, tokenizer, max_new_tokens):
    """A row of the file as candidates.jsonl holds it, cut off after `max_new_tokens` tokens.

    Without a "finish_reason" a text has ended; token ids have, if the last one is an end token.
    """
    ids, text, finish = (row.get(name) for name in ("token_ids", "text", "finish_reason"))
    if finish not in ("stop", "length", None):
        raise InputError(f'"finish_reason" is {finish!r}, neither "stop" nor "length"')
    if ids is not None:
        inside = [type(id) is int and 0 <= id < tokenizer.vocab_size for id in ids]
        if not ids or not all(inside):
            raise InputError('"token_ids" should be ids of the checkpoint\'s vocabulary')
        if finish == "stop" and ids[-1] not in tokenizer.stop_ids:
            ids = [*ids, tokenizer.turn_end]  # many engines leave it out
    elif isinstance(text, str):
        ids = tokenizer.target_ids(example.messages, check_text(text))
        ids = ids[:-1] if finish == "length" else ids
    else:
        raise InputError('there is neither a "text" nor "token_ids"')
    if not ids:
        raise InputError("the text is empty, and did not end")
    ids = ids[:max_new_tokens]
    stopped = ids[-1] in tokenizer.stop_ids
    text = tokenizer.decode(ids[:-1] if stopped else ids)
    finish = "stop" if stopped else "length"
    if tokenizer.in_thought(text):
        finish = "thought"  # it never ended
    engine = str(row["engine"])
    return {"ids": ids, "text": text, "finish_reason": finish, "logprob": None, "engine": engine}
