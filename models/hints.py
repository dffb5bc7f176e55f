"""What probably lies behind one failure, beyond its cause: from `hints.toml`, in both languages.

A hint is decided where the failure happens, because nobody sees the password or the certificate later. It is kept as
its kind and a few values, which must hold no secret, and is put into words where it is read.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from string import Formatter

from models.bilingual import Text

LONGEST_VALUE = 80
MOST_VALUES = 8
"""How much of a list is kept: a certificate may name hundreds of hosts."""

Value = str | tuple[str, ...]


@cache
def hint_texts() -> dict[str, Text]:
    """The sentence of every kind; `{name}` places are the values that the kind has."""
    rows = tomllib.loads((files("models") / "hints.toml").read_text(encoding="utf-8"))
    return {kind: Text(**row) for kind, row in rows.items()}


def places(kind: str) -> frozenset[str]:
    """The names of the values that a kind has."""
    return frozenset(name for _, name, _, _ in Formatter().parse(hint_texts()[kind].zh) if name)


@dataclass(frozen=True, slots=True)
class Hint:
    """One guess at what lies behind a failure. Values are shown to people; servers may have said them."""

    kind: str
    values: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind in hint_texts() and places(self.kind) != set(self.values):
            raise ValueError(f"hint {self.kind} has the values {sorted(places(self.kind))}")
        clean: dict[str, Value] = {
            name: _visible(value) if isinstance(value, str) else tuple(_visible(each) for each in value[:MOST_VALUES])
            for name, value in self.values.items()
        }
        object.__setattr__(self, "values", clean)

    def __str__(self) -> str:
        """What `read` takes: the text of a column."""
        return json.dumps({"kind": self.kind, "values": self.values}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def read(cls, text: str) -> "Hint | None":
        """What `str` gave; None for an empty text, and for one of a version that said it otherwise."""
        if not text:
            return None
        kept = json.loads(text)
        values = {name: value if isinstance(value, str) else tuple(value) for name, value in kept["values"].items()}
        try:
            return cls(kept["kind"], values)
        except ValueError:
            return None

    @property
    def text(self) -> Text | None:
        """The sentence, for people; None for a kind of a later version."""
        sentence = hint_texts().get(self.kind)
        if sentence is None:
            return None
        return Text(sentence.zh.format(**self._joined("、")), sentence.en.format(**self._joined(", ")))

    def _joined(self, comma: str) -> dict[str, str]:
        return {name: value if isinstance(value, str) else comma.join(value) for name, value in self.values.items()}


def _visible(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)[:LONGEST_VALUE]
