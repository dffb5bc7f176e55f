"""One governor a mail server, for all members, workers and machines: how many connections, how fast, and when none.

A member holds a slot at each side for its whole pass; further connections of a member take what nobody waits for.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.account import Account
from imapcopy.admission import Admission
from imapcopy.errors import MigrationError, Side
from models.lifecycle import Due
from models.member import Member
from models.providers import provider_at
from models.refusals import OF_THE_ACCOUNT
from models.traffic import daily_limits
from tasks.pauses import Pauses
from tasks.settings import Settings
from tasks.slots import Room, Slots
from tasks.store import Store
from tasks.traffic import Meter


class Governor:
    """What lets the members of this process into their hosts."""

    def __init__(self, engine: Engine, settings: Settings, runner: str = "") -> None:
        self.engine = engine
        self.slots = Slots(engine, settings, runner)
        self.pauses = Pauses(engine, settings, self.slots)

    @contextlib.contextmanager
    def places(self, member_id: int, source: Account, target: Account) -> "Iterator[tuple[_Place, _Place]]":
        """A slot at both servers: those that were reserved, or waited for; never one without the other."""
        with self.slots.held(member_id, source.server, target.server) as (old, new):
            places = _Place(self, old, "source"), _Place(self, new, "target")
            try:
                yield places
            finally:
                for place in places:
                    place.leave()

    @contextlib.contextmanager
    def visit(self, account: Account, side: Side) -> Iterator[Account]:
        """An account with leave to connect, for one who moves no member; waited for like a member's."""
        with self.slots.one(account.server, side) as name:
            place = _Place(self, name, side)
            try:
                yield place.of(account)
            finally:
                place.leave()


class _Place(Admission):
    """A member's leave at one host, and for one account there."""

    def __init__(self, governor: Governor, name: str, side: Side) -> None:
        self._governor = governor
        self.name = name
        self.side: Side = side
        self.refused: MigrationError | None = None
        """What the server answered to the last sign-in that failed."""
        self._meter: Meter | None = None
        """None where the service has no daily limit."""

    @property
    def spent_until(self) -> datetime | None:
        """Until when the account is left alone, because it has moved as much as it may in a day."""
        return self._meter.until if self._meter else None

    def enter(self) -> None:
        if self._meter:
            self._meter.check()
        self._governor.pauses.enter(self.name, self.side)

    def signed_in(self) -> None:
        self.refused = None
        self._governor.slots.signed_in(self.name)

    def check(self) -> None:
        self._governor.pauses.check(self.name, self.side)
        if self._meter:
            self._meter.check()

    def may_read(self, sizes: Sequence[int]) -> int:
        return self._meter.let_through("read", sizes) if self._meter else len(sizes)

    def may_write(self, octets: int) -> None:
        if self._meter:
            self._meter.let_through("written", [octets])

    def read(self, octets: int) -> None:
        if self._meter:
            self._meter.count("read", octets)

    def written(self, octets: int) -> None:
        if self._meter:
            self._meter.count("written", octets)

    def failed(self, error: MigrationError) -> None:
        if error.cause_id in OF_THE_ACCOUNT:
            self.refused = error
        if error.cause_id in {"throttled", "login_throttled"}:
            with contextlib.suppress(SQLAlchemyError):
                self._governor.pauses.pause_host(self.name, error)

    def leaving(self, see_it_gone: Callable[[], None]) -> bool:
        self._governor.slots.leaving(self.name, see_it_gone)
        return True

    def of(self, account: Account) -> Account:
        """The account, whose connections ask this place; ConnectionLost when it is to be left alone now."""
        server = account.server
        if limits := daily_limits(provider_at(server.host, told=server.provider)):
            self._meter = Meter(self._governor.engine, self.name, account.user, limits, self.side)
            self._meter.check()
        return replace(account, admission=self)

    def leave(self) -> None:
        """The member is done here for now."""
        if self._meter:
            self._meter.finish()


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
        return self._governor.slots.spare(self._places[1].name)

    @property
    def refused(self) -> list[MigrationError]:
        """What the servers answered to sign-ins that count against an account."""
        return [place.refused for place in self._places if place.refused]

    @property
    def spent_until(self) -> datetime | None:
        """Until when an account is left alone that has moved as much as it may in a day."""
        return max((place.spent_until for place in self._places if place.spent_until), default=None)

    def failed(self, member: Member, error: MigrationError) -> datetime | None:
        """Until when the host is left alone at which this member has just failed; None when it is not."""
        for place in self._places:
            if place.side == error.side:
                return self._governor.pauses.member_failed(place.name, member, error)
        return None


class Turns:
    """What the members of a run need of their hosts, for those who decide whom to begin."""

    def __init__(self, kept: Store) -> None:
        self._kept = kept
        self._slots = governor(kept).slots
        kept.attempts.clear()
        kept.again.clear()

    def needs(self, member: Due) -> tuple[str, ...]:
        """The hosts of a member; none where a server is missing, which its task will say."""
        try:
            return self._slots.names(*self._kept.servers(member))
        except MigrationError:
            return ()

    def room(self, host: str) -> Room:
        return self._slots.room(host)

    def reserve(self, member: Due) -> bool:
        """Hold what a member needs until its task takes it over, or nothing."""
        return self._slots.reserve(member.id, *self._kept.servers(member))

    def give_up(self, member: Due) -> None:
        self._slots.give_up(member.id)

    def want(self, wanted: dict[str, int]) -> None:
        self._slots.want(wanted)

    def again(self, member: Due) -> datetime | None:
        """When a member whose try has ended is to be tried again."""
        return self._kept.again.pop(member.id, None)

    def listening(self, changed: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        return self._slots.listening(changed)


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
            found.slots.dismiss()
        _governors.clear()
