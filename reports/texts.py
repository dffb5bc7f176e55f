"""The report's own words and how it writes numbers, sizes and times, in one language and one time zone.

Sentences live in `texts.toml`. Nothing here knows HTML; what a stranger wrote is made harmless by `visible`.
"""

import re
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from models.bilingual import Language, Text
from models.causes import cause
from models.hosts import HostWait
from models.states import MEMBER_STATE_NAMES, WAVE_STATE_NAMES

# Controls, bidi overrides, zero-width and line separators, tag characters, lone surrogates: all that can make a text
# look like another text. ZWNJ and ZWJ stay, names in some scripts and emoji need them.
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


@cache
def texts() -> dict[str, Text]:
    """Every sentence of the report by its name."""
    return {name: Text(**row) for name, row in _catalogue()["page"].items()}


@cache
def alterations() -> dict[str, Text]:
    """What a server may change in a message, by the name that the ledger gives it."""
    return {name: Text(**row) for name, row in _catalogue()["alteration"].items()}


@dataclass(frozen=True, slots=True)
class AlterationTold:
    """What an alteration means for who reads the message."""

    name: Text
    seen: Text
    helps: Text


@cache
def alteration(name: str) -> AlterationTold:
    """The alteration of that name; one of a later version is shown as it is."""
    catalogue, unknown = _catalogue(), {"zh": "—", "en": "—"}
    seen, helps = (catalogue[f"alteration_{part}"].get(name, unknown) for part in ("seen", "helps"))
    return AlterationTold(alterations().get(name, Text(name, name)), Text(**seen), Text(**helps))


@cache
def placements() -> dict[str, Text]:
    """Why a folder went where it went, or nowhere, by the name that the ledger gives it."""
    return {name: Text(**row) for name, row in _catalogue()["placement"].items()}


def placement(why: str) -> Text:
    """The reason of that name; one of a later version is shown as it is."""
    return placements().get(why, Text(why, why))


@cache
def roles() -> dict[str, Text]:
    """The special folders by their roles."""
    return {name: Text(**row) for name, row in _catalogue()["role"].items()}


@cache
def repairs() -> dict[str, Text]:
    """What may be changed in a message that was refused, by the name that the ledger gives it."""
    return {name: Text(**row) for name, row in _catalogue()["repair"].items()}


def repair(name: str) -> Text:
    """The repair of that name; one of a later version is shown as it is."""
    return repairs().get(name, Text(name, name))


@cache
def savings() -> dict[str, Text]:
    """What may come of saving a message as a file."""
    return {name: Text(**row) for name, row in _catalogue()["saving"].items()}


@cache
def happenings() -> dict[str, Text]:
    """Who and what a timeline names: people, commands, states of members and waves."""
    own = {name: Text(**row) for name, row in _catalogue()["happening"].items()}
    states = {str(state): name for state, name in [*WAVE_STATE_NAMES.items(), *MEMBER_STATE_NAMES.items()]}
    return states | own


@cache
def stages() -> dict[str, Text]:
    """At what stage of a conversation a server answered; "" where it could be any."""
    return {"" if name == "any" else name: Text(**text) for name, text in _catalogue()["stage"].items()}


@cache
def _catalogue() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads((files("reports") / "texts.toml").read_text(encoding="utf-8"))


def visible(text: str) -> str:
    r"""Write characters that hide or reorder others as `\x1b`, `\u202e` and the like."""
    return INVISIBLE.sub(lambda found: _escape(ord(found.group())), text)


def _escape(point: int) -> str:
    if point <= 0xFF:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"


class Count(int):
    """A number inside a sentence: `{n}` is grouped by thousands, `{n:message|messages}` gives the word that fits."""

    def __format__(self, spec: str) -> str:
        if "|" in spec:
            one, many = spec.split("|")
            return one if self == 1 else many
        return super().__format__(spec or ",")


def sentence(name: str, /, **values: object) -> Text:
    """Give a sentence in both languages, its places filled."""
    return filled(texts()[name], **values)


def filled(text: Text, **values: object) -> Text:
    """Fill the places of both languages; whole numbers are written, and agree with their nouns, as `Count` does it."""
    counted = {key: Count(value) if type(value) is int else value for key, value in values.items()}
    return text.format(**counted) if counted else text


def host_wait(wait: HostWait, until: str) -> Text:
    """Say for what a wave waits; `until` as it is to be read."""
    host, words = visible(wait.name), visible(wait.words)
    told = (
        sentence("waits_for_login", host=host, until=until)
        if wait.logins_only
        else sentence("waits_for_host", host=host, until=until)
    )
    why = cause(wait.cause).title if wait.cause else sentence("waits_by_admin")
    zh, en = f"{told.zh}（{why.zh}）", f"{told.en} ({why.en})"
    return Text(f"{zh}：{words}", f"{en}: {words}") if words else Text(zh, en)


def human_bytes(value: float) -> str:
    """Write bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TB"


@dataclass(frozen=True, slots=True)
class Wording:
    """One language and one time zone; the templates speak through it."""

    language: Language
    zone: ZoneInfo

    def say(self, name: str, /, **values: object) -> str:
        return sentence(name, **values).in_language(self.language)

    def of(self, text: Text) -> str:
        return text.in_language(self.language)

    def alteration(self, name: str) -> str:
        return self.of(alteration(name).name)

    def placement(self, why: str) -> str:
        return self.of(placement(why))

    def repair(self, name: str) -> str:
        return self.of(repair(name))

    def happening(self, what: str) -> str:
        """Say an event in words; `queued > syncing` names both states."""
        parts = what.split(" > ")
        known = [happenings().get(part) for part in parts]
        return " → ".join(self.of(text) if text else part for text, part in zip(known, parts, strict=True))

    def number(self, value: int) -> str:
        return f"{value:,}"

    def change(self, value: int) -> str:
        return f"{value:+,}".replace("-", "\N{MINUS SIGN}") if value else "0"

    def size(self, value: float) -> str:
        return human_bytes(value)

    def moment(self, at: datetime) -> str:
        """Write a time to the minute, in the report's zone, which the page names once."""
        return self._local(at).isoformat(sep=" ", timespec="minutes")[:16]

    def moment_with_zone(self, at: datetime) -> str:
        return f"{self.moment(at)} {self.zone.key}"

    def day(self, at: datetime | None) -> str:
        return self._local(at).date().isoformat() if at else self.say("unknown")

    def _local(self, at: datetime) -> datetime:
        aware = at if at.tzinfo else at.replace(tzinfo=UTC)
        try:
            return aware.astimezone(self.zone)
        except OverflowError:  # a forged arrival date at the very edge of the calendar
            return aware

    def duration(self, seconds: float) -> str:
        whole = round(seconds)
        if whole >= 3600:
            return self.say("hours", h=whole // 3600, m=whole % 3600 // 60)
        if whole >= 60:
            return self.say("minutes", m=whole // 60, s=whole % 60)
        return self.say("seconds", s=f"{seconds:.1f}" if seconds < 10 else whole)
