"""What a server's responses say, as values. Pure; whatever cannot be read is left out or refused as GrammarError."""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from imapcopy import grammar
from imapcopy.folders import Folder
from imapcopy.grammar import Token
from imapcopy.limits import LONG_TEXT
from imapcopy.namespaces import NO_NAMESPACES, Namespace, Namespaces
from imapcopy.plan import Envelope
from imapcopy.wire import Response
from models.uid_sets import parse_uids

_SYSTEM_FLAGS = {"\\seen": "\\Seen", "\\answered": "\\Answered", "\\flagged": "\\Flagged", "\\deleted": "\\Deleted"}
_SYSTEM_FLAGS["\\draft"] = "\\Draft"
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r?\n[ \t]+)?(\S+)", re.IGNORECASE | re.MULTILINE)
# The two answers that come by the thousand, as nearly every server writes them; any other order takes the long way.
_SCANNED = re.compile(
    rb'(\d+) FETCH \(UID ([1-9]\d{0,8}|[1-3]\d{9}) FLAGS \(([^()"]*)\) '
    rb'INTERNALDATE "([^"\\]*)" RFC822\.SIZE (\d{1,12})\)\Z'
)
_NUMBER = re.compile(rb"(\d{1,10})\s+FETCH\b", re.IGNORECASE)
_ALL_FLAGS = re.compile(rb"FLAGS \((.*?)\)(?=\)?\s*\Z| (?:UID|INTERNALDATE|RFC822\.SIZE|MODSEQ|X-GM-[A-Z]+|EMAILID) )")
_FETCH = re.compile(rb"\d+\s+FETCH\b", re.IGNORECASE)
_BODY = re.compile(rb"\d+ FETCH \(UID ([1-9]\d{0,8}|[1-3]\d{9}) BODY\[\] \Z")
_PIECE = re.compile(rb"BODY\[\](?:<(\d{1,12})[\d.]{0,13}>)?\Z")
_LARGEST_UID = (1 << 32) - 1
_LARGEST_SIZE = 1 << 40
"""No message has a terabyte; sums of sizes must fit into a database."""
_EXISTS = re.compile(r"(\d{1,18})\s+EXISTS\b", re.IGNORECASE | re.ASCII)
# Some servers leave the OK away.
_CODE = re.compile(r"(?:OK\s*)?\[\s*(UIDVALIDITY|UIDNEXT)\s+([^\]\s]{1,30})\s*\]", re.IGNORECASE)
_PERMANENT = re.compile(r"(?:OK\s*)?\[\s*PERMANENTFLAGS\s+\(([^)]*)\)", re.IGNORECASE)
_LISTED = re.compile(
    rb'(?:X?LIST|LSUB)\s+\(([^()"]*)\)\s+(?:"(.|\\.)"|""|NIL)\s+([^"\s].*)\Z', re.IGNORECASE | re.DOTALL
)
"""A listed folder whose name stands without quotes to the end of the line, whatever is in it."""
_APPENDUID = re.compile(r"\[APPENDUID (\d{1,19}) ([\d:,]+)\]", re.IGNORECASE | re.ASCII)
_OBJECT_ID = re.compile(rb"[A-Za-z0-9_-]{1,255}")
_COPYUID = re.compile(r"\[COPYUID (\d{1,19}) ([\d:,]+) ([\d:,]+)\]", re.IGNORECASE | re.ASCII)
_RUNS = re.compile(r"\d{1,10}(?::\d{1,10})?(?:,\d{1,10}(?::\d{1,10})?)*\Z", re.ASCII)
_NOTICE = re.compile(rb"\s*(?:NO|BAD|OK\s*\[ALERT\])(?:\s|\Z)", re.IGNORECASE)


