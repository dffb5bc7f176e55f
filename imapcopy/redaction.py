"""Keeps what was sent to sign in out of what servers say. Pure.

A server may quote a password in any form: as it was typed, as it was sent, or as its own log would write it. No list of
forms is complete, so words are shown only when they are proved free: they are undone again and again (escapes, base64,
hexadecimal digits ...), and no octets of a secret may turn up in any of these views. What cannot be proved free is cut
down to what the rules of `answers.toml` know: status, response codes, and words that are written there.
"""

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from typing import Literal
from urllib.parse import unquote_to_bytes

from imapcopy import answers

RUN = 6
"""So many octets of a secret in a row give it away; of a shorter one, all of it."""
LONGEST = 500
"""Characters that are shown."""
HIDDEN = "***"
LEFT_OUT = "…"

_ENCODINGS = ("utf-8", "gb18030", "big5", "utf-16-le", "utf-16-be", "latin-1")
_FORMS: tuple[Literal["NFC", "NFD", "NFKC"], ...] = ("NFC", "NFD", "NFKC")
_DEPTH = 3
"""One form within another, as the repr of a line in base64 in a JSON log."""
_MOST_VIEWS = 400
_SPACE = re.compile(rb"\s+|\\[rnt]")
_STATUS = re.compile(r"(?:\* )?(?:OK|NO|BAD|BYE|PREAUTH)\b", re.IGNORECASE)
_UNIT = re.compile("(?:sec|min|hour)[a-z]*$|秒|分|小时", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\s,.;:!?\"'()<>，。；：！？（）]+")


def redact(text: str, secrets: Iterable[str]) -> str:
    """A server's words without the secrets: control characters made visible, endless ones cut."""
    given = {secret for secret in secrets if secret}
    # Twice as much as is shown: what is taken out makes room.
    text = text[: 2 * LONGEST]
    for secret in sorted(given, key=len, reverse=True):
        text = re.sub(re.escape(secret), HIDDEN, text, flags=re.IGNORECASE)
    text = text[: LONGEST + 1]
    runs = _runs(given)
    return _visible(text) if _is_free(text, runs) else _known_words(text, runs)


def _visible(text: str) -> str:
    visible = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return visible if len(visible) <= LONGEST else visible[: LONGEST - 3] + "..."


# What gives a secret away.


