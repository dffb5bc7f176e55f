"""The life of a wave in the database: who is to be moved now, how each one ended, what the wave's state is then."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import Engine, func, update
from sqlmodel import Session, col, select

from models.causes import harmless_causes
from models.columns import now
from models.database import reading, writing
from models.hints import Hint
from models.ledger_rows import FolderCopy, MessageAlteration, MessageIssue
from models.member import (
    Member,
    change_state,
    give_back,
    has_runner,
    lease,
    leased,
    note_under_lease,
    this_runner,
)
from models.other_side import OF_THE_NAME, hint_of_the_other_side
from models.receive_range import FolderAge, LimitedRange, Sign, limited_range
from models.refusals import is_parked, not_before, read_refusals
from models.states import AT_REST, FINAL, MOVED, SHORT_STATES, MemberState, ShortState, WaveState
from models.vault import Purged, Side, Vault
from models.wave import Event, InvalidRow, Wave

SIGN_IN_CAUSES = frozenset(
    {"bad_credentials", "app_password_required", "ambiguous_login", "password_expired", "password_missing"}
)
"""Failures at the source that a new password may cure."""


Met = Mapping[Side, str]
"""Whose servers a member's turned out to be while it was worked on, by side."""
_NOBODY: Met = MappingProxyType({})


class NoSuchWave(Exception):
    """No wave of that name."""


@dataclass(frozen=True, slots=True)
class Due:
    """A member to be moved in a run: where its mailboxes are, as the roster says, and when it may be begun."""

    id: int
    email: str
    source_host: str | None = None
    source_port: int | None = None
    source_security: str | None = None
    target_host: str | None = None
    target_port: int | None = None
    target_security: str | None = None
    source_provider: str = ""
    target_provider: str = ""
    not_before: datetime | None = None


def find_wave(session: Session, name: str) -> Wave:
    """The wave of that name, or NoSuchWave."""
    wave = session.exec(select(Wave).where(Wave.name == name)).first()
    if wave is None:
        raise NoSuchWave(name)
    return wave


def start_wave(
    engine: Engine,
    name: str,
    only: Collection[str] = (),
    flow_run_id: str | None = None,
    *,
    parked_too: bool = False,
    held: Collection[int] = (),
) -> list[Due]:
    """Put the wave's members in line for a pass (all that are not final, or only these addresses).

    Members that are parked, because an account of theirs was refused, stay so, unless they are wanted too. Those of
    the ids in `held` are not begun in any case.
    """
    with writing(engine) as session:
        wave = find_wave(session, name)
        wave.state = WaveState.RUNNING
        wave.run_started_at = now()
        wave.run_finished_at = None
        wave.flow_run_id = flow_run_id
        wave.copied_before, wave.bytes_before = copied_so_far(session, _id(wave.id))
        session.add(wave)
        session.add(Event(wave_id=_id(wave.id), who="runner", what="start"))
        return _queue(session, _id(wave.id), only, parked_too, frozenset(held))


def copied_so_far(session: Session, wave_id: int) -> tuple[int, int]:
    """Messages and bytes that all runs together have copied, superseded folders too."""
    messages, size = session.exec(
        select(func.coalesce(func.sum(FolderCopy.copied), 0), func.coalesce(func.sum(FolderCopy.bytes), 0))
        .join(Member, col(Member.id) == col(FolderCopy.member_id))
        .where(Member.wave_id == wave_id)
    ).one()
    return int(messages), int(size)


def start_check(engine: Engine, name: str, flow_run_id: str | None = None) -> list[Due]:
    """The members that a check looks at: all that have not been moved yet."""
    with writing(engine) as session:
        wave = find_wave(session, name)
        wave.state = WaveState.CHECKING
        wave.run_started_at, wave.run_finished_at = now(), None
        wave.flow_run_id = flow_run_id
        session.add(wave)
        session.add(Event(wave_id=_id(wave.id), who="runner", what="check"))
        members = session.exec(select(Member).where(Member.wave_id == wave.id).order_by(col(Member.line)))
        waiting = [member for member in members if member.state not in MOVED | FINAL]
        return [_due(member) for member in waiting if not is_parked(read_refusals(member.refusals))]


def wave_members(engine: Engine, name: str) -> list[Due]:
    """The members of a wave that are not final, in the order of the roster."""
    with reading(engine) as session:
        wave = find_wave(session, name)
        members = session.exec(select(Member).where(Member.wave_id == wave.id).order_by(col(Member.line)))
        return [_due(m) for m in members if m.state not in FINAL]


