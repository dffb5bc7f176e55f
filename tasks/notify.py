"""The only door to mail servers and group chats: hands one notice over, and says what is known of it afterwards.

A notice whose handing-over broke before the other side could have taken it is `LATER`; one that may have been taken is
`UNKNOWN`, and not tried again by itself. What the other side says is given on without our secrets.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import smtplib
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

from imapcopy.account import Security, Server
from imapcopy.errors import redact
from models.bilingual import Language, Text
from models.columns import now
from tasks.settings import Settings

if TYPE_CHECKING:
    from apprise import Apprise

SMTP_SECRET = "smtp"  # noqa: S105  (a name)
"""What the vault calls the mail server's password."""
PORTS: dict[Security, int] = {"tls": 465, "starttls": 587, "plain": 25}
REPLY_SECONDS = 60
FINAL_REPLY_SECONDS = 600
"""RFC 5321 section 4.5.3.2.6: a server may take ten minutes to say that it has a message."""
CHAT_SECONDS = 30
SIGN_IN_REFUSED_WAIT = timedelta(hours=4)
"""A password that is wrong stays wrong, and each try counts towards locking the account."""
LONGEST_ANSWER = 100_000

_SERVICE_CLOSES = 421
_BEGIN_DATA = 354
_SIGN_IN_MECHANISMS = ("PLAIN", "LOGIN")
_MAILBOX_CODES = {550, 551, 553, 556}
"""Answers to RCPT about the recipient: none of that name, moved, not allowed, takes no mail (RFC 5321, RFC 7504)."""
_POLICY = b"5.7."
"""RFC 3463: security or policy, which is about us, whatever the code before it."""


class Outcome(StrEnum):
    SENT = "sent"
    LATER = "later"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    BOUNCED = "bounced"
    """Refused because of the recipient."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What is known of a notice after it was handed over; `said` are the other side's words."""

    outcome: Outcome
    said: str = ""


class NoticesUnusable(Exception):
    """A setting of the notices, or a file that it names, cannot be used."""

    def __init__(self, told: Text) -> None:
        super().__init__(told.en)
        self.told = told


class ServerTrouble(Exception):
    """The mail server cannot be reached, or does not let us in: nothing was handed over. Its text holds no secret."""

    def __init__(self, said: str, wait: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(said)
        self.wait = wait


# Mail.


@dataclass(frozen=True, slots=True)
class MailServer:
    """Who sends our mail, and as whom."""

    server: Server
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)

    def redacted(self, text: str) -> str:
        forms = [f"\0{self.user}\0{self.password}", self.password] if self.password else []
        return redact(text, [self.password, *(base64.b64encode(form.encode()).decode() for form in forms)])


def mail_server(settings: Settings, stored: Callable[[str], str | None]) -> MailServer | None:
    """The mail server of the settings; None when there is none, NoticesUnusable when it cannot be used.

    `stored` gives a secret of the vault by its name.
    """
    if not settings.smtp_host:
        return None
    if not _addr_spec(settings.mail_from):
        raise NoticesUnusable(
            Text(
                "BANJIA_MAIL_FROM 不是可用的发件人，请写成“邮箱搬家 <it@corp.example>”。",
                "BANJIA_MAIL_FROM is no sender; write one such as: IT <it@corp.example>",
            )
        )
    security = settings.smtp_security
    server = Server(
        settings.smtp_host,
        settings.smtp_port or PORTS[security],
        security,
        settings.ca_file,
        plain_allowed=settings.smtp_host.lower() in {name.lower() for name in settings.plain_hosts},
    )
    if security == "plain" and not (server.is_loopback or server.plain_allowed):
        raise NoticesUnusable(
            Text(
                f"发信服务器 {server.host} 未加密。请改用 tls 或 starttls，或把它写进 BANJIA_PLAIN_HOSTS。",
                f"The mail server {server.host} would be spoken to in clear text. Use tls or starttls, or name it in "
                "BANJIA_PLAIN_HOSTS.",
            )
        )
    password = ""
    if settings.smtp_user:
        file = settings.smtp_password_file
        password = read_secret(file).strip() if file else stored(SMTP_SECRET) or ""
        if not password:
            raise NoticesUnusable(
                Text(
                    f"没有 {settings.smtp_user} 的密码。请运行：banjia vault set {SMTP_SECRET}",
                    f"There is no password for {settings.smtp_user}. Run: banjia vault set {SMTP_SECRET}",
                )
            )
        if not (settings.smtp_user + password).isascii():
            raise NoticesUnusable(
                Text(
                    "发信服务器的账号和密码只能含 ASCII 字符。",
                    "Login and password of the mail server can hold ASCII characters only.",
                )
            )
    return MailServer(server, settings.mail_from, settings.smtp_user, password)


