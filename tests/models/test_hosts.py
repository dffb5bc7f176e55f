"""What runners know together of a mail server: never more slots than its cap, and fair shares."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from models import hosts
from models.columns import now
from models.database import reading, writing
from models.hosts import ALIKE, ALIKE_WITHIN, GROWS_EVERY, QUIET, Claim, Host, HostSlots, granted, host_name, share
from models.member import this_runner

AT = datetime(2026, 12, 5, 22, tzinfo=UTC)
HERE, ELSEWHERE = "", "elsewhere/boot/1/1"

claims = st.builds(Claim, st.integers(0, 6), st.integers(0, 6), st.none() | st.datetimes(timezones=st.just(UTC)))


# -- decisions


@given(st.integers(1, 12), claims, st.lists(claims, max_size=4))
def test_nobody_is_granted_more_than_is_free_and_nobody_loses_what_it_holds(
    most: int, own: Claim, others: Sequence[Claim]
) -> None:
    has = granted(most, own, others)
    assert has >= own.slots
    assert has - own.slots <= own.wanted
    assert has == own.slots or has + sum(claim.slots for claim in others) <= most


@given(st.integers(1, 12), st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_runners_that_all_want_a_lot_come_to_equal_shares(most: int, wishes: list[int]) -> None:
    """Each asks in turn, gives back what is beyond its share, and wants as much as it can get."""
    held = [0] * len(wishes)
    begun = [AT + timedelta(seconds=n) for n in range(len(wishes))]
    for _ in range(6):
        for n in range(len(wishes)):
            others = [Claim(held[o], 99, begun[o]) for o in range(len(wishes)) if o != n]
            own = Claim(held[n], 99, begun[n])
            held[n] = min(held[n], max(share(most, own, others), 0))
            held[n] = granted(most, Claim(held[n], 99, begun[n]), others)
    assert sum(held) <= most
    if most >= len(wishes):
        assert min(held) >= most // len(wishes)


def test_who_is_alone_gets_all_and_who_waits_longest_is_first_where_there_are_fewer_slots_than_runners() -> None:
    assert share(10, Claim(), [Claim(3, 0)]) == 10
    assert share(10, Claim(10, 5), [Claim(0, 1)]) == 5
    first, second = Claim(0, 1, AT), Claim(0, 1, AT + timedelta(seconds=1))
    holder = Claim(1, 1, AT)
    assert share(1, holder, [first, second]) == 0
    assert share(1, first, [Claim(0, 1, AT + timedelta(seconds=2)), second]) == 1
    assert share(1, second, [Claim(0, 1, AT + timedelta(seconds=2)), first]) == 0


def test_a_learned_cap_grows_by_one_after_each_quiet_time_up_to_the_usual_one() -> None:
    host = Host(name="old", learned=2, learned_at=AT)
    assert [hosts.cap(host, 4, AT + n * GROWS_EVERY) for n in range(4)] == [2, 3, 4, 4]
    assert hosts.cap(Host(name="old", connections=3), 8, AT) == 3
    assert hosts.cap(Host(name="old", connections=1, learned=5, learned_at=AT), 8, AT) == 1


def test_half_of_what_was_held_is_tried_and_no_fewer_than_one() -> None:
    host = Host(name="old")
    hosts.halve(host, 9, AT)
    assert (host.learned, host.learned_at) == (4, AT)
    hosts.halve(host, 1, AT)
    assert host.learned == 1


def test_members_that_fail_alike_within_minutes_are_one_event() -> None:
    host = Host(name="old")
    assert [hosts.failed(host, member, "unreachable", AT) for member in (1, 1, 2)] == [False, False, False]
    assert not hosts.failed(host, 3, "mailbox_unavailable", AT), "another failure"
    assert hosts.failed(host, 3, "unreachable", AT + ALIKE_WITHIN / 2)
    # And after it they are counted anew.
    assert not hosts.failed(host, 4, "unreachable", AT + ALIKE_WITHIN / 2)
    old = [hosts.failed(host, n, "unreachable", AT + n * ALIKE_WITHIN) for n in range(10, 10 + ALIKE)]
    assert not any(old)


def test_a_pause_is_never_shortened_and_counts_once() -> None:
    host = Host(name="old")
    assert hosts.pause(host, AT + timedelta(minutes=5), "throttled", "told", at=AT)
    assert not hosts.pause(host, AT + timedelta(minutes=1), "timeout", "", at=AT)
    assert (host.paused_until, host.cause, host.words, host.pauses) == (
        AT + timedelta(minutes=5),
        "throttled",
        "told",
        1,
    )
    later = AT + timedelta(minutes=6)
    assert hosts.pause(host, later, "throttled", "", at=later)
    assert host.pauses == 2
    quiet = later + QUIET + timedelta(seconds=1)
    assert hosts.pause(host, quiet, "throttled", "", at=quiet)
    assert host.pauses == 1


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [("IMAP.Old.example.", 993, "imap.old.example"), ("imap.old.example", 143, "imap.old.example")],
)
def test_a_server_has_one_name(host: str, port: int, name: str) -> None:
    assert host_name(host, port) == name
    assert host_name(host, 1993) == f"{name}:1993"


# -- rows


def ask(engine: Engine, keep: int, wanted: int, runner: str = HERE, usual: int = 10) -> int:
    return hosts.ask(engine, "old", usual, keep=keep, wanted=wanted, runner=runner)[1]


def test_two_runners_never_hold_more_than_the_cap_and_one_that_is_gone_holds_nothing(engine: Engine) -> None:
    assert ask(engine, 0, 20) == 10
    assert ask(engine, 0, 4, ELSEWHERE) == 0
    # The first learns that somebody waits, and gives back what is beyond its share.
    assert hosts.ask(engine, "old", 10, keep=10, wanted=10)[1:] == (10, 5)
    assert ask(engine, 5, 10) == 5
    assert ask(engine, 0, 4, ELSEWHERE) == 4
    with writing(engine) as session:
        row = session.get(HostSlots, 2)
        assert row is not None
        assert row.runner == ELSEWHERE
        row.until = now() - timedelta(seconds=1)
    assert ask(engine, 5, 10) == 10, "a lease that has run out, elsewhere"
    with writing(engine) as session:
        row = session.get(HostSlots, 1)
        assert row is not None
        # A process of this machine that has ended, whatever its lease says.
        host, boot, _, _ = this_runner().split("/")
        row.runner, row.until = f"{host}/{boot}/999999999/1", now() + timedelta(hours=1)
    assert ask(engine, 0, 20, ELSEWHERE) == 10


def test_many_that_ask_at_once_are_granted_no_more_than_the_cap(engine: Engine) -> None:
    runners = [f"elsewhere/boot/{n}/1" for n in range(8)]
    with ThreadPoolExecutor(8) as crowd:
        has = list(crowd.map(lambda runner: ask(engine, 0, 3, runner), runners))
    assert sum(has) <= 10
    assert sum(has) >= 8, "or nobody got any"
    with reading(engine) as session:
        assert session.get(Host, 2) is None, "one row a host, however many make it"


def test_slots_are_kept_by_their_runner_and_given_back(engine: Engine) -> None:
    ask(engine, 0, 3)
    [(_, before)] = hosts.all_hosts(engine)
    assert before == {this_runner(): Claim(3, 0)}
    with writing(engine) as session:
        row = session.get_one(HostSlots, 1)
        row.until = now() - timedelta(hours=1)
    hosts.keep_slots(engine)
    with reading(engine) as session:
        assert session.get_one(HostSlots, 1).until > now()
    assert ask(engine, 0, 0) == 0
    with reading(engine) as session:
        assert session.get(HostSlots, 1) is None


def test_a_look_shows_the_host_and_what_others_hold_and_want(engine: Engine) -> None:
    ask(engine, 0, 3)
    ask(engine, 0, 20, ELSEWHERE)
    host, others = hosts.look(engine, ["old", "nowhere"])["old"]
    assert host.name == "old"
    [other] = others
    assert (other.slots, other.wanted) == (7, 13)


def test_what_is_left_alone_is_listed_with_the_servers_words(engine: Engine) -> None:
    later = now() + timedelta(minutes=5)
    with hosts.changing(engine, "old") as (_, host):
        hosts.pause(host, later, "throttled", "Suggested Backoff Time", at=now())
    with hosts.changing(engine, "new") as (_, host):
        hosts.pause(host, later, "login_throttled", "", logins_only=True, at=now())
    with hosts.changing(engine, "over") as (_, host):
        host.paused_until = now()
    with reading(engine) as session:
        found = [(wait.name, wait.words, wait.logins_only) for wait in hosts.waits(session, now())]
    assert found == [("new", "", True), ("old", "Suggested Backoff Time", False)]
