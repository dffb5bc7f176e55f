"""Bounds the mail that a process has under way: asked for, read, and not yet known to have arrived."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

UNDER_WAY_BYTES = 160 << 20
"""For all mailboxes of the process together; one message alone may be larger."""


class ByteBudget:
    """Octets that may be under way at once. Who has to wait is served in turn."""

    def __init__(self, limit: int = UNDER_WAY_BYTES) -> None:
        self._limit = limit
        self._taken = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def try_take(self, size: int) -> bool:
        """Take without waiting, and without passing those who wait."""
        with self._changed:
            free = not self._queue and (not self._taken or self._taken + size <= self._limit)
            self._taken += size if free else 0
            return free

    def take(self, size: int, given_up: Callable[[], bool]) -> bool:
        """Wait for so many octets, or for all to be given back; False when `given_up` comes first."""
        me = object()
        with self._changed:
            self._queue.append(me)
            while not given_up():
                if self._queue[0] is me and (not self._taken or self._taken + size <= self._limit):
                    self._taken += size
                    break
                # given_up() may change without a word to us.
                self._changed.wait(0.2)
            else:
                size = -1
            self._queue.remove(me)
            self._changed.notify_all()
        return size >= 0

    def give(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify_all()


class Allowance:
    """What one mailbox has taken; all of it goes back at the end, however that came."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give(self._held)

    def try_take(self, size: int) -> bool:
        return self._budget.try_take(size) and self._took(size)

    def take(self, size: int, given_up: Callable[[], bool]) -> bool:
        return self._budget.take(size, given_up) and self._took(size)

    def _took(self, size: int) -> bool:
        with self._lock:
            self._held += size
        return True

    def give(self, size: int) -> None:
        """Give back what is no longer under way."""
        with self._lock:
            self._held -= size
        self._budget.give(size)


PROCESS = ByteBudget()
"""The one that all mailboxes share."""
