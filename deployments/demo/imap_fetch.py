"""What FETCH may ask for, and how one message answers it (RFC 9051 section 6.4.5, RFC 7162 for MODSEQ)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from deployments.demo.imap_behaviour import Behaviour, ScanLine
from deployments.demo.imap_grammar import Arguments, Literal, Malformed, date_time_text
from deployments.demo.imap_store import Message

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_EMPTY_HEADER = re.compile(rb"\r?\n")
# A header field with its folded lines; messages that came from elsewhere may end their lines with a bare LF.
_FIELD = re.compile(rb"[^\n]*\n?(?:[ \t][^\n]*\n?)*")
_AS_ASKED = Behaviour()
_OLD_NAMES = {"RFC822": ("", False), "RFC822.HEADER": ("HEADER", True), "RFC822.TEXT": ("TEXT", False)}


@dataclass(frozen=True, slots=True)
class Body:
    """A part of the message's text; `label` is how the answer names it."""

    label: str
    section: str
    peek: bool
    fields: frozenset[bytes] = frozenset()
    start: int = 0
    length: int | None = None

    def answer(self, raw: bytes, how: Behaviour) -> tuple[str, bytes]:
        """What the answer is named, and the octets that are delivered."""
        text = section_of(how.delivers(raw) if how.delivers else raw, self.section, self.fields)
        if self.length is None or how.partial == "ignored":
            return self.label, text
        if how.partial == "unlabelled":
            return self.label.partition("<")[0], text
        length = min(self.length, how.part_octets or self.length)
        start = 0 if how.partial == "from the start" else self.start
        if how.parts_end_at is not None:
            text = text[: how.parts_end_at]
        return self.label, text[start : start + length]


# Everything but a body is known by its name alone.
Item = str | Body
_MACROS: dict[str, list[Item]] = {"FAST": ["FLAGS", "INTERNALDATE", "RFC822.SIZE"]}


def section_of(raw: bytes, section: str, fields: frozenset[bytes] = frozenset()) -> bytes:
    """Return the octets of one section; a header includes the blank line that ends it."""
    if not section:
        return raw
    found = _EMPTY_HEADER.match(raw) or _HEADER_END.search(raw)
    end = found.end() if found else len(raw)
    if section == "TEXT":
        return raw[end:]
    if section == "HEADER":
        return raw[:end]
    wanted = section == "HEADER.FIELDS"
    lines = [line for line in _FIELD.findall(raw[:end]) if line.strip()]
    return b"".join(line for line in lines if (line.partition(b":")[0].strip().lower() in fields) is wanted) + b"\r\n"


def fetch_items(args: Arguments) -> list[Item]:
    """Read what a FETCH asks for: one item, or a parenthesised list."""
    if not args.take(b"("):
        name = args.word() if args.next_is(b"FAST") or args.next_is(b"fast") else ""
        return list(_MACROS[name]) if name else [_item(args)]
    items = [_item(args)]
    while not args.take(b")"):
        args.space()
        items.append(_item(args))
    return items


def _item(args: Arguments) -> Item:
    name = args.item_name()
    if name in _OLD_NAMES:
        section, peek = _OLD_NAMES[name]
        return Body(name, section, peek)
    if name in ("UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "MODSEQ", "X-GM-MSGID", "X-GM-LABELS"):
        return name
    if name not in ("BODY", "BODY.PEEK") or not args.take(b"["):
        raise Malformed(f"Unknown FETCH item {name}")
    section, label = "", ""
    fields: list[bytes] = []
    if not args.next_is(b"]"):
        section = label = args.item_name()
        if section in ("HEADER.FIELDS", "HEADER.FIELDS.NOT"):
            args.expect(b" (")
            fields.append(args.astring())
            while not args.take(b")"):
                args.space()
                fields.append(args.astring())
            label += f" ({b' '.join(fields).decode('latin-1')})"
        elif section not in ("HEADER", "TEXT"):
            raise Malformed(f"Unknown section {section}")
    args.expect(b"]")
    start, length = 0, None
    label = f"BODY[{label}]"
    if args.take(b"<"):
        start = args.number()
        args.expect(b".")
        length = args.number()
        args.expect(b">")
        label += f"<{start}>"
    return Body(label, section, name == "BODY.PEEK", frozenset(field.lower() for field in fields), start, length)


def fetch_answer(
    number: int,
    message: Message,
    items: Sequence[Item],
    how: Behaviour = _AS_ASKED,
    *,
    lost: str | None = None,
    size: int | None = None,
    labels: Sequence[str] = (),
) -> list[bytes]:
    """Return the untagged answer in pieces; the octets of a body are a Literal, or `lost` where it is unreadable.

    `size` is what RFC822.SIZE is to say instead of the truth.
    """
    pieces: list[bytes] = []
    text = f"* {number} FETCH ("
    for item in items:
        if isinstance(item, Body) and lost is not None:
            text += f"{item.label} {lost} " if lost else f"{item.label} "
        elif item == "X-GM-LABELS":
            text += f"X-GM-LABELS ({' '.join(labels)}) "
        elif isinstance(item, Body):
            label, body = item.answer(message.raw, how)
            pieces += [f"{text}{label} {{{len(body)}}}\r\n".encode("latin-1"), Literal(body)]
            text = " "
        else:
            told = size if item == "RFC822.SIZE" and size is not None else _value(message, item)
            text += f"{item} {told} "
    return [*pieces, text.rstrip(" ").encode("ascii") + b")\r\n"]


def scan_line(
    number: int, message: Message, items: Sequence[str], *, size: int | None = None, labels: Sequence[str] = ()
) -> ScanLine:
    """The same without bodies, in parts."""
    told = {"X-GM-LABELS": f"({' '.join(labels)})"} | ({} if size is None else {"RFC822.SIZE": str(size)})
    return ScanLine(number, tuple((item, told.get(item) or _value(message, item)) for item in items))


def _value(message: Message, item: str) -> str:
    if item == "UID":
        return str(message.uid)
    if item == "FLAGS":
        return f"({' '.join(sorted(message.flags))})"
    if item == "INTERNALDATE":
        return date_time_text(message.internal_date)
    if item == "X-GM-MSGID":
        # One number for one content, as at Gmail, whatever folder shows it.
        return str(int.from_bytes(blake2b(message.raw, digest_size=7).digest(), "big"))
    if item == "MODSEQ":
        return f"({message.modseq})"
    return str(len(message.raw))
