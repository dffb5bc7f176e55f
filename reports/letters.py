"""A letter: what a notice says, in one language. Pure.

Text, page and chat are made from the same letter, so they cannot disagree.
What a stranger wrote (names, folders, hosts) is made visible here (`plain`); the templates escape it.
"""

import tomllib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from models.bilingual import Text
from reports.texts import Wording, filled, visible

LISTED = 20
"""So many of a kind are listed in a notice; the report has all."""
LONGEST = 200
"""Characters of a name that somebody chose."""
CHAT_BYTES = 2000
"""WeCom takes 2,048 octets of text, DingTalk and Feishu 20,000; longer is not read in a chat anyway."""


@cache
def letter_texts() -> dict[str, Text]:
    """Every sentence of letters and sheets by its name."""
    rows = tomllib.loads((files("reports") / "letters.toml").read_text(encoding="utf-8"))
    return {name: Text(**row) for name, row in rows.items()}


class Saying:
    """Says those sentences, and others, in one language."""

    def __init__(self, words: Wording) -> None:
        self.words = words

    def __call__(self, name: str, /, **values: object) -> str:
        # Chinese sets no blank behind a full-width bracket, whatever stands there.
        return self.words.of(filled(letter_texts()[name], **values)).replace("） ", "）")

    def of(self, text: Text) -> str:
        return self.words.of(text)

    def moment(self, at: datetime) -> str:
        return self("moment", at=self.words.moment(at), zone=self.words.zone.key)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences, numbered steps and a table of two columns below it."""

    title: str
    lines: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """A notice in one language."""

    subject: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    closing: tuple[str, ...] = ()


def plain(text: str) -> str:
    """A name that somebody chose, short and without hidden characters."""
    shown = visible(text)
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "…"


def as_text(letter: Letter) -> str:
    """The letter for those who read plain text."""
    return _environment().get_template("notice.txt.j2").render(letter=letter).strip() + "\n"


def as_html(letter: Letter, words: Wording) -> str:
    """The letter as a page that asks for nothing from elsewhere."""
    product = Saying(words)("product")
    return _environment().get_template("notice.html.j2").render(letter=letter, language=words.language, product=product)


def as_chat(letter: Letter) -> str:
    """The letter for a group chat: plain, short, and unable to call everybody (`<at user_id="all">`, `<!channel>`)."""
    text = as_text(letter).replace("<", "‹").replace(">", "›")
    octets = text.encode()
    return text if len(octets) <= CHAT_BYTES else octets[:CHAT_BYTES].decode(errors="ignore").rstrip() + " …"


@cache
def _environment() -> Environment:
    return Environment(
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        loader=PackageLoader("reports", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
