"""Who is begun next, and how many at once: nobody's thread waits for a host, and nobody is held back by another's."""

import contextlib
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.window import Needs, decide, run_each
from models.columns import now
from models.lifecycle import Due
from tasks import policy
from tasks.slots import Room
from tests.servers.dovecot import DEADLINE, wait_until

HOSTS = ("old", "older", "new")


class Run:
    """A task run that ends when the test says so."""

    def __init__(self, member: Due) -> None:
        self.member = member
        self.future: Future[None] = Future()

    def add_done_callback(self, done: Callable[["Run"], None]) -> None:
        self.future.add_done_callback(lambda _: done(self))

    def wait(self) -> None:
        self.future.result(DEADLINE)

    def end(self) -> None:
        self.future.set_result(None)


class Hosts:
    """A gate whose hosts have the room that the test gives them; a member's old host is its source_host."""

    def __init__(self, **slots: int) -> None:
        self.slots = slots
        self.closed: dict[str, datetime] = {}
        self.held: dict[int, str] = {}
        self.wanted: dict[str, int] = {}
        self.resume_at: dict[int, datetime] = {}
        self._changed: Callable[[], None] = lambda: None

    def needs(self, member: Due) -> Needs:
        return (member.source_host,) if member.source_host else ()

    def room(self, host: str) -> Room:
        return Room(self.slots[host] - Counter(self.held.values())[host], self.closed.get(host))

    def reserve(self, member: Due) -> bool:
        assert self.room(str(member.source_host)).free > 0
        self.held[member.id] = str(member.source_host)
        return True

    def give_up(self, member: Due) -> None:
        self.held.pop(member.id, None)

    def want(self, wanted: dict[str, int]) -> None:
        self.wanted = wanted

    def again(self, member: Due) -> datetime | None:
        return self.resume_at.pop(member.id, None)

    def change(self) -> None:
        self._changed()

    @contextlib.contextmanager
    def listening(self, changed: Callable[[], None]) -> Iterator[None]:
        self._changed = changed
        yield


class Window:
    """`run_each` over members in a thread of its own, and the runs that it has submitted."""

    def __init__(self, items: int, lanes: int, hosts: Hosts | None = None, *names: str) -> None:
        self.runs: list[Run] = []
        self.hosts = hosts or Hosts()
        members = [Due(n, f"{n}@new.example", names[n % len(names)] if names else None) for n in range(items)]

        def submit(member: Due) -> Any:
            self.runs.append(Run(member))
            return self.runs[-1]

        self._outcome = ThreadPoolExecutor(1).submit(run_each, submit, members, self.hosts, lanes)

    def wait_for(self, submitted: int) -> None:
        wait_until(lambda: len(self.runs) == submitted, f"{submitted} runs to be submitted")

    def raised(self) -> BaseException | None:
        """What it ended with, once it has ended."""
        return self._outcome.exception(DEADLINE)


@pytest.fixture(autouse=True)
def no_stop_request() -> Any:
    policy.STOP.clear()
    yield
    policy.STOP.clear()


# -- the decision

rooms = st.builds(Room, st.integers(0, 4), st.one_of(st.none(), st.just(datetime(2030, 1, 1, tzinfo=now().tzinfo))))
pairs = st.lists(st.sampled_from(HOSTS), min_size=0, max_size=2).map(tuple)


@given(st.dictionaries(pairs, st.integers(1, 6)), st.fixed_dictionaries(dict.fromkeys(HOSTS, rooms)), st.integers(0, 8))
def test_nobody_gets_what_a_host_has_not_and_no_lane_is_idle_that_could_be_used(
    waiting: dict[Needs, int], hosts: dict[str, Room], lanes: int
) -> None:
    decision = decide(waiting, hosts, lanes)
    begun = Counter(decision.begin)
    used = Counter(host for needs in decision.begin for host in needs)
    assert len(decision.begin) <= lanes
    assert all(number <= waiting[needs] for needs, number in begun.items())
    assert all(number <= hosts[host].free for host, number in used.items())
    assert not any(hosts[host].until for host in used)
    left = {host: 0 if room.until else room.free - used[host] for host, room in hosts.items()}
    could = [
        needs
        for needs, number in waiting.items()
        if number > begun[needs] and all(left[host] >= each for host, each in Counter(needs).items())
    ]
    assert len(decision.begin) == lanes or not could
    assert all(0 < number <= lanes for number in decision.wanted.values())
    assert not any(hosts[host].until for host in decision.wanted)


