"""Slots and pauses as a process handles them: handed over without asking, never more than the cap, never for ever."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from imapcopy.account import Account, Server
from imapcopy.errors import ConnectionLost, MigrationError, ServerError, Stopped
from models import hosts
from models.columns import now
from tasks import governor as module
from tasks import policy
from tasks.governor import Governor
from tasks.settings import Settings
from tests.models.company import Company
from tests.models.counting import counted

OLD, NEW = Server("old.example", 993), Server("new.example", 993)
TIRED = "NO Request is throttled. Suggested Backoff Time: 60000 milliseconds"


@pytest.fixture
def governed(engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Governor]]:
    """Make governors, each as another process would have one, that look only when they are told."""
    monkeypatch.setattr(module, "POLL_SECONDS", 3600)
    home.mkdir()
    made: list[Governor] = []

    def make(name: str = "elsewhere/boot/1/1", at_source: int = 3, at_target: int = 4) -> Governor:
        settings = Settings(host_connections=at_source, target_connections=at_target)
        made.append(Governor(engine, settings, runner=name))
        return made[-1]

    yield make
    for each in made:
        each.dismiss()


def reserve(governor: Governor, *members: int) -> list[int]:
    return [member for member in members if governor.reserve(member, OLD, NEW)]


def accounts() -> tuple[Account, Account]:
    return Account(OLD, "li"), Account(NEW, "li")


def test_no_more_than_the_cap_are_reserved_and_what_is_given_up_is_handed_over_without_asking(
    governed: Callable[..., Governor], engine: Engine
) -> None:
    governor = governed()
    assert reserve(governor, 1, 2, 3, 4) == [1, 2, 3]
    with counted(engine) as count:
        for member in range(5, 1005):
            governor.give_up(member - 4 if member < 8 else member - 3)
            assert reserve(governor, member) == [member]
    assert (count.writing, count.reading) == (0, 0), "a thousand members, and no transaction"


def test_a_member_that_does_not_get_the_second_host_holds_nothing_of_the_first(
    governed: Callable[..., Governor],
) -> None:
    governor = governed(at_source=3, at_target=1)
    assert reserve(governor, 1, 2) == [1]
    assert governor.room(OLD, "source").free > 0
    governor.give_up(1)
    assert reserve(governor, 2) == [2]


def test_one_server_on_both_sides_gives_a_member_two_slots_whatever_the_cap(
    governed: Callable[..., Governor],
) -> None:
    governor = governed(at_source=1, at_target=1)
    assert governor.reserve(1, OLD, OLD)
    assert not governor.reserve(2, OLD, OLD)


def test_two_processes_share_and_the_second_gets_what_the_first_gives_back(
    governed: Callable[..., Governor], engine: Engine
) -> None:
    first, second = governed("elsewhere/boot/1/1", 4, 99), governed("elsewhere/boot/2/1", 4, 99)
    assert len(reserve(first, *range(4))) == 4
    first.want({"old.example": 4})
    assert reserve(second, 10) == []
    second.want({"old.example": 4})
    second.look()
    first.look()
    for member in range(4):
        first.give_up(member)
        reserve(first, member + 100)
    first.look()
    second.look()
    assert len(reserve(second, 10, 11, 12)) == 2
    [held] = [claims for host, claims in hosts.all_hosts(engine) if host.name == "old.example"]
    assert sum(claim.slots for claim in held.values()) == 4


def test_a_process_that_needs_nothing_more_gives_all_back(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed()
    reserve(governor, 1)
    governor.give_up(1)
    governor.look()
    assert all(claims == {} for _, claims in hosts.all_hosts(engine))


def test_the_end_of_a_run_gives_all_slots_back_at_once(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed()
    with governor.listening(lambda: None):
        reserve(governor, 1, 2)
        for member in (1, 2):
            governor.give_up(member)
        assert any(claims for _, claims in hosts.all_hosts(engine))
    assert all(claims == {} for _, claims in hosts.all_hosts(engine))
    assert reserve(governor, 3) == [3]


def test_a_spare_slot_is_one_that_no_member_could_use(governed: Callable[..., Governor]) -> None:
    governor = governed(at_target=3)
    reserve(governor, 1)
    with ExitStack() as stack:
        assert stack.enter_context(governor.spare("new.example"))
        governor.want({"new.example": 1})
        assert not stack.enter_context(governor.spare("new.example"))
        governor.want({})
        assert stack.enter_context(governor.spare("new.example"))
        assert not stack.enter_context(governor.spare("new.example"))


def test_a_connection_is_not_opened_before_one_that_is_said_goodbye_to_is_gone(
    governed: Callable[..., Governor],
) -> None:
    governor = governed(at_source=1, at_target=9)
    gone: list[str] = []
    with governor.places(1, *accounts()) as (source, target):
        source.enter()
        assert source.leaving(lambda: gone.append("old"))
        target.enter()
        target.leaving(lambda: gone.append("new"))
        assert gone == []
    with governor.places(2, *accounts()) as (source, target):
        source.enter()
        target.enter()
    assert gone == ["old"], "where all slots are taken; nobody waits elsewhere"


def test_members_that_come_and_go_ask_for_no_more_than_one_slot_besides(
    governed: Callable[..., Governor], engine: Engine
) -> None:
    governor = governed(at_source=9, at_target=9)
    gone: list[int] = []

    def move(number: int) -> None:
        with governor.places(number, *accounts()) as places:
            for place in places:
                place.enter()
                place.leaving(lambda: gone.append(number))

    for number in range(2):
        move(number)
    with counted(engine) as count:
        for number in range(2, 100):
            move(number)
    assert (count.writing, count.reading) == (0, 0)
    assert len(gone) == 2 * 98, "the oldest goes when the next comes"


def test_goodbyes_make_no_room_beyond_the_cap(governed: Callable[..., Governor], engine: Engine) -> None:
    """With all slots in use, connections that their server still counts take up room for as many others."""
    governor = governed(at_source=2, at_target=9)
    gone: list[str] = []
    for turn in range(3):
        with ExitStack() as stack:
            some = [stack.enter_context(governor.places(number, *accounts()))[0] for number in (1, 2)]
            # Between taking the slot and connecting there is time for a look.
            governor.look()
            for place in some:
                place.enter()
            for name in "ab":
                some[0].leaving(partial(gone.append, name))
        held = sum(
            claim.slots
            for host, claims in hosts.all_hosts(engine)
            for claim in claims.values()
            if host.name == "old.example"
        )
        assert held <= 2
        assert len(gone) == 2 * turn, "they are gone before the next come in"


def test_what_nobody_waited_for_is_closed_with_a_look(
    governed: Callable[..., Governor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAREWELL_SECONDS", 0)
    governor = governed()
    gone: list[str] = []
    with governor.places(1, *accounts()) as (source, _):
        source.leaving(lambda: gone.append("old"))
    governor.look()
    assert gone == ["old"]


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
        assert not each.room(OLD, "source").free
        until = each.room(OLD, "source").until
        assert until is not None
        assert until >= before + timedelta(seconds=60)
        assert each.room(NEW, "target").free > 0


def test_a_server_with_too_many_logins_lets_those_go_on_who_are_in(governed: Callable[..., Governor]) -> None:
    governor = governed()
    with governor.places(1, *accounts()) as (source, _):
        source.failed(ServerError("login_throttled", "source", "NO [LIMIT] Too many logins"))
        source.check()
        with pytest.raises(ConnectionLost):
            source.enter()
    assert governor.room(OLD, "source").until is not None


def test_a_stop_request_ends_every_wait(governed: Callable[..., Governor], engine: Engine) -> None:
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
    waiting.join(60)
    assert ended == [Stopped]
    with hosts.changing(engine, "old.example") as (_, host):
        host.paused_until = now() + timedelta(seconds=1.9)
    governor.give_up(1)
    governor.look()
    with governor.places(3, *accounts()) as (source, _), pytest.raises(Stopped):
        source.check()


def test_sign_ins_keep_to_the_pace_of_a_host(
    governed: Callable[..., Governor], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(policy.STOP, "wait", lambda seconds: bool(waited.append(seconds)))
    with hosts.changing(engine, "old.example") as (_, host):
        host.logins_a_minute = 6
    first, second = governed("elsewhere/boot/1/1"), governed("elsewhere/boot/2/1")
    with first.places(1, *accounts()) as (one, _), second.places(2, *accounts()) as (other, _):
        for place in (one, other, one):
            place.enter()
    assert [round(seconds, -1) for seconds in waited] == [0, 10, 20]
    room = first.room(OLD, "source")
    assert room.free == 0, "no thread is to wait for a turn"
    assert room.until == first._pools["old.example"].host.next_login_at
    assert first.room(NEW, "target").until is None, "who signs in elsewhere need not wait"


def test_few_are_begun_at_once_where_sign_ins_have_a_pace(governed: Callable[..., Governor], engine: Engine) -> None:
    with hosts.changing(engine, "old.example") as (_, host):
        host.logins_a_minute = 6
    governor = governed(at_source=8, at_target=8)
    assert governor.room(OLD, "source").free == 2
    assert governor.room(NEW, "target").free == 8


def member_fails(governor: Governor, number: int, cause: str, words: str = "") -> object:
    from models.member import Member

    member = Member(id=number, wave_id=1, line=number, email=f"{number}@new.example", user_name="x")
    with governor.places(number, *accounts()):
        return governor.member_failed("old.example", member, ServerError(cause, "source", words))


def test_three_members_that_fail_alike_are_one_event_and_others_go_on(
    governed: Callable[..., Governor], engine: Engine, company: Company
) -> None:
    company.add("li@new.example")
    governor = governed()
    assert [member_fails(governor, n, cause) for n, cause in enumerate(["timeout", "bad_credentials"])] == [None, None]
    assert member_fails(governor, 2, "connection_dropped") is None
    assert member_fails(governor, 3, "timeout") is not None
    assert governor.room(NEW, "target").until is None
    [(host, _)] = [each for each in hosts.all_hosts(engine) if each[0].name == "old.example"]
    assert (host.paused_by, host.pauses, host.cause) == ("event", 1, "timeout")


def test_too_many_connections_halve_the_cap(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed(at_source=8, at_target=9)
    assert len(reserve(governor, *range(8))) == 8
    for member in range(8):
        governor.give_up(member)
    member_fails(governor, 9, "too_many_connections")
    with hosts.changing(engine, "old.example") as (_, host):
        assert host.learned == 4
        host.logins_paused_until = None
    governor.look()
    assert len(reserve(governor, *range(8))) == 4


def test_a_failure_gives_the_slots_back(governed: Callable[..., Governor]) -> None:
    governor = governed()
    with pytest.raises(MigrationError), governor.places(1, *accounts()):
        raise ServerError("timeout", "source")
    assert len(reserve(governor, 1, 2, 3)) == 3
