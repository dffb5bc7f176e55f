"""A member: one source account to be moved to one target account, its state, and the lease of its runner.

A lease says which runner moves the member now. Its token grows with every taking, and every ledger write names the
token, so that a runner that slept through its lease can write nothing more (fencing).
"""

import os
import socket
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path

from sqlalchemy import Engine, Table, bindparam, update
from sqlmodel import Field, Session, SQLModel, UniqueConstraint

from models.columns import WIDE, now, stored_as_value
from models.database import writing
from models.states import MemberState, check_member_change
from models.wave import Event

LEASE_SECONDS = 300.0
"""How long a silent runner keeps its member, unless `let_leases_last` said otherwise; each ledger write renews it."""

_lease_seconds = LEASE_SECONDS


class Member(SQLModel, table=True):
    """One row of the roster, without its secrets, and how far it is."""

    __table_args__ = (UniqueConstraint("wave_id", "email"),)

    id: int | None = Field(default=None, primary_key=True)
    wave_id: int = Field(foreign_key="wave.id", index=True)
    line: int
    email: str
    user_name: str
    user_root: str | None = None
    display_name: str | None = None
    department: str | None = None
    provider: str | None = None
    """As the roster has it."""
    source_provider: str = ""
    """The row of the table of providers that it means, or that was told otherwise; "" where nobody could tell."""
    target_provider: str = ""
    source_host: str | None = None
    source_port: int | None = None
    source_security: str | None = None
    target_host: str | None = None
    target_port: int | None = None
    target_security: str | None = None
    target_user_name: str | None = None
    source_admin: str | None = None
    """Who signs in for the member at that side; the password is theirs."""
    target_admin: str | None = None
    exclude_folders: str = ""
    """Folder names, one a line."""
    since: date | None = None
    language: str | None = None
    notify_address: str | None = None
    shared: bool = False
    note: str | None = None

    state: MemberState = Field(default=MemberState.QUEUED, sa_type=stored_as_value(MemberState))
    cause: str | None = None
    cause_side: str = ""
    server_text: str = ""
    hint: str = ""
    """What probably lies behind the failure (`models.hints.Hint`); "" where nothing is guessed."""
    known_by: str = ""
    """What told the cause (`models.server_words.KnownBy`)."""
    attempts: int = 0
    resume_at: datetime | None = None
    messages_found: int = 0
    """Messages at the source when the running pass listed it."""
    source_bytes: int = Field(default=0, sa_type=WIDE)
    oldest: datetime | None = None
    limited_range: str = ""
    """Why the old service is suspected to show only a part of the mail (`LimitedRange`); "" when it is not."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    worked_at: datetime | None = None
    """When both mailboxes were last signed in to."""
    refusals: str = ""
    """What the accounts were answered to their sign-in, since one last succeeded (`models.refusals`)."""

    lease_owner: str = ""
    lease_until: datetime | None = None
    lease_token: int = 0


_RUNS = frozenset("RSDI")
"""States of a process that goes on by itself; T and t are stopped."""
_TABLE: Table = Member.__table__  # type: ignore[attr-defined]
_UNDER_LEASE = update(_TABLE).where(_TABLE.c.id == bindparam("of"), _TABLE.c.lease_token == bindparam("held"))


class LeaseHeld(Exception):
    """Another runner moves this member now."""


class LeaseLost(Exception):
    """Another runner has taken this member over: write nothing more."""


def let_leases_last(seconds: float) -> None:
    """Set how long the leases of this process last."""
    global _lease_seconds
    _lease_seconds = seconds


def lease_seconds() -> float:
    """How long a lease of this process lasts without being renewed."""
    return _lease_seconds


@cache
def this_runner() -> str:
    """Name this process so that another one on the same machine can tell whether it still lives."""
    return f"{socket.gethostname()}/{_boot_id()}/{os.getpid()}/{_start_time(os.getpid())}"


def take_lease(engine: Engine, member_id: int, owner: str | None = None) -> int:
    """Make this process the member's runner and return the fencing token; LeaseHeld if another one lives."""
    with writing(engine, alone=False) as session:
        return lease(session, member_id, owner).lease_token


