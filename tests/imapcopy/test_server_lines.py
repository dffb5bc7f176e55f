"""Whatever a server sends, a copy ends with a result or with a cause: no exception of ours, no endless loop.

Octets at random, and answers as servers write them that were cut, doubled, nested, or given other numbers and types, go
through the wire, the grammar and the responses, and through whole dialogues with a server that lives in memory.

`pytest -m fuzz --hypothesis-profile=fuzz` draws 100,000 of each (docs/reliability.md).
"""

import imaplib
import random
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy import responses, sign_in
from imapcopy.account import Account, Server
from imapcopy.connection import Connection
from imapcopy.dialogue import Dialogue
from imapcopy.distant import identified
from imapcopy.errors import MigrationError, Refused
from imapcopy.flight import Fetched, FetchRequest
from imapcopy.folders import Folder
from imapcopy.grammar import GrammarError
from imapcopy.numbering import Numbering
from imapcopy.plan import Envelope
from imapcopy.responses import Message
from imapcopy.scan_answers import Answers
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.target_connection import Outgoing, TargetConnection
from imapcopy.wire import Deadline, Response, Wire, WireBroken
from models.causes import causes
from tests.imapcopy.world import LIN, PASSWORD

pytestmark = pytest.mark.fuzz

ACCOUNT = Account(Server("imap.old.example", 143, "plain", plain_allowed=True), LIN, PASSWORD)
CAPABILITIES = frozenset(
    {
        *("IMAP4REV1", "NAMESPACE", "SPECIAL-USE", "LIST-EXTENDED", "LIST-STATUS", "CONDSTORE", "QUOTA", "UIDPLUS"),
        *("MOVE", "MULTIAPPEND", "LITERAL-"),
    }
)

# Drawing answers

