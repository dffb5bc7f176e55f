"""A message that is too large to be held goes through in pieces, as whole and as singly as any other."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, Received
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


# Servers that do not deliver what was asked for


HUGE = mail(9, b"".join(b"line %06d\r\n" % n for n in range(6000)))
"""More than a hundred pieces, and more than an estimate of a size may be wrong."""


def octets_read(mailbox: Box) -> float:
    """Octets that the source has sent, as a share of the large message."""
    return mailbox.old.octets_sent / len(HUGE)


def huge_box(mailbox: Box) -> None:
    for number in (1, 2):
        mailbox.deliver(number)
    mailbox.deliver(9, raw=HUGE, flags=["\\Flagged"])
    mailbox.deliver(3)


ODD_SERVERS: dict[str, dict[str, Any]] = {
    "whole message under the part's name": {"partial": "ignored"},
    "whole message under its own name": {"partial": "unlabelled"},
    "the first octets each time": {"partial": "from the start"},
    "most of each part": {"part_octets": 400},
    "the first part and no more": {"parts_end_at": 512},
    "a half of the first part and no more": {"parts_end_at": 256},
    "nothing in parts": {"parts_end_at": 0},
    "a size that is too small": {"told_size": lambda raw: max(len(raw) - 999, 7)},
    "a size that is too large": {"told_size": lambda raw: len(raw) + 999},
    "the whole message, and a wrong size": {"partial": "ignored", "told_size": lambda raw: len(raw) + 999},
    "the first octets, of a size that is too small": {"partial": "from the start", "told_size": lambda raw: 2001},
}


@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize("odd", ODD_SERVERS.values(), ids=ODD_SERVERS)
def test_a_large_message_arrives_whole_whatever_a_server_makes_of_parts(
    mailbox: Box, copy: Copy, odd: dict[str, Any], side: str
) -> None:
    """The source is read at most two and a half times, with all that is said beside; the target's reading back too."""
    huge_box(mailbox)
    server = mailbox.old if side == "old" else mailbox.new
    for name, value in odd.items():
        setattr(server.behaviour, name, value)
    copy(deep=side == "new")
    mailbox.assert_equal()
    assert (mailbox.altered(), mailbox.issues()) == ("{}", {})
    assert server.octets_sent < 2.5 * len(HUGE)
    assert len(server.commands("UID FETCH")) < (700 if "part_octets" in odd else 260)
    before = mailbox.sent()
    copy()
    assert mailbox.sent() == before


def test_what_a_server_ignores_once_is_not_asked_of_it_again(mailbox: Box, copy: Copy) -> None:
    mailbox.old.behaviour.partial = "ignored"
    for number in range(4):
        mailbox.deliver(number, raw=mail(number, b"x%d\r\n" % number * 2000))
    copy()
    mailbox.assert_equal()
    asked = [entry.rest for entry in mailbox.old.commands("UID FETCH") if "BODY" in entry.rest]
    assert [rest.partition(" ")[2] for rest in asked] == ["(UID BODY.PEEK[]<0.512>)", *["(UID BODY.PEEK[])"] * 3]
    assert mailbox.old.octets_sent < 1.2 * sum(len(raw) for raw in mailbox.arrived())


def test_a_server_that_delivers_only_the_beginning_is_told_of_whatever_is_asked(mailbox: Box, copy: Copy) -> None:
    """What can be had is better than nothing, and no Perfect: not in the pass, and not when all is verified later."""
    mailbox.old.behaviour.delivers = lambda raw: raw[:3000] if len(raw) > 70_000 else raw
    mailbox.old.behaviour.told_size = len
    small, large = mail(5, b"line\r\n" * 20_000), HUGE
    mailbox.deliver(5, raw=small)
    mailbox.deliver(9, raw=large)
    mailbox.deliver(1)
    copy()
    assert sorted(mailbox.arrived()) == sorted([small[:3000], large[:3000], mail(1)])
    assert json.loads(mailbox.altered()) == {"cut_at_source": 2}
    copy(deep=True)
    assert json.loads(mailbox.altered())["cut_at_source"] == 2


@pytest.mark.parametrize("odd", [{"partial": "ignored"}, {"parts_end_at": 512}], ids=["ignored", "cut"])
@pytest.mark.parametrize("nth", range(1, 6))
def test_a_message_that_comes_whole_is_asked_for_again_when_the_connection_breaks_within(
    mailbox: Box, copy: Copy, odd: dict[str, Any], nth: int
) -> None:
    huge_box(mailbox)
    for name, value in odd.items():
        setattr(mailbox.old.behaviour, name, value)
    mailbox.old.behaviour.faults.append(Fault("FETCH", Action.CUT, nth=nth, containing="BODY", cut_at=30_000))
    with suppress(ServerError):
        copy()
    copy()
    mailbox.assert_equal()
    assert octets_read(mailbox) < 5


def test_a_server_that_breaks_in_the_middle_of_a_whole_message_for_ever_is_not_read_for_ever(
    mailbox: Box, copy: Copy
) -> None:
    huge_box(mailbox)
    mailbox.old.behaviour.partial = "ignored"
    mailbox.old.behaviour.faults.append(
        Fault("FETCH", Action.CUT, containing="3 (UID BODY", cut_at=len(HUGE) - 10, times=None)
    )
    copy()
    assert mailbox.issues() == {3: "source_unreadable"}
    assert octets_read(mailbox) < 2.5
    assert sorted(mailbox.arrived()) == [mail(1), mail(2), mail(3)]


def test_a_message_whose_pieces_change_between_two_readings_is_fetched_whole(mailbox: Box, copy: Copy) -> None:
    """Known by all of its pieces, and cut when it is sent: nothing of the cut one is stored, and it is not left out."""
    huge_box(mailbox)
    asked = count(1)

    def cut_later(entry: Received) -> None:
        if entry.verb == "UID FETCH" and "<" in entry.rest and next(asked) == len(HUGE) // 512 + 20:
            mailbox.old.behaviour.parts_end_at = 512

    mailbox.old.behaviour.before_command = cut_later
    copy()
    mailbox.assert_equal()


def test_a_large_message_that_is_refused_is_an_issue_and_no_other_suffers(mailbox: Box, copy: Copy) -> None:
    huge_box(mailbox)
    mailbox.old.behaviour.unreadable = lambda raw: raw == HUGE
    mailbox.old.behaviour.bodies = "refused"
    copy()
    assert mailbox.issues() == {3: "source_unreadable"}
    assert sorted(mailbox.arrived()) == [mail(1), mail(2), mail(3)]
    mailbox.assert_counted()


def test_a_machine_without_room_for_a_message_that_comes_whole_says_so(
    mailbox: Box, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge_box(mailbox)
    mailbox.old.behaviour.partial = "ignored"
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("w+b", buffering=0))  # noqa: SIM115
    copy()
    assert mailbox.issues() == {3: "no_room_here"}
    assert sorted(mailbox.arrived()) == [mail(1), mail(2), mail(3)]


def test_nothing_of_a_message_that_is_kept_for_a_moment_can_be_found(mailbox: Box, copy: Copy, tmp_path: Path) -> None:
    huge_box(mailbox)
    mailbox.old.behaviour.partial = "ignored"
    place = tmp_path / "spool"
    place.mkdir()
    seen: list[Path] = []
    mailbox.later(mailbox.new, "APPEND", lambda: seen.extend(place.iterdir()), nth=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(place))
        copy()
    mailbox.assert_equal()
    assert not seen


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
