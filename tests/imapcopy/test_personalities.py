"""Mailboxes move from and to servers that speak like real services; each test names what it was taken from.

A personality (deployments/demo/personalities.toml) has a service's greeting, capabilities, folders and oddities.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import Action, Fault, ImapServer
from deployments.demo.personality import personalities, personality
from imapcopy import sign_in
from tests.imapcopy.world import LIN, NEW, PASSWORD, WRITING, Box, everything, new_member

SERVICES = sorted(personalities())


class Street:
    """Starts servers on either side of a move."""

    def __init__(self, engine: Engine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    def move(self, source: str = "", target: str = "", **changes: object) -> Box:
        """A mailbox to be moved from one service to another; "" is a full and friendly server."""
        old = self._server("old", LIN, source, changes if source else {})
        new = self._server("new", NEW, target, changes if target and not source else {})
        return Box(self._engine, old, new, new_member(self._engine))

    def _server(self, name: str, user: str, service: str, changes: dict[str, object]) -> ImapServer:
        if not service:
            return self._stack.enter_context(ImapServer(name, {user: PASSWORD}))
        one = personality(service)
        server = ImapServer(name, {user: PASSWORD}, one.behaviour(**changes))
        one.furnish(server.account(user))
        return self._stack.enter_context(server)


@pytest.fixture
def street(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    monkeypatch.setattr(sign_in, "SILENCE_SECONDS", 5.0)
    with ExitStack() as stack:
        yield Street(engine, stack)


def fill(box: Box) -> None:
    """Two messages in each folder of the source, with flags."""
    number = 0
    for folder in box.source.folders:
        for flags in ((), ("\\Seen", "\\Answered")):
            number += 1
            if folder.selectable:
                box.deliver(number, folder.name, flags=frozenset(flags))


def looks(box: Box, side: str) -> Counter[tuple[bytes, object, frozenset[str]]]:
    """What a side holds, whatever its folders are called."""
    account = box.source if side == "source" else box.target
    return Counter((m.raw, m.internal_date, m.flags) for folder in account.folders for m in folder.messages)


@pytest.mark.parametrize("service", SERVICES)
def test_a_mailbox_leaves_each_service_whole(street: Street, service: str) -> None:
    box = street.move(source=service)
    fill(box)
    box.copy()
    assert looks(box, "target") == looks(box, "source")
    box.assert_counted()
    sent = box.sent()
    box.copy()
    assert box.sent() == sent
    read_only = WRITING - ({"SELECT"} if service == "alibaba" else set())
    assert not {entry.verb.removeprefix("UID ") for entry in box.old.log} & read_only


@pytest.mark.parametrize("service", SERVICES)
def test_a_mailbox_arrives_whole_at_each_service(street: Street, service: str) -> None:
    box = street.move(target=service)
    for number in range(1, 13):
        box.deliver(number, ["INBOX", "Sent", "项目", "Archive of 2024"][number % 4], flags=frozenset({"\\Seen"}))
    box.copy()
    assert looks(box, "target") == looks(box, "source")
    box.assert_counted()
    sent = box.sent()
    box.copy()
    assert box.sent() == sent
    box.assert_untouched()


def test_alibaba_knows_no_examine_and_is_read_without_a_trace(street: Street) -> None:
    """Alibaba's list of commands (help.aliyun.com 2857156) lacks EXAMINE, AUTHENTICATE, NAMESPACE and IDLE."""
    box = street.move(source="alibaba")
    fill(box)
    box.deliver(99, flags=frozenset({"\\Deleted"}))
    before = everything(box.old, LIN)
    box.old.behaviour.faults.append(Fault("FETCH", Action.DROP_BEFORE, containing="BODY"))
    box.copy()
    assert everything(box.old, LIN) == before
    verbs = Counter(entry.verb.removeprefix("UID ") for entry in box.old.log)
    assert not set(verbs) & (WRITING - {"SELECT"})
    # In flight all are asked for before the first is refused; a later connection knows.
    assert verbs["EXAMINE"] == len(box.source.folders)
    assert verbs["SELECT"] > verbs["EXAMINE"]
