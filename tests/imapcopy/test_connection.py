"""The one door to IMAP, against servers that are right, strict, odd and hostile."""

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
from imapcopy.connection import Outgoing, SourceConnection, TargetConnection
from imapcopy.errors import ConnectionLost, FolderError, MemberError, MigrationError, Refused, ServerError
from imapcopy.folders import Folder
from tests.imapcopy.scripted import Scripted
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
