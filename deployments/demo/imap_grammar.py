"""The grammar of IMAP (RFC 3501, RFC 9051): what a client may write, and how an answer is spelled.

Nothing here knows an account or a socket; a command arrives as its text pieces with the literals between them.
"""

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta, timezone

SYSTEM_FLAGS = {flag.lower(): flag for flag in ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# RFC 9051 section 9: atom-specials are ( ) { SP CTL, the list wildcards, the quoted-specials and ].
_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ASTRING = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_LIST_MAILBOX = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
# Eight-bit octets are no IMAP, but old clients send folder names that way and servers let them through.
_QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ITEM = re.compile(rb"[A-Za-z0-9.-]+")
_NUMBER = re.compile(rb"\d+")
_SET = re.compile(rb"(?:\d+|\*)(?::(?:\d+|\*))?(?:,(?:\d+|\*)(?::(?:\d+|\*))?)*")
_DATE_TIME = re.compile(rb'"([ \d]\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-]\d\d)(\d\d)"')
_DATE = re.compile(rb'"?(\d{1,2})-(\w{3})-(\d{4})"?')
_NOT_PRINTABLE = re.compile(r"([^\x20-\x7e]+)")

# The ranges of a sequence set as written; 0 stands for "*".
SequenceSet = list[tuple[int, int]]


class Literal(bytes):
    """A string that came as {n} and n octets; kept apart from the text around it."""


class Refused(Exception):
    """The tagged answer is NO with this text: the command was right, but it cannot be done."""


class Malformed(Exception):
    """The tagged answer is BAD with this text: the command was not understood."""


class Arguments:
    """A cursor over the arguments of one command."""

    def __init__(self, parts: Sequence[bytes], *, by_uid: bool = False) -> None:
        self.by_uid = by_uid  # the command came as UID something
        self._parts = parts
        self._part = 0
        self._at = 0

    def _match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        found = pattern.match(self._parts[self._part], self._at)
        if found:
            self._at = found.end()
        return found

    def _need(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        found = self._match(pattern)
        if not found:
            raise Malformed(f"{what} expected")
        return found

    def next_is(self, text: bytes) -> bool:
        return self._parts[self._part].startswith(text, self._at)

    def take(self, text: bytes) -> bool:
        """Step over the text if it comes next."""
        if not self.next_is(text):
            return False
        self._at += len(text)
        return True

    def expect(self, text: bytes) -> None:
        if not self.take(text):
            raise Malformed(f"{text.decode()!r} expected")

    def space(self) -> None:
        self.expect(b" ")

    def at_end(self) -> bool:
        return self._at == len(self._parts[self._part]) and self._part == len(self._parts) - 1

    def end(self) -> None:
        if not self.at_end():
            raise Malformed("Too many arguments")

    def next_is_literal(self) -> bool:
        return self._at == len(self._parts[self._part]) and self._part < len(self._parts) - 1

    def literal(self) -> bytes:
        if not self.next_is_literal():
            raise Malformed("Literal expected")
        value = self._parts[self._part + 1]
        self._part += 2
        self._at = 0
        return value

    def word(self) -> str:
        """Return an atom in capitals: a keyword of the protocol."""
        return self._need(_ATOM, "Atom")[0].decode("ascii").upper()

    def item_name(self) -> str:
        """Return the name of a FETCH item or section, in capitals; it ends before a bracket."""
        return self._need(_ITEM, "Item")[0].decode("ascii").upper()

    def number(self) -> int:
        return int(self._need(_NUMBER, "Number")[0])

    def _string_or(self, pattern: re.Pattern[bytes]) -> bytes:
        if self.next_is_literal():
            return self.literal()
        quoted = self._match(_QUOTED)
        if quoted:
            return re.sub(rb'\\(["\\])', rb"\1", quoted[1])
        return self._need(pattern, "String")[0]

    def astring(self) -> bytes:
        return self._string_or(_ASTRING)

    def list_mailbox(self) -> bytes:
        return self._string_or(_LIST_MAILBOX)

    def words(self) -> list[str]:
        """Return a parenthesised list of keywords, in capitals."""
        self.expect(b"(")
        found: list[str] = []
        while not self.take(b")"):
            if found:
                self.space()
            found.append(self.flag().upper())
        return found

    def flag(self) -> str:
        return self._need(_FLAG, "Flag")[0].decode("ascii")

    def flags(self) -> frozenset[str]:
        """Return a parenthesised list of flags; system flags in their usual spelling, and no \\Recent."""
        self.expect(b"(")
        found: set[str] = set()
        while not self.take(b")"):
            if found:
                self.space()
            found.add(known_flag(self.flag()))
        return frozenset(found)

    def sequence_set(self) -> SequenceSet:
        ranges: SequenceSet = []
        for item in self._need(_SET, "Sequence set")[0].split(b","):
            first, _, last = item.partition(b":")
            low, high = (0 if end == b"*" else int(end) for end in (first, last or first))
            if b"0" in (first, last):
                raise Malformed("Zero is no message number")
            ranges.append((low, high))
        return ranges

    def next_is_sequence_set(self) -> bool:
        return _SET.match(self._parts[self._part], self._at) is not None

    def date(self) -> date:
        day, month, year = self._need(_DATE, "Date").groups()
        try:
            return date(int(year), MONTHS.index(month.decode("latin-1").title()) + 1, int(day))
        except ValueError:
            raise Malformed("Invalid date") from None

    def date_time(self) -> datetime:
        day, month, year, hour, minute, second, zone, zone_minutes = self._need(_DATE_TIME, "Date-time").groups()
        try:
            away = timedelta(hours=int(zone), minutes=int(zone[:1] + zone_minutes))
            month_number = MONTHS.index(month.decode("latin-1").title()) + 1
            clock = (int(hour), int(minute), int(second))
            return datetime(int(year), month_number, int(day), *clock, tzinfo=timezone(away))
        except ValueError:
            raise Malformed("Invalid date-time") from None


def known_flag(flag: str) -> str:
    """Return a flag in its usual spelling; keywords stay as they are."""
    if not flag.startswith("\\"):
        return flag
    if flag.lower() not in SYSTEM_FLAGS:
        raise Malformed(f"Invalid system flag {flag}")
    return SYSTEM_FLAGS[flag.lower()]


def date_time_text(moment: datetime) -> str:
    """Spell an INTERNALDATE; strftime would use the month names of the locale and short years."""
    offset = int((moment.utcoffset() or timedelta()).total_seconds()) // 60
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}{abs(offset) % 60:02}"
    return f'"{moment.day:02}-{MONTHS[moment.month - 1]}-{moment.year:04} {moment:%H:%M:%S} {zone}"'


def quoted(value: bytes) -> bytes:
    """Spell a string, as a literal where quotes cannot hold it."""
    if b"\r" in value or b"\n" in value or b"\0" in value:
        return b"{%d}\r\n%b" % (len(value), value)
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def encode_name(name: str) -> bytes:
    """Spell a folder name in modified UTF-7 (RFC 3501 section 5.1.3)."""
    wire = bytearray()
    for turn, piece in enumerate(_NOT_PRINTABLE.split(name)):
        if turn % 2:
            shifted = base64.b64encode(piece.encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
            wire += b"&" + shifted + b"-"
        else:
            wire += piece.replace("&", "&-").encode("ascii")
    return bytes(wire)


def decode_name(wire: bytes) -> str:
    """Read a folder name in modified UTF-7, and accept no second spelling of the same name."""

    def unshifted(match: re.Match[str]) -> str:
        code = match[1]
        if not code:
            return "&"
        return base64.b64decode(code.replace(",", "/") + "=" * (-len(code) % 4)).decode("utf-16-be")

    try:
        name = re.sub("&([^-]*)-", unshifted, wire.decode("ascii"))
        if encode_name(name) == wire:
            return name
    except (UnicodeError, binascii.Error):
        pass
    raise Refused("[CANNOT] Mailbox name is not valid modified UTF-7")


def is_ascending(ranges: SequenceSet) -> bool:
    """Tell whether a sequence set names nothing before what it named already."""
    ends = [end or 1 << 32 for pair in ranges for end in pair]
    return ends == sorted(ends)


def chosen_indexes(ranges: SequenceSet, numbers: Sequence[int]) -> list[int]:
    """Return where in the ascending numbers the members of a sequence set stand."""
    last = numbers[-1] if numbers else 0
    chosen: set[int] = set()
    for ends in ranges:
        low, high = sorted(end or last for end in ends)
        chosen.update(range(bisect_left(numbers, low), bisect_right(numbers, high)))
    return sorted(chosen)


def set_text(numbers: Iterable[int]) -> str:
    """Spell ascending numbers as a sequence set."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(low) if low == high else f"{low}:{high}" for low, high in ranges)
