"""By what people find a message: subject and sender, read out of a header that may be broken in every way. Pure.

Encoded words (RFC 2047), raw UTF-8 (RFC 6532), and what old mail has in place of them: raw octets of some charset that
is at best named for the body.
"""

import email.header
import re
import unicodedata
from binascii import Error as NoBase64
from email.errors import HeaderParseError

from models.ledger_rows import Heading

HEADING_FIELDS = b"SUBJECT FROM CONTENT-TYPE"
"""What is asked for where the octets are not at hand; the charset of the text is the best guess at a subject's."""
HEADER_BYTES = 1 << 16
FIELD_BYTES = 4096
SUBJECT_LENGTH = 160
SENDER_LENGTH = 100

_FIELD = re.compile(
    rb"^(subject|from|content-type)[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE
)
_HEADER_END = re.compile(rb"\r?\n\r?\n|\r\n?\r")
_FOLD = re.compile(rb"[\r\n]+")
_CHARSET = re.compile(rb"charset[ \t]*=[ \t]*\"?([A-Za-z0-9._-]+)", re.IGNORECASE)
_HIGH = re.compile(rb"[\x80-\xff]+")
_FOUR_OCTETS = re.compile(rb"[\x81-\xfe][0-9][\x81-\xfe][0-9]")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "hz-gb-2312": "hz", "iso-8859-1": "cp1252", "us-ascii": "utf-8"}
"""Charsets that hold what writers put under a narrower name."""
_JOINERS = "\u200c\u200d"
"""Names in some scripts and emoji need them."""


def heading_of(raw: bytes) -> Heading:
    """Subject and sender of a message, or of the fields of its header that were asked for."""
    header = raw[:HEADER_BYTES]
    if end := _HEADER_END.search(header):
        header = header[: end.start()]
    fields: dict[bytes, bytes] = {}
    for name, value in _FIELD.findall(header):
        fields.setdefault(name.lower(), _FOLD.sub(b"", value[:FIELD_BYTES]))
    told = _CHARSET.search(fields.get(b"content-type", b""))
    charset = told[1].decode("ascii") if told else ""
    return Heading(
        _shown(_decoded(fields.get(b"subject", b""), charset), SUBJECT_LENGTH),
        _shown(_decoded(fields.get(b"from", b""), charset), SENDER_LENGTH),
    )


def _decoded(value: bytes, charset: str) -> str:
    text = _guessed(value, charset)
    if "=?" not in text:
        return text
    try:
        # Octets of one charset that stand in several words may share a character.
        words = email.header.decode_header(text)
    except (HeaderParseError, NoBase64, ValueError):
        return text
    return "".join(each if isinstance(each, str) else _in_charset(each, named) for each, named in words)


def _in_charset(octets: bytes, named: str | None) -> str:
    """An encoded word, or what stands between two: that is what `_guessed` made of it, as `raw-unicode-escape`."""
    return octets.decode("raw-unicode-escape", "replace") if named is None else _guessed(octets, named)


def _guessed(octets: bytes, charset: str) -> str:
    """As UTF-8, as it is said to be, as GB18030, as Latin: the first that can be."""
    if octets.isascii() and charset.lower() not in ("iso-2022-jp", "iso-2022-kr", "utf-7", "hz-gb-2312"):
        return octets.decode("ascii")
    likely = ["utf-8", _WIDER.get(charset.lower(), charset.lower())]
    # A letter of Chinese has two octets, a rare one four with digits between; lone octets among ASCII are accents.
    runs = [len(run) for run in _HIGH.findall(_FOUR_OCTETS.sub(b"", octets))]
    likely += ["gb18030"] if runs and 4 * runs.count(1) <= sum(runs) else []
    if octets.isascii():
        likely.reverse()
    for name in filter(None, likely):
        if (text := _read(octets, name)) is not None:
            return text
    latin = octets.decode("cp1252", "replace")
    high = [each for each in latin if not each.isascii()]
    if 3 * sum(each.isalpha() for each in high) < 2 * len(high):
        # Signs in place of accents: Big5, whose second octets are ASCII as often as not.
        return _read(octets, "big5") or latin
    return latin


def _read(octets: bytes, charset: str) -> str | None:
    try:
        return octets.decode(charset)
    except (LookupError, ValueError):
        return None


def _shown(text: str, length: int) -> str:
    """One line without what hides or reorders other characters, cut to a length."""
    plain = "".join(each if _is_plain(each) else " " if each in "\t\r\n\v\f\u2028\u2029" else "" for each in text)
    line = " ".join(plain.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def _is_plain(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
