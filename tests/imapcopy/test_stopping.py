"""A stop request is obeyed in the middle of a message, whatever the servers do, and loses and doubles nothing."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.demo.imap_server import CAPABILITIES
from imapcopy import distant, stopping
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions, Watch
from imapcopy.errors import Stopped
from models.ledger import Ledger
from models.member import release_lease
from tests.imapcopy.world import LIN, NEW, PASSWORD, Box, mail
from tests.servers.dovecot import wait_until
from tests.servers.line import Line

LARGE = mail(7, b"line of a large message\r\n" * 100_000)
HALF = len(LARGE) // 2
CALLS_OFF = 60.0
"""Seconds after which a copy is taken not to end; a server that is silent for so long would end it in any case."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 1.0)


@pytest.fixture
def lines(mailbox: Box) -> Iterator[dict[str, Line]]:
    with Line(mailbox.old.port) as old, Line(mailbox.new.port) as new:
        yield {"old": old, "new": new}


@pytest.mark.parametrize("size", ["in pieces", "held"])
@pytest.mark.parametrize("where", ["read", "sent", "read back"])
@pytest.mark.parametrize("capabilities", [CAPABILITIES, frozenset({"IMAP4rev1", "UIDPLUS"})], ids=["full", "fleet"])
def test_a_stop_is_obeyed_while_nothing_moves_in_the_middle_of_a_message(
    mailbox: Box,
    lines: dict[str, Line],
    capabilities: frozenset[str],
    where: str,
    size: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line is held and stays so: nothing but the request ends the wait."""
    if size == "in pieces":
        monkeypatch.setattr(distant, "LARGE_BYTES", 100_000)
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.deliver(1)
    mailbox.deliver(7, raw=LARGE)
    line = lines["old" if where == "read" else "new"]
    line.hold(
        after=HALF if where == "sent" else 1 << 40,
        after_answers=HALF if where != "sent" else 1 << 40,
    )
    stop = threading.Event()
    with ThreadPoolExecutor(1) as other:
        copying = other.submit(copy_over, mailbox, lines, stop)
        wait_until(lambda: line.held or copying.done(), "the line to be held")
        stop.set()
        with pytest.raises(Stopped):
            copying.result(CALLS_OFF)
        assert line.held
    line.hurry()
    for server in (mailbox.old, mailbox.new):
        server.settle()
    mailbox.copy()
    mailbox.assert_equal()


def copy_over(mailbox: Box, lines: dict[str, Line], stop: threading.Event) -> None:
    token = mailbox.lease()
    try:
        copy_mailbox(
            Account(Server("127.0.0.1", lines["old"].port, "plain"), LIN, PASSWORD),
            Account(Server("127.0.0.1", lines["new"].port, "plain"), NEW, PASSWORD),
            Ledger(mailbox.engine, mailbox.member_id, token),
            CopyOptions(deep=True),
            Watch(stop=stop),
        )
    finally:
        release_lease(mailbox.engine, mailbox.member_id, token)
