"""Who is told what, and when. Pure decisions: they look at members, at what was said before, and at a clock.

Nobody is written to before an admin has opened the notices of a wave. A member gets one invitation, a few reminders
with growing gaps while something is left to do that only they can do, and one completion; all of it ends by itself.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from models.causes import cause
from models.notices import Channel, NewNotice, Notice, NoticeKind, NoticeState
from models.states import FINAL, MOVED, SHORT_STATES, MemberState, ShortState, WaveState

WENT_OUT = frozenset({NoticeState.SENT, NoticeState.UNKNOWN})
ENDED = frozenset({WaveState.COMPLETED, WaveState.COMPLETED_WITH_FAILURES, WaveState.CANCELLED})

FIRST_PAUSE = timedelta(minutes=15)
"""A server that greylists takes a message after some minutes (RFC 6647 section 3)."""
LONGEST_PAUSE = timedelta(hours=4)
LAST_ATTEMPT = 17
"""With these pauses after two days. Counted in attempts, because quiet hours and a server that is away take none."""
_SATURDAY = 5


@dataclass(frozen=True, slots=True)
class Hours:
    """When people may be disturbed."""

    zone: ZoneInfo
    quiet: tuple[time, time] | None = None
    weekends_quiet: bool = False

    def next_open(self, at: datetime) -> datetime:
        """The first moment from `at` on that is not quiet, in UTC."""
        local = at.astimezone(self.zone)
        # A weekend, a night before it and one after it are the longest way.
        for _ in range(6):
            if (later := self._end_of_quiet(local)) is None:
                return local.astimezone(UTC)
            local = later
        return local.astimezone(UTC)

    def _end_of_quiet(self, local: datetime) -> datetime | None:
        if self.weekends_quiet and local.weekday() >= _SATURDAY:
            return _next_on_the_clock(local, 1, time(0))
        if self.quiet is None:
            return None
        begin, end = self.quiet
        clock = local.time()
        over_midnight = begin > end
        if (clock >= begin or clock < end) if over_midnight else begin <= clock < end:
            return _next_on_the_clock(local, over_midnight and clock >= begin, end)
        return None


def _next_on_the_clock(local: datetime, days: int, clock: time) -> datetime:
    """That time, so many days later; where clocks are put on over it, the moment right after."""
    then = datetime.combine(local.date() + timedelta(days), clock, local.tzinfo)
    if then.astimezone(UTC) <= local.astimezone(UTC):
        then = then.replace(fold=1)  # clocks were put back: the hour comes twice, and the first has passed
    return then.astimezone(UTC).astimezone(local.tzinfo)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the admin wants notices to go out."""

    hours: Hours
    reminder_days: Sequence[float] = (2, 4, 8)
    summary_at: time = time(9)
    alarm_hours: float = 4.0
    admins: Sequence[tuple[Channel, str]] = ()
    mail: bool = True
    """A mail server is known: members are told by mail alone."""


@dataclass(frozen=True, slots=True)
class WaveFacts:
    """What of a wave decides about notices."""

    id: int
    state: WaveState
    opened_at: datetime | None
    started_at: datetime | None
    """When its last run began."""

    @property
    def goes_on(self) -> bool:
        return self.state == WaveState.RUNNING


@dataclass(frozen=True, slots=True)
class Person:
    """What of a member decides about notices."""

    id: int
    state: MemberState
    cause: str | None
    new_address: str
    old_login: str
    notify_address: str
    host: str
    """The old server, as `models.hosts.host_name` calls it."""
    new_host: str = ""
    cause_side: str = ""
    passwords_missing: bool = False

    @property
    def address(self) -> str:
        """Where this member reads mail now; "" where nowhere is known.

        The new mailbox is none before mail has been moved there, unless it has the address of the old one.
        """
        for each in (self.notify_address, self.old_login):
            is_old = each.casefold() == self.old_login.casefold()
            is_new = each.casefold() == self.new_address.casefold() and not is_old
            if "@" in each and (not is_new or self.state in MOVED):
                return each
        return ""

    @property
    def left_to_do(self) -> str:
        """The cause that only this member can cure; "" where there is none."""
        if self.state in MOVED | FINAL or SHORT_STATES[self.state] == ShortState.ACTIVE:
            return ""
        if self.cause and SHORT_STATES[self.state] == ShortState.NEEDS_ATTENTION:
            return self.cause if cause(self.cause).at(self.cause_side).owner == "member" else ""
        return "password_missing" if self.passwords_missing else ""


