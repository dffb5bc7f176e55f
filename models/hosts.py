"""What all runners know together of a mail server: its caps and pace, until when it is left alone, who holds slots.

One row a host, whichever side it stands on. A slot is leave to have one connection open. The decisions are pure
functions; what changes a row locks it first.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, UniqueConstraint, col, select

from models.columns import now
from models.database import reading, writing
from models.member import lease_end, lives, this_runner

GROWS_EVERY = timedelta(minutes=10)
"""A cap that was learned grows by one connection after each such time without a refusal."""
QUIET = timedelta(minutes=10)
"""After so long without another pause the pauses of a host begin with the shortest again."""
ALIKE_WITHIN = timedelta(minutes=5)
ALIKE = 3
"""So many unrelated members that fail alike within that time are one event of the host."""
ASKS_WITHIN = timedelta(seconds=10)
"""Who waits asks every second; one that has not asked for so long waits no more."""
STANDARD_PORTS = (143, 993)


class Host(SQLModel, table=True):
    """One mail server."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    connections: int | None = None
    """The admin's cap."""
    logins_a_minute: int | None = None
    """The admin's pace."""
    learned: int | None = None
    """The cap that the server has shown, at `learned_at`."""
    learned_at: datetime | None = None
    paused_until: datetime | None = None
    """Until then it gets no command."""
    logins_paused_until: datetime | None = None
    """Until then nobody signs in; who is signed in goes on."""
    cause: str = ""
    words: str = ""
    """Why it was paused last, and the server's words."""
    paused_by: str = ""
    """`server`, `event` (members failed alike) or `admin`."""
    pauses: int = 0
    """In a row, without a quiet time between them."""
    next_login_at: datetime | None = None
    """When the pace allows another sign-in."""
    worked_at: datetime | None = None
    """When a sign-in last succeeded, to the hour."""
    recent: str = "[]"
    """JSON: time, member and cause of the failures within ALIKE_WITHIN."""


class HostSlots(SQLModel, table=True):
    """How many slots of a host a runner holds, and how many more it would like."""

    __table_args__ = (UniqueConstraint("host_id", "runner"),)

    id: int | None = Field(default=None, primary_key=True)
    host_id: int = Field(foreign_key="host.id", index=True)
    runner: str
    slots: int = 0
    wanted: int = 0
    wanted_since: datetime | None = None
    asked_at: datetime
    until: datetime
    """The end of the runner's lease, for those that cannot see whether it lives."""


def host_name(host: str, port: int) -> str:
    """How a server is called here: one server has one governor, whichever of the standard ports is spoken to."""
    name = host.lower().rstrip(".")
    return name if port in STANDARD_PORTS else f"{name}:{port}"


# Decisions


@dataclass(frozen=True, slots=True)
class Claim:
    """What a runner holds of a host and would like besides."""

    slots: int = 0
    wanted: int = 0
    since: datetime | None = None
    """When it began to want."""


def cap(host: Host, usual: int, at: datetime) -> int:
    """How many connections all runners together may have now; `usual` where the admin says nothing."""
    most = host.connections or usual
    if host.learned is None or host.learned_at is None:
        return most
    return max(1, min(most, host.learned + int((at - host.learned_at) / GROWS_EVERY)))


def share(most: int, own: Claim, others: Sequence[Claim]) -> int:
    """How many slots a runner may keep or take, of so many in all: as many as it likes while nobody else waits."""
    waiting = [claim for claim in others if claim.wanted]
    if not waiting:
        return most
    fair = most // (1 + sum(bool(claim.slots or claim.wanted) for claim in others))
    if fair:
        return fair
    # Fewer slots than runners: one each, in turn. Who holds one gives it back, who waits longest is next.
    ahead = sum(not claim.slots and _before(claim, own) for claim in waiting)
    return 1 if not own.slots and ahead < most else 0


def granted(most: int, own: Claim, others: Sequence[Claim]) -> int:
    """How many slots a runner has after it has asked: never less than it holds, never more in all than the cap."""
    free = most - own.slots - sum(claim.slots for claim in others)
    return own.slots + max(0, min(own.wanted, free, share(most, own, others) - own.slots))


def _before(one: Claim, other: Claim) -> bool:
    return one.since is not None and (other.since is None or one.since < other.since)


def alike(recent: Sequence[tuple[datetime, int, str]], cause: str, at: datetime) -> bool:
    """Whether unrelated members have failed alike of late."""
    return len({member for when, member, which in recent if which == cause and at - when <= ALIKE_WITHIN}) >= ALIKE


def pauses_in_a_row(host: Host, at: datetime) -> int:
    """How many pauses came one after the other until now."""
    ended = max((t for t in (host.paused_until, host.logins_paused_until) if t), default=None)
    if ended is None or at - ended > QUIET:
        return 0
    # One that is going on did not come before itself.
    return host.pauses - 1 if ended > at else host.pauses


# Rows


@contextmanager
def changing(engine: Engine, name: str) -> Iterator[tuple[Session, Host]]:
    """The row of a host, made where there is none, locked until the body ends."""
    _make(engine, name)
    with writing(engine, alone=False) as session:
        host = session.exec(select(Host).where(Host.name == name).with_for_update()).one()
        yield session, host
        session.add(host)


def _make(engine: Engine, name: str) -> None:
    with reading(engine) as session:
        if session.exec(select(Host.id).where(Host.name == name)).first() is not None:
            return
    try:
        with writing(engine, alone=False) as session:
            session.add(Host(name=name))
    except IntegrityError:
        return  # another runner has just made it


