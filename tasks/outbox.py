"""The only door to mail servers: signs in once, hands one mail after the other over, and says what is known of each."""

import contextlib
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from imapcopy.account import Security, Server
from imapcopy.redaction import redact
from models.bilingual import Text
from tasks.handed_over import HandedOver, Outcome
from tasks.notice_mail import Mail, composed, sender_address
from tasks.settings import Settings, SettingUnusable, read_secret

SMTP_SECRET = "smtp"  # noqa: S105  (a name)
"""What the vault calls the mail server's password."""
PORTS: dict[Security, int] = {"tls": 465, "starttls": 587, "plain": 25}
REPLY_SECONDS = 60
FINAL_REPLY_SECONDS = 600
"""RFC 5321 section 4.5.3.2.6: a server may take ten minutes to say that it has a message."""
TROUBLE_WAIT = timedelta(minutes=30)
SIGN_IN_REFUSED_WAIT = timedelta(hours=4)
"""A password that is wrong stays wrong, and each try counts towards locking the account."""
_SERVICE_CLOSES = 421
_BEGIN_DATA = 354
_SIGN_IN_MECHANISMS = ("PLAIN", "LOGIN")
_MAILBOX_CODES = {550, 551, 553, 556}
"""Answers to RCPT about the recipient: none of that name, moved, not allowed, takes no mail (RFC 5321, RFC 7504)."""
_POLICY = b"5.7."
"""RFC 3463: security or policy, which is about us, whatever the code before it."""


class ServerTrouble(Exception):
    """The mail server cannot be reached, or does not let us in: nothing was handed over. Its text holds no secret."""

    def __init__(self, said: str, wait: timedelta = TROUBLE_WAIT) -> None:
        super().__init__(said)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class MailServer:
    """Who sends our mail, and as whom."""

    server: Server
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)

    def redacted(self, text: str) -> str:
        return redact(text, [self.password])


def mail_server(settings: Settings, stored: Callable[[str], str | None]) -> MailServer | None:
    """The mail server of the settings; None when there is none, SettingUnusable when it cannot be used.

    `stored` gives a secret of the vault by its name.
    """
    if not settings.smtp_host:
        return None
    try:
        sender_address(settings.mail_from)
    except ValueError:
        raise SettingUnusable(
            Text(
                "BANJIA_MAIL_FROM 不是可用的发件人，请写成“邮箱搬家 <it@corp.example>”。",
                "BANJIA_MAIL_FROM is no sender; write one such as: IT <it@corp.example>",
            )
        ) from None
    return MailServer(_server(settings), settings.mail_from, settings.smtp_user, _password(settings, stored))


def _server(settings: Settings) -> Server:
    security = settings.smtp_security
    server = Server(
        settings.smtp_host,
        settings.smtp_port or PORTS[security],
        security,
        settings.ca_file,
        plain_allowed=settings.smtp_host.lower() in {name.lower() for name in settings.plain_hosts},
    )
    if security == "plain" and not (server.is_loopback or server.plain_allowed):
        raise SettingUnusable(
            Text(
                f"发信服务器 {server.host} 未加密。请改用 tls 或 starttls，或把它写进 BANJIA_PLAIN_HOSTS。",
                f"The mail server {server.host} would be spoken to in clear text. Use tls or starttls, or name it in "
                "BANJIA_PLAIN_HOSTS.",
            )
        )
    return server


def _password(settings: Settings, stored: Callable[[str], str | None]) -> str:
    if not settings.smtp_user:
        return ""
    file = settings.smtp_password_file
    password = read_secret(file).strip() if file else stored(SMTP_SECRET) or ""
    if not password:
        raise SettingUnusable(
            Text(
                f"没有 {settings.smtp_user} 的密码。请运行：banjia vault set {SMTP_SECRET}",
                f"There is no password for {settings.smtp_user}. Run: banjia vault set {SMTP_SECRET}",
            )
        )
    if not (settings.smtp_user + password).isascii():
        raise SettingUnusable(
            Text(
                "发信服务器的账号和密码只能含 ASCII 字符。",
                "Login and password of the mail server can hold ASCII characters only.",
            )
        )
    return password