# As servers write them; TAG is the tag of the command that is being answered.
LINES = [
    b"* OK still here\r\n",
    b"* OK [ALERT] we close\r\n",
    b"* NO slow today\r\n",
    b"* BAD what\r\n",
    b"* BYE see you\r\n",
    b"* CAPABILITY IMAP4rev1 UIDPLUS LITERAL+ IDLE\r\n",
    b'* NAMESPACE (("INBOX." ".")) NIL (("#shared/" "/"))\r\n',
    b'* LIST (\\HasNoChildren \\Sent) "/" "Sent &AOk-"\r\n',
    b'* LIST () "/" INBOX\r\n',
    b'* LIST () "/" {5}\r\nA (b)\r\n',
    b'* XLIST (\\Noselect) NIL NIL ("CHILDINFO" ("SUBSCRIBED"))\r\n',
    b'* LIST () "/" two words\r\n',
    b"* STATUS INBOX (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 7 HIGHESTMODSEQ 12)\r\n",
    b'* STATUS "A" ()\r\n',
    b"* 3 EXISTS\r\n",
    b"* 0 RECENT\r\n",
    b"* 2 EXPUNGE\r\n",
    b"* FLAGS (\\Seen \\Answered $Label1)\r\n",
    b"* OK [PERMANENTFLAGS (\\Seen \\*)] ok\r\n",
    b"* OK [UIDVALIDITY 7] ok\r\n",
    b"* OK [UIDNEXT 9] ok\r\n",
    b"* OK [HIGHESTMODSEQ 12] ok\r\n",
    b'* 1 FETCH (UID 1 FLAGS (\\Seen $a) INTERNALDATE "01-May-2024 10:00:00 +0000" RFC822.SIZE 5)\r\n',
    b'* 2 FETCH (RFC822.SIZE 2 UID 2 INTERNALDATE " 1-May-2024 10:00:00 -0330" FLAGS ())\r\n',
    b"* 1 FETCH (UID 1 BODY[] {5}\r\nhello)\r\n",
    b"* 2 FETCH (BODY[] {2}\r\nhi UID 2)\r\n",
    b'* 3 FETCH (UID 3 BODY[] "quoted \\" text")\r\n',
    b"* 3 FETCH (UID 3 BODY[] NIL)\r\n",
    b"* 1 FETCH (UID 1 BODY[]<0> {5}\r\nhello)\r\n",
    b"* 1 FETCH (UID 1 BODY[HEADER.FIELDS (MESSAGE-ID)] {18}\r\nMessage-ID: <a>\r\n\r\n)\r\n",
    b"* 0 FETCH (FLAGS (\\Seen) MODSEQ (9))\r\n",
    b'* QUOTA "" (STORAGE 10 512 MESSAGE 1 2)\r\n',
    b"* SEARCH 1 2 3\r\n",
    b"* ESEARCH (TAG B1) UID ALL 1:3\r\n",
    b"+ go on\r\n",
    b"+\r\n",
    b"* [COPYUID 7 1:2 8:9]\r\n",
    b"TAGOK done\r\n",
    b"TAGOK [APPENDUID 7 9] done\r\n",
    b"TAGOK [COPYUID 7 1:2 8:9] done\r\n",
    b"TAGOK [READ-ONLY] done\r\n",
    b"TAGOK [CAPABILITY IMAP4rev1 LITERAL +] in\r\n",
    b"TAGNO [TOOBIG] too large\r\n",
    b"TAGNO [OVERQUOTA] full\r\n",
    b"TAGNO [THROTTLED] Request is throttled. Suggested Backoff Time: 9 milliseconds\r\n",
    b"TAGBAD Invalid characters in atom\r\n",
    b"TAGNO\r\n",
    b"B999 OK to nobody\r\n",
]
NUMBERS = [b"0", b"-1", b"1", b"4294967295", b"4294967296", b"1.5e+09", b"9" * 25, b"9" * 6000, b"1:*", b"x", b"NIL"]
TYPES = [b"NIL", b"()", b'""', b"{0}\r\n", b"((", b"))", b'"', b"\\", b"(((" * 40, b"[", b"]", b"\0", b"\xff\xfe", b"*"]
# What may be taken out or put in somewhere else: a word, a string, a bracket, a blank.
PARTS = re.compile(rb'"(?:[^"\\]|\\.)*"|[()\[\]{}]|\d+|[^\s()\[\]{}"]+|\s')


def answer_of(seed: int) -> bytes:
    """One line of a server, right or damaged in up to three places; now and then mere octets."""
    dice = random.Random(seed)
    if dice.random() < 0.05:
        return dice.randbytes(dice.randint(0, 60))
    line = dice.choice(LINES)
    for _ in range(dice.choice([0, 0, 0, 1, 1, 2, 3])):
        line = dice.choice(DAMAGES)(dice, line)
    return line


def _cut(dice: random.Random, line: bytes) -> bytes:
    return line[: dice.randint(0, len(line))]


def _doubled(dice: random.Random, line: bytes) -> bytes:
    return line * dice.randint(2, 3)


def _renumbered(dice: random.Random, line: bytes) -> bytes:
    return _one_replaced(dice, line, re.compile(rb"\d+"), NUMBERS)


def _retyped(dice: random.Random, line: bytes) -> bytes:
    return _one_replaced(dice, line, PARTS, TYPES)


def _without(dice: random.Random, line: bytes) -> bytes:
    return _one_replaced(dice, line, PARTS, [b""])


def _inserted(dice: random.Random, line: bytes) -> bytes:
    at = dice.randint(0, len(line))
    return line[:at] + dice.choice([*TYPES, dice.randbytes(1), dice.randbytes(4)]) + line[at:]


def _spliced(dice: random.Random, line: bytes) -> bytes:
    other = dice.choice(LINES)
    return line[: dice.randint(0, len(line))] + other[dice.randint(0, len(other)) :]


def _in_other_letters(dice: random.Random, line: bytes) -> bytes:
    return line.lower().replace(b"tag", b"TAG")


