"""When a member is tried again, and how long a host is left alone: the cause decides."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.causes import causes
from models.hosts import Host
from models.refusals import OF_THE_ACCOUNT, refused
from tasks import policy
from tasks.policy import Attempts, next_try

AT = datetime(2026, 12, 5, 22, tzinfo=UTC)
RETRYABLE = sorted(name for name, each in causes().items() if each.retry)


def seconds(name: str, tries: int = 1, **options: object) -> float | None:
    at = next_try(causes()[name], Attempts(tries), options.pop("delays", None), AT, **options)  # type: ignore[arg-type]
    return None if at is None else (at - AT).total_seconds()


@pytest.mark.parametrize("name", RETRYABLE)
def test_a_cause_is_tried_as_often_as_it_says_with_growing_pauses_that_vary(name: str) -> None:
    retry = causes()[name].retry
    assert retry
    for tries in range(1, retry.tries):
        usual = min(retry.first * 2 ** (tries - 1), retry.most)
        pauses = {seconds(name, tries) for _ in range(20)}
        assert len(pauses) > 1
        assert all(p and usual * (1 - policy.JITTER) <= p <= usual * (1 + policy.JITTER) for p in pauses)
    assert seconds(name, retry.tries) is None


@pytest.mark.parametrize("name", sorted(set(causes()) - set(RETRYABLE) - OF_THE_ACCOUNT))
def test_what_waiting_does_not_mend_is_not_tried_again(name: str) -> None:
    assert seconds(name) is None


def test_the_daily_limit_of_a_mailbox_is_probed_after_one_two_four_and_again_four_hours() -> None:
    hours = [(seconds("bandwidth_exceeded", tries) or 0) / 3600 for tries in (1, 2, 3, 4)]
    assert [round(h / (1 + 0.0), 0) for h in hours] == pytest.approx([1, 2, 4, 4], abs=1)


@given(st.floats(0.001, 100_000))
def test_what_a_server_asks_for_is_given_in_full_and_little_more(told: float) -> None:
    wait = seconds("throttled", told=told)
    assert wait is not None
    assert told - 1e-5 <= wait <= told * (1 + policy.LONGER) + 1e-5


@pytest.mark.parametrize("name", sorted(causes()))
def test_without_delays_nothing_is_tried_again_and_with_one_at_most_once(name: str) -> None:
    assert seconds(name, delays=()) is None
    assert seconds(name, 2, delays=(1.0,)) is None


def test_the_admins_own_delays_take_the_place_of_the_pauses() -> None:
    assert [round(seconds("timeout", n, delays=(0.0, 0.0, 0.0)) or 0) for n in (1, 2, 3)] == [0, 0, 0]


def test_waiting_for_a_host_is_no_try() -> None:
    until = AT + timedelta(minutes=5)
    again = next_try(causes()["timeout"], Attempts(99, 1), None, AT, host_until=until)
    assert again is not None
    assert until <= again <= until + timedelta(seconds=1)
    assert next_try(causes()["timeout"], Attempts(99, policy.PATIENCE + 1), None, AT, host_until=until) is None


def test_an_account_that_has_moved_as_much_as_it_may_in_a_day_is_gone_on_with_however_often_that_is() -> None:
    until = AT + timedelta(hours=20)
    spent = causes()["bandwidth_exceeded"]
    assert next_try(spent, Attempts(99, policy.PATIENCE + 1), None, AT, spent_until=until) == until
    later = until + timedelta(hours=1)
    assert next_try(spent, Attempts(), None, AT, spent_until=until, host_until=later) == later
    assert next_try(spent, Attempts(), (), AT, spent_until=until) is None


def test_a_refused_account_is_tried_by_its_own_rules_whatever_the_admin_set() -> None:
    once = refused(None, "ambiguous_login", AT, worked=False)
    for delays in (None, (0.0, 0.0)):
        again = next_try(causes()["ambiguous_login"], Attempts(1), delays, AT, refusals={"source": once})
        assert again == AT + timedelta(minutes=30)
    parked = refused(None, "bad_credentials", AT, worked=False)
    assert next_try(causes()["bad_credentials"], Attempts(1), None, AT, refusals={"source": parked}) is None
    both = {"source": once, "target": parked}
    assert next_try(causes()["ambiguous_login"], Attempts(1), None, AT, refusals=both) is None


def host(**values: object) -> Host:
    return Host(name="old.example", **values)


def test_a_host_that_says_how_long_is_left_alone_so_long() -> None:
    found = policy.pause_of_host("throttled", 400.0, host(), None, AT)
    assert found
    assert (400 <= found.seconds <= 440, found.logins_only) == (True, False)


def test_pauses_of_a_host_grow_and_begin_again_after_a_quiet_time() -> None:
    def pause(pauses: int, ended: timedelta) -> float:
        found = policy.pause_of_host("throttled", None, host(pauses=pauses, paused_until=AT - ended), None, AT)
        assert found
        return found.seconds

    assert pause(3, timedelta(minutes=1)) == pytest.approx(40, rel=policy.JITTER)
    assert pause(3, timedelta(minutes=11)) == pytest.approx(5, rel=policy.JITTER)
    assert pause(90, timedelta(minutes=1)) == pytest.approx(300, rel=policy.JITTER)
    # The pause that is going on does not count: several connections are told of the same.
    assert pause(1, timedelta(minutes=-1)) == pytest.approx(5, rel=policy.JITTER)


@pytest.mark.parametrize(("cause", "longest"), [("login_throttled", 3600), ("too_many_connections", 300)])
def test_some_answers_stop_only_new_connections(cause: str, longest: float) -> None:
    found = policy.pause_of_host(cause, None, host(pauses=50, paused_until=AT), None, AT)
    assert found
    assert found.logins_only
    assert found.halve == (cause == "too_many_connections")
    assert found.seconds == pytest.approx(longest, rel=policy.JITTER)


def test_what_one_mailbox_has_used_up_is_nobody_elses() -> None:
    assert policy.pause_of_host("bandwidth_exceeded", 60.0, host(), None, AT) is None


def test_a_host_that_nobody_has_ever_reached_is_no_event() -> None:
    for cause in ("dns_error", "connect_failed"):
        assert not policy.may_be_the_host(cause, host())
        assert policy.may_be_the_host(cause, host(worked_at=AT))
    assert not policy.may_be_the_host("bad_credentials", host(worked_at=AT))
