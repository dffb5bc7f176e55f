"""Until when a mail server is left alone, and how fast it is signed in to, for all members, workers and machines."""

import contextlib
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.errors import ConnectionLost, MigrationError, Side, Stopped
from models import hosts
from models.columns import now
from models.hosts import Host
from models.member import Member
from models.wave import Event
from tasks import policy
from tasks.settings import Settings
from tasks.slots import IN_PLACE, Pool, Slots
from tasks.store import log

BELL = "hosts"
"""A file below BANJIA_HOME whose time tells that a host is left alone, or no more."""


class Pauses:
    """What servers ask for, what they learn of, and what that means for who is about to speak to them."""

    def __init__(self, engine: Engine, settings: Settings, slots: Slots) -> None:
        self._engine = engine
        self._settings = settings
        self._slots = slots
        self._bell = settings.home / BELL
        self._heard = _rung(self._bell)

    def pause_host(self, name: str, error: MigrationError) -> None:
        """Leave a host alone as its answer asks, for everybody."""
        pool = self._slots.pool(name)
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
        pool = self._slots.pool(name)
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
        return self._slots.closed_until(name)

    def _learned(self, pool: Pool, host: Host, fresh: bool) -> None:
        self._slots.learned(pool, host)
        if fresh:
            ring(self._settings)
            until = max(t for t in (host.paused_until, host.logins_paused_until) if t)
            log.warning("%s is left alone until %s: %s (%s)", pool.name, until, host.cause, host.words)
        self._slots.tell()

    def check(self, name: str, side: Side) -> None:
        """ConnectionLost when the host is to be left alone now; a short pause is waited for."""
        pool = self._slots.pool(name)
        if (rung := _rung(self._bell)) != self._heard:
            # Another process of this machine has learned something: no thread here must speak before it is known.
            with contextlib.suppress(SQLAlchemyError):
                self._slots.look()
            self._heard = rung
        until = pool.host.paused_until
        if until is None:
            return
        self._wait_or_leave(name, side, until)

    def enter(self, name: str, side: Side) -> None:
        """Wait until a connection may be opened; ConnectionLost when that is too long."""
        pool = self._slots.pool(name)
        for until in (pool.host.paused_until, pool.host.logins_paused_until):
            if until is not None:
                self._wait_or_leave(name, side, until)
        if pool.pace:
            self._in_turn(pool, pool.pace)
        while (see_it_gone := self._slots.oldest_leaving(pool)) is not None:
            see_it_gone()

    def _wait_or_leave(self, name: str, side: Side, until: datetime) -> None:
        left = until - now()
        if left <= timedelta(0):
            return
        if left > IN_PLACE:
            host = self._slots.pool(name).host
            raise ConnectionLost(host.cause or "throttled", side, host.words, where=name)
        if policy.STOP.wait(left.total_seconds()):
            raise Stopped

    def _in_turn(self, pool: Pool, pace: int) -> None:
        """Wait until the pace allows another sign-in."""
        with hosts.changing(self._engine, pool.name) as (_, host):
            turn = max(now(), host.next_login_at or now())
            host.next_login_at = turn + timedelta(seconds=60 / pace)
        self._slots.learned(pool, host)
        if policy.STOP.wait(max(0.0, (turn - now()).total_seconds())):
            raise Stopped


def ring(settings: Settings) -> None:
    """Let the processes of this machine look at once what has changed; those of others look within a second."""
    with contextlib.suppress(OSError):
        (settings.home / BELL).touch()


def _rung(bell: Path) -> int:
    try:
        return bell.stat().st_mtime_ns
    except OSError:
        return 0
