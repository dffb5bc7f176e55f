"""Bilingual sample mail with the hazards of real mailboxes, and a fast way to store it.

The same seed makes the same mail.
"""

import base64
import random
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from email.header import Header
from itertools import groupby
from typing import Protocol
from urllib.parse import quote

from tests.servers.loopback import DEADLINE

FOLDERS = ("INBOX", "Sent", "Drafts", "Trash", "Archive", "Archive/2023", "项目", "项目/华东区")
_WEIGHTS = (36, 22, 4, 6, 12, 8, 7, 5)
_KEYWORDS = ("$Forwarded", "$Label1", "Work")
_ZONES = [timezone(timedelta(minutes=minutes)) for minutes in (480, 0, -300, 330, -210, 540, 780, -480)]
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_PEOPLE = (
    ("李明", "li.ming"),
    ("王芳", "wang.fang"),
    ("張偉", "zhang.wei"),
    ("欧阳小娜", "ouyang"),
    ("Jane Doe", "jane.doe"),
    ("Søren Kjær", "soren"),
    ("陈晨 (财务)", "chen.chen"),
    ("O'Brien, Pat", "pat"),
)
_SUBJECTS = (
    "关于{n}季度报销流程的通知",
    "Re: 项目进度 {n}",
    "Minutes of meeting {n}",
    "答复: 合同扫描件（第{n}版）🎉",
    "Fwd: invoice {n}",
    "=?请查收? 附件 {n}",
    "周报 {n} / weekly report {n}",
    "發票與對帳單 {n}",
    "Ünïcode check {n}",
)
_SENTENCES = (
    "您好，附件为本月的对账单，请查收。",
    "Please find the numbers below; the totals are provisional.",
    "会议改到周四下午三点，地点不变。",
    "From next week the office in 上海 moves to the third floor.",
    "如有疑问请回复此邮件，谢谢！",
    "Kind regards / 此致 敬礼",
    "",
    ".",
    "From the desk of nobody",
    "> quoted: 上次的结论仍然有效。",
    "价格：￥1,280.00（含税）",
    "The build is green; we deploy on Friday.",
)


@dataclass(frozen=True)
class Message:
    """A message as a server should store it: bytes with CRLF, flags, and the moment when it arrived."""

    folder: str
    raw: bytes
    flags: tuple[str, ...]
    arrived: datetime


class Server(Protocol):
    """Where a plain IMAP connection is made."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


def mailbox_messages(seed: int | str, count: int = 500) -> list[Message]:
    """Make one person's mailbox: `count` messages of about 1 to 8 KB in the eight folders, three years of them.

    Of every fifty messages: one has raw GB18030 in its header and one raw UTF-8, one has no Message-ID, one is stored
    twice in the same folder and one in two folders, one has a bare CR in its text, one a line of 2,000 characters, one
    no line end at its end, and five have attachments.
    """
    dice = random.Random(f"mailbox {seed}")
    made: list[Message] = []
    for number in range(count):
        kind = number % 50
        if kind == 27:
            made.append(made[-1])  # the very same mail, delivered twice
        elif kind == 31:
            original = made[-3]
            elsewhere = [folder for folder in FOLDERS if folder != original.folder]
            made.append(replace(original, folder=dice.choice(elsewhere)))
        else:
            # The first eight open the folders, so that also a small mailbox has them all.
            folder = FOLDERS[number] if number < len(FOLDERS) else dice.choices(FOLDERS, _WEIGHTS)[0]
            made.append(_message(dice, f"{seed}.{number}", kind, folder))
    return made


def _message(dice: random.Random, identity: str, kind: int, folder: str) -> Message:
    zone = dice.choice(_ZONES)
    arrived = (datetime(2023, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(3 * 365 * 86400))).astimezone(zone)
    written = arrived - timedelta(seconds=dice.randrange(1, 400))
    subject = dice.choice(_SUBJECTS).format(n=dice.randrange(1000))
    sender, receiver = dice.sample(_PEOPLE, 2)
    lines = [
        b"Received: from mx.example.net by mail.example.com with ESMTPS; " + _header_date(arrived),
        b"Date: " + _header_date(written),
        b"From: " + _address(sender),
        b"To: " + _address(receiver),
    ]
    if kind == 7:
        lines.append(b"Subject: " + subject.encode("gb18030"))
    elif kind == 37:
        lines.append(b"Subject: " + subject.encode())
    else:
        lines.append(b"Subject: " + Header(subject, "utf-8").encode(linesep="\r\n").encode())
    if kind != 17:
        lines.append(f"Message-ID: <{identity}.{dice.getrandbits(48):x}@mail.example.com>".encode())
    lines.append(b"MIME-Version: 1.0")

    text = "\r\n".join(dice.choices(_SENTENCES, k=dice.randrange(12, 110)))
    if kind == 41:
        text += "\r\nbare\rCR in the middle\r\n"
    elif kind == 43:
        text += "\r\n" + "x" * 2000 + "\r\n"
    if kind % 10 == 3:
        boundary = f"=_{dice.getrandbits(64):016x}"
        name = quote(f"报告 {identity}.pdf")
        attachment = base64.encodebytes(dice.randbytes(dice.randrange(500, 3500))).replace(b"\n", b"\r\n")
        lines += [
            f'Content-Type: multipart/mixed; boundary="{boundary}"'.encode(),
            b"",
            b"This is a message in several parts.",
            f"--{boundary}".encode(),
            *_text_part(dice, text),
            f"--{boundary}".encode(),
            f"Content-Type: application/pdf; name*=utf-8''{name}".encode(),
            b"Content-Disposition: attachment",
            b"Content-Transfer-Encoding: base64",
            b"",
            attachment + f"--{boundary}--".encode(),
        ]
    else:
        lines += _text_part(dice, text)
    raw = b"\r\n".join(lines)
    if kind != 47:
        raw += b"\r\n"
    return Message(folder, raw, _flags(dice, folder), arrived)


def _text_part(dice: random.Random, text: str) -> list[bytes]:
    kind = b"Content-Type: text/plain; charset="
    match dice.randrange(3):
        case 0:
            return [kind + b"utf-8", b"Content-Transfer-Encoding: 8bit", b"", text.encode()]
        case 1:
            body = base64.encodebytes(text.encode()).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
            return [kind + b"utf-8", b"Content-Transfer-Encoding: base64", b"", body]
        case _:
            return [kind + b"gb18030", b"Content-Transfer-Encoding: 8bit", b"", text.encode("gb18030")]


def _flags(dice: random.Random, folder: str) -> tuple[str, ...]:
    odds = {r"\Seen": 0.7, r"\Answered": 0.2, r"\Flagged": 0.1, r"\Draft": 1.0 if folder == "Drafts" else 0.0}
    odds |= dict.fromkeys(_KEYWORDS, 0.08)
    return tuple(flag for flag, chance in odds.items() if dice.random() < chance)


def _address(person: tuple[str, str]) -> bytes:
    name, mailbox = person
    shown = f'"{name}"' if name.isascii() else Header(name, "utf-8").encode()
    return f"{shown} <{mailbox}@example.com>".encode()


def _header_date(moment: datetime) -> bytes:
    return f"{_DAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month - 1]} {moment:%Y %H:%M:%S %z}".encode()


def _internal_date(moment: datetime) -> bytes:
    """Format as RFC 3501 wants it, whatever the locale."""
    return f'"{moment.day:2d}-{_MONTHS[moment.month - 1]}-{moment:%Y %H:%M:%S %z}"'.encode()


def folder_octets(name: str) -> bytes:
    """Encode a folder's name in modified UTF-7 (RFC 3501, 5.1.3) and quote it."""
    encoded = b""
    for plain, run in groupby(name, key=lambda character: " " <= character <= "~"):
        text = "".join(run)
        if plain:
            encoded += text.replace("&", "&-").encode()
        else:
            encoded += b"&" + base64.b64encode(text.encode("utf-16-be")).rstrip(b"=").replace(b"/", b",") + b"-"
    return b'"' + encoded.replace(b"\\", rb"\\").replace(b'"', rb"\"") + b'"'


