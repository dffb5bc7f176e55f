"""How much one account has moved today, and how much more it may: it leaves off before its service locks it.

The truth is in the database (`models.traffic`), so that all runners count together; what a mailbox has moved is added
there by the sixty-fourth of its limit, and one that stays below that in all writes nothing.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.errors import ConnectionLost, LeftOff, Side
from models.columns import now
from models.traffic import (
    SPEECH_PERCENT,
    VISIT_PERCENT,
    WORTH_A_VISIT,
    Way,
    add_traffic,
    hour_of,
    moved,
    opening,
    share,
    traffic,
)
from tasks.store import log

WORTH_A_ROW = 64
"""What is not written down yet is at most the limit divided by this."""


@dataclass(slots=True)
class _Tally:
    """What goes one way."""

    limit: int
    known: dict[datetime, int]
    """In the database, by hour: of all runners, this one included."""
    fresh: bool
    """Nothing was in the window, and no mail has been let through since: waiting would make nothing better."""
    unwritten: dict[datetime, int] = field(default_factory=dict)
    announced: int = 0
    """Octets of mail that were let through and have not been moved yet."""
    beyond: int = 0
    """By so much the mail that came first is larger than what the limit has room for."""
    besides: int = 0
    """Octets that were no announced mail: each visit has such."""

    def all(self, at: datetime) -> int:
        return moved(self.known, at) + moved(self.unwritten, at) + self.announced

    def history(self, at: datetime) -> dict[datetime, int]:
        found = dict(self.known)
        for hour, octets in (*self.unwritten.items(), (hour_of(at), self.announced)):
            found[hour] = found.get(hour, 0) + octets
        return found


class Meter:
    """Counts what connections of one account move, and closes it in time. Several threads may ask."""

    def __init__(
        self,
        engine: Engine,
        host: str,
        login: str,
        limits: Mapping[Way, int],
        side: Side,
    ) -> None:
        self._engine = engine
        self._key = host, login.casefold()
        self._side: Side = side
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self.until: datetime | None = None
        """No more mail is moved until then."""
        self._closed = False
        """Nothing is said any more."""
        known = traffic(engine, *self._key, now())
        self._tallies = {
            way: _Tally(limit, known[way], fresh=not moved(known[way], now())) for way, limit in limits.items()
        }
        for tally in self._tallies.values():
            if moved(tally.known, now()) >= share(tally.limit, VISIT_PERCENT):
                self._leave_off(tally, 0)
                self._closed = True

    def check(self) -> None:
        """ConnectionLost when the account is to be left alone."""
        if self._closed:
            raise ConnectionLost("bandwidth_exceeded", self._side, where=self._key[0])

    def let_through(self, way: Way, sizes: Sequence[int]) -> int:
        """So many of these messages, from the first on, may be moved now; LeftOff for none."""
        with self._lock:
            tally = self._tallies.get(way)
            if tally is None or not sizes:
                return len(sizes)
            room = share(tally.limit) + tally.beyond - tally.all(now())
            number = octets = 0
            while number < len(sizes) and octets + sizes[number] <= room:
                octets += sizes[number]
                number += 1
            if not number and tally.fresh:
                # A whole day has no more room than this: it is moved now or never.
                number, octets = 1, sizes[0]
                tally.beyond += octets - room
            if not number:
                self._leave_off(tally, sizes[0] + tally.besides)
                raise LeftOff("bandwidth_exceeded", self._side, where=self._key[0])
            tally.fresh = False
            tally.announced += octets
            return number

    def count(self, way: Way, octets: int) -> None:
        """So much has been moved."""
        tally = self._tallies.get(way)
        if tally is None:
            return
        with self._lock:
            at = now()
            hour = hour_of(at)
            announced = min(octets, tally.announced)
            tally.announced -= announced
            tally.besides += octets - announced
            tally.unwritten[hour] = tally.unwritten.get(hour, 0) + octets
            if tally.all(at) > share(tally.limit, SPEECH_PERCENT) + tally.beyond:
                self._leave_off(tally, tally.besides)
                self._closed = True
            due = sum(tally.unwritten.values()) * WORTH_A_ROW > tally.limit
        if due:
            self._write()

    def finish(self) -> None:
        """Write down the rest, where it is worth a row, or there is one already."""
        if any(tally.known and tally.unwritten for tally in self._tallies.values()):
            try:
                self._write()
            except SQLAlchemyError as error:
                # Less than is worth a row of its own; whoever needs the database says what is the matter with it.
                log.warning("what %s has moved was not written down: %s", self._key[0], type(error).__name__)

    def _leave_off(self, tally: _Tally, wanted: int) -> None:
        """Move no more until so much may be moved, and as much as is worth coming back for."""
        at = now()
        found = opening(tally.history(at), tally.limit, max(wanted, tally.limit // WORTH_A_VISIT), at).at
        self.until = max(found, self.until or found)

    def _write(self) -> None:
        with self._writing:
            with self._lock:
                at = now()
                more = {way: dict(tally.unwritten) for way, tally in self._tallies.items()}
            known = add_traffic(self._engine, *self._key, more, at)
            with self._lock:
                for way, tally in self._tallies.items():
                    tally.known = known[way]
                    for hour, octets in more[way].items():
                        tally.unwritten[hour] -= octets
                    tally.unwritten = {hour: octets for hour, octets in tally.unwritten.items() if octets}
