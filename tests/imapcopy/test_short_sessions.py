"""Servers that end a session after so many messages or commands: what has arrived counts, and the next one goes on."""

from collections.abc import Callable, Iterator

import pytest

from deployments.demo.imap_server import CAPABILITIES
from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import ServerError
from imapcopy.verify import Verdict, verify_mailbox
from tests.imapcopy.world import LIN, NEW, Box, account_at, mail

Copy = Callable[..., None]
PROFILES = {
    "full": CAPABILITIES,
    "only UIDPLUS": frozenset({"IMAP4rev1", "UIDPLUS"}),
    "nothing": frozenset({"IMAP4rev1"}),
}


def fill(mailbox: Box, messages: int = 240) -> None:
    for number in range(messages):
        name = "INBOX" if number < messages * 3 // 4 else f"Folder {number % 5}"
        mailbox.deliver(number, name, raw=mail(number, b"line\r\n" * 300), flags=["\\Seen"] if number % 3 else [])


def verify(mailbox: Box, *, deep: bool) -> Iterator[Verdict]:
    return verify_mailbox(account_at(mailbox.old, LIN), account_at(mailbox.new, NEW), mailbox.ledger, deep=deep)


@pytest.mark.parametrize("n", [20, 7, 1])
def test_a_source_that_ends_the_session_after_some_messages_is_read_to_the_end_in_one_pass(
    mailbox: Box, copy: Copy, n: int
) -> None:
    """At 20 a session 0 of 240 messages had been moved in 61 tries."""
    messages = 240 if n > 1 else 24
    fill(mailbox, messages)
    mailbox.old.behaviour.bodies_a_session = n
    copy()
    mailbox.assert_equal()
    assert mailbox.old.taken <= 2 * messages / n + 12
    size = sum(len(message.raw) for folder in mailbox.source.folders for message in folder.messages)
    assert mailbox.old.octets_sent < 2.5 * size
    before = mailbox.sent()
    copy()
    assert mailbox.sent() == before


@pytest.mark.parametrize(("side", "n"), [("old", 40), ("old", 12), ("old", 8), ("new", 40), ("new", 12)])
@pytest.mark.parametrize("capabilities", PROFILES.values(), ids=PROFILES)
def test_a_server_that_ends_the_session_after_some_commands_is_worked_on_to_the_end(
    mailbox: Box, copy: Copy, capabilities: frozenset[str], side: str, n: int
) -> None:
    """In one pass, with a bounded number of sessions."""
    fill(mailbox, 60)
    server = mailbox.old if side == "old" else mailbox.new
    server.behaviour.capabilities = capabilities
    server.behaviour.commands_a_session = n
    copy()
    mailbox.assert_equal()
    assert server.taken < 80


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_verification_goes_on_over_as_many_sessions_as_it_takes(
    mailbox: Box, copy: Copy, side: str, deep: bool
) -> None:
    fill(mailbox, 60)
    copy()
    changed = mailbox.target.folder("Folder 3").messages[0]
    mailbox.target.folder("Folder 3").expunge([changed.uid])
    server = mailbox.old if side == "old" else mailbox.new
    server.behaviour.commands_a_session = 8
    server.behaviour.bodies_a_session = 9
    verdicts = list(verify(mailbox, deep=deep))
    assert sum(verdict.checked for verdict in verdicts) == 60
    assert sum(len(verdict.lost) for verdict in verdicts) == 1
    assert not any(verdict.failure or verdict.altered for verdict in verdicts)
    assert sum(verdict.read_back for verdict in verdicts) == 59 if deep else True


def test_a_check_counts_everything_over_as_many_sessions_as_it_takes(mailbox: Box) -> None:
    fill(mailbox, 60)
    mailbox.old.behaviour.commands_a_session = 6
    mailbox.new.behaviour.commands_a_session = 6
    looked = check_mailbox(account_at(mailbox.old, LIN), account_at(mailbox.new, NEW), CopyOptions())
    assert not looked.failures
    assert (looked.look.folders, looked.look.messages) == (6, 60)


@pytest.mark.parametrize(
    ("side", "switch"), [("old", "bodies_a_session"), ("old", "commands_a_session"), ("new", "commands_a_session")]
)
def test_a_server_with_which_nothing_comes_of_any_session_is_left_with_its_cause(
    mailbox: Box, copy: Copy, side: str, switch: str
) -> None:
    fill(mailbox, 20)
    server = mailbox.old if side == "old" else mailbox.new
    setattr(server.behaviour, switch, 0)
    with pytest.raises(ServerError) as failed:
        copy()
    assert (failed.value.cause_id, failed.value.side) == ("connection_dropped", "source" if side == "old" else "target")
    assert "Session expired" in failed.value.server_text
    assert server.taken < 40


def test_a_source_that_ends_the_session_and_asks_for_rest_gets_it_and_what_had_come_counts(
    mailbox: Box, copy: Copy
) -> None:
    """What was read before the goodbye is not read again."""
    fill(mailbox, 240)
    mailbox.old.behaviour.session_ended = "[THROTTLED] Too many requests"
    mailbox.old.behaviour.bodies_a_session = 100
    with pytest.raises(ServerError) as failed:
        copy()
    assert failed.value.cause_id == "throttled"
    # A reset may take the goodbye along: then it is heard at the end of the next session.
    assert mailbox.old.taken <= 2
    assert len(mailbox.arrived()) >= 100
    mailbox.old.behaviour.bodies_a_session = None
    mailbox.old.octets_sent = 0
    copy()
    mailbox.assert_equal()
    size = sum(len(message.raw) for folder in mailbox.source.folders for message in folder.messages)
    assert mailbox.old.octets_sent < 0.75 * size
