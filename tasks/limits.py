"""How many members are moved at the same time from one source server and into one target server, in this process.

Plain counters: Prefect's global limits cost a tenth of a second a member, and their slots leak when its server
restarts (docs/decisions/0003-limits.md).
"""

import contextlib
import threading
from collections.abc import Iterator


class _Slots:
    """Places at one server."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._free)
            finally:
                self._waiting -= 1
            self._free -= 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()

    @contextlib.contextmanager
    def spare(self) -> Iterator[bool]:
        """Hold a place that nobody waits for; False when there is none."""
        with self._changed:
            found = self._free > 0 and not self._waiting
            self._free -= found
        try:
            yield found
        finally:
            if found:
                self.__exit__()


_slots: dict[tuple[str, str], _Slots] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def host_slots(source_host: str, at_source: int, target_host: str, at_target: int) -> Iterator[None]:
    """Wait for a slot at both servers, always the source first, so that two members never wait for each other."""
    with _slot("source", source_host, at_source), _slot("target", target_host, at_target):
        yield


def spare_target_slot(host: str, limit: int) -> contextlib.AbstractContextManager[bool]:
    """One more connection of a member to the target server, if no other member wants the place."""
    return _slot("target", host, limit).spare()


def _slot(side: str, host: str, limit: int) -> _Slots:
    with _lock:
        return _slots.setdefault((side, host.lower()), _Slots(limit))
