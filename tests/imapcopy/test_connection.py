"""The one door to IMAP, against servers that are right, strict, odd and hostile."""

import gc
import ssl
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, ImapServer
from imapcopy import connection as connection_module
from imapcopy import wire
from imapcopy.account import Account, Server
from imapcopy.connection import Fetched, FetchRequest, Outgoing, SourceConnection, Surveyed, TargetConnection
from imapcopy.errors import ConnectionLost, FolderError, MemberError, MigrationError, Refused, ServerError
from imapcopy.folders import Folder
from imapcopy.responses import Message, Selected
from tests.imapcopy.scripted import Peer, Played, Scripted
from tests.imapcopy.world import LIN, NEW, PASSWORD, account_at, mail, moment
from tests.servers.certificates import Authority, Certificate, self_signed

INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())


def said(error: BaseException | None) -> str:
    """Everything that an exception and those behind it say."""
    words = ""
    while error is not None:
        words += f"{error} {error!r} {error.args} {getattr(error, 'server_text', '')}"
        words += "".join(traceback.format_exception_only(error))
        assert not (error.__cause__ and error.__context__ and error.__cause__ is not error.__context__)
        error = error.__cause__ or error.__context__
    return words


# Signing in


def test_plain_is_used_where_it_is_offered_and_login_elsewhere(old: ImapServer) -> None:
    SourceConnection(account_at(old, LIN)).close()
    assert [e.verb for e in old.log if e.verb in ("LOGIN", "AUTHENTICATE")] == ["AUTHENTICATE"]
    old.behaviour.capabilities = frozenset({"IMAP4rev1"})
    old.log.clear()
    SourceConnection(account_at(old, LIN)).close()
    assert [e.verb for e in old.log if e.verb in ("LOGIN", "AUTHENTICATE")] == ["LOGIN"]


def test_a_mechanism_that_is_bad_gives_way_to_the_other_one(old: ImapServer) -> None:
    old.behaviour.faults.append(Fault("AUTHENTICATE", Action.BAD, text="AUTHENTICATE with PLAIN"))
    SourceConnection(account_at(old, LIN)).close()
    assert [e.verb for e in old.log if e.verb in ("LOGIN", "AUTHENTICATE")] == ["AUTHENTICATE", "LOGIN"]


def test_a_password_that_is_refused_is_tried_once(old: ImapServer) -> None:
    """A second try with the other command would bring the account nearer to being locked."""
    old.behaviour.login_refusals = {LIN: "[AUTHENTICATIONFAILED] wrong"}
    with pytest.raises(MemberError) as caught:
        SourceConnection(account_at(old, LIN))
    assert caught.value.cause_id == "bad_credentials"
    assert [e.verb for e in old.log if e.verb in ("LOGIN", "AUTHENTICATE")] == ["AUTHENTICATE"]


def test_the_server_is_told_who_we_are_before_a_folder_is_opened(old: ImapServer) -> None:
    old.behaviour.id_before_select = True
    with SourceConnection(account_at(old, LIN)) as connection:
        assert connection.examine(INBOX).messages == 0


@pytest.mark.parametrize("capabilities", [CAPABILITIES, frozenset({"IMAP4rev1", "AUTH=PLAIN"})])
@pytest.mark.parametrize("password", ["密码 ünï", 'a"b\\c', " blanks "])
def test_any_printable_password_signs_in(capabilities: frozenset[str], password: str) -> None:
    with ImapServer("old", {LIN: password}) as server:
        server.behaviour.capabilities = capabilities
        SourceConnection(Account(Server("127.0.0.1", server.port, "plain"), LIN, password)).close()


def test_a_password_that_login_cannot_carry_is_sent_another_way(old: ImapServer) -> None:
    """LOGIN is tried first where PLAIN is not announced; the failure must not show the password."""
    old.behaviour.capabilities = frozenset({"IMAP4rev1"})
    with pytest.raises(MigrationError) as caught:
        SourceConnection(Account(Server("127.0.0.1", old.port, "plain"), LIN, "S3cret-ünï"))
    assert "S3cret" not in said(caught.value)
    assert "\\xfcn" not in said(caught.value)


@pytest.mark.parametrize("user", [LIN, "a\r\nB9 DELETE INBOX"])
@pytest.mark.parametrize("password", ["x\r\nA9 DELETE INBOX", "x\ny", "x\0y"])
def test_a_line_end_in_name_or_password_is_refused_without_being_sent(
    old: ImapServer, user: str, password: str
) -> None:
    with pytest.raises(MemberError) as caught:
        SourceConnection(Account(Server("127.0.0.1", old.port, "plain"), user, password))
    assert caught.value.cause_id == "bad_credentials"
    assert not [entry for entry in old.log if entry.verb in ("LOGIN", "AUTHENTICATE", "DELETE")]


@pytest.mark.parametrize(
    "refusal",
    [
        b"TAG NO wrong: %s\r\n",
        b"TAG NO [AUTHENTICATIONFAILED] AGxpbkBvbGQuZXhhbXBsZQBTM2NyZXQtY2FuYXJ5\r\n",
        b"TAG BAD did not understand %s\r\n",
        b"* BYE go away with your %s\r\n\r\n",
        b"* OK %s\r\nwhat? %s\r\n\r\n",
    ],
)
@pytest.mark.parametrize("capability", [b"IMAP4rev1", b"IMAP4rev1 AUTH=PLAIN SASL-IR"])
def test_no_exception_shows_the_password_that_a_server_sends_back(refusal: bytes, capability: bytes) -> None:
    words = refusal.replace(b"%s", PASSWORD.encode())
    answers: dict[str, Any] = {"LOGIN": lambda rest: words, "AUTHENTICATE": lambda rest: words}
    with Scripted({"CAPABILITY": b"* CAPABILITY " + capability + b"\r\n", **answers}) as server:
        with pytest.raises(MigrationError) as caught:
            SourceConnection(server.account)
        assert PASSWORD not in said(caught.value)
        assert "U0zY3JldC" not in said(caught.value)
        assert "TM2NyZXQtY2FuYXJ5" not in said(caught.value)


