"""Training and test examples.

A task is one file here: `load(directory, split)` gives its examples, and three names say the rest:
JUDGE (a name in judges.JUDGES), MAX_NEW_TOKENS, PARAPHRASE (the request for a paraphrase). It may
have metrics(response, example) -> {name: score}.
"""

from dataclasses import dataclass, field

from files import InputError, check_text


@dataclass(frozen=True)
class Example:
    """One pair (x, y) of the paper.

    id: unique in its split. messages: x, [{"role", "content"}, …], the last one the user's.
    gold: y, the reference response. check: what the judge needs.
    """

    id: str
    messages: list
    gold: str
    check: dict = field(default_factory=dict)

    @property
    def question(self):
        """What the user said last."""
        return self.messages[-1]["content"]


def user(text):
    """Messages of one user turn."""
    return [{"role": "user", "content": text}]


# Checks that loaders share


def text(row, key):
    """The text row[key]. InputError if it is absent, empty or no text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f'"{key}" should be a text that is not empty')
    return check_text(value)


def some(examples, file):
    """`examples`. InputError if there are none."""
    if not examples:
        raise InputError(f"{file}: no examples; download it again, or name another one")
    return examples
