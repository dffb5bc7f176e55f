"""The one door to a mailbox: the commands that a copy needs. One connection serves one thread.

`SourceConnection` has no command that changes anything: the source is opened with EXAMINE, where the server knows it,
and read with BODY.PEEK.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from imapcopy import grammar, responses
from imapcopy.account import Account, Server
from imapcopy.answers import Stage
from imapcopy.dialogue import COMMANDS_IN_FLIGHT, Dialogue, can_quote
from imapcopy.errors import ConnectionLost, FolderError, MessageError, MigrationError, Refused, Side
from imapcopy.flight import BODY_ITEMS, SCAN_ITEMS, Fetched, FetchRequest, fetch_each, uid_sets
from imapcopy.folders import Folder
from imapcopy.identity import may_be_cut
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus, Message, Selected
from imapcopy.sign_in import connect, sign_in
from imapcopy.wire import Deadline, Response
from models.providers import provider_at

PIECE_BYTES = 4 << 20
LABELLED_SCAN_ITEMS = SCAN_ITEMS[:-1] + b" X-GM-LABELS)"
LITERAL_MINUS_BYTES = 4096
"""LITERAL- allows unannounced literals up to this size (RFC 7888)."""
NOTICE_SECONDS = 0.2
"""So long after a connection was reset its server may still count it, as far as can be told."""

_OF_THE_NAME = {"client_bug", "protocol_unsupported", "message_too_large", "unclassified"}
"""How a server's words read that chokes on the name of one folder (`BAD Invalid characters in atom`)."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The folders of a mailbox, and the prefix and separator under which new ones are made."""

    prefix: str
    separator: str
    folders: tuple[Folder, ...]
    statuses: Mapping[bytes, FolderStatus] | None
    """By raw name, where the server tells them with its folders (RFC 5819); None where each must be asked for."""


def _rest(dropped_at: float) -> None:
    """Give a server the time to notice that a connection was reset."""
    time.sleep(max(0.0, dropped_at + NOTICE_SECONDS - time.monotonic()))


class Pieces(Protocol):
    """Content that is read only when it is sent; its length is known before."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to append; `internal_date` as in INTERNALDATE, "" leaves the date to the server."""

    raw: bytes | Pieces
    flags: frozenset[str]
    internal_date: str


