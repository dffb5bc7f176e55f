"""The small part of IMAP's grammar that the copier reads and writes itself (RFC 9051 section 9). Pure.

Own code because the library's parser gives up a whole LIST or FETCH for one bad name, decodes names it cannot encode
again, and copies every literal several times.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache, lru_cache

Token = bytes | None | list["Token"]

LITERAL_AT_END = re.compile(rb"~?\{(\d{1,20})\+?\}\r?\n?\Z")
# An atom may hold brackets with blanks inside: BODY[HEADER.FIELDS (MESSAGE-ID)]. No bracket within a bracket, lest a
# line of nothing else is searched to its end for each.
_TOKEN = re.compile(rb'\s*(?:(\()|(\))|"((?:[^"\\]|\\.)*)"|((?:\[[^\[\]\r\n]*\]|[^\s()"])+))')
_DATA = re.compile(
    rb"\*[ \t]+(?:\d+[ \t]+FETCH|X?LIST|LSUB|STATUS|NAMESPACE|QUOTA|ID|FLAGS|CAPABILITY)\b", re.IGNORECASE
)
_BEGINS = re.compile(rb"\*[ \t]|\+(?:\s|\Z)|[A-Z]{1,4}\d+ ", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\(.)")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBERS = {month: number for number, month in enumerate(_MONTHS, 1)}
_DATE_TIME = re.compile(r"\s?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-]\d{4})\Z")
_LONGEST_DATE = 27
_REMEMBERED_NAME = 500
"""A folder is named with every step of a pass; names that nobody would type are not worth the memory."""
_EXPONENT = re.compile(rb"\d(?:\.\d{1,18})?[eE]\+?(?:0?\d|1[0-7])\Z")
_FLAG = re.compile(rb"\\?[^\s(){%*\"\\\]\x00-\x1f\x7f-\xff]+\Z")


class GrammarError(ValueError):
    """A response that does not follow the grammar."""


class NotWhole(GrammarError):
    """A response in which something is still open at its end: what follows may belong to it."""


def parse(segments: Sequence[bytes], literals: Sequence[bytes]) -> list[Token]:
    """Parse one response: text segments with the literals that stood between them, `{n}` already cut off."""
    root: list[Token] = []
    stack = [root]
    for index, segment in enumerate(segments):
        position = 0
        while match := _TOKEN.match(segment, position):
            position = match.end()
            opened, closed, quoted, atom = match.groups()
            if opened:
                child: list[Token] = []
                stack[-1].append(child)
                stack.append(child)
                if len(stack) > 50:
                    raise GrammarError("parentheses nested too deep")
            elif closed:
                if len(stack) == 1:
                    raise GrammarError("a parenthesis is closed that was never opened")
                stack.pop()
            elif quoted is not None:
                stack[-1].append(_ESCAPED.sub(rb"\1", quoted) if b"\\" in quoted else quoted)
            else:
                stack[-1].append(None if atom.upper() == b"NIL" else atom)
        if segment[position:].strip():
            broken = NotWhole if segment[position:].lstrip().startswith(b'"') else GrammarError
            raise broken(f"cannot read {segment[position : position + 40]!r}")
        if index < len(literals):
            stack[-1].append(literals[index])
    if len(stack) != 1:
        raise NotWhole("a parenthesis is never closed")
    return root


def is_data(line: bytes) -> bool:
    """Whether a line is an answer whose brackets mean something; others are words for people."""
    return bool(_DATA.match(line))


def begins_response(line: bytes) -> bool:
    """Whether a line looks like the first one of a response."""
    return bool(_BEGINS.match(line))


def left_open(segments: Sequence[bytes]) -> tuple[bool, bool]:
    """Whether a parenthesis is open at the end of what was read so far, and whether a quoted string is."""
    depth, rest = 0, b""
    for segment in segments:
        position = 0
        while match := _TOKEN.match(segment, position):
            position = match.end()
            depth = max(0, depth + bool(match[1]) - bool(match[2]))
        rest = segment[position:].lstrip()
    return depth > 0, rest.startswith(b'"')


def pairs(tokens: Token) -> dict[bytes, Token]:
    """A FETCH or STATUS list as a dictionary, its keys in upper case."""
    if not isinstance(tokens, list) or len(tokens) % 2:
        raise GrammarError("expected a list of pairs")
    found: dict[bytes, Token] = {}
    for key, value in zip(tokens[::2], tokens[1::2], strict=True):
        if not isinstance(key, bytes):
            raise GrammarError("expected a name")
        found[key.upper()] = value
    return found


def number(token: Token) -> int:
    """A number, or GrammarError."""
    # IMAP knows no number beyond 63 bits, databases neither; Python refuses to read endless ones.
    if isinstance(token, bytes) and token.isdigit() and len(token) < 20 and (found := int(token)) < 1 << 63:
        return found
    raise GrammarError("expected a number")


def rounded_number(token: Token) -> int:
    """A number that may be written with an exponent, as home.pl does; for what is compared and never counted on."""
    if isinstance(token, bytes) and _EXPONENT.match(token):
        return int(Decimal(token.decode("ascii")))
    return number(token)


def quote(text: bytes) -> bytes:
    """An astring in quotes; GrammarError for what only a literal can carry."""
    if b"\r" in text or b"\n" in text or b"\0" in text:
        raise GrammarError("a line end or NUL cannot stand in a quoted string")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def encode_mailbox(name: str) -> bytes:
    """A folder name as modified UTF-7 (RFC 3501 section 5.1.3)."""
    return _encoded(name) if len(name) <= _REMEMBERED_NAME else _encoded.__wrapped__(name)


@lru_cache(maxsize=4096)
def _encoded(name: str) -> bytes:
    out = bytearray()
    wide = ""
    for character in [*name, ""]:
        if character and not 0x20 <= ord(character) <= 0x7E:
            wide += character
            continue
        if wide:
            coded = base64.b64encode(wide.encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
            out += b"&" + coded + b"-"
            wide = ""
        out += b"&-" if character == "&" else character.encode("ascii")
    return bytes(out)


def decode_mailbox(raw: bytes) -> str:
    """A folder name from the wire; a name that is not modified UTF-7 is shown as UTF-8 or GB18030, else octet by octet.

    Some servers list raw 8-bit or broken names, so `encode_mailbox(decode_mailbox(raw))` may differ from `raw`:
    whoever selects the folder uses `raw`. A NUL, which PostgreSQL cannot keep, becomes U+FFFD.
    """
    return _decoded(raw) if len(raw) <= _REMEMBERED_NAME else _decoded.__wrapped__(raw)


@lru_cache(maxsize=4096)
def _decoded(raw: bytes) -> str:
    return _from_the_wire(raw).replace("\0", "\ufffd")


def _from_the_wire(raw: bytes) -> str:
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        for encoding in ("utf-8", "gb18030"):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                continue
        return raw.decode("latin-1")
    out: list[str] = []
    for index, part in enumerate(text.split("&")):
        if index == 0:
            out.append(part)
            continue
        coded, dash, rest = part.partition("-")
        if not dash:
            return text
        if not coded:
            out.append("&" + rest)
            continue
        try:
            wide = base64.b64decode(coded.replace(",", "/") + "=" * (-len(coded) % 4), validate=True)
            out.append(wide.decode("utf-16-be") + rest)
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return text
    return "".join(out)


def parse_date_time(text: str) -> datetime | None:
    """An INTERNALDATE as an aware datetime; None when it is no date (`00-Jan-0000`, 24:00)."""
    return _moment(text) if len(text) <= _LONGEST_DATE else None


@lru_cache(maxsize=20_000)
def _moment(text: str) -> datetime | None:
    # Kept for as many messages as are taken together: what the source has told, the target tells again.
    match = _DATE_TIME.match(text)
    if not match:
        return None
    day, month, year, hour, minute, second, zone = match.groups()
    try:
        moment = datetime(
            int(year),
            _MONTH_NUMBERS[month.title()],
            int(day),
            int(hour),
            int(minute),
            min(int(second), 59),
            tzinfo=_zone(zone),
        )
        if moment.year in (MINYEAR, MAXYEAR):
            # In UTC it may lie beyond the calendar, and nobody could keep it.
            moment.astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None
    return moment


@cache
def _zone(written: str) -> timezone:
    # Dates are kept by the hundred thousand, and have few zones.
    offset = timedelta(hours=int(written[1:3]), minutes=int(written[3:])) * (-1 if written.startswith("-") else 1)
    return timezone(offset) if offset else UTC


def format_date_time(moment: datetime) -> str:
    """An aware datetime as INTERNALDATE, in its own zone."""
    # One for each message: in one go, and without strftime, which takes as long as all of the rest.
    return "%02d-%s-%04d %02d:%02d:%02d %s" % (  # noqa: UP031
        moment.day,
        _MONTHS[moment.month - 1],
        moment.year,
        moment.hour,
        moment.minute,
        moment.second,
        _written_zone(moment.utcoffset() or timedelta()),
    )


@lru_cache(maxsize=4096)
def _written_zone(offset: timedelta) -> str:
    minutes = int(offset.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"


def is_flag(flag: bytes) -> bool:
    """Whether a flag may be written back as it was read."""
    return bool(_FLAG.match(flag))


def flag_list(flags: Iterable[str]) -> bytes:
    """Flags in parentheses, sorted."""
    return b"(" + b" ".join(sorted(flag.encode() for flag in flags)) + b")"
