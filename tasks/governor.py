"""One governor a mail server, for all members, workers and machines: how many connections, how fast, and when none.

The truth is in the database (`models.hosts`). A process holds slots of it and hands them from member to member without
asking; it asks when it needs one more, and a thread of its own looks once a second what others wish and have learned.
A member holds a slot at each side for its whole pass; further connections of a member take what nobody waits for.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.account import Account, Server
from imapcopy.admission import Admission
from imapcopy.errors import ConnectionLost, MigrationError, Side, Stopped
from models import hosts
from models.columns import now
from models.hosts import Claim, Host, host_name
from models.lifecycle import Due
from models.member import Member, lease_seconds, this_runner
from models.providers import provider_at
from models.refusals import OF_THE_ACCOUNT
from models.wave import Event
from tasks import policy
from tasks.leases import TURNS
from tasks.settings import Settings
from tasks.store import Store, log

RETAKE_SECONDS = 0.25
"""So often at least who waits for a slot tries to take it, or hears that all is to stop."""
SIDES: tuple[Side, Side] = ("source", "target")
POLL_SECONDS = 1.0
BELL = "hosts"
"""A file below BANJIA_HOME whose time tells that a host is left alone, or no more."""
IN_PLACE = timedelta(seconds=2)
"""A pause that is no longer is waited for where one is."""
FAREWELL_SECONDS = 1.0
"""A connection that was said goodbye to and that nobody waits for is closed after so long."""


@dataclass(slots=True)
class _Pool:
    """What this process holds of one host, and what it knows of it. All is read and written with the lock."""

    name: str
    usual: int
    """The cap where the admin says nothing."""
    usual_pace: int | None
    host: Host
    slots: int = 0
    """Given to this process by the database."""
    least: int = 1
    """So many slots one member needs."""
    keep: int = 0
    """So many of them it may keep while others wait."""
    used: int = 0
    wanted: int = 0
    """How many more members of this process could use a slot at once."""
    asked_for: int = 0
    """How many more the database has been told that we would like."""
    full: bool = False
    """The database had no more when it was last asked; it is asked again with the next look."""
    leaving: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    """Connections that their servers may still count, with how to see them gone."""
    worked: bool = False
    """Somebody has signed in since the database was last told."""

    @property
    def pace(self) -> int | None:
        """Sign-ins a minute."""
        return self.host.logins_a_minute or self.usual_pace

    @property
    def free(self) -> int:
        return max(0, min(self.slots, self.keep) - self.used)

    @property
    def resting(self) -> int:
        """Slots to have besides for those that are leaving, so that nobody waits for a goodbye that was just said.

        As many as are used, and no more: older ones are gone when it comes to them.
        """
        return min(len(self.leaving), max(self.used, 1))


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has for members now: `free` may be asked for; before `until` there is nothing."""

    free: int
    until: datetime | None = None


