"""The mailboxes that are copied: the same mail in every run, made as it is stored so that it never fills memory.

`small` is a mailbox of letters, `real` has the sizes of a working mailbox with attachments, `folders` is made by
somebody who files everything, `tiny` has as little in each message as shows what a message costs, `huge` shows what
one large message takes of memory.
"""

import base64
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.maildir import Maildir
from tests.servers.mail import Message

LARGEST = 25 << 20
_LINES = (
    "您好，附件为本月的对账单，请查收。",
    "Please find the figures below; the totals are provisional.",
    "会议改到周四下午三点，地点不变。",
    "The office moves to the third floor next week.",
    "如有疑问请回复此邮件，谢谢！",
    "",
)


@dataclass(frozen=True)
class Shape:
    """A kind of mailbox. `make(seed, scale)` yields its messages; a scale below 1 makes fewer."""

    name: str
    what: str
    messages: int
    """How many there are at scale 1."""
    make: Callable[[str, float], Iterator[Message]]


@dataclass(frozen=True)
class Seeded:
    """What an account holds."""

    messages: int
    octets: int


def _dice(name: str) -> random.Random:
    return random.Random(name)  # noqa: S311  (the same mail each time, no secret)


_POOL = _dice("attachments").randbytes(1 << 20)


def _small(identity: str, scale: float) -> Iterator[Message]:
    dice = _dice(f"small {identity}")
    for number in range(round(5000 * scale)):
        yield _letter(dice, "INBOX", f"{identity}.{number}", dice.randrange(2048, 8192))


def _real(identity: str, scale: float) -> Iterator[Message]:
    dice = _dice(f"real {identity}")
    for number in range(round(2000 * scale)):
        size = min(round(dice.lognormvariate(9.7, 2.2)), LARGEST)
        yield _letter(dice, "INBOX", f"{identity}.{number}", max(size, 1024))


def _folders(identity: str, scale: float) -> Iterator[Message]:
    dice = _dice(f"folders {identity}")
    for number in range(round(150 * scale)):
        project = f"项目{number // 10:02d}"
        folder = f"{project}/客户往来{number % 10}" if number % 10 else project
        for place in range(20):
            yield _letter(dice, folder, f"{identity}.{number}.{place}", dice.randrange(2048, 8192))


def _tiny(identity: str, scale: float) -> Iterator[Message]:
    dice = _dice(f"tiny {identity}")
    for number in range(round(1000 * scale)):
        yield _letter(dice, "INBOX", f"{identity}.{number}", 1024)


def _huge(identity: str, scale: float) -> Iterator[Message]:
    dice = _dice(f"huge {identity}")
    for number in range(21):
        yield _letter(dice, "INBOX", f"{identity}.{number}", 1024 if number != 10 else round(scale * (200 << 20)))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("small", "5,000 messages of 2 to 8 KB in INBOX", 5000, _small),
        Shape("real", "2,000 messages in INBOX, log-normal sizes, attachments up to 25 MB", 2000, _real),
        Shape("folders", "150 folders with Chinese names, 20 messages of 2 to 8 KB in each", 3000, _folders),
        Shape("tiny", "1,000 messages of 1 KB in INBOX", 1000, _tiny),
        Shape("huge", "one message of 200 MB among 20 of 1 KB", 21, _huge),
    )
}


def fill(maildir: Maildir, user: str, shape: Shape, scale: float = 1.0) -> Seeded:
    """Store a shape in an account; the user's name makes its mail different from another's."""
    messages = octets = 0

    def counted() -> Iterator[Message]:
        nonlocal messages, octets
        for message in shape.make(user, scale):
            messages += 1
            octets += len(message.raw)
            yield message

    maildir.store(counted())
    return Seeded(messages, octets)


def _letter(dice: random.Random, folder: str, identity: str, size: int) -> Message:
    """A message of about `size` octets; from 16 KB up most of it is an attachment."""
    arrived = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(seconds=dice.randrange(3 * 365 * 86400))
    # One in a hundred has a raw 8-bit header, as old Chinese mailers wrote it.
    subject = "季度报销流程".encode("gb18030") if dice.random() < 0.01 else b"Quarterly figures"
    head = [
        b"Received: from mx.example.net by mail.example.com with ESMTPS; Sun, 1 Jan 2023 00:00:00 +0000",
        b"Date: Sun, 1 Jan 2023 00:00:00 +0000",
        b"From: Li Ming <li.ming@example.com>",
        b"To: Wang Fang <wang.fang@example.com>",
        b"Subject: " + subject,
        f"Message-ID: <{identity}@mail.example.com>".encode(),
        b"MIME-Version: 1.0",
    ]
    if size < 16384:
        lines = [*head, b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: 8bit", b""]
        raw = b"\r\n".join(lines) + b"\r\n" + _text(dice, size - 400)
    else:
        lines = [
            *head,
            b'Content-Type: multipart/mixed; boundary="=_part"',
            b"",
            b"--=_part",
            b"Content-Type: text/plain; charset=utf-8",
            b"",
            _text(dice, 1000) + b"--=_part",
            b"Content-Type: application/pdf",
            b"Content-Transfer-Encoding: base64",
            b"",
        ]
        raw = b"\r\n".join(lines) + b"\r\n" + _attachment(dice, size - 1800) + b"--=_part--\r\n"
    flags = tuple(f for f, odds in ((r"\Seen", 0.7), (r"\Answered", 0.2), (r"\Flagged", 0.1)) if dice.random() < odds)
    return Message(folder, raw, flags, arrived)


def _text(dice: random.Random, size: int) -> bytes:
    text = b""
    while len(text) < size:
        text += dice.choice(_LINES).encode() + b"\r\n"
    return text


def _attachment(dice: random.Random, size: int) -> bytes:
    octets = size * 57 // 78  # 57 octets make a line of 76 characters
    start = dice.randrange(len(_POOL))
    content = (_POOL[start:] + _POOL * (octets // len(_POOL) + 1))[:octets]
    return base64.encodebytes(content).replace(b"\n", b"\r\n")