def read_secret(file: Path) -> str:
    """What a file holds that only we may read; NoticesUnusable otherwise."""
    try:
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise NoticesUnusable(
                Text(
                    f"其他人可以读取 {file}，请运行：chmod 600 {file}",
                    f"{file} can be read by others; run: chmod 600 {file}",
                )
            )
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise NoticesUnusable(Text(f"无法读取 {file}：{why}", f"{file} cannot be read: {why}")) from None


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail, before it has a sender. `key` is the same for the same notice, however often it is handed over."""

    to: str
    subject: str
    text: str
    html: str
    language: Language
    key: str


def composed(mail: Mail, sender: str) -> EmailMessage:
    """The message. ValueError for an address that cannot stand in a header."""
    name, address = parseaddr(sender)
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(_no_encoded_words(name), addr_spec=_header_address(address))
    # Without a name: a display name that a member chose is no place to trust a header's quoting to.
    message["To"] = Address(addr_spec=_header_address(mail.to))
    message["Subject"] = _no_encoded_words(" ".join(mail.subject.split()))
    message["Date"] = format_datetime(now())
    # Stable, so that a mail that went out twice after all is shown once by most mail programs.
    message["Message-ID"] = f"<{mail.key}@{_domain(address)}>"
    # RFC 3834 section 5, and what Exchange asks for: no out-of-office answers.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(mail.text, cte="base64")
    message.add_alternative(mail.html, subtype="html", cte="base64")
    message["Content-Language"] = mail.language  # last: content fields of before have gone into the first part
    return message


def _no_encoded_words(text: str) -> str:
    """Break what looks like an encoded word: Python's mail package would decode it into the header, line ends too."""
    return text.replace("=?", "= ?")


class Outbox:
    """A signed-in connection to the mail server."""

    def __init__(self, smtp: smtplib.SMTP, of: MailServer) -> None:
        self._smtp = smtp
        self._of = of

    def hand_over(self, mail: Mail) -> HandedOver:
        """Hand one mail over. ServerTrouble when the server wants no mail from us at all, whoever it is for."""
        try:
            message = composed(mail, self._of.sender)
            sender, recipient = _envelope(self._of.sender), _envelope(mail.to)
        except (ValueError, MessageError, IndexError):
            return HandedOver(Outcome.BOUNCED, "this address cannot stand in a mail header")
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
    except smtplib.SMTPAuthenticationError as refused:
        said = of.redacted(f"{refused.smtp_code} {_text(refused.smtp_error)}")
        raise ServerTrouble(said, SIGN_IN_REFUSED_WAIT) from None
    except smtplib.SMTPResponseException as refused:
        raise ServerTrouble(of.redacted(f"{refused.smtp_code} {_text(refused.smtp_error)}")) from None
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


def _addr_spec(sender: str) -> str:
    address = parseaddr(sender)[1]
    return address if "@" in address.strip("@") else ""


def _domain(address: str) -> str:
    return address.rpartition("@")[2].encode("idna").decode()


def _header_address(address: str) -> str:
    local, _, _ = address.rpartition("@")
    if not local.isascii():
        raise ValueError("only servers with SMTPUTF8 (RFC 6531) take such an address, and few have it")
    return f"{local}@{_domain(address)}"


