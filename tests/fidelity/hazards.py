"""One message for each thing in real mail that some server alters, refuses or misreads."""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from tests.servers.mail import Message

NOON = datetime(2024, 5, 6, 12, 30, 15, tzinfo=timezone(timedelta(hours=8)))


@dataclass(frozen=True)
class Hazard:
    """A message under the name that tests and documentation know it by."""

    name: str
    raw: bytes
    flags: tuple[str, ...] = ()
    arrived: datetime = NOON

    @property
    def message(self) -> Message:
        return Message("INBOX", self.raw, self.flags, self.arrived)


def _mail(name: str, body: bytes = b"Hello.\r\n", *, header: bytes = b"", subject: bytes | None = None) -> bytes:
    """A plain message with more header lines after the usual ones."""
    identity = name.replace(" ", ".").encode()
    return (
        b"Date: Mon, 6 May 2024 12:30:15 +0800\r\n"
        b"From: Wang Fang <wang.fang@example.com>\r\n"
        b"To: li.ming@example.com\r\n"
        b"Message-ID: <" + identity + b"@hazards.example.com>\r\n"
        b"Subject: " + (name.encode() if subject is None else subject) + b"\r\n" + header + b"\r\n" + body
    )


def _parts(count: int) -> bytes:
    parts = b"".join(b"--=_p\r\nContent-Type: text/plain\r\n\r\npart %d\r\n" % number for number in range(count))
    return parts + b"--=_p--\r\n"


def _nested(depth: int) -> bytes:
    """Multiparts within multiparts, down to one line of text."""
    inner = b"Content-Type: text/plain\r\n\r\nthe innermost\r\n"
    for level in range(depth):
        inner = (
            b'Content-Type: multipart/mixed; boundary="=_%d"\r\n\r\n--=_%d\r\n' % (level, level)
            + inner
            + b"--=_%d--\r\n" % level
        )
    return inner


def _forwarded(depth: int) -> bytes:
    """Messages within messages."""
    inner = b"Subject: the innermost\r\n\r\nHello.\r\n"
    for level in range(depth):
        inner = b"Subject: forwarded %d\r\nContent-Type: message/rfc822\r\n\r\n" % level + inner
    return inner


def _without(raw: bytes, field: bytes) -> bytes:
    header, _, body = raw.partition(b"\r\n\r\n")
    kept = [line for line in header.split(b"\r\n") if not line.startswith(field)]
    return b"\r\n".join(kept) + b"\r\n\r\n" + body


def _with_mime(name: str, kind: bytes, body: bytes) -> bytes:
    return _mail(name, body, header=b"MIME-Version: 1.0\r\nContent-Type: " + kind + b"\r\n")


def _at(year: int, month: int = 1, day: int = 1, hour: int = 0, second: int = 0) -> datetime:
    return datetime(year, month, day, hour, 0, second, tzinfo=UTC)


_CHINESE = "关于季度报销流程的通知"
_MIXED = b'multipart/mixed; boundary="=_p"'

