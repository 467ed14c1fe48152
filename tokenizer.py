"""The tokenizer of a checkpoint: chat template, stop set, prompt and target ids.

Text from data is always encoded as text: a special token spelled out in it ("<|im_end|>") becomes
ordinary tokens and cannot open or close a turn.
"""

import datetime
import json
import re
import shutil
import uuid
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from files import InputError, read_json

# For checkpoints that bring no chat template.
PLAIN_TEMPLATE = """{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' -%}
Assistant: {{ m.content }}{{ eos_token }}
{% else -%}
{{ m.role | capitalize }}: {{ m.content }}

{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
FILES = """tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json
chat_template.jinja tokenizer.model vocab.json merges.txt generation_config.json""".split()


class Tokenizer:
    """tokenizer.json, the chat template and the stop set of a checkpoint directory.

    tok: the tokenizers.Tokenizer. stop_ids: tokens that end a response. turn_end: the one that
    ends an assistant's turn in the template. InputError if a file is not as it should be.
    """

    def __init__(self, path, vocab_size):
        self.path = Path(path)
        try:
            self.tok = tokenizers.Tokenizer.from_file(str(self.path / "tokenizer.json"))
        except Exception as error:  # the library raises Exception itself
            mend = "download it, or save the tokenizer in the fast format (transformers)"
            raise InputError(f"{path}/tokenizer.json: cannot be read ({error}); {mend}")
        self.tok.no_padding()
        self.tok.no_truncation()
        largest = max(self.tok.get_vocab().values(), default=0)
        if largest >= vocab_size:
            what = f"token id {largest} lies outside of the embedding's {vocab_size} rows"
            raise InputError(f"{path}: {what}; download tokenizer and weights again")
        added = self.tok.get_added_tokens_decoder().items()
        self.special = {token.content: i for i, token in added if token.special}
        longest_first = sorted(self.special, key=len, reverse=True)
        self.spelled_out = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        try:
            self.read_settings()
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
            what = f"a tokenizer setting has another form than expected ({error})"
            raise InputError(f"{path}: {what}; download the JSON files again")

    def read_settings(self):
        config = self.read_optional("tokenizer_config.json")
        self.names = {"bos_token": "", "eos_token": ""}  # for the template
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            token = config.get(name)
            if token is not None:
                self.names[name] = token if isinstance(token, str) else token["content"]
        source = config.get("chat_template") or PLAIN_TEMPLATE
        file = self.path / "chat_template.jinja"
        if file.exists():
            source = file.read_text(encoding="utf-8")
        elif isinstance(source, list):
            source = {entry["name"]: entry["template"] for entry in source}["default"]
        self.template = self.compile_template(source)

        self.stop_ids = {self.tok.token_to_id(self.names["eos_token"])}
        for name in ("config.json", "generation_config.json"):
            ends = self.read_optional(name).get("eos_token_id")
            self.stop_ids.update(ends if isinstance(ends, list) else [ends])
        self.stop_ids.discard(None)
        self.turn_end = self.find_turn_end()
        self.stop_ids.add(self.turn_end)

    def read_optional(self, name):
        file = self.path / name
        return read_json(file, dict) if file.exists() else {}

    def compile_template(self, source):
        """A chat template in jinja2's sandbox, with what real templates call."""

        def raise_exception(message):
            raise jinja2.exceptions.TemplateError(message)

        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        env.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
        env.globals["raise_exception"] = raise_exception
        env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            return env.from_string(source)
        except jinja2.exceptions.TemplateError as error:
            raise self.template_error(error)

    def template_error(self, error):
        what = f"the chat template failed ({type(error).__name__}: {error})"
        return InputError(f"{self.path}: {what}; mend it, or put a chat_template.jinja there")

    def find_turn_end(self):
        """The first special token that the template writes after an assistant's text."""
        mark = uuid.uuid4().hex
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        after = self.render(turns, False).partition(mark)[2]
        ids = self.tok.encode(after, add_special_tokens=False).ids
        ends = [token for token in ids if token in self.special.values()]
        ends.append(self.tok.token_to_id(self.names["eos_token"]))
        ends += sorted(self.stop_ids)
        for end in ends:
            if type(end) is int:
                return end
        what = "neither its JSON files nor its chat template name an end token"
        raise InputError(f'{self.path}: {what}; set "eos_token" in tokenizer_config.json')

    def render(self, messages, add_generation_prompt):
        options = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return self.template.render(**options, **self.names)
        except Exception as error:  # a template is a program: it may raise anything
            raise self.template_error(error)

    def encode_text(self, text):
        """Token ids of text in which no special token is read and to which none is added."""
        self.tok.encode_special_tokens = True
        try:
            return self.tok.encode(text, add_special_tokens=False).ids
        finally:
            self.tok.encode_special_tokens = False

    def encode(self, messages, add_generation_prompt):
        """Token ids of rendered messages; special tokens in their own text are read as text."""
        mark, forged = uuid.uuid4().hex, []

        def hide(match):
            forged.append(match[0])
            return mark

        hidden = []
        for message in messages:
            content = self.spelled_out.sub(hide, message["content"])
            hidden.append({**message, "content": content})
        first, *others = self.render(hidden, add_generation_prompt).split(mark)
        ids = self.tok.encode(first, add_special_tokens=False).ids
        for text, piece in zip(forged, others):
            ids += self.encode_text(text)
            ids += self.tok.encode(piece, add_special_tokens=False).ids
        return ids

    def prompt_ids(self, messages):
        """Token ids of the messages, the last one the user's, and the opening of the answer."""
        return self.encode(messages, True)

    def target_ids(self, messages, answer):
        """Token ids of `answer` after `prompt_ids(messages)`, the end of the turn included."""
        prompt = self.prompt_ids(messages)
        ids = self.encode([*messages, {"role": "assistant", "content": answer}], False)
        target = ids[len(prompt) :]
        if ids[: len(prompt)] == prompt and self.turn_end in target:
            return target[: target.index(self.turn_end) + 1]
        # The template does not write an answer where it opens the turn.
        return self.encode_text(answer) + [self.turn_end]

    def decode(self, ids):
        """Text of token ids, special tokens left out."""
        return self.tok.decode(ids, skip_special_tokens=True)

    def save(self, path):
        """Copy the tokenizer's files to the directory `path`."""
        for name in FILES:
            if (self.path / name).exists():
                shutil.copyfile(self.path / name, Path(path) / name)
