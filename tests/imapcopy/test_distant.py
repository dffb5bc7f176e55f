"""A message that is too large to be held goes through in pieces, as whole and as singly as any other."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.imap_server import CAPABILITIES, Action, Fault
from imapcopy import connection as connection_module
from imapcopy import distant
from imapcopy.errors import ServerError
from imapcopy.identity import Identification, core_digest, digest, tolerant_digest
from tests.imapcopy.world import Box, mail, moment

Copy = Callable[..., None]
LARGE = mail(7, b"".join(b"line %06d\r\n" % n for n in range(500)))
PROFILES = [CAPABILITIES, frozenset({"IMAP4rev1", "UIDPLUS"}), frozenset({"IMAP4rev1"})]

TEXT = st.text("ab:\r\n\0é", max_size=60).map(lambda text: text.encode("latin-1"))
HEADER = st.sampled_from([b"Subject: x\r\n", b"Message-ID: <1>\nTo: a,\n b\n", b"X: 1\r\n", b""])
END = st.sampled_from([b"\r\n", b"\n", b""])


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large is what is above 2,000 octets, and a piece has 512."""
    monkeypatch.setattr(distant, "LARGE_BYTES", 2000)
    monkeypatch.setattr(connection_module, "PIECE_BYTES", 512)


@given(HEADER, END, TEXT, st.integers(1, 9))
def test_a_message_in_pieces_has_the_digests_of_the_whole(header: bytes, end: bytes, body: bytes, size: int) -> None:
    raw = header + end + body
    found = Identification(raw[start : start + size] for start in range(0, len(raw), size))
    assert found.digests() == (digest(raw), tolerant_digest(raw), core_digest(raw))
    assert found.size == len(raw)


def fill(mailbox: Box) -> None:
    for number in (1, 2):
        mailbox.deliver(number)
    mailbox.deliver(7, raw=LARGE, flags=["\\Flagged"])
    mailbox.deliver(3)


@pytest.mark.parametrize("capabilities", PROFILES, ids=["full", "only UIDPLUS", "nothing"])
def test_a_large_message_is_fetched_in_pieces_and_arrives(
    mailbox: Box, copy: Copy, capabilities: frozenset[str]
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    fill(mailbox)
    copy()
    mailbox.assert_equal()
    whole = [entry.rest for entry in mailbox.old.commands("UID FETCH") if "BODY.PEEK[])" in entry.rest]
    assert whole
    assert not any("3" in rest.split(" ")[0] for rest in whole), "never as a whole"
    appends = mailbox.sent()
    copy()
    assert mailbox.sent() == appends


def test_a_message_of_exactly_some_pieces_arrives(mailbox: Box, copy: Copy) -> None:
    raw = mail(8, b"x" * 4096)
    raw = raw[: 512 * 8 - 2] + b"\r\n"
    mailbox.deliver(8, raw=raw)
    copy()
    assert mailbox.arrived() == [raw]


def test_a_large_message_that_was_there_before_is_adopted(mailbox: Box, copy: Copy) -> None:
    fill(mailbox)
    mailbox.target.folder("INBOX").deliver(LARGE, moment(8))
    copy()
    assert mailbox.arrived().count(LARGE) == 1
    assert mailbox.row().already_there == 1


@pytest.mark.parametrize("action", [Action.DROP_BEFORE, Action.DROP_AFTER])
@pytest.mark.parametrize("nth", range(1, 30, 4))
def test_a_source_that_drops_the_connection_between_pieces_is_asked_for_the_rest(
    mailbox: Box, copy: Copy, action: Action, nth: int
) -> None:
    fill(mailbox)
    mailbox.old.behaviour.faults.append(Fault("FETCH", action, nth=nth))
    copy()
    mailbox.assert_equal()


@pytest.mark.parametrize("action", [Action.DROP_BEFORE, Action.DROP_AFTER])
def test_an_uncertain_append_of_a_large_message_is_looked_up_in_pieces(
    mailbox: Box, copy: Copy, action: Action
) -> None:
    mailbox.deliver(7, raw=LARGE)
    mailbox.new.behaviour.faults.append(Fault("APPEND", action))
    copy()
    mailbox.assert_equal()
    assert mailbox.sent() == (2 if action is Action.DROP_BEFORE else 1)


def test_a_large_message_that_goes_away_while_it_is_sent_is_no_failure(mailbox: Box, copy: Copy) -> None:
    fill(mailbox)
    # Asked for eleven times to be known; gone while it is read to be sent.
    mailbox.later(mailbox.old, "FETCH", lambda: mailbox.folder("INBOX").expunge([3]), nth=16)
    copy()
    assert sorted(mailbox.arrived()) == [mail(1), mail(2), mail(3)]
    assert not mailbox.issues()
    copy()
    assert len(mailbox.arrived()) == 3
    mailbox.assert_counted()


def test_a_source_that_fails_while_a_large_message_is_sent_leaves_no_part_of_it(mailbox: Box, copy: Copy) -> None:
    fill(mailbox)
    mailbox.old.behaviour.faults.append(Fault("FETCH", Action.DROP_BEFORE, nth=16, times=None))
    with suppress(ServerError):
        copy()
    mailbox.old.behaviour.faults.clear()
    assert LARGE not in mailbox.arrived()
    assert all(raw in (mail(1), mail(2), mail(3)) for raw in mailbox.arrived())
    copy()
    mailbox.assert_equal()


def whole_reads(mailbox: Box, uid: int) -> list[str]:
    """FETCHes at the target that ask for all of one message alone."""
    return [e.rest for e in mailbox.new.commands("UID FETCH") if e.rest == f"{uid} (UID BODY.PEEK[])"]


def test_a_large_message_is_read_back_in_pieces_too(mailbox: Box, copy: Copy) -> None:
    mailbox.deliver(7, raw=LARGE)
    copy()
    assert not whole_reads(mailbox, 1)
    assert (mailbox.row().read_back, mailbox.altered()) == (1, "{}")


REWRITTEN = [
    (lambda raw: raw.replace(b"line 000400", b"line 000401"), "content"),
    (lambda raw: raw[:-2], "line_ends"),
    (lambda raw: raw.replace(b"\xe9", b"X"), "header_8bit"),
    (lambda raw: raw[:-3000], "content"),
    (lambda raw: raw[:-5000], "content"),
]


@pytest.mark.parametrize(("rewrite", "name"), REWRITTEN)
@pytest.mark.parametrize("deep", [False, True])
def test_what_the_target_makes_of_a_large_message_is_named(
    mailbox: Box, copy: Copy, rewrite: Callable[[bytes], bytes], name: str, deep: bool
) -> None:
    mailbox.deliver(7, raw=b"X-Name: Caf\xe9\r\n" + LARGE)
    mailbox.new.behaviour.rewrite = rewrite
    copy(deep=deep)
    assert mailbox.altered() == json.dumps({name: 1})
    assert len(mailbox.arrived()) == 1
