"""One odd line of a server costs nothing where it can be read with certainty, else its message, else its folder.

Each oddity was seen at a server. The whole program moves a mailbox through it: what is not hit arrives, once, with its
date and flags, and what is hit is named with the server's own words.
"""

import contextlib
import random
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.demo.imap_behaviour import CAPABILITIES
from deployments.demo.imap_grammar import Literal
from deployments.demo.imap_server import Action, Fault, ImapServer
from imapcopy.errors import ConnectionLost, FolderError, MemberError, MigrationError, ServerError
from imapcopy.limits import DEFAULT, Limits
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import Outgoing, TargetConnection
from models.hints import Hint
from tests.imapcopy.scripted import Scripted
from tests.imapcopy.world import LIN, NEW, PASSWORD, Box, contents, mail, new_member
from tests.servers.databases import Databases

Slip = Callable[[str, bytes], bytes]
FOLDERS = {"INBOX": 6, "Work": 5, "空 & más": 3}


@pytest.fixture
def filled(mailbox: Box) -> Box:
    number = 0
    for folder, count in FOLDERS.items():
        for _ in range(count):
            number += 1
            mailbox.deliver(number, folder, flags=("\\Seen", "$Work") if number % 2 else ())
    return mailbox


def in_fetch(what: bytes, by: bytes, count: int = 0) -> Slip:
    """Written otherwise in every answer to FETCH, or in the first `count`."""
    left = [count]

    def slip(verb: str, octets: bytes) -> bytes:
        if not verb.endswith("FETCH") or (count and not left[0]):
            return octets
        slipped = re.sub(what, by, octets)
        left[0] -= slipped != octets
        return slipped

    return slip


READ: dict[str, Slip] = {
    "a blank line before what closes a body": in_fetch(rb"\A\)\r\n\Z", b"\r\n)\r\n"),
    "two of them, with blanks": in_fetch(rb"\A\)\r\n\Z", b"\r\n \r\n )\r\n"),
    "a blank line before what closes a scan": in_fetch(rb"\)\r\n\Z", b"\r\n\r\n)\r\n"),
    "what closes a scan in a line of its own": in_fetch(rb"\)\r\n\Z", b"\r\n)\r\n"),
    "blank lines between answers": lambda verb, octets: re.sub(rb"\A\* ", b"\r\n\r\n* ", octets),
    "tags in small letters": lambda verb, octets: re.sub(
        rb"\A[A-Z]+\d+ (OK|NO|BAD)", lambda found: found[0].lower(), octets
    ),
    "lines that end in LF alone": lambda verb, octets: (
        octets if isinstance(octets, Literal) else octets.replace(b"\r\n", b"\n")
    ),
    "a size of -1": in_fetch(rb"RFC822\.SIZE \d+", b"RFC822.SIZE -1"),
    "items behind a body without a blank": in_fetch(rb"\A\)\r\n\Z", b"FLAGS (\\\\Seen))\r\n"),
    "items before a body": in_fetch(rb"\(UID (\d+) BODY", rb"(FLAGS (\\Seen) UID \1 MODSEQ (7) BODY"),
    "a line that is no answer in a list": lambda verb, octets: (
        b"DEBUG: opened\r\n" + octets if verb in ("LIST", "STATUS") and octets[:1] == b"*" else octets
    ),
    "a line that is no answer in a scan": in_fetch(rb"\A(\* \d+ FETCH .*SIZE)", rb"(debug) x\r\n\1"),
}


@pytest.mark.parametrize("slip", READ.values(), ids=READ.keys())
def test_what_can_be_read_with_certainty_is_read(filled: Box, slip: Slip) -> None:
    filled.old.behaviour.slip = slip
    filled.copy()
    filled.assert_equal()
    filled.assert_untouched()
    sent = filled.sent()
    filled.copy()
    assert filled.sent() == sent
    assert contents(filled.new, filled.target_user) == contents(filled.old, filled.source_user)


