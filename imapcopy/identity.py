"""What makes two messages the same, and what a server changed in one. Pure functions over raw bytes.

Servers rewrite mail and still answer OK: Dovecot turns bare LF into CRLF and NUL into 0x80, Courier adds a final line
end, Cyrus overwrites 8-bit header octets with X at equal size. So a message is known by a digest that line ends do not
touch, and a difference gets a name.
"""

import re
from hashlib import blake2b

from models.ledger import DIGEST_BYTES

_HEADER_8BIT = bytes(range(0x80)) + b"X" * 0x80
_NUL_AS_80 = bytes([0x80, *range(1, 256)])
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_OWN_FIELD = re.compile(
    rb"^(message-id|subject|from|to|date)[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE
)
_BARE_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def digest(raw: bytes) -> bytes:
    """The identity of a message: 16 bytes, the same however its lines end."""
    return blake2b(raw.translate(None, b"\r\n"), digest_size=DIGEST_BYTES).digest()


def tolerant_digest(raw: bytes) -> bytes:
    """The same for a message and for what any server we know makes of it."""
    return blake2b(_tolerant(raw), digest_size=DIGEST_BYTES).digest()


def core_digest(raw: bytes) -> bytes:
    """The same for a message and for what a server makes of it that adds or rewrites header fields of its own.

    Only to find what was just sent: two deliveries of one mail share it.
    """
    header = _header(raw)
    fields = sorted((name.lower(), b"".join(value.split())) for name, value in _OWN_FIELD.findall(header))
    if not fields:
        return tolerant_digest(raw)
    told = b"\n".join(name + b":" + value for name, value in fields)
    body = _without_nul(raw[len(header) :])
    return blake2b(told.translate(_HEADER_8BIT) + b"\n\n" + body, digest_size=DIGEST_BYTES).digest()


def alteration(sent: bytes, stored: bytes) -> str:
    """Name what the target's server changed, mildest first; "" when nothing."""
    if sent == stored:
        return ""
    if sent.rstrip(b"\r\n") == stored.rstrip(b"\r\n"):
        return "final_line_end"
    if sent.translate(None, b"\r\n") == stored.translate(None, b"\r\n"):
        return "line_ends"
    if _without_nul(sent) == _without_nul(stored):
        return "nul"
    if _tolerant(sent) == _tolerant(stored):
        return "header_8bit"
    return "content"


def is_hazardous(raw: bytes) -> bool:
    """Whether some server is known to alter such a message, so that it must be read back."""
    if b"\0" in raw or not raw.endswith(b"\r\n") or _BARE_LINE_END.search(raw):
        return True
    return not _header(raw).isascii()


def _header(raw: bytes) -> bytes:
    end = _HEADER_END.search(raw)
    return raw[: end.end()] if end else raw


def _without_nul(raw: bytes) -> bytes:
    return raw.translate(_NUL_AS_80, b"\r\n")


def _tolerant(raw: bytes) -> bytes:
    header = _header(raw)
    body = raw[len(header) :]
    return _without_nul(header).translate(_HEADER_8BIT) + _without_nul(body)
