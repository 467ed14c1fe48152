"""The tokenizer of a checkpoint: chat template, stop set, prompt and target ids.

A conversation is rendered and encoded as a whole, as transformers does it. But text from data is
text: a control token spelled out in it ("<|im_end|>") cannot open or close a turn. Not guarded are
marks that a template writes as plain text ("[/INST]" in Llama 2), and thoughts.
"""

import datetime
import functools
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
NAMES = [f"{name}_token" for name in "bos eos unk sep pad cls mask".split()]
SECRET, KEY = uuid.uuid4().hex, uuid.uuid4().hex  # no data has them
THOUGHT, END_OF_THOUGHT = "<think>", "</think>"


class Generation(jinja2.ext.Extension):
    """{% generation %}…{% endgeneration %}, TRL's mark of what is learnt, changes no text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Tokenizer:
    """tokenizer.json, the chat template and the stop set of a checkpoint directory.

    tok: the tokenizers.Tokenizer. stop_ids: tokens that end a response. turn_end: the one that
    ends an assistant's turn in the template. control: {spelling: id} of the tokens that no text
    may hold. thinks: what a template gets as enable_thinking. InputError if a file is not as it
    should be.
    """

    def __init__(self, path, vocab_size):
        self.path, self.vocab_size, self.thinks = Path(path), vocab_size, False
        try:
            self.tok = tokenizers.Tokenizer.from_file(str(self.path / "tokenizer.json"))
        except Exception as error:  # the library raises Exception itself
            mend = "download it, or save the tokenizer in the fast format (transformers)"
            raise InputError(f"{path}/tokenizer.json: cannot be read ({error}); {mend}")
        self.tok.no_padding()
        self.tok.no_truncation()
        try:
            self.read_settings()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"a tokenizer setting has another form than expected ({error})"
            raise InputError(f"{path}: {what}; download the JSON files again")

    def read_settings(self):
        config = self.read_optional("tokenizer_config.json")
        if "added_tokens_decoder" not in config:  # the layout before
            config |= self.read_optional("special_tokens_map.json")
        self.names = {}  # for the template
        for name in NAMES:
            token = config.get(name)
            if token is not None:
                self.names[name] = token if isinstance(token, str) else token["content"]
        self.add_tokens(config)
        source = config.get("chat_template") or PLAIN_TEMPLATE
        file = self.path / "chat_template.jinja"
        if file.exists():
            source = file.read_text(encoding="utf-8")
        elif isinstance(source, list):
            source = {entry["name"]: entry["template"] for entry in source}["default"]
        self.template = self.compile_template(source)
        self.has_switch = "enable_thinking" in source
        self.control, self.spelled_out = {}, re.compile("(?!)")  # until the frame is read

        self.eos = self.tok.token_to_id(self.names.get("eos_token", ""))
        self.stop_ids = {self.eos}
        for name in ("config.json", "generation_config.json"):
            ends = self.read_optional(name).get("eos_token_id")
            self.stop_ids.update(ends if isinstance(ends, list) else [ends])
        self.stop_ids.discard(None)
        self.read_frame()
        self.stop_ids.add(self.turn_end)

    def read_optional(self, name):
        file = self.path / name
        return read_json(file, dict) if file.exists() else {}

    def add_tokens(self, config):
        """Add the tokens that other files than tokenizer.json name."""
        listed = config.get("added_tokens_decoder")
        if listed is None:
            older = self.read_optional("added_tokens.json").items()
            listed = {id: {"content": content} for content, id in older}
        for id, entry in sorted(listed.items(), key=lambda pair: int(pair[0])):
            content = entry["content"]
            special = entry.get("special", content in self.names.values())
            if self.tok.token_to_id(content) is None:
                self.tok.add_tokens([tokenizers.AddedToken(**{**entry, "special": special})])
            if self.tok.token_to_id(content) != int(id):
                what = f"the token {content!a} is to have id {id}, which is taken or leaves a gap"
                raise InputError(f"{self.path}: {what}; download tokenizer.json again")
        for content in self.names.values():
            if self.tok.token_to_id(content) is None:
                self.tok.add_special_tokens([content])

    def compile_template(self, source):
        """A chat template in jinja2's sandbox, with what real templates call."""

        def raise_exception(message):
            raise jinja2.exceptions.TemplateError(message)

        def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
            options = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
            return json.dumps(value, ensure_ascii=ensure_ascii, **options)

        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        env.filters["tojson"] = tojson
        env.globals["raise_exception"] = raise_exception
        env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            return env.from_string(source)
        except jinja2.exceptions.TemplateError as error:
            raise self.template_error(error)

    def template_error(self, error):
        what = f"the chat template failed ({type(error).__name__}: {error})"
        return InputError(f"{self.path}: {what}; mend it, or put a chat_template.jinja there")

    def read_frame(self):
        """Find what the template writes around texts: the end of a turn, and control tokens."""
        turns = [{"role": role, "content": SECRET} for role in ("user", "assistant")]
        pieces = self.render(turns, False).split(SECRET)
        pieces += self.render(turns[:1], True).split(SECRET)
        if len(pieces) < 5:
            raise self.template_error(jinja2.exceptions.TemplateError("a text is left out"))
        frame = [self.tok.encode(piece, add_special_tokens=False).ids for piece in pieces]
        added = self.tok.get_added_tokens_decoder()
        others = set(self.tok.get_vocab().values())
        for id, token in added.items():
            written = any(id in ids for ids in frame) and token.content.strip()
            thought = token.content in (THOUGHT, END_OF_THOUGHT)
            if token.special or (written and not thought):
                self.control[token.content] = id
                others.discard(id)  # no text has it
        largest = max([*others, *sum(frame, [])], default=0)
        if largest >= self.vocab_size:
            what = f"token id {largest} lies outside of the embedding's {self.vocab_size} rows"
            raise InputError(f"{self.path}: {what}; download tokenizer and weights again")
        longest_first = sorted(self.control, key=len, reverse=True)
        spellings = "|".join(map(re.escape, longest_first)) or "(?!)"
        self.spelled_out = re.compile(f"(?:{spellings})(?!{SECRET})")

        ends = [id for id in frame[2] if id in self.control.values()]  # after the assistant's text
        ends = [id for id in [*ends, self.eos, *sorted(self.stop_ids)] if type(id) is int]
        if not ends:
            what = "neither its JSON files nor its chat template name an end token"
            raise InputError(f'{self.path}: {what}; set "eos_token" in tokenizer_config.json')
        self.turn_end = ends[0]

    def render(self, messages, add_generation_prompt):
        """The template's text, with the messages' texts as `hide` gives them."""
        hidden = []
        for message in messages:
            hidden.append({**message, "content": self.hide(message["content"])})
        try:
            return self.template.render(
                messages=hidden,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=self.thinks,
                tools=None,
                documents=None,
                **self.names,
            )
        except Exception as error:  # a template is a program: it may raise anything
            raise self.template_error(error)

    def in_thought(self, text):
        """Is a response that begins with this text within a thought?"""
        opening = self.render([{"role": "user", "content": "x"}], True)
        return THOUGHT in (opening + text).rpartition(END_OF_THOUGHT)[2]

    def hide(self, text):
        """The text with a secret in each control token, which is one no more."""
        return self.spelled_out.sub(lambda match: match[0][0] + SECRET + match[0][1:], text)

    def encode(self, text):
        """Token ids of a text, with what `hide` has hidden read as text."""
        if SECRET not in text:
            return self.tok.encode(text, add_special_tokens=False).ids
        tok, ids = self.guarded
        text = self.spelled_out.sub(lambda match: KEY + match[0], text).replace(SECRET, "")
        return [ids.get(id, id) for id in tok.encode(text, add_special_tokens=False).ids]

    @functools.cached_property
    def guarded(self):
        """A tokenizer that knows control tokens with a key before them alone, and {its id: id}."""
        parts = json.loads(self.tok.to_str())
        names = {}
        for token in parts["added_tokens"]:
            key = KEY if token["content"] in self.control else ""
            token["content"] = key + token["content"]
            names[token["content"]] = token["id"]
        tok = tokenizers.Tokenizer.from_str(json.dumps(parts))
        return tok, {tok.token_to_id(name): id for name, id in names.items()}

    def encode_text(self, text):
        """Token ids of text in which no control token is read and to which none is added."""
        return self.encode(self.hide(text))

    def prompt_ids(self, messages):
        """Token ids of the messages, the last one the user's, and the opening of the answer."""
        return self.encode(self.render(messages, True))

    def target_ids(self, messages, answer):
        """Token ids of `answer` after `prompt_ids(messages)`, the end of the turn included.

        A thought in the answer is learnt only if `thinks`.
        """
        _, end, rest = answer.rpartition(END_OF_THOUGHT)
        if end and not self.thinks:
            answer = rest.lstrip()
        asked = self.render(messages, True)
        prompt = self.encode(asked)
        turns = [*messages, {"role": "assistant", "content": answer}]
        ids = self.encode(self.render(turns, False))
        target = ids[len(prompt) :]
        if ids[: len(prompt)] == prompt and self.turn_end in target:
            return target[: target.index(self.turn_end) + 1]
        # The template ends no turn, or does not write an answer where it opens one.
        if self.in_thought("") and END_OF_THOUGHT in answer:
            answer = answer.removeprefix(THOUGHT)
        elif self.in_thought(""):
            answer = f"\n{END_OF_THOUGHT}\n\n{answer}"
        ids = self.encode(asked + self.hide(answer))
        if ids[: len(prompt)] == prompt:
            return ids[len(prompt) :] + [self.turn_end]
        return self.encode_text(answer) + [self.turn_end]

    def decode(self, ids):
        """Text of token ids, control tokens left out."""
        control = set(self.control.values())
        return self.tok.decode([id for id in ids if id not in control])

    def save(self, path):
        """Copy the tokenizer's files to the directory `path`."""
        for name in FILES:
            if (self.path / name).exists():
                shutil.copyfile(self.path / name, Path(path) / name)
