"""Mail from a directory: `.eml` files, one message each, and `.mbox` files, in the order of their names."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.fidelity.hazards import NOON, Hazard

_FROM_LINE = re.compile(rb"^From [^\n]*\n", re.MULTILINE)


def corpus(directory: Path) -> list[Hazard]:
    """Every message, named by its file."""
    return [
        Hazard(name, raw, arrived=_arrived(raw))
        for file in sorted(directory.rglob("*"))
        if file.suffix in (".eml", ".mbox")
        for name, raw in _messages(file, file.relative_to(directory).as_posix())
    ]


def _messages(file: Path, name: str) -> Iterator[tuple[str, bytes]]:
    raw = file.read_bytes()
    if file.suffix == ".eml":
        yield name, _as_sent(raw)
        return
    starts = [match.end() for match in _FROM_LINE.finditer(raw)]
    ends = [*[match.start() for match in _FROM_LINE.finditer(raw)][1:], len(raw)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        # An empty line stands between two messages and belongs to neither.
        text = raw[start:end]
        yield f"{name}#{number}", _as_sent(text[:-1] if text.endswith(b"\n\n") else text)


def _as_sent(raw: bytes) -> bytes:
    """Files of a Unix machine have LF where mail has CRLF; one that has any CRLF is taken as it is."""
    return raw if b"\r\n" in raw else raw.replace(b"\n", b"\r\n")


def _arrived(raw: bytes) -> datetime:
    """The Date of the message, where it can be read and every server can keep it."""
    try:
        told = parsedate_to_datetime(str(BytesHeaderParser().parsebytes(raw)["Date"]))
        told = told if told.tzinfo else told.replace(tzinfo=UTC)
        return told if datetime(1971, 1, 1, tzinfo=UTC) < told < datetime(2037, 1, 1, tzinfo=UTC) else NOON
    except (ValueError, TypeError, IndexError, OverflowError):
        return NOON