class Governor:
    """The hosts as this process sees them."""

    def __init__(self, engine: Engine, settings: Settings, runner: str = "") -> None:
        self._engine = engine
        self._runner = runner or this_runner()
        self._settings = settings
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._pools: dict[str, _Pool] = {}
        self._reserved: dict[int, tuple[str, str]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._kicked = threading.Event()
        self._keeper: threading.Thread | None = None
        self._dismissed = False
        self._kept_at = time.monotonic()
        self._bell = settings.home / BELL
        self._heard = _rung(self._bell)

    # Slots

    def room(self, server: Server, side: Side) -> Room:
        """What a member could have at this server now, as far as it can be told without asking anybody."""
        with self._changed:
            pool = self._pool(server, side)
            at = now()
            until = _closed_until(pool, at)
            if until is not None:
                return Room(0, until)
            turn = pool.host.next_login_at
            if pool.pace and turn and turn - at > IN_PLACE:
                return Room(0, turn)
            sure = pool.full or pool.used < pool.slots or pool.slots > pool.keep
            free = pool.free if sure else max(0, _most(pool, at) - pool.used)
            # With a pace a few at a time (a member may need two), so that no thread waits long for its turn.
            return Room(min(2, free) if pool.pace else free)

    def reserve(self, member_id: int, source: Server, target: Server) -> bool:
        """Hold a slot at both servers for a member, or none; what is held is taken over by `places`."""
        names = self._both(source, target)
        if not self._take(names):
            return False
        with self._changed:
            self._reserved[member_id] = names
        return True

    def give_up(self, member_id: int) -> None:
        """Free what was reserved for a member and not taken over."""
        with self._changed:
            names = self._reserved.pop(member_id, None)
        if names:
            self._release(names)

    def want(self, wanted: dict[str, int]) -> None:
        """So many members of this process could use one more slot, by host; hosts that are not named: none."""
        with self._changed:
            for pool in self._pools.values():
                pool.wanted = wanted.get(pool.name, 0)
            if any(pool.wanted for pool in self._pools.values()):
                self._keep_looking()

    @contextlib.contextmanager
    def places(self, member_id: int, source: Account, target: Account) -> "Iterator[tuple[_Place, _Place]]":
        """A slot at both servers: those that were reserved, or waited for; never one without the other."""
        with self._changed:
            names = self._reserved.pop(member_id, None)
        if names is None:
            names = self._both(source.server, target.server)
            self._wait_and_take(names)
        first, second = _Place(self, names[0], "source"), _Place(self, names[1], "target")
        try:
            yield first, second
        finally:
            self._release(names)

    @contextlib.contextmanager
    def visit(self, account: Account, side: Side) -> Iterator[Account]:
        """An account with leave to connect, for one who moves no member; waited for like a member's."""
        with self._changed:
            name = self._pool(account.server, side).name
        self._wait_and_take((name,))
        try:
            yield _Place(self, name, side).of(account)
        finally:
            self._release((name,))

    @contextlib.contextmanager
    def spare(self, name: str) -> Iterator[bool]:
        """One more connection of a member, if no other member could use the slot; False when there is none."""
        with self._changed:
            pool = self._pools[name]
            there_is = not pool.wanted and _closed_until(pool, now()) is None
        found = there_is and self._take((name,))
        try:
            yield found
        finally:
            if found:
                self._release((name,))

    def _both(self, source: Server, target: Server) -> tuple[str, str]:
        with self._changed:
            return self._pool(source, "source").name, self._pool(target, "target").name

    def _wait_and_take(self, names: tuple[str, ...]) -> None:
        """Take a slot of each, all at once, so that two members never wait for each other; Stopped on request."""
        while not self._take(names):
            with self._changed:
                for name in set(names):
                    self._pools[name].wanted += 1
                self._keep_looking()
                try:
                    self._changed.wait(RETAKE_SECONDS)
                finally:
                    for name in set(names):
                        self._pools[name].wanted = max(0, self._pools[name].wanted - 1)
            if policy.STOP.is_set():
                raise Stopped

    def _take(self, names: tuple[str, ...]) -> bool:
        for name in sorted(set(names)):
            self._pools[name].least = max(self._pools[name].least, names.count(name))
            self._ask_for_more(name, names.count(name))
        with self._changed:
            needed = {name: names.count(name) for name in names}
            if any(self._pools[name].free < count for name, count in needed.items()):
                return False
            for name, count in needed.items():
                self._pools[name].used += count
            self._keep_looking()
            return True

    def _ask_for_more(self, name: str, needed: int) -> None:
        """Ask the database for slots, unless there are enough or it has just had none."""
        with self._changed:
            pool = self._pools[name]
            lacking = needed - (pool.free - pool.resting)
            if lacking <= 0 or pool.full or pool.slots > pool.keep:
                return
            wanted = max(pool.wanted, lacking)
        self._ask(pool, wanted)
        with self._changed:
            pool.full = pool.free - pool.resting < needed

    def _ask(self, pool: _Pool, wanted: int, *, keep: int | None = None) -> None:
        """Tell the database what is kept and wanted, one thread after the other; `keep` gives back all beyond it."""
        with self._asking:
            with self._changed:
                if keep is not None:
                    # Gone from here before it is gone from there.
                    pool.slots = max(pool.used, min(pool.slots, keep))
                kept = pool.slots
            # The server may still count those that are leaving: what is given back has room for none of them.
            while (see_it_gone := self._oldest_leaving(pool)) is not None:
                see_it_gone()
            host, slots, share = hosts.ask(
                self._engine, pool.name, pool.usual, keep=kept, wanted=wanted, least=pool.least, runner=self._runner
            )
            with self._changed:
                pool.host, pool.slots, pool.keep = host, slots, share
                pool.asked_for = max(0, wanted - (slots - kept))

    def _release(self, names: tuple[str, ...]) -> None:
        with self._changed:
            for name in names:
                self._pools[name].used -= 1
            if any(self._pools[name].slots > self._pools[name].keep for name in names):
                # Somebody else waits for it.
                self._kicked.set()
            self._changed.notify_all()
        self._tell()

    # Pauses and pace

    def pause_host(self, name: str, error: MigrationError) -> None:
        """Leave a host alone as its answer asks, for everybody."""
        with self._changed:
            pool = self._pools[name]
        delays, at = self._settings.retry_delays, now()
        if policy.pause_of_host(error.cause_id, error.wait_seconds, pool.host, delays, at) is None:
            return
        with hosts.changing(self._engine, name) as (_, host):
            found = policy.pause_of_host(error.cause_id, error.wait_seconds, host, delays, at)
            assert found is not None
            until = at + timedelta(seconds=found.seconds)
            fresh = hosts.pause(host, until, error.cause_id, error.server_text, logins_only=found.logins_only, at=at)
            if fresh and found.halve:
                hosts.halve(host, hosts.cap(host, pool.usual, at), at)
        self._learned(pool, host, fresh)

    def member_failed(self, name: str, member: Member, error: MigrationError) -> datetime | None:
        """Until when the host of a member that has just failed is left alone; None when it is not."""
        with self._changed:
            pool = self._pools[name]
        at = now()
        if error.cause_id == "too_many_connections":
            self.pause_host(name, error)
        if policy.may_be_the_host(error.cause_id, pool.host):
            fresh = False
            with hosts.changing(self._engine, name) as (session, host):
                if hosts.failed(host, member.id or 0, policy.family(error.cause_id), at):
                    found = policy.pause_of_event(error.cause_id, host, self._settings.retry_delays, at)
                    until = at + timedelta(seconds=found.seconds)
                    fresh = hosts.pause(
                        host,
                        until,
                        error.cause_id,
                        error.server_text,
                        by="event",
                        logins_only=found.logins_only,
                        at=at,
                    )
                    if fresh:
                        why = f"{name} until {until.isoformat(timespec='seconds')}: {error.cause_id}"
                        session.add(Event(wave_id=member.wave_id, who="host", what="left_alone", why=why))
            self._learned(pool, host, fresh)
        with self._changed:
            return _closed_until(pool, at)

    def _learned(self, pool: _Pool, host: Host, fresh: bool) -> None:
        with self._changed:
            pool.host = host
        if fresh:
            ring(self._settings)
            until = max(t for t in (host.paused_until, host.logins_paused_until) if t)
            log.warning("%s is left alone until %s: %s (%s)", pool.name, until, host.cause, host.words)
        self._tell()

    def check(self, place: "_Place") -> None:
        """ConnectionLost when the host is to be left alone now; a short pause is waited for."""
        pool = self._pools[place.name]
        if (rung := _rung(self._bell)) != self._heard:
            # Another process of this machine has learned something: this one must not speak before it knows it.
            self._heard = rung
            with contextlib.suppress(SQLAlchemyError):
                self.look()
        until = pool.host.paused_until
        if until is None:
            return
        self._wait_or_leave(place, until)

    def enter(self, place: "_Place") -> None:
        """Wait until a connection may be opened; ConnectionLost when that is too long."""
        pool = self._pools[place.name]
        for until in (pool.host.paused_until, pool.host.logins_paused_until):
            if until is not None:
                self._wait_or_leave(place, until)
        if pool.pace:
            self._in_turn(pool, pool.pace)
        while (see_it_gone := self._oldest_leaving(pool)) is not None:
            see_it_gone()

    def _wait_or_leave(self, place: "_Place", until: datetime) -> None:
        left = until - now()
        if left <= timedelta(0):
            return
        if left > IN_PLACE:
            host = self._pools[place.name].host
            raise ConnectionLost(host.cause or "throttled", place.side, host.words, where=place.name)
        if policy.STOP.wait(left.total_seconds()):
            raise Stopped

    def _in_turn(self, pool: _Pool, pace: int) -> None:
        """Wait until the pace allows another sign-in."""
        with hosts.changing(self._engine, pool.name) as (_, host):
            turn = max(now(), host.next_login_at or now())
            host.next_login_at = turn + timedelta(seconds=60 / pace)
        with self._changed:
            pool.host = host
        if policy.STOP.wait(max(0.0, (turn - now()).total_seconds())):
            raise Stopped

    def _oldest_leaving(self, pool: _Pool) -> Callable[[], None] | None:
        """A connection that must be gone before another is opened, because the server may still count it."""
        with self._changed:
            if len(pool.leaving) > pool.slots - pool.used:
                return pool.leaving.popleft()[1]
            return None

    def signed_in(self, name: str) -> None:
        with self._changed:
            pool = self._pools[name]
            worked_at = pool.host.worked_at
            pool.worked = pool.worked or worked_at is None or now() - worked_at > timedelta(hours=1)

    def leaving(self, name: str, see_it_gone: Callable[[], None]) -> None:
        with self._changed:
            self._pools[name].leaving.append((time.monotonic(), see_it_gone))
            self._keep_looking()

    # Looking

    @contextlib.contextmanager
    def listening(self, changed: Callable[[], None]) -> Iterator[None]:
        """Call this whenever there may be more room than before."""
        with self._changed:
            self._listeners.append(changed)
        try:
            yield
        finally:
            with self._changed:
                self._listeners.remove(changed)
            self.want({})
            self._close_up()

    def _close_up(self) -> None:
        """Give all slots back at the end of a run: on another machine nobody sees that this process has ended."""
        self._see_off(0.0)
        with self._asking:
            with self._changed:
                if self._listeners or any(pool.used or pool.leaving for pool in self._pools.values()):
                    return
                for pool in self._pools.values():
                    pool.slots = pool.asked_for = 0
            with contextlib.suppress(SQLAlchemyError):
                # A database that is away learns it from the lease's end.
                hosts.drop_slots(self._engine, self._runner)

    def _tell(self) -> None:
        for changed in [*self._listeners]:
            changed()

    def look(self) -> None:
        """See what others wish and have learned, give back what is idle, and ask for what is wanted."""
        self._see_off()
        with self._changed:
            pools = list(self._pools.values())
        if not pools:
            return
        if time.monotonic() - self._kept_at > lease_seconds() / TURNS:
            self._kept_at = time.monotonic()
            hosts.keep_slots(self._engine, self._runner)
        seen = hosts.look(self._engine, [pool.name for pool in pools], self._runner)
        for pool in pools:
            with self._changed:
                host, others = seen.get(pool.name, (pool.host, []))
                pool.host = host
                pool.full = False
                at = now()
                own = Claim(pool.slots, pool.wanted)
                pool.keep = hosts.share(_most(pool, at), own, others)
                held = pool.used + len(pool.leaving)
                wanted = pool.wanted if _closed_until(pool, at) is None else 0
                keep = max(held, min(pool.slots, pool.keep if wanted else held))
                more = max(0, wanted - max(0, keep - held))
                to_ask = keep < pool.slots or more or pool.asked_for
                worked, pool.worked = pool.worked, False
            if to_ask:
                self._ask(pool, more, keep=keep)
            if worked:
                with hosts.changing(self._engine, pool.name) as (_, host):
                    host.worked_at = now()
                with self._changed:
                    pool.host = host
        with self._changed:
            self._changed.notify_all()
        self._tell()

    def _see_off(self, after: float | None = None) -> None:
        """Close what was said goodbye to so long ago, and nobody waited for."""
        due = []
        after = FAREWELL_SECONDS if after is None else after
        with self._changed:
            for pool in self._pools.values():
                while pool.leaving and time.monotonic() - pool.leaving[0][0] >= after:
                    due.append(pool.leaving.popleft()[1])
        for see_it_gone in due:
            see_it_gone()

    @property
    def _is_idle(self) -> bool:
        return not self._listeners and not any(
            pool.used or pool.leaving or pool.wanted or pool.slots for pool in self._pools.values()
        )

    def _keep_looking(self) -> None:
        """Have the thread that looks; called with the lock."""
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._look_while_needed, name="hosts", daemon=True)
            self._keeper.start()

    def dismiss(self) -> None:
        """Look no more."""
        self._dismissed = True
        self._kicked.set()
        keeper = self._keeper
        if keeper is not None:
            keeper.join()
        self._see_off(0.0)

    def _look_while_needed(self) -> None:
        while True:
            self._kicked.wait(POLL_SECONDS)
            self._kicked.clear()
            if self._dismissed:
                return
            try:
                self.look()
            except SQLAlchemyError as error:
                # What is known goes on being so; whoever needs the database says what is the matter with it.
                log.warning("hosts could not be looked at: %s", type(error).__name__)
            with self._changed:
                if self._is_idle:
                    self._keeper = None
                    return

    def _pool(self, server: Server, side: Side) -> _Pool:
        """Called with the lock."""
        name = host_name(server.host, server.port)
        usual = self._settings.host_connections if side == "source" else self._settings.target_connections
        pool = self._pools.get(name)
        if pool is None:
            known = provider_at(server.host)
            pool = _Pool(name, min(usual, known.connections or usual), known.logins_a_minute, Host(name=name))
            self._pools[name] = pool
            with contextlib.suppress(SQLAlchemyError):
                pool.host, _ = hosts.look(self._engine, [name]).get(name, (pool.host, []))
        return pool


