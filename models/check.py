"""What a check saw of a member, and what follows from it: findings, each with whose turn it is.

A finding is a cause of `causes.toml` (what a copy would fail for) or a row of `findings.toml` (what an admin should
know before it begins). It is kept as its name and its values; the sentences are made where they are read.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Field, SQLModel

from models.bilingual import Text
from models.causes import Owner, cause
from models.columns import now
from models.database import writing
from models.hints import Hint
from models.member import leased
from models.other_side import OF_THE_NAME, hint_of_the_other_side
from models.traffic import days

DOCUMENT = 1
"""The version of the stored document; one of another version reads as no check at all."""


class Severity(StrEnum):
    """How much a finding matters, the gravest first."""

    BLOCKS = "blocks"
    """The member cannot be moved before somebody acts."""
    WARNS = "warns"
    """The member can be moved, and something is likely to stay behind."""
    TELLS = "tells"
    """Nothing is lost; it will look different at the target."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of `findings.toml`, or a cause: what is said of a finding, and whose turn it is."""

    title: Text
    advice: Text
    owner: Owner
    detail: Text | None = None
    """With places for the finding's values."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is to be known of a member."""

    name: str
    severity: Severity
    side: str = ""
    """`source` or `target`, for what lies with one of them."""
    values: Mapping[str, int] = field(default_factory=dict)
    server_text: str = ""
    where: str = ""
    """The folder, login or server that the server's words are about."""
    hint: Hint | None = None
    """What probably lies behind it."""
    known_by: str = ""
    """What told the cause (`models.server_words.KnownBy`); "" where no server said anything."""

    @classmethod
    def read(cls, kept: dict[str, Any]) -> "Finding":
        """As `Look.document` writes it; what a version before did not keep is empty."""
        hint = Hint.read(kept.pop("hint", ""))
        return cls(**{**kept, "severity": Severity(kept["severity"])}, hint=hint)

    @property
    def kind(self) -> Kind:
        return kind(self.name, self.side)


@dataclass(frozen=True, slots=True)
class Look:
    """What both sides showed. Octets throughout; quotas are used and allowed."""

    folders: int = 0
    messages: int = 0
    bytes: int = 0
    largest: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    limit: int | None = None
    """The largest message that the target takes, None where nobody knows."""
    limit_of: str = ""
    """Who says so: `server`, `probe` or `provider`."""
    too_large: int = 0
    """Messages beyond that."""
    there: int = 0
    """Messages that are at the target already."""
    source_quota: tuple[int, int] | None = None
    target_quota: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()

    def document(self) -> str:
        """As JSON, for `Look.read`."""
        told = {"version": DOCUMENT, **asdict(replace(self, findings=()))}
        told["findings"] = [{**asdict(found), "hint": str(found.hint or "")} for found in self.findings]
        for name in ("oldest", "newest"):
            told[name] = told[name].isoformat() if told[name] else None
        return json.dumps(told, ensure_ascii=False)

    @classmethod
    def read(cls, document: str) -> "Look | None":
        """What `document` gave; None for a version that is not ours."""
        told: dict[str, Any] = json.loads(document)
        if told.pop("version", 0) != DOCUMENT:
            return None
        for name in ("oldest", "newest"):
            told[name] = datetime.fromisoformat(told[name]) if told[name] else None
        for name in ("source_quota", "target_quota"):
            told[name] = tuple(told[name]) if told[name] else None
        found = tuple(Finding.read(each) for each in told.pop("findings"))
        return cls(**told, findings=found)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else a check saw that is worth a finding; counts."""

    sides_read: bool = True
    """Both sides answered: without that nothing can be said of how they fit together."""
    renamed: int = 0
    left_out: int = 0
    not_own: int = 0
    """Folders that are other users' or public, and left out."""
    other_names: int = 0
    """Further names of folders that are moved."""
    hidden: int = 0
    """Messages that the source counts and does not show."""
    restless: bool = False
    """The target tells another UIDVALIDITY each time that a folder is opened."""
    roles_wanted: bool = False
    """The source has special folders beside INBOX."""
    roles_marked: bool = True
    """The target marks its own (RFC 6154)."""
    keywords_kept: bool = True
    probe_outdated: bool = False
    read_a_day: int | None = None
    """Octets of one mailbox that the source's service lets be read in a day; None where no limit is known."""
    written_a_day: int | None = None
    """The same for the target's, and for writing."""


