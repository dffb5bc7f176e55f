"""The demo's IMAP server, seen through Python's own client and through a bare socket."""

import base64
import imaplib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deployments.demo.imap_grammar import decode_name, encode_name
from deployments.demo.imap_server import CAPABILITIES, Action, Behaviour, Fault, Folder, ImapServer, Received
from tests.servers.dovecot import DEADLINE

LIN = "lin@old.example"
MAIL = b"Subject: hello\r\nFrom: a@old.example\r\n\r\nbody\r\n"
HAZARDS = {
    "NUL octets": b"Subject: x\r\n\r\na\0b\r\n",
    "bare CR": b"Subject: x\r\n\r\na\rb\r\n",
    "bare LF": b"Subject: x\n\nbody\n",
    "8-bit header": "Subject: 标题\r\n\r\nx\r\n".encode("gbk"),
    "no line end": b"Subject: x\r\n\r\nno end",
    "no header": b"\r\nonly a body",
    "what looks like IMAP": b"Subject: x\r\n\r\n* BYE {5}\r\nA1 OK )\r\n",
    "long line": b"Subject: x\r\n\r\n" + b"y" * 200_000,
}


@pytest.fixture
def server() -> Iterator[ImapServer]:
    with ImapServer("test", {LIN: "right", "chen@old.example": "right"}) as running:
        yield running


@pytest.fixture
def inbox(server: ImapServer) -> Folder:
    return server.account(LIN).folder("INBOX")


