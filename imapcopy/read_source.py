"""Reads the planned messages of a mailbox, batch by batch, and says what became of those it cannot get.

Batches stream in, the next ones already asked for. What does not come so, or looks odd, is asked for again at the end,
carefully: one command at a time, after two failures one message at a time.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from imapcopy.budget import Allowance
from imapcopy.distant import Distant
from imapcopy.endpoint import Endpoint
from imapcopy.errors import (
    HOST_BUSY,
    ConnectionLost,
    FolderError,
    LeftOff,
    MessageError,
    MigrationError,
    Refused,
    UnreadableAnswer,
    is_of_the_folder,
)
from imapcopy.flight import Fetched, FetchRequest
from imapcopy.folders import Folder
from imapcopy.identity import may_be_cut
from imapcopy.letter import Letter
from imapcopy.plan import Envelope
from imapcopy.source_connection import SourceConnection
from imapcopy.wire import LinkSpeed
from models.ledger_rows import GivenUp

TRIES = 3
"""A message that breaks this many connections alone is left behind."""
FAILURES_IN_A_ROW = 3
"""So many messages that fail one after the other without a telling reason are the server's fault, not theirs."""
UNREADABLE_IN_A_ROW = 20
"""So many whose answers cannot be read are the folder's, and each has cost a connection."""

REQUEST_MESSAGES = 250
"""A batch that nobody has made smaller."""
LONG_SESSION = 8
"""So many requests that are answered over one session show that it was no short life that ended the one before."""

BROKEN = {"connection_dropped", "timeout", "unreadable_answer"}
"""Failures of which a message may be the reason, if it breaks every connection over which it is asked for."""
_UNTELLING = {"mailbox_unavailable", "client_bug", "protocol_unsupported", "unclassified"}


_TELLING = {"no_room_here", "unreadable_answer"}
"""Causes that say more of a message that cannot be had than that."""


class NobodyListens(Exception):
    """The taking side has gone: stop reading."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A batch to be read: messages of one source folder under the UIDVALIDITY of their scan."""

    folder: Folder
    uidvalidity: int
    envelopes: Sequence[Envelope]
    alone: bool = False
    """Something in the answers could not be read when all were asked for: each message is asked for by itself."""
    octets: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "octets", sum(envelope.weight for envelope in self.envelopes))


@dataclass(slots=True)
class Loaded:
    """What became of a wish: messages to send (not identified yet), those gone, those that cannot be delivered."""

    folder: Folder
    held: int = 0
    """Octets that the allowance holds for it."""
    letters: list[Letter] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    unreadable: list[GivenUp] = field(default_factory=list)
    failure: MigrationError | None = None
    """The folder cannot be read any more."""

    def identified(self) -> "Loaded":
        for each in self.letters:
            each.identify()
        return self

    @property
    def size(self) -> int:
        return sum(len(each.raw) for each in self.letters)


