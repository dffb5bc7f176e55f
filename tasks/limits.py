"""How many members are moved at the same time from one source server and into one target server, in this process.

Plain semaphores: Prefect's global limits cost a tenth of a second a member, and their slots leak when its server
restarts (docs/decisions/0003-limits.md).
"""

import contextlib
import threading
from collections.abc import Iterator

_slots: dict[tuple[str, str], threading.BoundedSemaphore] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def host_slots(source_host: str, at_source: int, target_host: str, at_target: int) -> Iterator[None]:
    """Wait for a slot at both servers, always the source first, so that two members never wait for each other."""
    with _slot("source", source_host, at_source), _slot("target", target_host, at_target):
        yield


def _slot(side: str, host: str, limit: int) -> threading.BoundedSemaphore:
    with _lock:
        return _slots.setdefault((side, host.lower()), threading.BoundedSemaphore(limit))
