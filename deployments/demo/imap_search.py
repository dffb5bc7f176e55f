"""The criteria of SEARCH, read into a test that a message passes or fails (RFC 9051 section 6.4.4)."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from email.utils import parsedate_to_datetime

from deployments.demo.imap_fetch import section_of
from deployments.demo.imap_grammar import Arguments, Malformed, chosen_indexes
from deployments.demo.imap_store import Message

# Told the message and its number in the folder.
Test = Callable[[Message, int], bool]

_FLAG_WORDS = {
    "ANSWERED": "\\Answered",
    "DELETED": "\\Deleted",
    "DRAFT": "\\Draft",
    "FLAGGED": "\\Flagged",
    "SEEN": "\\Seen",
}


class Criteria:
    """Reads the criteria of one SEARCH; sequence sets are resolved against the folder as the session sees it."""

    def __init__(self, args: Arguments, uids: Sequence[int]) -> None:
        self._args = args
        self._uids = uids
        self.by_modseq = False

    def read(self) -> Test:
        """Read criteria up to the end of the list or command; all of them must hold."""
        tests = [self._one()]
        while not self._args.at_end() and not self._args.next_is(b")"):
            self._args.space()
            tests.append(self._one())
        return lambda message, number: all(test(message, number) for test in tests)

    def _one(self) -> Test:
        args = self._args
        if args.take(b"("):
            test = self.read()
            args.expect(b")")
            return test
        if args.next_is_sequence_set():
            numbers = {index + 1 for index in chosen_indexes(args.sequence_set(), range(1, len(self._uids) + 1))}
            return lambda message, number: number in numbers
        return self._keyed(args.word())

    def _keyed(self, key: str) -> Test:
        if key in ("ALL", "OLD"):  # no message is \Recent here, as in RFC 9051
            return lambda message, number: True
        if key in ("RECENT", "NEW"):
            return lambda message, number: False
        if key in _FLAG_WORDS:
            flag = _FLAG_WORDS[key]
            return lambda message, number: flag in message.flags
        if key.startswith("UN") and key[2:] in _FLAG_WORDS:
            unwanted = _FLAG_WORDS[key[2:]]
            return lambda message, number: unwanted not in message.flags
        self._args.space()
        if key == "NOT":
            negated = self._one()
            return lambda message, number: not negated(message, number)
        if key == "OR":
            first = self._one()
            self._args.space()
            second = self._one()
            return lambda message, number: first(message, number) or second(message, number)
        if key == "UID":
            uids = {self._uids[index] for index in chosen_indexes(self._args.sequence_set(), self._uids)}
            return lambda message, number: message.uid in uids
        if key in ("KEYWORD", "UNKEYWORD"):
            keyword, has = self._args.flag().lower(), key == "KEYWORD"
            return lambda message, number: (keyword in {flag.lower() for flag in message.flags}) is has
        if key in ("LARGER", "SMALLER", "MODSEQ"):
            self.by_modseq = self.by_modseq or key == "MODSEQ"
            return _by_number(key, self._args.number())
        if key.removeprefix("SENT") in ("BEFORE", "ON", "SINCE"):
            return _by_date(key, self._args.date())
        return self._by_text(key)

    def _by_text(self, key: str) -> Test:
        field = key
        if key == "HEADER":
            field = self._args.astring().decode("latin-1")
            self._args.space()
        elif key not in ("FROM", "TO", "CC", "BCC", "SUBJECT", "TEXT", "BODY"):
            raise Malformed(f"Unknown search key {key}")
        wanted = self._args.astring().lower()
        if key in ("TEXT", "BODY"):
            section = "TEXT" if key == "BODY" else ""
            return lambda message, number: wanted in section_of(message.raw, section).lower()
        return lambda message, number: any(wanted in value.lower() for value in header_values(message.raw, field))


def header_values(raw: bytes, field: str) -> list[bytes]:
    """Return the unfolded values of a header field, without decoding them."""
    lines = section_of(raw, "HEADER.FIELDS", frozenset({field.lower().encode("latin-1")}))
    fields = re.split(rb"\r?\n(?![ \t])", lines)
    return [re.sub(rb"\r?\n", b"", line).partition(b":")[2].strip() for line in fields if b":" in line]


def _by_number(key: str, limit: int) -> Test:
    if key == "LARGER":
        return lambda message, number: len(message.raw) > limit
    if key == "SMALLER":
        return lambda message, number: len(message.raw) < limit
    return lambda message, number: message.modseq >= limit


def _by_date(key: str, limit: date) -> Test:
    def day_of(message: Message) -> date | None:
        if not key.startswith("SENT"):
            return message.internal_date.date()
        with suppress(ValueError, IndexError):
            return parsedate_to_datetime(header_values(message.raw, "Date")[0].decode("latin-1")).date()
        return None

    def test(message: Message, number: int) -> bool:
        day = day_of(message)
        if day is None:
            return False
        if key.endswith("BEFORE"):
            return day < limit
        return day >= limit if key.endswith("SINCE") else day == limit

    return test
