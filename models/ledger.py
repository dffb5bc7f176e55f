"""The ledger: what was intended, confirmed, adopted or given up. The only truth about a copy.

The unit is the batch: consecutive messages of one folder that were handed over together, as UID sets in append order
with a 16-byte digest a message. `intend` is committed before the first byte goes out and `confirm` after the server's
answer, so a batch found intended is one whose outcome must be looked up at the target, never sent again blindly.
Every write checks the runner's fencing token first.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Engine, delete
from sqlmodel import Field, Session, SQLModel, UniqueConstraint, col, select

from models.columns import now, stored_as_value
from models.database import reading, writing
from models.member import renew_lease
from models.uid_sets import format_uids, parse_uids

DIGEST_BYTES = 16


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
    source_uidvalidity: int
    target_name: str
    target_uidvalidity: int
    superseded: bool = False
    """A UIDVALIDITY changed or the folder is gone: kept for the record, no longer counted."""
    source_messages: int = 0
    copied: int = 0
    already_there: int = 0
    issues: int = 0
    bytes: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    altered: str = "{}"
    """JSON: messages by what the target's server changed in them."""
    read_back: int = 0
    settled: str = ""
    """JSON of both sides' STATUS after a pass without a rest; equal again means nothing to do."""
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
    bytes: int = 0
    target_uidnext_before: int = 0


