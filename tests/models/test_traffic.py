"""When an account with a daily limit has room again, and how long a mailbox takes: pure."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from models.providers import provider_named
from models.traffic import HOUR, WINDOW, Opening, add_traffic, daily_limits, days, moved, opening, traffic

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
NOW = MIDNIGHT + timedelta(hours=20, minutes=30)
HISTORY = {MIDNIGHT + hour * HOUR: octets for hour, octets in ((8, 400), (10, 300), (20, 200))}
"""Of a limit of 1000."""


def leaves(hour: int) -> datetime:
    """When what was moved in that hour is out of the window."""
    return MIDNIGHT + (hour + 1) * HOUR + WINDOW


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (50, Opening(NOW, 50)),
        (51, Opening(leaves(8), 450)),
        (450, Opening(leaves(8), 450)),
        (451, Opening(leaves(10), 750)),
        (950, Opening(leaves(20), 950)),
        (5000, Opening(leaves(20), 950)),
    ],
)
def test_there_is_room_again_when_enough_is_a_day_old_at_the_latest_when_all_is(wanted: int, found: Opening) -> None:
    assert opening(HISTORY, 1000, wanted, NOW) == found


def test_an_hour_is_in_the_window_until_its_last_octet_is_a_day_old() -> None:
    assert moved(HISTORY, leaves(8) - timedelta(seconds=1)) == 900
    assert moved(HISTORY, leaves(8)) == 500


def test_a_mailbox_takes_as_many_days_as_the_share_of_the_limit_goes_into_it() -> None:
    assert [days(octets, 1000) for octets in (0, 950, 951, 9500)] == [0, 1, 2, 10]
    assert days(20 << 30, daily_limits(provider_named("gmail"))["read"]) == 9


def test_a_service_without_limits_has_none() -> None:
    assert daily_limits(provider_named("exmail")) == {}


def test_what_runners_add_is_summed_and_what_is_older_than_the_window_goes(engine: Engine) -> None:
    def add(hour: int, read: int, written: int, at: datetime = NOW) -> None:
        when = MIDNIGHT + hour * HOUR
        add_traffic(engine, "old.example", "li", {"read": {when: read}, "written": {when: written}}, at)

    add(8, 1, 10)
    add(20, 3 << 30, 0)
    add(20, 2, 20)
    add_traffic(engine, "old.example", "wang", {"read": {NOW: 7}}, NOW)
    at_eight, at_twenty = (MIDNIGHT + hour * HOUR for hour in (8, 20))
    assert traffic(engine, "old.example", "li", NOW) == {
        "read": {at_eight: 1, at_twenty: (3 << 30) + 2},
        "written": {at_eight: 10, at_twenty: 20},
    }
    add(21, 5, 5, leaves(8))
    assert traffic(engine, "old.example", "li", MIDNIGHT)["read"].keys() == {at_twenty, MIDNIGHT + 21 * HOUR}
