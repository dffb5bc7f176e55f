"""Keeps a bounded number of task runs under way: memory, the rate of events and the time to stop stay bounded."""

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect.futures import PrefectFuture

from tasks import policy

T = TypeVar("T")


def run_each(submit: Callable[[T], PrefectFuture[Any]], items: Iterable[T], width: int) -> None:
    """Submit the items, at most `width` unfinished at a time, and wait for all; a stop request submits no more.

    Whoever ends first makes room for the next, so that one that takes hours holds nobody back.
    """
    under_way: set[PrefectFuture[Any]] = set()
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()

    def wait_for_one() -> None:
        future = ended.get()
        under_way.remove(future)
        future.wait()  # raises what the engine itself ended with

    try:
        with _what_is_loaded_left_out_of_collections():
            for item in items:
                if policy.STOP.is_set():
                    break
                future = submit(item)
                under_way.add(future)
                future.add_done_callback(ended.put)
                if len(under_way) >= width:
                    wait_for_one()
            while under_way:
                wait_for_one()
    except BaseException:
        # SIGTERM or a cancelled run in a worker: the members end after the batch under way, then this goes up. Not
        # before, because what comes next asks them how they ended.
        policy.STOP.set()
        for future in under_way:
            future.wait()
        raise


@contextlib.contextmanager
def _what_is_loaded_left_out_of_collections() -> Iterator[None]:
    """Look for garbage only in what the body makes: a million objects of imported modules stay anyway.

    Going through them again and again took an eighth of the time of a wave of small mailboxes.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
