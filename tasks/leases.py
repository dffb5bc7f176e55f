"""Keeps the leases of this process alive: one thread for all members under way, one transaction a turn."""

import contextlib
import threading
import time
from collections.abc import Iterator

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from models.member import LeaseHeld, lease_seconds, renew_leases, this_runner

TURNS = 4
"""So often within its time a lease is renewed: a database that is busy for once has three more chances."""

_claimed: set[tuple[Engine, int]] = set()
_under_way: dict[tuple[Engine, int], int] = {}
_lock = threading.Lock()
_threads: list[threading.Thread] = []


@contextlib.contextmanager
def claimed(engine: Engine, member_id: int) -> Iterator[None]:
    """Keep other tasks of this process off the member; LeaseHeld when one has it.

    A lease of this process that is found in the database then is one that it could not give back.
    """
    with _lock:
        if (engine, member_id) in _claimed:
            raise LeaseHeld(this_runner())
        _claimed.add((engine, member_id))
    try:
        yield
    finally:
        with _lock:
            _claimed.remove((engine, member_id))


@contextlib.contextmanager
def renewed(engine: Engine, member_id: int, token: int) -> Iterator[None]:
    """Renew the member's lease while the body runs, also while one long message is on its way."""
    with _lock:
        _under_way[engine, member_id] = token
        if not _threads:
            _threads.append(threading.Thread(target=_renew_for_ever, name="leases", daemon=True))
            _threads[0].start()
    try:
        yield
    finally:
        with _lock:
            del _under_way[engine, member_id]


def renew_now() -> None:
    """Renew the lease of every member under way; one that is lost shows at its next ledger write."""
    with _lock:
        under_way = dict(_under_way)
    for engine in {engine for engine, _ in under_way}:
        tokens = {member_id: token for (of, member_id), token in under_way.items() if of is engine}
        with contextlib.suppress(SQLAlchemyError):
            renew_leases(engine, tokens)


def _renew_for_ever() -> None:
    while True:
        time.sleep(lease_seconds() / TURNS)
        renew_now()