def _one_replaced(dice: random.Random, line: bytes, what: re.Pattern[bytes], by: list[bytes]) -> bytes:
    found = list(what.finditer(line))
    if not found:
        return line
    one = dice.choice(found)
    return line[: one.start()] + dice.choice(by) + line[one.end() :]


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [
    *(_cut, _doubled, _renumbered, _retyped, _without, _inserted, _spliced, _in_other_letters),
]


def several(seed: int) -> bytes:
    """What a server says to one command: up to four lines."""
    return b"".join(answer_of(seed + number) for number in range(seed % 5))


# From seeds, because to draw each step of the damage costs a hundred times what is tested. Hypothesis still finds out
# which of the answers it takes.
SEEDS = st.integers(0, 1 << 48)
ANSWER = SEEDS.map(answer_of)
ANSWERS = st.lists(SEEDS.map(several), max_size=12)


# Wire, grammar, responses


def read_all(octets: bytes) -> list[Response]:
    wire = Wire(cast(socket.socket, Memory([octets], obliging=False).saying()))
    found: list[Response] = []
    try:
        while True:
            found.append(wire.read(Deadline()))
    except WireBroken:
        return found


def check_readers(found: list[Response]) -> None:
    """No reader fails but the ones of FETCH, which say that a line follows no grammar."""
    answers = Answers()
    for response in found:
        if response.segments[0].startswith(b"* "):
            response.segments[0] = response.segments[0][2:].lstrip(b" ")
        answers.take(response)
        for read in (responses.message, responses.piece, responses.message_id, responses.fetched):
            try:
                check_sane(read(response))
            except GrammarError:
                continue
        responses.is_notice(response)
        responses.capabilities(response.text)
        responses.appended_uids(response.text, 3)
        responses.copied_uids(response.text, 3)
    answers.settle()
    for envelope in answers.envelopes():
        check_sane(envelope)
    folders = responses.told_apart(responses.listed_folders(found))
    assert len({folder.name for folder in folders}) == len(folders)
    for status in responses.statuses(found).values():
        assert min(status.messages, status.uidnext, status.uidvalidity, status.highestmodseq) >= 0
        assert max(status.messages, status.uidnext, status.uidvalidity, status.highestmodseq) < 1 << 63
    opened = responses.selected(found)
    assert 0 <= opened.uidvalidity < 1 << 63
    assert 0 <= opened.uidnext < 1 << 63
    responses.unreadable_listings(found)
    responses.namespaces(found)
    responses.quota(found)


def check_sane(found: object) -> None:
    """What the ledger and the database can hold."""
    if isinstance(found, Envelope | Message):
        assert 0 < found.uid < 1 << 32
    if isinstance(found, Envelope):
        assert 0 <= found.size <= 1 << 40
        assert found.arrived is None or found.arrived.tzinfo


@given(st.binary(max_size=300))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    check_readers(read_all(octets))


@given(st.lists(ANSWER, max_size=8).map(b"".join))
def test_damaged_answers_are_read_or_refused(octets: bytes) -> None:
    check_readers(read_all(octets.replace(b"TAG", b"B1 ")))


# Dialogues