# RFC 9051 appendix E.
_IN_REV2 = frozenset(
    {
        *("NAMESPACE", "UNSELECT", "UIDPLUS", "ESEARCH", "SEARCHRES", "ENABLE", "IDLE", "SASL-IR", "LIST-EXTENDED"),
        *("LIST-STATUS", "MOVE", "LITERAL-", "STATUS=SIZE"),
    }
)


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """STATUS of a folder; 0 is a `uidnext` that is not told (Coremail), or no CONDSTORE (RFC 7162)."""

    messages: int
    uidnext: int
    uidvalidity: int
    highestmodseq: int = 0
    mailbox_id: str = ""
    """What the folder is known by whatever its name (RFC 8474); "" where that is not told."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What SELECT or EXAMINE told. `keywords` is None when any keyword may be stored.

    `append_limit` is the size of the largest message that the folder takes (RFC 7889), None where that is not told.
    """

    uidvalidity: int
    uidnext: int
    messages: int
    keywords: frozenset[str] | None
    append_limit: int | None = None
    counted: bool = True
    """Whether EXISTS was told."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the server delivered it; `raw` is None when it delivered nothing (gone, or unreadable)."""

    uid: int
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a message as the server delivered it: `start` is None where it says that it is all of it.

    `passed_on` octets went to a `Sink` instead.
    """

    uid: int
    start: int | None
    raw: bytes | None
    passed_on: int = 0

    @property
    def octets(self) -> int:
        return self.passed_on or len(self.raw or b"")


def fetched(response: Response) -> dict[bytes, Token] | None:
    """The items of a FETCH response, None for any other response."""
    if not _FETCH.match(response.segments[0]):
        return None
    try:
        return _items(response.tokens())
    except grammar.GrammarError:
        if found := _without_flags(response):
            rest, keywords = found
            items = _items(grammar.parse([rest], []))
            return items and items | {b"FLAGS": list(keywords)}
        raise


def _items(tokens: list[Token]) -> dict[bytes, Token] | None:
    verb = tokens[1] if len(tokens) == 3 else None
    if not isinstance(verb, bytes) or verb.upper() != b"FETCH":
        return None
    items = tokens[2]
    if isinstance(items, list) and len(items) % 2:
        # Yandex leaves the value of a body away that it cannot read.
        bodies = (at for at, key in enumerate(items) if at % 2 == 0 and isinstance(key, bytes) and _is_body(key))
        if (at := next(bodies, None)) is not None:
            items = [*items[: at + 1], None, *items[at + 1 :]]
    return grammar.pairs(items)


def _without_flags(response: Response) -> tuple[bytes, list[bytes]] | None:
    """An answer without its flags, and these: a keyword may have a parenthesis in it. What ends a list of flags is then
    the name of the next item, or the end of all; None where that does not tell either.
    """
    line = response.segments[0]
    found = None if response.literals or (at := line.find(b"FLAGS (")) < 0 else _ALL_FLAGS.match(line, at)
    return (line[: found.start()] + b"FLAGS ()" + line[found.end() :], found[1].split()) if found else None


def _is_body(key: bytes) -> bool:
    return key[:5].upper() == b"BODY["


def uid_of(token: Token) -> int:
    uid = grammar.number(token)
    if not 0 < uid <= _LARGEST_UID:
        raise grammar.GrammarError("expected a UID")
    return uid


def size_of(token: Token) -> int:
    size = grammar.rounded_number(token)
    if size > _LARGEST_SIZE:
        raise grammar.GrammarError("expected the size of a message")
    return size


def scanned(line: bytes) -> tuple[bytes, Envelope] | None:
    """Message number and message of an answer to a scan that tells everything, as nearly every server writes it."""
    found = _SCANNED.match(line)
    if not found:
        return None
    text = found[4].decode("latin-1")
    arrived = grammar.parse_date_time(text)
    return found[1], Envelope(int(found[2]), _flags_of(found[3]), "" if arrived else text, arrived, int(found[5]))


def number_of(response: Response) -> int | None:
    """The message number of a FETCH answer, whatever else is in it."""
    found = _NUMBER.match(response.segments[0])
    return int(found[1]) if found else None


def scanned_part(response: Response) -> tuple[int, dict[bytes, Token]] | None:
    """Message number and items of any other FETCH answer; None for what is none."""
    values = fetched(response)
    return None if values is None else (int(response.segments[0].split(None, 1)[0][:10]), values)


def message(response: Response) -> Message | None:
    """One message with its content; None for a response that carries none."""
    segments = response.segments
    if len(segments) == 2 and segments[1] == b")" and (found := _BODY.match(segments[0])):
        return Message(int(found[1]), response.literals[0])
    return _with_content(response, b"BODY[]")


def message_as_rfc822(response: Response) -> Message | None:
    """One message that was asked for under the older name of its content (RFC 3501 section 6.4.5)."""
    return _with_content(response, b"RFC822")


def _with_content(response: Response, name: bytes) -> Message | None:
    values = fetched(response)
    if values is None or b"UID" not in values or name not in values:
        return None
    raw = values[name]
    return Message(uid_of(values[b"UID"]), raw if isinstance(raw, bytes) else None)


def piece(response: Response) -> Piece | None:
    """A part of a message's content, `BODY[]<0>`, or all of it; None for a response that carries none."""
    values = fetched(response)
    found = next((match for key in values or () if (match := _PIECE.match(key))), None)
    if values is None or found is None or b"UID" not in values:
        return None
    raw = values[found[0]]
    start = int(found[1]) if found[1] else None
    return Piece(uid_of(values[b"UID"]), start, raw if isinstance(raw, bytes) else None, response.passed_on)


