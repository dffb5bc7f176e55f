"""FETCHes of many folders under way on one connection, and what came of each."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from imapcopy import grammar, responses
from imapcopy.dialogue import COMMANDS_IN_FLIGHT, Dialogue, nobody_waits
from imapcopy.errors import HOST_BUSY, MigrationError, Refused
from imapcopy.plan import Envelope
from imapcopy.responses import Message, Selected
from imapcopy.scan_answers import Answers
from imapcopy.wire import Deadline, Response
from models.uid_sets import format_uids

FETCH_AHEAD_BYTES = 16 << 20
"""How much message content may be asked for and not yet read, besides the answer that is being read."""
UIDS_PER_COMMAND = 5000
SET_OCTETS = 900
"""How long a UID set may be: Yahoo takes command lines of 1,000 octets, Exchange 10 KB, Courier 16, Dovecot 64."""
SCAN_ITEMS = b"(UID FLAGS INTERNALDATE RFC822.SIZE)"
BODY_ITEMS = b"(UID BODY.PEEK[])"


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What is to be fetched from one folder, named as on the wire."""

    raw: bytes
    bodies: Sequence[int]
    """UIDs whose content is wanted."""
    octets: int
    """What the bodies should weigh."""
    scan: Sequence[int] = ()
    """UIDs whose flags, date and size are wanted."""
    anew: bool = False
    """Open the folder even if it is open: some servers show a session what was stored only then."""


@dataclass(slots=True)
class Fetched:
    """What came of a request; what is missing was not delivered."""

    request: FetchRequest
    uidvalidity: int = 0
    keywords: frozenset[str] | None = None
    scan: list[Envelope] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    failure: MigrationError | None = None
    """Why the folder could not be opened."""
    refused: Refused | None = None
    """The answer to the last FETCH that was refused."""
    unread: int = 0
    """How many lines could not be read by the time that it was handed over."""
    cut_short: bool = False
    """The connection broke before all of it had come."""


class _Visit:
    """One opening of a folder, the FETCHes sent under it, and what of their answers is still to come."""

    def __init__(self, raw: bytes, opened: Selected | None = None) -> None:
        self.raw = raw
        self.opened = opened
        self.failure: MigrationError | None = None
        self.bodies: dict[int, Fetched] = {}
        self.scan: dict[int, Fetched] = {}
        self.parts = Answers()
        """What lines told of messages that do not tell everything."""

    def take(self, response: Response) -> int:
        """Give an answer to the request that waits for it: what nobody asked for, or twice, is not believed.

        Returns how many octets of mail are held for it from now on.
        """
        if self.failure or not self.opened:
            return 0
        told = None if response.literals else responses.scanned(response.segments[0])
        if told:
            envelope = told[1]
            if envelope.uid in self.scan:
                self.scan.pop(envelope.uid).scan.append(envelope)
        elif self.bodies and (message := responses.message(response)) and message.uid in self.bodies:
            self.bodies.pop(message.uid).messages.append(message)
            return len(message.raw or b"")
        elif self.scan:
            self.parts.take(response)
        return 0

    def conclude(self, fetched: Fetched) -> None:
        """Give a request what was told of its messages in several lines."""
        self.parts.settle(ended=False)
        for uid in fetched.request.scan:
            if self.scan.get(uid) is fetched and (envelope := self.parts.whole.pop(uid, None)):
                del self.scan[uid]
                fetched.scan.append(envelope)

    def forget(self, fetched: Fetched) -> None:
        """Wait no more for what was not delivered: it would keep all that was, until another folder is opened."""
        for due, uids in ((self.bodies, fetched.request.bodies), (self.scan, fetched.request.scan)):
            for uid in uids:
                if due.get(uid) is fetched:
                    del due[uid]


@dataclass(slots=True)
class _Asked:
    """One request under way, and how many of its commands have not ended."""

    fetched: Fetched
    visit: _Visit
    commands: int = 0