class Memory:
    """A server in memory: each command is answered with the next of the answers; behind them it is gone, or says OK.

    Stands for the socket to it.
    """

    def __init__(self, answers: Iterable[bytes], *, obliging: bool) -> None:
        self._answers = iter(answers)
        self._obliging = obliging
        self._out = b""
        self._in = b""
        self._literal = 0
        self._tag = b""

    def saying(self) -> "Memory":
        """Say the first answer without being asked."""
        self._out = next(self._answers, b"")
        return self

    def shutdown(self, *how: object) -> None:
        self.close()

    def close(self) -> None:
        self._out = b""
        self._answers = iter(())
        self._obliging = False

    def setsockopt(self, *option: object) -> None:
        pass

    def settimeout(self, seconds: float | None) -> None:
        pass

    def send(self, octets: bytes | memoryview) -> int:
        self._receive(bytes(octets))
        return len(octets)

    def _receive(self, octets: bytes) -> None:
        self._in += octets
        while self._in:
            taken = min(self._literal, len(self._in))
            self._in, self._literal = self._in[taken:], self._literal - taken
            line, end, rest = self._in.partition(b"\r\n")
            if self._literal or not end:
                return
            self._in = rest
            self._command(line)

    def _command(self, line: bytes) -> None:
        if line[:1] == b"B" and not self._tag:
            self._tag = line.partition(b" ")[0] + b" "
        announced = re.search(rb"\{(\d+)(\+?)\}\Z", line)
        if announced:
            self._literal = int(announced[1])
            if announced[2]:
                return
        default = b"+ go\r\n" if announced else self._tag + b"OK done\r\n"
        said = next(self._answers, default if self._obliging else b"")
        self._out += said.replace(b"TAG", self._tag)
        if not announced:
            self._tag = b""

    def recv(self, most: int) -> bytes:
        said, self._out = self._out[:most], self._out[most:]
        return said

    def recv_into(self, view: memoryview) -> int:
        said = self.recv(len(view))
        view[: len(said)] = said
        return len(said)


def connected(kind: type[Connection], answers: Iterable[bytes], *, obliging: bool) -> Any:
    """A connection that has signed in to a server in memory."""
    connection = kind.__new__(kind)
    connection.account = ACCOUNT
    connection.capabilities = CAPABILITIES
    connection._compressible = connection._left = False
    connection._dialogue = Dialogue(
        ACCOUNT, connection.side, Wire(cast(socket.socket, Memory(answers, obliging=obliging)))
    )
    if isinstance(connection, TargetConnection):
        connection.fence = lambda: None
        connection.numbering = Numbering()
    return connection


FOLDERS = [Folder(name, name.decode(), "/", frozenset()) for name in (b"INBOX", b"A", b"B")]
REQUESTS = [
    FetchRequest(b"INBOX", [1, 2, 3], 9, scan=[1, 2]),
    FetchRequest(b"A", [1], 9),
    FetchRequest(b"A", [2], 9, anew=True),
]
MAIL = [Outgoing(b"hello", frozenset({"\\Seen"}), ""), Outgoing(b"x" * 5000, frozenset(), "")]

ACTS: list[tuple[type[Connection], Callable[[Any], object]]] = [
    (SourceConnection, lambda c: c.listing(statuses=True)),
    (SourceConnection, lambda c: c.listing()),
    (SourceConnection, lambda c: c.statuses([b"INBOX", b"A"])),
    (SourceConnection, lambda c: c.examine(FOLDERS[0])),
    (SourceConnection, lambda c: list(c.survey(FOLDERS))),
    (SourceConnection, lambda c: list(c.stream(REQUESTS))),
    (SourceConnection, lambda c: c.scan()),
    (SourceConnection, lambda c: c.scan_uids([1, 2, 9])),
    (SourceConnection, lambda c: list(c.messages([1, 2, 3]))),
    (SourceConnection, lambda c: identified(c, 1, 9)),
    (SourceConnection, lambda c: c.message_ids([1, 2])),
    (SourceConnection, lambda c: c.refresh()),
    (SourceConnection, lambda c: c.close()),
    (TargetConnection, lambda c: c.quota()),
    (TargetConnection, lambda c: c.select("A")),
    (TargetConnection, lambda c: list(c.select_each(["A", "B"]))),
    (TargetConnection, lambda c: c.create(["A", "B"])),
    (TargetConnection, lambda c: c.append("A", MAIL[:1])),
    (TargetConnection, lambda c: c.append("A", MAIL)),
    (TargetConnection, lambda c: list(c.append_each("A", MAIL))),
    (TargetConnection, lambda c: c.move([1, 2], "A")),
    (TargetConnection, lambda c: c.store([1, 2], frozenset({"\\Seen"}), add=True)),
    (TargetConnection, lambda c: list(c.read_back([1, 2]))),
    (TargetConnection, lambda c: list(c.look_back(REQUESTS))),
]


