"""A message too large to be held in memory: read in pieces, once to know it, and again for each time it is sent.

A literal must be announced with its size, and the ledger must know the digest before the first octet goes out: so a
large message is read twice, and never kept. Where a server does not give the pieces that it is asked for, or more or
less comes than it told, the message is read whole, once, into a file that has no name.
"""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from imapcopy.connection import Connection, OddPieces
from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MessageError, Refused, ServerError, UnreadableAnswer
from imapcopy.folders import Folder
from imapcopy.identity import Identification
from imapcopy.plan import Envelope
from imapcopy.source_connection import SourceConnection

LARGE_BYTES = 32 << 20
"""Messages above are read in pieces: nearly every provider refuses them anyhow."""
SPOOL_PIECE_BYTES = 1 << 20
TRIES = 3
MOST_READ = 2.5
"""So many times its size at most is read of a message that comes whole, before it is left for a later try."""


def is_large(envelope: Envelope) -> bool:
    return envelope.size > LARGE_BYTES


class Spool:
    """A whole message in a file without a name: nobody else can open it, and it ends with the process at latest."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self.size = 0
        self.failure: OSError | None = None
        """Why it does not hold what was written: there is no room on this machine."""
        self._file = file

    def write(self, octets: bytes) -> None:
        self.size += len(octets)
        try:
            if self._file is None:
                # Mode 0600 and unlinked at once, or never linked at all (O_TMPFILE).
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the message)
            if self.failure is None:
                self._file.write(octets)
        except OSError as failure:
            # What is still to come is read and dropped, so that the connection stays in step.
            self.failure = failure

    def __iter__(self) -> Iterator[bytes]:
        if file := self._file:
            file.seek(0)
            yield from iter(lambda: file.read(SPOOL_PIECE_BYTES), b"")

    def clear(self) -> None:
        """Begin again."""
        if self._file:
            self._file.seek(0)
            self._file.truncate()
        self.size, self.failure = 0, None

    def close(self) -> None:
        if self._file:
            self._file.close()

    def __del__(self) -> None:
        # Whoever only compares a message lets go of it, wherever that ends.
        self.close()


def identified(
    connection: Connection, uid: int, told: int, check: Callable[[], object] = lambda: None
) -> Identification:
    """Know a large message of the opened folder, of which RFC822.SIZE told so much, and keep nothing of it.

    `check` is called between pieces, and may raise.
    """
    octets = 0
    if connection.gives_ranges:
        found, whole = Identification(), Identification()
        try:
            for piece in connection.pieces(uid, told, whole.update):
                check()
                found.update(piece)
        except OddPieces as odd:
            if odd.whole:
                return whole
            octets = odd.octets
        else:
            return found
    whole = Identification()

    def take(piece: bytes) -> None:
        check()
        whole.update(piece)

    connection.whole(uid, take)
    return whole if whole.size >= octets else found


class Distant:
    """The content of one message at the source; `told` is its RFC822.SIZE."""

    def __init__(
        self, source: Endpoint[SourceConnection], folder: Folder, uidvalidity: int, uid: int, told: int
    ) -> None:
        self._source = source
        self._folder = folder
        self._uidvalidity = uidvalidity
        self._uid = uid
        self._told = told
        self._digests: tuple[bytes, bytes, bytes] | None = None
        self._size: int | None = None
        self._spool: Spool | None = None
        self._read = 0
        """Octets that have come of it by now."""

    def __len__(self) -> int:
        """Octets, once it has been identified."""
        return self._size or 0

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, going on where a connection broke; MessageError when they are not what they were."""
        if self._spool:
            yield from self._spool
            return
        read = 0
        try:
            for piece in self._pieces(Spool()):
                read += len(piece)
                yield piece
        except OddPieces as odd:
            read = odd.octets
        except Refused as refused:
            # The target's refusals are told apart from it by their side.
            failure = self._source.connection.failure(refused, "fetch", self._folder.name)
            reach = type(failure) if isinstance(failure, ServerError | FolderError) else MessageError
            raise failure.told_as(reach) from None
        if self._size not in (None, read):
            raise MessageError("source_gone", "source", f"{read} of {self._size} octets", where=self._folder.name)

    def identify(self) -> tuple[bytes, bytes, bytes]:
        """Read all of it; its digests."""
        if self._digests is None:
            found = self._identified()
            self._size, self._digests = found.size, found.digests()
        return self._digests

    def read_whole(self) -> None:
        """Know it by what comes in one FETCH, and keep that until it is sent: its pieces were not the same twice."""
        found = self._kept(self.fetch_into(Spool()))
        self._size, self._digests = found.size, found.digests()

    def fetch_into(self, spool: Spool) -> Spool:
        """Fetch it whole, and once more where the connection breaks: nothing is left then of what had come."""
        for left in reversed(range(TRIES)):
            try:
                self._opened().whole(self._uid, self._counted(spool))
                break
            except ConnectionLost as lost:
                self._lost(lost, not left or self._has_read_enough)
                spool.clear()
        return spool

    def close(self) -> None:
        """Keep nothing of it any more."""
        if self._spool:
            self._spool.close()

    def _identified(self) -> Identification:
        spool = Spool()
        octets = 0
        found = Identification()
        if self._opened().gives_ranges:
            try:
                for piece in self._pieces(spool):
                    found.update(piece)
            except OddPieces as odd:
                if odd.whole:
                    return self._kept(spool)
                octets = odd.octets
            else:
                return found
            spool.clear()
        if self.fetch_into(spool).size >= octets:
            return self._kept(spool)
        # Of two that both differ from what was told the longer has more of the message.
        spool.close()
        return found

    def _kept(self, spool: Spool) -> Identification:
        if spool.failure:
            text = spool.failure.strerror or ""
            raise MessageError("no_room_here", "source", text, where=self._folder.name)
        self._spool = spool
        return Identification(spool)

    def _pieces(self, spool: Spool) -> Iterator[bytes]:
        read = fruitless = 0
        while True:
            try:
                for piece in self._opened().pieces(self._uid, self._told, self._counted(spool), start=read):
                    self._source.check_stop()
                    self._read += len(piece)
                    yield piece
                    read += len(piece)
                    fruitless = 0
                return
            except ConnectionLost as lost:
                fruitless += 1
                self._lost(lost, fruitless > TRIES or (spool.size > 0 and self._has_read_enough))
                spool.clear()

    @property
    def _has_read_enough(self) -> bool:
        return self._read + self._told > MOST_READ * self._told

    def _counted(self, spool: Spool) -> Callable[[bytes], None]:
        def write(octets: bytes) -> None:
            self._source.check_stop()
            self._read += len(octets)
            spool.write(octets)

        return write

    def _lost(self, lost: ConnectionLost, for_good: bool) -> None:
        self._source.forget()
        if for_good or lost.cause_id in HOST_BUSY or isinstance(lost, UnreadableAnswer):
            # No loss of the target's connection, of which a caller would think.
            raise lost.told_as(ServerError) from None

    def _opened(self) -> SourceConnection:
        connection = self._source.connection
        if connection.selected != self._folder.raw:
            connection.examine(self._folder)
        if connection.uidvalidity != self._uidvalidity:
            raise FolderError("folder_missing", "source", "UIDVALIDITY changed", where=self._folder.name)
        return connection
