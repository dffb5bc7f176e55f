"""Opening a connection: certificates, passwords, what servers say of both, and the round trips it takes."""

import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, ImapServer
from imapcopy.account import Account, Server
from imapcopy.errors import MemberError, MigrationError, Refused, ServerError
from imapcopy.folders import Folder
from imapcopy.limits import DEFAULT, Limits
from imapcopy.source_connection import SourceConnection
from models.hints import Hint
from models.providers import use_providers
from tests.imapcopy.scripted import Peer, Played, Scripted, done, opened
from tests.imapcopy.world import LIN, PASSWORD, account_at, mail, moment
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


def test_the_service_that_was_told_says_which_is_tried_first_where_the_name_of_the_host_does_not(
    old: ImapServer,
) -> None:
    account = account_at(old, LIN)
    SourceConnection(replace(account, server=replace(account.server, provider="qq"))).close()
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
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("an address was looked up"))
    with pytest.raises(MemberError) as caught:
        SourceConnection(Account(Server("imap.example.com", 143, "plain"), LIN, PASSWORD))
    assert caught.value.cause_id == "clear_text_refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "two..dots.example", "x" * 70 + ".example"])
def test_a_host_without_an_address_is_named_so(host: str) -> None:
    with pytest.raises(ServerError) as caught:
        SourceConnection(Account(Server(host, 993), LIN, PASSWORD))
    assert caught.value.cause_id == "dns_error"


@pytest.fixture
def nobody() -> Iterator[tuple[str, int]]:
    """An address that refuses connections, and is kept from any server that looks for a free port meanwhile."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()


def test_a_closed_port_is_named_so(nobody: tuple[str, int]) -> None:
    with pytest.raises(ServerError) as caught:
        SourceConnection(Account(Server(*nobody, "plain"), LIN, PASSWORD))
    assert caught.value.cause_id == "connect_failed"


@pytest.mark.parametrize(
    ("greeting", "cause"),
    [
        (b"* BYE Too many connections from this host\r\n", "too_many_connections"),
        (b"* BYE [UNAVAILABLE] try again later\r\n", "mailbox_unavailable"),
        (b"+OK POP3 ready\r\n", "connect_failed"),
        (b"what?\r\n", "connect_failed"),
    ],
)
def test_a_greeting_that_is_none_is_a_failure_that_says_why(greeting: bytes, cause: str) -> None:
    with Scripted(greeting=greeting) as server, pytest.raises(MigrationError) as caught:
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


def test_a_certificate_that_names_its_host_in_the_old_way_alone_is_refused(
    serve_tls: Callable[[Certificate], ImapServer], authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.root)
    server = serve_tls(authority.issue_without_names("localhost"))
    with pytest.raises(MemberError) as caught:
        SourceConnection(account_at(server, LIN, host="localhost", security="tls", ca_file=tmp_path / "ca.pem"))
    assert caught.value.cause_id == "tls_cert"
    assert caught.value.hint == Hint("certificate_without_names", {"host": "localhost"})
    assert not server.log


def test_a_server_that_is_known_to_be_slow_gets_the_time_that_its_row_says(old: ImapServer) -> None:
    row = '[sluggish]\ntitle = { zh = "慢", en = "slow" }\nsilence_seconds = 400\nconnect_seconds = 2\n'
    use_providers(row, "providers.toml")
    try:
        account = account_at(old, LIN, provider="sluggish")
        with SourceConnection(replace(account, limits=Limits(connect_seconds=7))) as connection:
            limits = connection._dialogue.limits
        assert (limits.silence_seconds, limits.connect_seconds) == (400, 7)
        assert limits.answer_seconds == DEFAULT.answer_seconds
    finally:
        use_providers("", "")


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


def test_an_address_that_nobody_answers_at_gives_way_to_the_next_one(
    old: ImapServer, nobody: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names often have an IPv6 address too, and many networks lead nowhere with it (imapsync's FAQ on Gmail)."""
    asked: list[Any] = []
    look_up = socket.getaddrinfo

    def found(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if port != old.port:  # somebody else in this process
            return look_up(host, port, *rest, **more)
        asked.append(host)
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*stream, nobody), (*stream, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with SourceConnection(account_at(old, LIN)) as connection:
        assert connection.examine(INBOX).messages == 0
    assert asked == ["127.0.0.1"]


def test_a_login_that_hangs_is_a_matter_of_waiting_and_the_next_one_may_succeed(old: ImapServer) -> None:
    """Tencent's servers were seen to keep a login waiting for 45 seconds, and to take the next one at once."""
    old.behaviour.faults.append(Fault("AUTHENTICATE", Action.HANG, times=None))
    impatient = replace(account_at(old, LIN), limits=Limits(silence_seconds=0.3))
    while not old.commands("AUTHENTICATE"):  # which a busy machine may not come to in that time
        with pytest.raises(ServerError) as caught:
            SourceConnection(impatient)
        assert caught.value.retryable
    old.settle()
    hung = len(old.commands("AUTHENTICATE"))
    old.behaviour.faults.clear()
    SourceConnection(account_at(old, LIN)).close()
    assert len(old.commands("AUTHENTICATE")) == hung + 1


@pytest.mark.parametrize("status", [b"BAD", b"NO"])
def test_a_server_that_refuses_to_be_asked_is_believed_what_it_said_in_its_greeting(status: bytes) -> None:
    """One small host tells its capabilities in the greeting and takes no CAPABILITY before the login."""
    answers: dict[str, Any] = {"CAPABILITY": lambda rest: b"TAG " + status + b" not before you sign in\r\n"}
    greeting = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR UIDPLUS] ready\r\n"
    with Scripted(answers, greeting) as server, SourceConnection(server.account) as connection:
        assert connection.has("UIDPLUS")
        assert "AUTHENTICATE" in server.verbs()


def test_a_server_that_says_nothing_of_its_capabilities_is_none() -> None:
    answers: dict[str, Any] = {"CAPABILITY": lambda rest: b"TAG BAD not before you sign in\r\n"}
    with Scripted(answers) as server, pytest.raises(MigrationError):
        SourceConnection(server.account)
