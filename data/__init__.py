"""Training and test examples. A task is one file here with `load(directory, split) -> list[Example]`; nothing here knows of models."""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """id: unique in its split; prompt: what the user says; gold: the reference response; check: what the judge needs."""
    id: str
    prompt: str
    gold: str
    check: dict = field(default_factory=dict)