def test_no_exception_shows_the_password_after_the_login_either() -> None:
    words = b"TAG NO still remember " + PASSWORD.encode() + b"\r\n"
    with Scripted({"EXAMINE": lambda rest: words, "LIST": lambda rest: words, "FETCH": lambda rest: words}) as server:
        connection = SourceConnection(server.account)
        acts: list[Callable[[], object]] = [
            lambda: connection.examine(INBOX),
            connection.listing,
            connection.scan,
            lambda: list(connection.messages([1])),
        ]
        for act in acts:
            with pytest.raises((MigrationError, Refused)) as caught:
                act()
            assert PASSWORD not in said(caught.value)
        connection.close()


# Reaching the server


def test_clear_text_to_another_machine_is_refused_before_any_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a connection was opened"))
    with pytest.raises(MemberError) as caught:
        SourceConnection(Account(Server("imap.example.com", 143, "plain"), LIN, PASSWORD))
    assert caught.value.cause_id == "clear_text_refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "two..dots.example", "x" * 70 + ".example"])
def test_a_host_without_an_address_is_named_so(host: str) -> None:
    with pytest.raises(ServerError) as caught:
        SourceConnection(Account(Server(host, 993), LIN, PASSWORD))
    assert caught.value.cause_id == "dns_error"


def test_a_closed_port_is_named_so(old: ImapServer) -> None:
    port = old.port
    old.stop()
    with pytest.raises(ServerError) as caught:
        SourceConnection(Account(Server("127.0.0.1", port, "plain"), LIN, PASSWORD))
    assert caught.value.cause_id == "connect_failed"


@pytest.mark.parametrize(
    ("greeting", "cause"),
    [
        (b"* BYE Too many connections from this host\r\n", "too_many_connections"),
        (b"* BYE [UNAVAILABLE] try again later\r\n", "mailbox_unavailable"),
        (b"+OK POP3 ready\r\n", "connect_failed"),
        (b"", "connect_failed"),
    ],
)
def test_a_greeting_that_is_none_is_a_failure_that_says_why(greeting: bytes, cause: str) -> None:
    with Scripted(greeting=greeting or b"\r\n") as server, pytest.raises(MigrationError) as caught:
        SourceConnection(server.account)
    assert caught.value.cause_id in (cause, "wrong_port")


def test_starttls_that_is_not_offered_ends_before_the_password(old: ImapServer) -> None:
    """Somebody on the way may have taken it out of the answer."""
    with pytest.raises(MemberError) as caught:
        SourceConnection(account_at(old, LIN, security="starttls"))
    assert caught.value.cause_id == "tls_protocol"
    assert not [entry for entry in old.log if entry.verb in ("LOGIN", "AUTHENTICATE")]


@pytest.fixture
def serve_tls(tmp_path: Path) -> Iterator[Callable[[Certificate], ImapServer]]:
    running: list[ImapServer] = []

    def serve(certificate: Certificate) -> ImapServer:
        (tmp_path / "server.pem").write_bytes(certificate.chain + certificate.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        server = ImapServer("tls", {LIN: PASSWORD}, tls=context)
        server.start()
        running.append(server)
        return server

    yield serve
    for server in running:
        server.stop()


@pytest.mark.parametrize("kind", ["self-signed", "unknown authority", "another host", "expired"])
def test_a_certificate_that_is_not_trusted_ends_before_the_password(
    serve_tls: Callable[[Certificate], ImapServer], authority: Authority, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.root)
    certificate = {
        "self-signed": self_signed,
        "unknown authority": authority.issue,
        "another host": lambda: authority.issue("imap.elsewhere.example"),
        "expired": lambda: authority.issue(valid=timedelta(days=-1)),
    }[kind]()
    server = serve_tls(certificate)
    ca_file = None if kind == "unknown authority" else tmp_path / "ca.pem"
    with pytest.raises(MemberError) as caught:
        SourceConnection(account_at(server, LIN, security="tls", ca_file=ca_file))
    assert caught.value.cause_id == "tls_cert"
    assert not server.log


def test_a_private_authority_is_accepted_where_it_is_named(
    serve_tls: Callable[[Certificate], ImapServer], authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.root)
    server = serve_tls(authority.issue())
    server.account(LIN).folder("INBOX").deliver(mail(1, b"x" * 300_000), moment(1))
    for host in ("127.0.0.1", "localhost"):
        with SourceConnection(
            account_at(server, LIN, host=host, security="tls", ca_file=tmp_path / "ca.pem")
        ) as connection:
            connection.examine(INBOX)
            assert [message.raw for message in connection.messages([1])] == [mail(1, b"x" * 300_000)]


def test_tls_to_a_server_that_speaks_none_is_the_wrong_port(old: ImapServer) -> None:
    with pytest.raises(MemberError) as caught:
        SourceConnection(account_at(old, LIN, security="tls"))
    assert caught.value.cause_id == "wrong_port"


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
            *("S", "a\r\n\0bc"),
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
        b"TAG PERHAPS\r\n",
        b"* BYE\r\n",
        b"* 1 FETCH (UID 1 BODY[] {50}\r\ncut off\r\n\r\n",
        b"* " + b"x" * 1_100_000 + b"\r\n",
        b"* 1 FETCH " + b"[" * 200_000 + b"\r\n",
    ],
    ids=range(15),
)
def test_an_answer_that_cannot_be_read_is_a_lost_connection_and_nothing_else(line: bytes) -> None:
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


