"""The folder names and messages that a probe tries, one for each thing that some server refuses or alters. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from imapcopy.repair import EMPTY

FIELD = "X-Banjia-Probe"
"""Tells our messages from anybody else's; its value is in the name of the scratch folder too."""
ROOT = "MigrationProbe-"

CHARACTERS = './\\*%"&~^#:?|<>'
"""Each is refused, or given a meaning of its own, by some server (docs/fidelity.md)."""
LONG_NAME_OCTETS = 200
LONG_LINE_OCTETS = 20_000
"""Exchange takes 9,900 or 10,500 octets in a line."""
PARTS = 320
"""Courier serves 300."""
SIZES = (10, 25, 35, 50, 100, 150)
"""MB that are tried where the server tells no limit."""
SMALL_BYTES = 2048


def inner_names(separator: str) -> Mapping[str, str]:
    """Names to be tried within a folder, by kind: a single level each."""
    names = {
        "chinese": "项目（华东区）",
        "emoji": "搬家🎉",
        "blank_at_end": "blank ",
        "blanks": "two  blanks",
        "long": "x" * LONG_NAME_OCTETS,
    }
    return names | {f"char:{each}": f"a{each}b" for each in CHARACTERS if each != separator}


def letter(token: str, name: str, body: bytes = b"") -> bytes:
    """A plain message of a probe."""
    head = (
        f"From: Banjia <probe@banjia.invalid>\r\nTo: Banjia <probe@banjia.invalid>\r\n"
        f"Date: Mon, 02 Nov 2026 09:00:00 +0800\r\nMessage-ID: <{token}.{name}@banjia.invalid>\r\n"
        f"Subject: Banjia probe, may be deleted\r\n{FIELD}: {token}\r\n\r\n"
    )
    return head.encode("ascii") + (body or f"{token} {name}\r\n".encode("ascii"))


def marker(token: str, where: str) -> bytes:
    """The first message of a scratch folder; says in both languages what it is, and where else the probe writes."""
    text = (
        "Banjia (搬家) 正在测试此邮箱服务器，本文件夹及其中邮件可以删除。\r\n"
        "Banjia is trying out this mail server; this folder and the mail in it can be deleted.\r\n"
    )
    return letter(token, "marker", text.encode() + f"\r\n{where}\r\n".encode("ascii"))


def small(token: str, name: str) -> bytes:
    """A message of the usual size of a small one."""
    return letter(token, name, (b"0123456789abcdef" * 4 + b"\r\n") * (SMALL_BYTES // 66))


def odd_messages(token: str) -> dict[str, bytes]:
    """Messages that servers refuse or alter, by what is odd about them."""
    plain = letter(token, "plain")
    return {
        "plain": plain,
        "header_8bit": letter(token, "8bit").replace(b"Subject: Banjia", "Subject: 搬家".encode()),
        "bare_lf": letter(token, "lf", f"{token}\nbare\n".encode("ascii")),
        "bare_cr": letter(token, "cr", f"{token} bare\rCR\r\n".encode("ascii")),
        "nul": letter(token, "nul", f"{token} \0\r\n".encode("ascii")),
        "no_header": f"{token} is the first line and there is no header\r\n".encode("ascii"),
        "empty": b"",
        "no_final_line_end": letter(token, "end").removesuffix(b"\r\n"),
        "long_line": letter(token, "long", b"x" * LONG_LINE_OCTETS + b"\r\n"),
        "many_parts": _many_parts(token),
    }


def _many_parts(token: str) -> bytes:
    boundary = f"=_{token}"
    part = f"--{boundary}\r\nContent-Type: text/plain\r\n\r\n{token}\r\n"
    body = part * PARTS + f"--{boundary}--\r\n"
    head = letter(token, "parts", b"\r\n").removesuffix(b"\r\n\r\n")
    fields = f'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="{boundary}"\r\n'
    return head + fields.encode("ascii") + b"\r\n" + body.encode("ascii")


def is_ours(raw: bytes, token: str) -> bool:
    """Whether a message of a scratch folder is the probe's own, whatever the server has made of it."""
    return token.encode("ascii") in raw or raw.strip() in {b"", EMPTY.strip()}


def three_years_back(now: datetime) -> datetime:
    """An arrival date in a zone that few servers are in, to the second."""
    zone = timezone(timedelta(hours=5, minutes=45))
    return (now - timedelta(days=3 * 365 + 1)).replace(microsecond=0).astimezone(zone)


@dataclass(frozen=True)
class Large:
    """A message of so many octets that is never held."""

    token: str
    octets: int

    def __len__(self) -> int:
        return self.octets

    def __iter__(self) -> Iterator[bytes]:
        head = letter(self.token, f"size{self.octets}", b"\r\n")
        yield head
        line = b"0123456789abcdef" * 4 + b"\r\n"
        left = self.octets - len(head)
        block = line * 1000
        while left > len(block) + len(line):
            yield block
            left -= len(block)
        rest = line * (left // len(line) + 1)
        yield rest[: left - 2] + b"\r\n"
