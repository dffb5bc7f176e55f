"""Writes down which messages arrived altered, and by what name people find these and those that stay behind.

Of healthy messages nothing is asked. What a server does when it is asked for names costs no mail: then a message is
known by folder and UID alone.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MigrationError
from imapcopy.folders import Folder
from imapcopy.plan import Envelope
from imapcopy.source_connection import SourceConnection
from models.ledger import Ledger
from models.ledger_rows import Altered, Heading

TOLD_TOGETHER = 500
"""So many messages are named and written down at once."""
FAILURES = 20
"""After so many refusals, and half as many lost connections, nobody asks a folder for more names in a pass."""


def tell_altered(
    ledger: Ledger,
    folder_id: int,
    altered: Mapping[str, Collection[int]],
    targets: Mapping[int, int],
    scan: Mapping[int, Envelope],
    names: "Names",
) -> None:
    """Commit what was altered, given as source UIDs by what it was; `targets` are the UIDs of the copies by those."""
    told: dict[int, list[str]] = defaultdict(list)
    for name, uids in altered.items():
        for uid in uids:
            if uid in targets:
                told[uid].append(name)
    for some in _together(sorted(told)):
        headings = names.of(some)
        ledger.note_altered(
            folder_id,
            [
                Altered(
                    uid,
                    targets[uid],
                    told[uid],
                    scan[uid].size if uid in scan else 0,
                    scan[uid].arrived if uid in scan else None,
                    headings.get(uid),
                )
                for uid in some
            ],
        )


def name_issues(ledger: Ledger, folder_id: int, names: "Names") -> None:
    """Give names to the messages of a folder that stay behind and have none yet."""
    unnamed = ledger.unnamed_issues(folder_id) if ledger.keeps_subjects else {}
    # What the source does not show cannot be asked for.
    unnamed = {uid: cause for uid, cause in unnamed.items() if uid > 0}
    # What has no UID cannot be asked for.
    unnamed = {uid: cause for uid, cause in unnamed.items() if uid > 0}
    # What cannot be read may end the session: by then the others have their names.
    poison = [uid for uid, cause in unnamed.items() if cause == "source_unreadable"]
    for some in (*_together(sorted(unnamed.keys() - set(poison))), *([uid] for uid in poison)):
        ledger.name_issues(folder_id, names.of(some))


class Names:
    """Asks the source for subjects and senders of a folder's messages, many together."""

    def __init__(self, source: Endpoint[SourceConnection], folder: Folder, uidvalidity: int, *, wanted: bool) -> None:
        self._source = source
        self._folder = folder
        self._uidvalidity = uidvalidity
        self._patience = FAILURES if wanted else 0

    def of(self, uids: Sequence[int]) -> dict[int, Heading]:
        """The names of these by UID: both empty where the server gives none, absent where nobody asks any more."""
        if self._patience <= 0:
            return {}
        try:
            found = self._asked(uids)
        except ConnectionLost as lost:
            self._source.forget()
            self._patience -= FAILURES if lost.cause_id in HOST_BUSY else 2
        except FolderError:
            self._patience -= 1
        except MigrationError:
            # The old mailbox cannot be opened any more. Whoever needs it next will say why; all of this has arrived.
            self._patience = 0
        else:
            return {uid: found.get(uid, Heading("", "")) for uid in uids}
        if len(uids) == 1:
            return {uids[0]: Heading("", "")} if self._patience > 0 else {}
        half = len(uids) // 2
        return self.of(uids[:half]) | self.of(uids[half:])

    def _asked(self, uids: Sequence[int]) -> dict[int, Heading]:
        connection = self._source.connection
        if connection.selected != self._folder.raw:
            connection.examine(self._folder)
        if connection.uidvalidity != self._uidvalidity:
            # Its UIDs mean other messages now.
            self._patience = 0
            return {}
        return connection.headings(uids)


def _together(uids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(uids), TOLD_TOGETHER):
        yield uids[start : start + TOLD_TOGETHER]
