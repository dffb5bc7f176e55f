"""What servers were seen to write that no grammar allows, or that it allows and few write: all of it is understood."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from imapcopy import responses
from imapcopy.account import Account
from imapcopy.errors import MemberError, MigrationError, ServerError, Side
from imapcopy.folders import Folder
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus, Message
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import Outgoing, TargetConnection
from imapcopy.wire import Response
from tests.imapcopy.scripted import CAPABILITY, Played, Scripted, body, done, line, opened
from tests.imapcopy.world import PASSWORD

INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())
DATE = b'"01-May-2024 10:00:00 +0000"'


def listener() -> tuple[list[tuple[Side, str]], Any]:
    heard: list[tuple[Side, str]] = []
    return heard, lambda side, text: heard.append((side, text))


def listening(account: Account) -> tuple[Account, list[tuple[Side, str]]]:
    heard, hear = listener()
    return replace(account, heard=hear), heard


# What is for people


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"* OK [ALERT] Your mailbox moves on Sunday\r\n", "OK [ALERT] Your mailbox moves on Sunday"),
        (b"* ok [alert] spelled small\r\n", "ok [alert] spelled small"),
        (b"* NO Mailbox is almost full\r\n", "NO Mailbox is almost full"),
        (b"* BAD Disk checksum failed\r\n", "BAD Disk checksum failed"),
        (b"* NO\r\n", "NO"),
        (b"*  NO two blanks\r\n", "NO two blanks"),
    ],
)
def test_a_warning_during_a_command_that_succeeds_is_heard_and_no_failure(said: bytes, heard: str) -> None:
    answers: dict[str, Any] = {"FETCH": said + line(1)}
    with Scripted(answers) as server:
        account, notices = listening(server.account)
        with SourceConnection(account) as connection:
            connection.examine(INBOX)
            assert [e.uid for e in connection.scan()] == [1]
        assert notices == [("source", heard)]


@pytest.mark.parametrize("capability", [b"IMAP4rev1", b"IMAP4rev1 AUTH=PLAIN SASL-IR"])
def test_an_alert_is_heard_in_the_greeting_at_the_login_and_with_an_ok(capability: bytes) -> None:
    alert: Any = lambda rest: b"TAG OK [ALERT] Over quota\r\n"  # noqa: E731
    answers = {
        "CAPABILITY": b"* CAPABILITY " + capability + b"\r\n",
        "LOGIN": alert,
        "AUTHENTICATE": alert,
        "NOOP": alert,
    }
    with Scripted(answers, greeting=b"* OK [ALERT] We move\r\n") as server:
        account, notices = listening(server.account)
        with SourceConnection(account) as connection:
            assert [text for _, text in notices] == ["OK [ALERT] We move", "OK [ALERT] Over quota"]
            connection.refresh()
        assert [text for _, text in notices][2:] == ["OK [ALERT] Over quota"]


@pytest.mark.parametrize("said", [b"* OK [UIDNEXT 5] x\r\n", b"* OK still here\r\n", b"* NOOP\r\n", b"* 3 EXISTS\r\n"])
def test_what_is_for_programs_is_not_shown_to_people(said: bytes) -> None:
    with Scripted({"FETCH": said + line(1)}) as server:
        account, notices = listening(server.account)
        with SourceConnection(account) as connection:
            connection.examine(INBOX)
            connection.scan()
        assert notices == []


def test_no_notice_shows_the_password() -> None:
    with Scripted({"FETCH": b"* NO %s\r\n" % PASSWORD.encode()}) as server:
        account, notices = listening(server.account)
        with SourceConnection(account) as connection:
            connection.examine(INBOX)
            connection.scan()
        assert notices == [("source", "NO ***")]


def test_a_folder_whose_listing_cannot_be_read_is_heard_of() -> None:
    lines = b'* LIST () "/" INBOX\r\n* LIST () "/" "unfinished\r\n* LIST )(\r\n'
    with Scripted({"LIST": lines}) as server:
        account, notices = listening(server.account)
        with SourceConnection(account) as connection:
            assert [folder.name for folder in connection.listing().folders] == ["INBOX"]
        assert [text for _, text in notices] == ['LIST () "/" "unfinished', "LIST )("]


# Listing and counting

ITEMS = b"(MESSAGES 3 UIDNEXT 9 UIDVALIDITY 7)"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (b'* LIST () "/" A', "A"),
        (b'*  list  ()  "/"  A  ', "A"),
        (b"* LIST () / A", "A"),
        (b'* LIST () "/" {1}\r\nA', "A"),
        (b'* Xlist (\\HasNoChildren) "/" "A"', "A"),
        (b'* LIST () "/" Sent Items', "Sent Items"),
        (b'* LIST () "/" Tab\there', "Tab\there"),
        (b'* LIST () "/" Bell\x07 rings', "Bell\x07 rings"),
        (b'* LIST () "/" it"s', 'it"s'),
        (b'* LIST () "/" "A" ("CHILDINFO" ("SUBSCRIBED"))', "A"),
        (b'* LIST () "/" A ("CHILDINFO" ("SUBSCRIBED"))', "A"),
        (b'* LIST () "/" inbox', "INBOX"),
        (b'* LIST (\\NoSelect \\hasChildren) "\\\\" A', "A"),
    ],
)
def test_a_folder_is_listed_whichever_way_its_name_is_written(told: bytes, name: str) -> None:
    with Scripted({"LIST": told + b"\r\n"}) as server, SourceConnection(server.account) as connection:
        assert [folder.name for folder in connection.listing().folders] == [name]


@pytest.mark.parametrize("separator", [b'"/"', b'"\\\\"', b'"\\""', b"."])
def test_the_separator_is_the_same_for_a_quoted_and_a_bare_name(separator: bytes) -> None:
    quoted, bare = (Response([b"LIST () " + separator + b" " + name]) for name in (b'"a b"', b"a b"))
    [first], [second] = responses.listed_folders([quoted]), responses.listed_folders([bare])
    if separator == b".":
        assert first.separator == "."
    else:
        assert first == second


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (b"* STATUS INBOX " + ITEMS, FolderStatus(3, 9, 7)),
        (b"* status {5}\r\ninbox " + ITEMS.lower(), FolderStatus(3, 9, 7)),
        (b"*  STATUS  INBOX  (MESSAGES  3  UIDNEXT  9  UIDVALIDITY  7 )  ", FolderStatus(3, 9, 7)),
        (b"* STATUS INBOX (MESSAGES 3 UIDVALIDITY 1)", FolderStatus(3, 0, 1)),
        (b"* STATUS INBOX (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 1.700000017e+09)", FolderStatus(3, 9, 1_700_000_017)),
        (b"* STATUS INBOX (MESSAGES 3 UIDNEXT 9e+00 UIDVALIDITY 7)", FolderStatus(3, 0, 7)),
        (b"* STATUS INBOX (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 7 HIGHESTMODSEQ -1)", FolderStatus(3, 9, 7)),
        (b"* STATUS INBOX (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 7 HIGHESTMODSEQ 12)", FolderStatus(3, 9, 7, 12)),
        (b"* STATUS INBOX ()", None),
        (b"* STATUS INBOX", None),
        (b"* STATUS INBOX (MESSAGES)", None),
        (b"* STATUS INBOX (MESSAGES many UIDNEXT 9 UIDVALIDITY 7)", None),
        (b"* 3 EXISTS", None),
    ],
)
def test_a_status_tells_what_it_tells(told: bytes, status: FolderStatus | None) -> None:
    with Scripted({"STATUS": told + b"\r\n"}) as server, SourceConnection(server.account) as connection:
        assert connection.statuses([b"INBOX"]) == ({b"INBOX": status} if status else {})


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n", (7, 4, 3)),
        (b"* 3 exists\r\n* ok [uidvalidity 7]\r\n* ok [uidnext 4]\r\n", (7, 4, 3)),
        (b"*  3  EXISTS \r\n* OK  [UIDVALIDITY  7 ] x\r\n* [UIDNEXT 4]\r\n", (7, 4, 3)),
        (b"* 3 EXISTS\r\n* OK [UIDVALIDITY 1.4e+09] x\r\n* OK [UIDNEXT 4] x\r\n", (1_400_000_000, 4, 3)),
        (b"* 3 EXISTS\r\n* OK [X-WHO-KNOWS 1 (2)] x\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n", (7, 4, 3)),
        (b"* 0 FETCH (FLAGS ())\r\n* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n", (7, 4, 3)),
        (b"* 2 EXISTS\r\n* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n", (7, 4, 3)),
        (b"* %b EXISTS\r\n* OK [UIDVALIDITY %b] x\r\n* OK [UIDNEXT 1] x\r\n" % (b"9" * 6000, b"9" * 6000), (0, 1, 0)),
    ],
)
def test_an_opened_folder_tells_what_it_tells(told: bytes, found: tuple[int, int, int]) -> None:
    with Scripted({"EXAMINE": told}) as server, SourceConnection(server.account) as connection:
        opened = connection.examine(INBOX)
        assert (opened.uidvalidity, opened.uidnext, opened.messages) == found


def test_a_uidnext_that_was_rounded_is_not_believed() -> None:
    """What arrives is looked for from there on: too high would be blind, the last message tells."""
    told = b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 1.00001e+06] x\r\n"
    with Scripted({"EXAMINE": told, "FETCH": line(41)}) as server, SourceConnection(server.account) as connection:
        assert connection.examine(INBOX).uidnext == 42


@pytest.mark.parametrize(
    "wire", [b"* CAPABILITY IMAP4rev1 LITERAL + UIDPLUS \r\n", b"* capability imap4REV1 literal+\r\n"]
)
def test_capabilities_are_read_as_they_are_meant(wire: bytes) -> None:
    told: list[bytes] = [b"* CAPABILITY IMAP4rev1\r\n", wire]
    answers: dict[str, Any] = {"CAPABILITY": lambda rest: told.pop(0) + b"TAG OK done\r\n"}
    with Scripted(answers) as server, TargetConnection(server.account) as connection:
        assert connection.has("LITERAL+")
        assert connection.has("IMAP4REV1")


def test_capabilities_in_the_answer_to_the_login_may_have_the_same_blank() -> None:
    with Played(lambda peer: None, b"IMAP4rev1 LITERAL + MOVE") as server, TargetConnection(server.account) as found:
        assert found.has("LITERAL+")


# FETCH


def scanned(connection: SourceConnection) -> list[Envelope]:
    connection.examine(INBOX)
    return connection.scan()


EXPECTED = Envelope(9, frozenset({"\\Seen"}), "", datetime(2024, 5, 1, 10, tzinfo=UTC), 5)


@pytest.mark.parametrize(
    "told",
    [
        b"* 1 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5)",
        b"* 0 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5)",
        b"*  1  fetch  (flags (\\seen) internaldate %b rfc822.size 5 uid 9)  ",
        b"* 1 FETCH (MODSEQ (-1) UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5)",
        b"* 1 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5.0e+00)",
        b"* 1 FETCH (FLAGS (\\Seen))\r\n* 1 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5)\r\n* 4 EXISTS",
        b"* 1 FETCH (UID 9 FLAGS () INTERNALDATE %b RFC822.SIZE 5)\r\n* 1 FETCH (UID 9 FLAGS (\\Seen))\r\n* 1 EXPUNGE",
        b"* FLAGS (\\Seen)\r\n* 0 RECENT\r\n* 1 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5)",
        b"* SEARCH \r\n* CAPABILITY IMAP4rev1\r\n* 1 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE 5)",
    ],
)
def test_a_scan_is_read_through_what_else_is_said(told: bytes) -> None:
    with Scripted({"FETCH": told.replace(b"%b", DATE) + b"\r\n"}) as server, SourceConnection(server.account) as at:
        assert scanned(at) == [EXPECTED]


@pytest.mark.parametrize("uid", [b"0", b"4294967296", b"-1", b"1e+03", b"x", b"9" * 30])
def test_what_cannot_be_a_uid_never_names_a_message(uid: bytes) -> None:
    told = b"* 1 FETCH (UID %b FLAGS () INTERNALDATE %b RFC822.SIZE 5)\r\n" % (uid, DATE)
    with Scripted({"FETCH": told}) as server, SourceConnection(server.account) as at:
        assert scanned(at) == []


@pytest.mark.parametrize("size", [b"99999999999999", b"1e+15", b"-5", b"-1", b"9" * 19])
def test_a_size_that_no_message_has_is_as_good_as_none(size: bytes) -> None:
    told = b"* 1 FETCH (UID 9 FLAGS (\\Seen) INTERNALDATE %b RFC822.SIZE %b)\r\n" % (DATE, size)
    with Scripted({"FETCH": told}) as server, SourceConnection(server.account) as at:
        assert scanned(at) == [replace(EXPECTED, size=0, sized=False)]


@pytest.mark.parametrize(
    ("told", "raw"),
    [
        (b"* 1 FETCH (UID 1 BODY[] {2}\r\nhi)", b"hi"),
        (b"* 1 FETCH (BODY[] {2}\r\nhi UID 1)", b"hi"),
        (b"* 1 fetch (body[] {2+}\r\nhi uid 1)", b"hi"),
        (b"* 1 FETCH (UID 1 BODY[] ~{2}\r\nhi)", b"hi"),
        (b'* 1 FETCH (UID 1 BODY[] "hi")', b"hi"),
        (b'* 1 FETCH (UID 1 BODY[] "")', b""),
        (b"* 1 FETCH (UID 1 BODY[] {0}\r\n)", b""),
        (b"* 1 FETCH (UID 1 BODY[] NIL)", None),
        (b"* 1 FETCH (UID 1 BODY[])", None),
        (b"* 1 FETCH (BODY[] UID 1)", None),
        (b"* 1 FETCH (FLAGS () BODY[] UID 1)", None),
        (b"* 1 FETCH (UID 1 FLAGS (\\Seen) BODY[] {2}\r\nhi)", b"hi"),
        (b"* 7 FETCH (UID 2 BODY[] {3}\r\nnot)\r\n* 1 FETCH (UID 1 BODY[] {2}\r\nhi)", b"hi"),
    ],
)
def test_a_body_is_read_whichever_way_it_comes(told: bytes, raw: bytes | None) -> None:
    with Scripted({"FETCH": told + b"\r\n"}) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        assert list(connection.messages([1])) == [Message(1, raw)]


@pytest.mark.parametrize(
    "told", [b"* 1 FETCH (UID 1)", b"* 1 FETCH (UID 1 FLAGS (\\Seen))", b"* 1 EXPUNGE", b"* 5 EXISTS"]
)
def test_an_answer_without_a_body_delivers_nothing(told: bytes) -> None:
    with Scripted({"FETCH": told + b"\r\n"}) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        assert list(connection.messages([1])) == []


# APPEND and MOVE


@pytest.mark.parametrize(
    "told",
    [
        b"[APPENDUID 7 1:4294967295]",
        b"[APPENDUID 7 " + b"9" * 6000 + b"]",
        b"[APPENDUID 7 1,,2]",
        b"[APPENDUID 7 :]",
        b"[APPENDUID 7 *]",
        b"[APPENDUID " + b"9" * 6000 + b" 1:2]",
    ],
)
def test_an_appenduid_that_cannot_be_is_none(told: bytes) -> None:
    assert responses.appended_uids(told.decode(), 2) == (0, [])


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("[COPYUID 7 1:2 8:9] moved", (7, {1: 8, 2: 9})),
        ("OK [copyuid 7 1,2 9,8]", (7, {1: 9, 2: 8})),
        ("[COPYUID 7 1:4294967295 1:4294967295]", (0, {})),
        ("[COPYUID 7 1:2 8]", (0, {})),
        ("[COPYUID 7 1:,2 8,9]", (0, {})),
        ("[COPYUID 7 : :]", (0, {})),
        ("[COPYUID 7]", (0, {})),
        ("moved", (0, {})),
    ],
)
def test_a_copyuid_is_believed_as_far_as_it_can_be_true(told: str, found: tuple[int, dict[int, int]]) -> None:
    assert responses.copied_uids(told, 2) == found


def test_a_copyuid_may_come_in_a_line_of_its_own_without_ok() -> None:
    """home.pl, as MailKit has recorded it."""
    told = b"* [COPYUID 7 1:2 8:9]\r\n* 1 EXPUNGE\r\n"
    with Scripted({"MOVE": told}) as server, TargetConnection(server.account) as connection:
        connection.select("INBOX")
        assert connection.move([1, 2], "A") == (7, {1: 8, 2: 9})


@pytest.mark.parametrize("leave", [b"+\r\n", b"+ \r\n", b"+ Ready for literal data\r\n", b"* 4 EXISTS\r\n+ go\r\n"])
def test_leave_to_send_may_be_given_without_words(leave: bytes) -> None:
    def play(peer: Any) -> None:
        [tag] = peer.expect(b"APPEND ")
        peer.say(leave)
        assert peer.octets(4) == b"mail"
        peer.line()
        peer.say(tag + b" OK [APPENDUID 7 4] in\r\n")

    with Played(play, b"IMAP4rev1 UIDPLUS") as server, TargetConnection(server.account) as connection:
        assert connection.append("INBOX", [Outgoing(b"mail", frozenset(), "")]) == (7, [4])


# Greetings


@pytest.mark.parametrize(
    "greeting",
    [
        b"* OK AliYun IMAP Server Ready(10.147.40.164)\r\n",
        b"* OK\r\n",
        b"* OK \r\n",
        b"* OK [CAPABILITY IMAP4rev1] hello\r\n",
        b"* OK [ALERT] we close on Sunday\r\n",
    ],
)
def test_every_friendly_greeting_is_one(greeting: bytes) -> None:
    with Scripted(greeting=greeting) as server, SourceConnection(server.account) as connection:
        assert connection.examine(INBOX).uidvalidity == 7


def test_a_server_that_asks_nobody_to_sign_in_shows_a_mailbox_that_nobody_knows() -> None:
    """Each member would be brought the same mailbox; the password is not sent either."""
    with Scripted(greeting=b"* PREAUTH welcome whoever you are\r\n") as server:
        with pytest.raises(MemberError) as caught:
            SourceConnection(server.account)
        assert caught.value.cause_id == "no_sign_in"
        assert server.verbs() == ["CAPABILITY"]


@pytest.mark.parametrize(
    ("greeting", "cause"),
    [
        (b"* BYE too many connections\r\n\r\n", "too_many_connections"),
        (b"* BYE\r\n\r\n", "connection_dropped"),
        (b"* NO not today\r\n\r\n", "connect_failed"),
        (b"+OK POP3 ready\r\n\r\n", "wrong_port"),
        (b"220 smtp.example ESMTP\r\n\r\n", "wrong_port"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong_port"),
        (b"\xff\xfe\x00\r\n\r\n", "connect_failed"),
    ],
)
def test_a_greeting_that_is_none_ends_with_a_cause(greeting: bytes, cause: str) -> None:
    with Scripted(greeting=greeting) as server:
        with pytest.raises(MigrationError) as caught:
            SourceConnection(server.account)
        assert caught.value.cause_id == cause


# Endings


@pytest.mark.parametrize("bye", [b"* BYE\r\n", b"* bye see you\r\n* BYE see you\r\n* BYE see you\r\n", b"*  BYE x\r\n"])
def test_a_bye_in_the_middle_of_a_command_is_a_lost_connection(bye: bytes) -> None:
    with Scripted({"FETCH": lambda rest: body(1, b"hi") + bye + b"\r\n\r\n"}) as server:
        connection = SourceConnection(server.account)
        connection.examine(INBOX)
        with pytest.raises(ServerError):
            list(connection.messages([1, 2]))
        connection.close()


def test_a_goodbye_that_is_said_again_and_again_disturbs_nobody() -> None:
    """Yandex repeats its BYE until the client is gone."""
    with Scripted({"LOGOUT": b"* BYE x\r\n" * 50}) as server:
        for _ in range(2):
            with SourceConnection(server.account) as connection:
                assert connection.examine(INBOX).messages == 3


def test_in_a_flight_too_what_nobody_asked_for_is_passed_over() -> None:
    def play(peer: Any) -> None:
        tags = peer.expect(b"EXAMINE", b"UID FETCH 1:* ", b"EXAMINE", b"UID FETCH 1:* ")
        peer.say(
            b"* OK [ALERT] x\r\n"
            + opened(tags[0], exists=1)
            + b"* 9 EXISTS\r\n* 1 EXPUNGE\r\n"
            + line(1)
            + done(tags[1])
        )
        peer.say(
            opened(tags[2], exists=1) + b"* 1 FETCH (FLAGS (\\Seen))\r\n" + line(2) + b"* NO slow\r\n" + done(tags[3])
        )

    folders = [Folder(name, name.decode(), "/", frozenset()) for name in (b"A", b"B")]
    with Played(play, CAPABILITY) as server:
        account, notices = listening(server.account)
        with SourceConnection(account) as connection:
            found = {folder.name: [e.uid for e in survey.scan] for folder, survey in connection.survey(folders)}  # type: ignore[union-attr]
        assert found == {"A": [1], "B": [2]}
        assert [text for _, text in notices] == ["OK [ALERT] x", "NO slow"]
