"""What to change in a message that a target refuses as such, so that it may take it. Pure functions over raw bytes.

Each repair is the smallest that cures its defect, and none takes anything away but NUL octets. A repaired copy is
recognised by the source's bytes alone (`repaired_forms`), whatever the refusal said and whoever has sent it. Why so:
docs/decisions/0012-refused-messages.md.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import NamedTuple

EMPTY = b"X-Banjia-Repaired: empty\r\n\r\n"
"""What stands for a message of zero octets."""
STRAY = b"X-Banjia-Line: "
"""Goes before a line in the header that is no field."""

_LINE_END = re.compile(rb"\r*\n|\r")
_FIELD = re.compile(rb"[!-9;-~]+:")
_BLANK_BEFORE_COLON = re.compile(rb"([!-9;-~]+)[ \t]+:")
_OTHER_DEFECT = re.compile(r"\bNUL\b|bare newline|zero|separator|line end", re.IGNORECASE)
"""A refusal that names one of these says nothing against 8-bit octets in the header."""
_CHARSET = re.compile(rb"\bcharset\s*=\s*\"?([A-Za-z0-9._:-]+)", re.IGNORECASE)
_ALIASES = {"gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "x-gbk": "gb18030"}
# Where each character has octets of its own and ASCII stands for itself; Python would take UTF-16 or hex as well.
_PLAIN_CHARSET = re.compile(r"gb18030|big5(-hkscs)?|iso-8859-\d+|windows-125\d|koi8-[ru]|euc-(kr|jp)|shift_jis|tis-620")
_UNKNOWN = "unknown-8bit"
"""Octets of which nobody knows what they mean (RFC 1428)."""
_PARAMETERS = {b"content-type", b"content-disposition"}
_WORD = r"[^ \t\r\n\"<>(),\x80-\U0010ffff]*[\x80-\U0010ffff][^ \t\r\n\"<>(),]*"
_SPACE = " \t\r\n"
_TO_ENCODE = re.compile(rf'"((?:[^"\\]|\\.)*)"|({_WORD}(?:[ \t]+{_WORD})*)', re.DOTALL)
_ENCODED_WORD_LENGTH = 75


class Repaired(NamedTuple):
    """A message as it may be taken, and what was changed for that."""

    raw: bytes
    repairs: tuple[str, ...]
    """empty, nul, line_ends, header_line, separator, header_8bit, final_line_end."""


def repaired(raw: bytes, refusal: str) -> Repaired | None:
    """The message without what servers are known to refuse; None where nothing of that is in it.

    All defects at once, because there is one attempt and a server names only the first that it meets; 8-bit octets in
    the header stay where the server's words are about something else.
    """
    return _repaired(raw, encode=not _OTHER_DEFECT.search(refusal))


def repaired_forms(raw: bytes) -> list[Repaired]:
    """All that `repaired` may make of a message."""
    without, encoded = _repaired(raw, encode=False), _repaired(raw, encode=True)
    return [form for form in (without, encoded if encoded != without else None) if form]


def _repaired(raw: bytes, *, encode: bool) -> Repaired | None:
    repairs: list[str] = []
    if b"\0" in raw:
        raw = raw.replace(b"\0", b"")
        repairs.append("nul")
    if not raw:
        return Repaired(EMPTY, (*repairs, "empty"))
    if not raw.count(b"\n") == raw.count(b"\r") == raw.count(b"\r\n"):
        raw = _LINE_END.sub(b"\r\n", raw)
        repairs.append("line_ends")
    header, separator, body = _parted(raw)
    lines, spilt, changed = _fields(header, ended=bool(separator))
    if changed:
        repairs.append("header_line")
    if spilt or not separator:
        repairs.append("separator")
        body = b"".join(line + b"\r\n" for line in spilt) + separator + body
    if encode and any(not line.isascii() for line in lines):
        hint = _declared_charset(header)
        lines = [_encoded(field, hint) for field in _unfolded(lines)]
        repairs.append("header_8bit")
    if not raw.endswith(b"\r\n"):
        body += b"\r\n" if body and not body.endswith(b"\r\n") else b""
        repairs.append("final_line_end")
    if not repairs:
        return None
    return Repaired(b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body, tuple(repairs))


def _parted(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Header without its last line end, the empty line (b"" where there is none), body."""
    if raw.startswith(b"\r\n"):
        return b"", b"\r\n", raw[2:]
    header, separator, body = raw.partition(b"\r\n\r\n")
    return (header, b"\r\n", body) if separator else (raw.removesuffix(b"\r\n"), b"", b"")


