"""What a server's responses say, as values. Pure; whatever cannot be read is left out or refused as GrammarError."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from imapcopy import grammar
from imapcopy.folders import Folder
from imapcopy.grammar import Token
from imapcopy.plan import Envelope
from imapcopy.wire import Response

_SYSTEM_FLAGS = {"\\seen": "\\Seen", "\\answered": "\\Answered", "\\flagged": "\\Flagged", "\\deleted": "\\Deleted"}
_SYSTEM_FLAGS["\\draft"] = "\\Draft"
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r?\n[ \t]+)?(\S+)", re.IGNORECASE | re.MULTILINE)
# The two answers that come by the thousand, as nearly every server writes them; any other order takes the long way.
_SCANNED = re.compile(
    rb'\d+ FETCH \(UID (\d{1,10}) FLAGS \(([^()"]*)\) INTERNALDATE "([^"\\]*)" RFC822\.SIZE (\d{1,18})\)\Z'
)
_FETCH = re.compile(rb"\d+\s+FETCH\b", re.IGNORECASE)
_BODY = re.compile(rb"\d+ FETCH \(UID (\d{1,10}) BODY\[\] \Z")


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """STATUS of a folder; `highestmodseq` is 0 without CONDSTORE (RFC 7162)."""

    messages: int
    uidnext: int
    uidvalidity: int
    highestmodseq: int = 0


@dataclass(frozen=True, slots=True)
class Selected:
    """What SELECT or EXAMINE told. `keywords` is None when any keyword may be stored."""

    uidvalidity: int
    uidnext: int
    messages: int
    keywords: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the server delivered it; `raw` is None when it delivered nothing (gone, or unreadable)."""

    uid: int
    raw: bytes | None


def fetched(response: Response) -> dict[bytes, Token] | None:
    """The items of a FETCH response, None for any other response."""
    if not _FETCH.match(response.segments[0]):
        return None
    tokens = response.tokens()
    verb = tokens[1] if len(tokens) == 3 else None
    return grammar.pairs(tokens[2]) if isinstance(verb, bytes) and verb.upper() == b"FETCH" else None


def envelope(response: Response) -> Envelope | None:
    """One message of a scan; None for an unsolicited FETCH, which has no size and no date."""
    if found := _SCANNED.match(response.segments[0]):
        text = found[3].decode("latin-1")
        arrived = grammar.parse_date_time(text)
        return Envelope(int(found[1]), _named_flags(found[2]), "" if arrived else text, arrived, int(found[4]))
    values = fetched(response)
    if values is None or b"UID" not in values or b"RFC822.SIZE" not in values:
        return None
    date = values.get(b"INTERNALDATE")
    text = date.decode("latin-1") if isinstance(date, bytes) else ""
    arrived = grammar.parse_date_time(text)
    return Envelope(
        uid=grammar.number(values[b"UID"]),
        flags=_flags(values.get(b"FLAGS")),
        internal_date="" if arrived else text,
        arrived=arrived,
        size=grammar.number(values[b"RFC822.SIZE"]),
    )


def message(response: Response) -> Message | None:
    """One message with its content; None for a response that carries none."""
    segments = response.segments
    if len(segments) == 2 and segments[1] == b")" and (found := _BODY.match(segments[0])):
        return Message(int(found[1]), response.literals[0])
    values = fetched(response)
    if values is None or b"UID" not in values or b"BODY[]" not in values:
        return None
    raw = values[b"BODY[]"]
    return Message(grammar.number(values[b"UID"]), raw if isinstance(raw, bytes) else None)


def piece(response: Response) -> Message | None:
    """A part of a message's content: `BODY[]<0>`; None for a response that carries none."""
    values = fetched(response)
    name = next((key for key in values if key.startswith(b"BODY[]<")), None) if values else None
    if values is None or name is None or b"UID" not in values:
        return None
    raw = values[name]
    return Message(grammar.number(values[b"UID"]), raw if isinstance(raw, bytes) else None)


def message_id(response: Response) -> tuple[int, str] | None:
    """UID and Message-ID, "" for a message without one."""
    values = fetched(response)
    name = next((key for key in values if key.startswith(b"BODY[")), None) if values else None
    if values is None or name is None or b"UID" not in values:
        return None
    header = values[name]
    # Some servers answer with the whole header, some with NIL where there is none.
    match = _MESSAGE_ID.search(header) if isinstance(header, bytes) else None
    return grammar.number(values[b"UID"]), match[1].decode("latin-1") if match else ""


