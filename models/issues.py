"""The messages of a wave that were not moved, and those that had to be repaired, each with what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Engine
from sqlmodel import col, select

from models.database import reading
from models.ledger_rows import FolderCopy, MessageIssue, MessageRepair
from models.lifecycle import find_wave
from models.member import Member

T = TypeVar("T", MessageIssue, MessageRepair)


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


@dataclass(frozen=True, slots=True)
class Mended:
    """One message that arrived repaired, and the server's words for which it was."""

    email: str
    folder: str
    uid: int
    repairs: Sequence[str]
    server_text: str


def issues_of(engine: Engine, wave: str) -> list[Issue]:
    """Every message of a wave that was not moved, by member, folder and UID."""
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
        )
        for issue, folder, member in _rows_of(engine, wave, MessageIssue)
    ]


def repairs_of(engine: Engine, wave: str) -> list[Mended]:
    """Every message of a wave that was repaired, in the same order."""
    return [
        Mended(member.email, folder.source_name, row.source_uid, row.repairs.split(","), row.server_text)
        for row, folder, member in _rows_of(engine, wave, MessageRepair)
    ]


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
