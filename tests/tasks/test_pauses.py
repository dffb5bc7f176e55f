"""Pauses and pace as a process keeps to them: no word to a server that wants rest, and no thread that waits for it."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from imapcopy.errors import ConnectionLost, ServerError, Stopped
from models import hosts
from models.columns import now
from tasks import pauses, policy
from tasks.governor import Governor
from tests.models.company import Company
from tests.servers.dovecot import DEADLINE
from tests.tasks.governors import NEW, OLD, accounts, reserve

TIRED = "NO Request is throttled. Suggested Backoff Time: 60000 milliseconds"


def test_a_server_that_asks_for_rest_gets_no_command_and_no_member_from_any_process(
    governed: Callable[..., Governor],
) -> None:
    first, second = governed("elsewhere/boot/1/1"), governed("elsewhere/boot/2/1")
    with first.places(1, *accounts()) as (told, other_side), second.places(2, *accounts()) as (elsewhere, _):
        told.check()
        elsewhere.check()
        before = now()
        told.failed(ServerError("throttled", "source", TIRED))
        for place in (told, elsewhere):
            with pytest.raises(ConnectionLost, match="Suggested Backoff"):
                place.check()
            with pytest.raises(ConnectionLost):
                place.enter()
        other_side.check()
        other_side.enter()
    for each in (first, second):
        assert not each.slots.room("old.example").free
        until = each.slots.room("old.example").until
        assert until is not None
        assert until >= before + timedelta(seconds=60)
        assert each.slots.room("new.example").free > 0


def test_no_thread_speaks_while_another_still_looks_what_the_bell_means(
    governed: Callable[..., Governor], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = governed("elsewhere/boot/1/1"), governed("elsewhere/boot/2/1")
    look, looks = second.slots.look, []
    with first.places(1, *accounts()) as (told, _), second.places(2, *accounts()) as (elsewhere, _):

        def ask_again_before_it_is_known() -> None:
            looks.append("")
            if len(looks) == 1:
                with pytest.raises(ConnectionLost):
                    elsewhere.check()
            look()

        monkeypatch.setattr(second.slots, "look", ask_again_before_it_is_known)
        told.failed(ServerError("throttled", "source", TIRED))
        with pytest.raises(ConnectionLost):
            elsewhere.check()
    assert len(looks) == 2


def test_a_server_with_too_many_logins_lets_those_go_on_who_are_in(governed: Callable[..., Governor]) -> None:
    governor = governed()
    with governor.places(1, *accounts()) as (source, _):
        source.failed(ServerError("login_throttled", "source", "NO [LIMIT] Too many logins"))
        source.check()
        with pytest.raises(ConnectionLost):
            source.enter()
    assert governor.slots.room("old.example").until is not None


def test_a_stop_request_ends_every_wait(
    governed: Callable[..., Governor], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor = governed(at_source=1)
    reserve(governor, 1)
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            with governor.places(2, *accounts()):
                pass
        except Stopped as stopped:
            ended.append(type(stopped))

    waiting = threading.Thread(target=wait)
    waiting.start()
    policy.STOP.set()
    waiting.join(DEADLINE)
    assert ended == [Stopped]
    monkeypatch.setattr(pauses, "IN_PLACE", timedelta(hours=1))
    with hosts.changing(engine, "old.example") as (_, host):
        host.paused_until = now() + timedelta(minutes=30)
    governor.slots.give_up(1)
    governor.slots.look()
    with governor.places(3, *accounts()) as (source, _), pytest.raises(Stopped):
        source.check()


def test_sign_ins_keep_to_the_pace_of_a_host(
    governed: Callable[..., Governor], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(policy.STOP, "wait", lambda seconds: bool(waited.append(seconds)))
    at = now()
    monkeypatch.setattr(pauses, "now", lambda: at)
    with hosts.changing(engine, "old.example") as (_, host):
        host.logins_a_minute = 6
    first, second = governed("elsewhere/boot/1/1"), governed("elsewhere/boot/2/1")
    with first.places(1, *accounts()) as (one, _), second.places(2, *accounts()) as (other, _):
        for place in (one, other, one):
            place.enter()
    assert waited == [0, 10, 20]
    room = first.slots.room("old.example")
    assert room.free == 0, "no thread is to wait for a turn"
    assert room.until == first.slots.pool("old.example").host.next_login_at
    assert first.slots.room("new.example").until is None, "who signs in elsewhere need not wait"


def test_few_are_begun_at_once_where_sign_ins_have_a_pace(governed: Callable[..., Governor], engine: Engine) -> None:
    with hosts.changing(engine, "old.example") as (_, host):
        host.logins_a_minute = 6
    governor = governed(at_source=8, at_target=8)
    governor.slots.names(OLD, NEW)
    assert governor.slots.room("old.example").free == 2
    assert governor.slots.room("new.example").free == 8


def member_fails(governor: Governor, number: int, cause: str, words: str = "") -> object:
    from models.member import Member

    member = Member(id=number, wave_id=1, line=number, email=f"{number}@new.example", user_name="x")
    with governor.places(number, *accounts()):
        return governor.pauses.member_failed("old.example", member, ServerError(cause, "source", words))


def test_three_members_that_fail_alike_are_one_event_and_others_go_on(
    governed: Callable[..., Governor], engine: Engine, company: Company
) -> None:
    company.add("li@new.example")
    governor = governed()
    assert [member_fails(governor, n, cause) for n, cause in enumerate(["timeout", "bad_credentials"])] == [None, None]
    assert member_fails(governor, 2, "connection_dropped") is None
    assert member_fails(governor, 3, "timeout") is not None
    assert governor.slots.room("new.example").until is None
    [(host, _)] = [each for each in hosts.all_hosts(engine) if each[0].name == "old.example"]
    assert (host.paused_by, host.pauses, host.cause) == ("event", 1, "timeout")


def test_too_many_connections_halve_the_cap(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed(at_source=8, at_target=9)
    assert len(reserve(governor, *range(8))) == 8
    for member in range(8):
        governor.slots.give_up(member)
    member_fails(governor, 9, "too_many_connections")
    with hosts.changing(engine, "old.example") as (_, host):
        assert host.learned == 4
        host.logins_paused_until = None
    governor.slots.look()
    assert len(reserve(governor, *range(8))) == 4
