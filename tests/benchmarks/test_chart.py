"""The pictures of the benchmarks: from the JSON that the benchmarks write, and well-formed."""

import xml.etree.ElementTree as ET
from dataclasses import asdict

import pytest

from benchmarks.chart import first_pass, growth
from benchmarks.growth import MAILBOX, MESSAGE, Point
from benchmarks.job import Pass
from benchmarks.run import Case, Outcome
from benchmarks.shapes import Seeded
from benchmarks.svg import LogScale


def _words(picture: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314


def _outcome(latency: float, tool: str, *seconds: float) -> Outcome:
    case = Case("small", latency, "full", 0, 1, 1.0)
    return Outcome(case, tool, Seeded(5000, 26_000_000), [Pass(each, 1.0, 1) for each in seconds], [])


def test_first_passes_show_seconds_and_how_they_compare() -> None:
    outcomes = [_outcome(20, "banjia", 2.0, 4.0, 3.0), _outcome(20, "mbsync", 4.0, 8.0, 6.0)]

    words = _words(first_pass([asdict(outcome) for outcome in outcomes]))

    assert {"small: 5,000 messages, 26 MB", "20 ms", "3.00 s", "6.00 s", "2.00", "Banjia", "mbsync"} <= set(words)


def test_growth_shows_what_one_message_and_one_mailbox_cost() -> None:
    points = [
        Point(unit, size, messages, 1, [Pass(seconds, seconds / 2, 1)], [Pass(0.1, 0.1, 1)])
        for unit, size, messages, seconds in (
            (MESSAGE, 1000, 1000, 0.5),
            (MESSAGE, 10000, 10000, 5.0),
            (MAILBOX, 10, 50, 0.3),
            (MAILBOX, 100, 500, 3.3),
        )
    ]

    words = _words(growth([asdict(point) for point in points]))

    assert {"0.50 ms", "0.25 ms", "30.0 ms", "33.0 ms", "messages in one folder", "mailboxes of 5 messages"} <= set(
        words
    )


@pytest.mark.parametrize("values", [(0.3, 45.0), (1.0, 10.0), (7.0, 7.0), (0.1, 0.1)])
def test_a_logarithmic_scale_holds_its_values_between_two_ticks(values: tuple[float, float]) -> None:
    scale = LogScale.around(values, 100, 500, between=True)

    ticks = scale.ticks(between=True)
    assert (ticks[0], ticks[-1]) == (scale.low, scale.high)
    assert all(100 <= scale.place(value) <= 500 for value in values)
    assert scale.place(scale.high) == pytest.approx(500)