def _envelope(address: str) -> str:
    return _header_address(parseaddr(address)[1] or address)


# Group chats.


@dataclass(frozen=True, slots=True)
class Chat:
    """A group chat that an admin reads. The URL is the secret that lets us write there."""

    name: str
    """What it is called where everybody can read: its kind and a digest of its URL."""
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Robot:
    """How a chat service's own webhook is spoken to, and where in its answer it says that it took nothing.

    All of them answer 200 to what they refuse.
    """

    kind: str
    path: str
    payload: str
    """The name of the kind of message; the text is found below it."""
    code: str
    message: str
    busy: frozenset[int]
    """Codes of those who write too often."""


_ROBOTS = (
    _Robot("feishu", "/open-apis/bot/v2/hook/", "msg_type", "code", "msg", frozenset({11232, 9499, 99991400})),
    _Robot("dingtalk", "/robot/send", "msgtype", "errcode", "errmsg", frozenset({130101, 660026})),
    _Robot("wecom", "/cgi-bin/webhook/send", "msgtype", "errcode", "errmsg", frozenset({45009, -1})),
)
"""Lark is Feishu under another name."""

_REFUSALS: dict[tuple[str, int], Text] = {
    ("feishu", 19001): Text(
        "机器人已被删除或 webhook 地址不完整", "the robot was removed, or the address is not complete"
    ),
    ("feishu", 19021): Text(
        "签名不对：地址后加 ?secret= 和机器人的密钥", "wrong signature: append ?secret= and the robot's secret"
    ),
    ("feishu", 19022): Text("本机地址不在机器人的 IP 白名单中", "this machine is not on the robot's list of addresses"),
    ("feishu", 19024): Text("机器人的自定义关键词请设为“搬家”或 Move", "set the robot's keyword to 搬家 or Move"),
    ("dingtalk", 310000): Text(
        "机器人的安全设置拒绝：关键词设为“搬家”或 Move，或在地址后加 &secret=",
        "the robot's security refuses: set its keyword to 搬家 or Move, or append &secret=",
    ),
    ("dingtalk", 300001): Text(
        "机器人已被删除或 webhook 地址不完整", "the robot was removed, or the address is not complete"
    ),
    ("wecom", 93000): Text(
        "机器人已被删除或 webhook 地址不完整", "the robot was removed, or the address is not complete"
    ),
}

_OWN_SCHEMES = {"feishu", "lark", "dingtalk", "wecombot"}