def lease(session: Session, member_id: int, owner: str | None = None, *, again: bool = False) -> Member:
    """Take the lease inside the caller's transaction; LeaseHeld if another runner lives.

    `again` takes it from this process too, which must know that none of its threads moves the member.
    """
    member = session.get_one(Member, member_id, with_for_update=True)
    if has_runner(member) and not (again and member.lease_owner == this_runner()):
        raise LeaseHeld(member.lease_owner)
    member.lease_owner = owner or this_runner()
    member.lease_token += 1
    member.lease_until = lease_end()
    session.add(member)
    return member


def leased(session: Session, member_id: int, token: int) -> Member:
    """The member, for its runner to change inside the caller's transaction; LeaseLost if the lease is not ours."""
    member = session.get_one(Member, member_id, with_for_update=True)
    if member.lease_token != token:
        raise LeaseLost(f"member {member_id} has another runner")
    return member


def give_back(member: Member) -> None:
    """End the lease inside the caller's transaction, with the last that its runner writes."""
    member.lease_owner, member.lease_until = "", None


def has_runner(member: Member) -> bool:
    """Whether a runner has the member's lease and, as far as can be told, still lives."""
    if not member.lease_owner or member.lease_until is None:
        return False
    return lives(member.lease_owner, member.lease_until)


def lives(runner: str, until: datetime) -> bool:
    """Whether a runner whose lease ends then still lives, as far as can be told.

    One that runs on this machine keeps what it has whatever the clock says: it renews it, and only a clock that was
    set, its or ours, can make the lease look old. One that is stopped (SIGSTOP) keeps it to its end.
    """
    state = _process_state(runner)
    if state is None:
        return until > now()
    return state in _RUNS or (state != "" and until > now())


def renew_lease(session: Session, member_id: int, token: int) -> None:
    """Check the token and push the lease's end on, inside the caller's transaction; LeaseLost if it is not ours."""
    note_under_lease(session, member_id, token)


def note_under_lease(session: Session, member_id: int, token: int, **values: object) -> None:
    """Write these columns together with the renewal, in one statement; LeaseLost if the lease is not ours."""
    # Asked of the table and not of the class, whose update looks for rows to refresh, in each of many transactions.
    statement = _UNDER_LEASE.values(lease_until=lease_end(), **values)
    if session.connection().execute(statement, {"of": member_id, "held": token}).rowcount != 1:
        raise LeaseLost(f"member {member_id} has another runner")


def renew_leases(engine: Engine, tokens: Mapping[int, int]) -> None:
    """Push on the leases of these members (id to token), in one transaction; what is lost or given back stays so."""
    held = _UNDER_LEASE.where(_TABLE.c.lease_owner != "")
    with writing(engine, alone=False) as session:
        # In order: who locks several rows must not meet another that has begun at the other end.
        for member_id, token in sorted(tokens.items()):
            values = {"of": member_id, "held": token}
            session.connection().execute(held.values(lease_until=lease_end()), values)


def release_lease(engine: Engine, member_id: int, token: int) -> None:
    """Give the member free; nothing happens if it is no longer ours."""
    with writing(engine, alone=False) as session:
        session.execute(_UNDER_LEASE.values(lease_owner="", lease_until=None), {"of": member_id, "held": token})


def lease_end() -> datetime:
    """When a lease ends that is taken or renewed now."""
    return now() + timedelta(seconds=_lease_seconds)


def change_state(
    session: Session,
    member: Member,
    new: MemberState,
    *,
    who: str = "",
    why: str = "",
) -> None:
    """Move a member to another state by the table of changes, and write it into the timeline."""
    check_member_change(member.state, new)
    if member.state != new or why:
        session.add(
            Event(wave_id=member.wave_id, member_id=member.id, who=who, what=f"{member.state} > {new}", why=why)
        )
    member.state = new
    session.add(member)


def _process_state(owner: str) -> str | None:
    """The state of a runner's process (proc(5) field 3), "" when it has ended; None for another machine's."""
    host, boot, pid, started = [*owner.split("/"), "", "", "", ""][:4]
    if host != socket.gethostname() or not pid.isdigit():
        return None
    if boot != _boot_id():
        return ""
    state, since = _stat(int(pid))
    return state if since == started else ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str, str]:
    """A process's state, and the ticks since boot at which it started, so that a reused pid is not mistaken."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    # A zombie is dead to us: its parent has only not looked yet.
    return ("", "") if fields[0] == "Z" else (fields[0], fields[19])