def _due(member: Member) -> Due:
    return Due(
        _id(member.id),
        member.email,
        member.source_host,
        member.source_port,
        member.source_security,
        member.target_host,
        member.target_port,
        member.target_security,
        member.source_provider,
        member.target_provider,
        not_before(read_refusals(member.refusals)),
    )


def _queue(session: Session, wave_id: int, only: Collection[str], parked_too: bool, held: Collection[int]) -> list[Due]:
    wanted = {email.casefold() for email in only}
    due = []
    for member in session.exec(select(Member).where(Member.wave_id == wave_id).order_by(col(Member.line))):
        if member.state in FINAL or (wanted and member.email.casefold() not in wanted) or member.id in held:
            continue
        if is_parked(read_refusals(member.refusals)):
            if not parked_too:
                continue
            member.refusals = ""
        # A member that another runner is moving keeps its state; its lease decides.
        if member.state in AT_REST:
            change_state(session, member, MemberState.QUEUED, who="runner")
            _forget_failure(member)
        due.append(_due(member))
    return due


def _forget_failure(member: Member) -> None:
    member.cause, member.cause_side, member.server_text = None, "", ""
    member.hint = member.known_by = ""
    member.resume_at = None


@contextmanager
def _last_of(engine: Engine, member_id: int, token: int, met: Met = _NOBODY) -> Iterator[tuple[Session, Member]]:
    """The transaction that ends a runner's work on a member and gives its lease back; LeaseLost ends it."""
    with writing(engine, alone=False) as session:
        member = leased(session, member_id, token)
        yield session, member
        # Last, so that all that is said of the member goes into one statement.
        for side, provider in met.items():
            # What is surer than a greeting has told it before.
            if not getattr(member, f"{side}_provider"):
                setattr(member, f"{side}_provider", provider)
        give_back(member)


def take_member(
    engine: Engine, member_id: int, state: MemberState = MemberState.SYNCING, *, again: bool = False
) -> Member:
    """Take a member's lease and note that its runner has begun, in one transaction; LeaseHeld if another one lives.

    `again` takes a lease that this process could not give back too.
    """
    with writing(engine, alone=False) as session:
        member = lease(session, member_id, again=again)
        change_state(session, member, state, who="runner")
        _forget_failure(member)
        member.attempts += 1
        member.started_at = now()
        member.finished_at = None
        return member


def member_found(engine: Engine, member_id: int, token: int, messages: int) -> None:
    """Note how much there is at the source, for progress."""
    with writing(engine, alone=False) as session:
        note_under_lease(session, member_id, token, messages_found=messages, worked_at=now())


def member_heard(engine: Engine, member_id: int, side: str, text: str) -> None:
    """Put what a server says to people into the member's timeline, once for each text."""
    with writing(engine, alone=False) as session:
        member = session.get(Member, member_id, with_for_update=True)
        same = Event.member_id == member_id, Event.who == side, Event.what == "says", Event.why == text
        if member and session.exec(select(Event.id).where(*same).limit(1)).first() is None:
            session.add(Event(wave_id=member.wave_id, member_id=member_id, who=side, what="says", why=text))


def member_checked(
    engine: Engine,
    member_id: int,
    token: int,
    folders: Sequence[FolderAge],
    size: int,
    quota_used: int = 0,
    met: Met = _NOBODY,
) -> None:
    """Note what a check saw (octets of the wanted mail, of the source's used quota), and give the lease back."""
    messages = sum(folder.messages for folder in folders)
    with _last_of(engine, member_id, token, met) as (session, member):
        member.messages_found, member.source_bytes = messages, size
        member.oldest = min((folder.oldest for folder in folders if folder.oldest), default=None)
        limited = limited_range(folders, now(), since=member.since, octets=size, used=quota_used)
        member.limited_range = str(limited or "")
        member.finished_at = member.worked_at = now()
        member.refusals = ""
        change_state(session, member, MemberState.READY, who="runner", why=f"{messages} messages, {size} bytes")