class MessageIssue(SQLModel, table=True):
    """One message that was not moved, with the reason."""

    __table_args__ = (UniqueConstraint("folder_copy_id", "source_uid"),)

    id: int | None = Field(default=None, primary_key=True)
    folder_copy_id: int = Field(foreign_key="foldercopy.id", index=True)
    source_uid: int
    cause: str
    server_text: str = ""
    size: int = 0
    arrived: datetime | None = None
    at: datetime = Field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a batch; `target_uid` is 0 while it is only intended."""

    source_uid: int
    target_uid: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as plain values."""

    id: int
    kind: BatchKind
    state: BatchState
    entries: tuple[Entry, ...]
    target_uidnext_before: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A message that stays behind, as the engine reports it."""

    source_uid: int
    cause: str
    server_text: str = ""
    size: int = 0
    arrived: datetime | None = None


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


class Ledger:
    """The ledger of one member, written by its one runner."""

    def __init__(self, engine: Engine, member_id: int, token: int) -> None:
        self._engine = engine
        self._member_id = member_id
        self._token = token

    @contextmanager
    def _fenced(self) -> Iterator[Session]:
        """A writing transaction that LeaseLost ends when another runner has taken over."""
        with writing(self._engine) as session:
            renew_lease(session, self._member_id, self._token)
            yield session

    def check_lease(self) -> None:
        """Raise LeaseLost when another runner has taken over; renew the lease otherwise."""
        with self._fenced():
            pass

    def open_folder(
        self, source_name: str, source_uidvalidity: int, target_name: str, target_uidvalidity: int
    ) -> FolderCopy:
        """The row of this folder pair under these UIDVALIDITYs; rows under others are superseded."""
        with self._fenced() as session:
            rows = session.exec(
                select(FolderCopy).where(FolderCopy.member_id == self._member_id, FolderCopy.source_name == source_name)
            ).all()
            found = None
            for row in rows:
                same = (row.source_uidvalidity, row.target_name, row.target_uidvalidity) == (
                    source_uidvalidity,
                    target_name,
                    target_uidvalidity,
                )
                row.superseded = not same
                session.add(row)
                found = row if same else found
            if found is None:
                found = FolderCopy(
                    member_id=self._member_id,
                    source_name=source_name,
                    source_uidvalidity=source_uidvalidity,
                    target_name=target_name,
                    target_uidvalidity=target_uidvalidity,
                )
                session.add(found)
                session.flush()
            return found

    def folders(self) -> list[FolderCopy]:
        """Every current folder of the member."""
        with reading(self._engine) as session:
            return list(
                session.exec(
                    select(FolderCopy)
                    .where(FolderCopy.member_id == self._member_id, col(FolderCopy.superseded).is_(False))
                    .order_by(col(FolderCopy.id))
                )
            )

    def supersede_all_but(self, folder_ids: Sequence[int]) -> None:
        """Stop counting folders that are no longer at the source."""
        with self._fenced() as session:
            for row in session.exec(select(FolderCopy).where(FolderCopy.member_id == self._member_id)):
                if row.id not in folder_ids and not row.superseded:
                    row.superseded = True
                    session.add(row)

    def batches(self, folder_id: int) -> list[BatchRecord]:
        """Every batch of a folder, oldest first."""
        with reading(self._engine) as session:
            rows = session.exec(select(Batch).where(Batch.folder_copy_id == folder_id).order_by(col(Batch.id)))
            return [_record(row) for row in rows]

    def claimed_target_uids(self, target_name: str, target_uidvalidity: int) -> set[int]:
        """Target UIDs that already stand for a source message, over all folders copied into that target folder."""
        with reading(self._engine) as session:
            rows = session.exec(
                select(Batch.target_uids)
                .join(FolderCopy, col(FolderCopy.id) == col(Batch.folder_copy_id))
                .where(
                    FolderCopy.member_id == self._member_id,
                    FolderCopy.target_name == target_name,
                    FolderCopy.target_uidvalidity == target_uidvalidity,
                    col(FolderCopy.superseded).is_(False),
                )
            )
            return {uid for text in rows for uid in parse_uids(text)}

    def issues(self, folder_id: int) -> dict[int, MessageIssue]:
        """Messages of a folder that were given up, by source UID."""
        with reading(self._engine) as session:
            rows = session.exec(select(MessageIssue).where(MessageIssue.folder_copy_id == folder_id))
            return {row.source_uid: row for row in rows}

    def intend(
        self, folder_id: int, source_uids: Sequence[int], digests: Sequence[bytes], size: int, uidnext: int
    ) -> int:
        """Commit what is about to be sent; `uidnext` is the target's UIDNEXT now. Returns the batch's id."""
        with self._fenced() as session:
            batch = Batch(
                folder_copy_id=folder_id,
                state=BatchState.INTENDED,
                source_uids=format_uids(source_uids),
                digests=b"".join(digests),
                bytes=size,
                target_uidnext_before=uidnext,
            )
            session.add(batch)
            session.flush()
            return _id(batch.id)

    def confirm(
        self, batch_id: int, arrived: Sequence[Entry], given_up: Sequence[GivenUp] = (), size: int | None = None
    ) -> None:
        """Commit what the target took of an intended batch; what is in neither list is to be sent again.

        `size` is the octets of what arrived; None where they are not known any more.
        """
        with self._fenced() as session:
            batch = session.get_one(Batch, batch_id)
            folder = session.get_one(FolderCopy, batch.folder_copy_id)
            if arrived:
                if size is None:
                    size = _share(batch.bytes, len(arrived), len(parse_uids(batch.source_uids)))
                batch.state = BatchState.CONFIRMED
                batch.source_uids = format_uids(entry.source_uid for entry in arrived)
                batch.target_uids = format_uids(entry.target_uid for entry in arrived)
                batch.digests = b"".join(entry.digest for entry in arrived)
                batch.bytes = size
                session.add(batch)
                folder.copied += len(arrived)
                folder.bytes += batch.bytes
            else:
                session.delete(batch)
            self._give_up(session, folder, given_up)

    def adopt(self, folder_id: int, entries: Sequence[Entry]) -> None:
        """Commit that these source messages were at the target before us."""
        if not entries:
            return
        with self._fenced() as session:
            folder = session.get_one(FolderCopy, folder_id)
            session.add(
                Batch(
                    folder_copy_id=folder_id,
                    kind=BatchKind.ADOPTED,
                    state=BatchState.CONFIRMED,
                    source_uids=format_uids(entry.source_uid for entry in entries),
                    target_uids=format_uids(entry.target_uid for entry in entries),
                    digests=b"".join(entry.digest for entry in entries),
                )
            )
            folder.already_there += len(entries)
            session.add(folder)

    def give_up(self, folder_id: int, messages: Sequence[GivenUp]) -> None:
        """Commit messages that stay behind, each with its reason."""
        if messages:
            with self._fenced() as session:
                self._give_up(session, session.get_one(FolderCopy, folder_id), messages)

    def _give_up(self, session: Session, folder: FolderCopy, messages: Sequence[GivenUp]) -> None:
        for message in messages:
            session.add(
                MessageIssue(
                    folder_copy_id=_id(folder.id),
                    source_uid=message.source_uid,
                    cause=message.cause,
                    server_text=message.server_text,
                    size=message.size,
                    arrived=message.arrived,
                )
            )
            folder.issues += 1
        session.add(folder)

    def reopen_issues(self) -> int:
        """Forget every given-up message of the member, so that the next pass tries it again; returns how many."""
        with self._fenced() as session:
            reopened = 0
            for folder in session.exec(select(FolderCopy).where(FolderCopy.member_id == self._member_id)):
                gone = session.exec(delete(MessageIssue).where(col(MessageIssue.folder_copy_id) == folder.id))
                if gone.rowcount:
                    folder.issues = 0
                    folder.settled = ""
                    session.add(folder)
                    reopened += gone.rowcount
            return reopened

    def mark_verified(
        self,
        folder_id: int,
        batch_ids: Sequence[int],
        altered: Mapping[str, int],
        read_back: int,
        *,
        afresh: bool = False,
    ) -> None:
        """Commit that these batches were re-read from the target, and what its server changed in them.

        `afresh` replaces what earlier passes found: all of the folder was read again.
        """
        with self._fenced() as session:
            folder = session.get_one(FolderCopy, folder_id)
            for batch_id in batch_ids:
                batch = session.get_one(Batch, batch_id)
                batch.state = BatchState.VERIFIED
                session.add(batch)
            total = {} if afresh else json.loads(folder.altered)
            for name, count in altered.items():
                total[name] = total.get(name, 0) + count
            folder.altered = json.dumps(total, sort_keys=True)
            folder.read_back = read_back if afresh else folder.read_back + read_back
            session.add(folder)

    def disown(self, folder_id: int, source_uids: set[int]) -> None:
        """Take messages out of their batches that are not at the target after all; the next plan sends them again."""
        with self._fenced() as session:
            folder = session.get_one(FolderCopy, folder_id)
            for batch in session.exec(select(Batch).where(Batch.folder_copy_id == folder_id)):
                record = _record(batch)
                kept = [entry for entry in record.entries if entry.source_uid not in source_uids]
                gone = len(record.entries) - len(kept)
                if not gone:
                    continue
                if batch.kind == BatchKind.COPIED:
                    folder.copied -= gone
                else:
                    folder.already_there -= gone
                rest = _share(batch.bytes, len(kept), len(record.entries))
                folder.bytes -= batch.bytes - rest
                session.add(folder)
                if kept:
                    batch.bytes = rest
                    batch.source_uids = format_uids(entry.source_uid for entry in kept)
                    batch.target_uids = format_uids(entry.target_uid for entry in kept)
                    batch.digests = b"".join(entry.digest for entry in kept)
                    session.add(batch)
                else:
                    session.delete(batch)

    def finish_folder(self, folder_id: int, tally: FolderTally) -> None:
        """Commit the numbers of a folder after a pass."""
        with self._fenced() as session:
            folder = session.get_one(FolderCopy, folder_id)
            for name in ("source_messages", "copied", "already_there", "issues", "oldest", "newest", "settled"):
                setattr(folder, name, getattr(tally, name))
            folder.updated_at = now()
            session.add(folder)


def _share(size: int, part: int, whole: int) -> int:
    """The octets of some of a batch's messages: an estimate, because only the batch's sum is kept."""
    return size * part // whole


def _record(row: Batch) -> BatchRecord:
    sources = parse_uids(row.source_uids)
    targets = parse_uids(row.target_uids) or [0] * len(sources)
    digests = [row.digests[i : i + DIGEST_BYTES] for i in range(0, len(row.digests), DIGEST_BYTES)]
    entries = tuple(Entry(*values) for values in zip(sources, targets, digests, strict=True))
    return BatchRecord(_id(row.id), row.kind, row.state, entries, row.target_uidnext_before)


def _id(value: int | None) -> int:
    if value is None:
        raise ValueError("a row that was never flushed has no id")
    return value
