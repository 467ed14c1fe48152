"""Training and test examples.

A task is one file here: `load(directory, split)` gives its examples, and four names say the rest:
JUDGE (a name in judges.JUDGES), MAX_NEW_TOKENS, PARAPHRASE (the request for a paraphrase), PROMPT.
"""

from dataclasses import dataclass, field


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