def due_to_members(
    wave: WaveFacts, people: Iterable[Person], before: Iterable[Notice], plan: Plan, at: datetime
) -> list[NewNotice]:
    """What members are to be told now and were not told before."""
    if wave.opened_at is None or wave.state == WaveState.CANCELLED or not plan.mail:
        return []
    told: dict[int, list[Notice]] = defaultdict(list)
    closed = set()
    for notice in before:
        if notice.member_id is not None and notice.state != NoticeState.DROPPED:
            told[notice.member_id].append(notice)
        if notice.bounced:
            closed.add(notice.recipient.casefold())
    found = []
    for person in people:
        if not person.address or person.address.casefold() in closed or person.state == MemberState.REMOVED:
            continue
        wanted = _wanted(wave, person, told[person.id], plan, at)
        if wanted is not None:
            kind, about = wanted
            count = sum(notice.kind == kind and notice.about == about for notice in told[person.id])
            key = _key(wave.id, person.id, kind, about, count, person.address)
            found.append(NewNotice(kind, Channel.MAIL, person.address, key, at, person.id, about))
    return found


def _wanted(
    wave: WaveFacts, person: Person, told: Sequence[Notice], plan: Plan, at: datetime
) -> tuple[NoticeKind, str] | None:
    def standing(kind: NoticeKind) -> list[Notice]:
        # One that bounced was said to nobody; the address has been corrected, or we would not be here.
        return [notice for notice in told if notice.kind == kind and not notice.bounced]

    if person.state in MOVED:
        return None if standing(NoticeKind.COMPLETION) else (NoticeKind.COMPLETION, "")
    if wave.state in ENDED or person.state in FINAL:
        return None
    if not (invited := standing(NoticeKind.INVITATION)):
        return NoticeKind.INVITATION, ""
    missing = person.left_to_do
    reminders = standing(NoticeKind.REMINDER)
    if not missing or any(notice.state not in WENT_OUT for notice in [*invited, *reminders]):
        return None
    of_this = [notice for notice in reminders if notice.about == missing]
    if len(of_this) >= len(plan.reminder_days):
        return None
    last = max(notice.sent_at or notice.next_at for notice in [*invited, *reminders])
    if at < last + timedelta(days=plan.reminder_days[len(of_this)]):
        return None
    return NoticeKind.REMINDER, missing


def no_longer_wanted(wave: WaveFacts, people: Iterable[Person], before: Iterable[Notice]) -> list[int]:
    """Ids of notices that wait and whose reason has gone: the member is through, removed, or reads mail elsewhere."""
    known = {person.id: person for person in people}
    found = []
    waiting = [notice for notice in before if notice.state == NoticeState.WAITING and notice.member_id is not None]
    for notice in waiting:
        person = known.get(notice.member_id or 0)
        if person is None or not still_wanted(wave, person, notice):
            found.append(notice.id or 0)
    return found


def still_wanted(wave: WaveFacts, person: Person, notice: Notice) -> bool:
    """Whether a member's notice that has not gone out yet still has its reason, and its address."""
    if person.state == MemberState.REMOVED or notice.recipient != person.address or wave.state == WaveState.CANCELLED:
        return False
    if notice.kind == NoticeKind.COMPLETION:
        return person.state in MOVED
    if wave.state in ENDED or person.state in FINAL | MOVED:
        return False
    return notice.kind == NoticeKind.INVITATION or notice.about == person.left_to_do


