"""A signed-in connection: opening and leaving it, what folders there are, and reading what is in them.

What both sides of a copy share; none of it changes a mailbox. What one side needs besides is in `source_connection.py`
and `target_connection.py`. One connection serves one thread.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from imapcopy import census, grammar, responses
from imapcopy.account import Account, Server
from imapcopy.answers import Stage
from imapcopy.census import Counted
from imapcopy.dialogue import Dialogue, Unread, can_quote
from imapcopy.errors import MessageError, MigrationError, Refused, Side
from imapcopy.flight import BODY_ITEMS, uid_sets
from imapcopy.folders import Folder
from imapcopy.heading import HEADING_FIELDS, heading_of
from imapcopy.identity import may_be_cut
from imapcopy.namespaces import NO_NAMESPACES, Namespace, Namespaces
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus, Message, Piece, Selected
from imapcopy.scan_answers import Answers
from imapcopy.sign_in import Greeted, TokenEnded, connect, sign_in
from imapcopy.wire import Sink
from models.ledger_rows import Heading
from models.providers import Provider, provider_at

PIECE_BYTES = 4 << 20
NOTICE_SECONDS = 0.2
"""So long after a connection was reset its server may still count it, as far as can be told."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The folders of a mailbox, and the prefix and separator under which new ones are made."""

    prefix: str
    separator: str
    folders: tuple[Folder, ...]
    statuses: Mapping[bytes, FolderStatus] | None
    """By raw name, where the server tells them with its folders (RFC 5819); None where each must be asked for."""
    namespaces: Namespaces = NO_NAMESPACES

    @property
    def own(self) -> tuple[Folder, ...]:
        """The folders that are no other user's and not public."""
        return tuple(folder for folder in self.folders if not self.namespaces.owner(folder.name))


class OddPieces(Exception):
    """What came of a message in pieces may not be all of it: it has to be read whole.

    `octets` came in order before the server said that there are no more, 0 where what came was not what was asked for;
    `whole`: all of it came in place of a piece, and has been handed on.
    """

    def __init__(self, octets: int, *, whole: bool = False) -> None:
        self.octets = octets
        self.whole = whole
        super().__init__(octets, whole)


def _rest(dropped_at: float) -> None:
    """Give a server the time to notice that a connection was reset."""
    time.sleep(max(0.0, dropped_at + NOTICE_SECONDS - time.monotonic()))