class _Place(Admission):
    """A member's leave at one host."""

    def __init__(self, governor: Governor, name: str, side: Side) -> None:
        self._governor = governor
        self.name = name
        self.side: Side = side
        self.refused: MigrationError | None = None
        """What the server answered to the last sign-in that failed."""

    def enter(self) -> None:
        self._governor.enter(self)

    def signed_in(self) -> None:
        self.refused = None
        self._governor.signed_in(self.name)

    def check(self) -> None:
        self._governor.check(self)

    def failed(self, error: MigrationError) -> None:
        if error.cause_id in OF_THE_ACCOUNT:
            self.refused = error
        if error.cause_id in {"throttled", "login_throttled"}:
            with contextlib.suppress(SQLAlchemyError):
                self._governor.pause_host(self.name, error)

    def leaving(self, see_it_gone: Callable[[], None]) -> bool:
        self._governor.leaving(self.name, see_it_gone)
        return True

    def of(self, account: Account) -> Account:
        """The account, whose connections ask this place."""
        return replace(account, admission=self)


def ring(settings: Settings) -> None:
    """Let the processes of this machine look at once what has changed; those of others look within a second."""
    with contextlib.suppress(OSError):
        (settings.home / BELL).touch()


def _rung(bell: Path) -> int:
    try:
        return bell.stat().st_mtime_ns
    except OSError:
        return 0