def member_moved(engine: Engine, member_id: int, token: int, met: Met = _NOBODY) -> MemberState:
    """Note that a pass went through, and give the lease back; returns the state that the ledger gives."""
    with _last_of(engine, member_id, token, met) as (session, member):
        own = select(FolderCopy.issues, FolderCopy.source_messages, FolderCopy.oldest).where(
            FolderCopy.member_id == member_id, col(FolderCopy.superseded).is_(False)
        )
        rows = session.exec(own).all()
        issues = sum(row[0] for row in rows)
        issues -= _harmless_issues(session, member_id) if issues else 0
        state = MemberState.SYNCED_WITH_ISSUES if issues else MemberState.SYNCED
        member.finished_at = now()
        member.refusals = ""
        member.limited_range = _limited_range(member, [FolderAge(*row[1:]) for row in rows])
        change_state(session, member, state, who="runner", why=f"{issues} not moved" if issues else "")
        return state


def _limited_range(member: Member, folders: Sequence[FolderAge]) -> str:
    """The suspicion that the folders give as the pass saw them; what only a check sees of the quota stays."""
    found = limited_range(folders, now(), since=member.since)
    before = LimitedRange.read(member.limited_range)
    return str(found or (before if before and before.sign == Sign.QUOTA else ""))


def _harmless_issues(session: Session, member_id: int) -> int:
    """Messages that were not moved and have their copy, or were done away with."""
    return session.exec(
        select(func.count(col(MessageIssue.id)))
        .join(FolderCopy, col(FolderCopy.id) == col(MessageIssue.folder_copy_id))
        .where(
            FolderCopy.member_id == member_id,
            col(FolderCopy.superseded).is_(False),
            col(MessageIssue.cause).in_(harmless_causes()),
        )
    ).one()


def member_failed(
    engine: Engine,
    member_id: int,
    token: int,
    cause: str,
    side: str,
    server_text: str,
    *,
    resume_at: datetime | None = None,
    refusals: str | None = None,
    hint: Hint | None = None,
    known_by: str = "",
    met: Met = _NOBODY,
) -> None:
    """Note why a pass stopped, and give the lease back; with `resume_at` it goes on by itself then.

    `refusals` are what its accounts have been answered by now, where that has changed; `hint` is what probably lies
    behind the failure, `known_by` what told its cause.
    """
    with _last_of(engine, member_id, token, met) as (session, member):
        if refusals is not None:
            member.refusals = refusals
        if hint is None and cause in OF_THE_NAME:
            hint = hint_of_the_other_side(session, member, side)
        member.hint, member.known_by = str(hint or ""), known_by
        _fail(session, member, cause, side, server_text, resume_at)


def _fail(
    session: Session, member: Member, cause: str, side: str, server_text: str, resume_at: datetime | None
) -> None:
    member.cause, member.cause_side, member.server_text = cause, side, server_text
    member.finished_at = now()
    member.resume_at = resume_at
    if resume_at is not None:
        state = MemberState.THROTTLED
    elif cause == "password_missing":
        state = MemberState.AWAITING_PASSWORD
    elif cause in SIGN_IN_CAUSES and side == "source":
        state = MemberState.NEEDS_PASSWORD
    else:
        state = MemberState.FAILED
    change_state(session, member, state, who="runner", why=f"{cause}: {server_text}" if server_text else cause)


def member_paused(engine: Engine, member_id: int, token: int) -> None:
    """Note that the run was stopped before this member was through, and give the lease back."""
    with _last_of(engine, member_id, token) as (session, member):
        _forget_failure(member)
        change_state(session, member, MemberState.PAUSED, who="runner", why="stopped")


def finish_wave(
    engine: Engine, name: str, *, checked_only: bool = False, unwritten: Mapping[int, str] = MappingProxyType({})
) -> WaveState:
    """Give the wave the state that its members make; a check leaves a wave that was never moved as it was.

    `unwritten` are members whose end this runner could not write down when they came to it, with the database's words.
    """
    with writing(engine) as session:
        wave = find_wave(session, name)
        members = session.exec(select(Member).where(Member.wave_id == wave.id)).all()
        for member in members:
            # Left behind by a runner that died, or that was stopped before the time to go on. One that lives still
            # moves its member, and the wave is running.
            under_way = SHORT_STATES[member.state] == ShortState.ACTIVE or member.state == MemberState.THROTTLED
            ours = member.lease_owner == this_runner() or not has_runner(member)
            if ours and member.state not in FINAL and (said := unwritten.get(_id(member.id))) is not None:
                give_back(member)
                _fail(session, member, "database_unavailable", "", said, None)
            elif under_way and not has_runner(member):
                change_state(session, member, MemberState.PAUSED, who="runner", why="its runner has ended")
                _forget_failure(member)
        invalid = session.exec(select(func.count(col(InvalidRow.id))).where(InvalidRow.wave_id == wave.id)).one()
        wave.state = wave_state([m.state for m in members], bool(invalid))
        if checked_only and wave.state != WaveState.RUNNING and not _ever_moved(session, _id(wave.id)):
            wave.state = WaveState.SCHEDULED if wave.start_at and wave.start_at > now() else WaveState.DRAFT
        wave.run_finished_at = now()
        session.add(wave)
        session.add(Event(wave_id=_id(wave.id), who="runner", what=str(wave.state)))
        return wave.state


