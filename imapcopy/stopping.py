"""Ends what a stop request finds waiting for a server: by itself for some seconds, then by cutting its connections.

A message may take minutes on a slow line, and a silent server a minute to be given up. What is cut is as after a
killed process: it stays intended in the ledger, and the next pass looks it up.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from imapcopy.endpoint import Endpoint

GRACE_SECONDS = 4.0
"""So long a mailbox may go on after a stop request, to end what it has under way."""
_LOOK_SECONDS = 0.5
_IDLE_LOOKS = 20


class _Guard:
    """One thread for all mailboxes of the process, as long as there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guarded: dict[object, tuple[threading.Event, tuple[Endpoint[Any], ...]]] = {}
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def over(self, stop: threading.Event, *endpoints: Endpoint[Any]) -> Iterator[None]:
        key = object()
        with self._lock:
            self._guarded[key] = stop, endpoints
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="stop", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._guarded[key]

    def _look(self) -> None:
        asked: dict[object, float] = {}
        idle = 0
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                guarded = dict(self._guarded)
                idle = 0 if guarded else idle + 1
                if idle > _IDLE_LOOKS:
                    self._thread = None
                    return
            asked = {key: since for key, since in asked.items() if key in guarded}
            for key, (stop, endpoints) in guarded.items():
                if stop.is_set() and time.monotonic() - asked.setdefault(key, time.monotonic()) >= GRACE_SECONDS:
                    for endpoint in endpoints:
                        endpoint.end()


_GUARD = _Guard()


def ended_by(stop: threading.Event, *endpoints: Endpoint[Any]) -> contextlib.AbstractContextManager[None]:
    """While the body runs, a stop request cuts these connections, and those beside them, if it is not obeyed soon."""
    return _GUARD.over(stop, *endpoints)