def header_fields(response: Response) -> tuple[int, bytes] | None:
    """UID and the fields of a header that were asked for; some servers answer with all of it, some with NIL."""
    values = fetched(response)
    name = next((key for key in values if key.startswith(b"BODY[")), None) if values else None
    if values is None or name is None or b"UID" not in values:
        return None
    header = values[name]
    return uid_of(values[b"UID"]), header if isinstance(header, bytes) else b""


def message_id(response: Response) -> tuple[int, str] | None:
    """UID and Message-ID, "" for a message without one."""
    if (found := header_fields(response)) is None:
        return None
    match = _MESSAGE_ID.search(found[1])
    return found[0], match[1].decode("latin-1") if match else ""


def selected(responses: Iterable[Response]) -> Selected:
    """What SELECT or EXAMINE told; 0 for what it did not tell."""
    uidvalidity = uidnext = messages = 0
    keywords: frozenset[str] | None = frozenset()
    counted = False
    for response in responses:
        text = response.text
        if match := _EXISTS.match(text):
            messages, counted = int(match[1]), True
        elif match := _CODE.match(text):
            with contextlib.suppress(grammar.GrammarError):
                told = match[2].encode()
                if match[1].upper() == "UIDVALIDITY":
                    uidvalidity = grammar.rounded_number(told)
                else:
                    # Where a look-up begins: one that is rounded up would pass over what has arrived.
                    uidnext = grammar.number(told)
        elif match := _PERMANENT.match(text):
            flags = match[1].split()
            keywords = None if "\\*" in flags else frozenset(f.lower() for f in flags if not f.startswith("\\"))
    return Selected(uidvalidity, uidnext, messages, keywords, counted=counted)


def statuses(responses: Iterable[Response]) -> dict[bytes, FolderStatus]:
    """STATUS by folder as the server spells it; INBOX always so."""
    found: dict[bytes, FolderStatus] = {}
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            if len(tokens) > 2 and _is_word(tokens[0], b"STATUS"):
                values = grammar.pairs(tokens[-1])
                raw = b"NIL" if tokens[1] is None else tokens[1]
                if isinstance(raw, bytes):
                    found[_inbox_or(raw)] = FolderStatus(
                        messages=grammar.rounded_number(values.get(b"MESSAGES")),
                        uidnext=_number_or_0(values.get(b"UIDNEXT")),
                        uidvalidity=grammar.rounded_number(values.get(b"UIDVALIDITY")),
                        highestmodseq=_number_or_0(values.get(b"HIGHESTMODSEQ")),
                        mailbox_id=_object_id(values.get(b"MAILBOXID")),
                    )
    return found


def _number_or_0(token: Token) -> int:
    """What a server does not tell, or tells as a thing that it cannot be: Zoho's MODSEQ is -1."""
    try:
        return grammar.number(token)
    except grammar.GrammarError:
        return 0