def _fields(header: bytes, *, ended: bool) -> tuple[list[bytes], list[bytes], bool]:
    """The lines of a header, lines of the body that stood there without an empty line before, whether any changed."""
    lines = header.split(b"\r\n") if header else []
    kept: list[bytes] = []
    changed = False
    for number, line in enumerate(lines):
        if _FIELD.match(line) or (kept and line[:1] in (b" ", b"\t")):
            kept.append(line)
        elif _BLANK_BEFORE_COLON.match(line):
            kept.append(_BLANK_BEFORE_COLON.sub(rb"\1:", line, count=1))
            changed = True
        elif _FIELD.match(lines[number + 1]) if number + 1 < len(lines) else ended:
            # Fields go on after it: `From ` of an mbox file, half a line that was folded badly.
            kept.append(STRAY + line)
            changed = True
        else:
            return kept, lines[number:], changed
    return kept, [], changed


def _unfolded(lines: Sequence[bytes]) -> list[bytes]:
    """Fields with the lines that continue them."""
    fields: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            fields[-1] += b"\r\n" + line
        else:
            fields.append(line)
    return fields


def _declared_charset(header: bytes) -> str:
    found = _CHARSET.search(header)
    name = found[1].decode("ascii").lower() if found else ""
    name = _ALIASES.get(name, name)
    return name if _PLAIN_CHARSET.fullmatch(name) else ""


def _encoded(field: bytes, hint: str) -> bytes:
    """A field with its 8-bit words as encoded words (RFC 2047), the octets of the words as they were."""
    if field.isascii():
        return field
    name, _, value = field.partition(b":")
    charset = charset_of(value, hint)
    codec = "latin-1" if charset == _UNKNOWN else charset
    text = value.decode(codec)
    out: list[str] = []
    position = 0
    for found in _TO_ENCODE.finditer(text):
        quoted, words = found.groups()
        if (quoted if words is None else words).isascii():
            continue
        out.append(text[position : found.start()])
        position = found.end()
        if words is None and name.lower() in _PARAMETERS:
            # Where RFC 2047 has no encoded words, everybody writes them all the same, and every reader reads them.
            out.append('"' + "\r\n ".join(_encoded_words(_unquoted(quoted), charset, codec)) + '"')
            continue
        if out[-1] and out[-1][-1] not in _SPACE + "(":
            out.append(" ")
        out.append("\r\n ".join(_encoded_words(_unquoted(quoted) if words is None else words, charset, codec)))
        if position < len(text) and text[position] not in _SPACE + ")":
            out.append(" ")
    out.append(text[position:])
    return name + b":" + "".join(out).encode("ascii")


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _encoded_words(text: str, charset: str, codec: str) -> Iterator[str]:
    """Words of whole characters, none longer than allowed."""
    room = (_ENCODED_WORD_LENGTH - len(f"=?{charset}?B??=")) // 4 * 3
    some = b""
    for character in text:
        octets = character.encode(codec)
        if len(some) + len(octets) > room:
            yield f"=?{charset}?B?{b64encode(some).decode()}?="
            some = b""
        some += octets
    yield f"=?{charset}?B?{b64encode(some).decode()}?="


def charset_of(octets: bytes, hint: str = "") -> str:
    """In what 8-bit text is written: UTF-8, what the message declares, GB18030 or Big5; `unknown-8bit` otherwise.

    Only a charset that gives the very same octets back.
    """
    for charset in ("utf-8", hint):
        if charset and _is_written_in(octets, charset):
            return charset
    gb, big5 = (_is_written_in(octets, charset) for charset in ("gb18030", "big5"))
    if gb and big5:
        wide = [character for character in octets.decode("gb18030") if not character.isascii()]
        common = sum(_is_common(character) for character in wide)
        return "gb18030" if common * 5 >= len(wide) * 4 else "big5"
    return "gb18030" if gb else "big5" if big5 else _UNKNOWN


def _is_written_in(octets: bytes, charset: str) -> bool:
    try:
        return octets.decode(charset).encode(charset) == octets
    except (LookupError, UnicodeError, ValueError):
        return False


def _is_common(character: str) -> bool:
    """Whether a character is among those of everyday Chinese: what Big5 looks like when read as GB18030 is not."""
    try:
        character.encode("gb2312")
    except UnicodeError:
        return False
    return True
