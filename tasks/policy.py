"""When something is tried again, a member and a host. Pure decisions; the cause decides, not the exception's words."""

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from models.causes import Cause, Retry, cause
from models.hosts import Host, pauses_in_a_row
from models.refusals import Refusal, is_parked, not_before

STOP = threading.Event()
"""Set once this process has been asked to end: every member stops after the batch under way."""

JITTER = 0.2
"""Share by which a pause varies, so that members do not return together."""
LONGER = 0.1
"""By so much at most a pause that a server has asked for is longer: it is never shorter."""
PATIENCE = 50
"""So often in one run a member waits for its host without an attempt being counted."""

SPREAD = timedelta(seconds=1)
"""Within so much after the pause of their host members return."""

LOGINS_ONLY = frozenset({"login_throttled", "too_many_connections", "ambiguous_login"})
"""Causes that stop new connections; those that are open go on."""
UNREACHABLE = frozenset({"timeout", "connection_dropped", "connect_failed", "dns_error"})
"""Causes that are alike: what the network says of one trouble differs."""
_EVENTS = UNREACHABLE | {"mailbox_unavailable", "ambiguous_login"}
"""Causes that unrelated members have in common when their host has trouble."""
_EVENT_RETRY = Retry(first=60, most=900, tries=0)
_LOGIN_RETRY = Retry(first=900, most=3600, tries=0)


@dataclass(frozen=True, slots=True)
class HostPause:
    """A host is to be left alone for so many seconds."""

    seconds: float
    logins_only: bool
    halve: bool = False


def pause_of_host(
    cause_id: str, told: float | None, host: Host, delays: Sequence[float] | None, at: datetime
) -> HostPause | None:
    """What a server's answer means for everybody on the host; None where it is one mailbox's. `told` in seconds."""
    if cause_id not in {"throttled", "login_throttled", "too_many_connections"}:
        return None
    retry = cause(cause_id).retry or _EVENT_RETRY
    seconds = _pause(retry, pauses_in_a_row(host, at), delays, told)
    return HostPause(seconds, cause_id in LOGINS_ONLY, halve=cause_id == "too_many_connections")


def family(cause_id: str) -> str:
    """What causes that are alike have in common."""
    return "unreachable" if cause_id in UNREACHABLE else cause_id


def may_be_the_host(cause_id: str, host: Host) -> bool:
    """Whether a member's failure may be its host's. One that nobody has ever reached has another name, or none."""
    return cause_id in _EVENTS and (host.worked_at is not None or cause_id not in {"dns_error", "connect_failed"})


def pause_of_event(cause_id: str, host: Host, delays: Sequence[float] | None, at: datetime) -> HostPause:
    """How long a host is left alone at which unrelated members failed alike."""
    logins_only = cause_id in LOGINS_ONLY
    retry = _LOGIN_RETRY if logins_only else _EVENT_RETRY
    return HostPause(_pause(retry, pauses_in_a_row(host, at), delays, None), logins_only)


@dataclass(frozen=True, slots=True)
class Attempts:
    """What a member has been through in this run."""

    tries: int = 0
    """Counted, the one that has just failed included."""
    waits: int = 0
    """That ended because the host was to be left alone: not counted as tries."""


def next_try(
    failed: Cause,
    attempts: Attempts,
    delays: Sequence[float] | None,
    at: datetime,
    *,
    told: float | None = None,
    host_until: datetime | None = None,
    spent_until: datetime | None = None,
    refusals: Mapping[str, Refusal] = MappingProxyType({}),
) -> datetime | None:
    """When the run tries a member again, None if it does not. `host_until`: its host is paused until then;
    `spent_until`: its account has moved as much as it may in a day.

    `delays` are the admin's own pauses; without any (`()`) nothing is tried again.
    """
    if delays is not None and not delays:
        return None
    if refusals:
        # The account's own rules stand above all others: locked by us it would help nobody.
        return None if is_parked(refusals) else _later(at, not_before(refusals), host_until)
    if spent_until is not None:
        return _later(spent_until, host_until)
    if host_until is not None and host_until > at and attempts.waits <= PATIENCE:
        return host_until + random.random() * SPREAD  # noqa: S311  (no secret)
    if failed.retry is None or attempts.tries >= _tries(failed.retry, delays):
        return None
    return at + timedelta(seconds=_pause(failed.retry, attempts.tries - 1, delays, told))


def _later(*moments: datetime | None) -> datetime:
    return max(moment for moment in moments if moment is not None)


def _tries(retry: Retry, delays: Sequence[float] | None) -> int:
    return retry.tries if delays is None else min(retry.tries, len(delays) + 1)


def _pause(retry: Retry, before: int, delays: Sequence[float] | None, told: float | None) -> float:
    """Seconds, after so many pauses before this one; what a server has asked for is given to it in full."""
    if told is not None:
        return told * random.uniform(1, 1 + LONGER)  # noqa: S311
    usual = delays[min(before, len(delays) - 1)] if delays else min(retry.first * 2.0 ** min(before, 30), retry.most)
    return usual * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
