"""Chat templates tried on tokenizer.py beside transformers: a line each.

    PYTHONPATH=. LAB/python experiments/templates.py CHECKPOINT FOLDER…

LAB/python has transformers; the folders hold templates as *.jinja, as TRL ships them. Each template
is tried with three tokenizers: the checkpoint's own, and Llama 2's two layouts, trained on the
embedded samples. Twenty conversations each: system prompts, several turns, line ends, emoji. Ids
have to equal apply_chat_template's, and the target the difference of two renderings. Where control
tokens are spelled out, their number must not change and the text has to be there.
"""

import json
import random
import re
import sys
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from files import InputError
from tokenizer import Tokenizer

TEXTS = [
    "What is 2 + 3?",
    "two\nlines\n",
    "  spaces  ",
    "emoji 👩‍🚀 é",
    "\n\nfirst",
    "x",
    "(a) `b`",
]
CONTROL = r"<[|｜][^<>{}'\" ]+[|｜]>|</?s>|<(?:bos|eos|pad|(?:start|end)_of_\w+)>|\[/?[A-Z_]{3,}\]"


def sentence_piece(layout):
    """A tokenizer in Llama 2's layout: as in its first tokenizer.json, or in the later one."""
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = prepend
    lines = Path("data/sample/gsm8k/train.jsonl").read_text().splitlines()
    words = re.findall(r"\S+ ?\S* ?\S*", " ".join(lines))
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=2000, show_progress=False))
    bpe = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *bpe["vocab"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    options = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    tok = tokenizers.Tokenizer(models.BPE(vocab, [tuple(m) for m in bpe["merges"]], **options))
    if layout == "old":
        tok.normalizer = prepend
    else:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tok


def conversations(control):
    """[(messages, answer, whether control tokens are spelled out)]"""
    draw = random.Random(0)
    for n in range(20):
        spelled = n % 4 == 3 and control
        texts = [*TEXTS, *(f"a {token} b" for token in control)] if spelled else TEXTS
        messages = [{"role": "system", "content": "Be brief."}] if n % 3 == 1 else []
        for _ in range(n % 3):
            messages.append({"role": "user", "content": draw.choice(texts)})
            messages.append({"role": "assistant", "content": draw.choice(texts)})
        messages.append({"role": "user", "content": draw.choice(texts)})
        yield messages, draw.choice(texts), spelled


def attempt(work, *arguments, **options):
    try:
        return work(*arguments, **options)
    except Exception as error:
        return type(error)


def compare(tok, template, control):
    """{outcome: how many conversations}"""
    tok = tokenizers.Tokenizer.from_str(tok.to_str())
    control = [*control, "<|bos|>", "<|eos|>"]
    tok.add_special_tokens(control)
    reference = PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token="<|bos|>", eos_token="<|eos|>", chat_template=template
    )
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        ours = attempt(Tokenizer, folder, 10**9)
        if isinstance(ours, type):
            plain = [{"role": role, "content": "SECRET"} for role in ("user", "assistant")]
            theirs = attempt(reference.apply_chat_template, plain, tokenize=False)
            if ours is InputError and (isinstance(theirs, type) or "SECRET" not in theirs):
                return {"refused by both, or without the messages' text": 20}
            return {"REFUSED": 20}
        for messages, answer, spelled in conversations(control):
            outcome = one(ours, reference, messages, answer, spelled)
            found[outcome] = found.get(outcome, 0) + 1
    return found


def one(ours, reference, messages, answer, spelled):
    whole = [*messages, {"role": "assistant", "content": answer}]
    options = {"tokenize": True, "return_dict": False, "enable_thinking": False}
    theirs = attempt(reference.apply_chat_template, messages, add_generation_prompt=True, **options)
    prompt = attempt(ours.prompt_ids, messages)
    if isinstance(theirs, type) or isinstance(prompt, type):
        both = isinstance(theirs, type) and prompt is InputError
        return "refused by both" if both else f"REFUSED {theirs} {prompt}"
    target = attempt(ours.target_ids, messages, answer)
    if isinstance(target, type):
        return f"TARGET {target}"
    control = set(ours.control.values())
    if spelled:
        harmless = []
        for message in whole:
            text = ours.spelled_out.sub("x", message["content"])
            harmless.append({**message, "content": text})
        count = sum(id in control for id in prompt + target)
        wanted = sum(
            id in control
            for id in ours.prompt_ids(harmless[:-1])
            + ours.target_ids(harmless[:-1], harmless[-1]["content"])
        )
        decoded = ours.tok.decode(target, skip_special_tokens=False)
        written = answer.strip().replace("▁", " ") in decoded.replace("▁", " ")
        return "spelled out" if count == wanted and written else "FORGED"
    if prompt != theirs:
        return "PROMPT"
    full = attempt(reference.apply_chat_template, whole, **options)
    if isinstance(full, type):
        return "refused by both"
    if full[: len(prompt)] == prompt and ours.turn_end in full[len(prompt) :]:
        cut = full[len(prompt) :]
        cut = cut[: cut.index(ours.turn_end) + 1]
        return "equal" if target == cut else "TARGET"
    written = answer.strip() in ours.decode(target)
    return "equal, target continues" if written and target[-1] == ours.turn_end else "ENDLESS"


def main():
    checkpoint, *folders = sys.argv[1:]
    tokens = {"own": tokenizers.Tokenizer.from_file(f"{checkpoint}/tokenizer.json")}
    tokens |= {f"Llama 2, {layout}": sentence_piece(layout) for layout in ("old", "new")}
    failed, totals = 0, {}
    for folder in folders:
        for file in sorted(Path(folder).glob("*.jinja")):
            template = file.read_text()
            control = sorted(set(re.findall(CONTROL, template)))
            for name, tok in tokens.items():
                found = compare(tok, template, control)
                bad = any(outcome[:2].isupper() for outcome in found)
                failed += bad
                for outcome, count in found.items():
                    totals[outcome] = totals.get(outcome, 0) + count
                print(f"{'✗' if bad else ' '} {file.stem:45} {name:12} {found}", flush=True)
    print(totals)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
