"""What was measured of a destination, kept by host, and what a copy makes of it.

Facts are kept, never sentences: what they mean says `models/probe_card.py`, what a copy does with them is `Known`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Field, SQLModel, col, select

from models.database import reading, writing

DOCUMENT = 1
"""The version of the stored document; one of another version reads as no probe at all."""
LASTS = timedelta(days=30)
"""Services change: what is older is not used."""

WORTH_IT = 1.15
"""Twice as many connections are worth having when they are faster by this factor."""

DEFECTS = {
    "header_8bit": "header_8bit",
    "bare_lf": "line_ends",
    "bare_cr": "line_ends",
    "nul": "nul",
    "no_header": "separator",
    "empty": "empty",
    "no_final_line_end": "final_line_end",
}
"""The repair (`imapcopy.repair`) that cures an odd message, by what is odd about it."""

EMOJI = "\N{PARTY POPPER}"
"""Stands for all characters beyond the first 65,536."""

KEPT, STORED, LOST, REFUSED, NOT_TRIED = "kept", "stored", "lost", "refused", "not_tried"
"""What became of something that was appended: kept, only taken by a STORE afterwards, ignored, refused."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a probe says of a target, as far as a copy uses it; empty for a server that nobody has probed."""

    connections: int | None = None
    """So many append faster than fewer."""
    most_connections: int | None = None
    """More than these were refused; None where none was."""
    size_limit: int | None = None
    """Octets, where the server tells no limit of its own."""
    keywords: str = ""
    """`kept`, `stored` (by STORE alone), `dropped`; "" is not known."""
    ignored_flags: frozenset[str] = frozenset()
    """Flags that are to be set by STORE, because APPEND loses them; lower case."""
    refused_defects: Mapping[str, str] = field(default_factory=dict)
    """Repairs without which a message is refused (`imapcopy.repair`), with the words of the refusal."""
    refused_characters: frozenset[str] = frozenset()
    """Characters that a folder's name cannot have."""
    one_of_equals: bool = False
    """The same octets in the same folder are stored once."""
    greeting: str = ""
    """The `signature` of the server that was probed."""
    outdated: bool = False
    """There is a probe, and it is not gone by: it is too old, was not finished, or another server answers there now."""

    def refuses(self, name: str) -> bool:
        """Whether a folder of that name cannot be made."""
        beyond = any(character > "\uffff" for character in name)
        return bool(self.refused_characters & set(name)) or (EMOJI in self.refused_characters and beyond)

    def ignores(self, flag: str) -> bool:
        """Whether APPEND loses a flag that STORE keeps."""
        return flag.lower() in self.ignored_flags or (self.keywords == "stored" and not flag.startswith("\\"))

    def of(self, greeting: str) -> "Known":
        """What of it holds for the server that greets so."""
        return self if self.greeting in {"", signature(greeting)} else Known(outdated=True)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast so many connections appended, together."""

    connections: int
    """That were asked for."""
    opened: int
    messages: int
    seconds: float
    errors: tuple[str, ...] = ()
    """Causes of what was refused or lost."""

    @property
    def a_second(self) -> float:
        return self.messages / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Probe:
    """The facts about one destination. Texts of servers have no secrets in them."""

    host: str
    at: datetime
    greeting: str = ""
    mechanism: str = ""
    capabilities: tuple[str, ...] = ()
    prefix: str = ""
    separator: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)
    """By kind of name: "" where the folder could be made and is listed under its name, else what the server said."""
    uidplus: str = ""
    """`right`, `absent` or `wrong`: what APPENDUID tells."""
    shows: str = ""
    """When a new message can be seen: `at_once`, `refreshed`, `reopened`, `never`."""
    date: str = ""
    """`kept`, `zone` (the moment alone), `lost`, `refused`."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """By flag: kept, stored, lost or refused; keywords too."""
    permanent_flags: str = ""
    """`any` keyword, `some`, or `none`."""
    special: Mapping[str, str] = field(default_factory=dict)
    """By role: "" where an APPEND into that folder arrived, `absent`, `not_tried`, else what the server said."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """By kind of message: "" where it came back octet by octet, the name of what was altered, or `refused`, or
    `repaired` where it was taken only after the repair."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What the server said when it refused something, by what it was."""
    duplicates: int = 0
    """How many are stored of the same message appended twice; 0 is not known."""
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Of those that are offered: `works` or what the server said."""
    told_limit: int | None = None
    """The server's own limit for a message (RFC 7889)."""
    largest_taken: int | None = None
    smallest_refused: int | None = None
    """Of the sizes that were tried."""
    quota: tuple[int, int] | None = None
    rates: tuple[Rate, ...] = ()
    without_room: int = 0
    """So many connections could not be tried, because members had them or the cap of the host is lower."""
    connections: int = 1
    """To begin with."""
    leftovers: tuple[str, ...] = ()
    """What could not be removed again."""
    removed: tuple[str, ...] = ()
    """What an earlier probe had left behind."""
    unfinished: str = ""
    """The cause by which the probe ended early; "" when it went through."""

    def document(self) -> str:
        """As JSON, for `Probe.read`."""
        return json.dumps({"version": DOCUMENT, **self.values()}, ensure_ascii=False)

    def values(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def read(cls, document: str) -> "Probe | None":
        """What `document` gave; None for a version that is not ours."""
        told: dict[str, Any] = json.loads(document)
        if told.pop("version", 0) != DOCUMENT:
            return None
        told["at"] = datetime.fromisoformat(told["at"])
        told["quota"] = tuple(told["quota"]) if told["quota"] else None
        told["rates"] = tuple(Rate(**{**rate, "errors": tuple(rate["errors"])}) for rate in told["rates"])
        for name in ("capabilities", "leftovers", "removed"):
            told[name] = tuple(told[name])
        return cls(**told)

    @property
    def most_connections(self) -> int | None:
        """How many connections went well where more did not, None where all did."""
        if not self.rates or not self.rates[-1].errors:
            return None
        went_well = [rate.connections for rate in self.rates if not rate.errors]
        return max([1, *went_well])

    @property
    def size_limit(self) -> int | None:
        """The largest message that is known to have a chance: one octet less than what was refused."""
        return self.smallest_refused - 1 if self.smallest_refused is not None and self.told_limit is None else None


class ProbeResult(SQLModel, table=True):
    """The last probe of a destination."""

    host: str = Field(primary_key=True)
    """Lower case."""
    at: datetime
    greeting: str
    document: str
    """A `Probe`."""


def note_probe(engine: Engine, probe: Probe) -> None:
    """Keep a probe in place of the one before it."""
    host = probe.host.lower()
    with writing(engine) as session:
        row = session.get(ProbeResult, host) or ProbeResult(host=host, at=probe.at, greeting="", document="")
        row.at, row.greeting, row.document = probe.at, probe.greeting, probe.document()
        session.add(row)


def find_probe(engine: Engine, host: str) -> Probe | None:
    """The last probe of a host, None if there is none that can be read."""
    with reading(engine) as session:
        row = session.get(ProbeResult, host.lower())
        return Probe.read(row.document) if row else None


def probes(engine: Engine) -> list[Probe]:
    """The last probe of every host."""
    with reading(engine) as session:
        rows = session.exec(select(ProbeResult).order_by(col(ProbeResult.host))).all()
        return [probe for row in rows if (probe := Probe.read(row.document))]


def is_stale(probe: Probe, at: datetime) -> bool:
    """Whether a probe is too old to be gone by."""
    return at - probe.at > LASTS


def best_of(rates: Sequence[Rate]) -> int:
    """So many connections are worth having: the most of which each doubling was faster, and none was refused. Pure."""
    best, found = 0.0, 1
    for rate in rates:
        if rate.errors or rate.a_second < WORTH_IT * best:
            break
        best, found = rate.a_second, rate.connections
    return found


def signature(greeting: str) -> str:
    """A greeting without what changes from one connection to the next: hosts, times, numbers, capabilities."""
    words = re.sub(r"\[[^\]]*\]", " ", greeting.removeprefix("* OK")).split()
    return " ".join(word for word in words if not re.search(r"[\d.:@]", word)).strip()


def known(probe: Probe | None, at: datetime) -> Known:
    """What a copy may go by at that time; nothing of a probe that is stale or was not finished. Pure."""
    if probe is None:
        return Known()
    if is_stale(probe, at) or probe.unfinished:
        return Known(outdated=True)
    states = {flag: state for flag, state in probe.flags.items() if flag.startswith("\\")}
    of_keywords = [state for flag, state in probe.flags.items() if flag not in states]
    told = Known(
        greeting=signature(probe.greeting),
        connections=probe.connections if probe.rates else None,
        most_connections=probe.most_connections,
        size_limit=probe.size_limit,
        ignored_flags=frozenset(flag.lower() for flag, state in states.items() if state == STORED),
        refused_defects={
            DEFECTS[kind]: probe.words.get(kind, "")
            for kind, how in probe.messages.items()
            if how == "repaired" and kind in DEFECTS
        },
        refused_characters=frozenset(
            EMOJI if kind == "emoji" else kind.removeprefix("char:")
            for kind, said in probe.folders.items()
            if said and (kind == "emoji" or kind.startswith("char:"))
        ),
        one_of_equals=probe.duplicates == 1,
    )
    if not of_keywords:
        return told
    if all(state == KEPT for state in of_keywords):
        return replace(told, keywords="kept")
    if all(state in {LOST, REFUSED} for state in of_keywords):
        return replace(told, keywords="dropped")
    return replace(told, keywords="stored") if STORED in of_keywords else told
