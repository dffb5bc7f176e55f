"""Hands work from the reading thread to the writing one, bounded by bytes."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


EMPTY_SECONDS = 0.5
"""How long nothing has come when the taker turns to something else: longer than any round trip."""


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

    def each(self, while_empty: Callable[[], None] = lambda: None) -> Iterator[T]:
        """What is put in, until it ends; `while_empty` is called when nothing has come for a while, again and again."""
        for items in self.together(lambda items, item: False, while_empty):
            yield from items

    def together(
        self, fits: Callable[[Sequence[T], T], bool], while_empty: Callable[[], None] = lambda: None
    ) -> Iterator[list[T]]:
        """As `each`, in lists: what is there just now, as long as the next item fits to those before it."""
        while True:
            while not self._has_something(EMPTY_SECONDS):
                while_empty()
            items: list[T] = []
            with self._changed:
                if not self._items:
                    if self._failure:
                        raise self._failure
                    return
                while self._items and (not items or fits(items, self._items[0][0])):
                    item, size = self._items.popleft()
                    self._bytes -= size
                    items.append(item)
                self._changed.notify_all()
            yield items

    def _has_something(self, seconds: float) -> bool:
        """Wait so long for an item or the end."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._items or self._ended, seconds))

    def __iter__(self) -> Iterator[T]:
        return self.each()
