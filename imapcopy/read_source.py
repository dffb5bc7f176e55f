"""Reads the planned messages of one source folder, batch by batch, and says what became of those it cannot get."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Event

from imapcopy.connection import SourceConnection
from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MessageError, MigrationError, Refused
from imapcopy.folders import Folder
from imapcopy.pipe import BytePipe, PipeClosed
from imapcopy.plan import Envelope
from models.ledger import GivenUp

TRIES = 3
"""A message that breaks this many connections alone is left behind."""
FAILURES_IN_A_ROW = 3
"""So many messages that fail one after the other without a telling reason are the server's fault, not theirs."""

_UNTELLING = {"mailbox_unavailable", "client_bug", "protocol_unsupported", "unclassified"}


@dataclass(slots=True)
class Loaded:
    """A batch with its content: messages to send, those gone from the source, those it cannot deliver."""

    letters: list[tuple[Envelope, bytes]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    unreadable: list[GivenUp] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(len(raw) for _, raw in self.letters)


def read_batches(
    reader: "SourceReader", batches: Iterable[Sequence[Envelope]], pipe: BytePipe[Loaded], stop: Event
) -> None:
    """Fill the pipe until the batches end, the taker goes, or `stop` is set. Runs in a thread of its own."""
    try:
        for batch in batches:
            if stop.is_set():
                break
            loaded = reader.load(batch, pipe)
            pipe.put(loaded, loaded.size)
    except PipeClosed:
        pass
    except BaseException as error:  # noqa: BLE001  (handed to the writing thread, which raises it)
        pipe.end(error)
    else:
        pipe.end()


class SourceReader:
    """Fetches messages of one folder whatever the server does with single ones."""

    def __init__(self, source: Endpoint[SourceConnection], folder: Folder, uidvalidity: int) -> None:
        self._source = source
        self._folder = folder
        self._uidvalidity = uidvalidity
        self._failed_in_a_row = 0

    def load(self, batch: Sequence[Envelope], pipe: BytePipe[Loaded] | None = None) -> Loaded:
        """Fetch a batch; after two failures without progress one message at a time, so that a poison one is found.

        PipeClosed when the taker has gone while a connection was lost.
        """
        loaded = Loaded()
        due = {envelope.uid: envelope for envelope in batch}
        fruitless = 0
        while due and fruitless < 2:
            before = len(due)
            try:
                self._fetch(due, loaded)
                break
            except ConnectionLost as lost:
                self._reopen(lost, pipe)
            except Refused:
                if len(due) == before:
                    break
            fruitless = 0 if len(due) < before else fruitless + 1
        for uid in list(due):
            self._load_alone(due.pop(uid), loaded, pipe)
        self._drop_substitutes(loaded)
        return loaded

    def _load_alone(self, envelope: Envelope, loaded: Loaded, pipe: BytePipe[Loaded] | None) -> None:
        failure: MigrationError | None = None
        for _ in range(TRIES):
            due = {envelope.uid: envelope}
            try:
                self._fetch(due, loaded)
                if due:
                    self._absent(envelope, loaded, "")
                return
            except ConnectionLost as lost:
                failure = lost
                self._reopen(lost, pipe)
            except Refused as refused:
                failure = self._source.connection.failure(refused, "fetch", self._folder.name)
                if not isinstance(failure, MessageError) and failure.cause_id not in _UNTELLING:
                    raise failure from None
        if failure is None:
            raise AssertionError("a message that was not delivered has a failure")
        if not isinstance(failure, MessageError):
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILURES_IN_A_ROW:
                raise failure
        self._absent(envelope, loaded, failure.server_text)

    def _fetch(self, due: dict[int, Envelope], loaded: Loaded) -> None:
        """Take every message that comes out of `due`; one that does not come stays there."""
        for message in self._source.connection.messages(list(due)):
            if message.raw is not None:
                loaded.letters.append((due.pop(message.uid), message.raw))
                self._failed_in_a_row = 0

    def _absent(self, envelope: Envelope, loaded: Loaded, text: str) -> None:
        """Nothing was delivered: the message is gone, or the server cannot read it."""
        if self._listed([envelope.uid]):
            loaded.unreadable.append(GivenUp(envelope.uid, "source_unreadable", text, envelope.size, envelope.arrived))
        else:
            loaded.gone.append(envelope.uid)

    def _drop_substitutes(self, loaded: Loaded) -> None:
        # Courier answers for a message that was expunged meanwhile with one of its own making, and says OK.
        doubtful = [envelope.uid for envelope, raw in loaded.letters if len(raw) != envelope.size]
        if not doubtful:
            return
        gone = set(doubtful) - self._listed(doubtful)
        loaded.gone += sorted(gone)
        loaded.letters = [(envelope, raw) for envelope, raw in loaded.letters if envelope.uid not in gone]

    def _listed(self, uids: Sequence[int]) -> set[int]:
        self._source.connection.refresh()
        return {envelope.uid for envelope in self._source.connection.scan_uids(uids)}

    def _reopen(self, lost: ConnectionLost, pipe: BytePipe[Loaded] | None) -> None:
        if pipe and pipe.ended:
            raise PipeClosed
        if lost.cause_id in HOST_BUSY:
            raise lost
        opened = self._source.reopen().examine(self._folder)
        if opened.uidvalidity != self._uidvalidity:
            raise FolderError("folder_missing", "source", "UIDVALIDITY changed", where=self._folder.name)