def test_those_who_need_different_hosts_take_turns() -> None:
    waiting = {("old",): 3, ("older",): 3}
    decision = decide(waiting, {"old": Room(9), "older": Room(9)}, lanes=4)
    assert decision.begin == (("old",), ("older",), ("old",), ("older",))


def test_what_is_wanted_is_what_could_be_begun_with_more_slots() -> None:
    decision = decide({("old", "new"): 5}, {"old": Room(1), "new": Room(9)}, lanes=4)
    assert decision.begin == (("old", "new"),)
    assert decision.wanted == {"old": 3}


# -- the window


def test_one_that_takes_long_holds_nobody_back() -> None:
    window = Window(6, 3)
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


def test_never_more_than_the_lanes_are_under_way() -> None:
    under_way = most = 0
    counting = threading.Lock()

    def submit(member: Due) -> Any:
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
        run = Run(member)

        def end() -> None:
            nonlocal under_way
            with counting:
                under_way -= 1
            run.end()

        threading.Timer(0.0, end).start()
        return run

    run_each(submit, [Due(n, "") for n in range(50)], Hosts(), 4)
    assert under_way == 0
    assert most <= 4


def test_a_paused_host_holds_no_lane_and_its_members_come_when_it_opens() -> None:
    hosts = Hosts(old=9, older=9)
    hosts.closed["old"] = now() + timedelta(hours=1)
    window = Window(6, 2, hosts, "old", "older")
    window.wait_for(2)
    assert {run.member.source_host for run in window.runs} == {"older"}
    window.runs[0].end()
    window.wait_for(3)
    for run in window.runs[1:]:
        run.end()
    del hosts.closed["old"]
    hosts.change()
    window.wait_for(5)
    assert [run.member.source_host for run in window.runs[3:]] == ["old", "old"]
    for run in window.runs[3:5]:
        run.end()
    window.wait_for(6)
    window.runs[5].end()
    assert window.raised() is None


def test_a_full_host_is_asked_for_more_and_holds_no_lane() -> None:
    hosts = Hosts(old=1, older=9)
    window = Window(6, 3, hosts, "old", "older")
    window.wait_for(3)
    assert Counter(run.member.source_host for run in window.runs) == {"old": 1, "older": 2}
    for number in range(3, 7):
        for run in [run for run in window.runs if not run.future.done()]:
            run.end()
        if number < 6:
            wait_until(lambda n=number: len(window.runs) > n, "the next")
    for run in [run for run in window.runs if not run.future.done()]:
        run.end()
    assert window.raised() is None
    assert len(window.runs) == 6


def test_a_member_that_ends_with_a_time_is_begun_again_then_and_the_run_ends_after_it() -> None:
    hosts = Hosts()
    window = Window(1, 1, hosts)
    window.wait_for(1)
    hosts.resume_at[0] = now()
    window.runs[0].end()
    window.wait_for(2)
    window.runs[1].end()
    assert window.raised() is None


def test_a_stop_request_does_not_wait_for_a_time_that_is_far() -> None:
    hosts = Hosts()
    window = Window(1, 1, hosts)
    window.wait_for(1)
    hosts.resume_at[0] = now() + timedelta(hours=1)
    window.runs[0].end()
    policy.STOP.set()
    assert window.raised() is None
    assert len(window.runs) == 1


def test_after_a_stop_request_nothing_more_is_submitted_and_all_are_waited_for() -> None:
    window = Window(6, 3)
    window.wait_for(3)
    policy.STOP.set()
    window.runs[1].end()
    for run in (window.runs[0], window.runs[2]):
        assert len(window.runs) == 3
        run.end()
    assert window.raised() is None
    assert len(window.runs) == 3


def test_an_exception_stops_the_members_and_waits_for_them() -> None:
    window = Window(6, 3)
    window.wait_for(3)
    window.runs[1].future.set_exception(SystemExit("terminated"))
    wait_until(policy.STOP.is_set, "the members to be stopped")
    for run in (window.runs[0], window.runs[2]):
        run.end()
    assert isinstance(window.raised(), SystemExit)
    assert len(window.runs) == 3


def test_what_was_loaded_is_collected_again_afterwards() -> None:
    window = Window(1, 3)
    window.wait_for(1)
    assert gc.get_freeze_count() > 0
    window.runs[0].end()
    assert window.raised() is None
    assert gc.get_freeze_count() == 0