def _object_id(token: Token) -> str:
    """What is none (RFC 8474 section 7) is not told: Cyrus 3.6 writes other octets in each answer to LIST-STATUS."""
    first = token[0] if isinstance(token, list) and len(token) == 1 else None
    return first.decode("ascii") if isinstance(first, bytes) and _OBJECT_ID.fullmatch(first) else ""


def _is_word(token: Token, *words: bytes) -> bool:
    return isinstance(token, bytes) and token.upper() in words


def append_limit(responses: Iterable[Response]) -> int | None:
    """What a STATUS tells of the largest message (RFC 7889); None for no limit."""
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            if tokens[:1] == [b"STATUS"]:
                return grammar.number(grammar.pairs(tokens[-1]).get(b"APPENDLIMIT"))
    return None


def namespaces(responses: Iterable[Response]) -> Namespaces:
    """The three lists of NAMESPACE (RFC 2342); what cannot be read of them is left out."""
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            if tokens and _is_word(tokens[0], b"NAMESPACE"):
                return Namespaces(*(tuple(_spaces(told)) for told in tokens[1:4]))
    return NO_NAMESPACES


def _spaces(told: Token) -> Iterator[Namespace]:
    for each in told if isinstance(told, list) else ():
        if isinstance(each, list) and len(each) > 1 and isinstance(each[0], bytes):
            separator = each[1] if isinstance(each[1], bytes) else b""
            yield Namespace(grammar.decode_mailbox(each[0]), separator.decode("latin-1"))


def listed_folders(responses: Iterable[Response], kinds: Collection[bytes] = (b"LIST", b"XLIST")) -> list[Folder]:
    """The folders of LIST answers, or of other kinds; one that cannot be read never costs the others."""
    folders = []
    for response in responses:
        folder = _listed(response, kinds)
        if folder:
            folders.append(folder)
    return folders


def names_a_folder(response: Response) -> bool:
    """Whether an answer is one of a list of folders."""
    return response.segments[0][:5].upper() in (b"LIST ", b"XLIST", b"LSUB ")


def respell(response: Response) -> None:
    """Write the names of folders in an answer in modified UTF-7."""
    if names_a_folder(response) or response.segments[0][:7].upper() == b"STATUS ":
        for parts in (response.segments, response.literals):
            parts[:] = [grammar.encode_mailbox(part.decode("utf-8", "replace")) for part in parts]


def unreadable_listings(responses: Iterable[Response]) -> list[str]:
    """The LIST answers that name no folder that can be read, for people."""
    lists = (response for response in responses if re.match(rb"X?LIST\b", response.segments[0], re.IGNORECASE))
    return [response.text for response in lists if _listed(response) is None]


def _listed(response: Response, kinds: Collection[bytes] = (b"LIST", b"XLIST")) -> Folder | None:
    if response.segments[0].partition(b" ")[0].upper() not in kinds:
        return None
    try:
        tokens = response.tokens()
    except grammar.GrammarError:
        tokens = []
    quoteless = None if response.literals else _LISTED.match(response.segments[0])
    # Exchange was seen to list names with blanks and tabs in them as if they were one word; what LIST may say behind
    # a name (RFC 5258) stands in parentheses.
    if quoteless and (not tokens or any(not isinstance(more, list) for more in tokens[4:])):
        attributes: Token = list(quoteless[1].split())
        separator: Token = quoteless[2][-1:] if quoteless[2] else None
        raw: Token = quoteless[3].rstrip()
    elif len(tokens) >= 4:
        attributes, separator, raw = tokens[1:4]
    else:
        return None
    # An unquoted name may look like NIL; there is no other way to write the folder named so.
    raw = b"NIL" if raw is None else raw
    if not isinstance(attributes, list) or not isinstance(raw, bytes):
        return None
    raw = _inbox_or(raw)
    return Folder(
        raw=raw,
        name=grammar.decode_mailbox(raw),
        separator=separator.decode("latin-1") if isinstance(separator, bytes) else "",
        attributes=frozenset(a.decode("latin-1").lower() for a in attributes if isinstance(a, bytes)),
    )


