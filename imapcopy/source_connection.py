"""The connection to the source. It has no command that changes anything: folders are opened with EXAMINE, where the
server knows it, and mail is read with BODY.PEEK.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from imapcopy import census
from imapcopy.census import LABELLED_SCAN_ITEMS, Hidden
from imapcopy.connection import Connection
from imapcopy.dialogue import COMMANDS_IN_FLIGHT, can_quote
from imapcopy.errors import ConnectionLost, FolderError, MigrationError, Refused, Side
from imapcopy.flight import SCAN_ITEMS, Fetched, FetchRequest, fetch_each
from imapcopy.folders import Folder
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus, Selected
from imapcopy.scan_answers import Answers


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A source folder as EXAMINE and a scan of all of it show it."""

    opened: Selected
    scan: Sequence[Envelope]
    elsewhere: int = 0
    """Messages that have a label of another folder: they are not in the scan."""
    hidden: tuple[Hidden, ...] = ()
    """Messages that EXISTS counts and that are not in the scan either, because no answer tells of them."""


class SourceConnection(Connection):
    """A connection that can only read."""

    side: Side = "source"
    opens_with = b"EXAMINE"
    _examines = False
    """Whether a folder has been opened with EXAMINE here."""

    def examine(self, folder: Folder) -> Selected:
        """Open a folder read-only (EXAMINE): nothing that is read gets marked as seen."""
        try:
            opened = self._open(self.opens_with, folder.raw)
        except MigrationError as error:
            if not self._may_be_unknown(error) or not self._selects(folder):
                raise
            return self._open(self.opens_with, folder.raw)
        self._examines = True
        return opened

    def survey(
        self, folders: Iterable[Folder], statuses: Mapping[bytes, FolderStatus] | None = None
    ) -> Iterator[tuple[Folder, Surveyed | MigrationError]]:
        """EXAMINE and scan many folders in flight; a folder that fails comes with its error, the others go on.

        Folders that are empty by their `statuses` are not asked for what is in them: some servers refuse that.
        """
        unknown: list[tuple[Folder, MigrationError]] = []
        empty = {raw for raw, status in (statuses or {}).items() if not status.messages}
        for folder, found in self._surveyed(folders, empty):
            if isinstance(found, MigrationError) and self._may_be_unknown(found):
                unknown.append((folder, found))
            else:
                yield folder, found
        if unknown and not self._examines and any(self._selects(folder) for folder, _ in unknown):
            yield from self._surveyed((folder for folder, _ in unknown), empty)
        else:
            yield from unknown

    def _may_be_unknown(self, error: MigrationError) -> bool:
        """Whether a failure may mean that the server knows no EXAMINE (Alibaba's list of commands has none)."""
        return self.opens_with == b"EXAMINE" and not self._examines and error.server_text.startswith("BAD ")

    def _selects(self, folder: Folder) -> bool:
        """Whether a folder that EXAMINE did not open can be opened with SELECT; all are opened so from then on.

        Nothing changes by that: there is no CLOSE, no EXPUNGE and no STORE here, and PEEK marks nothing as seen.
        """
        try:
            self._dialogue.opened(self._dialogue.opening(b"SELECT", folder.raw), folder.raw)
        except ConnectionLost:
            raise
        except MigrationError:
            # Not the command was refused but the folder: what EXAMINE was told is its failure.
            return False
        self.opens_with = b"SELECT"
        return True

    def _surveyed(
        self, folders: Iterable[Folder], empty: Collection[bytes]
    ) -> Iterator[tuple[Folder, Surveyed | MigrationError]]:
        askable: list[Folder] = []
        for folder in folders:
            if can_quote(folder.raw):
                askable.append(folder)
            else:
                error = FolderError("folder_name_invalid", self.side, "a line end or NUL in the name")
                yield folder, error.told_as(FolderError, where=folder.name)

        def ask(folder: Folder) -> tuple[bytes, bytes | None]:
            opening = self._dialogue.opening(self.opens_with, folder.raw)
            if folder.raw in empty:
                return opening, None
            items = LABELLED_SCAN_ITEMS if folder.elsewhere else SCAN_ITEMS
            return opening, self._dialogue.send(b"UID FETCH 1:* " + items)

        doubtful: list[tuple[Folder, Selected, Answers]] = []
        for folder, (opening, scanning) in self._dialogue.in_flight(askable, ask, at_once=COMMANDS_IN_FLIGHT // 2):
            try:
                opened = self._dialogue.opened(opening, folder.raw)
                self._examines = True
            except ConnectionLost:
                raise
            except MigrationError as error:
                # Whatever is scanned now is not this folder.
                self._dialogue.unless_refused(scanning)
                yield folder, error
                continue
            answers = Answers(opened.messages, labels=bool(folder.elsewhere))
            if refused := self._scan_refused(scanning, answers, opened):
                if not census.may_be_one_message(refused):
                    yield folder, refused
                    continue
                doubtful.append((folder, opened, answers))
            elif answers.adds_up(opened.messages, opened.uidnext):
                yield folder, _surveyed(folder, opened, answers)
            else:
                doubtful.append((folder, opened, answers))
        # Another folder is open meanwhile; there are few such folders, if any.
        for folder, opened, answers in doubtful:
            try:
                yield folder, self._counted(folder, opened, answers)
            except ConnectionLost:
                raise
            except MigrationError as error:
                yield folder, error

    def _scan_refused(self, scanning: bytes | None, answers: Answers, opened: Selected) -> MigrationError | None:
        """Read the answers to a scan; why it was refused, but for a folder in which there is nothing to be scanned."""
        if scanning is None:
            return None
        try:
            census.read_scan(self._dialogue, scanning, answers)
        except Refused as refused:
            if opened.messages or not opened.counted:
                return census.failure_of_folder(self._dialogue, refused)
        return None

    def _counted(self, folder: Folder, opened: Selected, before: Answers) -> Surveyed:
        """A folder whose scan did not bring all that is there."""
        known: Answers | None = before
        if self.selected != folder.raw:
            again = self._open(self.opens_with, folder.raw)
            before.exists = again.messages
            known, opened = before if again.uidvalidity == opened.uidvalidity else None, again
        counted = census.count(self._dialogue, opened, known, labels=bool(folder.elsewhere))
        return _surveyed(folder, opened, counted.answers, counted.hidden)

    def stream(self, requests: Iterable[FetchRequest | None]) -> Iterator[Fetched]:
        """Fetch from folder after folder, in the order of the requests, with the next ones already under way.

        A request that is None means that nothing more is to be asked for before the next one is through. Where the
        connection breaks, what had come by then comes before the failure.
        """
        return fetch_each(self._dialogue, self.opens_with, requests, parts=True)


def _surveyed(folder: Folder, opened: Selected, answers: Answers, hidden: tuple[Hidden, ...] = ()) -> Surveyed:
    """The messages of a folder but for those that are to be moved from elsewhere."""
    found = answers.envelopes()
    if not folder.elsewhere:
        return Surveyed(opened, found, hidden=hidden)
    own = [envelope for envelope in found if not answers.labels.get(envelope.uid, _NONE) & folder.elsewhere]
    return Surveyed(opened, own, len(found) - len(own), hidden)


_NONE = frozenset[bytes]()
