"""The connection to the target: it creates folders, appends messages, and lets flags and copies follow the source.

It has no command that deletes, and changes no octet of a message.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from imapcopy import grammar, responses
from imapcopy.account import Account
from imapcopy.connection import Connection
from imapcopy.dialogue import COMMANDS_IN_FLIGHT
from imapcopy.errors import ConnectionLost, FolderError, MigrationError, Refused, Side
from imapcopy.flight import Fetched, FetchRequest, fetch_each, uid_sets
from imapcopy.numbering import Looks, Numbering, keep_their_uids
from imapcopy.responses import Message, Selected

LITERAL_MINUS_BYTES = 4096
"""LITERAL- allows unannounced literals up to this size (RFC 7888)."""

_OF_THE_NAME = {"client_bug", "protocol_unsupported", "message_too_large", "unclassified"}
"""How a server's words read that chokes on the name of one folder (`BAD Invalid characters in atom`)."""


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


class TargetConnection(Connection):
    """A connection that also creates and appends."""

    side: Side = "target"

    def __init__(self, account: Account) -> None:
        self.numbering = Numbering()
        self.fence: Callable[[], None] = lambda: None
        """Raises when no more mail may go out; asked right before octets leave, as any wait may have been a sleep."""
        super().__init__(account)

    def select(self, name: str) -> Selected:
        """Open a folder for reading back. EXAMINE would show no PERMANENTFLAGS, and block APPEND on Courier."""
        raw = grammar.encode_mailbox(name)
        opened = self._open(self.opens_with, raw)
        if self.numbering.is_another(raw, opened.uidvalidity):
            opened = self._opened_again(raw, opened)
        kept = replace(opened, uidvalidity=self.numbering.of(raw, opened.uidvalidity))
        self._dialogue.uidvalidity = kept.uidvalidity
        return kept

    def _opened_again(self, raw: bytes, opened: Selected) -> Selected:
        """Find out what a new UIDVALIDITY means: other UIDs, or nothing, where each opening brings another one."""
        again = self._open(self.opens_with, raw)
        if again.uidvalidity != opened.uidvalidity:
            before = self._looks(again)
            again = self._open(self.opens_with, raw)
            if keep_their_uids(before, self._looks(again)):
                self.numbering.note_restless(raw, before)
                name = grammar.decode_mailbox(raw)
                self.account.hear(
                    self.side, f"{name}: UIDVALIDITY 每次打开都变 · UIDVALIDITY changes with every SELECT"
                )
                return again
        self.numbering.numbered_anew(raw, again.uidvalidity)
        return again

    def _looks(self, opened: Selected) -> Looks:
        return {e.uid: (e.size, e.arrived) for e in self.scan()} if opened.messages else {}

    def select_each(self, names: Iterable[str]) -> Iterator[tuple[str, Selected | MigrationError]]:
        """SELECT many folders in flight; one that is refused comes with its error. The last one stays open."""
        # A server either tells one limit for all folders, or has one for each and is asked for it in the same flight.
        each_has_its_own = self.has("APPENDLIMIT")

        def ask(name: str) -> tuple[bytes | None, bytes]:
            raw = grammar.encode_mailbox(name)
            asking = b"STATUS " + grammar.quote(raw) + b" (APPENDLIMIT)"
            return self._dialogue.send(asking) if each_has_its_own else None, self._dialogue.opening(b"SELECT", raw)

        others: list[tuple[str, int | None]] = []
        for name, (asking, opening) in self._dialogue.in_flight(names, ask, at_once=COMMANDS_IN_FLIGHT // 2):
            limit = responses.append_limit(self._dialogue.unless_refused(asking)) if asking else self.append_limit
            try:
                raw = grammar.encode_mailbox(name)
                opened = self._dialogue.opened(opening, raw)
                if self.numbering.is_another(raw, opened.uidvalidity) or self.numbering.is_restless(raw):
                    others.append((name, limit))
                else:
                    yield name, replace(opened, append_limit=limit)
            except ConnectionLost:
                raise
            except MigrationError as error:
                yield name, error
        # Nothing can be asked about them while other folders are being opened.
        for name, limit in others:
            try:
                yield name, replace(self.select(name), append_limit=limit)
            except ConnectionLost:
                raise
            except MigrationError as error:
                yield name, error

    def read_back(self, uids: Iterable[int]) -> Iterator[Message]:
        """messages(), where a refusal is a failure of the folder: nothing may be concluded from what is missing."""
        with self.of_the_folder():
            yield from self.messages(uids)

    def look_back(self, requests: Iterable[FetchRequest]) -> Iterator[Fetched]:
        """Re-read parts of many folders, in the order of the requests, with the next ones already under way.

        Where the connection breaks, what had come by then comes before the failure.
        """
        for fetched in fetch_each(self._dialogue, b"SELECT", requests, parts=True):
            fetched.uidvalidity = self.numbering.of(fetched.request.raw, fetched.uidvalidity)
            yield fetched

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
        self.account.admission.may_write(sum(len(message.raw) for message in messages))
        tag = self._dialogue.tag()
        out = bytearray(tag + b"APPEND " + grammar.quote(self._dialogue.spelled(grammar.encode_mailbox(name))))
        for message in messages:
            out += _append_arguments(message)
            size = len(message.raw)
            if not announced and self._unannounced(size):
                out += b" {%d+}\r\n" % size
            else:
                out += b" {%d}\r\n" % size
                self._write_mail(out)
                out.clear()
                self._await_continuation(tag)
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
        deadline = self._dialogue.deadline()
        while True:
            try:
                text = self._dialogue.finish(self._dialogue.read(deadline), tag)
            except Refused as refused:
                if refused.status in ("NO", "BAD"):
                    raise
                # No words of IMAP: nobody knows what it has stored.
                raise self._dialogue.lost(f"{refused.status} {refused.text}") from None
            if text is not None:
                return responses.appended_uids(text, count)

    def append_each(self, name: str, messages: Iterable[Outgoing]) -> Iterator[tuple[int, list[int]] | Refused]:
        """Append messages one a command, the next one announced before the last is answered: one round trip each.

        Yields for each what `append` would return or raise. ConnectionLost, and a BAD, after which the octets of a
        message may be read as commands, leave open what became of the message and of the one after it.
        """
        head = b"APPEND " + grammar.quote(self._dialogue.spelled(grammar.encode_mailbox(name)))
        answered: bytes | None = None
        for message in messages:
            size = len(message.raw)
            self.account.admission.may_write(size)
            tag = self._dialogue.tag()
            plus = b"+" if self._unannounced(size) else b""
            self._dialogue.write(tag + head + _append_arguments(message) + b" {%d%s}\r\n" % (size, plus))
            if answered:
                yield self._outcome(answered)
            answered = tag
            if not plus:
                try:
                    self._await_continuation(tag)
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

    def _await_continuation(self, tag: bytes) -> None:
        deadline = self._dialogue.deadline()
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
    flags = _flags_argument(message.flags) if message.flags else b""
    return flags + (b' "' + message.internal_date.encode("ascii") + b'"' if message.internal_date else b"")


@lru_cache(maxsize=256)
def _flags_argument(flags: frozenset[str]) -> bytes:
    # A mailbox has few sets of flags and many messages.
    return b" " + grammar.flag_list(flags)