def selected(responses: Iterable[Response]) -> Selected:
    """What SELECT or EXAMINE told; 0 for what it did not tell."""
    uidvalidity = uidnext = messages = 0
    keywords: frozenset[str] | None = frozenset()
    for response in responses:
        text = response.text
        if match := re.match(r"(\d+) EXISTS", text, re.IGNORECASE):
            messages = int(match[1])
        elif match := re.match(r"OK \[UIDVALIDITY (\d+)", text, re.IGNORECASE):
            uidvalidity = int(match[1])
        elif match := re.match(r"OK \[UIDNEXT (\d+)", text, re.IGNORECASE):
            uidnext = int(match[1])
        elif match := re.match(r"OK \[PERMANENTFLAGS \(([^)]*)\)", text, re.IGNORECASE):
            flags = match[1].split()
            keywords = None if "\\*" in flags else frozenset(f.lower() for f in flags if not f.startswith("\\"))
    return Selected(uidvalidity, uidnext, messages, keywords)


def statuses(responses: Iterable[Response]) -> dict[bytes, FolderStatus]:
    """STATUS by folder as the server spells it; INBOX always so."""
    found: dict[bytes, FolderStatus] = {}
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            if len(tokens) > 2 and tokens[0] == b"STATUS" and isinstance(tokens[1], bytes):
                values = grammar.pairs(tokens[-1])
                found[_inbox_or(tokens[1])] = FolderStatus(
                    messages=grammar.number(values.get(b"MESSAGES")),
                    uidnext=grammar.number(values.get(b"UIDNEXT")),
                    uidvalidity=grammar.number(values.get(b"UIDVALIDITY")),
                    highestmodseq=grammar.number(values.get(b"HIGHESTMODSEQ", b"0")),
                )
    return found


def personal_namespace(responses: Iterable[Response]) -> tuple[str, str] | None:
    """Prefix and separator of the first personal namespace (RFC 2342)."""
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            personal = tokens[1] if tokens[:1] == [b"NAMESPACE"] and len(tokens) > 1 else None
            first = personal[0] if isinstance(personal, list) and personal else None
            if isinstance(first, list) and len(first) > 1 and isinstance(first[0], bytes):
                separator = first[1] if isinstance(first[1], bytes) else b""
                return grammar.decode_mailbox(first[0]), separator.decode("latin-1")
    return None


def listed_folders(responses: Iterable[Response]) -> list[Folder]:
    """The folders of LIST answers; one that cannot be read never costs the others."""
    folders = []
    for response in responses:
        try:
            tokens = response.tokens()
        except grammar.GrammarError:
            continue
        if len(tokens) < 4 or tokens[0] not in (b"LIST", b"XLIST"):
            continue
        attributes, separator, raw = tokens[1:4]
        # An unquoted name may look like NIL; there is no other way to write the folder named so.
        raw = b"NIL" if raw is None else raw
        if isinstance(attributes, list) and isinstance(raw, bytes):
            raw = _inbox_or(raw)
            folders.append(
                Folder(
                    raw=raw,
                    name=grammar.decode_mailbox(raw),
                    separator=separator.decode("latin-1") if isinstance(separator, bytes) else "",
                    attributes=frozenset(a.decode("latin-1").lower() for a in attributes if isinstance(a, bytes)),
                )
            )
    return folders


def told_apart(folders: Iterable[Folder]) -> list[Folder]:
    """Two spellings on the wire may read the same; the ledger knows a folder by its name, so each gets its own."""
    found: dict[str, Folder] = {}
    for folder in folders:
        name = folder.name if folder.name not in found else folder.raw.decode("latin-1")
        found.setdefault(name, replace(folder, name=name))
    return list(found.values())


def sendable_flags(flags: frozenset[str], keywords: frozenset[str] | None) -> frozenset[str]:
    """The flags that the target's folder can store: system flags without \\Recent, and the keywords it allows."""
    if flags <= _ALWAYS_SENDABLE:
        return flags
    kept = set()
    for flag in flags:
        if flag.startswith("\\"):
            if flag.lower() in _SYSTEM_FLAGS:
                kept.add(_SYSTEM_FLAGS[flag.lower()])
        elif (keywords is None or flag.lower() in keywords) and grammar.is_flag(flag.encode()):
            kept.add(flag)
    return frozenset(kept)


_ALWAYS_SENDABLE = frozenset(_SYSTEM_FLAGS.values())


@lru_cache(maxsize=4096)
def _named_flags(text: bytes) -> frozenset[str]:
    # A mailbox has few sets of flags and many messages: each set is made once and shared.
    return _flags(list(text.split()))


def _flags(token: Token) -> frozenset[str]:
    if not isinstance(token, list):
        return frozenset()
    # Nothing in a list of flags can be NIL but a keyword of that name.
    found = ("NIL" if f is None else f.decode("latin-1") for f in token if not isinstance(f, list))
    return frozenset(_SYSTEM_FLAGS.get(f.lower(), f) for f in found if f.lower() != "\\recent")


def _inbox_or(raw: bytes) -> bytes:
    return b"INBOX" if raw.upper() == b"INBOX" else raw