def host_troubles(people: Iterable[Person], paused: Mapping[str, str]) -> dict[str, list[int]]:
    """Ids of the members that a whole server, or our own database, keeps waiting: by `cause host`.

    `paused` are the servers that get no command for a while, with the cause.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for person in people:
        if person.state in MOVED | FINAL:
            continue
        if why := next((paused[host] for host in (person.host, person.new_host) if paused.get(host)), ""):
            host = person.host if paused.get(person.host) else person.new_host
            found[f"{why} {host}"].append(person.id)
        elif person.cause and cause(person.cause).reach == "host":
            ours = person.cause == "database_unavailable"
            host = person.new_host if person.cause_side == "target" else person.host
            found[person.cause if ours else f"{person.cause} {host}"].append(person.id)
    return dict(found)


def due_alarms(
    wave: WaveFacts, troubles: Mapping[str, object], before: Sequence[Notice], plan: Plan, at: datetime
) -> list[NewNotice]:
    """Alarms about servers, each once in so many hours to each admin while a run goes on, and once after it."""
    if wave.state in ENDED:
        return []
    hours = timedelta(hours=plan.alarm_hours)
    turn = int(at.timestamp() // hours.total_seconds())
    began = wave.started_at or datetime.min.replace(tzinfo=UTC)
    said: dict[tuple[str, str], datetime] = {}
    for notice in before:
        if notice.kind == NoticeKind.ALARM:
            what = notice.about, notice.recipient
            said[what] = max(notice.due_at, said.get(what, notice.due_at))
    found = []
    for about in troubles:
        for channel, recipient in plan.admins:
            last = said.get((about, recipient))
            if last is None or (at >= last + hours and (wave.goes_on or last < began)):
                key = _key(wave.id, 0, NoticeKind.ALARM, about, turn, recipient)
                found.append(NewNotice(NoticeKind.ALARM, channel, recipient, key, at, about=about))
    return found


def due_summaries(
    wave: WaveFacts, snapshot: Mapping[str, object], before: Sequence[Notice], plan: Plan, at: datetime
) -> list[NewNotice]:
    """The day's summary for each admin who has not had one today, unless nothing changed since theirs."""
    local = at.astimezone(plan.hours.zone)
    if wave.started_at is None or local.time() < plan.summary_at:
        return []
    found = []
    for channel, recipient in plan.admins:
        if unchanged(last_told(before, recipient), snapshot):
            continue
        key = _key(wave.id, 0, NoticeKind.SUMMARY, "", local.date().toordinal(), recipient)
        content = json.dumps(snapshot, ensure_ascii=False, sort_keys=True)
        found.append(NewNotice(NoticeKind.SUMMARY, channel, recipient, key, at, snapshot=content))
    return found


def last_told(before: Iterable[Notice], recipient: str) -> dict[str, object] | None:
    """The numbers of the last summary that this admin is known to have got."""
    of_theirs = [
        notice
        for notice in before
        if (notice.kind, notice.recipient, notice.state) == (NoticeKind.SUMMARY, recipient, NoticeState.SENT)
    ]
    if not of_theirs:
        return None
    told: dict[str, object] = json.loads(max(of_theirs, key=lambda notice: notice.due_at).snapshot)
    return told


def unchanged(then: Mapping[str, object] | None, now: Mapping[str, object]) -> bool:
    """Whether two snapshots say the same, but for the moment at which they were taken."""
    return then is not None and {**then, "at": ""} == {**now, "at": ""}


def outdated(before: Iterable[Notice], troubles: Mapping[str, object], at: datetime, plan: Plan) -> list[int]:
    """Ids of what waits for admins and has been overtaken: yesterday's summary, an alarm whose trouble is over."""
    today = at.astimezone(plan.hours.zone).date()
    return [
        notice.id or 0
        for notice in before
        if notice.state == NoticeState.WAITING
        and (
            (notice.kind == NoticeKind.SUMMARY and notice.due_at.astimezone(plan.hours.zone).date() < today)
            or (notice.kind == NoticeKind.ALARM and notice.about not in troubles)
        )
    ]


def next_try(attempts: int, at: datetime) -> datetime | None:
    """When a notice that could not be handed over is tried again; None when it has been tried for long enough."""
    if attempts >= LAST_ATTEMPT:
        return None
    return at + min(FIRST_PAUSE * (1 << (attempts - 1)), LONGEST_PAUSE)


def _key(wave_id: int, member_id: int, kind: NoticeKind, about: str, count: int, recipient: str) -> str:
    """The same for the same thing said to the same person, whoever decides it and however often."""
    said = f"{about}\n{recipient.casefold()}"
    return f"{wave_id}-{member_id}-{kind}-{count}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
