"""Sentences that an admin or a member reads, in Chinese and in English.

A sentence is written once, in both languages side by side, so that neither can be forgotten.
"""

from dataclasses import dataclass
from typing import Literal, Self

Language = Literal["zh-CN", "en"]
LANGUAGES: tuple[Language, ...] = ("zh-CN", "en")


@dataclass(frozen=True, slots=True)
class Text:
    """One sentence in both languages; `{name}` places are filled by `format`."""

    zh: str
    en: str

    def in_language(self, language: Language) -> str:
        return self.zh if language == "zh-CN" else self.en

    def format(self, **values: object) -> Self:
        """Fill the places of both languages with the same values."""
        return type(self)(self.zh.format(**values), self.en.format(**values))

    def as_dict(self) -> dict[Language, str]:
        return {"zh-CN": self.zh, "en": self.en}