def _runs(secrets: Collection[str]) -> dict[int, set[bytes]]:
    """The octets that may not be seen in any view, in small letters, by their number."""
    found: dict[int, set[bytes]] = {}

    def add(octets: bytes, length: int) -> None:
        length = min(length, len(octets))
        if length:
            runs = found.setdefault(length, set())
            runs.update(octets[at : at + length] for at in range(len(octets) - length + 1))

    for secret in secrets:
        spellings = {
            secret,
            secret.casefold(),
            secret.lower(),
            *(unicodedata.normalize(form, secret) for form in _FORMS),
        }
        for octets in {encoded for spelling in spellings for encoded in _encoded(spelling)}:
            add(octets.lower(), RUN)
            add(_SPACE.sub(b"", octets).lower(), RUN)
        # In capitals or small letters base64 cannot be undone any more, but still be recognised.
        for octets in _encoded(secret):
            for offset in range(3):
                add(_inside_base64(octets, offset).lower(), 4 * RUN // 3)
    # Fewer than four letters of base64 are in every sentence.
    return found


def _encoded(text: str) -> Iterator[bytes]:
    for encoding in _ENCODINGS:
        try:
            yield text.encode(encoding)
        except UnicodeEncodeError:
            continue


def _inside_base64(octets: bytes, offset: int) -> bytes:
    """The letters that do not depend on what stands around `octets`, where these begin at `offset` modulo 3."""
    letters = base64.b64encode(b"\0" * offset + octets)
    inside = letters[(0, 2, 3)[offset] : (offset + len(octets)) * 8 // 6]
    return inside if len(inside) >= 4 else b""


# What a text may stand for.


def _is_free(text: str, runs: dict[int, set[bytes]]) -> bool:
    return not runs or not any(_holds(view, runs) for view in _views(text))


def _holds(view: bytes, runs: dict[int, set[bytes]]) -> bool:
    small = view.lower()
    for some in {small, _SPACE.sub(b"", small), small.replace(b"\0", b""), _folded(view)}:
        for length, forbidden in runs.items():
            if any(some[at : at + length] in forbidden for at in range(len(some) - length + 1)):
                return True
    return False


def _folded(view: bytes) -> bytes:
    text = view.decode("utf-8", "replace")
    return unicodedata.normalize("NFKC", text).casefold().encode()


def _views(text: str) -> Iterator[bytes]:
    """The text, and all that comes of undoing what was perhaps done to it."""
    first = text.encode("utf-8", "surrogatepass")
    seen = {first}
    due = [(first, 0)]
    for view, depth in due:
        yield view
        if depth == _DEPTH:
            continue
        for undo in _UNDOING:
            for found in undo(view):
                if found and found not in seen and len(seen) < _MOST_VIEWS:
                    seen.add(found)
                    due.append((found, depth + 1))


_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0"}
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def _unescaped(view: bytes) -> Iterator[bytes]:
    """Without backslashes: quoted strings of IMAP, JSON, and what Python and C make of octets."""
    if b"\\" not in view:
        return

    def octets(match: re.Match[bytes]) -> bytes:
        said = match[1]
        if said[:1] == b"x" and len(said) == 3:
            return bytes([int(said[1:], 16)])
        if said[:1] in b"uU" and len(said) > 4:
            number = int(said[1:], 16)
            return chr(number).encode("utf-8", "surrogatepass") if number <= 0x10FFFF else b""
        if len(said) == 3:
            return bytes([int(said, 8) & 0xFF])
        return _LETTERS.get(said, said)

    found = _ESCAPE.sub(octets, view)
    yield found
    # JSON writes what lies beyond 16 bits in two halves.
    paired = found.decode("utf-8", "surrogatepass") if _is_text(found) else ""
    if _SURROGATES.search(paired):
        yield paired.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _is_text(octets: bytes) -> bool:
    try:
        octets.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _unquoted(view: bytes) -> Iterator[bytes]:
    """Without the escapes of URLs, mail and HTML, and with one quote where there are two."""
    if b"%" in view:
        yield unquote_to_bytes(view)
    if b"+" in view:
        yield unquote_to_bytes(view.replace(b"+", b" "))
    if b"=" in view:
        yield binascii.a2b_qp(view)
    if b"&" in view:
        yield html.unescape(view.decode("latin-1")).encode("utf-8")
        yield html.unescape(view.decode("utf-8", "replace")).encode("utf-8")
    for quote in (b'"', b"'"):
        if quote * 2 in view:
            yield view.replace(quote * 2, quote)


def _recoded(view: bytes) -> Iterator[bytes]:
    """Octets that were taken for another encoding than theirs."""
    if view.isascii():
        return
    text = view.decode("utf-8", "replace")
    # What was taken for Latin-1 may stand beside what was not.
    yield b"".join(bytes([ord(c)]) if ord(c) < 256 else c.encode() for c in text)
    yield text.encode("cp1252", "ignore")


_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{6,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{6,}")
_BETWEEN_HEX = re.compile(rb"(?<=[0-9A-Fa-f]{2})[\s:.,-]+(?:0x|\\x)?(?=[0-9A-Fa-f]{2})")


def _from_base64(view: bytes) -> Iterator[bytes]:
    """Wherever it was cut: its letters are taken from each of four beginnings."""
    for joined in {view, _SPACE.sub(b"", view), re.sub(rb"[=.]+", b"", _SPACE.sub(b"", view))}:
        for match in _BASE64.finditer(joined):
            letters = match[0].replace(b"-", b"+").replace(b"_", b"/")
            for ahead in range(4):
                some = letters[ahead:]
                yield base64.b64decode(some[: len(some) // 4 * 4] + _last(some[len(some) // 4 * 4 :]))


def _last(letters: bytes) -> bytes:
    return letters + b"=" * (4 - len(letters)) if len(letters) > 1 else b""


def _from_hex(view: bytes) -> Iterator[bytes]:
    for joined in {view, _BETWEEN_HEX.sub(b"", view)}:
        for match in _HEX.finditer(joined):
            for ahead in range(2):
                digits = match[0][ahead:]
                yield bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


_UNDOING: tuple[Callable[[bytes], Iterator[bytes]], ...] = (_unescaped, _unquoted, _recoded, _from_base64, _from_hex)


# What is left of words that are not free.


def _known_words(text: str, runs: dict[int, set[bytes]]) -> str:
    """Status, response codes and words that rules are made of; what is between them is left out."""
    status = _STATUS.match(text)
    codes = [code for code in answers.response_codes(text) if code in answers.codes()]
    head = [status[0]] if status else []
    head += [f"[{code}]" for code in codes]
    words = re.sub(r"\[[^\]]*\]?", " ", text[status.end() if status else 0 :])
    rest: list[str] = []
    said = [word for word in _BETWEEN_WORDS.split(words) if word]
    for word, after in zip(said, [*said[1:], ""], strict=True):
        # How long a server wants to be left alone; other numbers may be digits of what is hidden.
        is_wait = word.isdecimal() and len(word) <= 4 and bool(_UNIT.match(after))
        if (is_wait or _is_known(word)) and _is_free(word, runs):
            rest.append(word)
        elif rest[-1:] != [LEFT_OUT]:
            rest.append(LEFT_OUT)
    for some in (" ".join(head + rest), " ".join([*head, LEFT_OUT])):
        if _is_free(some, runs):
            return some
    return HIDDEN


@cache
def _vocabulary() -> frozenset[str]:
    """The words of the rules' samples: they are published, and tell nobody's secret."""
    return frozenset(word.casefold() for text in _samples() for word in re.findall(r"[A-Za-z]{2,}", text))


@cache
def _samples() -> tuple[str, ...]:
    return tuple(sample for rule in answers.rules() for sample in rule.samples)


def _is_known(word: str) -> bool:
    if word.isascii():
        return word.casefold() in _vocabulary() or bool(_UNIT.match(word))
    return len(word) > 1 and any(word in sample for sample in _samples())
