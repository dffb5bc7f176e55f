"""A mail server on loopback that keeps what it takes, and can be told to refuse or to hang up at a step."""

import asyncio
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Protocol  # noqa: N811
from aiosmtpd.smtp import AuthResult, Envelope, Session

from tests.servers.certificates import Certificate
from tests.servers.dovecot import DEADLINE

USER, PASSWORD = "notices@corp.example", "canary-smtp-password,1"

Answer = Callable[[str, str], str | None]
"""Given a step (MAIL, RCPT, DATA, END) and what it is about; a reply to give in place of the usual one, or HANG_UP."""
HANG_UP = "hang up"


def usual(_step: str, _about: str) -> str | None:
    return None


@dataclass
class MailSink:
    """What the server was handed."""

    answer: Answer = usual
    taken: list[EmailMessage] = field(default_factory=list)
    """Messages that were answered with 250, and those that arrived whole before the server hung up."""
    recipients: list[str] = field(default_factory=list)
    sign_ins: list[str] = field(default_factory=list)
    sign_in_refusal: str = ""
    """What every sign-in is answered with; "" looks at the password."""
    connections: int = 0
    port: int = 0

    def to(self, recipient: str) -> list[EmailMessage]:
        return [message for message in self.taken if message["To"] == recipient]


class _Handler:
    def __init__(self, sink: MailSink) -> None:
        self.sink = sink

    async def handle_MAIL(
        self, server: Protocol, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if (said := self._instead(server, "MAIL", address)) is not None:
            return said
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: Protocol, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if (said := self._instead(server, "RCPT", address)) is not None:
            return said
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Protocol, _session: Session, envelope: Envelope) -> str:
        message = message_from_bytes(bytes(envelope.content or b""), policy=policy.default)
        assert isinstance(message, EmailMessage)
        said = self.sink.answer("END", envelope.rcpt_tos[0])
        if said is None or said == HANG_UP:
            self.sink.taken.append(message)
            self.sink.recipients += envelope.rcpt_tos
        if said == HANG_UP:
            _hang_up(server)
        return said or "250 OK"

    def _instead(self, server: Protocol, step: str, about: str) -> str | None:
        said = self.sink.answer(step, about)
        if said == HANG_UP:
            _hang_up(server)
        return said


def _hang_up(server: Protocol) -> None:
    assert server.transport is not None
    server.transport.abort()


class _Server(Protocol):
    """Asks the sink before it lets the content come, too."""

    async def smtp_DATA(self, arg: str) -> None:
        about = self.envelope.rcpt_tos[0] if self.envelope.rcpt_tos else ""
        said = self.event_handler.sink.answer("DATA", about)
        if said == HANG_UP:
            _hang_up(self)
        elif said:
            await self.push(said)
        else:
            await super().smtp_DATA(arg)


class _Controller(Controller):
    def __init__(self, sink: MailSink, **options: Any) -> None:
        self._options = options
        self._sink = sink
        self._servers: list[_Server] = []
        tls = options.pop("implicit", None)
        super().__init__(_Handler(sink), hostname="127.0.0.1", port=0, ssl_context=tls, ready_timeout=DEADLINE)

    def factory(self) -> Protocol:
        self._sink.connections += 1
        self._servers.append(_Server(self.handler, hostname="mail.corp.example", **self._options))
        return self._servers[-1]

    def stop(self, no_assert: bool = False) -> None:
        asyncio.run_coroutine_threadsafe(self._end_connections(), self.loop).result(DEADLINE)
        super().stop(no_assert)

    async def _end_connections(self) -> None:
        """What is open when the loop ends says so when it is collected, and another test fails for it."""
        for each in self.server.sockets if self.server else ():
            self.loop.remove_reader(each.fileno())
        # One that has only just come gets as far as to be known here.
        for _ in range(5):
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            if server.transport:
                server.transport.abort()

    def _trigger_server(self) -> None:
        # Port 0: aiosmtpd would try to connect to it.
        self.port = self.server.sockets[0].getsockname()[1] if self.server else self.port
        super()._trigger_server()


@contextmanager
def running_smtp(
    *, tls: Certificate | None = None, starttls: Certificate | None = None, sign_in: bool = False
) -> Iterator[MailSink]:
    """A server for one test; `tls` and `starttls` give it a certificate, with `sign_in` it wants USER and PASSWORD."""
    sink = MailSink()
    options: dict[str, Any] = {}
    if tls:
        options["implicit"] = _context(tls)
    if starttls:
        options |= {"tls_context": _context(starttls), "require_starttls": True}
    if sign_in:

        def look(_server: Any, _session: Any, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
            sink.sign_ins.append(mechanism)
            good = not sink.sign_in_refusal and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
            refused = AuthResult(success=False, handled=False, message=sink.sign_in_refusal or None)
            return AuthResult(success=True) if good else refused

        options |= {"authenticator": look, "auth_required": True, "auth_require_tls": False}
    controller = _Controller(sink, **options)
    controller.start()
    sink.port = controller.port
    try:
        yield sink
    finally:
        controller.stop()


def _context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "server.pem")
        file.write_bytes(certificate.chain + certificate.key)
        context.load_cert_chain(file)
    return context
