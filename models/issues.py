"""The messages of a wave that somebody has to look at: not moved, altered, or repaired, each with what is known of it.

Subjects and senders are told only to who asks for them. What was altered may be most of a wave: it is read in streams,
or the first of each folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Engine, Select, and_, func
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from models.database import reading
from models.ledger_rows import FolderCopy, MessageAlteration, MessageIssue, MessageRepair
from models.lifecycle import find_wave
from models.member import Member
from models.rules import Subjects

T = TypeVar("T", MessageIssue, MessageRepair)

AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Issue:
    """One message that was not moved."""

    member_id: int
    email: str
    folder: str
    uidvalidity: int
    uid: int
    arrived: datetime | None
    size: int
    cause: str
    server_text: str
    digest: bytes | None
    subject: str | None = None
    """None where nobody has looked, or it is hidden."""
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class Mended:
    """One message that arrived repaired, and the server's words for which it was."""

    email: str
    folder: str
    uid: int
    repairs: Sequence[str]
    server_text: str


@dataclass(frozen=True, slots=True)
class AlteredMessage:
    """One message that arrived otherwise than it was."""

    member_id: int
    email: str
    folder: str
    uidvalidity: int
    uid: int
    target_folder: str
    target_uid: int
    arrived: datetime | None
    """At the source, and so its size."""
    size: int
    alterations: tuple[str, ...]
    repairs: tuple[str, ...] = ()
    """What was changed so that the new server took it."""
    server_text: str = ""
    """Its words before."""
    subject: str | None = None
    """None as with an issue."""
    sender: str | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class AlteredFolder:
    """The first altered messages of a folder, the gravest first, and how many there are."""

    name: str
    total: int
    messages: Sequence[AlteredMessage]


def issues_of(engine: Engine, wave: str, subjects: Subjects = "hidden") -> list[Issue]:
    """Every message of a wave that was not moved, by member, folder and UID."""
    shown = subjects == "shown"
    return [
        Issue(
            member_id=member.id or 0,
            email=member.email,
            folder=folder.source_name,
            uidvalidity=folder.source_uidvalidity,
            uid=issue.source_uid,
            arrived=issue.arrived,
            size=issue.size,
            cause=issue.cause,
            server_text=issue.server_text,
            digest=issue.digest,
            subject=issue.subject if shown else None,
            sender=issue.sender if shown else None,
        )
        for issue, folder, member in _rows_of(engine, wave, MessageIssue)
    ]


def repairs_of(engine: Engine, wave: str) -> list[Mended]:
    """Every message of a wave that was repaired, in the same order."""
    return [
        Mended(member.email, folder.source_name, row.source_uid, row.repairs.split(","), row.server_text)
        for row, folder, member in _rows_of(engine, wave, MessageRepair)
    ]


class AlteredMessages:
    """The altered messages of a wave."""

    def __init__(self, engine: Engine, wave: str, subjects: Subjects = "hidden") -> None:
        self._engine = engine
        self._wave = wave
        self._shown = subjects == "shown"

    def every(self) -> Iterator[AlteredMessage]:
        """All of them by member, folder and UID, never all of them in memory."""
        with reading(self._engine) as session:
            query = self._query(session).order_by(
                col(Member.line), col(FolderCopy.id), col(MessageAlteration.source_uid)
            )
            for row in session.connection().execute(query.execution_options(yield_per=AT_ONCE)):
                yield self._read(row)

    def members(self) -> list[tuple[int, str]]:
        """Id and address of each member that has any, in the order of the roster."""
        with reading(self._engine) as session:
            altered = (
                select(FolderCopy.member_id)
                .join(MessageAlteration, col(MessageAlteration.folder_copy_id) == col(FolderCopy.id))
                .where(col(FolderCopy.superseded).is_(False))
            )
            of_the_wave = select(Member.id, Member.email).where(Member.wave_id == find_wave(session, self._wave).id)
            rows = session.exec(of_the_wave.where(col(Member.id).in_(altered)).order_by(col(Member.line)))
            return [(member_id or 0, email) for member_id, email in rows]

    def of_member(self, member_id: int, first: int) -> list[AlteredFolder]:
        """Those of one member by folder, so many of each."""
        of_the_folder = col(MessageAlteration.folder_copy_id)
        gravest = (col(MessageAlteration.benign), col(MessageAlteration.source_uid))
        place = func.row_number().over(partition_by=of_the_folder, order_by=gravest).label("place")
        total = func.count().over(partition_by=of_the_folder).label("total")
        with reading(self._engine) as session:
            ranked = (
                self._query(session)
                .where(col(Member.id) == member_id)
                .add_columns(place, total, of_the_folder)
                .subquery()
            )
            chosen = columns(ranked).where(ranked.c.place <= first)
            rows = session.connection().execute(chosen.order_by(ranked.c.folder_copy_id, ranked.c.place)).all()
        return [
            AlteredFolder(some[0].source_name, some[0].total, [self._read(row) for row in some])
            for some in (list(each) for _, each in groupby(rows, lambda row: row.folder_copy_id))
        ]

    def _query(self, session: Session) -> Select[Any]:
        table = MessageAlteration
        mended = and_(
            col(MessageRepair.folder_copy_id) == col(table.folder_copy_id),
            col(MessageRepair.source_uid) == col(table.source_uid),
        )
        told: list[Any] = [
            *(col(Member.id).label("member_id"), Member.email),
            *(FolderCopy.source_name, FolderCopy.source_uidvalidity, FolderCopy.target_name),
            *(table.source_uid, table.target_uid, table.arrived, table.size, table.alterations),
            *(table.subject, table.sender, MessageRepair.repairs, MessageRepair.server_text),
        ]
        return (
            columns(*told)
            .select_from(table)
            .join(FolderCopy, col(FolderCopy.id) == col(table.folder_copy_id))
            .join(Member, col(Member.id) == col(FolderCopy.member_id))
            .outerjoin(MessageRepair, mended)
            .where(col(Member.wave_id) == find_wave(session, self._wave).id, col(FolderCopy.superseded).is_(False))
        )

    def _read(self, row: Any) -> AlteredMessage:
        return AlteredMessage(
            member_id=row.member_id,
            email=row.email,
            folder=row.source_name,
            uidvalidity=row.source_uidvalidity,
            uid=row.source_uid,
            target_folder=row.target_name,
            target_uid=row.target_uid,
            arrived=row.arrived,
            size=row.size,
            alterations=tuple(row.alterations.split(",")),
            repairs=tuple(row.repairs.split(",")) if row.repairs else (),
            server_text=row.server_text or "",
            subject=row.subject if self._shown else None,
            sender=row.sender if self._shown else None,
        )


def _rows_of(engine: Engine, wave: str, table: type[T]) -> Sequence[tuple[T, FolderCopy, Member]]:
    """What a table has about single messages of a wave, by member, folder and UID."""
    with reading(engine) as session:
        return session.exec(
            select(table, FolderCopy, Member)
            .join(FolderCopy, col(FolderCopy.id) == col(table.folder_copy_id))
            .join(Member, col(Member.id) == col(FolderCopy.member_id))
            .where(Member.wave_id == find_wave(session, wave).id, col(FolderCopy.superseded).is_(False))
            .order_by(col(Member.line), col(FolderCopy.id), col(table.source_uid))
        ).all()
