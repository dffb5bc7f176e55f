"""How many connections this process may have to each mail server, for all its members.

The truth is in the database (`models.hosts`). A process holds slots of it and hands them from member to member without
asking; it asks when it needs one more, and a thread of its own looks once a second what others wish and have learned.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.account import Server
from imapcopy.errors import Side, Stopped
from models import hosts
from models.columns import now
from models.hosts import Claim, Host, host_name
from models.member import lease_seconds, this_runner
from models.providers import provider_at
from tasks import policy
from tasks.leases import TURNS
from tasks.settings import Settings
from tasks.store import log

RETAKE_SECONDS = 0.25
"""So often at least who waits for a slot tries to take it, or hears that all is to stop."""
POLL_SECONDS = 1.0
IN_PLACE = timedelta(seconds=2)
"""A pause that is no longer is waited for where one is."""
FAREWELL_SECONDS = 1.0
"""A connection that was said goodbye to and that nobody waits for is closed after so long."""


@dataclass(slots=True)
class Pool:
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
    providers: set[str] = field(default_factory=set)
    """Whose it is, as members' rows tell; where they disagree, the strictest counts."""
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

    def most(self, at: datetime) -> int:
        """How many slots all runners together may have."""
        return max(hosts.cap(self.host, self.usual, at), self.least)

    def closed_until(self, at: datetime) -> datetime | None:
        """Until when nobody new may come, None when one may."""
        pauses = [until for until in (self.host.paused_until, self.host.logins_paused_until) if until and until > at]
        return max(pauses, default=None)


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has for members now: `free` may be asked for; before `until` there is nothing."""

    free: int
    until: datetime | None = None


class Slots:
    """The slots of this process, by host."""

    def __init__(self, engine: Engine, settings: Settings, runner: str = "") -> None:
        self._engine = engine
        self._runner = runner or this_runner()
        self._settings = settings
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self._reserved: dict[int, tuple[str, str]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._kicked = threading.Event()
        self._keeper: threading.Thread | None = None
        self._dismissed = False
        self._kept_at = time.monotonic()

    def pool(self, name: str) -> Pool:
        """What is known of a host; nothing that only the lock keeps whole may be gone by."""
        return self._pools[name]

    def learned(self, pool: Pool, host: Host) -> None:
        """The database has said so of a host."""
        with self._changed:
            pool.host = host

    def closed_until(self, name: str) -> datetime | None:
        """Until when nobody new may come to a host, None when one may."""
        with self._changed:
            return self._pools[name].closed_until(now())

    # Taking and giving

    def names(self, source: Server, target: Server) -> tuple[str, str]:
        """What the hosts of a member are called here; from now on they are known."""
        with self._changed:
            return self._pool(source, "source").name, self._pool(target, "target").name

    def room(self, name: str) -> Room:
        """What a member could have at this host now, as far as it can be told without asking anybody."""
        with self._changed:
            pool = self._pools[name]
            at = now()
            until = pool.closed_until(at)
            if until is not None:
                return Room(0, until)
            turn = pool.host.next_login_at
            if pool.pace and turn and turn - at > IN_PLACE:
                return Room(0, turn)
            sure = pool.full or pool.used < pool.slots or pool.slots > pool.keep
            free = pool.free if sure else max(0, pool.most(at) - pool.used)
            # With a pace a few at a time (a member may need two), so that no thread waits long for its turn.
            return Room(min(2, free) if pool.pace else free)

    def reserve(self, member_id: int, source: Server, target: Server) -> bool:
        """Hold a slot at both servers for a member, or none; what is held is taken over by `held`."""
        names = self.names(source, target)
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
    def held(self, member_id: int, source: Server, target: Server) -> Iterator[tuple[str, str]]:
        """A slot at both servers: those that were reserved, or waited for; never one without the other."""
        with self._changed:
            names = self._reserved.pop(member_id, None)
        if names is None:
            names = self.names(source, target)
            self._wait_and_take(names)
        try:
            yield names
        finally:
            self._release(names)

    @contextlib.contextmanager
    def one(self, server: Server, side: Side) -> Iterator[str]:
        """A slot at one server, waited for like a member's."""
        with self._changed:
            name = self._pool(server, side).name
        self._wait_and_take((name,))
        try:
            yield name
        finally:
            self._release((name,))

    @contextlib.contextmanager
    def spare(self, name: str) -> Iterator[bool]:
        """One more connection of a member, if no other member could use the slot; False when there is none."""
        with self._changed:
            pool = self._pools[name]
            there_is = not pool.wanted and pool.closed_until(now()) is None
        found = there_is and self._take((name,))
        try:
            yield found
        finally:
            if found:
                self._release((name,))

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
        """Ask the database for slots, unless there are enough, or it has just had none, or can have none."""
        with self._changed:
            pool = self._pools[name]
            lacking = needed - (pool.free - pool.resting)
            if lacking <= 0 or pool.full or pool.slots > pool.keep or pool.slots >= pool.most(now()):
                return
            wanted = max(pool.wanted, lacking)
        self._ask(pool, wanted)
        with self._changed:
            pool.full = pool.free - pool.resting < needed

    def _ask(self, pool: Pool, wanted: int, *, keep: int | None = None) -> None:
        """Tell the database what is kept and wanted, one thread after the other; `keep` gives back all beyond it."""
        with self._asking:
            with self._changed:
                if keep is not None:
                    # Gone from here before it is gone from there.
                    pool.slots = max(pool.used, min(pool.slots, keep))
                kept = pool.slots
            # The server may still count those that are leaving: what is given back has room for none of them.
            while (see_it_gone := self.oldest_leaving(pool)) is not None:
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
        self.tell()

    # Connections

    def signed_in(self, name: str) -> None:
        """A connection to that host has been signed in to."""
        with self._changed:
            pool = self._pools[name]
            worked_at = pool.host.worked_at
            pool.worked = pool.worked or worked_at is None or now() - worked_at > timedelta(hours=1)

    def leaving(self, name: str, see_it_gone: Callable[[], None]) -> None:
        """A connection ends that its host may still count."""
        with self._changed:
            self._pools[name].leaving.append((time.monotonic(), see_it_gone))
            self._keep_looking()

    def oldest_leaving(self, pool: Pool) -> Callable[[], None] | None:
        """A connection that must be gone before another is opened, because the server may still count it."""
        with self._changed:
            if len(pool.leaving) > pool.slots - pool.used:
                return pool.leaving.popleft()[1]
            return None

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

    def tell(self) -> None:
        """There may be more room than before."""
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
                pool.keep = hosts.share(pool.most(at), own, others)
                held = pool.used + len(pool.leaving)
                wanted = pool.wanted if pool.closed_until(at) is None else 0
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
        self.tell()

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

    def _pool(self, server: Server, side: Side) -> Pool:
        """Called with the lock."""
        name = host_name(server.host, server.port)
        pool = self._pools.get(name)
        if pool is None:
            usual = self._settings.host_connections if side == "source" else self._settings.target_connections
            pool = self._pools[name] = Pool(name, usual, None, Host(name=name))
            with contextlib.suppress(SQLAlchemyError):
                pool.host, _ = hosts.look(self._engine, [name]).get(name, (pool.host, []))
        if server.provider not in pool.providers:
            pool.providers.add(server.provider)
            known = provider_at(server.host, told=server.provider)
            pool.usual = min(pool.usual, known.connections or pool.usual)
            pool.usual_pace = min((pace for pace in (pool.usual_pace, known.logins_a_minute) if pace), default=None)
        return pool
