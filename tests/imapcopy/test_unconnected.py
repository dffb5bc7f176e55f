"""What a server shows of itself that could not be talked to."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imapcopy import unconnected
from imapcopy.account import Account, Security, Server
from imapcopy.errors import MigrationError
from imapcopy.source_connection import SourceConnection
from imapcopy.unconnected import banner, certificate_names, hint_of, near_host, old_versions, protocol_of
from models.hints import Hint
from tests.servers.certificates import Authority, Certificate, self_signed
from tests.servers.dovecot import DEADLINE


@pytest.fixture(autouse=True)
def _unseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ports are used again, by other servers; and what is told in a test is waited for, however long that takes."""
    monkeypatch.setattr(unconnected, "LOOK_SECONDS", DEADLINE)
    looks = banner, certificate_names, old_versions
    for looked in looks:
        looked.cache_clear()
    yield
    for looked in looks:
        looked.cache_clear()


@contextmanager
def saying(words: bytes, heard: list[bytes], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that says this to everybody, and keeps what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            plain.settimeout(DEADLINE)
            try:
                with context.wrap_socket(plain, server_side=True) if context else plain as line:
                    if words:
                        line.sendall(words)
                    heard.append(line.recv(1000))
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(DEADLINE)


def refused(port: int, security: Security = "tls", ca_file: Path | None = None) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        SourceConnection(Account(Server("127.0.0.1", port, security, ca_file=ca_file), "lin", "hunter2"))
    return caught.value


@pytest.fixture
def serve_tls(tmp_path: Path) -> Callable[[Certificate], ssl.SSLContext]:
    def made(certificate: Certificate) -> ssl.SSLContext:
        (tmp_path / "chain.pem").write_bytes(certificate.chain)
        (tmp_path / "key.pem").write_bytes(certificate.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
        return context

    return made


def test_the_names_in_a_certificate_for_another_host_are_told_and_no_password_is_sent(
    serve_tls: Callable[[Certificate], ssl.SSLContext], tmp_path: Path
) -> None:
    authority, heard = Authority(), list[bytes]()
    (tmp_path / "ca.pem").write_bytes(authority.root)
    context = serve_tls(authority.issue("*.qiye.corp.example", "qiye.corp.example"))
    with saying(b"* OK ready\r\n", heard, context) as port:
        failure = refused(port, ca_file=tmp_path / "ca.pem")
    assert failure.cause_id == "tls_cert"
    names = ("*.qiye.corp.example", "qiye.corp.example")
    assert failure.hint == Hint("certificate_names", {"names": names, "host": "127.0.0.1"})
    assert not any(heard)


def test_a_self_signed_certificate_is_told(serve_tls: Callable[[Certificate], ssl.SSLContext]) -> None:
    with saying(b"* OK ready\r\n", [], serve_tls(self_signed())) as port:
        failure = refused(port)
    assert (failure.cause_id, failure.hint) == ("tls_cert", Hint("certificate_self_signed"))


@pytest.mark.parametrize(
    ("words", "kind", "protocol"),
    [
        (b"+OK POP3 ready\r\n", "other_protocol", "POP3"),
        (b"220 mx.corp.example ESMTP\r\n", "other_protocol", "SMTP"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "other_protocol", "HTTP"),
        (b"* OK IMAP ready\r\n", "no_tls_on_port", ""),
    ],
)
def test_who_answers_in_clear_text_where_tls_was_expected_is_told(words: bytes, kind: str, protocol: str) -> None:
    with saying(words, []) as port:
        failure = refused(port)
    assert failure.cause_id == "wrong_port"
    assert failure.hint
    assert failure.hint.kind == kind
    assert failure.hint.values["port"] == str(port)
    assert failure.hint.values.get("protocol", "") == protocol


@pytest.mark.parametrize(("words", "protocol"), [(b"+OK ready\r\n", "POP3"), (b"220 mx ESMTP\r\n", "SMTP")])
def test_who_answers_inside_tls_is_told_by_its_greeting(
    serve_tls: Callable[[Certificate], ssl.SSLContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: bytes,
    protocol: str,
) -> None:
    # In clear text it says nothing.
    monkeypatch.setattr(unconnected, "LOOK_SECONDS", 0.1)
    authority, heard = Authority(), list[bytes]()
    (tmp_path / "ca.pem").write_bytes(authority.root)
    with saying(words, heard, serve_tls(authority.issue())) as port:
        failure = refused(port, ca_file=tmp_path / "ca.pem")
    assert failure.cause_id == "wrong_port"
    if protocol == "SMTP":
        assert failure.hint == Hint("other_protocol", {"port": str(port), "protocol": protocol, "right": "993"})
    assert not any(b"hunter2" in each for each in heard)


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("imap.fishu.cn", "imap.feishu.cn"),
        ("imap.gmial.com", "imap.gmail.com"),
        ("IMAP.QQ.CON", "imap.qq.com"),
        ("imap.feishu.cn", None),
        ("mail.corp.example", None),
        ("192.0.2.7", None),
    ],
)
def test_a_name_that_is_nearly_a_providers_is_suggested(host: str, near: str | None) -> None:
    hint = near_host(host)
    assert (hint.values["near"] if hint else None) == near


def test_well_known_ports_tell_when_nobody_says_anything() -> None:
    assert hint_of("connect_failed", TimeoutError(), "timed out", Server("127.0.0.1", 993, "starttls")) == Hint(
        "tls_on_port", {"port": "993"}
    )
    assert hint_of("unclassified", OSError(), "", Server("127.0.0.1", 993)) is None


@pytest.mark.parametrize(
    ("octets", "protocol"),
    [
        (b"+OK", "POP3"),
        (b"220-x", "SMTP"),
        (b"\r\n<html>", "HTTP"),
        (b"SSH-2.0-x", "SSH"),
        (b"", ""),
        (b"\x15\x03", ""),
    ],
)
def test_a_banner_is_somebodys(octets: bytes, protocol: str) -> None:
    assert protocol_of(octets) == protocol


def test_old_versions_of_tls_are_told(serve_tls: Callable[[Certificate], ssl.SSLContext]) -> None:
    context = serve_tls(self_signed())
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with saying(b"* OK ready\r\n", [], context) as port:
        failure = refused(port)
    assert failure.cause_id == "tls_protocol"
    assert failure.hint == Hint("tls_versions", {"offered": ("TLS 1.1",)})
