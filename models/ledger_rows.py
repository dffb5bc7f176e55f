"""What the ledger consists of: its tables, and the plain values in which it is told of and asked for."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from sqlmodel import Field, SQLModel, UniqueConstraint

from models.columns import WIDE, now, stored_as_value
from models.flag_sets import Flags

DIGEST_BYTES = 16
MOVED = "moved_at_source"
"""The cause of an issue that is no loss: the copy of the message stays elsewhere, or the member deleted it."""

SEEN_ONCE = frozenset({"flags", "keyword_dropped", "date_received", "date_header", "date_unknown"})
"""Alterations that are looked for right after the copy alone: later the flags are the member's own."""
BENIGN = frozenset({"final_line_end", "line_ends", "keyword_dropped", "repaired", "date_received", "date_header"})
"""Alterations that change no letter of the mail."""


def name_of(source_uid: int) -> str:
    """How people are told of a message: by its UID, or `#5`, the fifth in its folder, where no command can name it."""
    return f"UID {source_uid}" if source_uid > 0 else f"#{-source_uid}"


class BatchState(StrEnum):
    INTENDED = "intended"
    """Committed before sending: what the target holds of it is not known."""
    CONFIRMED = "confirmed"
    """The target answered OK, or the messages were found there."""
    VERIFIED = "verified"
    """Re-read from the target and equal to what was sent."""


class BatchKind(StrEnum):
    COPIED = "copied"
    """Sent by us."""
    ADOPTED = "adopted"
    """Was at the target before us: an earlier tool's copy, or native delivery."""


class FolderCopy(SQLModel, table=True):
    """One source folder and its target, under one UIDVALIDITY of each; a new UIDVALIDITY makes a new row."""

    __table_args__ = (
        UniqueConstraint("member_id", "source_name", "source_uidvalidity", "target_name", "target_uidvalidity"),
    )

    id: int | None = Field(default=None, primary_key=True)
    member_id: int = Field(foreign_key="member.id", index=True)
    source_name: str
    source_uidvalidity: int = Field(sa_type=WIDE)
    target_name: str
    target_uidvalidity: int = Field(sa_type=WIDE)
    superseded: bool = False
    """A UIDVALIDITY changed or the folder is gone: kept for the record, no longer counted."""
    source_messages: int = 0
    copied: int = 0
    already_there: int = 0
    issues: int = 0
    bytes: int = Field(default=0, sa_type=WIDE)
    oldest: datetime | None = None
    newest: datetime | None = None
    altered: str = "{}"
    """JSON: messages by what the target's server changed in them."""
    read_back: int = 0
    gone: str = ""
    """Source UIDs of messages that were brought over and have left the folder since: never deleted at the target.

    A superseded row has them only when the whole folder was deleted at the source.
    """
    strayed: str = ""
    """Those of them that were moved, not deleted: an issue in another folder says so. Their copies did not follow."""
    moved: int = 0
    """Copies that followed their message into this folder."""
    flags_changed: int = 0
    """Messages whose flags changed at the source after they had been brought over, and were changed at the target."""
    settled: str = ""
    """JSON of the source's STATUS and `since` before a pass that left no rest; equal again means nothing to do."""
    doubt: str = ""
    """A `Doubt` that the next pass has to look into; "" for none."""
    updated_at: datetime = Field(default_factory=now)


class Batch(SQLModel, table=True):
    """Messages of one folder that were handed over together."""

    id: int | None = Field(default=None, primary_key=True)
    folder_copy_id: int = Field(foreign_key="foldercopy.id", index=True)
    kind: BatchKind = Field(default=BatchKind.COPIED, sa_type=stored_as_value(BatchKind))
    state: BatchState = Field(sa_type=stored_as_value(BatchState))
    source_uids: str
    target_uids: str = ""
    digests: bytes
    flags: str = ""
    """At the source when they were last carried over (`models.flag_sets`)."""
    bytes: int = Field(default=0, sa_type=WIDE)
    target_uidnext_before: int = Field(default=0, sa_type=WIDE)


class MessageIssue(SQLModel, table=True):
    """One message that was not moved, with the reason."""

    __table_args__ = (UniqueConstraint("folder_copy_id", "source_uid"),)

    id: int | None = Field(default=None, primary_key=True)
    folder_copy_id: int = Field(foreign_key="foldercopy.id", index=True)
    source_uid: int = Field(sa_type=WIDE)
    """Below 0 for a message that the source counts and does not show: then its number in the folder (`name_of`)."""
    cause: str
    server_text: str = ""
    size: int = Field(default=0, sa_type=WIDE)
    arrived: datetime | None = None
    digest: bytes | None = None
    """Of a message that has been read."""
    known_by: str = ""
    """What told the cause (`models.server_words.KnownBy`)."""
    subject: str | None = None
    """As it is shown; None when nobody has looked, or the admin wants it hidden."""
    sender: str | None = None
    at: datetime = Field(default_factory=now)