def chats(settings: Settings) -> tuple[Chat, ...]:
    """The chats of the settings; NoticesUnusable when one cannot be used."""
    if settings.chat_urls_file is None:
        return ()
    found = []
    lines = read_secret(settings.chat_urls_file).splitlines()
    for number, line in enumerate(lines, start=1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        kind = _kind(url)
        if not kind:
            file = settings.chat_urls_file
            raise NoticesUnusable(
                Text(
                    f"{file} 第 {number} 行不是可用的 webhook 地址。飞书、钉钉、企业微信请直接写机器人的 https 地址，"
                    "其他服务写 Apprise 地址。",
                    f"{file} line {number} is no webhook. For Feishu, Lark, DingTalk and WeCom write the robot's own "
                    "https address, for others that of Apprise.",
                )
            )
        found.append(Chat(f"{kind} {hashlib.sha256(url.encode()).hexdigest()[:6]}", url))
    return tuple(found)


def _kind(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        robot = _robot(url)
        safe = parts.scheme == "https" or Server(parts.hostname or "", 80).is_loopback
        return robot.kind if robot and safe else ""
    # Apprise takes any answer with status 200 for a yes, and these services say no with it.
    return parts.scheme if parts.scheme not in _OWN_SCHEMES and _known_to_apprise(url) else ""


def _robot(url: str) -> _Robot | None:
    path = urlsplit(url).path
    return next((robot for robot in _ROBOTS if path.startswith(robot.path)), None)


@cache
def _known_to_apprise(url: str) -> bool:
    return bool(_apprise().add(url))


def _apprise() -> "Apprise":
    from apprise import Apprise

    # What it logs quotes addresses that it does not like, and those are secrets.
    logging.getLogger("apprise").disabled = True
    return Apprise()


def hand_over_to_chat(chat: Chat, subject: str, text: str, settings: Settings) -> HandedOver:
    """Write a message into a chat."""
    robot = _robot(chat.url) if urlsplit(chat.url).scheme in ("http", "https") else None
    if robot is None:
        return _through_apprise(chat, subject, text)
    url, payload = _asked(robot, chat.url, text)
    secrets = [chat.url, *(value for values in parse_qs(urlsplit(chat.url).query).values() for value in values)]
    secrets.append(urlsplit(chat.url).path.rpartition("/")[2])
    request = urllib.request.Request(  # noqa: S310  (http only to this machine, see _kind)
        url, json.dumps(payload, ensure_ascii=False).encode(), {"Content-Type": "application/json; charset=utf-8"}
    )
    context = ssl.create_default_context()
    if settings.ca_file:
        context.load_verify_locations(settings.ca_file)
    try:
        with urllib.request.urlopen(request, timeout=CHAT_SECONDS, context=context) as answer:  # noqa: S310
            content = answer.read(LONGEST_ANSWER)
    except urllib.error.HTTPError as error:
        busy = error.code == 429 or error.code >= 500
        return HandedOver(Outcome.LATER if busy else Outcome.REFUSED, redact(f"HTTP {error.code}", secrets))
    except urllib.error.URLError as error:
        # Wrapped like this is only what happened before the request was out.
        return HandedOver(Outcome.LATER, redact(str(error.reason), secrets))
    except OSError as error:
        return HandedOver(Outcome.UNKNOWN, redact(str(error) or type(error).__name__, secrets))
    return _answered(robot, content, secrets)


def _asked(robot: _Robot, url: str, text: str) -> tuple[str, dict[str, object]]:
    """The address without the secret, and what is sent there, signed where a secret is known."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    secret = query.pop("secret", "")
    payload: dict[str, object] = {robot.payload: "text", "text": {"content": text}}
    if robot.kind == "feishu":
        payload = {robot.payload: "text", "content": {"text": text}}
        if secret:
            at = str(int(time.time()))
            # The documented order: what is to be signed is the key, and nothing is signed with it.
            digest = hmac.new(f"{at}\n{secret}".encode(), b"", hashlib.sha256).digest()
            payload |= {"timestamp": at, "sign": base64.b64encode(digest).decode()}
    elif robot.kind == "dingtalk" and secret:
        at = str(round(time.time() * 1000))
        digest = hmac.new(secret.encode(), f"{at}\n{secret}".encode(), hashlib.sha256).digest()
        query |= {"timestamp": at, "sign": base64.b64encode(digest).decode()}
    return parts._replace(query=urlencode(query)).geturl(), payload


def _answered(robot: _Robot, content: bytes, secrets: list[str]) -> HandedOver:
    try:
        answer = json.loads(content)
        code = int(answer[robot.code])
    except (ValueError, KeyError, TypeError):
        return HandedOver(Outcome.UNKNOWN, redact(content[:200].decode(errors="replace"), secrets))
    if code == 0:
        return HandedOver(Outcome.SENT)
    known = _REFUSALS.get((robot.kind, code))
    said = redact(f"{code} {answer.get(robot.message, '')}", secrets) + (f" ({known.zh}; {known.en})" if known else "")
    return HandedOver(Outcome.LATER if code in robot.busy else Outcome.REFUSED, said)


def _through_apprise(chat: Chat, subject: str, text: str) -> HandedOver:
    from apprise import NotifyFormat

    way = _apprise()
    if not way.add(chat.url):
        return HandedOver(Outcome.REFUSED, "Apprise does not know this address")
    taken = way.notify(body=text, title=subject, body_format=NotifyFormat.TEXT)
    return HandedOver(Outcome.SENT) if taken else HandedOver(Outcome.LATER, "Apprise could not hand it over")
