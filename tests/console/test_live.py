"""The live table leaves the processor to the members, however many there are."""

import pytest
from rich.console import Group

from console import live


class Clock:
    """The time, and the processor time of the thread that draws."""

    now = 100.0
    spent = 0.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(live.time, "thread_time", lambda: self.spent)


def test_a_dear_look_is_followed_by_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    drawn: list[Group] = []

    def draw() -> Group:
        clock.spent += 0.1
        drawn.append(Group())
        return drawn[-1]

    look = live._with_breath(draw)
    assert look() is drawn[0]
    assert look() is drawn[0]
    clock.now += live.BREATH * 0.1 - 0.01
    assert look() is drawn[0]
    clock.now += 0.02
    assert look() is drawn[1]
    assert len(drawn) == 2