def _most(pool: _Pool, at: datetime) -> int:
    return max(hosts.cap(pool.host, pool.usual, at), pool.least)


def _closed_until(pool: _Pool, at: datetime) -> datetime | None:
    """Until when nobody new may come, None when one may."""
    pauses = [until for until in (pool.host.paused_until, pool.host.logins_paused_until) if until and until > at]
    return max(pauses, default=None)


Spare = Callable[[], contextlib.AbstractContextManager[bool]]


class Places:
    """The places of one member at its two hosts, for one try; what it met there stays known afterwards."""

    def __init__(self, kept: Store, member_id: int) -> None:
        self._governor = governor(kept)
        self._member_id = member_id
        self._places: tuple[_Place, ...] = ()

    @contextlib.contextmanager
    def taken(self, accounts: tuple[Account, Account]) -> Iterator[tuple[Account, Account]]:
        """The old and the new account with leave to connect, waited for where it was not reserved."""
        with self._governor.places(self._member_id, *accounts) as (source, target):
            self._places = source, target
            yield source.of(accounts[0]), target.of(accounts[1])

    def spare(self) -> contextlib.AbstractContextManager[bool]:
        """One more connection to the target, if nobody waits for the slot."""
        return self._governor.spare(self._places[1].name)

    @property
    def refused(self) -> list[MigrationError]:
        """What the servers answered to sign-ins that count against an account."""
        return [place.refused for place in self._places if place.refused]

    def failed(self, member: Member, error: MigrationError) -> datetime | None:
        """Until when the host is left alone at which this member has just failed; None when it is not."""
        for place in self._places:
            if place.side == error.side:
                return self._governor.member_failed(place.name, member, error)
        return None