class MessageAlteration(SQLModel, table=True):
    """One message that arrived otherwise than it was. `FolderCopy.altered` counts them."""

    __table_args__ = (UniqueConstraint("folder_copy_id", "source_uid"),)

    id: int | None = Field(default=None, primary_key=True)
    folder_copy_id: int = Field(foreign_key="foldercopy.id", index=True)
    source_uid: int = Field(sa_type=WIDE)
    target_uid: int = Field(sa_type=WIDE)
    alterations: str
    """What was altered, with commas, in the order of the alphabet."""
    benign: bool = False
    """Each of them is."""
    size: int = Field(default=0, sa_type=WIDE)
    arrived: datetime | None = None
    subject: str | None = None
    """As it is at the source and as it is shown; None as with an issue."""
    sender: str | None = None
    at: datetime = Field(default_factory=now)


class MessageRepair(SQLModel, table=True):
    """One message that the target took only after it had been changed. Its digest in the batch is the source's."""

    __table_args__ = (UniqueConstraint("folder_copy_id", "source_uid"),)

    id: int | None = Field(default=None, primary_key=True)
    folder_copy_id: int = Field(foreign_key="foldercopy.id", index=True)
    source_uid: int = Field(sa_type=WIDE)
    repairs: str
    """What was changed, with commas (`imapcopy.repair`)."""
    server_text: str = ""
    """Why it was."""
    at: datetime = Field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a batch; `target_uid` is 0 while it is only intended."""

    source_uid: int
    target_uid: int
    digest: bytes
    flags: Flags = frozenset()
    """At the source when they were last carried over; what differs now was changed there since."""
    repairs: str = ""
    """What of it had to be changed; the ledger keeps it apart, as a `MessageRepair`."""
    refusal: str = ""
    """The server's words for which that was done, when it has just arrived."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as plain values."""

    id: int
    kind: BatchKind
    state: BatchState
    entries: tuple[Entry, ...]
    target_uidnext_before: int


class Heading(NamedTuple):
    """By what people find a message: both as they are shown, "" where there is none."""

    subject: str
    sender: str


@dataclass(frozen=True, slots=True)
class Altered:
    """A message that arrived otherwise than it was, as the engine reports it."""

    source_uid: int
    target_uid: int
    alterations: Collection[str]
    size: int = 0
    arrived: datetime | None = None
    heading: Heading | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A message that stays behind, as the engine reports it."""

    source_uid: int
    cause: str
    server_text: str = ""
    size: int = 0
    arrived: datetime | None = None
    digest: bytes | None = None
    known_by: str = ""
    heading: Heading | None = None
    """Where its octets were at hand."""


class Doubt(NamedTuple):
    """Something was sent again whose first sending might still be stored: later passes look whether it was."""

    uid: int
    """No second copy has a lower UID at the target."""
    told: int = 0
    """Second copies that have been counted."""
    since: float = 0.0
    """When it was sent again, in seconds since 1970."""

    @classmethod
    def read(cls, text: str) -> "Doubt | None":
        """The doubt of a folder's row, if there is one."""
        return cls(*json.loads(text)) if text else None

    def written(self) -> str:
        return json.dumps(self)


class FolderKey(NamedTuple):
    """A pair of folders under one UIDVALIDITY of each."""

    source_name: str
    source_uidvalidity: int
    target_name: str
    target_uidvalidity: int


@dataclass(frozen=True, slots=True)
class Intended:
    """A batch that is about to be sent; `uidnext` is a UID below which nothing of it can arrive."""

    folder_id: int
    source_uids: Sequence[int]
    digests: Sequence[bytes]
    size: int
    uidnext: int
    flags: Sequence[Flags] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an intended batch; what is in neither list is to be sent again. `size` is of what arrived."""

    batch_id: int
    folder_id: int
    arrived: Sequence[Entry]
    size: int
    given_up: Sequence[GivenUp] = ()


@dataclass(frozen=True, slots=True)
class FolderTally:
    """The numbers of one folder after a pass: its source messages by their end."""

    source_messages: int
    copied: int
    already_there: int
    issues: int
    oldest: datetime | None
    newest: datetime | None
    settled: str
    gone: Sequence[int] = ()
    """Source UIDs of what was brought over and is no longer at the source."""
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """One folder after a pass: which batches were re-read, and the numbers.

    `altered` counts what is no `Altered` of the ledger: second copies. `moved` and `flags_changed` are of this pass
    alone.
    """

    folder_id: int
    tally: FolderTally
    verified: Collection[int] = ()
    """Ids of batches."""
    altered: Mapping[str, int] = field(default_factory=dict)
    read_back: int = 0
    moved: int = 0
    flags_changed: int = 0
    outdated: Collection[int] = ()
    """Source UIDs of issues whose messages have left the folder."""
    afresh: Mapping[str, Collection[int]] | None = None
    """Source UIDs by what was altered, where all of the folder was read again: of what earlier passes found only this
    and what is `SEEN_ONCE` remains."""
