"""The one door to a mailbox, against servers that are right, strict, odd and hostile."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.demo.imap_server import Action, Fault, ImapServer
from imapcopy import wire
from imapcopy.account import Account
from imapcopy.errors import ConnectionLost, FolderError, MemberError, MigrationError, Refused, UnreadableAnswer
from imapcopy.folders import Folder
from imapcopy.limits import DEFAULT, Limits
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import Outgoing, TargetConnection
from tests.imapcopy.scripted import Peer, Played, Scripted, done, line
from tests.imapcopy.world import LIN, NEW, account_at, mail, moment

INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())


# Content that a server cuts


WHOLE = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 310
CUT = WHOLE[: WHOLE.index(b"--b", len(WHOLE) * 300 // 310)]
_OPENED = b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n"


def _read_from_courier(
    as_rfc822: bytes,
    examined: bytes = b"[READ-ONLY] ",
    kind: type[SourceConnection | TargetConnection] = SourceConnection,
) -> tuple[list[bytes | None], list[bytes]]:
    """What is read of message 2 from a server that cuts it, and the commands for that."""

    def fetch(rest: bytes) -> bytes:
        if b"RFC822" in rest:
            return as_rfc822
        return b"* 2 FETCH (UID 2 BODY[] {%d}\r\n%b)\r\nTAG OK done\r\n" % (len(CUT), CUT)

    answers = {"FETCH": fetch, "EXAMINE": lambda rest: _OPENED + b"TAG OK %bdone\r\n" % examined}
    with Scripted(answers) as server, kind(server.account) as connection:
        if isinstance(connection, SourceConnection):
            connection.examine(INBOX)
        else:
            connection.select("INBOX")
        before = len(server.received)
        read = [message.raw for message in connection.messages([2])]
        return read, [line.split(b" ", 1)[1].strip() for line in server.received[before:]]


RFC822 = b"* 2 FETCH (UID 2 RFC822 {%d}\r\n%b)\r\nTAG OK done\r\n" % (len(WHOLE), WHOLE)


@pytest.mark.parametrize(("kind", "opening"), [(SourceConnection, b"EXAMINE"), (TargetConnection, b"SELECT")])
def test_a_message_of_many_parts_is_read_whole_from_a_server_that_cuts_it(
    kind: type[SourceConnection | TargetConnection], opening: bytes
) -> None:
    read, commands = _read_from_courier(RFC822, kind=kind)
    assert read == [WHOLE]
    assert commands[1:] == [b'EXAMINE "INBOX"', b"UID FETCH 2 (UID RFC822)", opening + b' "INBOX"']


@pytest.mark.parametrize(
    "answer",
    [
        b"TAG BAD unknown item\r\n",
        b"TAG OK nothing\r\n",
        b"* 2 FETCH (UID 2 RFC822 NIL)\r\nTAG OK done\r\n",
        b"* 2 FETCH (UID 2 RFC822 {5}\r\nshort)\r\nTAG OK done\r\n",
        RFC822.replace(b"UID 2", b"UID 3"),
    ],
)
def test_what_is_shorter_or_missing_as_rfc822_is_taken_as_it_came(answer: bytes) -> None:
    assert _read_from_courier(answer)[0] == [CUT]


def test_nothing_that_marks_as_seen_is_asked_for_where_examine_is_not_read_only() -> None:
    read, commands = _read_from_courier(RFC822, examined=b"")
    assert read == [CUT]
    assert not [command for command in commands if b"RFC822" in command]


# Odd answers


def test_one_odd_name_does_not_cost_the_listing() -> None:
    lines = (
        b'* LIST () "/" INBOX\r\n'
        b'* LIST () "/" "&broken"\r\n'
        b'* LIST () "/" "&ZeVnLA-"\r\n'
        b'* LIST () "/" "\xe4\xb8\xad\xe6\x96\x87"\r\n'
        b'* LIST () "/" "\xd6\xd0\xce\xc4 GBK"\r\n'
        b'* LIST (\\HasNoChildren) "/" {8}\r\nlit (x) \r\n'
        b'* LIST () "/" "with \\"quotes\\" and \\\\"\r\n'
        b"* LIST () NIL NIL\r\n"
        b'* LIST () "/" 123\r\n'
        b'* LIST () "/" "50%*"\r\n'
        b'* LIST (\\Sent) "/" "S" ("CHILDINFO" ("SUBSCRIBED"))\r\n'
        b'* LIST () "/" "unfinished\r\n'
        b"* LIST )(\r\n"
        b"* LIST\r\n"
        b'* LIST () "/" {6}\r\na\r\n\0bc\r\n'
    )
    with Scripted({"LIST": lines}) as server, SourceConnection(server.account) as connection:
        names = [folder.name for folder in connection.listing().folders]
        assert names == [
            *("INBOX", "&broken", "日本", "中文", "中文 GBK", "lit (x) ", 'with "quotes" and \\', "NIL", "123", "50%*"),
            *("S", "a\r\n\ufffdbc"),
        ]
        odd = connection.listing().folders[-1]
        with pytest.raises(FolderError) as caught:
            connection.examine(odd)
        assert caught.value.cause_id == "folder_name_invalid"
        assert connection.statuses([odd.raw]) == {}
        assert connection.examine(INBOX).uidvalidity == 7, "the connection must still be in step"


def test_two_spellings_of_one_name_stay_two_folders() -> None:
    lines = b'* LIST () "/" "\xc3\xa9"\r\n* LIST () "/" "&AOk-"\r\n'
    with Scripted({"LIST": lines}) as server, SourceConnection(server.account) as connection:
        found = connection.listing().folders
        assert [folder.raw for folder in found] == [b"\xc3\xa9", b"&AOk-"]
        assert len({folder.name for folder in found}) == 2


@pytest.mark.parametrize("name", ['a"b', "a\\b", "50%", "a*b", "中文 ✓ 🐎", "&", "a & b", " x ", "~"])
def test_any_name_can_be_made_listed_opened_and_filled(new: ImapServer, name: str) -> None:
    with TargetConnection(account_at(new, NEW)) as connection:
        assert connection.create([name]) == {}
        opened = connection.select(name)
        told = connection.append(name, [Outgoing(mail(1), frozenset(), "")])
        assert told == (opened.uidvalidity, [opened.uidnext])
        assert name in [folder.name for folder in connection.listing().folders]
        [folder] = [folder for folder in connection.listing().folders if folder.name == name]
        assert connection.statuses([folder.raw])[folder.raw].messages == 1


@pytest.mark.parametrize("text", [b"", b" ", b" done"])
@pytest.mark.parametrize("verb", ["FETCH", "fetch"])
def test_fetch_ends_at_a_tagged_ok_with_or_without_words(text: bytes, verb: str) -> None:
    line = b"* 1 %s (UID 1 BODY[] {2}\r\nhi)\r\nTAG OK%s\r\n" % (verb.encode(), text)
    with Scripted({"FETCH": lambda rest: line}) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        assert [message.raw for message in connection.messages([1])] == [b"hi"]


def test_what_nobody_asked_for_is_not_believed() -> None:
    line = (
        b"* 1 FETCH (FLAGS (\\Seen))\r\n"
        b"* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ (5))\r\n"
        b"* 9 FETCH (UID 9 BODY[] {5}\r\nwrong)\r\n"
        b"* 4 EXISTS\r\n* 2 EXPUNGE\r\n"
        b"* 1 FETCH (UID 1 BODY[] {5}\r\nright)\r\n"
        b"* 1 FETCH (UID 1 BODY[] {5}\r\nagain)\r\n"
        b"* 2 FETCH (UID 2 BODY[] NIL)\r\n"
        b"* 3 FETCH (BODY[] {4}\r\nanon UID 3)\r\n"
    )
    with Scripted({"FETCH": line}) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        found = {message.uid: message.raw for message in connection.messages([1, 2, 3])}
        assert found == {1: b"right", 2: None, 3: b"anon"}


def test_a_header_may_come_whole_or_not_at_all() -> None:
    line = (
        b"* 1 FETCH (UID 1 BODY[HEADER.FIELDS (MESSAGE-ID)] {23}\r\nMessage-ID:\r\n <a@b>\r\n\r\n)\r\n"
        b'* 2 FETCH (UID 2 BODY[HEADER.FIELDS ("MESSAGE-ID")] NIL)\r\n'
        b"* 3 FETCH (UID 3 BODY[HEADER] {42}\r\nMessage-ID: \r\nSubject: not the id at all\r\n)\r\n"
        b"* 4 FETCH (UID 4 FLAGS ())\r\n"
    )
    with Scripted({"FETCH": line}) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        assert connection.message_ids([1, 2, 3, 4]) == {1: "<a@b>", 2: "", 3: ""}


@pytest.mark.parametrize(
    "line",
    [
        b"* 1 FETCH (UID x RFC822.SIZE 5 BODY[] {1}\r\na)\r\n",
        b"* 1 FETCH (UID 1 RFC822.SIZE -1 BODY[] {1}\r\na\r\n",
        b"* 1 FETCH (UID 1 RFC822.SIZE " + b"9" * 6000 + b")\r\n",
        b"* 1 FETCH (UID (1) RFC822.SIZE 1)\r\n",
        b"* 1 FETCH (UID 1 RFC822.SIZE {9999999999}\r\n",
        b"* 1 FETCH " + b"(" * 5000 + b"\r\n",
        b"* 1 FETCH (UID 1 RFC822.SIZE {" + b"9" * 6000 + b"}\r\n",
        b"what?\r\n",
        b"B999 OK somebody else's answer\r\n",
        b"TAGMAYBE\r\n",
        b"* BYE\r\n",
        b"* 1 FETCH (UID 1 BODY[] {50}\r\ncut off\r\n\r\n",
        b"* " + b"x" * 1_100_000 + b"\r\n",
        b"* 1 FETCH " + b"[" * 200_000 + b"\r\n",
    ],
    ids=range(14),
)
def test_an_answer_that_cannot_be_read_and_then_ends_is_a_lost_connection_and_nothing_else(line: bytes) -> None:
    with Scripted({"FETCH": lambda rest: line + b"\r\n\r\n"}) as server:
        for act in ("scan", "messages", "message_ids"):
            connection = SourceConnection(server.account)
            connection.examine(INBOX)
            with pytest.raises(ConnectionLost):
                connection.scan() if act == "scan" else list(getattr(connection, act)([1]))
            connection.close()


@pytest.mark.parametrize(
    "answers",
    [
        {"NAMESPACE": b"* NAMESPACE\r\n"},
        {"NAMESPACE": b"* NAMESPACE ()\r\n"},
        {"NAMESPACE": b"* NAMESPACE (()) NIL NIL\r\n"},
        {"NAMESPACE": b'* NAMESPACE (("")) NIL NIL\r\n'},
        {"NAMESPACE": b"* NAMESPACE ((NIL NIL)) NIL NIL\r\n"},
        {"NAMESPACE": b"* NAMESPACE )\r\n"},
        {"NAMESPACE": lambda rest: b"TAG NO no\r\n"},
    ],
)
def test_a_namespace_that_says_nothing_leaves_the_roots_separator(answers: dict[str, Any]) -> None:
    answers |= {"CAPABILITY": b"* CAPABILITY IMAP4rev1 NAMESPACE\r\n", "LIST": b'* LIST (\\Noselect) "." ""\r\n'}
    with Scripted(answers) as server, SourceConnection(server.account) as connection:
        listing = connection.listing()
        assert (listing.prefix, listing.separator) == ("", ".")


def test_a_folder_without_uidnext_gets_it_from_its_last_message() -> None:
    answers: dict[str, Any] = {
        "EXAMINE": b"* 2 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n",
        "FETCH": b'* 2 FETCH (UID 41 FLAGS () INTERNALDATE " 1-May-2024 10:00:00 +0000" RFC822.SIZE 9)\r\n',
    }
    with Scripted(answers) as server, SourceConnection(server.account) as connection:
        assert connection.examine(INBOX).uidnext == 42


def test_a_refusal_of_the_whole_folder_is_no_message_of_it() -> None:
    words = b"TAG NO Some messages could not be FETCHed\r\n"
    with Scripted({"FETCH": lambda rest: words}) as server, TargetConnection(server.account) as connection:
        connection.select("INBOX")
        for act in (connection.scan, lambda: connection.message_ids([1]), lambda: list(connection.read_back([1]))):
            with pytest.raises(FolderError):
                act()
        with pytest.raises(Refused):
            list(connection.messages([1]))


def test_a_refused_command_leaves_the_connection_usable(old: ImapServer) -> None:
    with SourceConnection(account_at(old, LIN)) as connection:
        with pytest.raises(FolderError):
            connection.examine(Folder(b"Nowhere", "Nowhere", "/", frozenset()))
        assert connection.examine(INBOX).messages == 0
    assert len(old.commands("AUTHENTICATE")) == 1


def test_the_words_of_a_bye_are_kept_whatever_the_command_was() -> None:
    with Scripted({"LIST": lambda rest: b"* BYE [THROTTLED] slow down\r\n\r\n"}) as server:
        connection = SourceConnection(server.account)
        with pytest.raises(ConnectionLost) as caught:
            connection.listing()
        assert caught.value.cause_id == "throttled"
        connection.close()


# Limits


def test_a_literal_that_is_cut_off_is_a_lost_connection(old: ImapServer) -> None:
    old.account(LIN).folder("INBOX").deliver(mail(1, b"x" * 5000), moment(1))
    old.behaviour.faults.append(Fault("FETCH", Action.CUT, cut_at=3000))
    connection = SourceConnection(account_at(old, LIN))
    connection.examine(INBOX)
    with pytest.raises(ConnectionLost):
        list(connection.messages([1]))
    with pytest.raises(ConnectionLost):
        connection.scan()
    connection.close()


def limited(account: Account, **small: Any) -> Account:
    return replace(account, limits=Limits(**small))


def test_a_huge_literal_is_refused_when_it_is_announced() -> None:
    with Scripted({"FETCH": lambda rest: b"* 1 FETCH (UID 1 BODY[] {1001}\r\n"}) as server:
        connection = SourceConnection(limited(server.account, literal_octets=1000))
        connection.examine(INBOX)
        with pytest.raises(UnreadableAnswer, match="1001 bytes at once"):
            list(connection.messages([1]))
        connection.close()


def test_untagged_lines_without_end_end_the_connection() -> None:
    with Scripted({"LIST": b"* OK still here\r\n" * 200}) as server:
        connection = SourceConnection(limited(server.account, answers=100))
        with pytest.raises(UnreadableAnswer, match="no end"):
            connection.listing()
        connection.close()


def test_empty_lines_without_end_do_so_too() -> None:
    with Scripted({"LIST": b"\r\n" * 200 + b"* OK\r\n"}) as server:
        connection = SourceConnection(limited(server.account, answers=100))
        with pytest.raises(UnreadableAnswer, match="no end"):
            connection.listing()
        connection.close()


def test_an_answer_is_bounded_in_what_it_weighs_too() -> None:
    long_name = b'* LIST () "/" {1000}\r\n' + b"x" * 1000 + b"\r\n"
    with Scripted({"LIST": long_name}) as server:
        account = limited(server.account, held_octets=10_000)
        with SourceConnection(account) as connection:
            assert len(connection.listing().folders) == 1
        for much in (b"* OK more\r\n" * 2000, long_name * 8, b'* LIST (a b) "/" ' + b"(a)" * 1000 + b"\r\n"):
            server.answers["LIST"] = long_name + much
            connection = SourceConnection(account)
            with pytest.raises(UnreadableAnswer, match="no end"):
                connection.listing()
            connection.close()


def test_a_scan_is_bounded_in_what_it_weighs() -> None:
    with Scripted({"FETCH": b"".join(map(line, range(1, 100)))}) as server:
        for weight, fits in ((100_000, True), (20_000, False)):
            connection = SourceConnection(limited(server.account, scanned_octets=weight))
            connection.examine(INBOX)
            if fits:
                assert len(connection.scan()) == 99
            else:
                with pytest.raises(UnreadableAnswer, match="no end"):
                    connection.scan()
            connection.close()


def test_a_mailbox_of_too_many_folders_is_refused_by_name() -> None:
    folders = b"".join(b'* LIST () "/" F%d\r\n' % number for number in range(12))
    with Scripted({"LIST": folders}) as server:
        with SourceConnection(limited(server.account, folders=12)) as connection:
            assert len(connection.listing().folders) == 12
        connection = SourceConnection(limited(server.account, folders=11))
        with pytest.raises(MemberError, match="more than 11 folders") as caught:
            connection.listing()
        assert caught.value.cause_id == "too_many_folders"
        connection.close()


def test_a_server_that_takes_too_long_over_one_command_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted({"LIST": b"* OK still here\r\n" * 3}) as server:
        connection = SourceConnection(server.account)
        # Not the module's own: other threads of this process have clocks to read, too.
        monkeypatch.setattr(wire, "time", SimpleNamespace(monotonic=iter(range(0, 10**6, 700)).__next__))
        with pytest.raises(ConnectionLost) as caught:
            connection.listing()
        assert caught.value.cause_id == "timeout"
        monkeypatch.undo()
        connection.close()


def test_a_silent_server_is_left(old: ImapServer) -> None:
    old.behaviour.faults.append(Fault("LIST", Action.HANG))
    connection = SourceConnection(account_at(old, LIN))
    wire = connection._dialogue._wire
    assert wire.socket.gettimeout() == wire.silence == DEFAULT.silence_seconds
    wire.be_patient(0.05)
    with pytest.raises(ConnectionLost) as caught:
        connection.listing()
    assert caught.value.cause_id == "timeout"
    connection.close()


# Listing with STATUS


LISTED = b'* LIST () "/" inbox\r\n* LIST () "/" A\r\n* LIST () "/" B\r\n'
EACH = b"(MESSAGES 4 UIDNEXT 9 UIDVALIDITY 7)\r\n"


def test_the_status_of_each_folder_comes_with_the_listing_where_that_is_offered() -> None:
    def play(peer: Peer) -> None:
        [listing] = peer.expect(b'LIST "" "*" RETURN (SUBSCRIBED STATUS (MESSAGES UIDNEXT UIDVALIDITY))')
        peer.say(LISTED + b"* STATUS Inbox " + EACH + b"* STATUS A (MESSAGES x)\r\n" + done(listing))
        [root] = peer.expect(b'LIST "" ""')
        peer.say(done(root))

    with Played(play, b"IMAP4rev1 LIST-EXTENDED LIST-STATUS") as server, SourceConnection(server.account) as connection:
        found = connection.listing(statuses=True)
        assert [folder.raw for folder in found.folders] == [b"INBOX", b"A", b"B"]
        assert found.statuses is not None
        assert {raw: status.messages for raw, status in found.statuses.items()} == {b"INBOX": 4}


@pytest.mark.parametrize("capabilities", [b"IMAP4rev1", b"IMAP4rev1 LIST-EXTENDED LIST-STATUS"])
def test_a_listing_without_statuses_is_a_plain_one(capabilities: bytes) -> None:
    """Asked for where it is not offered; offered where it is not asked for."""

    def play(peer: Peer) -> None:
        listing, subscribed = peer.expect(b"LIST", b"LSUB")
        peer.say(LISTED + done(listing, subscribed))

    with Played(play, capabilities) as server, SourceConnection(server.account) as connection:
        found = connection.listing(statuses=b"LIST-STATUS" not in capabilities)
        assert (len(found.folders), found.statuses) == (3, None)
        assert server.after == [b'LIST "" ""']


@pytest.mark.parametrize("status", [b"NO", b"BAD"])
def test_a_listing_with_statuses_that_is_refused_is_asked_for_without(status: bytes) -> None:
    def play(peer: Peer) -> None:
        [listing] = peer.expect(b'LIST "" "*" RETURN (SUBSCRIBED STATUS')
        peer.say(listing + b" " + status + b" what?\r\n")
        listing, subscribed = peer.expect(b'LIST "" "*"', b"LSUB")
        peer.say(LISTED + done(listing, subscribed))

    with Played(play, b"IMAP4rev1 LIST-EXTENDED LIST-STATUS") as server, SourceConnection(server.account) as connection:
        found = connection.listing(statuses=True)
        assert (len(found.folders), found.statuses) == (3, None)
        connection.refresh()


def test_a_listing_that_is_refused_leaves_the_connection_in_step() -> None:
    def play(peer: Peer) -> None:
        commands = b"NAMESPACE", b'LIST "" "*"', b"LSUB", b"LIST (SPECIAL-USE)"
        namespace, listing, subscribed, special = peer.expect(*commands)
        peer.say(done(namespace) + listing + b" NO no\r\n" + done(subscribed, special))

    capabilities = b"IMAP4rev1 NAMESPACE SPECIAL-USE LIST-EXTENDED"
    with Played(play, capabilities) as server, SourceConnection(server.account) as connection:
        with pytest.raises(MigrationError):
            connection.listing()
        connection.refresh()


def test_goodbye_is_said_and_not_waited_for() -> None:
    """The answer never comes; the client is gone by itself."""

    def play(peer: Peer) -> None:
        peer.expect(b"LOGOUT")
        assert peer.line() == b""

    with Played(play) as server:
        SourceConnection(server.account).close()