def findings(look: Look, seen: Circumstances) -> tuple[Finding, ...]:
    """What follows from a look that met no failure. Pure."""
    found: list[Finding] = []

    def note(name: str, severity: Severity, side: str = "", **values: int) -> None:
        found.append(Finding(name, severity, side, values))

    if seen.sides_read and look.target_quota:
        used, allowed = look.target_quota
        free = max(allowed - used, 0)
        if look.bytes > free and look.bytes - used > free:
            note("over_quota", Severity.BLOCKS, "target", need=look.bytes, free=free)
        elif look.bytes > free:
            # What is there may be a part of what is to come, from an earlier tool or an earlier pass.
            note("quota_tight", Severity.WARNS, "target", need=look.bytes, free=free, used=used)
    if look.too_large:
        note("too_large", Severity.WARNS, "target", n=look.too_large, limit=look.limit or 0, largest=look.largest)
    if seen.hidden:
        note("messages_hidden", Severity.WARNS, "source", n=seen.hidden)
    if look.folders and not look.messages:
        note("no_mail", Severity.WARNS, "source")
    if not seen.sides_read:
        return tuple(found)
    if seen.renamed:
        note("folders_renamed", Severity.TELLS, "target", n=seen.renamed)
    if seen.left_out:
        note("folders_left_out", Severity.TELLS, "source", n=seen.left_out)
    if seen.not_own:
        note("folders_not_own", Severity.TELLS, "source", n=seen.not_own)
    if seen.other_names:
        note("folders_listed_twice", Severity.TELLS, "source", n=seen.other_names)
    if look.there:
        note("target_not_empty", Severity.TELLS, "target", n=look.there)
    if seen.roles_wanted and not seen.roles_marked:
        note("no_special_use", Severity.TELLS, "target")
    if seen.restless:
        note("uidvalidity_restless", Severity.WARNS, "target")
    if not seen.keywords_kept:
        note("keywords_not_kept", Severity.TELLS, "target")
    limits = [("source", seen.read_a_day), ("target", seen.written_a_day)]
    slowest = max(((days(look.bytes, limit), side, limit) for side, limit in limits if limit), default=None)
    if slowest and slowest[0] > 1:
        note("daily_limit", Severity.TELLS, slowest[1], days=slowest[0], need=look.bytes, limit=slowest[2])
    if seen.probe_outdated:
        note("probe_outdated", Severity.TELLS, "target")
    return tuple(found)


@cache
def _rows() -> dict[str, dict[str, Any]]:
    return tomllib.loads((files("models") / "findings.toml").read_text(encoding="utf-8"))


@cache
def kind(name: str, side: str = "") -> Kind:
    """What is said of a finding of that name on a side; one that no table has reads as an unclassified failure."""
    row = _rows().get(name, {})
    detail = Text(**row["detail"]) if "detail" in row else None
    if "title" in row:
        return Kind(Text(**row["title"]), Text(row["advice_zh"], row["advice_en"]), row["owner"], detail)
    of = cause(name).at(side)
    return Kind(of.title, of.advice, of.owner, detail)


def finding_names() -> Iterable[str]:
    """The rows of the table."""
    return _rows().keys()


class MemberCheck(SQLModel, table=True):
    """The last check of a member."""

    member_id: int = Field(primary_key=True, foreign_key="member.id")
    at: datetime
    document: str
    """A `Look`."""


def note_check(engine: Engine, member_id: int, token: int, look: Look) -> None:
    """Keep what a check saw in place of what the one before it saw; LeaseLost if the lease is not ours.

    What only the others of the wave tell, that a login is of the other mailbox, is added as a hint.
    """
    with writing(engine, alone=False) as session:
        member = leased(session, member_id, token)
        told = tuple(
            replace(found, hint=hint_of_the_other_side(session, member, found.side))
            if found.hint is None and found.name in OF_THE_NAME
            else found
            for found in look.findings
        )
        row = session.get(MemberCheck, member_id) or MemberCheck(member_id=member_id, at=now(), document="")
        row.at, row.document = now(), replace(look, findings=told).document()
        session.add(row)
