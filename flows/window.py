"""Decides which member is begun next, and keeps a bounded number of task runs under way.

No thread waits for a host: a member whose host is full or paused, or whose own time has not come, stays in line, others
are begun, and it is submitted when there is room. The flow ends when nobody is in line any more.
"""

import contextlib
import gc
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from prefect.futures import PrefectFuture

from models.columns import now
from models.lifecycle import Due
from tasks import policy
from tasks.slots import Room

LOOK_SECONDS = 0.5
"""So often at least it is looked whether a time has come, or whether all is to stop."""

Needs = tuple[str, ...]
"""The hosts at which a member needs a slot; none where that cannot be told."""


class Gate(Protocol):
    """Knows what hosts have room for."""

    def needs(self, member: Due) -> Needs: ...
    def room(self, host: str) -> Room: ...
    def reserve(self, member: Due) -> bool: ...
    def give_up(self, member: Due) -> None: ...
    def want(self, wanted: dict[str, int]) -> None: ...
    def again(self, member: Due) -> datetime | None: ...
    def listening(self, changed: Callable[[], None]) -> contextlib.AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """Whom to begin now, by what they need, in that order; and how many could be begun if a host had more slots."""

    begin: tuple[Needs, ...]
    wanted: dict[str, int]


def decide(waiting: Mapping[Needs, int], rooms: Mapping[str, Room], lanes: int) -> Decision:
    """Fill the free lanes, in turns over those who need different hosts; nobody gets what a host has not."""
    free = {host: 0 if room.until else room.free for host, room in rooms.items()}
    left = dict(waiting)
    begin: list[Needs] = []
    moved = True
    while moved:
        moved = False
        for needs in waiting:
            if len(begin) == lanes:
                return Decision(tuple(begin), {})
            if left[needs] and all(free[host] >= each for host, each in Counter(needs).items()):
                for host in needs:
                    free[host] -= 1
                left[needs] -= 1
                begin.append(needs)
                moved = True
    wanted: Counter[str] = Counter()
    for needs, number in left.items():
        lacking = [host for host, each in Counter(needs).items() if free[host] < each]
        if number and not any(rooms[host].until for host in needs):
            wanted.update(dict.fromkeys(lacking, number))
    return Decision(tuple(begin), {host: min(number, lanes - len(begin)) for host, number in wanted.items()})


@dataclass(slots=True)
class _Line:
    """Those who are not through: who could be begun, by what they need, and whose time has not come."""

    gate: Gate
    waiting: dict[Needs, deque[Due]] = field(default_factory=dict)
    later: list[tuple[datetime, int, Due]] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)

    def add(self, member: Due, at: datetime | None) -> None:
        if at is not None and at > now():
            heapq.heappush(self.later, (at, next(self._number), member))
        else:
            self.waiting.setdefault(self.gate.needs(member), deque()).append(member)

    def come_due(self) -> None:
        at = now()
        while self.later and self.later[0][0] <= at:
            self.add(heapq.heappop(self.later)[2], None)

    def next_ones(self, lanes: int) -> list[Due]:
        """Those to begin now; each has what it needs."""
        self.come_due()
        hosts = {host for needs in self.waiting for host in needs}
        rooms = {host: self.gate.room(host) for host in hosts}
        decision = decide({needs: len(line) for needs, line in self.waiting.items()}, rooms, lanes)
        self.gate.want(decision.wanted)
        begun = []
        for needs in decision.begin:
            if needs and not self.gate.reserve(self.waiting[needs][0]):
                continue
            begun.append(self.waiting[needs].popleft())
            # At the end of the turn, and gone where nobody is left.
            if line := self.waiting.pop(needs):
                self.waiting[needs] = line
        return begun

    def __bool__(self) -> bool:
        return bool(self.waiting or self.later)

    def seconds(self) -> float:
        """How long nothing happens by itself."""
        if not self.later:
            return LOOK_SECONDS
        return max(0.0, min(LOOK_SECONDS, (self.later[0][0] - now()).total_seconds()))


def run_each(submit: Callable[[Due], PrefectFuture[Any]], members: Iterable[Due], gate: Gate, lanes: int) -> None:
    """Submit the members as their hosts have room, at most `lanes` at a time, and wait for all.

    A stop request submits no more. Whoever ends first makes room for the next, so that one that takes hours holds
    nobody back.
    """
    under_way: dict[PrefectFuture[Any], Due] = {}
    news: SimpleQueue[PrefectFuture[Any] | None] = SimpleQueue()
    line = _Line(gate)

    def take_news(future: PrefectFuture[Any] | None) -> None:
        if future is None:
            return
        member = under_way.pop(future)
        try:
            future.wait()  # raises what the engine itself ended with
        finally:
            gate.give_up(member)
        at = gate.again(member)
        if at is not None:
            line.add(member, at)

    try:
        with _what_is_loaded_left_out_of_collections(), gate.listening(lambda: news.put(None)):
            for member in members:
                line.add(member, member.not_before)
            while under_way or (line and not policy.STOP.is_set()):
                if not policy.STOP.is_set():
                    for member in line.next_ones(lanes - len(under_way)):
                        future = submit(member)
                        under_way[future] = member
                        future.add_done_callback(news.put)
                with contextlib.suppress(Empty):
                    take_news(news.get(timeout=line.seconds()))
                    while True:
                        take_news(news.get_nowait())
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