class Wire:
    """A client that sends what it is told to, and shows every octet of the answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self.greeting = self._file.readline()

    def close(self) -> None:
        self._file.close()
        self._connection.close()

    def send(self, octets: bytes) -> None:
        self._connection.sendall(octets)

    def line(self) -> bytes:
        return self._file.readline()

    def rest(self) -> bytes:
        """Read to the end of the connection, however it ends."""
        octets = b""
        try:
            while more := self._file.read(1):
                octets += more
        except ConnectionResetError:
            pass
        return octets

    def ask(self, command: bytes) -> list[bytes]:
        """Send a command and return the lines up to its tagged answer, with literals in them."""
        self.send(b"t " + command + b"\r\n")
        lines: list[bytes] = []
        while not lines or not lines[-1].startswith((b"t ", b"+ ")):
            line = self.line()
            assert line, f"the connection ended after {lines}"
            while literal := re.search(rb"\{(\d+)\}\r\n$", line):
                line += self._file.read(int(literal[1])) + self.line()
            lines.append(line)
        return lines

    def answer(self, command: bytes) -> bytes:
        return self.ask(command)[-1].strip()


@contextmanager
def wire(server: ImapServer, user: str = LIN, folder: str = "") -> Iterator[Wire]:
    client = Wire(socket.create_connection(("127.0.0.1", server.port)))
    try:
        if user:
            assert client.answer(b"LOGIN %b right" % user.encode()).startswith(b"t OK")
        if folder:
            assert client.answer(b"SELECT %b" % folder.encode()).startswith(b"t OK")
        yield client
    finally:
        client.close()


@contextmanager
def library(server: ImapServer, user: str = LIN) -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4("127.0.0.1", server.port) as client:
        client.login(user, "right")
        yield client


def literals(messages: list[bytes], date: str = "", flags: str = "") -> bytes:
    words = b"".join(b" " + word.encode() for word in (flags, date) if word)
    return b"".join(words + b" {%d+}\r\n%b" % (len(raw), raw) for raw in messages)


def raws(folder: Folder) -> list[bytes]:
    return [message.raw for message in folder.messages]


# -- messages in and out


@pytest.mark.parametrize("raw", HAZARDS.values(), ids=HAZARDS.keys())
def test_every_octet_of_a_message_goes_in_and_comes_out(server: ImapServer, inbox: Folder, raw: bytes) -> None:
    with wire(server, folder="INBOX") as client:
        assert b"APPENDUID" in client.answer(b"APPEND INBOX" + literals([raw]))
        (answer, _) = client.ask(b"UID FETCH 1 (BODY.PEEK[])")
    assert raws(inbox) == [raw]
    assert answer == b"* 1 FETCH (UID 1 BODY[] {%d}\r\n%b)\r\n" % (len(raw), raw)


def test_flags_keywords_and_the_arrival_date_with_its_zone_are_kept(server: ImapServer, inbox: Folder) -> None:
    with library(server) as client:
        client.append("INBOX", r"(\seen $Label1 NonJunk)", '" 1-Jan-1970 07:59:59 +0545"', MAIL)
        client.select("INBOX", readonly=True)
        _, (answer,) = client.fetch("1", "(FLAGS INTERNALDATE RFC822.SIZE)")
    assert inbox.messages[0].flags == {"\\Seen", "$Label1", "NonJunk"}
    zone = timezone(timedelta(hours=5, minutes=45))
    assert inbox.messages[0].internal_date == datetime(1970, 1, 1, 7, 59, 59, tzinfo=zone)
    assert isinstance(answer, bytes)
    assert b'INTERNALDATE "01-Jan-1970 07:59:59 +0545"' in answer
    assert b"FLAGS ($Label1 NonJunk \\Seen)" in answer
    assert b"RFC822.SIZE %d" % len(MAIL) in answer


@pytest.mark.parametrize(
    "date", ["00-Jan-0000 00:00:00 +0000", "31-Feb-2024 00:00:00 +0000", "01-Jan-2024 24:00:00 +0000"]
)
def test_an_impossible_date_is_a_bad_command(server: ImapServer, inbox: Folder, date: str) -> None:
    with wire(server) as client:
        assert client.answer(b"APPEND INBOX" + literals([MAIL], f'"{date}"')).startswith(b"t BAD Invalid date-time")
        assert client.answer(b"NOOP").startswith(b"t OK")
    assert not inbox.messages


def test_many_messages_go_in_with_one_command_and_answer_with_the_range_of_their_uids(
    server: ImapServer, inbox: Folder
) -> None:
    inbox.deliver(MAIL)
    messages = [MAIL + b"%d\r\n" % number for number in range(300)]
    with wire(server) as client:
        answer = client.answer(b"APPEND INBOX" + literals(messages, '"02-Mar-2024 10:00:00 +0800"', r"(\Seen)"))
    assert answer == b"t OK [APPENDUID %d 2:301] Stored" % inbox.uidvalidity
    assert raws(inbox)[1:] == messages
    assert len(server.commands("APPEND", LIN)) == 1


@pytest.mark.parametrize(
    ("last", "refusal"),
    [(b"x" * 1001, b"NO [TOOBIG] Message too large"), (b"", b"NO Can't save a zero byte message")],
)
def test_many_messages_are_all_refused_when_one_is(
    server: ImapServer, inbox: Folder, last: bytes, refusal: bytes
) -> None:
    server.behaviour.max_message_bytes = 1000
    with wire(server) as client:
        assert client.answer(b"APPEND INBOX" + literals([MAIL, last, MAIL])) == b"t " + refusal
        assert client.answer(b"NOOP").startswith(b"t OK"), "the stream must still be in step"
    assert not inbox.messages


def test_a_literal_that_waits_is_refused_before_its_octets_are_sent(server: ImapServer) -> None:
    server.behaviour.max_message_bytes = 10
    server.behaviour.quota_bytes = 15
    with wire(server) as client:
        assert client.ask(b"APPEND INBOX {5}") == [b"+ OK\r\n"]
        client.send(b"12345\r\n")
        assert client.line().startswith(b"t OK [APPENDUID")
        assert client.answer(b"APPEND INBOX {11}") == b"t NO [TOOBIG] Message too large"
        client.ask(b"APPEND INBOX {10}")
        client.send(b"1234567890\r\n")
        assert client.line().startswith(b"t OK [APPENDUID")
        assert client.answer(b"APPEND INBOX {1}").startswith(b"t NO [OVERQUOTA] Quota exceeded")
        assert client.answer(b"APPEND Missing {1}").startswith(b"t NO [TRYCREATE]")


def test_every_argument_may_be_a_literal(server: ImapServer, inbox: Folder) -> None:
    with wire(server, user="") as client:
        assert client.answer(b"LOGIN {%d+}\r\n%b {5+}\r\nright" % (len(LIN), LIN.encode())).startswith(b"t OK")
        assert client.answer(b"APPEND {5+}\r\nINBOX" + literals([MAIL])).startswith(b"t OK")
        assert client.answer(b"STATUS {5+}\r\ninbox (MESSAGES)").startswith(b"t OK")
    assert raws(inbox) == [MAIL]


def test_parts_of_a_message_can_be_fetched(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(b"Subject: a\r\n folded\r\nX-Other: b\r\nsubject: again\r\n\r\nthe body\r\n")
    with wire(server, folder="INBOX") as client:
        fetched = client.ask(b"FETCH 1 (BODY.PEEK[HEADER.FIELDS (SUBJECT)] BODY.PEEK[TEXT] BODY.PEEK[]<9.3>)")[0]
        header = client.ask(b"FETCH 1 RFC822.HEADER")[0]
        others = client.ask(b"FETCH 1 BODY.PEEK[HEADER.FIELDS.NOT (Subject)]")[0]
        beyond = client.ask(b"FETCH 1 BODY.PEEK[]<999.5>")[0]
    assert b"BODY[HEADER.FIELDS (SUBJECT)] {39}\r\nSubject: a\r\n folded\r\nsubject: again\r\n\r\n" in fetched
    assert b"BODY[TEXT] {10}\r\nthe body\r\n" in fetched
    assert b"BODY[]<9> {3}\r\na\r\n" in fetched
    assert header.endswith(b"subject: again\r\n\r\n)\r\n")
    assert b"{14}\r\nX-Other: b\r\n\r\n" in others
    assert b"BODY[]<999> {0}\r\n)" in beyond


def test_an_unreadable_message_is_listed_and_its_body_is_nil(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    inbox.deliver(b"Subject: bad\r\n\r\n")
    server.behaviour.unreadable = lambda raw: b"bad" in raw
    with wire(server, folder="INBOX") as client:
        first, second, _ = client.ask(b"UID FETCH 1:2 (BODY.PEEK[] RFC822.SIZE)")
        assert first.startswith(b"* 1 FETCH (UID 1 BODY[] {%d}" % len(MAIL))
        assert second == b"* 2 FETCH (UID 2 BODY[] NIL RFC822.SIZE 16)\r\n"


def test_only_fetching_a_body_in_a_folder_open_for_writing_marks_it_read(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    with wire(server) as client:
        client.ask(b"EXAMINE INBOX")
        client.ask(b"FETCH 1 (BODY[] RFC822)")
        client.ask(b"SELECT INBOX")
        client.ask(b"FETCH 1 (BODY.PEEK[] RFC822.HEADER)")
        assert inbox.messages[0].flags == frozenset()
        assert b"FLAGS (\\Seen)" in client.ask(b"FETCH 1 BODY[TEXT]")[0]
    assert inbox.messages[0].flags == {"\\Seen"}


# -- folders


def test_select_and_examine_tell_uids_flags_and_what_can_be_changed(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL, flags=["\\Seen", "$Label1"])
    inbox.deliver(MAIL)
    with wire(server) as client:
        selected = b"".join(client.ask(b"SELECT INBOX"))
        examined = b"".join(client.ask(b"EXAMINE InBoX"))
        assert client.answer(b"STORE 1 +FLAGS (\\Seen)").startswith(b"t NO [READ-ONLY]")
        assert client.answer(b"EXPUNGE").startswith(b"t NO [READ-ONLY]")
    for fact in (
        b"* 2 EXISTS",
        b"[UIDNEXT 3]",
        b"[UIDVALIDITY %d]" % inbox.uidvalidity,
        b"[UNSEEN 2]",
        b"Draft $Label1)",
    ):
        assert fact in selected
    assert b"\\Draft \\*)]" in selected
    assert b"[READ-WRITE]" in selected
    assert b"[PERMANENTFLAGS ()]" in examined
    assert b"[READ-ONLY]" in examined


def test_a_folder_made_again_under_its_old_name_has_another_uidvalidity(server: ImapServer) -> None:
    with library(server) as client:
        client.create("Work")
        before = client.status("Work", "(UIDVALIDITY)")
        client.delete("Work")
        client.create("Work")
        assert client.status("Work", "(UIDVALIDITY)") != before


def test_folder_names_travel_in_modified_utf7(server: ImapServer) -> None:
    name = '项目/2025 "预算" & R\\D/😀'
    with wire(server) as client:
        assert client.answer(b"CREATE {%d+}\r\n%b" % (len(encode_name(name)), encode_name(name))).startswith(b"t OK")
        listed = b"".join(client.ask(b'LIST "" *'))
        assert client.answer(b"CREATE &bad").startswith(b"t NO [CANNOT]")
        assert client.answer(b"CREATE a&AGE-").startswith(b"t NO [CANNOT]"), "an ASCII letter has one spelling only"
    assert [folder.name for folder in server.account(LIN).folders] == ["INBOX", "项目", '项目/2025 "预算" & R\\D', name]
    assert b'(\\HasChildren) "/" "&mHl27g-/2025 \\"&mIR7lw-\\" &- R\\\\D"' in listed
    assert decode_name(encode_name(name)) == name


def test_patterns_stop_at_the_separator_or_do_not(server: ImapServer) -> None:
    for name in ("a/b/c", "a/x"):
        server.account(LIN).create(name, noselect_parents=True)
    with wire(server) as client:
        names = [line.split()[-1] for line in client.ask(b'LIST "" %')[:-1]]
        below = [line.split()[-1] for line in client.ask(b'LIST "a/" %')[:-1]]
        every = client.ask(b'LIST "" (INBOX a*)')[:-1]
        assert client.ask(b'LIST "" ""')[0] == b'* LIST (\\Noselect) "/" ""\r\n'
        assert client.answer(b"SELECT a").startswith(b"t NO")
    assert names == [b'"INBOX"', b'"a"']
    assert below == [b'"a/b"', b'"a/x"']
    assert len(every) == 5
    assert every[1] == b'* LIST (\\Noselect \\HasChildren) "/" "a"\r\n'


def test_list_tells_special_use_subscription_and_status_in_one_answer(server: ImapServer) -> None:
    sent = server.account(LIN).create("已发送", "\\Sent")
    sent.deliver(MAIL)
    with wire(server) as client:
        client.ask(b"SUBSCRIBE &XfJT0ZAB-")
        lines = client.ask(b'LIST "" * RETURN (SUBSCRIBED SPECIAL-USE STATUS (MESSAGES UIDNEXT HIGHESTMODSEQ))')
        assert client.ask(b'LIST (SPECIAL-USE) "" *')[:-1] == client.ask(b'LIST "" &XfJT0ZAB-')[:-1]
        assert client.ask(b'LSUB "" *')[0] == b'* LSUB (\\HasNoChildren \\Sent) "/" "&XfJT0ZAB-"\r\n'
    assert b'* LIST (\\HasNoChildren \\Sent \\Subscribed) "/" "&XfJT0ZAB-"\r\n' in lines
    assert b'* STATUS "&XfJT0ZAB-" (MESSAGES 1 UIDNEXT 2 HIGHESTMODSEQ 2)\r\n' in lines
    assert b'* STATUS "INBOX" (MESSAGES 0 UIDNEXT 1 HIGHESTMODSEQ 1)\r\n' in lines


def test_another_separator_and_a_namespace_prefix(server: ImapServer) -> None:
    server.behaviour = Behaviour(separator=".", personal_prefix="INBOX.")
    server.add_account("wu@old.example", "right")
    with wire(server, "wu@old.example") as client:
        assert client.ask(b"NAMESPACE")[0] == b'* NAMESPACE (("INBOX." ".")) NIL NIL\r\n'
        assert client.answer(b"CREATE Work").startswith(b"t NO [CANNOT]")
        assert client.answer(b"CREATE INBOX.Work.2024").startswith(b"t OK")
        assert b'"." "INBOX.Work"' in b"".join(client.ask(b'LIST "" INBOX.%'))


def test_folders_are_renamed_with_their_children_and_kept_as_a_name_when_only_they_go(server: ImapServer) -> None:
    account = server.account(LIN)
    account.create("a/b").deliver(MAIL)
    with library(server) as client:
        client.rename("a", "z")
        assert raws(account.folder("z/b")) == [MAIL]
        client.delete("z")
        assert not account.folder("z").selectable
        assert client.delete("z")[0] == "NO"
        assert client.delete("INBOX")[0] == "NO"
        assert client.rename("INBOX", "old")[0] == "OK"
    assert [folder.name for folder in account.folders] == ["INBOX", "old", "z", "z/b"]


def test_an_old_server_shows_a_folder_name_in_eight_bits(server: ImapServer) -> None:
    server.account(LIN).create("旧邮件").raw_name = "旧邮件".encode("gbk")
    with wire(server) as client:
        assert b'"' + "旧邮件".encode("gbk") + b'"' in b"".join(client.ask(b'LIST "" *'))
        assert client.answer(b'EXAMINE "' + "旧邮件".encode("gbk") + b'"').startswith(b"t OK")


# -- changes within a folder


def test_flags_are_set_added_and_taken_away(server: ImapServer, inbox: Folder) -> None:
    for _ in range(3):
        inbox.deliver(MAIL)
    with wire(server, folder="INBOX") as client:
        assert client.ask(b"STORE 1:2 FLAGS (\\Flagged $Label1)")[0] == b"* 1 FETCH (FLAGS ($Label1 \\Flagged))\r\n"
        assert client.ask(b"UID STORE 2 -FLAGS \\Flagged")[0] == b"* 2 FETCH (UID 2 FLAGS ($Label1))\r\n"
        assert len(client.ask(b"STORE * +FLAGS.SILENT (\\Seen)")) == 1
        assert client.answer(b"STORE 1 +FLAGS (\\Recent)").startswith(b"t BAD")
    assert [sorted(message.flags) for message in inbox.messages] == [["$Label1", "\\Flagged"], ["$Label1"], ["\\Seen"]]


def test_only_deleted_messages_are_expunged_and_by_uid_only_those_named(server: ImapServer, inbox: Folder) -> None:
    for _ in range(5):
        inbox.deliver(MAIL, flags=["\\Deleted"])
    inbox.set_flags(2, [])
    with wire(server, folder="INBOX") as client:
        assert client.ask(b"UID EXPUNGE 1:3")[:-1] == [b"* 3 EXPUNGE\r\n", b"* 1 EXPUNGE\r\n"]
        assert inbox.uids == [2, 4, 5]
        client.ask(b"UNSELECT")
        assert inbox.uids == [2, 4, 5]
        client.ask(b"SELECT INBOX")
        client.ask(b"CLOSE")
    assert inbox.uids == [2]
    assert inbox.uidnext == 6


def test_messages_are_copied_and_moved(server: ImapServer, inbox: Folder) -> None:
    arrived = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(3):
        inbox.deliver(MAIL + b"%d" % number, arrived, ["\\Flagged"])
    kept = server.account(LIN).create("Kept")
    with wire(server, folder="INBOX") as client:
        assert client.answer(b"UID COPY 1,3 Kept") == b"t OK [COPYUID %d 1,3 1:2] Copied" % kept.uidvalidity
        assert client.answer(b"COPY 1 Missing").startswith(b"t NO [TRYCREATE]")
        moved = client.ask(b"MOVE 2 Kept")
    assert moved[:-1] == [b"* OK [COPYUID %d 2 3] Moved\r\n" % kept.uidvalidity, b"* 2 EXPUNGE\r\n"]
    assert inbox.uids == [1, 3]
    assert [(message.internal_date, message.flags) for message in kept.messages] == [
        (arrived, frozenset({"\\Flagged"}))
    ] * 3


def test_message_numbers_change_only_where_the_client_can_follow(server: ImapServer, inbox: Folder) -> None:
    for number in range(3):
        inbox.deliver(MAIL + b"%d" % number)
    with wire(server, folder="INBOX") as client:
        inbox.expunge([1])
        inbox.deliver(MAIL)
        assert client.ask(b"FETCH 1:3 UID")[:-1] == [b"* 2 FETCH (UID 2)\r\n", b"* 3 FETCH (UID 3)\r\n"]
        assert client.ask(b"NOOP")[:-1] == [b"* 1 EXPUNGE\r\n", b"* 3 EXISTS\r\n"]
        assert client.ask(b"FETCH * UID")[0] == b"* 3 FETCH (UID 4)\r\n"


def test_a_folder_numbered_anew_in_mid_session_ends_it(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    inbox.deliver(MAIL)
    inbox.expunge([1])
    with wire(server, folder="INBOX") as client:
        inbox.change_uidvalidity()
        client.send(b"t FETCH 1 UID\r\n")
        assert client.rest().startswith(b"* BYE")
    assert inbox.uids == [1]


def test_search_finds_by_flag_date_number_size_and_header(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL, datetime(2020, 5, 1, tzinfo=UTC), ["\\Seen", "$Label1"])
    inbox.deliver(b"Message-ID: <1@x>\r\nDate: 3 Mar 2021 10:00:00 +0800\r\n\r\nhi", datetime(2021, 5, 1, tzinfo=UTC))
    inbox.deliver(MAIL * 20, datetime(2022, 5, 1, tzinfo=UTC), ["\\Deleted"])
    found = {
        "ALL": "1 2 3",
        "UNSEEN UNDELETED": "2",
        "SINCE 1-May-2021": "2 3",
        "BEFORE 1-May-2021": "1",
        "ON 01-May-2020": "1",
        "SENTSINCE 1-Jan-2021": "2",
        "UID 2:*": "2 3",
        "1,3": "1 3",
        "HEADER Message-ID <1@X>": "2",
        "NOT KEYWORD $label1": "2 3",
        "OR SEEN (DELETED LARGER 100)": "1 3",
        "SUBJECT nothing": "",
        "CHARSET UTF-8 BODY hi": "2",
    }
    with wire(server, folder="INBOX") as client:
        answers = {
            criteria: client.ask(b"UID SEARCH " + criteria.encode())[0]
            .decode()
            .strip()
            .removeprefix("* SEARCH")
            .strip()
            for criteria in found
        }
        assert client.answer(b"SEARCH UNKNOWN").startswith(b"t BAD")
        server.behaviour.search = "ignored"
        assert client.ask(b"SEARCH SUBJECT nothing")[0] == b"* SEARCH 1 2 3\r\n"
        server.behaviour.search = "refused"
        assert client.answer(b"SEARCH ALL").startswith(b"t BAD")
    assert answers == found


def test_changes_are_found_by_their_modification_sequence(server: ImapServer, inbox: Folder) -> None:
    for _ in range(3):
        inbox.deliver(MAIL)
    with wire(server) as client:
        before = re.search(rb"HIGHESTMODSEQ (\d+)", b"".join(client.ask(b"SELECT INBOX (CONDSTORE)")))
        assert before
        inbox.set_flags(2, ["\\Seen"])
        changed = client.ask(b"UID FETCH 1:* (FLAGS) (CHANGEDSINCE %b)" % before[1])
        assert changed[0] == b"* 2 FETCH (UID 2 FLAGS (\\Seen) MODSEQ (%d))\r\n" % inbox.highest_modseq
        assert b"HIGHESTMODSEQ %d" % inbox.highest_modseq in client.ask(b"STATUS INBOX (HIGHESTMODSEQ)")[0]
        conflict = client.answer(b"UID STORE 1:2 (UNCHANGEDSINCE %b) +FLAGS.SILENT (\\Flagged)" % before[1])
        assert conflict.startswith(b"t OK [MODIFIED 2]")
        assert client.ask(b"SEARCH MODSEQ %d" % inbox.highest_modseq)[0].endswith(
            b"(MODSEQ %d)\r\n" % inbox.highest_modseq
        )
    assert inbox.messages[0].flags == {"\\Flagged"}
    assert inbox.messages[1].flags == {"\\Seen"}


def test_an_idle_client_hears_of_new_mail(server: ImapServer, inbox: Folder) -> None:
    with wire(server, folder="INBOX") as client:
        client.ask(b"IDLE")
        inbox.deliver(MAIL)
        assert client.line() == b"* 1 EXISTS\r\n"
        client.send(b"DONE\r\n")
        assert client.line().startswith(b"t OK")


# -- logging in


def test_logins_that_are_right_and_wrong(server: ImapServer) -> None:
    server.behaviour.masters = {"admin": "master"}
    server.behaviour.login_refusals = {"chen@old.example": "[CONTACTADMIN] IMAP is switched off"}

    def plain(*words: str) -> bytes:
        return base64.b64encode("\0".join(words).encode())

    with wire(server, user="") as client:
        refused = client.answer(b"LOGIN %b wrong" % LIN.encode())
        assert refused == b"t NO [AUTHENTICATIONFAILED] Authentication failed."
        assert client.answer(b'LOGIN chen@old.example "right"') == b"t NO [CONTACTADMIN] IMAP is switched off"
        assert client.answer(b"AUTHENTICATE PLAIN " + plain(LIN, "admin", "wrong")).startswith(b"t NO")
        assert client.answer(b"AUTHENTICATE PLAIN " + plain("", LIN)).startswith(b"t BAD")
        assert client.ask(b"AUTHENTICATE PLAIN") == [b"+ \r\n"]
        client.send(b"*\r\n")
        assert client.line().startswith(b"t BAD")
        assert client.answer(b"SELECT INBOX").startswith(b"t BAD")
    for response in (plain("", LIN, "right"), plain(LIN, "admin", "master")):
        with wire(server, user="") as client:
            assert client.answer(b"AUTHENTICATE PLAIN " + response).startswith(b"t OK")
    with wire(server, user="") as client:
        assert client.answer(b'LOGIN "%b*admin" master' % LIN.encode()).startswith(b"t OK")
    with imaplib.IMAP4("127.0.0.1", server.port) as library_client:
        assert library_client.authenticate("PLAIN", lambda _: b"\0%b\0right" % LIN.encode())[0] == "OK"


def test_a_master_opens_the_mailboxes_that_are_his(server: ImapServer) -> None:
    server.behaviour.masters = {"admin": "master"}
    server.behaviour.masters_of = {"admin": frozenset({LIN})}
    server.behaviour.master_login = "(?P<domain>[^/]+)/(?P<admin>[^/]+)/(?P<local>.+)"
    local, _, domain = LIN.partition("@")
    with wire(server, user="") as client:
        assert client.answer(b"LOGIN %b/admin/chen master" % domain.encode()).startswith(b"t NO [AUTHORIZATIONFAILED]")
        assert client.answer(b"LOGIN %b/admin/%b wrong" % (domain.encode(), local.encode())).startswith(
            b"t NO [AUTHENTICATIONFAILED]"
        )
        assert client.answer(b"LOGIN %b/admin/%b master" % (domain.encode(), local.encode())).startswith(b"t OK")


@pytest.mark.parametrize(
    ("mechanism", "form", "answer", "told"),
    [
        ("XOAUTH2", "user={user}\x01auth=Bearer {token}\x01\x01", b"", "401"),
        ("OAUTHBEARER", "n,a={user},\x01host=h\x01port=143\x01auth=Bearer {token}\x01\x01", b"AQ==", "invalid_token"),
    ],
)
def test_a_token_logs_in_where_the_server_offers_it(
    server: ImapServer, mechanism: str, form: str, answer: bytes, told: str
) -> None:
    server.behaviour.capabilities |= {f"AUTH={mechanism}"}
    good = server.behaviour.tokens.issue(LIN, commands=2)
    others = server.behaviour.tokens.issue("chen@old.example")

    def command(token: str) -> bytes:
        said = form.format(user=LIN, token=token).encode()
        return b"AUTHENTICATE " + mechanism.encode() + b" " + base64.b64encode(said)

    with wire(server, user="") as client:
        for token in ("unknown", others):
            [challenge] = client.ask(command(token))
            assert json.loads(base64.b64decode(challenge[2:]))["status"] == told
            client.send(answer + b"\r\n")
            assert client.line().startswith(b"t NO [AUTHENTICATIONFAILED]")
        client.ask(command("unknown"))
        client.send(b"something else\r\n")
        assert client.line().startswith(b"t BAD")
        assert client.answer(command(good)).startswith(b"t OK")
        assert client.answer(b"SELECT INBOX").startswith(b"t OK")
        assert client.answer(b"NOOP").startswith(b"t OK")
        client.send(b"t NOOP\r\n")
        assert client.line() == b"* BYE Session invalidated - AccessTokenExpired\r\n"
        assert client.line() == b""
    with wire(server, user="") as client:
        assert client.ask(command(good))[0].startswith(b"+ ")


def test_connections_of_one_account_are_limited_and_freed_by_logging_out(server: ImapServer) -> None:
    server.behaviour.max_connections = 1
    with wire(server) as first, wire(server, "chen@old.example"), wire(server, user="") as second:
        assert second.answer(b"LOGIN %b right" % LIN.encode()) == b"t NO [LIMIT] Too many connections"
        assert first.answer(b"LOGOUT").startswith(b"t OK")
        assert second.answer(b"LOGIN %b right" % LIN.encode()).startswith(b"t OK")


def test_no_folder_opens_before_the_client_says_who_it_is(server: ImapServer) -> None:
    server.behaviour.id_before_select = True
    with wire(server) as client:
        unsafe = b"t NO EXAMINE Unsafe Login. Please contact kefu@188.com for help"
        assert client.answer(b"EXAMINE INBOX") == unsafe
        assert client.answer(b'ID ("name" "banjia" "version" "1")').startswith(b"t OK")
        assert client.answer(b"EXAMINE INBOX").startswith(b"t OK")


# -- limits and failures


def test_a_full_mailbox_refuses_and_its_quota_can_be_read(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(b"x" * 1500)
    server.behaviour.quotas = {LIN: 2048}
    with library(server) as client:
        status, answer = client.append("INBOX", "", "", b"y" * 1000)
        assert (status, answer) == ("NO", [b"[OVERQUOTA] Quota exceeded (mailbox for user is full)"])
        assert client.getquotaroot("INBOX") == ("OK", [[b'"INBOX" "User quota"'], [b'"User quota" (STORAGE 2 2)']])
        inbox.expunge(inbox.uids)
        assert client.append("INBOX", "", "", b"y" * 1000)[0] == "OK"


def test_capabilities_that_are_switched_off_are_not_there(server: ImapServer) -> None:
    server.behaviour.capabilities = frozenset({"IMAP4rev1", "AUTH=PLAIN"})
    server.account(LIN).create("Sent", "\\Sent")
    with wire(server) as client:
        assert client.greeting.startswith(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ")
        assert client.ask(b"CAPABILITY")[0] == b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n"
        for command in (b"NAMESPACE", b"ID NIL", b"GETQUOTAROOT INBOX", b"IDLE", b"ENABLE CONDSTORE", b"UNSELECT"):
            assert client.answer(command).startswith(b"t BAD"), command
        assert client.answer(b'LIST "" * RETURN (STATUS (MESSAGES))').startswith(b"t BAD")
        assert client.answer(b"STATUS INBOX (HIGHESTMODSEQ)").startswith(b"t BAD")
        assert b'* LIST () "/" "Sent"\r\n' in client.ask(b'LIST "" *')
        assert b"HIGHESTMODSEQ" not in b"".join(client.ask(b"SELECT INBOX"))
        assert client.answer(b"UID EXPUNGE 1").startswith(b"t BAD")
        client.ask(b"APPEND INBOX {3}")
        client.send(b"abc {3}\r\n")
        assert client.line() == b"+ OK\r\n"
        client.send(b"def\r\n")
        assert client.line().startswith(b"t BAD")
        client.ask(b"APPEND INBOX {3}")
        client.send(b"abc\r\n")
        assert client.line() == b"* 1 EXISTS\r\n"
        assert client.line() == b"t OK Stored\r\n"
        client.send(b"t APPEND INBOX" + literals([MAIL]) + b"\r\n")
        assert client.rest().startswith(b"t BAD")


def test_the_limit_for_messages_is_announced_when_asked(server: ImapServer) -> None:
    server.behaviour.capabilities = CAPABILITIES | {"APPENDLIMIT"}
    server.behaviour.max_message_bytes = 5000
    with wire(server) as client:
        assert b" APPENDLIMIT=5000" in client.ask(b"CAPABILITY")[0]
        assert client.ask(b"STATUS INBOX (APPENDLIMIT)")[0] == b'* STATUS "INBOX" (APPENDLIMIT 5000)\r\n'


def test_keywords_can_be_refused(server: ImapServer) -> None:
    server.behaviour.keywords_allowed = False
    with wire(server) as client:
        assert b"\\Draft)] Permanent" in b"".join(client.ask(b"SELECT INBOX"))
        assert client.answer(b"APPEND INBOX" + literals([MAIL], flags="($Label1)")).startswith(b"t NO [CANNOT]")
        assert client.answer(b"APPEND INBOX" + literals([MAIL], flags="(\\Flagged)")).startswith(b"t OK")
        assert client.answer(b"STORE 1 +FLAGS ($Label1)").startswith(b"t NO [CANNOT]")


def test_a_careless_server_rewrites_messages_and_drops_dates_flags_and_uids(server: ImapServer, inbox: Folder) -> None:
    server.behaviour.rewrite = lambda raw: b"Received: here\r\n" + raw
    server.behaviour.ignore_append_date = True
    server.behaviour.ignore_append_flags = True
    server.behaviour.refuse_message = lambda raw: "Message contains NUL characters" if b"\0" in raw else None
    with wire(server) as client:
        append = b"APPEND INBOX" + literals([MAIL], '"02-Mar-1999 10:00:00 +0800"', "(\\Seen)")
        server.behaviour.appenduid = "absent"
        assert client.answer(append) == b"t OK Stored"
        server.behaviour.appenduid = "lying"
        assert client.answer(append) == b"t OK [APPENDUID %d 3] Stored" % inbox.uidvalidity
        assert client.answer(b"APPEND INBOX" + literals([b"\0"])) == b"t NO Message contains NUL characters"
    assert raws(inbox) == [b"Received: here\r\n" + MAIL] * 2
    assert inbox.messages[0].internal_date.year >= 2026
    assert inbox.messages[0].flags == frozenset()


def test_a_receive_range_hides_older_mail(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL, datetime(2020, 1, 1, tzinfo=UTC))
    inbox.deliver(MAIL, datetime(2026, 1, 1, tzinfo=UTC))
    server.behaviour.hidden_before = datetime(2025, 12, 1, tzinfo=UTC)
    with wire(server) as client:
        assert b"MESSAGES 1" in client.ask(b"STATUS INBOX (MESSAGES)")[0]
        assert b"* 1 EXISTS\r\n" in client.ask(b"SELECT INBOX")
        assert client.ask(b"UID FETCH 1:* UID")[:-1] == [b"* 1 FETCH (UID 2)\r\n"]


def test_a_throttled_client_is_told_how_long_to_wait(server: ImapServer) -> None:
    server.behaviour.throttle_next = 2
    with wire(server) as client:
        told = b"t NO [THROTTLED] Request is throttled. Suggested Backoff Time: 2000 milliseconds"
        assert [client.answer(b"NOOP") for _ in range(2)] == [told, told]
        assert client.answer(b"NOOP").startswith(b"t OK")


def test_a_fault_strikes_the_nth_command_that_fits_and_then_no_more(server: ImapServer, inbox: Folder) -> None:
    server.behaviour.faults = [
        Fault("APPEND", Action.NO, nth=2, text="[INUSE] Mailbox is locked"),
        Fault("APPEND", Action.BAD, account="nobody@old.example"),
        Fault("STATUS", Action.BAD, text="no such thing", times=None, containing="Trash"),
    ]
    with wire(server) as client:
        answers = [client.answer(b"APPEND INBOX" + literals([MAIL])) for _ in range(3)]
        assert client.answer(b"STATUS INBOX (MESSAGES)").startswith(b"t OK")
        for _ in range(2):
            assert client.answer(b"STATUS Trash (MESSAGES)") == b"t BAD no such thing"
    assert [answer[:4] for answer in answers] == [b"t OK", b"t NO", b"t OK"]
    assert answers[1] == b"t NO [INUSE] Mailbox is locked"
    assert len(inbox.messages) == 2


@pytest.mark.parametrize(
    ("action", "told", "stored"),
    [(Action.DROP_BEFORE, b"", 0), (Action.DROP_AFTER, b"", 1), (Action.BYE, b"* BYE Failed on purpose\r\n", 0)],
)
def test_a_connection_lost_at_an_append_leaves_it_done_or_not_done(
    server: ImapServer, inbox: Folder, action: Action, told: bytes, stored: int
) -> None:
    server.behaviour.faults = [Fault("APPEND", action)]
    with wire(server) as client:
        client.send(b"t APPEND INBOX" + literals([MAIL]) + b"\r\n")
        assert client.rest() == told
    assert len(inbox.messages) == stored
    with wire(server) as client:
        assert client.answer(b"APPEND INBOX" + literals([MAIL])).startswith(b"t OK")


def test_a_fetch_is_cut_within_a_message(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    inbox.deliver(MAIL)
    server.behaviour.faults = [Fault("FETCH", Action.CUT, cut_at=7, cut_message=2)]
    with wire(server, folder="INBOX") as client:
        client.send(b"t UID FETCH 1:* (BODY.PEEK[])\r\n")
        whole, cut = client.rest().split(b"* 2 FETCH")
    assert whole == b"* 1 FETCH (UID 1 BODY[] {%d}\r\n%b)\r\n" % (len(MAIL), MAIL)
    assert cut == b" (UID 2 BODY[] {%d}\r\nSubject" % len(MAIL)


def test_a_login_or_the_greeting_can_fail_too(server: ImapServer) -> None:
    server.behaviour.faults = [
        Fault("CONNECT", Action.BYE, text="Too busy"),
        Fault("LOGIN", Action.DROP_BEFORE, account=LIN),
    ]
    with wire(server, user="") as client:
        assert client.greeting == b"* BYE Too busy\r\n"
    with wire(server, "chen@old.example"), wire(server, user="") as client:
        client.send(b"t LOGIN %b right\r\n" % LIN.encode())
        assert client.rest() == b""


def test_a_server_that_hangs_can_still_be_stopped() -> None:
    server = ImapServer("test", {LIN: "right"}, Behaviour(faults=[Fault("NOOP", Action.HANG)]))
    server.start()
    with wire(server) as client:
        arrived = threading.Event()
        server.behaviour.before_command = lambda entry: arrived.set()
        client.send(b"t NOOP\r\n")
        assert arrived.wait(DEADLINE)
        server.stop()
        assert client.rest() == b""


def test_a_folder_can_change_while_a_command_is_on_its_way(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    with wire(server, folder="INBOX") as client:
        server.behaviour.before_command = lambda entry: inbox.expunge([1]).clear()
        assert client.ask(b"UID FETCH 1 (BODY.PEEK[])") == [b"* 1 EXPUNGE\r\n", b"t OK That is all\r\n"]


def test_a_mistake_in_the_server_itself_comes_out_when_it_stops() -> None:
    def fail(entry: Received) -> None:
        raise IndexError

    server = ImapServer("test", {LIN: "right"})
    server.start()
    with wire(server, user="") as client:
        server.behaviour.before_command = fail
        client.send(b"t NOOP\r\n")
        assert client.rest() == b""
    with pytest.raises(IndexError):
        server.stop()


def test_the_log_shows_every_command_without_passwords_and_without_mail(server: ImapServer) -> None:
    with wire(server, user="") as client:
        client.ask(b"LOGIN %b right" % LIN.encode())
        client.ask(b"APPEND INBOX" + literals([MAIL], flags="(\\Seen)"))
        client.ask(b"EXAMINE INBOX")
        client.ask(b"UID FETCH 1:* (BODY.PEEK[])")
        client.ask(b"NONSENSE")
    assert server.log == [
        (LIN, "LOGIN", ""),
        (LIN, "APPEND", f"INBOX (\\Seen) {{{len(MAIL)}}}"),
        (LIN, "EXAMINE", "INBOX"),
        (LIN, "UID FETCH", "1:* (BODY.PEEK[])"),
        (LIN, "NONSENSE", ""),
    ]


@pytest.mark.parametrize(
    "line",
    [b"", b"t", b"* OK", b"t FETCH", b"t UID NOOP", b't LOGIN "a', b"t LOGIN a b c", b"\xff\xfe x", b"t LIST {1"],
)
def test_nonsense_is_answered_with_bad_and_the_session_goes_on(server: ImapServer, line: bytes) -> None:
    with wire(server, user="") as client:
        client.send(line + b"\r\n")
        assert re.match(rb"(t|\*) BAD", client.line())
        assert client.answer(b"NOOP").startswith(b"t OK")


def test_an_endless_line_ends_the_connection(server: ImapServer) -> None:
    with wire(server) as client:
        client.send(b"t NOOP " + b"x" * 65_536)
        assert client.rest() in (b"* BYE Line too long\r\n", b"")


def test_tls_wraps_every_connection(tmp_path: Path) -> None:
    certificate, trusted = self_signed(tmp_path)
    with ImapServer("test", {LIN: "right"}, tls=certificate) as server:
        with imaplib.IMAP4_SSL("localhost", server.port, ssl_context=trusted) as client:
            assert client.login(LIN, "right")[0] == "OK"
            assert client.append("INBOX", "", "", b"x" * 500_000)[0] == "OK"
        with pytest.raises(ssl.SSLCertVerificationError):
            imaplib.IMAP4_SSL("localhost", server.port, ssl_context=ssl.create_default_context())


def test_a_server_may_lie_about_the_size_of_a_message(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    server.behaviour.told_size = lambda raw: len(raw) + 7
    with wire(server, folder="INBOX") as client:
        assert client.ask(b"FETCH 1 RFC822.SIZE")[0] == b"* 1 FETCH (RFC822.SIZE %d)\r\n" % (len(MAIL) + 7)
        assert b"{%d}" % len(MAIL) in client.ask(b"FETCH 1 BODY.PEEK[]")[0]


def test_no_connection_survives_a_poison_message(server: ImapServer, inbox: Folder) -> None:
    inbox.deliver(MAIL)
    inbox.deliver(b"Subject: poison\r\n\r\n")
    server.behaviour.poison = lambda raw: b"poison" in raw
    with wire(server, folder="INBOX") as client:
        assert client.answer(b"FETCH 1:2 RFC822.SIZE").startswith(b"t OK")
        client.send(b"t FETCH 1:2 BODY.PEEK[]\r\n")
        assert b"poison" not in client.rest()
    with wire(server) as client:
        client.send(b"t APPEND INBOX" + literals([MAIL, b"Subject: poison\r\n\r\n"]) + b"\r\n")
        assert client.rest() == b""
    assert len(raws(inbox)) == 2


@pytest.mark.parametrize("looks", [1, 3])
def test_a_lost_session_stores_what_came_when_others_have_looked_so_often(
    server: ImapServer, inbox: Folder, looks: int
) -> None:
    server.behaviour.faults.append(Fault("APPEND", Action.STORE_LATE, nth=2, looks=looks))
    other = MAIL + b"other\r\n"
    with wire(server) as client:
        assert client.answer(b"APPEND INBOX" + literals([MAIL])).startswith(b"t OK")
        client.send(b"u APPEND INBOX" + literals([other]) + b"\r\nv APPEND INBOX" + literals([MAIL]) + b"\r\n")
        assert client.rest() == b""
    with wire(server, folder="INBOX") as client:
        for _ in range(looks - 1):
            client.answer(b"NOOP")
            assert raws(inbox) == [MAIL]
        client.answer(b"NOOP")
        assert raws(inbox) == [MAIL, other, MAIL]
        client.answer(b"NOOP")
    assert len(raws(inbox)) == 3


def test_a_lost_session_may_store_what_came_when_it_is_told_to(server: ImapServer, inbox: Folder) -> None:
    server.behaviour.faults.append(Fault("APPEND", Action.STORE_LATE))
    with wire(server) as client:
        client.send(b"u APPEND INBOX" + literals([MAIL]) + b"\r\n")
        assert client.rest() == b""
    with wire(server, folder="INBOX") as client:
        client.answer(b"NOOP")
        assert raws(inbox) == []
        server.store_late()
        assert raws(inbox) == [MAIL]


def test_what_a_client_left_behind_is_carried_out_before_it_is_let_in_again(server: ImapServer, inbox: Folder) -> None:
    """Others are let in meanwhile."""
    held, go_on = threading.Event(), threading.Event()

    def hold(entry: Received) -> None:
        if entry.verb == "APPEND":
            held.set()
            assert go_on.wait(DEADLINE)

    server.behaviour.before_command = hold
    with wire(server) as client:
        client.send(b"t APPEND INBOX" + literals([MAIL]) + b"\r\nu APPEND INBOX" + literals([MAIL]) + b"\r\n")
        assert held.wait(DEADLINE)
    with wire(server, "chen@old.example"), wire(server, user="") as client:
        client.send(b"t LOGIN %b right\r\n" % LIN.encode())
        go_on.set()
        assert client.line().startswith(b"t OK")
        assert raws(inbox) == [MAIL] * 2
    server.settle()
    assert not server.sessions


def self_signed(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the server's and the client's context for a new certificate of localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=pem)