class Stride:
    """How much is asked of a source at once: less, and nothing ahead, while sessions end before a request is done."""

    def __init__(self) -> None:
        self.messages: int | None = None
        """In one request; None for no limit."""
        self.is_careful = False
        """Ask for nothing ahead: what is answered behind the end of a session is lost."""
        self.in_vain = 0
        """Sessions in a row that brought nothing."""

    def broke(self, came: int, completed: int) -> None:
        """A session has ended after so many messages and requests."""
        self.in_vain = 0 if came else self.in_vain + 1
        if completed:
            return
        self.is_careful = True
        self.messages = max(1, (came or self.messages or REQUEST_MESSAGES) // 2)

    def went_well(self, completed: int) -> None:
        """So many requests have been answered over this session."""
        if completed >= LONG_SESSION:
            self.is_careful, self.messages = False, None


class SourceReader:
    """Fetches messages whatever the server does with single ones. `unwanted` tells that nobody takes them any more."""

    def __init__(
        self, source: Endpoint[SourceConnection], allowance: Allowance, unwanted: Callable[[], bool] = lambda: False
    ) -> None:
        self._source = source
        self._allowance = allowance
        self._unwanted = unwanted
        self._failed_in_a_row = 0
        self._sizes_are_estimates = False
        self._speed = LinkSpeed()
        self._stride = Stride()
        self._failed: set[bytes] = set()

    def read(self, wishes: Iterable[Wish]) -> Iterator[Loaded]:
        """Everything that is wished; a folder that fails is told once, and its other wishes are passed over.

        What each result holds of the allowance is for the taker to give back.
        """
        again: list[Wish] = []
        for loaded in self._streamed(iter(wishes), again):
            yield from self._told_once(loaded)
        for wish in again:
            for part in self._let_through(wish):
                if wish.folder.raw in self._failed:
                    break
                self._wait_for(part)
                loaded = Loaded(part.folder, held=part.octets)
                try:
                    self.load(part, loaded)
                except MigrationError as error:
                    if not is_of_the_folder(error):
                        # What had come before it is taken all the same, unless it would have to be looked at again;
                        # what did not come is the server's fault, and no issue.
                        loaded.letters = [each for each in loaded.letters if len(each.raw) == each.envelope.size]
                        loaded.unreadable.clear()
                        yield loaded
                        raise
                    loaded = Loaded(part.folder, held=part.octets, failure=error)
                yield from self._told_once(loaded)

    def _let_through(self, wish: Wish) -> Iterator[Wish]:
        """The wish, in parts where not all of it may be read at once; LeftOff where nothing more may be."""
        rest = wish.envelopes
        while rest:
            number = self._source.account.admission.may_read([envelope.size for envelope in rest])
            yield replace(wish, envelopes=rest[:number])
            rest = rest[number:]

    def _told_once(self, loaded: Loaded) -> Iterator[Loaded]:
        if loaded.failure:
            if loaded.folder.raw in self._failed:
                self._allowance.give(loaded.held)
                return
            self._failed.add(loaded.folder.raw)
        yield loaded

    def _streamed(self, wishes: Iterator[Wish], again: list[Wish]) -> Iterator[Loaded]:
        """What comes without any trouble; the rest is put into `again`."""
        asked: deque[Wish] = deque()
        first: deque[Wish] = deque()
        """To be asked for before the other wishes."""
        stopped: list[LeftOff] = []

        def requests() -> Iterator[FetchRequest | None]:
            # What is not asked for yet stays in `first`: the connection may break while this waits.
            while True:
                if not first:
                    first.extend(islice(wishes, 1))
                if not first:
                    return
                wish = first[0]
                if self._sizes_are_estimates:
                    again.append(first.popleft())
                    continue
                if self._speed.is_slow and self._source.connection.can_compress:
                    # The stream has to end for it; the next one begins with this wish.
                    return
                if wish.folder.raw in self._failed:
                    first.popleft()
                    continue
                try:
                    sizes = [envelope.size for envelope in wish.envelopes[: self._stride.messages]]
                    number = self._source.account.admission.may_read(sizes)
                except LeftOff as limit:
                    # What is under way still comes in: it has been counted.
                    stopped.append(limit)
                    return
                part = replace(wish, envelopes=wish.envelopes[:number])
                while not (held := self._allowance.try_take(part.octets)) and asked:
                    yield None
                if not held:
                    self._wait_for(part)
                first.popleft()
                if number < len(wish.envelopes):
                    first.appendleft(replace(wish, envelopes=wish.envelopes[number:]))
                asked.append(part)
                yield FetchRequest(part.folder.raw, [envelope.uid for envelope in part.envelopes], part.octets)
                if self._stride.is_careful:
                    yield None

        while True:
            unread = 0
            came = completed = 0
            broken: list[Wish] = []
            try:
                for fetched in self._timed(self._source.connection.stream(requests())):
                    wish = asked.popleft()
                    wish, unread = replace(wish, alone=fetched.unread > unread), fetched.unread
                    loaded = Loaded(wish.folder, held=wish.octets)
                    due = {envelope.uid: envelope for envelope in wish.envelopes}
                    if not fetched.failure and fetched.uidvalidity == wish.uidvalidity:
                        for message in fetched.messages:
                            if message.raw is not None:
                                loaded.letters.append(Letter(due.pop(message.uid), message.raw))
                        self._failed_in_a_row = 0
                    came += len(loaded.letters)
                    if fetched.cut_short:
                        rest = replace(wish, envelopes=list(due.values()))
                        self._allowance.give(rest.octets)
                        loaded.held -= rest.octets
                        broken += [rest] if due else []
                        due = {}
                    else:
                        completed += 1
                        self._stride.went_well(completed)
                    yield self._sorted(wish, loaded, due, again)
                if stopped:
                    raise stopped.pop()
                if not first:
                    return
                self._source.connection.compress()
            except ConnectionLost as lost:
                for wish in asked:
                    self._allowance.give(wish.octets)
                self._reopen(lost)
                self._stride.broke(came, completed)
                behind = [*broken, *asked]
                is_unreadable = isinstance(lost, UnreadableAnswer)
                if behind and (not came or is_unreadable):
                    # The one that was being read goes last and alone: a message of it may be what breaks connections.
                    again.append(replace(behind.pop(0), alone=is_unreadable))
                first.extendleft(reversed(behind))
                asked.clear()
                if self._stride.in_vain >= TRIES:
                    self._source.is_careful = True
                    again += [*first, *wishes]
                    return

    def _timed(self, stream: Iterator[Fetched]) -> Iterator[Fetched]:
        """The stream, with the time that it made us wait."""
        begun = time.perf_counter()
        for fetched in stream:
            octets = sum(len(message.raw or b"") for message in fetched.messages)
            self._speed.waited(octets, time.perf_counter() - begun)
            yield fetched
            begun = time.perf_counter()

    def _sorted(self, wish: Wish, loaded: Loaded, due: dict[int, Envelope], again: list[Wish]) -> Loaded:
        """Keep what is beyond doubt; ask again for what did not come, has an odd size, or may have been cut."""
        sound: list[Letter] = []
        odd: list[Letter] = []
        for each in loaded.letters:
            # Some servers only estimate sizes; others answer for a message that is gone with one of their own making.
            as_told = len(each.raw) == each.envelope.size or not each.envelope.sized
            (sound if as_told else odd).append(each)
        self._sizes_are_estimates = self._sizes_are_estimates or len(odd) > len(sound)
        loaded.letters = []
        for each in sound:
            cut = isinstance(each.raw, bytes) and may_be_cut(each.raw)
            (odd if cut else loaded.letters).append(each)
        missing = [*due.values(), *(each.envelope for each in odd)]
        if missing:
            again.append(replace(wish, envelopes=sorted(missing, key=lambda envelope: envelope.uid)))
        return loaded

    def _wait_for(self, wish: Wish) -> None:
        if not self._allowance.take(wish.octets, self._unwanted):
            raise NobodyListens

    def load(self, wish: Wish, loaded: Loaded | None = None) -> Loaded:
        """Fetch a batch; after two failures without progress one message at a time, so that a poison one is found.

        Where that fails for good, `loaded` has what had come.
        """
        loaded = loaded or Loaded(wish.folder)
        self._open(wish)
        due = {envelope.uid: envelope for envelope in wish.envelopes}
        fruitless = 2 if wish.alone else 0
        while due and fruitless < 2:
            before = len(due)
            try:
                self._fetch(due, loaded)
                break
            except UnreadableAnswer as lost:
                self._reopen(lost, wish)
                break
            except ConnectionLost as lost:
                self._reopen(lost, wish)
            except Refused:
                if len(due) == before:
                    break
            fruitless = 0 if len(due) < before else fruitless + 1
        for uid in list(due):
            self._load_alone(due.pop(uid), loaded, wish)
        self._drop_substitutes(loaded)
        return loaded

    def load_large(self, wish: Wish, again: Letter | None = None) -> Loaded:
        """Identify a message that is too large to be held; it is read again, in pieces, when it is sent.

        `again` is one of which other octets came then: it is fetched whole, and kept for the next sending.
        """
        loaded = Loaded(wish.folder)
        [envelope] = wish.envelopes
        # Once to identify it, once to send it.
        self._source.account.admission.may_read([2 * envelope.size])
        content = Distant(self._source, wish.folder, wish.uidvalidity, envelope.uid, envelope.size)
        letter = again or Letter(envelope, content)
        try:
            if isinstance(letter.raw, Distant) and again:
                letter.raw.read_whole()
            letter.identify()
        except (MigrationError, Refused) as error:
            failure = self._of_the_message(error, wish) if isinstance(error, Refused) else error
            if not isinstance(failure, MessageError) and failure.cause_id not in _UNTELLING | BROKEN:
                raise
            self._open(wish)
            self._absent(envelope, loaded, failure)
            return loaded
        if not letter.raw:
            self._absent(envelope, loaded)
            return loaded
        loaded.letters.append(letter)
        self._drop_substitutes(loaded)
        return loaded

    def _load_alone(self, envelope: Envelope, loaded: Loaded, wish: Wish) -> None:
        failure: MigrationError | None = None
        for _ in range(TRIES):
            due = {envelope.uid: envelope}
            try:
                self._fetch(due, loaded)
                if due:
                    self._absent(envelope, loaded, self._unread(wish))
                return
            except UnreadableAnswer as lost:
                failure = lost
                self._reopen(lost, wish)
                # Asked again it would say the same.
                break
            except ConnectionLost as lost:
                failure = lost
                self._reopen(lost, wish)
            except Refused as refused:
                failure = self._of_the_message(refused, wish)
        if failure is None:
            raise AssertionError("a message that was not delivered has a failure")
        if not isinstance(failure, MessageError):
            self._failed_in_a_row += 1
            if isinstance(failure, UnreadableAnswer):
                if self._failed_in_a_row >= UNREADABLE_IN_A_ROW:
                    raise failure.told_as(FolderError, where=wish.folder.name)
            elif self._failed_in_a_row >= FAILURES_IN_A_ROW:
                raise failure
        self._absent(envelope, loaded, failure)

    def _unread(self, wish: Wish) -> MigrationError | None:
        """What could not be read in place of the message that was asked for alone, if anything."""
        for unread in self._source.connection.unread:
            return MessageError("unreadable_answer", "source", unread.line, where=wish.folder.name)
        return None

    def _of_the_message(self, refused: Refused, wish: Wish) -> MigrationError:
        """What a refusal means that is given to one message alone; raised where it means more than that message."""
        failure = self._source.connection.failure(refused, "fetch", wish.folder.name)
        if not isinstance(failure, MessageError) and failure.cause_id not in _UNTELLING:
            raise failure from None
        return failure

    def _fetch(self, due: dict[int, Envelope], loaded: Loaded) -> None:
        """Take every message that comes out of `due`; one that does not come stays there."""
        for message in self._source.connection.messages(list(due)):
            if message.raw is not None:
                loaded.letters.append(Letter(due.pop(message.uid), message.raw))
                self._failed_in_a_row = 0

    def _absent(self, envelope: Envelope, loaded: Loaded, failure: MigrationError | None = None) -> None:
        """Nothing was delivered: the message is gone, or the server cannot read it, or we cannot keep it."""
        if self._listed([envelope.uid]):
            loaded.unreadable.append(
                GivenUp(
                    envelope.uid,
                    failure.cause_id if failure and failure.cause_id in _TELLING else "source_unreadable",
                    failure.server_text if failure else "",
                    envelope.size,
                    envelope.arrived,
                    known_by=failure.known_by if failure else "",
                )
            )
        else:
            loaded.gone.append(envelope.uid)

    def _drop_substitutes(self, loaded: Loaded) -> None:
        # Courier answers for a message that was expunged meanwhile with one of its own making, and says OK.
        doubtful = [each.uid for each in loaded.letters if len(each.raw) != each.envelope.size]
        if not doubtful:
            return
        gone = set(doubtful) - self._listed(doubtful)
        loaded.gone += sorted(gone)
        loaded.letters = [each for each in loaded.letters if each.uid not in gone]

    def _listed(self, uids: Sequence[int]) -> set[int]:
        self._source.connection.refresh()
        return {envelope.uid for envelope in self._source.connection.scan_uids(uids)}

    def _open(self, wish: Wish) -> None:
        """Have the wish's folder open, as it was when it was scanned."""
        connection = self._source.connection
        if connection.selected != wish.folder.raw:
            connection.examine(wish.folder)
        if connection.uidvalidity != wish.uidvalidity:
            raise FolderError("folder_missing", "source", "UIDVALIDITY changed", where=wish.folder.name)

    def _reopen(self, lost: ConnectionLost, wish: Wish | None = None) -> None:
        if self._unwanted():
            raise NobodyListens
        if lost.cause_id in HOST_BUSY:
            raise lost
        self._source.reopen()
        if wish:
            self._open(wish)