def pause(
    host: Host,
    until: datetime,
    cause: str,
    words: str,
    *,
    by: str = "server",
    logins_only: bool = False,
    at: datetime,
) -> bool:
    """Leave the host alone until then, and no shorter than before; whether that is a pause of its own."""
    before = host.logins_paused_until if logins_only else host.paused_until
    fresh = before is None or before <= at
    if fresh:
        host.pauses = pauses_in_a_row(host, at) + 1
    if before is None or until > before:
        if logins_only:
            host.logins_paused_until = until
        else:
            host.paused_until = until
        host.cause, host.words, host.paused_by = cause, words, by
    return fresh


def halve(host: Host, held: int, at: datetime) -> None:
    """The server will not have so many connections: try half of them, and no fewer than one."""
    host.learned, host.learned_at = max(1, held // 2), at


def failed(host: Host, member_id: int, cause: str, at: datetime) -> bool:
    """Note that a member failed; whether that makes it an event of the host."""
    recent = [each for each in failures(host) if at - each[0] <= ALIKE_WITHIN and each[1:] != (member_id, cause)]
    recent.append((at, member_id, cause))
    event = alike(recent, cause, at)
    kept = [] if event else recent[-20:]
    host.recent = json.dumps([[when.isoformat(), member, which] for when, member, which in kept])
    return event


def failures(host: Host) -> list[tuple[datetime, int, str]]:
    """The failures that were noted of late."""
    return [(datetime.fromisoformat(when), member, cause) for when, member, cause in json.loads(host.recent)]


def ask(
    engine: Engine, name: str, usual: int, *, keep: int, wanted: int, least: int = 1, runner: str = ""
) -> tuple[Host, int, int]:
    """Say how many slots of a host this runner keeps and how many more it would like; `least` is no cap below.

    Returns the host, how many it has now, and how many it may keep (`share`).
    """
    runner = runner or this_runner()
    at = now()
    with changing(engine, name) as (session, host):
        rows = session.exec(select(HostSlots).where(HostSlots.host_id == host.id)).all()
        own = next((row for row in rows if row.runner == runner), None)
        if own is None:
            own = HostSlots(host_id=host.id or 0, runner=runner, asked_at=at, until=at)
        since = (own.wanted_since or at) if wanted else None
        others = []
        for row in rows:
            if row is own:
                continue
            if not lives(row.runner, row.until):
                session.delete(row)
                continue
            others.append(_claim(row, at))
        most = max(cap(host, usual, at), least)
        claim = Claim(keep, wanted, since)
        own.slots = granted(most, claim, others)
        own.wanted = max(0, wanted - (own.slots - keep))
        own.wanted_since = since if own.wanted else None
        own.asked_at, own.until = at, lease_end()
        if own.slots or own.wanted:
            session.add(own)
        elif own.id is not None:
            session.delete(own)
        return host, own.slots, share(most, Claim(own.slots, own.wanted, own.wanted_since), others)


def look(engine: Engine, names: Sequence[str], runner: str = "") -> dict[str, tuple[Host, list[Claim]]]:
    """These hosts with what other living runners hold and want of them, in one reading transaction."""
    at = now()
    with reading(engine) as session:
        hosts = {host.id: host for host in session.exec(select(Host).where(col(Host.name).in_(names)))}
        found: dict[str, tuple[Host, list[Claim]]] = {host.name: (host, []) for host in hosts.values()}
        for row in session.exec(select(HostSlots).where(col(HostSlots.host_id).in_(hosts))):
            if row.runner != (runner or this_runner()) and lives(row.runner, row.until):
                found[hosts[row.host_id].name][1].append(_claim(row, at))
        return found


def _claim(row: HostSlots, at: datetime) -> Claim:
    waits = row.wanted if at - row.asked_at <= ASKS_WITHIN else 0
    return Claim(row.slots, waits, row.wanted_since)


def keep_slots(engine: Engine, runner: str = "") -> None:
    """Push on the end of the lease of this runner's slots at all hosts."""
    with writing(engine, alone=False) as session:
        mine = col(HostSlots.runner) == (runner or this_runner())
        session.exec(update(HostSlots).where(mine).values(until=lease_end()))


def drop_slots(engine: Engine, runner: str = "") -> None:
    """Give back all slots of this runner."""
    with writing(engine, alone=False) as session:
        session.exec(delete(HostSlots).where(col(HostSlots.runner) == (runner or this_runner())))


# What people see


@dataclass(frozen=True, slots=True)
class HostWait:
    """A host that is left alone now."""

    name: str
    until: datetime
    cause: str
    words: str
    logins_only: bool


def waits(session: Session, at: datetime) -> tuple[HostWait, ...]:
    """The hosts that are left alone now, by name."""
    found = []
    for host in session.exec(select(Host).order_by(Host.name)):
        for until, logins_only in ((host.paused_until, False), (host.logins_paused_until, True)):
            if until is not None and until > at:
                found.append(HostWait(host.name, until, host.cause, host.words, logins_only))
                break
    return tuple(found)


def all_hosts(engine: Engine) -> list[tuple[Host, Mapping[str, Claim]]]:
    """Every host that is known, with the living runners that hold or want slots."""
    at = now()
    with reading(engine) as session:
        rows = session.exec(select(HostSlots)).all()
        return [
            (host, {r.runner: _claim(r, at) for r in rows if r.host_id == host.id and lives(r.runner, r.until)})
            for host in session.exec(select(Host).order_by(Host.name))
        ]
