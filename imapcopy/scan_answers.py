"""What the answers to a scan tell of each message, whichever way a server cuts them up. Pure.

RFC 9051 section 7.5.2 lets a FETCH answer be split, and what nobody asked for come between: lines are merged by UID,
and by message number where a line has no UID. What was not told is not the same as none.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from imapcopy import grammar, responses
from imapcopy.plan import Envelope
from imapcopy.wire import Response

_CHANGE = re.compile(rb"(\d{1,10})\s+(EXISTS|EXPUNGE)\b", re.IGNORECASE)
_VANISHED = re.compile(rb"VANISHED\b", re.IGNORECASE)


LINES_KEPT = 1_000
LINE_KEPT = 2_000
"""Of lines that cannot be read, so many and so much of each is kept."""


@dataclass(slots=True)
class Told:
    """What was told of one message so far; None where nothing was."""

    uid: int | None = None
    flags: frozenset[str] | None = None
    date: str | None = None
    """As the server wrote it; "" for a date that it says it has not."""
    size: int | None = None
    labels: frozenset[bytes] | None = None

    def add(self, other: "Told") -> None:
        """Take over what another line says; of flags the later counts."""
        self.flags = self.flags if other.flags is None else other.flags
        self.date = self.date if other.date is None else other.date
        self.size = self.size if other.size is None else other.size
        self.labels = self.labels if other.labels is None else other.labels

    def lacks(self, *, labels: bool = False) -> frozenset[str]:
        """The items of FETCH that have not been told."""
        wanted: dict[str, object] = {"FLAGS": self.flags, "INTERNALDATE": self.date, "RFC822.SIZE": self.size}
        if labels:
            wanted["X-GM-LABELS"] = self.labels
        return frozenset(name for name, value in wanted.items() if value is None)

    def envelope(self, uid: int) -> Envelope:
        """The message as far as it is known."""
        arrived = grammar.parse_date_time(self.date or "")
        return Envelope(
            uid,
            self.flags or frozenset(),
            "" if arrived else self.date or "",
            arrived,
            self.size or 0,
            flags_told=self.flags is not None,
            sized=self.size is not None,
        )


class Answers:
    """Merges the answers to the scans of one opened folder. `labels` are asked for too (Gmail's X-GM-LABELS).

    `numbered` scans ask by message number: then it is kept which message has which.
    """

    def __init__(self, exists: int = 0, *, labels: bool = False, numbered: bool = False) -> None:
        self.whole: dict[int, Envelope] = {}
        """Messages of which everything is told, by UID."""
        self.partly: dict[int, Told] = {}
        """Messages of which something is not told, by UID."""
        self.labels: dict[int, frozenset[bytes]] = {}
        self.numbers: dict[int, int] = {}
        """UIDs by message number; in a scan by UID only of lines that have not everything."""
        self.twins: dict[int, int] = {}
        """UIDs that a message of a lower number has too, by message number."""
        self.exists = exists
        """How many messages there are: as the folder was opened, and as was told since."""
        self.expunged = False
        """Messages have left meanwhile, so that numbers mean others now."""
        self.unreadable: dict[int, str] = {}
        """By message number, the first line about it that could not be read."""
        self.asks_for_labels = labels
        self._numbered = numbered
        self._number_of: dict[int, int] = {}
        self._nameless: dict[int, Told] = {}

    @property
    def uids(self) -> set[int]:
        """The messages that something is told of."""
        return self.whole.keys() | self.partly.keys()

    def __len__(self) -> int:
        """How many these are."""
        return len(self.whole) + len(self.partly)

    def take(self, response: Response) -> None:
        """Note an untagged answer."""
        line = response.segments[0]
        if not self.asks_for_labels and (found := responses.scanned(line)):
            number, envelope = found
            uid = envelope.uid
            if self._numbered and not self._first_of_its_uid(int(number), uid):
                return
            self.whole[uid] = envelope
            if self.partly:
                self.partly.pop(uid, None)
        elif change := _CHANGE.match(line):
            self._change(int(change[1]), change[2].upper())
        elif _VANISHED.match(line):
            self.expunged = True
        elif not response.literals or line.upper().find(b"BODY[") < 0:
            self._take_part(response)

    def _first_of_its_uid(self, number: int, uid: int) -> bool:
        """Note which message has a number; False for one whose UID another of a lower number has."""
        self.numbers[number] = uid
        other = self._number_of.setdefault(uid, number)
        if other == number:
            return True
        self.twins[max(number, other)] = uid
        self._number_of[uid] = min(number, other)
        return number < other

    def _change(self, number: int, what: bytes) -> None:
        if what == b"EXISTS":
            self.exists = number
            return
        self.expunged = True
        if self.exists:
            self.exists -= 1
        # Numbers behind it are others from here on.
        for known in (self.numbers, self._nameless):
            for other in [each for each in known if each >= number]:
                del known[other]

    def _take_part(self, response: Response) -> None:
        try:
            found = responses.scanned_part(response)
        except grammar.GrammarError:
            self._note_unreadable(response)
            return
        if found is None:
            return
        number, values = found
        told = Told()
        for name, value in values.items():
            try:
                self._note(told, name, value)
            except grammar.GrammarError:
                # As if it had not been told: it is asked for again.
                self._note_unreadable(response)
        if told.uid is None:
            self._nameless.setdefault(number, Told()).add(told)
        elif self._numbered and not self._first_of_its_uid(number, told.uid):
            return
        else:
            self.numbers[number] = told.uid
            self._add(told.uid, told)

    def _note_unreadable(self, response: Response) -> None:
        if (number := responses.number_of(response)) is not None and len(self.unreadable) < LINES_KEPT:
            self.unreadable.setdefault(number, response.text[:LINE_KEPT])

    @staticmethod
    def _note(told: Told, name: bytes, value: grammar.Token) -> None:
        if name == b"UID":
            told.uid = responses.uid_of(value)
        elif name == b"FLAGS":
            told.flags = responses.flags_of(value)
        elif name == b"INTERNALDATE":
            told.date = value.decode("latin-1") if isinstance(value, bytes) else ""
        elif name == b"RFC822.SIZE":
            told.size = responses.size_of(value)
        elif name == b"X-GM-LABELS":
            told.labels = (
                frozenset(each for each in value if isinstance(each, bytes)) if isinstance(value, list) else None
            )

    def _add(self, uid: int, told: Told) -> None:
        known = self.partly.get(uid)
        if known is None and (envelope := self.whole.pop(uid, None)):
            date = envelope.internal_date if envelope.arrived is None else grammar.format_date_time(envelope.arrived)
            known = Told(uid, envelope.flags, date, envelope.size, self.labels.get(uid))
        if known is None:
            known = Told(uid)
        known.add(told)
        if known.labels is not None:
            self.labels[uid] = known.labels
        if known.lacks(labels=self.asks_for_labels):
            self.partly[uid] = known
        else:
            self.partly.pop(uid, None)
            self.whole[uid] = known.envelope(uid)

    def settle(self, *, ended: bool = True) -> None:
        """Give the lines without UID to the messages whose numbers they have; when a command has `ended`, the next one
        may number them anew.
        """
        for number, told in list(self._nameless.items()):
            uid = self.numbers.get(number)
            if uid is not None and uid in self.partly and number not in self.twins:
                # A line with a UID knows better.
                told.add(self.partly[uid])
                self._add(uid, told)
                del self._nameless[number]
        if ended:
            self._nameless.clear()
            if not self._numbered:
                self.numbers.clear()

    def lacking(self) -> dict[str, list[int]]:
        """The items that have not been told, with the UIDs that lack them."""
        found: dict[str, list[int]] = {}
        for uid, told in self.partly.items():
            for name in told.lacks(labels=self.asks_for_labels):
                found.setdefault(name, []).append(uid)
        return found

    def envelopes(self) -> list[Envelope]:
        """Every message that can be named, by ascending UID."""
        some = list(self.whole.values())
        if self.partly:
            some += [told.envelope(uid) for uid, told in self.partly.items()]
        return sorted(some, key=lambda envelope: envelope.uid)

    def adds_up(self, exists: int, uidnext: int) -> bool:
        """Whether everything is told of as many messages as the folder had when it was opened."""
        if self.partly:
            return False
        told: Iterable[int] = self.whole
        if len(self.whole) > exists and uidnext:
            # What arrived meanwhile makes up for nothing.
            told = [uid for uid in self.whole if uid < uidnext]
        return len(list(told)) >= exists
