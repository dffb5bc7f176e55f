"""Keeps a bounded number of task runs under way: memory, the rate of events and the time to stop stay bounded."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from prefect.futures import PrefectFuture

from tasks import policy

T = TypeVar("T")


def run_each(submit: Callable[[T], PrefectFuture[Any]], items: Iterable[T], width: int) -> None:
    """Submit the items, at most `width` unfinished at a time, and wait for all; a stop request submits no more."""
    under_way: deque[PrefectFuture[Any]] = deque()
    try:
        for item in items:
            if policy.STOP.is_set():
                break
            under_way.append(submit(item))
            if len(under_way) >= width:
                under_way.popleft().wait()
        for future in under_way:
            future.wait()
    except BaseException:
        # SIGTERM or a cancelled run in a worker: the members end after the batch under way, then this goes up. Not
        # before, because what comes next asks them how they ended.
        policy.STOP.set()
        for future in under_way:
            future.wait()
        raise
