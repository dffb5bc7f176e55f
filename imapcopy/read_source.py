"""Reads the planned messages of one source folder, batch by batch, and says what became of those it cannot get."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Event

from imapcopy.connection import SourceConnection
from imapcopy.endpoint import Endpoint
from imapcopy.errors import ConnectionLost, FolderError, MessageError, MigrationError, Refused
from imapcopy.folders import Folder
from imapcopy.pipe import BytePipe, PipeClosed
from imapcopy.plan import Envelope
from models.ledger import GivenUp

TRIES = 3
"""A message that breaks this many connections alone is left behind."""


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
    source: Endpoint[SourceConnection],
    folder: Folder,
    uidvalidity: int,
    batches: Iterable[Sequence[Envelope]],
    pipe: BytePipe[Loaded],
    stop: Event,
) -> None:
    """Fill the pipe until the batches end, the taker goes, or `stop` is set. Runs in a thread of its own."""
    reader = _Reader(source, folder, uidvalidity)
    try:
        for batch in batches:
            if stop.is_set():
                break
            loaded = reader.load(batch)
            pipe.put(loaded, loaded.size)
    except PipeClosed:
        pass
    except BaseException as error:  # noqa: BLE001  (handed to the writing thread, which raises it)
        pipe.end(error)
    else:
        pipe.end()


class _Reader:
    def __init__(self, source: Endpoint[SourceConnection], folder: Folder, uidvalidity: int) -> None:
        self._source = source
        self._folder = folder
        self._uidvalidity = uidvalidity

    def load(self, batch: Sequence[Envelope]) -> Loaded:
        """Fetch a batch; after two losses without progress one message at a time, so that a poison one is found."""
        loaded = Loaded()
        due = {envelope.uid: envelope for envelope in batch}
        fruitless = 0
        while due and fruitless < 2:
            before = len(due)
            try:
                self._fetch(due, loaded)
                break
            except (ConnectionLost, Refused) as error:
                fruitless = 0 if len(due) < before else fruitless + 1
                if isinstance(error, ConnectionLost):
                    self._reopen()
                elif fruitless == 0:
                    continue
                else:
                    break
        for uid in list(due):
            self._load_alone(due.pop(uid), loaded)
        return loaded

    def _load_alone(self, envelope: Envelope, loaded: Loaded) -> None:
        failure: MigrationError | None = None
        for _ in range(TRIES):
            due = {envelope.uid: envelope}
            try:
                self._fetch(due, loaded)
                if due:
                    self._absent(envelope, loaded)
                return
            except ConnectionLost as lost:
                failure = lost
                self._reopen()
            except Refused as refused:
                failure = self._source.connection.failure(refused, "fetch", self._folder.name)
                if not isinstance(failure, MessageError):
                    raise failure from None
        text = failure.server_text if failure else ""
        loaded.unreadable.append(GivenUp(envelope.uid, "source_unreadable", text, envelope.size, envelope.arrived))

    def _fetch(self, due: dict[int, Envelope], loaded: Loaded) -> None:
        """Take every message that comes out of `due`; one that does not come stays there."""
        for message in self._source.connection.messages(list(due)):
            if message.raw is not None:
                loaded.letters.append((due.pop(message.uid), message.raw))

    def _absent(self, envelope: Envelope, loaded: Loaded) -> None:
        """The server answered OK and delivered nothing: the message is gone, or the server cannot read it."""
        if self._source.connection.scan_uids([envelope.uid]):
            loaded.unreadable.append(GivenUp(envelope.uid, "source_unreadable", "", envelope.size, envelope.arrived))
        else:
            loaded.gone.append(envelope.uid)

    def _reopen(self) -> None:
        opened = self._source.reopen().examine(self._folder)
        if opened.uidvalidity != self._uidvalidity:
            raise FolderError("folder_missing", "source", "UIDVALIDITY changed", where=self._folder.name)
