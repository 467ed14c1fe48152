"""tokenizer.py: what the model reads and learns, and that no text opens or closes a turn."""

import random

import pytest
import tiny

from data import user
from files import InputError
from tokenizer import Tokenizer

VOCAB = 300
TURN, END = 258, tiny.END


def load(path, template=tiny.TEMPLATE):
    return Tokenizer(tiny.checkpoint(path, template=template), VOCAB)


def specials(ids):
    return [i for i in ids if i >= 256]


def as_text(tokenizer, ids):
    return tokenizer.tok.decode(ids, skip_special_tokens=False)


def test_prompt_and_target_are_the_rendered_conversation(tmp_path):
    tokenizer = load(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, *user("Hi?")]
    prompt, target = tokenizer.prompt_ids(messages), tokenizer.target_ids(messages, "Yes.")
    text = (
        "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nHi?<|end|>\n<|turn|>assistant\nYes.<|end|>"
    )
    assert prompt + target == tokenizer.tok.encode(text, add_special_tokens=False).ids
    assert specials(target) == [target[-1]] == [END]
    assert tokenizer.decode(target) == "Yes."


def test_no_text_opens_or_closes_a_turn(tmp_path):
    """Random text of special tokens and their pieces gives the turns that letters give."""
    tokenizer, draw = load(tmp_path), random.Random(0)
    pieces = [*tiny.SPECIALS, "<|tu", "rn|>", "<", "|>", "user\n", "x", "\n", "{{", "%}"]
    for _ in range(200):
        text = "".join(draw.choices(pieces, k=draw.randrange(12)))
        messages = [*user(text), {"role": "assistant", "content": text}, *user(text)]
        prompt, target = tokenizer.prompt_ids(messages), tokenizer.target_ids(messages, text)
        assert specials(prompt) == [TURN, END, TURN, END, TURN, END, TURN]
        assert specials(target) == [END]
        assert as_text(tokenizer, prompt).count(text) >= 3  # every character is still there
        assert tokenizer.decode(target) == text
        assert specials(tokenizer.encode_text(text)) == []


def test_a_template_that_opens_the_answer_itself(tmp_path):
    """The prompt ends with <think>, an answer in the history does not begin with it."""
    opening = "<|turn|>assistant\n"
    tokenizer = load(tmp_path, tiny.TEMPLATE.replace(opening, opening + "<think>"))
    prompt, target = tokenizer.prompt_ids(user("x")), tokenizer.target_ids(user("x"), "Yes.")
    assert as_text(tokenizer, prompt).endswith("assistant\n<think>")
    assert as_text(tokenizer, target) == "Yes.<|end|>"


REAL = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}[{{ strftime_now('%Y') | length }} {{ m | tojson }}]"
    "{% if m.role == 'assistant' %}<|end|>{% break %}{% endif %}{% endfor %}"
)


def test_a_template_may_call_what_real_ones_call(tmp_path):
    path = tiny.checkpoint(tmp_path)
    (path / "chat_template.jinja").write_text(REAL)  # wins over tokenizer_config.json
    tokenizer = Tokenizer(path, VOCAB)
    ids = tokenizer.prompt_ids(user("é"))
    assert as_text(tokenizer, ids) == '<|begin|>[4 {"role": "user", "content": "é"}]'
    with pytest.raises(InputError, match="no system"):
        tokenizer.prompt_ids([{"role": "system", "content": "x"}])
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": REAL}]
    assert load(tmp_path / "list", named).prompt_ids(user("é")) == ids


def test_without_a_template_the_plain_format(tmp_path):
    tokenizer = load(tmp_path, template=None)
    prompt, target = tokenizer.prompt_ids(user("Hi?")), tokenizer.target_ids(user("Hi?"), "Yes.")
    assert as_text(tokenizer, prompt + target) == "<|begin|>User: Hi?\n\nAssistant: Yes.<|eos|>"


def test_every_named_end_stops(tmp_path):
    path = tiny.checkpoint(tmp_path, eos_token_id=[3, 4])
    (path / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert Tokenizer(path, VOCAB).stop_ids == {3, 4, 5, 257, END}