def _ever_moved(session: Session, wave_id: int) -> bool:
    return bool(session.exec(select(Event.id).where(Event.wave_id == wave_id, Event.what == "start").limit(1)).first())


def wave_state(members: Iterable[MemberState], invalid_rows: bool) -> WaveState:
    """The state of a wave after a run."""
    states = set(members)
    if any(SHORT_STATES[state] == ShortState.ACTIVE for state in states):
        return WaveState.RUNNING
    if any(SHORT_STATES[state] == ShortState.WAITING for state in states):
        return WaveState.PAUSED
    troubled = invalid_rows or any(SHORT_STATES[state] == ShortState.NEEDS_ATTENTION for state in states)
    return WaveState.SYNCED_WITH_FAILURES if troubled else WaveState.SYNCED


def schedule_wave(engine: Engine, name: str, at: datetime, flow_run_id: str) -> None:
    """Note that a worker will start the wave at that time; one that runs now goes on and stays running."""
    with writing(engine) as session:
        wave = find_wave(session, name)
        members = session.exec(select(Member).where(Member.wave_id == wave.id)).all()
        # A worker may have begun, or ended, this very run before it is noted here.
        begun = wave.flow_run_id == flow_run_id and wave.start_at != at
        wave.start_at = at
        if not begun and not any(has_runner(member) for member in members):
            wave.state = WaveState.SCHEDULED
            wave.flow_run_id = flow_run_id
        session.add(wave)
        session.add(Event(wave_id=_id(wave.id), who="admin", what="schedule", why=at.isoformat()))


def needing_retry(engine: Engine, name: str) -> list[str]:
    """Addresses of the members that failed or have messages that were not moved."""
    with reading(engine) as session:
        wave = find_wave(session, name)
        members = session.exec(select(Member).where(Member.wave_id == wave.id).order_by(col(Member.line))).all()
        return [
            m.email for m in members if m.state not in FINAL and m.state not in MOVED - {MemberState.SYNCED_WITH_ISSUES}
        ]


def parked_members(engine: Engine, name: str) -> list[str]:
    """Addresses of the members that are not tried by themselves any more, because an account was refused."""
    with reading(engine) as session:
        wave = find_wave(session, name)
        own = select(Member.email, Member.refusals, Member.state).where(
            Member.wave_id == wave.id, Member.refusals != ""
        )
        rows = session.exec(own.order_by(col(Member.line))).all()
        return [email for email, refusals, state in rows if state not in FINAL and is_parked(read_refusals(refusals))]


def purge_credentials(engine: Engine, vault: Vault, name: str) -> Purged:
    """Delete every password of a wave for good, and the subjects of its mail."""
    with reading(engine) as session:
        wave = find_wave(session, name)
        ids = session.exec(select(Member.id).where(Member.wave_id == wave.id)).all()
    purged = vault.purge([member_id for member_id in ids if member_id is not None])
    with writing(engine) as session:
        wave = find_wave(session, name)
        wave.credentials_purged_at = now()
        session.add(wave)
        session.add(Event(wave_id=_id(wave.id), who="admin", what="vault purge", why=f"{purged.passwords} passwords"))
        folders = select(FolderCopy.id).join(Member).where(Member.wave_id == wave.id)
        for table in (MessageIssue, MessageAlteration):
            of_the_wave = update(table).where(col(table.folder_copy_id).in_(folders))
            session.exec(of_the_wave.where(col(table.subject).is_not(None)).values(subject=None, sender=None))
    return purged


def _id(value: int | None) -> int:
    if value is None:
        raise ValueError("a row that was never flushed has no id")
    return value