class Turns:
    """What the members of a run need of their hosts, for those who decide whom to begin."""

    def __init__(self, kept: Store) -> None:
        self._kept = kept
        self._governor = governor(kept)
        self._servers: dict[str, tuple[Server, Side]] = {}
        kept.attempts.clear()
        kept.again.clear()

    def needs(self, member: Due) -> tuple[str, ...]:
        """The hosts of a member; none where a server is missing, which its task will say."""
        try:
            source, target = self._kept.servers(member)
        except MigrationError:
            return ()
        names = host_name(source.host, source.port), host_name(target.host, target.port)
        for name, server, side in zip(names, (source, target), SIDES, strict=True):
            self._servers.setdefault(name, (server, side))
        return names

    def room(self, host: str) -> Room:
        return self._governor.room(*self._servers[host])

    def reserve(self, member: Due) -> bool:
        """Hold what a member needs until its task takes it over, or nothing."""
        return self._governor.reserve(member.id, *self._kept.servers(member))

    def give_up(self, member: Due) -> None:
        self._governor.give_up(member.id)

    def want(self, wanted: dict[str, int]) -> None:
        self._governor.want(wanted)

    def again(self, member: Due) -> datetime | None:
        """When a member whose try has ended is to be tried again."""
        return self._kept.again.pop(member.id, None)

    def listening(self, changed: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        return self._governor.listening(changed)


_governors: dict[Engine, Governor] = {}
_lock = threading.Lock()


def governor(kept: Store) -> Governor:
    """The governor of this process and database."""
    with _lock:
        if kept.engine not in _governors:
            _governors[kept.engine] = Governor(kept.engine, kept.settings)
        return _governors[kept.engine]


def dismiss_governors() -> None:
    """End the governors of this process; whoever is asked for next is a new one."""
    with _lock:
        for found in _governors.values():
            found.dismiss()
        _governors.clear()
