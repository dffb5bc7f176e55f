"""The live table leaves the processor to the members, however many there are."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from rich.console import Group

from console import live
from models.progress import MemberProgress
from models.states import MemberState


class Clock:
    """The time, and the processor time of the thread that draws."""

    now = 100.0
    spent = 0.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Theirs alone: other threads of this process go by the real one.
        clocks = SimpleNamespace(monotonic=lambda: self.now, thread_time=lambda: self.spent)
        monkeypatch.setattr(live, "time", clocks)


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


def test_a_member_that_waits_beyond_midnight_shows_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    evening = datetime(2026, 11, 20, 22, tzinfo=UTC)
    monkeypatch.setattr(live, "now", lambda: evening)

    def told(at: datetime) -> str:
        waits = MemberProgress("li@new.example", MemberState.THROTTLED, "bandwidth_exceeded", 9, 4, 0, 1, at)
        return live.state_text(waits, "en").plain

    assert told(evening + timedelta(minutes=90)).endswith("Daily transfer used up (23:30:00 UTC)")
    assert told(evening + timedelta(hours=20)).endswith("Daily transfer used up (2026-11-21 18:00 UTC)")