class Connection:
    """A signed-in connection; what both sides share. Every failure comes out as a MigrationError."""

    side: Side
    opens_with = b"SELECT"
    """How folders are opened here."""
    _asks_ids = True
    """Whether STATUS asks for MAILBOXID where OBJECTID (RFC 8474) is offered."""
    gives_ranges = True
    """No answer has shown yet that a part of a message is not what comes when it is asked for."""

    def __init__(self, account: Account) -> None:
        if account.lacking:
            raise account.lacking
        self.account = account
        self._compressible = True
        self.capabilities: frozenset[str] = frozenset()
        offered: frozenset[str] | None = None
        while offered is None:
            account.admission.enter()
            try:
                offered = self._signed_in(connect(account, self.side))
            except MigrationError as error:
                account.admission.failed(error)
                raise
        self.capabilities = offered
        # RFC 9051 section 5.1; a server that speaks both revisions keeps to the older one until it is told otherwise.
        self._dialogue.names_in_utf8 = "IMAP4REV2" in offered and "IMAP4REV1" not in offered
        account.admission.signed_in()
        self._meet()

    def _signed_in(self, server: Greeted) -> frozenset[str] | None:
        """What the server offers after the sign-in, None where that has to be tried again with another token."""
        self.greeting = server.greeting
        self._dialogue = Dialogue(self.account, self.side, server.wire)
        self._left = False
        """The admission knows that it ends."""
        self._dialogue.identified = self._meet
        # Before the sign-in: who is refused needs to know most whose server it was.
        self._meet()
        try:
            return sign_in(self._dialogue, server)
        except TokenEnded:
            self.drop()
            return None
        except BaseException:
            self.drop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_careful(self) -> bool:
        """Nothing is sent before the last is answered."""
        return self._dialogue.is_careful

    @is_careful.setter
    def is_careful(self, careful: bool) -> None:
        self._dialogue.is_careful = careful

    def learn_from(self, earlier: Self) -> None:
        """Take over what an earlier connection has found out about the server."""
        self.opens_with, self.gives_ranges = earlier.opens_with, earlier.gives_ranges
        if earlier.grew_too_much:
            self._compressible = False

    def _meet(self) -> None:
        self.account.met(self.side, self.provider.name)

    @property
    def provider(self) -> Provider:
        """Whose server it is, as far as that is known by now."""
        said = self.greeting, self.capabilities, self._dialogue.identity
        return provider_at(self.server.host, *said, told=self.server.provider)

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

    @property
    def unread(self) -> Sequence[Unread]:
        """What could not be read in the answers to the last command or flight."""
        return self._dialogue.unread

    def be_patient(self, times: float) -> None:
        """Let a silence last so many times as long as elsewhere."""
        self._dialogue.be_patient(times)

    @property
    def grew_too_much(self) -> bool:
        """Whether it ended because of what the server had compressed."""
        return self._dialogue.grew_too_much

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
        namespaces = responses.namespaces(self._dialogue.unless_refused(namespace))
        try:
            listed = self._dialogue.collect(everything)[1]
        except Refused as refused:
            self._dialogue.unless_refused(subscribed)
            self._dialogue.unless_refused(special)
            if statuses and b"MAILBOXID" in self._status_items:
                # Offered, and refused.
                self._asks_ids = False
                return self.listing(statuses=True)
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
        first = namespaces.personal[0] if namespaces.personal else Namespace("", self._root_separator())
        folders = tuple(responses.told_apart(found.values()))
        with_folders = responses.statuses(listed) if statuses else None
        return Listing(first.prefix, first.separator, folders, with_folders, namespaces)

    def _root_separator(self) -> str:
        """The hierarchy separator, from the server without a namespace (RFC 9051 section 6.3.9)."""
        found = responses.listed_folders(self._dialogue.unless_refused(self._dialogue.send(b'LIST "" ""')))
        return found[0].separator if found else "/"

    @property
    def _status_items(self) -> bytes:
        ids = b" MAILBOXID" if self.has("OBJECTID") and self._asks_ids else b""
        return b"MESSAGES UIDNEXT UIDVALIDITY" + (b" HIGHESTMODSEQ" if self.has("CONDSTORE") else b"") + ids

    def statuses(self, names: Iterable[bytes]) -> dict[bytes, FolderStatus]:
        """STATUS of many folders in flight; a folder whose STATUS is refused is absent."""
        return {name: status for name, status in self.each_status(names) if status}

    def each_status(self, names: Iterable[bytes]) -> Iterator[tuple[bytes, FolderStatus | None]]:
        """The same one after the other as they come; None for one that is refused."""
        items = b" (" + self._status_items + b")"
        askable = [name for name in names if can_quote(name)]
        refused: list[bytes] = []
        any_told = False
        for name, tag in self._dialogue.in_flight(
            askable, lambda name: self._dialogue.send(b"STATUS " + grammar.quote(name) + items)
        ):
            found = list(responses.statuses(self._dialogue.unless_refused(tag)).values())
            any_told = any_told or bool(found)
            if found or any_told or b"MAILBOXID" not in items:
                yield name, found[-1] if found else None
            else:
                refused.append(name)
        if any_told:
            yield from ((name, None) for name in refused)
        elif refused:
            # Offered, and refused.
            self._asks_ids = False
            yield from self.each_status(refused)

    def statuses_now(self, names: Iterable[bytes]) -> dict[bytes, FolderStatus]:
        """`statuses`, with one command where the server can (RFC 5819).

        Of the folder that is open some tell what this session was told last (RFC 9051 section 6.3.11): `refresh` first.
        """
        wanted = set(names)
        if not self.has("LIST-STATUS"):
            return self.statuses(wanted)
        told = self._dialogue.send(b'LIST "" "*" RETURN (STATUS (' + self._status_items + b"))")
        found = responses.statuses(self._dialogue.unless_refused(told))
        if not found and b"MAILBOXID" in self._status_items:
            self._asks_ids = False
            return self.statuses_now(wanted)
        # What one line hides is asked for: Cyrus 3.6 tells as MAILBOXID here what its memory happens to hold.
        return {name: found[name] for name in wanted if name in found} | self.statuses(wanted - found.keys())

    def _open(self, verb: bytes, raw: bytes) -> Selected:
        return self._with_uidnext(self._dialogue.opened(self._dialogue.opening(verb, raw), raw))

    def _with_uidnext(self, opened: Selected) -> Selected:
        if opened.uidnext:
            return opened
        # Servers older than UIDNEXT: the largest UID tells (RFC 3501 section 2.3.1.1).
        last = Answers()
        if opened.messages:
            with self.of_the_folder():
                census.scan(self._dialogue, b"UID FETCH *", last)
        return replace(opened, uidnext=max(last.uids, default=0) + 1)

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

    def count(self, opened: Selected) -> Counted:
        """Every message of the folder that has just been opened, and what EXISTS counts beyond them."""
        answers = Answers(opened.messages)
        if opened.messages:
            with self.of_the_folder():
                census.scan(self._dialogue, b"UID FETCH 1:*", answers)
        if answers.adds_up(opened.messages, opened.uidnext):
            return Counted(answers)
        return census.count(self._dialogue, opened, answers)

    def last_uids(self, opened: Selected, most: int) -> dict[int, int | None]:
        """UIDs of the last messages of the folder that has just been opened, by number; None where none is told."""
        numbers = range(max(1, opened.messages - most + 1), opened.messages + 1)
        answers = Answers(opened.messages, numbered=True)
        if numbers:
            with self.of_the_folder():
                census.scan(self._dialogue, b"FETCH %d:%d" % (numbers[0], numbers[-1]), answers, b"(UID)")
        return {number: answers.numbers.get(number) for number in numbers}

    def _scan_set(self, uid_set: bytes) -> list[Envelope]:
        answers = Answers()
        with self.of_the_folder():
            census.scan(self._dialogue, b"UID FETCH " + uid_set, answers)
        census.fill(self._dialogue, answers)
        return answers.envelopes()

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

    def pieces(self, uid: int, told: int, whole: Callable[[bytes], object], start: int = 0) -> Iterator[bytes]:
        """A message of the opened folder piece by piece (RFC 9051 section 6.4.5), from an octet on, to its end.

        It ends where the size that was told says and a piece is not full, or where a piece is empty; a short piece
        alone says nothing, as servers deliver less than they were asked for. OddPieces where what comes is not what was
        asked for, or ends elsewhere than told; where all comes at once, `whole` gets it. MessageError where nothing
        comes.
        """
        size = PIECE_BYTES
        before: tuple[int, bytes] | None = None
        while True:
            found = self._piece(uid, b"<%d.%d>" % (start, size), Sink(size, whole))
            if found is None and not start:
                raise MessageError("source_gone", self.side, "", where=self._where)
            raw = (found.raw if found else None) or b""
            if found and found.octets > size:
                # Tencent Exmail: all of it, whatever was asked for.
                whole(raw)
                raise self._without_ranges(whole=not start)
            if found and found.start is None and raw and not start:
                whole(raw)
                raise self._without_ranges(whole=True)
            looks = len(raw), raw[:65536]
            if raw and found and (found.start != start or looks == before):
                raise self._without_ranges(whole=False)
            if not raw:
                if start == told:
                    return
                raise OddPieces(start)
            yield raw
            start += len(raw)
            before = looks
            if len(raw) < size and start == told:
                return
            if start > 2 * told + size:
                raise self._without_ranges(whole=False)

    def _without_ranges(self, *, whole: bool) -> OddPieces:
        self.gives_ranges = False
        return OddPieces(0, whole=whole)

    def whole(self, uid: int, sink: Callable[[bytes], object]) -> None:
        """All of a message of the opened folder at once, into `sink`; MessageError where nothing comes."""
        found = self._piece(uid, b"", Sink(-1, sink))
        if found is None:
            raise MessageError("source_gone", self.side, "", where=self._where)
        if found.raw:
            sink(found.raw)

    def _piece(self, uid: int, part: bytes, sink: Sink) -> Piece | None:
        asked = self._dialogue.send(b"UID FETCH %d (UID BODY.PEEK[]%b)" % (uid, part))
        found = list(self._dialogue.answers(asked, responses.piece, sink))
        passed_on = [piece.uid for piece in found if piece.passed_on]
        if passed_on not in ([], [uid]):
            raise self._dialogue.lost("unreadable FETCH: a message that nobody asked for, or twice")
        return next((piece for piece in found if piece.uid == uid), None)

    def message_ids(self, uids: Iterable[int]) -> dict[int, str]:
        """Message-ID by UID, "" for a message without one. Never by SEARCH: several servers ignore it."""
        found: dict[int, str] = {}
        for uid_set, _ in uid_sets(uids):
            tag = self._dialogue.send(b"UID FETCH " + uid_set + b" (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
            with self.of_the_folder():
                found.update(self._dialogue.answers(tag, responses.message_id))
        return found

    def headings(self, uids: Iterable[int]) -> dict[int, Heading]:
        """Subject and sender by UID. For messages that need somebody's eye alone: a copy needs neither."""
        found: dict[int, Heading] = {}
        for uid_set, _ in uid_sets(uids):
            tag = self._dialogue.send(
                b"UID FETCH " + uid_set + b" (UID BODY.PEEK[HEADER.FIELDS (%b)])" % HEADING_FIELDS
            )
            with self.of_the_folder():
                for uid, fields in self._dialogue.answers(tag, responses.header_fields):
                    found[uid] = heading_of(fields)
        return found

    def quota(self) -> tuple[int, int] | None:
        """Bytes used and allowed (RFC 9208), or None where the server does not tell."""
        if not self.has("QUOTA"):
            return None
        return responses.quota(self._dialogue.unless_refused(self._dialogue.send(b'GETQUOTAROOT "INBOX"')))

    @contextlib.contextmanager
    def of_the_folder(self) -> Iterator[None]:
        """A FETCH over a whole folder, where a refusal that elsewhere means one message means the folder."""
        try:
            yield
        except Refused as refused:
            raise census.failure_of_folder(self._dialogue, refused) from None