class _Flight:
    """FETCHes of many folders under way on one connection."""

    def __init__(self, dialogue: Dialogue, verb: bytes) -> None:
        self._dialogue = dialogue
        self._verb = verb
        self._current = _Visit(dialogue.selected, Selected(dialogue.uidvalidity, 0, 0, None))
        """The folder that is open when the next answer comes."""
        self._last = self._current
        """The folder that is open when the next command arrives."""
        self._under_way: deque[_Asked] = deque()
        """Not answered yet, in the order of asking."""
        self._commands: dict[bytes, tuple[_Asked, _Visit | None]] = {}
        """By tag; with the folder that it opens, if it is no FETCH."""
        self._openings = 0
        self._untagged: list[Response] = []
        self._held = 0
        """Octets of mail that have come and are not handed over yet."""
        dialogue.unread.clear()
        dialogue.left_behind = self._heed
        self._weight = 0

    def ask(self, request: FetchRequest) -> _Asked:
        """Send what a request needs."""
        opens = request.anew or request.raw != self._last.raw
        if opens:
            self._last = _Visit(request.raw)
        asked = _Asked(Fetched(request), self._last)
        self._under_way.append(asked)
        if opens:
            self._make_room()
            self._commands[self._dialogue.opening(self._verb, request.raw)] = asked, self._last
            self._openings += 1
            asked.commands += 1
        self._last.scan.update(dict.fromkeys(request.scan, asked.fetched))
        self._last.bodies.update(dict.fromkeys(request.bodies, asked.fetched))
        for items, uids in ((SCAN_ITEMS, request.scan), (BODY_ITEMS, request.bodies)):
            for uid_set, _ in uid_sets(uids):
                self._make_room()
                self._commands[self._dialogue.send(b"UID FETCH " + uid_set + b" " + items)] = asked, None
                asked.commands += 1
        return asked

    def answered(self, asked: _Asked) -> Fetched:
        """Read until a request has all that it wants, or its commands have ended."""
        fetched, visit = asked.fetched, asked.visit
        wanted = len(fetched.request.bodies) + len(fetched.request.scan)
        deadline = self._dialogue.deadline()
        while asked.commands and (not wanted or len(fetched.messages) + len(fetched.scan) < wanted):
            self._read(deadline)
        self._under_way.popleft()
        if fetched.request.scan:
            visit.conclude(fetched)
        visit.forget(fetched)
        self._held -= sum(len(message.raw or b"") for message in fetched.messages)
        fetched.failure = visit.failure
        fetched.unread = len(self._dialogue.unread)
        if visit.opened:
            fetched.uidvalidity, fetched.keywords = visit.opened.uidvalidity, visit.opened.keywords
        return fetched

    def broken_off(self) -> Iterator[Fetched]:
        """What had come when the connection broke, request by request, to the last of which anything had."""
        while any(asked.fetched.messages or asked.fetched.scan for asked in self._under_way):
            asked = self._under_way.popleft()
            asked.fetched.cut_short = True
            asked.fetched.uidvalidity = asked.visit.opened.uidvalidity if asked.visit.opened else 0
            yield asked.fetched

    def land(self) -> None:
        """Read what is still to come, so that the connection is in step."""
        deadline = self._dialogue.deadline()
        while self._commands:
            self._read(deadline)

    def _make_room(self) -> None:
        # One request may take many commands: scattered UIDs need many sets.
        deadline = self._dialogue.deadline()
        while len(self._commands) >= COMMANDS_IN_FLIGHT:
            self._read(deadline)

    def _read(self, deadline: Deadline) -> None:
        """Read one response and do with it what it calls for."""
        self._heed(self._dialogue.read(deadline))

    def _heed(self, response: Response) -> None:
        line = response.segments[0]
        # A line of data has no tag; most lines are of mail.
        tag = b"" if line.startswith(b"* ") else line.split(b" ", 1)[0].upper() + b" "
        refused = ended = None
        try:
            # No line begins with a line end: an answer to no command of ours never counts as one.
            ended = self._dialogue.finish(
                response, tag if tag in self._commands else b"\n", skip_stray=not self._current.bodies
            )
        except Refused as refusal:
            refused = refusal
        if ended is None and refused is None:
            self._take(response)
            return
        asked, opens = self._commands.pop(tag)
        asked.commands -= 1
        if opens:
            self._open(opens, refused)
        elif refused:
            failure = self._dialogue.failure(refused, "fetch", grammar.decode_mailbox(asked.visit.raw))
            if failure.cause_id in HOST_BUSY:
                # It wants to be left alone, and no message is to blame.
                raise failure
            asked.fetched.refused = refused

    def _take(self, response: Response) -> None:
        try:
            if held := self._current.take(response):
                self._held += held
                if self._held > self._dialogue.limits.literal_octets:
                    raise self._dialogue.unreadable("the server sends much more than it said its messages have")
        except grammar.GrammarError as error:
            if isinstance(error, grammar.NotWhole) and self._current.bodies:
                # Mail is on the way: nobody knows whose words the next line is.
                raise self._dialogue.unreadable(response.text) from None
            self._dialogue.note_unread(response)
        if self._openings and not response.literals:
            self._untagged.append(response)
            self._weight += response.weight
            if self._weight > self._dialogue.limits.held_octets:
                raise self._dialogue.unreadable("the server's answer has no end")

    def _open(self, visit: _Visit, refused: Refused | None) -> None:
        dialogue = self._dialogue
        self._current = visit
        if refused:
            visit.failure = dialogue.failure(refused, "select", grammar.decode_mailbox(visit.raw))
            dialogue.selected, dialogue.uidvalidity = b"", 0
        else:
            visit.opened = responses.selected(self._untagged)
            dialogue.selected, dialogue.uidvalidity = visit.raw, visit.opened.uidvalidity
        self._openings -= 1
        self._untagged.clear()
        self._weight = 0


def fetch_each(
    dialogue: Dialogue, verb: bytes, requests: Iterable[FetchRequest | None], *, parts: bool = False
) -> Iterator[Fetched]:
    """Open folders where another one is open, and fetch, many requests under way.

    Dovecot answers a FETCH before it has ended the one before: answers are told apart by what they bring. With `parts`
    what had come of requests when the connection broke comes before that is raised.
    """
    flight = _Flight(dialogue, verb)
    in_flight = dialogue.in_flight(
        requests,
        flight.ask,
        weight=lambda request: request.octets,
        limit=FETCH_AHEAD_BYTES,
        at_once=COMMANDS_IN_FLIGHT // 3,
    )
    try:
        for _, asked in in_flight:
            yield flight.answered(asked)
        flight.land()
    except MigrationError:
        if parts:
            yield from flight.broken_off()
        raise
    finally:
        dialogue.left_behind = nobody_waits


def uid_sets(uids: Iterable[int]) -> Iterator[tuple[bytes, set[int]]]:
    """Ascending UID sets (Tencent refuses others) short enough for a command, each with the UIDs that it names."""
    some: list[int] = []
    octets = 0
    for uid in sorted(uids):
        # A UID that only makes a run longer costs nothing; the estimate is never too low.
        octets += 0 if some and uid == some[-1] + 1 else 2 * len(str(uid)) + 2
        if some and (octets > SET_OCTETS or len(some) >= UIDS_PER_COMMAND):
            yield format_uids(some).encode(), set(some)
            some, octets = [], 2 * len(str(uid)) + 2
        some.append(uid)
    if some:
        yield format_uids(some).encode(), set(some)