def test_a_huge_literal_is_refused_when_it_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_LITERAL_BYTES", 1000)
    with Scripted({"FETCH": lambda rest: b"* 1 FETCH (UID 1 BODY[] {1001}\r\n"}) as server:
        connection = SourceConnection(server.account)
        connection.examine(INBOX)
        with pytest.raises(ConnectionLost, match="1001 bytes at once"):
            list(connection.messages([1]))
        connection.close()


def test_untagged_lines_without_end_are_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_UNTAGGED", 100)
    with Scripted({"LIST": b"* OK still here\r\n" * 200}) as server:
        connection = SourceConnection(server.account)
        with pytest.raises(ConnectionLost, match="no end"):
            connection.listing()
        connection.close()


def test_an_answer_is_bounded_in_its_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_COLLECTED_BYTES", 10_000)
    with Scripted({"LIST": b'* LIST () "/" {1000}\r\n' + b"x" * 1000 + b"\r\n"}) as server:
        with SourceConnection(server.account) as connection:
            assert len(connection.listing().folders) == 1
        server.answers["LIST"] = b'* LIST () "/" {1000}\r\n' + b"x" * 1000 + b"\r\n" + b"* OK more\r\n" * 2000
        connection = SourceConnection(server.account)
        with pytest.raises(ConnectionLost, match="no end"):
            connection.listing()
        connection.close()


def test_a_server_that_takes_too_long_over_one_command_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted({"LIST": b"* OK still here\r\n" * 3}) as server:
        connection = SourceConnection(server.account)
        monkeypatch.setattr(wire.time, "monotonic", iter(range(0, 10**6, 400)).__next__)
        with pytest.raises(ConnectionLost) as caught:
            connection.listing()
        assert caught.value.cause_id == "timeout"
        monkeypatch.undo()
        connection.close()