def identity(response: Response) -> str | None:
    """Name and vendor out of the answer to ID (RFC 2971), "" where it tells neither; None for another response."""
    with contextlib.suppress(grammar.GrammarError):
        tokens = response.tokens()
        if tokens and _is_word(tokens[0], b"ID"):
            told = grammar.pairs(tokens[1]) if len(tokens) > 1 and isinstance(tokens[1], list) else {}
            values = (told.get(key) for key in (b"NAME", b"VENDOR"))
            return " ".join(value.decode("latin-1") for value in values if isinstance(value, bytes))
    return None


def quota(responses: Iterable[Response]) -> tuple[int, int] | None:
    """Bytes used and allowed (RFC 9208); None where no answer tells."""
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            items = tokens[-1] if tokens and _is_word(tokens[0], b"QUOTA") else None
            if isinstance(items, list):
                for name, used, limit in zip(items[::3], items[1::3], items[2::3], strict=False):
                    if _is_word(name, b"STORAGE"):
                        return grammar.number(used) * 1024, grammar.number(limit) * 1024
    return None


def capabilities(text: str) -> frozenset[str]:
    """What `CAPABILITY IMAP4rev1 ...` offers, in upper case; one service writes `LITERAL +`.

    A server of IMAP4rev2 alone offers what is part of that, said or unsaid.
    """
    words = text.upper().replace(" LITERAL + ", " LITERAL+ ").split()
    found = frozenset(words[1:]) if words[:1] == ["CAPABILITY"] else frozenset()
    return found | _IN_REV2 if "IMAP4REV2" in found and "IMAP4REV1" not in found else found


def appended_uids(text: str, count: int) -> tuple[int, list[int]]:
    """UIDVALIDITY and UIDs of an APPENDUID (RFC 4315) for so many messages; 0 and [] where there is none that fits."""
    match = _APPENDUID.search(text)
    uids = _uids(match[2], count) if match else []
    return (int(match[1]), uids) if match and len(uids) == count else (0, [])


def copied_uids(text: str, count: int) -> tuple[int, dict[int, int]]:
    """UIDVALIDITY and new UIDs by old ones of a COPYUID (RFC 4315) for at most so many messages; 0 and {} for none."""
    match = _COPYUID.search(text)
    if not match:
        return 0, {}
    before, after = _uids(match[2], count), _uids(match[3], count)
    return (int(match[1]), dict(zip(before, after, strict=True))) if before and len(before) == len(after) else (0, {})


def _uids(text: str, most: int) -> list[int]:
    """A set that a server wrote, in its own order; [] if it is none, or names more than that."""
    if not _RUNS.match(text):
        return []
    ends = [[int(uid) for uid in run.split(":")] for run in text.split(",")]
    # Counted before it is written out: 1:4294967295 is short to say.
    return parse_uids(text) if sum(abs(run[-1] - run[0]) + 1 for run in ends) <= most else []


def is_notice(response: Response) -> bool:
    """Whether an untagged answer is for people: a warning, or what must be shown to them (ALERT, RFC 9051 7.1)."""
    return bool(_NOTICE.match(response.segments[0]))


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


def _flags_of(text: bytes) -> frozenset[str]:
    # Sets that are long are few, or nobody's mailbox: kept, they would fill the memory.
    return _named_flags(text) if len(text) <= LONG_TEXT else flags_of(list(text.split()))


@lru_cache(maxsize=4096)
def _named_flags(text: bytes) -> frozenset[str]:
    # A mailbox has few sets of flags and many messages: each set is made once and shared.
    return flags_of(list(text.split()))


def flags_of(token: Token) -> frozenset[str]:
    if not isinstance(token, list):
        return frozenset()
    # Nothing in a list of flags can be NIL but a keyword of that name.
    found = ("NIL" if f is None else f.decode("latin-1") for f in token if not isinstance(f, list))
    return frozenset(_SYSTEM_FLAGS.get(f.lower(), f) for f in found if f.lower() != "\\recent")


def _inbox_or(raw: bytes) -> bytes:
    return b"INBOX" if raw.upper() == b"INBOX" else raw
