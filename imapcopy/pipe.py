"""Hands work from the reading thread to the writing one, bounded by bytes."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class PipeClosed(Exception):
    """The taking side has gone: stop producing."""


class BytePipe(Generic[T]):
    """A queue that holds at most `limit` bytes; one item alone may be larger."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._ended = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, item: T, size: int) -> None:
        """Wait for room, then hand over; PipeClosed when nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._items or self._bytes + size <= self._limit)
            if self._ended:
                raise PipeClosed
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def end(self, failure: BaseException | None = None) -> None:
        """No more is coming, or no more is wanted; a failure reaches the taker after what was put before it."""
        with self._changed:
            self._ended = True
            self._failure = self._failure or failure
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """No more is coming, or no more is wanted."""
        with self._changed:
            return self._ended

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    if self._failure:
                        raise self._failure
                    return
                item, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
            yield item