_RAW: dict[str, Callable[[str], bytes]] = {
    # Octets
    "NUL in the body": lambda n: _mail(n, b"before\0after\r\n"),
    "NUL in the header": lambda n: _mail(n, subject=b"before\0after"),
    "bare LF": lambda n: _mail(n, b"one\ntwo\r\n"),
    "only bare LF": lambda n: _mail(n).replace(b"\r\n", b"\n"),
    "bare CR": lambda n: _mail(n, b"one\rtwo\r\n"),
    "bare CR in the header": lambda n: _mail(n, subject=b"one\rtwo"),
    "CR CR LF": lambda n: _mail(n, b"one\r\r\ntwo\r\r\n"),
    "CR at the end": lambda n: _mail(n, b"one\r\ntwo\r"),
    "no final line end": lambda n: _mail(n, b"one\r\ntwo"),
    "empty lines at the end": lambda n: _mail(n, b"one\r\n\r\n\r\n"),
    "all octets in the body": lambda n: _mail(n, bytes(set(range(1, 256)) - {10, 13}) + b"\r\n"),
    "line of 20 kB": lambda n: _mail(n, b"x" * 20_000 + b"\r\n"),
    "lines of dots": lambda n: _mail(n, b".\r\n..\r\n.\r\nFrom here on\r\n>From here on\r\n"),
    # What is there and what is missing
    "no headers": lambda n: b"\r\nOnly a body, no header at all.\r\n",
    "no body": lambda n: _mail(n, b""),
    "no separator": lambda n: _mail(n, b"").removesuffix(b"\r\n"),
    "zero bytes": lambda n: b"",
    "one byte": lambda n: b"x",
    "text that is no mail": lambda n: b"This has never been a mail.\r\nNot even nearly.\r\n",
    # Headers
    "header in GB18030": lambda n: _mail(n, subject=_CHINESE.encode("gb18030")),
    "header in Big5": lambda n: _mail(n, subject="關於季度報銷流程的通知".encode("big5")),
    "header in UTF-8": lambda n: _mail(n, subject=f"{_CHINESE} 🎉".encode()),
    "header in Shift-JIS": lambda n: _mail(n, subject="四半期の報告について".encode("shift_jis")),
    "header in Latin-1": lambda n: _mail(n, subject="Müller grüßt".encode("latin-1")),
    "emoji in the subject": lambda n: _mail(n, subject=b"=?utf-8?b?" + b64encode("🎉🚀👨‍👩‍👧".encode()) + b"?="),
    "encoded word across lines": lambda n: _mail(n, subject=b"=?utf-8?Q?=E5=85=B3?=\r\n =?utf-8?Q?=E4=BA=8E?="),
    "header block of 40 kB": lambda n: _mail(
        n, header=b"".join(b"X-Trace-%d: %s\r\n" % (i, b"y" * 70) for i in range(500))
    ),
    "header field of 10 kB": lambda n: _mail(
        n, header=b"References:" + b"".join(b"\r\n <%d@example.com>" % i for i in range(450)) + b"\r\n"
    ),
    "header line of 10 kB": lambda n: _mail(n, header=b"X-Long: " + b"z" * 10_000 + b"\r\n"),
    "header line without a colon": lambda n: _mail(n, header=b"this is no field\r\nX-After: 1\r\n"),
    "blank before the colon": lambda n: _mail(n, header=b"X-Blank : 1\r\n"),
    "header that begins with a blank": lambda n: b" X-Folded: 1\r\n" + _mail(n),
    "mbox line first": lambda n: b"From wang.fang@example.com Mon May  6 12:30:15 2024\r\n" + _mail(n),
    "quoted mbox line first": lambda n: b">From wang.fang@example.com Mon May  6 12:30:15 2024\r\n" + _mail(n),
    "empty field": lambda n: _mail(n, header=b"X-Empty:\r\n"),
    "field twice": lambda n: _mail(n, header=b"Subject: another\r\nDate: Tue, 7 May 2024 00:00:00 +0000\r\n"),
    "no Message-ID": lambda n: _without(_mail(n), b"Message-ID"),
    "no Date": lambda n: _without(_mail(n), b"Date"),
    "impossible Date": lambda n: _without(_mail(n), b"Date").replace(b"From:", b"Date: 31 Feb 24 25:61 PM\r\nFrom:", 1),
    # MIME
    "310 parts": lambda n: _with_mime(n, _MIXED, _parts(310)),
    "2000 parts": lambda n: _with_mime(n, _MIXED, _parts(2000)),
    "nested 100 deep": lambda n: _mail(n, b"", header=b"MIME-Version: 1.0\r\n").removesuffix(b"\r\n") + _nested(100),
    "forwarded 100 deep": lambda n: (
        _mail(n, b"", header=b"MIME-Version: 1.0\r\n").removesuffix(b"\r\n") + _forwarded(100)
    ),
    "boundary that never comes": lambda n: _with_mime(n, _MIXED, b"no part at all\r\n"),
    "multipart that does not end": lambda n: _with_mime(n, _MIXED, b"--=_p\r\n\r\ncut off"),
    "message/partial": lambda n: _with_mime(
        n, b'message/partial; id="a@b"; number=1; total=3', b"Subject: x\r\n\r\nx\r\n"
    ),
    "8-bit text": lambda n: _with_mime(n, b"text/plain; charset=gb18030", _CHINESE.encode("gb18030") + b"\r\n"),
    "8-bit header of a part": lambda n: _with_mime(
        n, _MIXED, b"--=_p\r\nContent-Description: " + _CHINESE.encode() + b"\r\n\r\nx\r\n--=_p--\r\n"
    ),
    "file name in raw GBK": lambda n: _with_mime(
        n, b'application/pdf; name="' + "报告.pdf".encode("gbk") + b'"', b"JVBERi0=\r\n"
    ),
    "uuencoded": lambda n: _mail(n, b"begin 644 a.txt\r\n#0V%T\r\n`\r\nend\r\n"),
    "yEnc": lambda n: _mail(n, b"=ybegin line=128 size=3 name=a\r\n\x8b\x8c\xaa=@\r\n=yend size=3\r\n"),
}

_DATES = {
    "arrived in 1900": _at(1900),
    "arrived in 1969": _at(1969, 12, 31, 23, 59),
    "arrived at the epoch": _at(1970),
    "arrived in 2038": _at(2038, 1, 19, 4),
    "arrived in 2106": _at(2106, 3, 1),
    "arrived in 9999": _at(9999, 12, 31),
    "arrived in another zone": datetime(2024, 2, 29, 23, 59, 59, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
}
_FLAGS = {
    "every system flag": (r"\Seen", r"\Answered", r"\Flagged", r"\Draft"),
    "keywords": ("$Forwarded", "$MDNSent", "NonJunk", "Work"),
    "long keyword": ("K" * 60,),
}


def hazards() -> list[Hazard]:
    """All of them, in an order that stays."""
    same = _mail("same Message-ID")
    equal = _mail("equal messages")
    received = b"Received: from a.example by b.example;\r\n\tSun, 5 May 2024 08:00:00 +0000\r\n"
    return [
        *(Hazard(name, make(name)) for name, make in _RAW.items()),
        Hazard("same Message-ID", same),
        Hazard("same Message-ID, other text", same + b"And more.\r\n"),
        Hazard("equal messages", equal),
        Hazard("equal messages, again", equal),
        *(Hazard(name, _mail(name), arrived=moment) for name, moment in _DATES.items()),
        Hazard(
            "arrived in 9999, with Received",
            received + _mail("received"),
            arrived=_DATES["arrived in 9999"],
        ),
        Hazard("arrived in 9999, no Date", _without(_mail("dateless"), b"Date"), arrived=_DATES["arrived in 9999"]),
        *(Hazard(name, _mail(name), flags=flags) for name, flags in _FLAGS.items()),
    ]
