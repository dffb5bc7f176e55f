"""A message too large to be held in memory: read in pieces, once to know it, and again for each time it is sent.

A literal must be announced with its size, and the ledger must know the digest before the first octet goes out: so a
large message is read twice, and never kept.
"""

from collections.abc import Iterator

from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MessageError, ServerError
from imapcopy.folders import Folder
from imapcopy.identity import Identification
from imapcopy.plan import Envelope
from imapcopy.source_connection import SourceConnection

LARGE_BYTES = 32 << 20
"""Messages above are read in pieces: nearly every provider refuses them anyhow."""
TRIES = 3


def is_large(envelope: Envelope) -> bool:
    return envelope.size > LARGE_BYTES


class Distant:
    """The content of one message at the source."""

    def __init__(self, source: Endpoint[SourceConnection], folder: Folder, uidvalidity: int, uid: int) -> None:
        self._source = source
        self._folder = folder
        self._uidvalidity = uidvalidity
        self._uid = uid
        self._size: int | None = None

    def __len__(self) -> int:
        """Octets, once it has been identified."""
        return self._size or 0

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, going on where a connection broke; MessageError when they are not what they were."""
        read = fruitless = 0
        while True:
            try:
                for piece in self._opened().pieces(self._uid, start=read):
                    yield piece
                    read += len(piece)
                    fruitless = 0
                break
            except ConnectionLost as lost:
                fruitless += 1
                self._source.forget()
                if fruitless > TRIES or lost.cause_id in HOST_BUSY:
                    # No loss of the target's connection, of which a caller would think.
                    raise lost.told_as(ServerError) from None
        if self._size not in (None, read):
            raise MessageError("source_gone", "source", f"{read} of {self._size} octets", where=self._folder.name)

    def identify(self) -> tuple[bytes, bytes, bytes]:
        """Read all of it; its digests."""
        found = Identification(self)
        self._size = found.size
        return found.digests()

    def _opened(self) -> SourceConnection:
        connection = self._source.connection
        if connection.selected != self._folder.raw:
            connection.examine(self._folder)
        if connection.uidvalidity != self._uidvalidity:
            raise FolderError("folder_missing", "source", "UIDVALIDITY changed", where=self._folder.name)
        return connection