def check_outcome(act: Callable[[], object]) -> object:
    """A result, a refusal, or a failure with a cause that the admin can read of; never anything else."""
    failed: Refused | MigrationError
    try:
        return act()
    except (Refused, MigrationError) as error:
        failed = error
    if isinstance(failed, Refused):
        assert failed.status in ("NO", "BAD")
    else:
        assert failed.cause_id in causes()
        assert failed.server_text.isprintable()
    return None


@given(st.integers(0, len(ACTS) - 1), ANSWERS, st.booleans())
def test_every_command_ends_with_a_result_or_a_cause(act: int, answers: list[bytes], obliging: bool) -> None:
    kind, command = ACTS[act]
    connection = connected(kind, answers, obliging=obliging)
    check_outcome(lambda: command(connection))


@given(ANSWERS, st.booleans())
def test_a_whole_reading_ends_with_what_was_asked_for_or_a_cause(answers: list[bytes], obliging: bool) -> None:
    """Listing, survey and fetch, one after the other on one connection, as a pass does it."""
    connection = connected(SourceConnection, answers, obliging=obliging)

    def reading() -> None:
        folders = connection.listing(statuses=True).folders
        for folder, found in list(connection.survey(folders)):
            if not isinstance(found, Surveyed):
                assert found.cause_id in causes()
                continue
            uids = [envelope.uid for envelope in found.scan]
            assert uids == sorted(set(uids))
            for envelope in found.scan:
                check_sane(envelope)
            for fetched in connection.stream([FetchRequest(folder.raw, uids, 9)]):
                check_fetched(fetched)

    check_outcome(reading)


def check_fetched(fetched: Fetched) -> None:
    got = [message.uid for message in fetched.messages]
    assert len(set(got)) == len(got)
    assert set(got) <= set(fetched.request.bodies)


@given(ANSWERS, st.booleans())
def test_a_whole_writing_ends_with_a_result_or_a_cause(answers: list[bytes], obliging: bool) -> None:
    connection = connected(TargetConnection, answers, obliging=obliging)

    def writing() -> None:
        connection.listing(statuses=True)
        connection.create(["A"])
        connection.select("A")
        for outcome in connection.append_each("A", MAIL):
            if not isinstance(outcome, Refused):
                _, uids = outcome
                assert len(uids) in (0, 1)
        for message in connection.read_back([1, 2]):
            assert message.uid in (1, 2)

    check_outcome(writing)


# Signing in


@given(
    st.one_of(st.just(b"* OK ready\r\n"), ANSWER),
    SEEDS.map(several),
    st.lists(SEEDS.map(several), max_size=3),
)
def test_a_sign_in_ends_with_a_connection_or_a_cause(greeting: bytes, first: bytes, answers: list[bytes]) -> None:
    """Here the library reads, and the tags are its own."""
    said = (
        greeting + first.replace(b"TAG", b"AAAA0 ") + b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN\r\nAAAA0 OK done\r\n"
    )
    for number, each in enumerate(answers, 1):
        said += each.replace(b"TAG", b"B%d " % number) + each.replace(b"TAG", b"AAAA%d " % number)
    ours, theirs = socket.socketpair()
    with pytest.MonkeyPatch.context() as patched, closing(theirs):
        patched.setattr(imaplib, "Int2AP", lambda number: b"AAAA")
        patched.setattr(sign_in, "_reached", lambda *where: ours)
        # No more than the socket holds: nobody reads yet.
        theirs.sendall(said[:100_000])
        theirs.shutdown(socket.SHUT_WR)
        connection = check_outcome(lambda: SourceConnection(ACCOUNT))
        if isinstance(connection, SourceConnection):
            connection.drop()
    ours.close()
