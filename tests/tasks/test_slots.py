"""Slots as a process handles them: handed over without asking, never more than the cap, never for ever."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from sqlalchemy import Engine

from imapcopy.account import Server
from imapcopy.errors import MigrationError, ServerError
from models import hosts
from models.providers import use_providers
from tasks import slots as module
from tasks.governor import Governor
from tests.models.counting import counted
from tests.tasks.governors import NEW, OLD, accounts, reserve


def test_no_more_than_the_cap_are_reserved_and_what_is_given_up_is_handed_over_without_asking(
    governed: Callable[..., Governor], engine: Engine
) -> None:
    governor = governed()
    assert reserve(governor, 1, 2, 3, 4) == [1, 2, 3]
    with counted(engine) as count:
        for member in range(5, 1005):
            governor.slots.give_up(member - 4 if member < 8 else member - 3)
            assert reserve(governor, member) == [member]
    assert (count.writing, count.reading) == (0, 0), "a thousand members, and no transaction"


def test_who_has_all_slots_of_a_host_asks_for_none_in_place_of_those_that_are_leaving(
    governed: Callable[..., Governor], engine: Engine
) -> None:
    slots = governed(at_source=3, at_target=3).slots
    for member in (1, 2, 3):
        assert slots.reserve(member, OLD, NEW)
    for member in (4, 5, 6):
        for name in slots.names(OLD, NEW):
            slots.leaving(name, lambda: None)
        slots.give_up(member - 3)
        slots.look()
        with counted(engine) as count:
            assert slots.reserve(member, OLD, NEW)
        assert (count.writing, count.reading) == (0, 0)


def test_a_member_that_does_not_get_the_second_host_holds_nothing_of_the_first(
    governed: Callable[..., Governor],
) -> None:
    governor = governed(at_source=3, at_target=1)
    assert reserve(governor, 1, 2) == [1]
    assert governor.slots.room("old.example").free > 0
    governor.slots.give_up(1)
    assert reserve(governor, 2) == [2]


def test_one_server_on_both_sides_gives_a_member_two_slots_whatever_the_cap(
    governed: Callable[..., Governor],
) -> None:
    governor = governed(at_source=1, at_target=1)
    assert governor.slots.reserve(1, OLD, OLD)
    assert not governor.slots.reserve(2, OLD, OLD)


def test_two_processes_share_and_the_second_gets_what_the_first_gives_back(
    governed: Callable[..., Governor], engine: Engine
) -> None:
    first, second = governed("elsewhere/boot/1/1", 4, 99), governed("elsewhere/boot/2/1", 4, 99)
    assert len(reserve(first, *range(4))) == 4
    first.slots.want({"old.example": 4})
    assert reserve(second, 10) == []
    second.slots.want({"old.example": 4})
    second.slots.look()
    first.slots.look()
    for member in range(4):
        first.slots.give_up(member)
        reserve(first, member + 100)
    first.slots.look()
    second.slots.look()
    assert len(reserve(second, 10, 11, 12)) == 2
    [held] = [claims for host, claims in hosts.all_hosts(engine) if host.name == "old.example"]
    assert sum(claim.slots for claim in held.values()) == 4


def test_a_process_that_needs_nothing_more_gives_all_back(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed()
    reserve(governor, 1)
    governor.slots.give_up(1)
    governor.slots.look()
    assert all(claims == {} for _, claims in hosts.all_hosts(engine))


def test_the_end_of_a_run_gives_all_slots_back_at_once(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed()
    with governor.slots.listening(lambda: None):
        reserve(governor, 1, 2)
        for member in (1, 2):
            governor.slots.give_up(member)
        assert any(claims for _, claims in hosts.all_hosts(engine))
    assert all(claims == {} for _, claims in hosts.all_hosts(engine))
    assert reserve(governor, 3) == [3]


def test_a_spare_slot_is_one_that_no_member_could_use(governed: Callable[..., Governor]) -> None:
    governor = governed(at_target=3)
    reserve(governor, 1)
    with ExitStack() as stack:
        assert stack.enter_context(governor.slots.spare("new.example"))
        governor.slots.want({"new.example": 1})
        assert not stack.enter_context(governor.slots.spare("new.example"))
        governor.slots.want({})
        assert stack.enter_context(governor.slots.spare("new.example"))
        assert not stack.enter_context(governor.slots.spare("new.example"))


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
            governor.slots.look()
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
    governor.slots.look()
    assert gone == ["old"]


def test_a_failure_gives_the_slots_back(governed: Callable[..., Governor]) -> None:
    governor = governed()
    with pytest.raises(MigrationError), governor.places(1, *accounts()):
        raise ServerError("timeout", "source")
    assert len(reserve(governor, 1, 2, 3)) == 3


CAPPED = """
[corp]
title = { zh = "公司旧邮箱", en = "our old mail" }
hosts = ["corp.example"]
connections = 2
logins_a_minute = 30

[strict]
title = { zh = "更严", en = "stricter" }
connections = 1
"""


@pytest.fixture
def capped() -> Iterator[None]:
    use_providers(CAPPED, "providers.toml")
    yield
    use_providers("", "")


@pytest.mark.usefixtures("capped")
def test_a_host_whose_name_tells_nothing_has_the_limits_of_the_provider_that_is_known_of_its_members(
    governed: Callable[..., Governor],
) -> None:
    governor = governed()
    alias = partial(Server, "mail.company.example", 993)
    governor.slots.names(alias(), NEW)
    assert governor.slots.room("mail.company.example").free == 3
    governor.slots.names(alias(provider="corp"), NEW)
    assert governor.slots.room("mail.company.example").free == 2
    assert governor.slots.pool("mail.company.example").pace == 30
    for provider in ("strict", "corp", ""):
        governor.slots.names(alias(provider=provider), NEW)
    assert governor.slots.room("mail.company.example").free == 1, "where members disagree, the strictest"
    assert governor.slots.pool("mail.company.example").pace == 30
    governor.slots.names(Server("imap.corp.example", 993, provider="strict"), NEW)
    assert governor.slots.room("imap.corp.example").free == 2, "a name that tells counts more"


@pytest.mark.usefixtures("capped")
def test_members_at_an_alias_cost_one_look_at_the_database(governed: Callable[..., Governor], engine: Engine) -> None:
    governor = governed()
    with counted(engine) as count:
        for number in range(800):
            governor.slots.names(Server("mail.company.example", 993, provider=("corp", "strict")[number % 2]), NEW)
    assert count.writing == 0
    assert count.statements <= 2 * 3, "once a host"
