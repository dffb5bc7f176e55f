"""So many members at a time from one server and into another, and nobody waits for ever."""

import threading
from collections.abc import Callable

import pytest

from tasks.limits import host_slots, spare_target_slot


@pytest.fixture(autouse=True)
def no_limits_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.limits._slots", {})


class Crowd:
    """Threads that hold their slots until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.inside = threading.Semaphore(0)
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def enter(self, source: str, at_source: int, target: str, at_target: int) -> None:
        def hold() -> None:
            with host_slots(source, at_source, target, at_target):
                with self._lock:
                    self._now += 1
                    self.most = max(self.most, self._now)
                self.inside.release()
                self.go.wait()
                with self._lock:
                    self._now -= 1

        self._threads.append(threading.Thread(target=hold, daemon=True))
        self._threads[-1].start()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.inside.acquire(timeout=60)

    def leave(self) -> None:
        self.go.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("enter", "most"),
    [
        (lambda crowd, n: crowd.enter("old", 2, f"new{n}", 9), 2),
        (lambda crowd, n: crowd.enter(f"old{n}", 9, "new", 3), 3),
        (lambda crowd, n: crowd.enter("OLD" if n % 2 else "old", 2, "new", 9), 2),
        (lambda crowd, n: crowd.enter("same", 2, "same", 3), 2),
    ],
)
def test_no_more_than_the_limit_are_inside(enter: Callable[[Crowd, int], None], most: int) -> None:
    crowd = Crowd()
    for number in range(6):
        enter(crowd, number)
    crowd.wait_for(most)
    crowd.leave()
    assert crowd.most == most


def test_servers_do_not_wait_for_each_other() -> None:
    crowd = Crowd()
    for number in range(5):
        crowd.enter(f"old{number}", 1, f"new{number}", 1)
    crowd.wait_for(5)
    crowd.leave()


def test_a_failure_gives_the_slots_back() -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError), host_slots("old", 1, "new", 1):
            raise TimeoutError
    with host_slots("old", 1, "new", 1):
        pass


def test_a_spare_slot_is_one_that_nobody_waits_for() -> None:
    with spare_target_slot("NEW", 3) as first, spare_target_slot("new", 3) as second:
        assert (first, second) == (True, True)
        with host_slots("old", 9, "new", 3), spare_target_slot("new", 3) as third:
            assert not third
        with spare_target_slot("new", 3) as third:
            assert third, "what was left is free again, and what was not given is not given back"
    with spare_target_slot("elsewhere", 1) as other:
        assert other
