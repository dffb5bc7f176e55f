"""How far a wave is, in one query: what the live table and `wave status` show."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, func, select
from sqlmodel import col

from models.columns import now
from models.database import reading
from models.hosts import HostWait, waits
from models.ledger_rows import FolderCopy
from models.lifecycle import copied_so_far, find_wave
from models.member import Member
from models.states import SHORT_STATES, MemberState, ShortState, WaveState


@dataclass(frozen=True, slots=True)
class MemberProgress:
    """One member's row; `done` counts messages that have their end, `found` those at the source."""

    email: str
    state: MemberState
    cause: str | None
    found: int
    done: int
    issues: int
    bytes: int
    resume_at: datetime | None

    @property
    def short_state(self) -> ShortState:
        return SHORT_STATES[self.state]


@dataclass(frozen=True, slots=True)
class WaveProgress:
    """A wave at one moment."""

    name: str
    state: WaveState
    started_at: datetime | None
    copied_this_run: int
    members: Sequence[MemberProgress]
    waits: Sequence[HostWait] = ()
    """Hosts that are left alone now."""

    def count(self, state: ShortState) -> int:
        return sum(member.short_state == state for member in self.members)


def wave_progress(engine: Engine, name: str) -> WaveProgress:
    """Read the wave's progress."""
    done = func.coalesce(func.sum(FolderCopy.copied + FolderCopy.already_there + FolderCopy.issues), 0)
    # Columns, not whole members: this is read again and again while the members of a large wave move.
    query = (
        select(
            col(Member.email),
            col(Member.state),
            col(Member.cause),
            col(Member.messages_found),
            col(Member.resume_at),
            done,
            func.coalesce(func.sum(FolderCopy.issues), 0),
            func.coalesce(func.sum(FolderCopy.bytes), 0),
        )
        .outerjoin(
            FolderCopy,
            (col(FolderCopy.member_id) == col(Member.id)) & col(FolderCopy.superseded).is_(False),
        )
        .group_by(col(Member.id))
        .order_by(col(Member.line))
    )
    with reading(engine) as session:
        wave = find_wave(session, name)
        members = [
            MemberProgress(
                email=email,
                state=state,
                cause=cause,
                found=max(found, handled),
                done=handled,
                issues=issues,
                bytes=int(size),  # PostgreSQL adds wide numbers up to a decimal
                resume_at=resume_at,
            )
            for email, state, cause, found, resume_at, handled, issues, size in session.execute(
                query.where(col(Member.wave_id) == wave.id)
            )
        ]
        copied, _ = copied_so_far(session, wave.id or 0)
        fresh = max(copied - wave.copied_before, 0)
        return WaveProgress(wave.name, wave.state, wave.run_started_at, fresh, members, waits(session, now()))