def test_a_silent_server_is_left(old: ImapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SILENCE_SECONDS", 0.05)
    old.behaviour.faults.append(Fault("LIST", Action.HANG))
    connection = SourceConnection(account_at(old, LIN))
    with pytest.raises(ConnectionLost) as caught:
        connection.listing()
    assert caught.value.cause_id == "timeout"
    connection.close()


# Appending


class Spy:
    """A socket of which only the writing is of interest."""

    def __init__(self, sendall: Callable[[bytes], object]) -> None:
        self.sendall = sendall


def test_a_large_message_goes_out_in_pieces(new: ImapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's time-out is for the whole of one write: 25 MB would never get through a slow line at once."""
    with TargetConnection(account_at(new, NEW)) as connection:
        connection.select("INBOX")
        sizes = []
        within = connection._wire._socket
        monkeypatch.setattr(
            connection._wire, "_socket", Spy(lambda data: (sizes.append(len(data)), within.sendall(data)))
        )
        raw = mail(1, b"x" * 1_000_000)
        assert connection.append("INBOX", [Outgoing(raw, frozenset(), "")])[1] == [1]
        assert max(sizes) <= wire.WRITE_BYTES
    assert new.account(NEW).folder("INBOX").messages[0].raw == raw


@pytest.mark.parametrize(
    ("code", "uids"),
    [
        (b"[APPENDUID 7 4:5]", [4, 5]),
        (b"[appenduid 7 4,9]", [4, 9]),
        (b"[APPENDUID 7 4]", []),
        (b"[APPENDUID 7 1:4294967295]", []),
        (b"[APPENDUID 7 ,:]", []),
        (b"[APPENDUID 7 :]", []),
        (b"", []),
    ],
)
def test_only_an_appenduid_that_fits_is_taken(code: bytes, uids: list[int]) -> None:
    assert connection_module._append_uids(code.decode() + " done", 2) == (7 if uids else 0, uids)


def test_the_source_has_no_command_that_changes_anything() -> None:
    for verb in ("append", "create", "select"):
        assert not hasattr(SourceConnection, verb)


# Commands in flight


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that would wait for ever fails its test soon."""
    monkeypatch.setattr(connection_module, "SILENCE_SECONDS", 5.0)


pytestmark = pytest.mark.usefixtures("impatient")


def opened(tag: bytes, uidvalidity: int = 7, keywords: bytes = b"\\*") -> bytes:
    told = b"* 3 EXISTS\r\n* OK [UIDVALIDITY %d] x\r\n* OK [UIDNEXT 4] x\r\n" % uidvalidity
    told += b"* OK [PERMANENTFLAGS (%b)] x\r\n" % keywords
    return told + tag + b" OK open\r\n"


def body(uid: int, raw: bytes) -> bytes:
    return b"* %d FETCH (UID %d BODY[] {%d}\r\n%b)\r\n" % (uid, uid, len(raw), raw)


def line(uid: int, size: int = 5) -> bytes:
    date = b'"01-May-2024 10:00:00 +0000"'
    return b"* %d FETCH (UID %d FLAGS () INTERNALDATE %b RFC822.SIZE %d)\r\n" % (uid, uid, date, size)


def done(*tags: bytes) -> bytes:
    return b"".join(tag + b" OK done\r\n" for tag in tags)


def raws(fetched: Fetched) -> dict[int, bytes | None]:
    return {message.uid: message.raw for message in fetched.messages}


Side = type[SourceConnection] | type[TargetConnection]
SIDES = pytest.mark.parametrize("side", [SourceConnection, TargetConnection])


def streaming(connection: SourceConnection | TargetConnection, requests: list[FetchRequest]) -> Iterator[Fetched]:
    return connection.stream(requests) if isinstance(connection, SourceConnection) else connection.look_back(requests)


def verb_of(side: Side) -> bytes:
    return b"EXAMINE " if side is SourceConnection else b"SELECT "


@SIDES
def test_answers_of_a_later_fetch_may_come_before_the_end_of_an_earlier_one(side: Side) -> None:
    """Dovecot does so. Nothing is answered before everything is asked for."""

    def play(peer: Peer) -> None:
        fetch = b"UID FETCH "
        first, a, b, c = peer.expect(verb_of(side) + b'"A"', fetch + b"1:2 ", fetch + b"3 ", fetch + b"4 ")
        second, d = peer.expect(verb_of(side) + b'"B"', fetch + b"1 ")
        peer.say(opened(first) + body(1, b"a1") + body(3, b"a3") + body(4, b"a4") + body(2, b"a2") + done(a, b, c))
        peer.say(opened(second, 8) + body(1, b"b1") + done(d))

    wishes = [("A", [1, 2]), ("A", [3]), ("A", [4]), ("B", [1])]
    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(name.encode(), uids, 9) for name, uids in wishes]))
        assert [raws(each) for each in found] == [{1: b"a1", 2: b"a2"}, {3: b"a3"}, {4: b"a4"}, {1: b"b1"}]
        assert [each.uidvalidity for each in found] == [7, 7, 7, 8]
        assert (connection.selected, connection.uidvalidity) == (b"B", 8)
        connection.refresh()
    assert server.after == [b"NOOP", b"LOGOUT"]


def test_a_scan_and_bodies_of_one_request_are_told_apart() -> None:
    def play(peer: Peer) -> None:
        first, scan, fetch, again = peer.expect(b"SELECT", b"UID FETCH 1:2 (UID FLAGS", b"UID FETCH 2 ", b"SELECT")
        peer.say(
            opened(first, keywords=b"$a") + line(1) + body(2, b"two") + line(2) + done(scan, fetch) + opened(again)
        )

    requests = [FetchRequest(b"A", [2], 5, [1, 2], anew=True), FetchRequest(b"A", [], 0, anew=True)]
    with Played(play) as server, TargetConnection(server.account) as connection:
        first, second = connection.look_back(requests)
        assert [envelope.uid for envelope in first.scan] == [1, 2]
        assert (raws(first), first.keywords, second.keywords) == ({2: b"two"}, frozenset({"$a"}), None)
        connection.refresh()


@SIDES
@pytest.mark.parametrize("status", [b"NO [SERVERBUG] cannot", b"BAD no"])
def test_a_fetch_refused_between_others_is_its_own_requests_failure(side: Side, status: bytes) -> None:
    def play(peer: Peer) -> None:
        first, a, b, c = peer.expect(verb_of(side), b"UID FETCH 1 ", b"UID FETCH 2:3 ", b"UID FETCH 4 ")
        peer.say(opened(first) + body(1, b"one") + body(3, b"three") + body(4, b"four"))
        peer.say(done(a) + b + b" " + status + b"\r\n" + done(c))

    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(b"A", uids, 9) for uids in ([1], [2, 3], [4])]))
        assert [raws(each) for each in found] == [{1: b"one"}, {3: b"three"}, {4: b"four"}]
        assert [each.refused and each.refused.status for each in found] == [None, status.split()[0].decode(), None]
        assert not any(each.failure for each in found)
        connection.refresh()


@SIDES
@pytest.mark.parametrize("stays_open", [True, False])
def test_nothing_of_another_folder_is_given_out_for_one_that_is_refused(side: Side, stays_open: bool) -> None:
    """A server that keeps the last folder open answers the same UIDs, of other messages."""

    def play(peer: Peer) -> None:
        a, a1, b, b1, b2 = peer.expect(verb_of(side), b"UID FETCH 1 ", verb_of(side), b"UID FETCH 1 ", b"UID FETCH 2 ")
        c, c1 = peer.expect(verb_of(side), b"UID FETCH 1 ")
        peer.say(opened(a) + body(1, b"a1") + done(a1))
        peer.say(b"* OK [UIDVALIDITY 99] b\r\n* OK [PERMANENTFLAGS (\\*)] b\r\n" + b + b" NO [NONEXISTENT] no\r\n")
        if stays_open:
            peer.say(body(1, b"a1") + done(b1) + body(2, b"a2") + done(b2))
        else:
            peer.say(b1 + b" BAD nothing open\r\n" + b2 + b" BAD nothing open\r\n")
        peer.say(b"* 1 EXISTS\r\n" + done(c) + body(1, b"c1") + done(c1))

    wishes = [(b"A", 1), (b"B", 1), (b"B", 2), (b"C", 1)]
    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(raw, [uid], 9) for raw, uid in wishes]))
        assert [raws(each) for each in found] == [{1: b"a1"}, {}, {}, {1: b"c1"}]
        assert [bool(each.failure) for each in found] == [False, True, True, False]
        assert [each.failure.where for each in found if each.failure] == ["B", "B"]
        assert [each.uidvalidity for each in found] == [7, 0, 0, 0], "what was told of B is nothing that C told"
        assert found[3].keywords == frozenset()
        connection.refresh()


def test_a_folder_that_is_refused_last_leaves_none_open() -> None:
    def play(peer: Peer) -> None:
        a, a1, b, b1 = peer.expect(b"EXAMINE", b"UID FETCH", b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + body(1, b"a1") + done(a1) + b + b" NO no\r\n" + body(1, b"a1") + done(b1))
        [again] = peer.expect(b'EXAMINE "A"')
        [a1] = peer.expect(b"UID FETCH")
        peer.say(opened(again, 8) + body(1, b"new") + done(a1))

    with Played(play) as server, SourceConnection(server.account) as connection:
        list(connection.stream([FetchRequest(b"A", [1], 9), FetchRequest(b"B", [1], 9)]))
        assert (connection.selected, connection.uidvalidity) == (b"", 0)
        [found] = connection.stream([FetchRequest(b"A", [1], 9)])
        assert (raws(found), found.uidvalidity) == ({1: b"new"}, 8)


def test_a_folder_that_is_open_is_not_opened_again_unless_it_is_to_be() -> None:
    def play(peer: Peer) -> None:
        [a] = peer.expect(b"EXAMINE")
        peer.say(opened(a, 5))
        a1, again, a2 = peer.expect(b"UID FETCH 1 ", b"EXAMINE", b"UID FETCH 2 ")
        peer.say(body(1, b"one") + done(a1) + opened(again, 6) + body(2, b"two") + done(a2))

    with Played(play) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        requests = [FetchRequest(b"INBOX", [1], 9), FetchRequest(b"INBOX", [2], 9, anew=True)]
        found = list(connection.stream(requests))
        assert [(raws(each), each.uidvalidity) for each in found] == [({1: b"one"}, 5), ({2: b"two"}, 6)]


@SIDES
def test_in_a_stream_too_nothing_is_believed_that_nobody_asked_for(side: Side) -> None:
    def play(peer: Peer) -> None:
        a, a1, b, b1 = peer.expect(verb_of(side), b"UID FETCH 1:2 ", verb_of(side), b"UID FETCH 3 ")
        peer.say(body(1, b"early") + opened(a) + body(9, b"wrong") + body(3, b"not of A") + line(1))
        peer.say(body(1, b"one") + body(1, b"again") + b"* 1 FETCH (FLAGS ())\r\n" + done(a1))
        peer.say(opened(b) + body(2, b"late") + b"* 3 FETCH (UID 3 BODY[] NIL)\r\n" + body(3, b"again") + done(b1))

    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(b"A", [1, 2], 9), FetchRequest(b"B", [3], 9)]))
        assert [each.messages for each in found] == [[Message(1, b"one")], [Message(3, None)]]
        assert not any(each.scan for each in found)
        connection.refresh()


@pytest.mark.parametrize(
    "cut", [b"", b"* BYE [UNAVAILABLE] off\r\n", b"* 2 FETCH (UID 2 BODY[] {50}\r\nhalf", b"* 2 FE"]
)
def test_a_connection_that_ends_in_the_middle_of_a_stream_is_lost(cut: bytes) -> None:
    def play(peer: Peer) -> None:
        a, a1, _ = peer.expect(b"EXAMINE", b"UID FETCH", b"UID FETCH")
        peer.say(opened(a) + body(1, b"one") + done(a1) + cut)
        peer.cut()

    with Played(play) as server, SourceConnection(server.account) as connection:
        stream = connection.stream([FetchRequest(b"A", [1], 9), FetchRequest(b"A", [2], 9)])
        assert raws(next(stream)) == {1: b"one"}
        with pytest.raises(ConnectionLost):
            next(stream)


@pytest.mark.parametrize("garbled", [b"?OK x", b"?NO x", b"B999 OK x", b"TAG PERHAPS", b"", b"* 1 FETCH (UID"])
def test_a_garbled_answer_in_a_stream_is_a_lost_connection(garbled: bytes) -> None:
    def play(peer: Peer) -> None:
        a, a1 = peer.expect(b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + garbled.replace(b"TAG", a1) + b"\r\n")

    with Played(play) as server, SourceConnection(server.account) as connection, pytest.raises(ConnectionLost):
        list(connection.stream([FetchRequest(b"A", [1], 9)]))


class Meter:
    """Counts the commands that were sent and not yet answered when the client reads."""

    def __init__(self, connection: SourceConnection | TargetConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = 0
        send, read = connection._wire.send, connection._wire.read

        def sending(data: bytes) -> None:
            self._now += 1
            self.most = max(self.most, self._now)
            send(data)

        def reading(deadline: wire.Deadline) -> wire.Response:
            response = read(deadline)
            self._now -= response.segments[0].startswith(b"B")
            return response

        monkeypatch.setattr(wire.Wire, "send", lambda _, data: sending(data))
        monkeypatch.setattr(wire.Wire, "read", lambda _, deadline: reading(deadline))


SCATTERED = range(1_000_000, 1_020_000, 2)
"""So many UIDs with gaps that one request for them takes more commands than may be in flight."""


@pytest.mark.parametrize("uids", [[range(n, n + 1) for n in range(1, 200)], [SCATTERED, SCATTERED, range(1, 2)]])
def test_no_more_commands_are_in_flight_than_a_server_holds(monkeypatch: pytest.MonkeyPatch, uids: list[range]) -> None:
    """Some servers read the next command only after the last answer; whoever goes on sending waits for ever."""
    with Scripted() as server, TargetConnection(server.account) as connection:
        meter = Meter(connection, monkeypatch)
        requests = [FetchRequest(b"%d" % n, [], 0, list(some)) for n, some in enumerate(uids)]
        assert len(list(connection.look_back(requests))) == len(requests)
        assert 30 <= meter.most <= connection_module.COMMANDS_IN_FLIGHT
        connection.refresh()
        asked = [line.split(b" ")[3] for line in server.received if b" UID FETCH " in line]
        assert sum(1 + octets.count(b",") for octets in asked) == sum(
            1 if len(some) == 1 else len(some) for some in uids
        )


def test_commands_are_really_sent_ahead_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers nothing gets as many as may be in flight beside the one that is waited for."""
    monkeypatch.setattr(connection_module, "COMMANDS_IN_FLIGHT", 6)
    names = [b"%d" % n for n in range(12)]

    def play(peer: Peer) -> None:
        tags = peer.expect(*(b'STATUS "%b"' % name for name in names[:7]))
        for name, due in zip(names, [*names[7:], *[None] * 7], strict=True):
            peer.say(b"* STATUS %b (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3)\r\n" % name + done(tags.pop(0)))
            if due:
                tags += peer.expect(b'STATUS "%b"' % due)

    with Played(play) as server, SourceConnection(server.account) as connection:
        in_flight = connection._in_flight
        monkeypatch.setattr(connection, "_in_flight", lambda items, send: in_flight(items, send, at_once=6))
        assert list(connection.statuses(names)) == names


def test_content_is_asked_for_ahead_only_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "FETCH_AHEAD_BYTES", 100)

    def play(peer: Peer) -> None:
        a, one, two = peer.expect(b"EXAMINE", b"UID FETCH 1 ", b"UID FETCH 2 ")
        peer.say(opened(a) + body(1, b"one") + done(one))
        [three] = peer.expect(b"UID FETCH 3 ")
        peer.say(body(2, b"two") + done(two) + body(3, b"three") + done(three))

    with Played(play) as server, SourceConnection(server.account) as connection:
        before = connection._sent
        stream = connection.stream([FetchRequest(b"A", [uid], 50) for uid in (1, 2, 3)])
        found = [next(stream)]
        assert connection._sent - before == 3, "the third may be asked for only when the first is taken"
        found += stream
        assert [raws(each) for each in found] == [{1: b"one"}, {2: b"two"}, {3: b"three"}]
        connection.refresh()


def test_a_batch_that_is_not_complete_is_let_go_of() -> None:
    """A folder where of each batch one message is gone would be held in memory as a whole."""

    def play(peer: Peer) -> None:
        [a] = peer.expect(b"EXAMINE")
        peer.say(opened(a))
        for n in range(100):
            [tag] = peer.expect(b"UID FETCH ")
            peer.say(body(2 * n + 1, b"x") + done(tag))

    gc.collect()
    others = {id(each) for each in gc.get_objects() if isinstance(each, Fetched)}
    with Played(play) as server, SourceConnection(server.account) as connection:
        most = 0
        for n, _ in enumerate(connection.stream([FetchRequest(b"A", [2 * n + 1, 2 * n + 2], 1) for n in range(100)])):
            if n % 33:
                continue
            alive = sum(isinstance(each, Fetched) and id(each) not in others for each in gc.get_objects())
            most = max(most, alive)
        assert 1 <= most <= connection_module.COMMANDS_IN_FLIGHT // 3 + 3


# Many folders in flight


def named(name: str) -> Folder:
    return Folder(name.encode(), name, "/", frozenset())


def test_a_survey_goes_on_where_a_folder_cannot_be_opened_scanned_or_named() -> None:
    def play(peer: Peer) -> None:
        tags = peer.expect(*[b"EXAMINE", b"UID FETCH 1:* "] * 4)
        peer.say(opened(tags[0], 1) + line(2) + line(1) + done(tags[1]))
        peer.say(tags[2] + b" NO [NONEXISTENT] no\r\n" + line(1) + line(2) + done(tags[3]))
        peer.say(opened(tags[4], 3) + line(1) + tags[5] + b" NO Some messages could not be FETCHed\r\n")
        peer.say(opened(tags[6], 4) + line(9) + done(tags[7]))

    names = ["good", "closed", "a\r\nb", "torn", "last"]
    with Played(play) as server, SourceConnection(server.account) as connection:
        found = {folder.name: survey for folder, survey in connection.survey(map(named, names))}
        assert sorted(found) == sorted(names)
        good, last = found["good"], found["last"]
        assert isinstance(good, Surveyed)
        assert isinstance(last, Surveyed)
        assert ([e.uid for e in good.scan], good.opened.uidvalidity) == ([1, 2], 1)
        assert ([e.uid for e in last.scan], last.opened.uidvalidity) == ([9], 4)
        for name in ("closed", "torn", "a\r\nb"):
            error = found[name]
            assert isinstance(error, MigrationError)
            assert error.where == name
        assert isinstance(found["torn"], FolderError)
        assert isinstance(found["a\r\nb"], FolderError)
        assert (connection.selected, connection.uidvalidity) == (b"last", 4)
        connection.refresh()


def test_a_survey_that_is_cut_off_is_a_lost_connection() -> None:
    def play(peer: Peer) -> None:
        a, _, _, _ = peer.expect(b"EXAMINE", b"UID FETCH", b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + line(1) + b"* BYE [THROTTLED] slow down\r\n")

    with Played(play) as server, SourceConnection(server.account) as connection:
        with pytest.raises(ConnectionLost) as caught:
            list(connection.survey([named("A"), named("B")]))
        assert caught.value.cause_id == "throttled"


def test_folders_are_selected_in_flight_and_each_has_its_own_error() -> None:
    def play(peer: Peer) -> None:
        a, b, c, d = peer.expect(b'SELECT "A"', b'SELECT "B"', b'SELECT "C"', b'SELECT "D"')
        peer.say(opened(a, 1) + b + b" NO [NONEXISTENT] no\r\n" + opened(c, 3) + d + b" NO System busy!\r\n")

    with Played(play) as server, TargetConnection(server.account) as connection:
        a, b, c, d = dict(connection.select_each("ABCD")).values()
        assert isinstance(a, Selected)
        assert isinstance(b, MigrationError)
        assert isinstance(c, Selected)
        assert isinstance(d, ServerError)
        assert (a.uidvalidity, b.where, c.uidvalidity, d.cause_id) == (1, "B", 3, "throttled")
        assert (connection.selected, connection.uidvalidity) == (b"", 0)
        connection.refresh()


@pytest.mark.parametrize("busy", [False, True])
def test_folders_are_made_in_flight_and_each_refusal_is_its_own(busy: bool) -> None:
    def play(peer: Peer) -> None:
        tags = peer.expect(*[b"CREATE", b"SUBSCRIBE"] * 4)
        peer.say(done(tags[0]) + tags[1] + b" NO cannot subscribe\r\n")
        peer.say(tags[2] + b" NO [ALREADYEXISTS] is there\r\n" + done(tags[3]))
        peer.say(tags[4] + b" BAD Invalid characters in atom\r\n" + done(tags[5]))
        peer.say((tags[6] + b" NO System busy!\r\n" if busy else done(tags[6])) + done(tags[7]))

    with Played(play) as server, TargetConnection(server.account) as connection:
        if busy:
            with pytest.raises(ServerError) as caught:
                connection.create(["new", "old", "odd", "last"])
            assert caught.value.cause_id == "throttled"
        else:
            refused = connection.create(["new", "old", "odd", "last"])
            assert {name: error.where for name, error in refused.items()} == {"odd": "odd"}
        connection.refresh()


# Listing with STATUS


LISTED = b'* LIST () "/" inbox\r\n* LIST () "/" A\r\n* LIST () "/" B\r\n'
EACH = b"(MESSAGES 4 UIDNEXT 9 UIDVALIDITY 7)\r\n"


def test_the_status_of_each_folder_comes_with_the_listing_where_that_is_offered() -> None:
    def play(peer: Peer) -> None:
        [listing] = peer.expect(b'LIST "" "*" RETURN (STATUS (MESSAGES UIDNEXT UIDVALIDITY))')
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
        [listing] = peer.expect(b"LIST")
        peer.say(LISTED + done(listing))

    with Played(play, capabilities) as server, SourceConnection(server.account) as connection:
        found = connection.listing(statuses=b"LIST-STATUS" not in capabilities)
        assert (len(found.folders), found.statuses) == (3, None)
        assert server.after == [b'LIST "" ""']


@pytest.mark.parametrize("status", [b"NO", b"BAD"])
def test_a_listing_with_statuses_that_is_refused_is_asked_for_without(status: bytes) -> None:
    def play(peer: Peer) -> None:
        [listing] = peer.expect(b'LIST "" "*" RETURN (STATUS')
        peer.say(listing + b" " + status + b" what?\r\n")
        [listing] = peer.expect(b'LIST "" "*"')
        peer.say(LISTED + done(listing))

    with Played(play, b"IMAP4rev1 LIST-EXTENDED LIST-STATUS") as server, SourceConnection(server.account) as connection:
        found = connection.listing(statuses=True)
        assert (len(found.folders), found.statuses) == (3, None)
        connection.refresh()


def test_a_listing_that_is_refused_leaves_the_connection_in_step() -> None:
    def play(peer: Peer) -> None:
        namespace, listing, special = peer.expect(b"NAMESPACE", b'LIST "" "*"', b"LIST (SPECIAL-USE)")
        peer.say(done(namespace) + listing + b" NO no\r\n" + done(special))

    capabilities = b"IMAP4rev1 NAMESPACE SPECIAL-USE LIST-EXTENDED"
    with Played(play, capabilities) as server, SourceConnection(server.account) as connection:
        with pytest.raises(MigrationError):
            connection.listing()
        connection.refresh()


# Appending one message a command


def letters(*sizes: int) -> list[Outgoing]:
    return [Outgoing(bytes([65 + n]) * size, frozenset(), "") for n, size in enumerate(sizes)]


def uids(outcomes: list[tuple[int, list[int]] | Refused]) -> list[object]:
    return [each.status if isinstance(each, Refused) else each for each in outcomes]


def test_the_next_message_is_announced_before_the_last_one_is_answered() -> None:
    def play(peer: Peer) -> None:
        answer = b""
        for n, size in enumerate((5, 70_000, 0)):
            [tag] = peer.expect(b'APPEND "A" {%d}' % size)
            peer.say(answer + b"+ go\r\n")
            assert peer.octets(size + 2) == bytes([65 + n]) * size + b"\r\n"
            answer = b"* %d EXISTS\r\n" % n + tag + b" OK [APPENDUID 7 %d] done\r\n" % (n + 1)
        peer.say(answer)

    with Played(play, b"IMAP4rev1 UIDPLUS") as server, TargetConnection(server.account) as connection:
        assert uids(list(connection.append_each("A", letters(5, 70_000, 0)))) == [(7, [1]), (7, [2]), (7, [3])]
        connection.refresh()


@pytest.mark.parametrize("refused", [0, 1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_message_that_is_refused_before_or_after_its_octets_costs_no_other(after: bool, refused: int) -> None:
    def play(peer: Peer) -> None:
        answer = b""
        for n in range(3):
            [tag] = peer.expect(b"APPEND")
            if n == refused and not after:
                peer.say(answer + tag + b" NO [TOOBIG] no\r\n")
                answer = b""
                continue
            peer.say(answer + b"+ go\r\n")
            assert peer.octets(7) == bytes([65 + n]) * 5 + b"\r\n"
            answer = tag + (b" NO [OVERQUOTA] no\r\n" if n == refused else b" OK [APPENDUID 7 %d] x\r\n" % n)
        peer.say(answer)

    with Played(play, b"IMAP4rev1 UIDPLUS") as server, TargetConnection(server.account) as connection:
        found = uids(list(connection.append_each("A", letters(5, 5, 5))))
        assert found == ["NO" if n == refused else (7, [n]) for n in range(3)]
        connection.refresh()


@pytest.mark.parametrize(
    ("capability", "marks"),
    [(b"LITERAL+", b"+++"), (b"LITERAL-", b"++ "), (b"LITERAL+ LITERAL-", b"+++"), (b"", b"   ")],
)
def test_a_literal_goes_unannounced_where_the_server_takes_it_so(capability: bytes, marks: bytes) -> None:
    sizes = (1, 4096, 4097)

    def play(peer: Peer) -> None:
        answer = b""
        for size, mark in zip(sizes, marks, strict=True):
            plus = b"+" if mark == ord("+") else b""
            [tag] = peer.expect(b'APPEND "A" {%d%b}' % (size, plus))
            peer.say(answer + (b"" if plus else b"+ go\r\n"))
            assert len(peer.octets(size + 2)) == size + 2
            answer = done(tag)
        peer.say(answer)

    with Played(play, b"IMAP4rev1 " + capability) as server, TargetConnection(server.account) as connection:
        assert uids(list(connection.append_each("A", letters(*sizes)))) == [(0, [])] * 3
        connection.refresh()


@pytest.mark.parametrize("where", ["announced", "sent", "answered"])
def test_a_connection_cut_while_messages_are_appended_is_lost(where: str) -> None:
    def play(peer: Peer) -> None:
        [first] = peer.expect(b"APPEND")
        peer.say(b"+ go\r\n")
        peer.octets(7)
        peer.expect(b"APPEND")
        if where != "announced":
            peer.say(done(first))
        if where == "answered":
            peer.say(b"+ go\r\n")
            peer.octets(7)
        peer.cut()

    with Played(play, b"IMAP4rev1") as server, TargetConnection(server.account) as connection:
        arriving = connection.append_each("A", letters(5, 5))
        if where != "announced":
            assert next(arriving) == (0, [])
        with pytest.raises(ConnectionLost):
            list(arriving)


# Few round trips before the first command and none after the last


@pytest.mark.parametrize("refusal", [b" OK", b" NO who?", b" BAD what?"])
def test_signing_in_takes_one_command_and_its_answer_tells_what_is_offered(refusal: bytes) -> None:
    """The server is told who we are without waiting: the next command is there before ID is answered."""

    def play(peer: Peer) -> None:
        [asked] = peer.expect(b"CAPABILITY")
        peer.say(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\r\n" + asked + b" OK done\r\n")
        [login] = peer.expect(b"AUTHENTICATE PLAIN AGxpbkBvbGQuZXhhbXBsZQBTM2NyZXQtY2FuYXJ5")
        peer.say(login + b" OK [capability IMAP4rev1 ID X-After] in\r\n")
        told, examine = peer.expect(b'ID ("name" "Banjia")', b"EXAMINE")
        peer.say(b"* ID NIL\r\n" + told + refusal + b"\r\n" + opened(examine))

    with Played(play, b"") as server, SourceConnection(server.account) as connection:
        assert connection.capabilities == {"IMAP4REV1", "ID", "X-AFTER"}
        assert connection.examine(INBOX).uidvalidity == 7
        connection.refresh()
    assert server.after == [b"NOOP", b"LOGOUT"]


def test_an_answer_to_the_login_that_tells_nothing_is_followed_by_the_question() -> None:
    def play(peer: Peer) -> None:
        [asked] = peer.expect(b"CAPABILITY")
        peer.say(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR ID\r\n" + asked + b" OK done\r\n")
        [login] = peer.expect(b"AUTHENTICATE PLAIN ")
        peer.say(login + b" OK in\r\n")
        asked, told = peer.expect(b"CAPABILITY", b"ID ")
        peer.say(b"* CAPABILITY IMAP4rev1 X-After\r\n" + done(asked) + told + b" NO who?\r\n")

    with Played(play, b"") as server, SourceConnection(server.account) as connection:
        assert connection.capabilities == {"IMAP4REV1", "X-AFTER"}
        connection.refresh()


def test_without_sasl_ir_the_password_goes_when_it_is_asked_for() -> None:
    def play(peer: Peer) -> None:
        [asked] = peer.expect(b"CAPABILITY")
        peer.say(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + asked + b" OK done\r\n")
        [login] = peer.expect(b"AUTHENTICATE PLAIN")
        peer.say(b"+ \r\n")
        assert peer.line() == b"AGxpbkBvbGQuZXhhbXBsZQBTM2NyZXQtY2FuYXJ5"
        peer.say(login + b" OK [CAPABILITY IMAP4rev1 X-After] in\r\n")

    with Played(play, b"") as server, SourceConnection(server.account) as connection:
        assert connection.has("X-AFTER")
        connection.refresh()


def test_goodbye_is_said_and_not_waited_for() -> None:
    """The answer never comes; the client is gone by itself."""

    def play(peer: Peer) -> None:
        peer.expect(b"LOGOUT")
        assert peer.line() == b""

    with Played(play) as server:
        SourceConnection(server.account).close()