def seed(server: Server, user: str, password: str, messages: Iterable[Message]) -> None:
    """Store messages in an account, making the folders; quick, because a hundred go with one command."""
    by_folder: dict[str, list[Message]] = {}
    for message in messages:
        by_folder.setdefault(message.folder, []).append(message)
    with socket.create_connection((server.host, server.port), timeout=DEADLINE) as connection:
        session = _Session(connection)
        session.command(b"AUTHENTICATE PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()))
        for folder, members in by_folder.items():
            name = folder_octets(folder)
            if folder != "INBOX":
                session.command(b"CREATE " + name, unless=b"[ALREADYEXISTS]")
            for some in _hundreds(members):
                session.command(b"APPEND " + name + b"".join(_append_argument(message) for message in some))
        session.command(b"LOGOUT")


def store_each(server: Server, user: str, password: str, messages: Iterable[Message]) -> list[int | str]:
    """Store messages one by one in folders that exist: the UID of each, or the words in which it was refused."""
    outcomes: list[int | str] = []
    with socket.create_connection((server.host, server.port), timeout=DEADLINE) as connection:
        # Otherwise the last octets of a message wait 40 ms for the server's delayed ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = _Session(connection)
        session.command(b"AUTHENTICATE PLAIN", base64.b64encode(f"\0{user}\0{password}".encode()))
        for message in messages:
            head = b"APPEND " + folder_octets(message.folder) + _append_head(message)
            answer = session.answer(head + b" {%d}" % len(message.raw), message.raw)
            uid = re.search(rb"\[APPENDUID \d+ (\d+)\]", answer)
            outcomes.append(int(uid[1]) if uid else answer.decode(errors="replace").strip())
        session.command(b"LOGOUT")
    return outcomes


def _append_argument(message: Message) -> bytes:
    return _append_head(message) + b" {%d+}\r\n%b" % (len(message.raw), message.raw)


def _append_head(message: Message) -> bytes:
    return b" (%b) %b" % (" ".join(message.flags).encode(), _internal_date(message.arrived))


def _hundreds(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    for start in range(0, len(messages), 100):
        yield messages[start : start + 100]


class _Session:
    """Just enough IMAP to store mail: one command at a time, answers read as lines."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._number = 0
        self._rest = b""
        self._line()

    def command(self, line: bytes, more: bytes | None = None, *, unless: bytes | None = None) -> None:
        """Send and wait for OK; an answer with the code `unless` will do as well."""
        answer = self.answer(line, more)
        if not answer.startswith(b"OK") and not (unless and unless in answer):
            raise RuntimeError(f"{line[:60]!r}: {answer!r}")

    def answer(self, line: bytes, more: bytes | None = None) -> bytes:
        """Send, `more` of it when the server asks for it, and return the answer without its tag."""
        self._number += 1
        tag = b"s%d " % self._number
        self._connection.sendall(tag + line + b"\r\n")
        while not (answer := self._line()).startswith(tag):
            if answer.startswith(b"+") and more is not None:
                self._connection.sendall(more + b"\r\n")
        return answer.removeprefix(tag)

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            more = self._connection.recv(65536)
            if not more:
                raise ConnectionError(f"the server hung up after {self._rest!r}")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line