class Connection:
    """A signed-in connection; what both sides share. Every failure comes out as a MigrationError."""

    side: Side
    opens_with = b"SELECT"
    """How folders are opened here."""
    _left = False
    """The admission knows that it ends."""

    def __init__(self, account: Account) -> None:
        self.account = account
        account.admission.enter()
        try:
            client = connect(account, self.side)
        except MigrationError as error:
            account.admission.failed(error)
            raise
        self.greeting = bytes(client.welcome or b"").decode("latin-1")
        self._dialogue = Dialogue(account, self.side, client)
        self._compressible = True
        # Before the sign-in: who is refused needs to know most whose server it was.
        self._meet(frozenset())
        try:
            self.capabilities = sign_in(self._dialogue, client)
        except MigrationError as error:
            self.drop()
            account.admission.failed(error)
            raise
        except BaseException:
            self.drop()
            raise
        account.admission.signed_in()
        self._meet(self.capabilities)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _meet(self, capabilities: frozenset[str]) -> None:
        self.account.met(self.side, provider_at(self.server.host, self.greeting, capabilities).name)

    @property
    def server(self) -> Server:
        return self.account.server

    @property
    def selected(self) -> bytes:
        """The folder that is open, as it is named on the wire."""
        return self._dialogue.selected

    @property
    def uidvalidity(self) -> int:
        """Of the folder that is open."""
        return self._dialogue.uidvalidity

    def close(self) -> None:
        """Say goodbye and wait for no answer; a connection that is already gone is no failure."""
        try:
            with contextlib.suppress(MigrationError):
                self._dialogue.log_out()
                if not self._left:
                    self._left = self.account.admission.leaving(self._dialogue.hear_end)
        finally:
            if not self._left:
                self.drop()

    def drop(self) -> None:
        """Close the socket without a word: the only safe end of a connection that is out of step."""
        self._dialogue.drop()
        if not self._left:
            # The server notices in its own time.
            dropped_at = time.monotonic()
            self._left = self.account.admission.leaving(lambda: _rest(dropped_at))

    def interrupt(self) -> None:
        """Wake a thread that waits for the server; the connection is of no more use. For other threads than its own."""
        self._dialogue.interrupt()

    def failure(self, refused: Refused, stage: Stage, where: str = "") -> MigrationError:
        """The error that a refusal means."""
        return self._dialogue.failure(refused, stage, where)

    def has(self, capability: str) -> bool:
        return capability in self.capabilities

    def compress(self) -> None:
        """Deflate both directions from here on (COMPRESS, RFC 4978); to be called with no command under way."""
        if not self.can_compress:
            return
        self._compressible = False
        with contextlib.suppress(Refused):
            self._dialogue.collect(self._dialogue.send(b"COMPRESS DEFLATE"))
            self._dialogue.compress()

    @property
    def can_compress(self) -> bool:
        """Whether compress() would ask the server for something that it offers and has not been asked for."""
        return self._compressible and self.has("COMPRESS=DEFLATE")

    # Reading

    def listing(self, *, statuses: bool = False) -> Listing:
        """The namespace and every folder, each name once, asked for in one flight.

        Special use is asked for where it is offered (RFC 6154, before that XLIST), `statuses` where they come with the
        folders (RFC 5819); some servers offer what they refuse. What is subscribed has the attribute `\\subscribed`.
        """
        namespace = self._dialogue.send(b"NAMESPACE") if self.has("NAMESPACE") else None
        extended = self.has("LIST-EXTENDED")
        marked = self.has("SPECIAL-USE") and extended
        statuses = statuses and self.has("LIST-STATUS")
        if statuses:
            more = (b"SUBSCRIBED " if extended else b"") + (b"SPECIAL-USE " if marked else b"")
            everything = self._dialogue.send(b'LIST "" "*" RETURN (' + more + b"STATUS (" + self._status_items + b"))")
        else:
            everything = self._dialogue.send(b'LIST "" "*"')
        told = statuses and extended
        subscribed = None if told else self._dialogue.send(b'LSUB "" "*"')
        special = None
        if marked and not statuses:
            special = self._dialogue.send(b'LIST (SPECIAL-USE) "" "*" RETURN (SPECIAL-USE)')
        elif not marked and self.has("XLIST"):
            special = self._dialogue.send(b'XLIST "" "*"')
        personal = responses.personal_namespace(self._dialogue.unless_refused(namespace))
        try:
            listed = self._dialogue.collect(everything)[1]
        except Refused as refused:
            self._dialogue.unless_refused(subscribed)
            self._dialogue.unless_refused(special)
            if statuses:
                return self.listing()
            raise self.failure(refused, "list") from None
        for line in responses.unreadable_listings(listed):
            self.account.hear(self.side, line)
        found: dict[bytes, Folder] = {}
        for folder in responses.listed_folders(listed):
            known = found.get(folder.raw, folder)
            found[folder.raw] = replace(known, attributes=known.attributes | folder.attributes)
        for folder in responses.listed_folders(self._dialogue.unless_refused(subscribed), [b"LSUB"]):
            if folder.raw in found:
                known = found[folder.raw]
                found[folder.raw] = replace(known, attributes=known.attributes | {"\\subscribed"})
        # XLIST may name folders in the user's language: those that LIST does not know cannot be opened so.
        for folder in responses.listed_folders(self._dialogue.unless_refused(special)):
            if folder.raw in found:
                known = found[folder.raw]
                found[folder.raw] = replace(known, attributes=known.attributes | folder.attributes)
        prefix, separator = personal or ("", self._root_separator())
        folders = tuple(responses.told_apart(found.values()))
        return Listing(prefix, separator, folders, responses.statuses(listed) if statuses else None)

    def _root_separator(self) -> str:
        """The hierarchy separator, from the server without a namespace (RFC 9051 section 6.3.9)."""
        found = responses.listed_folders(self._dialogue.unless_refused(self._dialogue.send(b'LIST "" ""')))
        return found[0].separator if found else "/"

    @property
    def _status_items(self) -> bytes:
        return b"MESSAGES UIDNEXT UIDVALIDITY" + (b" HIGHESTMODSEQ" if self.has("CONDSTORE") else b"")

    def statuses(self, names: Iterable[bytes]) -> dict[bytes, FolderStatus]:
        """STATUS of many folders in flight; a folder whose STATUS is refused is absent."""
        found: dict[bytes, FolderStatus] = {}
        items = b" (" + self._status_items + b")"
        askable = [name for name in names if can_quote(name)]
        for name, tag in self._dialogue.in_flight(
            askable, lambda name: self._dialogue.send(b"STATUS " + grammar.quote(name) + items)
        ):
            for status in responses.statuses(self._dialogue.unless_refused(tag)).values():
                found[name] = status
        return found

    def _open(self, verb: bytes, raw: bytes) -> Selected:
        return self._with_uidnext(self._dialogue.opened(self._dialogue.opening(verb, raw), raw))

    def _with_uidnext(self, opened: Selected) -> Selected:
        if opened.uidnext:
            return opened
        # Servers older than UIDNEXT: the largest UID tells (RFC 3501 section 2.3.1.1).
        last = [e.uid for e in self._scan_set(b"*")] if opened.messages else []
        return replace(opened, uidnext=max(last, default=0) + 1)

    def refresh(self) -> None:
        """Let the server tell what changed in the opened folder; until then some show it as it was."""
        self._dialogue.collected(self._dialogue.send(b"NOOP"), "list", self._where)

    @property
    def _where(self) -> str:
        return grammar.decode_mailbox(self.selected)

    def scan(self, first: int = 1) -> list[Envelope]:
        """Flags, arrival date and size of every message of the opened folder from that UID up."""
        return [e for e in self._scan_set(b"%d:*" % first) if e.uid >= first]

    def scan_uids(self, uids: Iterable[int]) -> list[Envelope]:
        """The same for these UIDs; those that are gone are absent."""
        wanted = set(uids)
        found: list[Envelope] = []
        for uid_set, _ in uid_sets(wanted):
            found += [e for e in self._scan_set(uid_set) if e.uid in wanted]
        return found

    def _scan_set(self, uid_set: bytes) -> list[Envelope]:
        return self._scanned(self._dialogue.send(b"UID FETCH " + uid_set + b" " + SCAN_ITEMS))

    def _scanned(self, tag: bytes, read: Callable[[Response], Envelope | None] = responses.envelope) -> list[Envelope]:
        """The answers to a scan by ascending UID; a refusal means the folder."""
        found: dict[int, Envelope] = {}
        with self._of_the_folder():
            for envelope in self._dialogue.answers(tag, read):
                found[envelope.uid] = envelope
        return sorted(found.values(), key=lambda e: e.uid)

    def messages(self, uids: Iterable[int]) -> Iterator[Message]:
        """The messages with these UIDs, one after the other as they come in; a missing one is absent.

        A refusal is raised as Refused: only the caller can tell whether it means one message or the whole folder.
        Those that may have been cut come last, and whole.
        """
        doubtful: dict[int, int] = {}
        for uid_set, due in uid_sets(uids):
            for message in self._dialogue.answers(
                self._dialogue.send(b"UID FETCH " + uid_set + b" " + BODY_ITEMS), responses.message
            ):
                # A server that answers for a message nobody asked for, or twice, is not believed.
                if message.uid in due:
                    due.remove(message.uid)
                    if message.raw is not None and may_be_cut(message.raw):
                        # Only how long it is: there may be many of them.
                        doubtful[message.uid] = len(message.raw)
                    else:
                        yield message
        for uid, octets in doubtful.items():
            yield from self._whole(uid, octets)

    def _whole(self, uid: int, octets: int) -> Iterator[Message]:
        """A message of so many octets as RFC822, which is whole at Courier when BODY[] is not; else as BODY[] again."""
        name, uidvalidity = self.selected, self.uidvalidity
        found: list[Message] = []
        with contextlib.suppress(Refused):
            text, _ = self._dialogue.collect(self._dialogue.opening(b"EXAMINE", name))
            # Otherwise it would be marked as seen (RFC 3501 sections 6.3.2 and 6.4.5).
            if "[READ-ONLY]" in text.upper():
                asked = self._dialogue.send(b"UID FETCH %d (UID RFC822)" % uid)
                found = [m for m in self._dialogue.answers(asked, responses.message_as_rfc822) if m.uid == uid]
        if self._open(self.opens_with, name).uidvalidity != uidvalidity:
            return
        if not found or len(found[0].raw or b"") < octets:
            asked = self._dialogue.send(b"UID FETCH %d " % uid + BODY_ITEMS)
            found = [m for m in self._dialogue.answers(asked, responses.message) if m.uid == uid]
        yield from found[:1]

    def pieces(self, uid: int, start: int = 0) -> Iterator[bytes]:
        """A message of the opened folder piece by piece (RFC 9051 section 6.4.5), from an octet on, until one is short.

        FolderError where the server delivers nothing of it: it is gone, or cannot be read.
        """
        size = PIECE_BYTES
        while True:
            asked = b"UID FETCH %d (UID BODY.PEEK[]<%d.%d>)" % (uid, start, size)
            with self._of_the_folder():
                found = [
                    piece.raw or b""
                    for piece in self._dialogue.answers(self._dialogue.send(asked), responses.piece)
                    if piece.uid == uid
                ]
            if not found and not start:
                raise MessageError("source_gone", self.side, "", where=self._where)
            piece = found[0] if found else b""
            if piece:
                yield piece
            start += len(piece)
            if len(piece) < size:
                return

    def message_ids(self, uids: Iterable[int]) -> dict[int, str]:
        """Message-ID by UID, "" for a message without one. Never by SEARCH: several servers ignore it."""
        found: dict[int, str] = {}
        for uid_set, _ in uid_sets(uids):
            tag = self._dialogue.send(b"UID FETCH " + uid_set + b" (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
            with self._of_the_folder():
                found.update(self._dialogue.answers(tag, responses.message_id))
        return found

    def quota(self) -> tuple[int, int] | None:
        """Bytes used and allowed (RFC 9208), or None where the server does not tell."""
        if not self.has("QUOTA"):
            return None
        return responses.quota(self._dialogue.unless_refused(self._dialogue.send(b'GETQUOTAROOT "INBOX"')))

    @contextlib.contextmanager
    def _of_the_folder(self) -> Iterator[None]:
        """A FETCH over a whole folder, where a refusal that elsewhere means one message means the folder."""
        try:
            yield
        except Refused as refused:
            raise self._failure_of_folder(refused) from None

    def _failure_of_folder(self, refused: Refused) -> MigrationError:
        failure = self.failure(refused, "fetch", self._where)
        if isinstance(failure, MessageError):
            return failure.told_as(FolderError)
        return failure


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A source folder as EXAMINE and a scan of all of it show it."""

    opened: Selected
    scan: Sequence[Envelope]
    elsewhere: int = 0
    """Messages that have a label of another folder: they are not in the scan."""


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

    def survey(self, folders: Iterable[Folder]) -> Iterator[tuple[Folder, Surveyed | MigrationError]]:
        """EXAMINE and scan many folders in flight; a folder that fails comes with its error, the others go on."""
        unknown: list[tuple[Folder, MigrationError]] = []
        for folder, found in self._surveyed(folders):
            if isinstance(found, MigrationError) and self._may_be_unknown(found):
                unknown.append((folder, found))
            else:
                yield folder, found
        if unknown and not self._examines and any(self._selects(folder) for folder, _ in unknown):
            yield from self._surveyed(folder for folder, _ in unknown)
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

    def _surveyed(self, folders: Iterable[Folder]) -> Iterator[tuple[Folder, Surveyed | MigrationError]]:
        askable: list[Folder] = []
        for folder in folders:
            if can_quote(folder.raw):
                askable.append(folder)
            else:
                error = FolderError("folder_name_invalid", self.side, "a line end or NUL in the name")
                yield folder, error.told_as(FolderError, where=folder.name)

        def ask(folder: Folder) -> tuple[bytes, bytes]:
            opening = self._dialogue.opening(self.opens_with, folder.raw)
            items = LABELLED_SCAN_ITEMS if folder.elsewhere else SCAN_ITEMS
            return opening, self._dialogue.send(b"UID FETCH 1:* " + items)

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
            try:
                yield folder, self._unlabelled(folder, opened, scanning)
            except ConnectionLost:
                raise
            except MigrationError as error:
                yield folder, error

    def _unlabelled(self, folder: Folder, opened: Selected, scanning: bytes) -> Surveyed:
        """The messages of a folder but for those that are to be moved from elsewhere."""
        elsewhere = set[int]()

        def read(response: Response) -> Envelope | None:
            envelope = responses.envelope(response)
            if envelope and responses.labels(response) & folder.elsewhere:
                elsewhere.add(envelope.uid)
                return None
            return envelope

        scan = self._scanned(scanning, read if folder.elsewhere else responses.envelope)
        return Surveyed(opened, scan, len(elsewhere))

    def stream(self, requests: Iterable[FetchRequest | None]) -> Iterator[Fetched]:
        """Fetch from folder after folder, in the order of the requests, with the next ones already under way.

        A request that is None means that nothing more is to be asked for before the next one is through.
        """
        return fetch_each(self._dialogue, self.opens_with, requests)


class TargetConnection(Connection):
    """A connection that creates folders, appends messages, and lets flags and copies follow the source.

    It never deletes, and changes no octet of a message.
    """

    side: Side = "target"

    def __init__(self, account: Account) -> None:
        self.fence: Callable[[], None] = lambda: None
        """Raises when no more mail may go out; asked right before octets leave, as any wait may have been a sleep."""
        super().__init__(account)

    def select(self, name: str) -> Selected:
        """Open a folder for reading back. EXAMINE would show no PERMANENTFLAGS, and block APPEND on Courier."""
        return self._open(self.opens_with, grammar.encode_mailbox(name))

    def select_each(self, names: Iterable[str]) -> Iterator[tuple[str, Selected | MigrationError]]:
        """SELECT many folders in flight; one that is refused comes with its error. The last one stays open."""
        # A server either tells one limit for all folders, or has one for each and is asked for it in the same flight.
        each_has_its_own = self.has("APPENDLIMIT")

        def ask(name: str) -> tuple[bytes | None, bytes]:
            raw = grammar.encode_mailbox(name)
            asking = b"STATUS " + grammar.quote(raw) + b" (APPENDLIMIT)"
            return self._dialogue.send(asking) if each_has_its_own else None, self._dialogue.opening(b"SELECT", raw)

        for name, (asking, opening) in self._dialogue.in_flight(names, ask, at_once=COMMANDS_IN_FLIGHT // 2):
            limit = responses.append_limit(self._dialogue.unless_refused(asking)) if asking else self.append_limit
            try:
                opened = self._dialogue.opened(opening, grammar.encode_mailbox(name))
                yield name, replace(opened, append_limit=limit)
            except ConnectionLost:
                raise
            except MigrationError as error:
                yield name, error

    def read_back(self, uids: Iterable[int]) -> Iterator[Message]:
        """messages(), where a refusal is a failure of the folder: nothing may be concluded from what is missing."""
        with self._of_the_folder():
            yield from self.messages(uids)

    def look_back(self, requests: Iterable[FetchRequest]) -> Iterator[Fetched]:
        """Re-read parts of many folders, in the order of the requests, with the next ones already under way."""
        return fetch_each(self._dialogue, b"SELECT", requests)

    def create(
        self, names: Iterable[str], uses: Mapping[str, str] | None = None, subscribe: Collection[str] | None = None
    ) -> Mapping[str, FolderError]:
        """Create folders and subscribe to them; one that exists already is fine. Returns those that were refused.

        `uses` has the special use of some (RFC 6154 section 3), `subscribe` names what to subscribe to, if not all.
        """
        names = list(names)
        marks = dict(uses or {}) if self.has("CREATE-SPECIAL-USE") else {}
        wanted = list(names if subscribe is None else subscribe)
        refused: dict[str, FolderError] = {}
        stopped: MigrationError | None = None
        commands: list[tuple[bytes, str]] = []
        for name in names:
            commands.append((b"CREATE", name))
            if name in wanted:
                commands.append((b"SUBSCRIBE", name))
        commands += [(b"SUBSCRIBE", name) for name in wanted if name not in names]

        def ask(command: tuple[bytes, str]) -> bytes:
            verb, name = command
            use = marks.get(name) if verb == b"CREATE" else None
            mark = b" (USE (" + use.encode("ascii") + b"))" if use else b""
            return self._dialogue.send(verb + b" " + grammar.quote(grammar.encode_mailbox(name)) + mark)

        for (verb, name), tag in self._dialogue.in_flight(commands, ask):
            try:
                self._dialogue.collect(tag)
            except Refused as refusal:
                error = self.failure(refusal, "create", name)
                # A folder that cannot be subscribed to still holds its mail.
                if verb == b"SUBSCRIBE" or error.cause_id == "folder_exists":
                    continue
                if isinstance(error, FolderError) or error.cause_id in _OF_THE_NAME:
                    refused[name] = error.told_as(FolderError, where=name)
                else:
                    stopped = stopped or error
        if stopped:
            raise stopped
        if again := [name for name in refused if name in marks]:
            # The mark may be what is refused, not the name.
            found = self.create(again, None, [name for name in again if name in wanted])
            refused = {name: error for name, error in refused.items() if name not in again or name in found}
        return refused

    @property
    def append_limit(self) -> int | None:
        """The size of the largest message that any folder takes (RFC 7889), None where no such is told."""
        told = (name.partition("=")[2] for name in self.capabilities if name.startswith("APPENDLIMIT="))
        return next((int(number) for number in told if number.isdecimal() and len(number) < 20), None)

    @property
    def can_stream(self) -> bool:
        """Whether whole batches can be sent without waiting for anything, and their UIDs are told."""
        return self.has("MULTIAPPEND") and self.has("LITERAL+") and self.has("UIDPLUS")

    @property
    def can_move(self) -> bool:
        """Whether a copy can be moved (RFC 6851), and its new UID is told."""
        return self.has("MOVE") and self.has("UIDPLUS")

    def move(self, uids: Iterable[int], name: str) -> tuple[int, dict[int, int]]:
        """Move messages of the opened folder into another; returns UIDVALIDITY there, and new UIDs by old ones.

        0 and {} where the server does not tell. Raises Refused when a part of them may have been moved, or none.
        """
        uidvalidity, moved = 0, dict[int, int]()
        for uid_set, asked in uid_sets(uids):
            into = grammar.quote(grammar.encode_mailbox(name))
            text, untagged = self._dialogue.collect(self._dialogue.send(b"UID MOVE " + uid_set + b" " + into))
            for told in (*(response.text for response in untagged), text):
                there, copied = responses.copied_uids(told, len(asked))
                if copied:
                    uidvalidity = there
                    moved.update(copied)
        return uidvalidity, moved

    def store(self, uids: Iterable[int], flags: frozenset[str], *, add: bool) -> None:
        """Add flags to messages of the opened folder, or take them away; others stay. Raises Refused."""
        item = b"+FLAGS.SILENT " if add else b"-FLAGS.SILENT "
        for uid_set, _ in uid_sets(uids):
            self._dialogue.collect(
                self._dialogue.send(b"UID STORE " + uid_set + b" " + item + grammar.flag_list(flags))
            )

    def append(self, name: str, messages: Sequence[Outgoing], *, announced: bool = False) -> tuple[int, list[int]]:
        """Append messages in order, in one command when MULTIAPPEND (RFC 3502) is offered or there is only one.

        Returns UIDVALIDITY and the new UIDs (APPENDUID, RFC 4315), or 0 and [] when the server does not tell. Raises
        Refused when the server took none; ConnectionLost leaves open what it took.
        """
        return self.appended(self.start_append(name, messages, announced=announced), len(messages))

    def start_append(self, name: str, messages: Sequence[Outgoing], *, announced: bool = False) -> bytes:
        """Send an APPEND; the tag for `appended`. Waits only for leave to send a literal, where the server needs it or
        each is to be `announced`.
        """
        if len(messages) > 1 and not self.has("MULTIAPPEND"):
            raise ValueError("this server takes one message a command")
        tag = self._dialogue.tag()
        deadline = Deadline()
        out = bytearray(tag + b"APPEND " + grammar.quote(grammar.encode_mailbox(name)))
        for message in messages:
            out += _append_arguments(message)
            size = len(message.raw)
            deadline.allow(size)
            if not announced and self._unannounced(size):
                out += b" {%d+}\r\n" % size
            else:
                out += b" {%d}\r\n" % size
                self._write_mail(out)
                out.clear()
                self._await_continuation(tag, deadline)
            if size < 65536:
                out += _whole(message.raw)
            else:
                self._write_mail(out)
                out.clear()
                for piece in _pieces(message.raw):
                    self._write_mail(piece)
            if len(out) > 262144:
                self._write_mail(out)
                out.clear()
        self._write_mail(out + b"\r\n")
        return tag

    def appended(self, tag: bytes, count: int) -> tuple[int, list[int]]:
        """The answer to an APPEND of `count` messages, as `append` returns and raises it."""
        deadline = Deadline()
        while True:
            text = self._dialogue.finish(self._dialogue.read(deadline), tag)
            if text is not None:
                return responses.appended_uids(text, count)

    def append_each(self, name: str, messages: Iterable[Outgoing]) -> Iterator[tuple[int, list[int]] | Refused]:
        """Append messages one a command, the next one announced before the last is answered: one round trip each.

        Yields for each what `append` would return or raise. ConnectionLost, and a BAD, after which the octets of a
        message may be read as commands, leave open what became of the message and of the one after it.
        """
        head = b"APPEND " + grammar.quote(grammar.encode_mailbox(name))
        answered: bytes | None = None
        for message in messages:
            tag = self._dialogue.tag()
            size = len(message.raw)
            plus = b"+" if self._unannounced(size) else b""
            self._dialogue.write(tag + head + _append_arguments(message) + b" {%d%s}\r\n" % (size, plus))
            if answered:
                yield self._outcome(answered)
            answered = tag
            if not plus:
                deadline = Deadline()
                deadline.allow(size)
                try:
                    self._await_continuation(tag, deadline)
                except Refused as refused:
                    answered = None
                    yield refused
                    continue
            if size < 65536:
                self._write_mail(_whole(message.raw) + b"\r\n")
            else:
                for piece in (*_pieces(message.raw), b"\r\n"):
                    self._write_mail(piece)
        if answered:
            yield self._outcome(answered)

    def _write_mail(self, data: bytes | bytearray) -> None:
        self._dialogue.write(data, self.fence)

    def _outcome(self, tag: bytes) -> tuple[int, list[int]] | Refused:
        try:
            return self.appended(tag, 1)
        except Refused as refused:
            return refused

    def _unannounced(self, size: int) -> bool:
        return self.has("LITERAL+") or (size <= LITERAL_MINUS_BYTES and self.has("LITERAL-"))

    def _await_continuation(self, tag: bytes, deadline: Deadline) -> None:
        while True:
            response = self._dialogue.read(deadline)
            if response.segments[0].startswith(b"+"):
                return
            if self._dialogue.finish(response, tag) is not None:
                raise self._dialogue.lost("the server said OK before it had the message")


def _pieces(raw: bytes | Pieces) -> Iterable[bytes]:
    return (raw,) if isinstance(raw, bytes) else raw


def _whole(raw: bytes | Pieces) -> bytes:
    return raw if isinstance(raw, bytes) else b"".join(raw)


def _append_arguments(message: Outgoing) -> bytes:
    flags = b" " + grammar.flag_list(message.flags) if message.flags else b""
    return flags + (b' "' + message.internal_date.encode("ascii") + b'"' if message.internal_date else b"")
