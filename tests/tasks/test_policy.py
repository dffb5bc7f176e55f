"""When a member is tried again: the cause decides."""

import pytest

from models.causes import causes
from tasks import policy

DELAYS = (5.0, 20.0, 60.0)


@pytest.mark.parametrize(
    ("cause", "tries"),
    [
        ("timeout", 4),
        ("connection_dropped", 4),
        ("throttled", 4),
        ("mailbox_unavailable", 4),
        ("connect_failed", 3),
        ("dns_error", 2),
        ("unclassified", 2),
        ("lease_lost", 1),
        ("login_throttled", 1),
        ("bandwidth_exceeded", 1),
    ],
)
def test_the_cause_says_how_often(cause: str, tries: int) -> None:
    assert policy.tries(cause, DELAYS) == tries


@pytest.mark.parametrize("cause", sorted(causes()))
def test_nobody_is_tried_more_often_than_there_are_delays(cause: str) -> None:
    assert policy.tries(cause, ()) == 1
    assert policy.tries(cause, (1.0,)) <= 2


def test_every_exception_from_the_rule_is_a_cause_that_may_be_tried_again() -> None:
    named = {*policy._FEWER_TRIES, *policy._LONG_WAITS}
    assert all(causes()[name].retryable for name in named)


@pytest.mark.parametrize(("attempt", "wait"), [(1, 5.0), (2, 20.0), (3, 60.0), (4, 60.0)])
def test_the_pause_grows_and_varies_so_that_members_do_not_return_together(attempt: int, wait: float) -> None:
    pauses = {policy.delay(attempt, DELAYS) for _ in range(50)}
    assert len(pauses) > 1
    assert all(wait * (1 - policy.JITTER) <= pause <= wait * (1 + policy.JITTER) for pause in pauses)


def test_without_delays_there_is_no_pause() -> None:
    assert policy.delay(1, ()) == 0