class Outbox:
    """A signed-in connection to the mail server."""

    def __init__(self, smtp: smtplib.SMTP, of: MailServer) -> None:
        self._smtp = smtp
        self._of = of

    def hand_over(self, mail: Mail) -> HandedOver:
        """Hand one mail over. ServerTrouble when the server wants no mail from us at all, whoever it is for."""
        try:
            message = composed(mail, self._of.sender)
        except ValueError:
            return HandedOver(Outcome.BOUNCED, "this address cannot stand in a mail header")
        sender, recipient = (message[header].addresses[0].addr_spec for header in ("From", "To"))
        try:
            refusal = self._announced(sender, recipient)
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            raise ServerTrouble(self._broken(error)) from None
        if refusal is not None:
            return refusal
        # As sendmail would send it, but for the end: only with that can the server take it (RFC 5321 section 4.1.1.4).
        content = re.sub(rb"(?m)^\.", b"..", message.as_bytes())
        try:
            self._smtp.send(content)
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            return HandedOver(Outcome.LATER, self._broken(error))
        try:
            if self._smtp.sock is not None:
                self._smtp.sock.settimeout(FINAL_REPLY_SECONDS)
            self._smtp.send(b".\r\n")
            code, said = self._smtp.getreply()
            if self._smtp.sock is not None:
                self._smtp.sock.settimeout(REPLY_SECONDS)
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            return HandedOver(Outcome.UNKNOWN, self._broken(error))
        return self._meant(code, said)

    def _announced(self, sender: str, recipient: str) -> HandedOver | None:
        """Announce one mail; what the server has against it, or None when it waits for the content."""
        if not self._smtp.sock:
            raise smtplib.SMTPServerDisconnected("the server has closed the connection")
        code, said = self._smtp.mail(sender)
        if code != 250:
            # About the sender, so about every mail.
            raise ServerTrouble(self._reply(code, said))
        code, said = self._smtp.rcpt(recipient)
        if code not in (250, 251):
            if code == _SERVICE_CLOSES:
                raise ServerTrouble(self._reply(code, said))
            self._smtp.rset()
            bounced = code in _MAILBOX_CODES and not said.startswith(_POLICY)
            return HandedOver(Outcome.BOUNCED, self._reply(code, said)) if bounced else self._meant(code, said)
        code, said = self._smtp.docmd("DATA")
        if code != _BEGIN_DATA:
            if code == _SERVICE_CLOSES:
                raise ServerTrouble(self._reply(code, said))
            self._smtp.rset()
            return self._meant(code, said)
        return None

    def _meant(self, code: int, said: bytes) -> HandedOver:
        if 200 <= code < 300:
            return HandedOver(Outcome.SENT)
        return HandedOver(Outcome.LATER if 400 <= code < 500 else Outcome.REFUSED, self._reply(code, said))

    def _reply(self, code: int, said: bytes) -> str:
        return self._of.redacted(f"{code} {said.decode(errors='replace')}")

    def _broken(self, error: Exception) -> str:
        """End the connection, on which the next words might be read as a part of this mail; returns why."""
        self._smtp.close()
        return self._of.redacted(str(error) or type(error).__name__)


@contextlib.contextmanager
def outbox(of: MailServer) -> Iterator[Outbox]:
    """Connect and sign in, once and in one way: each refusal counts towards locking the account."""
    try:
        smtp = _connected(of)
    except smtplib.SMTPResponseException as refused:
        said = of.redacted(f"{refused.smtp_code} {_text(refused.smtp_error)}")
        wrong = isinstance(refused, smtplib.SMTPAuthenticationError) and refused.smtp_code >= 500
        raise ServerTrouble(said, SIGN_IN_REFUSED_WAIT if wrong else TROUBLE_WAIT) from None
    except (smtplib.SMTPException, OSError) as error:
        raise ServerTrouble(
            of.redacted(f"{of.server.host}:{of.server.port}: {error or type(error).__name__}")
        ) from None
    try:
        yield Outbox(smtp, of)
    finally:
        try:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                smtp.quit()
        finally:
            smtp.close()


def _connected(of: MailServer) -> smtplib.SMTP:
    server = of.server
    context = ssl.create_default_context()
    if server.ca_file:
        context.load_verify_locations(server.ca_file)
    smtp: smtplib.SMTP
    if server.security == "tls":
        smtp = smtplib.SMTP_SSL(server.host, server.port, timeout=REPLY_SECONDS, context=context)
    else:
        smtp = smtplib.SMTP(server.host, server.port, timeout=REPLY_SECONDS)
    try:
        if server.security == "starttls":
            smtp.starttls(context=context)  # raises when the server does not offer it
        smtp.ehlo_or_helo_if_needed()
        if smtp.sock is not None:
            # The final dot is a segment of its own, which would wait for the other side's delayed acknowledgement.
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if of.user:
            _sign_in(smtp, of)
    except BaseException:
        smtp.close()
        raise
    return smtp


def _sign_in(smtp: smtplib.SMTP, of: MailServer) -> None:
    offered = smtp.esmtp_features.get("auth", "").split()
    smtp.user, smtp.password = of.user, of.password
    for name, method in zip(_SIGN_IN_MECHANISMS, (smtp.auth_plain, smtp.auth_login), strict=True):
        if name in offered:
            smtp.auth(name, method)
            return
    raise smtplib.SMTPNotSupportedError("the server offers no sign-in that we know (PLAIN, LOGIN)")


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said