@pytest.mark.parametrize("name", [name for name in READ if re.search("closes a scan|LF|letters", name)])
def test_a_target_that_writes_so_is_read_too(filled: Box, name: str) -> None:
    filled.new.behaviour.slip = READ[name]
    filled.copy()
    filled.assert_equal()


def test_what_cannot_be_read_when_mail_is_verified_costs_its_folder(filled: Box) -> None:
    """Mail is on the way then, so a line that is no answer ends the connection."""
    number = FOLDERS["Work"]
    filled.new.behaviour.slip = in_fetch(rb"\A(\* %d FETCH .*SIZE)" % number, rb"(debug) x\r\n\1")
    with pytest.raises(FolderError) as caught:
        filled.copy()
    assert caught.value.cause_id == "unreadable_answer"
    assert "(debug) x" in caught.value.server_text
    assert filled.row("空 & más").copied == 3
    filled.new.behaviour.slip = None
    filled.copy()
    filled.assert_equal()


@pytest.mark.parametrize("keyword", [b"a(b", b"a)b", b"(", b")", b"((x)", b"x) (y"])
def test_a_keyword_with_a_parenthesis_costs_no_message_and_no_other_flag(filled: Box, keyword: bytes) -> None:
    filled.old.behaviour.slip = in_fetch(rb"FLAGS \((\\Seen)? ?", rb"FLAGS (\1 " + keyword + b" ")
    filled.copy()
    filled.assert_equal()


# What costs a message


UNREADABLE: dict[str, tuple[bytes, bytes]] = {
    "a UID beyond 32 bits": (rb"UID \d+", b"UID 4294967296"),
    "no UID at all": (rb"UID \d+", b"UID x"),
    "a list for a UID": (rb"UID \d+", b"UID (1 2)"),
}


