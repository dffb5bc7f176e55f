"""The window of task runs under way: bounded, refilled by whoever ends first, closed by a stop request."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from flows.window import run_each
from tasks import policy
from tests.servers.dovecot import wait_until


class Run:
    """A task run that ends when the test says so."""

    def __init__(self) -> None:
        self.future: Future[None] = Future()

    def add_done_callback(self, done: Callable[["Run"], None]) -> None:
        self.future.add_done_callback(lambda _: done(self))

    def wait(self) -> None:
        self.future.result(10)

    def end(self) -> None:
        self.future.set_result(None)


class Window:
    """`run_each` over numbers in a thread of its own, and the runs that it has submitted."""

    def __init__(self, items: int, width: int) -> None:
        self.runs: list[Run] = []

        def submit(_: int) -> Any:
            self.runs.append(Run())
            return self.runs[-1]

        self._outcome = ThreadPoolExecutor(1).submit(run_each, submit, range(items), width)

    def wait_for(self, submitted: int) -> None:
        wait_until(lambda: len(self.runs) == submitted, f"{submitted} runs to be submitted")

    def raised(self) -> BaseException | None:
        """What it ended with, once it has ended."""
        return self._outcome.exception(10)


@pytest.fixture(autouse=True)
def no_stop_request() -> Any:
    policy.STOP.clear()
    yield
    policy.STOP.clear()


def test_one_that_takes_long_holds_nobody_back() -> None:
    window = Window(items=6, width=3)
    window.wait_for(3)
    first, *others = window.runs
    for run in others:
        run.end()
    window.wait_for(5)
    for run in window.runs[3:]:
        run.end()
    window.wait_for(6)
    window.runs[5].end()
    first.end()
    assert window.raised() is None


def test_never_more_than_the_width_is_under_way() -> None:
    under_way = most = 0

    def submit(_: int) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        run = Run()

        def end() -> None:
            nonlocal under_way
            under_way -= 1
            run.end()

        threading.Timer(0.0, end).start()
        return run

    run_each(submit, range(50), 4)
    assert under_way == 0
    assert most <= 4


def test_after_a_stop_request_nothing_more_is_submitted_and_all_are_waited_for() -> None:
    window = Window(items=6, width=3)
    window.wait_for(3)
    policy.STOP.set()
    window.runs[1].end()
    for run in (window.runs[0], window.runs[2]):
        assert len(window.runs) == 3
        run.end()
    assert window.raised() is None
    assert len(window.runs) == 3


def test_an_exception_stops_the_members_and_waits_for_them() -> None:
    window = Window(items=6, width=3)
    window.wait_for(3)
    window.runs[1].future.set_exception(SystemExit("terminated"))
    wait_until(policy.STOP.is_set, "the members to be stopped")
    for run in (window.runs[0], window.runs[2]):
        run.end()
    assert isinstance(window.raised(), SystemExit)
    assert len(window.runs) == 3


def test_what_was_loaded_is_collected_again_afterwards() -> None:
    window = Window(items=1, width=3)
    window.wait_for(1)
    assert gc.get_freeze_count() > 0
    window.runs[0].end()
    assert window.raised() is None
    assert gc.get_freeze_count() == 0
