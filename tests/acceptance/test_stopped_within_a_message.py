"""SIGTERM ends the program in the middle of a message above 32 MB, while the line on which it waits stays held."""

import math
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.demo.imap_server import ImapServer
from tests.acceptance.command_line import LONGEST_RUN, Banjia, write_roster
from tests.acceptance.office import assert_all_done
from tests.servers.dovecot import wait_until
from tests.servers.line import Line

pytestmark = pytest.mark.prefect

EMAIL = "lin@old.example"
INTERRUPTED = 130
LARGE = b"Subject: large\r\n\r\n" + b"a line of a large message, as long as most\r\n" * (34 * 1024 * 1024 // 44)
HALF = len(LARGE) // 2
STOPPED_SECONDS = 30.0
"""Ten on a machine that does nothing else; a server that says nothing is waited for twice as long as this."""


@pytest.fixture
def banjia(guest: Banjia) -> Banjia:
    guest.keep_secret_too("Canary-old", "Canary-new")
    return guest


@pytest.fixture
def servers() -> Iterator[tuple[ImapServer, ImapServer]]:
    with ImapServer("old", {EMAIL: "Canary-old"}) as old, ImapServer("new", {EMAIL: "Canary-new"}) as new:
        old.account(EMAIL).folder("INBOX").deliver(LARGE)
        yield old, new


@pytest.mark.parametrize(
    "where",
    ["sent", pytest.param("read", marks=pytest.mark.thorough), pytest.param("read back", marks=pytest.mark.thorough)],
)
def test_sigterm_is_obeyed_in_the_middle_of_a_large_message(
    banjia: Banjia, servers: tuple[ImapServer, ImapServer], tmp_path: Path, where: str
) -> None:
    old, new = servers
    with Line(old.port) as to_old, Line(new.port) as to_new:
        line = to_old if where == "read" else to_new
        line.hold(after=HALF if where == "sent" else math.inf, after_answers=HALF if where != "sent" else math.inf)
        row = {
            "EmailAddress": EMAIL,
            "UserName": EMAIL,
            "Password": "Canary-old",
            "SourceHost": "127.0.0.1",
            "SourcePort": str(to_old.port),
            "SourceSecurity": "plain",
            "TargetHost": "127.0.0.1",
            "TargetPort": str(to_new.port),
            "TargetSecurity": "plain",
            "TargetUserName": EMAIL,
            "TargetPassword": "Canary-new",
        }
        roster = write_roster(tmp_path / "roster.csv", [row])
        started = banjia.start_migrate(roster)
        wait_until(lambda: line.held or not started.running, "half of the message", LONGEST_RUN)
        assert started.running, started.wait()
        started.process.send_signal(signal.SIGTERM)
        try:
            started.process.wait(STOPPED_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it goes on: {started.kill(everything=True)}")
        assert line.held, "nothing but the signal has ended it"
        assert started.wait().code == INTERRUPTED
        assert where == "read back" or not new.account(EMAIL).folder("INBOX").messages
        line.hurry()
        new.settle()
        assert_all_done(banjia.migrate(roster))
    assert [message.raw for message in new.account(EMAIL).folder("INBOX").messages] == [LARGE]
