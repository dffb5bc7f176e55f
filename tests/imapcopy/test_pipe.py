"""The pipe between the reading and the writing thread."""

import threading
from collections.abc import Callable

import pytest

from imapcopy.pipe import BytePipe, PipeClosed
from tests.servers.dovecot import DEADLINE


def in_thread(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_items_come_out_in_order_and_the_end_after_them() -> None:
    pipe: BytePipe[int] = BytePipe(100)
    for number in range(5):
        pipe.put(number, 10)
    pipe.end()
    assert list(pipe) == [0, 1, 2, 3, 4]
    assert list(pipe) == []


def test_a_failure_comes_after_what_was_put_before_it() -> None:
    pipe: BytePipe[int] = BytePipe(100)
    pipe.put(1, 1)
    pipe.end(KeyError("x"))
    pipe.end(ValueError("a later one is not the reason"))
    items = iter(pipe)
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)


def test_no_more_than_the_limit_waits_and_a_larger_item_goes_alone() -> None:
    """What is in the pipe is compared while the producer stands still because it has to wait."""
    waits = threading.Semaphore(0)

    class Watched(threading.Condition):
        def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> object:
            if threading.current_thread() is producer and not predicate():
                waits.release()
            return super().wait_for(predicate, timeout)

    pipe: BytePipe[int] = BytePipe(10)
    pipe._changed = Watched()
    put: list[int] = []

    def produce() -> None:
        for size in [4, 4, 4, 50, 10, 1, 1]:
            pipe.put(size, size)
            put.append(size)
        pipe.end()

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    items, taken = iter(pipe), 0
    for held in ([4, 4], [4, 4], [50], [10]):
        assert waits.acquire(timeout=DEADLINE)
        assert put[taken:] == held
        # After the first of them one more fits; the others leave room only when all are taken.
        for size in held if taken else held[:1]:
            assert next(items) == size
            taken += 1
    assert list(items) == [1, 1]
    producer.join(DEADLINE)
    assert not producer.is_alive()


def test_a_producer_that_waits_is_woken_when_nobody_takes_any_more() -> None:
    pipe: BytePipe[int] = BytePipe(1)
    closed = threading.Event()

    def produce() -> None:
        try:
            pipe.put(1, 1)
            pipe.put(2, 1)
        except PipeClosed:
            closed.set()

    producer = in_thread(produce)
    assert next(iter(pipe)) == 1
    pipe.put(3, 0)
    pipe.end()
    producer.join(DEADLINE)
    assert not producer.is_alive()
    with pytest.raises(PipeClosed):
        pipe.put(4, 1)


def test_a_taker_that_waits_is_woken_by_the_end() -> None:
    pipe: BytePipe[int] = BytePipe(1)
    taken: list[int] = []
    taker = in_thread(lambda: taken.extend(pipe))
    assert not pipe.ended
    pipe.end()
    taker.join(DEADLINE)
    assert not taker.is_alive()
    assert pipe.ended