@pytest.mark.parametrize(("what", "by"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_line_of_a_scan_that_cannot_be_read_costs_its_message_and_is_told(
    filled: Box, what: bytes, by: bytes
) -> None:
    filled.old.behaviour.slip = lambda verb, octets: (
        re.sub(what, by, octets) if octets.startswith(b"* 5 FETCH") and b"RFC822.SIZE" in octets else octets
    )
    filled.copy()
    hit = [folder for folder, count in FOLDERS.items() if count >= 5]
    for folder in FOLDERS:
        row = filled.row(folder)
        assert row.source_messages == FOLDERS[folder]
        assert (row.copied, row.issues) == (FOLDERS[folder] - (folder in hit), int(folder in hit))
        if folder in hit:
            [(number, issue)] = filled.ledger.issues(row.id or 0).items()
            assert (number, issue.cause) == (-5, "unreadable_answer")
            assert by.decode() in issue.server_text
    filled.assert_counted()
    # It is told rightly later on.
    filled.old.behaviour.slip = None
    filled.copy()
    filled.assert_equal()


BROKEN_BODIES: dict[str, Callable[[bytes], bytes]] = {
    "a body without framing": lambda head: re.sub(rb"BODY\[\] \{\d+\}\r\n", b"BODY[] ", head),
    "a body announced shorter than it is": lambda head: re.sub(rb"\{\d+\}", b"{30}", head),
    "a quote that is not closed": lambda head: re.sub(rb"UID (\d+)", rb'UID \1 X "', head),
    "a UID beyond 32 bits": lambda head: re.sub(rb"UID \d+", b"UID 4294967296", head),
}


@pytest.mark.parametrize("broken", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
def test_a_body_that_cannot_be_read_costs_its_message_and_is_asked_for_twice(
    filled: Box, broken: Callable[[bytes], bytes]
) -> None:
    hits = []

    def slip(verb: str, octets: bytes) -> bytes:
        if b"BODY[] {" in octets and octets.startswith(b"* 3 FETCH") and len(filled.folder("Work").messages) == 5:
            hits.append(octets)
            return broken(octets)
        return octets

    filled.old.behaviour.slip = slip
    filled.copy()
    for folder, count in FOLDERS.items():
        row = filled.row(folder)
        assert (row.source_messages, row.copied, row.issues) == (count, count - 1, 1)
        [issue] = filled.ledger.issues(row.id or 0).values()
        assert issue.cause == "unreadable_answer"
        assert issue.server_text
    filled.assert_counted()
    assert sum(contents(filled.new, filled.target_user).values()) == 11
    assert len(hits) <= 3 * 3
    filled.old.behaviour.slip = None


def test_words_of_strangers_in_a_body_without_framing_are_not_believed(mailbox: Box) -> None:
    """Such a line would put another content under the next message."""
    evil = b"* 2 FETCH (UID 2 BODY[] {4}\r\nevil)\r\n"
    mailbox.deliver(50, raw=b"Subject: x\r\n\r\n" + evil)
    mailbox.deliver(51)

    def slip(verb: str, octets: bytes) -> bytes:
        return octets.replace(b"{%d}\r\n" % (14 + len(evil)), b"") if b"BODY[]" in octets else octets

    mailbox.old.behaviour.slip = slip
    mailbox.copy()
    assert mailbox.arrived() == [mail(51)]
    assert list(mailbox.issues().values()) == ["unreadable_answer"]


# What costs a folder


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_end_in_a_folders_name_costs_that_folder(filled: Box, end: bytes) -> None:
    filled.deliver(99, "Odd name")
    filled.old.behaviour.slip = lambda verb, octets: octets.replace(b"Odd name", b"Odd" + end + b"name")
    with pytest.raises(FolderError) as caught:
        filled.copy()
    assert caught.value.cause_id == "folder_name_invalid"
    assert sum(contents(filled.new, filled.target_user).values()) == 14


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_folder_whose_opening_cannot_be_read_does_not_hold_the_others_back(filled: Box, side: str) -> None:
    server = filled.old if side == "source" else filled.new
    opens = "EXAMINE" if side == "source" else "SELECT"
    asked = []

    def slip(verb: str, octets: bytes) -> bytes:
        if verb == opens and b"EXISTS" in octets and server.log[-1].rest.count("Work"):
            asked.append(octets)
            return octets + b"B99999 OK who asked?\r\n"
        return octets

    server.behaviour.slip = slip
    filled.target.create("Work") if side == "target" else None
    with pytest.raises(FolderError) as caught:
        filled.copy()
    assert (caught.value.cause_id, caught.value.where) == ("unreadable_answer", "Work")
    assert "B99999" in caught.value.server_text
    assert sum(contents(filled.new, filled.target_user).values()) == 9
    assert not caught.value.retryable
    assert len(asked) == 1


@dataclass
class Silence(Fault):
    """No answer to a command about one folder: its opening, or its scan right behind that."""

    folder: str = "Work"
    _opened: str = ""

    def meets(self, account: str, verb: str, rest: str) -> bool:
        if verb in ("EXAMINE", "SELECT"):
            self._opened = rest
        about = self._opened if self.command == "FETCH" else rest
        return self.folder in about and super().meets(account, verb, rest)


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize(
    ("side", "command"), [("source", "EXAMINE"), ("source", "FETCH"), ("source", "STATUS"), ("target", "SELECT")]
)
def test_one_silent_folder_is_asked_about_last_and_alone(
    filled: Box, side: str, command: str, times: int | None
) -> None:
    server = filled.old if side == "source" else filled.new
    server.behaviour.capabilities -= {"LIST-STATUS"}
    filled.target.create("Work")
    server.behaviour.faults.append(
        Silence(command, Action.HANG, containing="1:*" if command == "FETCH" else "", times=times)
    )
    filled.limits = Limits(silence_seconds=0.4)
    if times or command == "STATUS":
        filled.copy()
        filled.assert_equal()
        return
    with pytest.raises(FolderError) as caught:
        filled.copy()
    assert (caught.value.cause_id, caught.value.where, caught.value.side) == ("timeout", "Work", side)
    assert caught.value.retryable
    assert sum(contents(filled.new, filled.target_user).values()) == 9
    server.behaviour.faults.clear()
    filled.limits = DEFAULT
    filled.copy()
    filled.assert_equal()


def test_a_server_that_is_silent_about_every_folder_is_left_after_three(filled: Box) -> None:
    for number in range(12):
        filled.deliver(200 + number, f"F{number}")
    filled.old.behaviour.faults.append(Fault("EXAMINE", Action.HANG, times=None))
    filled.limits = Limits(silence_seconds=0.3)
    with pytest.raises(ConnectionLost) as caught:
        filled.copy()
    assert caught.value.cause_id == "timeout"
    # Three folders alone, and once more from the beginning, as after any lost connection: not each of the thirteen.
    assert len(filled.old.commands("AUTHENTICATE")) <= 3 * 3


# What costs a command, or names another server


def test_words_of_haste_are_heeded_at_once_whatever_the_status(filled: Box) -> None:
    filled.old.behaviour.slip = lambda verb, octets: (
        re.sub(rb"(?s)\A(\w+) OK.*", rb"\1 ERR Fetch frequency limited!\r\n", octets) if verb == "UID FETCH" else octets
    )
    with pytest.raises(ServerError) as caught:
        filled.copy()
    assert (caught.value.cause_id, caught.value.retryable) == ("throttled", True)
    # The three that were sent ahead, and none after the first answer.
    assert len(filled.old.commands("UID FETCH")) <= len(FOLDERS)


def test_an_unknown_status_after_mail_was_sent_is_looked_up_and_nothing_is_doubled(filled: Box) -> None:
    left = [2]

    def slip(verb: str, octets: bytes) -> bytes:
        if verb == "APPEND" and b" OK " in octets and left[0]:
            left[0] -= 1
            return re.sub(rb" OK .*", b" DONE stored\r\n", octets)
        return octets

    filled.new.behaviour.slip = slip
    filled.copy()
    filled.assert_equal()


@pytest.mark.parametrize(
    "words",
    [
        "NO [REFERRAL imap://lin;AUTH=*@mail2.corp.example/] not here",
        "NO [REFERRAL IMAP://MAIL2.corp.example/] Specified user is invalid on this server. Try mail2.",
    ],
)
def test_a_login_that_is_referred_names_the_other_server(words: str) -> None:
    said = words.encode()
    answers: dict[str, Any] = {"AUTHENTICATE": lambda rest: b"TAG " + said + b"\r\n"}
    with Scripted(answers) as server, pytest.raises(MemberError) as caught:
        SourceConnection(server.account)
    assert caught.value.cause_id == "other_server"
    assert caught.value.hint == Hint("referral", {"host": "mail2.corp.example"})
    assert server.verbs().count("AUTHENTICATE") == 1


def test_a_greeting_that_is_a_referral_names_the_other_server() -> None:
    greeting = b"* BYE [REFERRAL imap://mail3.corp.example/] moved\r\n"
    with Scripted(greeting=greeting) as server, pytest.raises(MigrationError) as caught:
        SourceConnection(server.account)
    assert caught.value.cause_id == "other_server"
    assert caught.value.hint == Hint("referral", {"host": "mail3.corp.example"})


# IMAP4rev2 alone


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_server_that_speaks_the_second_revision_alone_is_read_and_written(mailbox: Box, side: str) -> None:
    server: ImapServer = getattr(mailbox, side)
    server.behaviour.capabilities = CAPABILITIES - {"IMAP4rev1", "NAMESPACE", "UIDPLUS", "MOVE"} | {"IMAP4rev2"}
    for number in range(9):
        mailbox.deliver(number, ("INBOX", "Work", "Work/2024")[number % 3], flags=("\\Seen",))
    mailbox.copy()
    mailbox.assert_equal()


def test_names_are_utf8_there_both_ways() -> None:
    listed = b'* LIST () "/" INBOX\r\n* LIST () "/" "\xe7\xa9\xba & x"\r\n* LIST () "/" {4}\r\n\xe7\xa9\xba&\r\n'
    answers: dict[str, Any] = {
        "CAPABILITY": b"* CAPABILITY IMAP4rev2 AUTH=PLAIN\r\n",
        "LIST": listed,
        "APPEND": lambda rest: b"TAG OK [APPENDUID 7 4] done\r\n",
    }
    with Scripted(answers) as server, TargetConnection(server.account) as connection:
        assert {"UIDPLUS", "MOVE", "LIST-STATUS"} <= connection.capabilities
        assert [folder.name for folder in connection.listing().folders] == ["INBOX", "空 & x", "空&"]
        connection.create(["新 & old"])
        connection.select("空 & x")
        connection.append("空 & x", [Outgoing(b"hi", frozenset(), "")])
        sent = b"".join(server.received)
    for command in ('CREATE "新 & old"', 'SELECT "空 & x"', 'APPEND "空 & x"'):
        assert command.encode() in sent


# Brothers, at random


NUMBERS = [b"0", b"-1", b"4294967296", b"1e9", b"9" * 40, b"x", b"NIL"]
BITS = [b"(", b")", b'"', b"\r\n", b"\n", b" ", b"\\", b"{3}", b"* ", b"\0", b"\xff", b"B9 OK x\r\n", b"[", b"NIL"]


def damaged(dice: random.Random, octets: bytes) -> bytes:
    """One line with a number, a bit more, a bit less, or something doubled."""
    at = dice.randrange(len(octets))
    kind = dice.randrange(5)
    if kind == 0 and (found := list(re.finditer(rb"-?\d+", octets))):
        one = dice.choice(found)
        return octets[: one.start()] + dice.choice(NUMBERS) + octets[one.end() :]
    if kind == 1:
        return octets[:at] + octets[at + dice.randint(1, 4) :]
    if kind == 2:
        return octets[:at] + octets[at : at + 6] * 2 + octets[at + 6 :]
    if kind == 3:
        return dice.choice([b"\r\n", b"debug: x\r\n", b"* OK x (\r\n", b"* 99 EXISTS\r\n"]) + octets
    return octets[:at] + dice.choice(BITS) + octets[at:]


# Each is three passes over two servers.
@pytest.mark.fuzz
@settings(max_examples=max(20, settings.default.max_examples // 5))
@given(seed=st.integers(0, 1 << 40))
def test_damage_of_any_kind_loses_and_doubles_nothing(databases: Databases, seed: int) -> None:
    """Whatever happens to some lines, what is called copied is there, once, and octet by octet what it was."""
    dice = random.Random(seed)
    chance, left = dice.choice([0.02, 0.1, 0.5]), [dice.randint(1, 6)]

    def slip(verb: str, octets: bytes) -> bytes:
        # Not the sign-in, whose failures are told elsewhere, and no octet of mail: nobody could tell what it was.
        if verb in ("", "CAPABILITY", "AUTHENTICATE", "ID") or isinstance(octets, Literal) or not octets:
            return octets
        if left[0] <= 0 or dice.random() > chance:
            return octets
        left[0] -= 1
        return damaged(dice, octets)

    with (
        tempfile.TemporaryDirectory() as directory,
        databases.fresh("sqlite", Path(directory)) as engine,
        ImapServer("old", {LIN: PASSWORD}) as old,
        ImapServer("new", {NEW: PASSWORD}) as new,
    ):
        box = Box(engine, old, new, new_member(engine), limits=Limits(silence_seconds=0.3))
        for number in range(8):
            box.deliver(number, ("INBOX", "Work")[number % 2], flags=("\\Seen",) if number % 3 else ())
        server = dice.choice([old, new])
        server.behaviour.slip = slip
        with contextlib.suppress(MigrationError):
            box.copy()
        for row in box.ledger.folders():
            arrived = box.arrived(row.target_name)
            assert len(set(arrived)) == len(arrived)
        server.behaviour.slip = None
        box.limits = DEFAULT
        for _ in range(2):
            box.copy()
        there = contents(new, NEW)
        assert set(there) >= set(contents(old, LIN))
        assert max(there.values()) == 1
        box.assert_untouched()
