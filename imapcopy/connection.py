"""The one door to IMAP: opens a connection, speaks the commands a copy needs, and names what goes wrong.

imapclient connects and negotiates TLS, and signs in where a server cannot take the password with the command. After
that the copier speaks over the same socket itself: the library rewrites bare line ends, loses a whole answer to one
odd name, never looks at the status of MULTIAPPEND and cannot overlap commands. One connection serves one thread.

A *flight* is what costs one round trip: commands sent together, whose answers are then read in their order (RFC 9051
section 5.5). `SourceConnection` has no command that changes anything: the source is opened with EXAMINE and read with
BODY.PEEK.
"""

import ast
import base64
import contextlib
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import imapclient
from imapclient.exceptions import CapabilityError, IMAPClientError, LoginError

from imapcopy import grammar, responses
from imapcopy.account import Account, Server
from imapcopy.answers import Stage, classify, classify_exception
from imapcopy.errors import (
    HOST_BUSY,
    ConnectionLost,
    FolderError,
    MemberError,
    MessageError,
    MigrationError,
    Refused,
    ServerError,
    Side,
    error_of_reach,
    redact,
)
from imapcopy.folders import Folder
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus, Message, Selected
from imapcopy.wire import Deadline, Response, Wire, WireBroken
from models.uid_sets import format_uids, parse_uids

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""How long a server may say nothing while an answer is due."""
MAX_COLLECTED_BYTES = 64 << 20
"""How large the whole answer to a command without message content may be."""
COMMANDS_IN_FLIGHT = 50
"""Some servers read the next command only after the last answer: keep what is under way below their buffers."""
FETCH_AHEAD_BYTES = 16 << 20
"""How much message content may be asked for and not yet read, besides the answer that is being read."""
UIDS_PER_COMMAND = 5000
SET_OCTETS = 1000
"""How long a UID set may be: Dovecot refuses command lines above 64 KB, Courier ends the session long before."""
IDENTITY = b'ID ("name" "Banjia")'
LITERAL_MINUS_BYTES = 4096
"""LITERAL- allows unannounced literals up to this size (RFC 7888)."""
SCAN_ITEMS = b"(UID FLAGS INTERNALDATE RFC822.SIZE)"
BODY_ITEMS = b"(UID BODY.PEEK[])"

_STATUS = re.compile(rb"(OK|NO|BAD)\b ?(.*)", re.IGNORECASE | re.DOTALL)
_APPENDUID = re.compile(r"\[APPENDUID (\d+) (\d+(?::\d+)?(?:,\d+(?::\d+)?)*)\]", re.IGNORECASE)
_COPYUID = re.compile(r"\[COPYUID (\d+) ([\d:,]+) ([\d:,]+)\]", re.IGNORECASE)
_OF_THE_NAME = {"client_bug", "protocol_unsupported", "message_too_large", "unclassified"}
"""How a server's words read that chokes on the name of one folder (`BAD Invalid characters in atom`)."""

T = TypeVar("T")
Sent = TypeVar("Sent")


@dataclass(frozen=True, slots=True)
class Listing:
    """The folders of a mailbox, and the prefix and separator under which new ones are made."""

    prefix: str
    separator: str
    folders: tuple[Folder, ...]
    statuses: Mapping[bytes, FolderStatus] | None
    """By raw name, where the server tells them with its folders (RFC 5819); None where each must be asked for."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to append; `internal_date` as in INTERNALDATE, "" leaves the date to the server."""

    raw: bytes
    flags: frozenset[str]
    internal_date: str


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What is to be fetched from one folder, named as on the wire."""

    raw: bytes
    bodies: Sequence[int]
    """UIDs whose content is wanted."""
    octets: int
    """What the bodies should weigh."""
    scan: Sequence[int] = ()
    """UIDs whose flags, date and size are wanted."""
    anew: bool = False
    """Open the folder even if it is open: some servers show a session what was stored only then."""


@dataclass(slots=True)
class Fetched:
    """What came of a request; what is missing was not delivered."""

    request: FetchRequest
    uidvalidity: int = 0
    keywords: frozenset[str] | None = None
    scan: list[Envelope] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    failure: MigrationError | None = None
    """Why the folder could not be opened."""
    refused: Refused | None = None
    """The answer to the last FETCH that was refused."""


class _Visit:
    """One opening of a folder, the FETCHes sent under it, and what of their answers is still to come."""

    def __init__(self, raw: bytes, opened: Selected | None = None) -> None:
        self.raw = raw
        self.opened = opened
        self.failure: MigrationError | None = None
        self.bodies: dict[int, Fetched] = {}
        self.scan: dict[int, Fetched] = {}

    def take(self, response: Response) -> None:
        """Give an answer to the request that waits for it: what nobody asked for, or twice, is not believed."""
        if self.failure or not self.opened:
            return
        envelope = None if response.literals else responses.envelope(response)
        if envelope:
            if envelope.uid in self.scan:
                self.scan.pop(envelope.uid).scan.append(envelope)
        elif (message := responses.message(response)) and message.uid in self.bodies:
            self.bodies.pop(message.uid).messages.append(message)

    def forget(self, fetched: Fetched) -> None:
        """Wait no more for what was not delivered: it would keep all that was, until another folder is opened."""
        for due, uids in ((self.bodies, fetched.request.bodies), (self.scan, fetched.request.scan)):
            for uid in uids:
                if due.get(uid) is fetched:
                    del due[uid]


@dataclass(slots=True)
class _Asked:
    """One request under way, and how many of its commands have not ended."""

    fetched: Fetched
    visit: _Visit
    commands: int = 0


class _Flight:
    """FETCHes of many folders under way on one connection."""

    def __init__(self, connection: "Connection", verb: bytes) -> None:
        self._connection = connection
        self._verb = verb
        self._current = _Visit(connection.selected, Selected(connection.uidvalidity, 0, 0, None))
        """The folder that is open when the next answer comes."""
        self._last = self._current
        """The folder that is open when the next command arrives."""
        self._commands: dict[bytes, tuple[_Asked, _Visit | None]] = {}
        """By tag; with the folder that it opens, if it is no FETCH."""
        self._openings = 0
        self._untagged: list[Response] = []
        self._octets = 0

    def ask(self, request: FetchRequest) -> _Asked:
        """Send what a request needs."""
        opens = request.anew or request.raw != self._last.raw
        if opens:
            self._last = _Visit(request.raw)
        asked = _Asked(Fetched(request), self._last)
        if opens:
            self._make_room()
            self._commands[self._connection._opening(self._verb, request.raw)] = asked, self._last
            self._openings += 1
            asked.commands += 1
        self._last.scan.update(dict.fromkeys(request.scan, asked.fetched))
        self._last.bodies.update(dict.fromkeys(request.bodies, asked.fetched))
        for items, uids in ((SCAN_ITEMS, request.scan), (BODY_ITEMS, request.bodies)):
            for uid_set, _ in _uid_sets(uids):
                self._make_room()
                self._commands[self._connection._send(b"UID FETCH " + uid_set + b" " + items)] = asked, None
                asked.commands += 1
        return asked

    def answered(self, asked: _Asked) -> Fetched:
        """Read until a request has all that it wants, or its commands have ended."""
        fetched, visit = asked.fetched, asked.visit
        wanted = len(fetched.request.bodies) + len(fetched.request.scan)
        deadline = Deadline()
        while asked.commands and (not wanted or len(fetched.messages) + len(fetched.scan) < wanted):
            self._read(deadline)
        visit.forget(fetched)
        fetched.failure = visit.failure
        if visit.opened:
            fetched.uidvalidity, fetched.keywords = visit.opened.uidvalidity, visit.opened.keywords
        return fetched

    def land(self) -> None:
        """Read what is still to come, so that the connection is in step."""
        deadline = Deadline()
        while self._commands:
            self._read(deadline)

    def _make_room(self) -> None:
        # One request may take many commands: scattered UIDs need many sets.
        deadline = Deadline()
        while len(self._commands) >= COMMANDS_IN_FLIGHT:
            self._read(deadline)

    def _read(self, deadline: Deadline) -> None:
        """Read one response and do with it what it calls for."""
        response = self._connection._read(deadline)
        tag = response.segments[0].split(b" ", 1)[0] + b" "
        refused = ended = None
        try:
            # No line begins with a line end: an answer to no command of ours never counts as one.
            ended = self._connection._finish(response, tag if tag in self._commands else b"\n")
        except Refused as refusal:
            refused = refusal
        if ended is None and refused is None:
            self._take(response)
            return
        asked, opens = self._commands.pop(tag)
        asked.commands -= 1
        if opens:
            self._open(opens, refused)
        elif refused:
            asked.fetched.refused = refused

    def _take(self, response: Response) -> None:
        try:
            self._current.take(response)
        except grammar.GrammarError as error:
            raise self._connection._lost(f"unreadable FETCH: {error}") from None
        if self._openings and not response.literals:
            self._untagged.append(response)
            self._octets += response.octets
            if self._octets > MAX_COLLECTED_BYTES:
                raise self._connection._lost("the server's answer has no end")

    def _open(self, visit: _Visit, refused: Refused | None) -> None:
        connection = self._connection
        self._current = visit
        if refused:
            visit.failure = connection.failure(refused, "select", grammar.decode_mailbox(visit.raw))
            connection.selected, connection.uidvalidity = b"", 0
        else:
            visit.opened = responses.selected(self._untagged)
            connection.selected, connection.uidvalidity = visit.raw, visit.opened.uidvalidity
        self._openings -= 1
        self._untagged.clear()
        self._octets = 0


class Connection:
    """A signed-in connection; what both sides share. Every failure comes out as a MigrationError."""

    side: Side

    def __init__(self, account: Account) -> None:
        self.account = account
        self.capabilities: frozenset[str] = frozenset()
        self.selected = b""
        self.uidvalidity = 0
        """Of the folder that is open."""
        self._sent = 0
        self._client = self._connect()
        self._wire = Wire(self._client.socket(), self._client._imap.file)
        try:
            self._sign_in()
        except BaseException:
            self.drop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def server(self) -> Server:
        return self.account.server

    def close(self) -> None:
        """Say goodbye and wait for no answer; a connection that is already gone is no failure."""
        try:
            with contextlib.suppress(MigrationError):
                self._send(b"LOGOUT")
        finally:
            self.drop()

    def drop(self) -> None:
        """Close the socket without a word: the only safe end of a connection that is out of step."""
        with contextlib.suppress(OSError, IMAPClientError):
            self._client.shutdown()

    def interrupt(self) -> None:
        """Wake a thread that waits for the server; the connection is of no more use. For other threads than its own."""
        # Not drop(): closing the library's file would wait for the very read that is to be ended.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._client.socket(), socket.SHUT_RDWR)

    # Connecting and signing in

    def _connect(self) -> Any:
        server = self.server
        if server.security == "plain" and not (server.is_loopback or server.plain_allowed):
            raise MemberError("clear_text_refused", self.side, "", where=server.host)
        try:
            client = imapclient.IMAPClient(
                server.host,
                port=server.port,
                ssl=server.security == "tls",
                ssl_context=_tls_context(server) if server.security == "tls" else None,
                timeout=imapclient.SocketTimeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS),
            )
        except (OSError, IMAPClientError, UnicodeError) as error:
            raise self._connect_failed(error) from None
        # The library formats the repr of every literal at its default level, even with logging off.
        client._imap.debug = 0
        client.normalise_times = False
        try:
            if server.security == "starttls":
                client.starttls(_tls_context(server))
            # Without it each small command waits 40 ms for the server's delayed ACK.
            client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, IMAPClientError) as error:
            with contextlib.suppress(OSError, IMAPClientError):
                client.shutdown()
            raise self._connect_failed(error) from None
        return client

    def _connect_failed(self, error: Exception) -> MigrationError:
        text = self._redacted(_library_text(error))
        if isinstance(error, (OSError, UnicodeError)):
            found = classify_exception(error, stage="connect", side=self.side, host=self.server.host)
        elif isinstance(error, CapabilityError):
            # STARTTLS is not offered, or somebody on the way has taken it out: never go on in clear text.
            found = "tls_protocol"
        else:
            found = classify(text, stage="connect", side=self.side, host=self.server.host)
        kind = MemberError if found in {"tls_cert", "tls_protocol", "wrong_port", "starttls_required"} else ServerError
        return kind(found, self.side, text, where=f"{self.server.host}:{self.server.port}")

    def _sign_in(self) -> None:
        user, password = self.account.user, self.account.password
        if any(c in "\r\n\0" for c in user + password):
            raise MemberError("bad_credentials", self.side, "user name or password contains a control character")
        # The library has asked when it connected, and once more after STARTTLS.
        self.capabilities = frozenset(str(name).upper() for name in self._client._imap.capabilities)
        plain = self._plain_at_once if self.has("SASL-IR") else lambda: self._client.plain_login(user, password)
        ways: list[Callable[[], object]] = [plain, lambda: self._client.login(user, password)]
        if not self.has("AUTH=PLAIN"):
            ways.reverse()
        failure: MigrationError | None = MemberError("auth_mechanism", self.side, "", where=self.server.host)
        told: frozenset[str] | None = None
        for number, way in enumerate(ways):
            try:
                told = _told_capabilities(way())
                failure = None
                break
            except UnicodeEncodeError:
                # LOGIN cannot carry it; the exception's own text would show the password.
                continue
            except Refused as refused:
                failure = self._login_failed(f"{refused.status} {refused.text}")
                if number or refused.status != "BAD":
                    break
            except ConnectionLost as lost:
                failure = self._login_failed(lost.server_text, lost.cause_id)
                break
            except (LoginError, IMAPClientError) as error:
                failure = self._login_failed(_library_text(error))
                # BAD means "not this mechanism", NO means "not this password": only BAD may be tried otherwise.
                if number or " BAD [" not in f" {error}":
                    break
            except OSError as error:
                failure = self._login_failed(
                    _library_text(error),
                    classify_exception(error, stage="login", side=self.side, host=self.server.host),
                )
                break
        if failure:
            # Raised out here, because the library's exception may quote the password and would stay its context.
            raise failure
        self._introduce(told)

    def _plain_at_once(self) -> str:
        """AUTHENTICATE PLAIN with the answer in the command (SASL-IR, RFC 4959): a round trip less."""
        answer = f"\0{self.account.user}\0{self.account.password}".encode()
        text, untagged = self._collect(self._send(b"AUTHENTICATE PLAIN " + base64.b64encode(answer)))
        # Dovecot tells its capabilities in the OK, or before it to a client that has asked already.
        told = [response.text for response in untagged if response.text.upper().startswith("CAPABILITY ")]
        return f"[{told[-1]}]" if told else text

    def _login_failed(self, text: str, found: str = "") -> MigrationError:
        text = self._redacted(text)
        told = classify(text, stage="login", side=self.side, host=self.server.host)
        # A connection that ends without a word about the login says nothing about the password.
        found = found if found and told in {"unclassified", "ambiguous_login"} else told
        if found in {"timeout", "connection_dropped"}:
            return ServerError(found, self.side, text, where=self.account.user)
        return error_of_reach(found, self.side, text, where=self.account.user)

    def _introduce(self, told: frozenset[str] | None) -> None:
        """Learn what is offered after the login, if the login did not tell, and say who we are.

        NetEase and Coremail refuse SELECT until they have been told (ID, RFC 2971).
        """
        if told:
            self.capabilities = told
            if self.has("ID"):
                self._unawaited = [self._send(IDENTITY)]
            return
        offered = self._send(b"CAPABILITY")
        introduced = self._send(IDENTITY) if self.has("ID") else None
        for response in self._unless_refused(offered):
            words = response.text.upper().split()
            if words[:1] == ["CAPABILITY"]:
                self.capabilities = frozenset(words[1:])
        if introduced is None and self.has("ID"):
            introduced = self._send(IDENTITY)
        self._unless_refused(introduced)

    def has(self, capability: str) -> bool:
        return capability in self.capabilities

    def compress(self) -> None:
        """Deflate both directions from here on (COMPRESS, RFC 4978); to be called with no command under way."""
        if not self.can_compress:
            return
        self._compressible = False
        with contextlib.suppress(Refused):
            self._collect(self._send(b"COMPRESS DEFLATE"))
            self._wire.compress()

    @property
    def can_compress(self) -> bool:
        """Whether compress() would ask the server for something that it offers and has not been asked for."""
        return self._compressible and self.has("COMPRESS=DEFLATE")

    # Reading

    def listing(self, *, statuses: bool = False) -> Listing:
        """The namespace and every folder, each name once, asked for in one flight.

        Special use is asked for where it is offered (RFC 6154), `statuses` where they come with the folders (RFC
        5819); some servers offer what they refuse.
        """
        namespace = self._send(b"NAMESPACE") if self.has("NAMESPACE") else None
        marked = self.has("SPECIAL-USE") and self.has("LIST-EXTENDED")
        special = None
        statuses = statuses and self.has("LIST-STATUS")
        if statuses:
            uses = b"SPECIAL-USE " if marked else b""
            everything = self._send(b'LIST "" "*" RETURN (' + uses + b"STATUS (" + self._status_items + b"))")
        else:
            everything = self._send(b'LIST "" "*"')
            special = self._send(b'LIST (SPECIAL-USE) "" "*" RETURN (SPECIAL-USE)') if marked else None
        personal = responses.personal_namespace(self._unless_refused(namespace))
        try:
            listed = self._collect(everything)[1]
        except Refused as refused:
            if statuses:
                return self.listing()
            self._unless_refused(special)
            raise self.failure(refused, "list") from None
        found: dict[bytes, Folder] = {}
        for folder in responses.listed_folders(listed):
            found.setdefault(folder.raw, folder)
        for folder in responses.listed_folders(self._unless_refused(special)):
            known = found.get(folder.raw, folder)
            found[folder.raw] = replace(known, attributes=known.attributes | folder.attributes)
        prefix, separator = personal or ("", self._root_separator())
        folders = tuple(responses.told_apart(found.values()))
        return Listing(prefix, separator, folders, responses.statuses(listed) if statuses else None)

    def _unless_refused(self, tag: bytes | None) -> list[Response]:
        """The answers to a question that a server may refuse."""
        if tag is not None:
            with contextlib.suppress(Refused):
                return self._collect(tag)[1]
        return []

    def _root_separator(self) -> str:
        """The hierarchy separator, from the server without a namespace (RFC 9051 section 6.3.9)."""
        found = responses.listed_folders(self._unless_refused(self._send(b'LIST "" ""')))
        return found[0].separator if found else "/"

    @property
    def _status_items(self) -> bytes:
        return b"MESSAGES UIDNEXT UIDVALIDITY" + (b" HIGHESTMODSEQ" if self.has("CONDSTORE") else b"")

    def statuses(self, names: Iterable[bytes]) -> dict[bytes, FolderStatus]:
        """STATUS of many folders in flight; a folder whose STATUS is refused is absent."""
        found: dict[bytes, FolderStatus] = {}
        items = b" (" + self._status_items + b")"
        askable = [name for name in names if _can_quote(name)]
        for name, tag in self._in_flight(askable, lambda name: self._send(b"STATUS " + grammar.quote(name) + items)):
            for status in responses.statuses(self._unless_refused(tag)).values():
                found[name] = status
        return found

    def _opening(self, verb: bytes, raw: bytes) -> bytes:
        """Send EXAMINE or SELECT; the tag."""
        if not _can_quote(raw):
            where = grammar.decode_mailbox(raw)
            raise FolderError("folder_name_invalid", self.side, "a line end or NUL in the name", where=where)
        return self._send(verb + b" " + grammar.quote(raw))

    def _opened(self, tag: bytes, raw: bytes) -> Selected:
        """The answer to `_opening`."""
        self.selected, self.uidvalidity = b"", 0
        found = responses.selected(self._collected(tag, "select", grammar.decode_mailbox(raw)))
        self.selected, self.uidvalidity = raw, found.uidvalidity
        return found

    def _open(self, verb: bytes, raw: bytes) -> Selected:
        return self._with_uidnext(self._opened(self._opening(verb, raw), raw))

    def _with_uidnext(self, opened: Selected) -> Selected:
        if opened.uidnext:
            return opened
        # Servers older than UIDNEXT: the largest UID tells (RFC 3501 section 2.3.1.1).
        last = [e.uid for e in self._scan_set(b"*")] if opened.messages else []
        return replace(opened, uidnext=max(last, default=0) + 1)

    def refresh(self) -> None:
        """Let the server tell what changed in the opened folder; until then some show it as it was."""
        self._collected(self._send(b"NOOP"), "list", self._where)

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
        for uid_set, _ in _uid_sets(wanted):
            found += [e for e in self._scan_set(uid_set) if e.uid in wanted]
        return found

    def _scan_set(self, uid_set: bytes) -> list[Envelope]:
        return self._scanned(self._send(b"UID FETCH " + uid_set + b" " + SCAN_ITEMS))

    def _scanned(self, tag: bytes) -> list[Envelope]:
        """The answers to a scan by ascending UID; a refusal means the folder."""
        found: dict[int, Envelope] = {}
        with self._of_the_folder():
            for envelope in self._answers(tag, responses.envelope):
                found[envelope.uid] = envelope
        return sorted(found.values(), key=lambda e: e.uid)

    def messages(self, uids: Iterable[int]) -> Iterator[Message]:
        """The messages with these UIDs, one after the other as they come in; a missing one is absent.

        A refusal is raised as Refused: only the caller can tell whether it means one message or the whole folder.
        """
        for uid_set, due in _uid_sets(uids):
            for message in self._answers(self._send(b"UID FETCH " + uid_set + b" " + BODY_ITEMS), responses.message):
                # A server that answers for a message nobody asked for, or twice, is not believed.
                if message.uid in due:
                    due.remove(message.uid)
                    yield message

    def _fetch_each(self, verb: bytes, requests: Iterable[FetchRequest | None]) -> Iterator[Fetched]:
        """Open folders where another one is open, and fetch, many requests under way.

        Dovecot answers a FETCH before it has ended the one before: answers are told apart by what they bring.
        """
        flight = _Flight(self, verb)
        in_flight = self._in_flight(
            requests,
            flight.ask,
            weight=lambda request: request.octets,
            limit=FETCH_AHEAD_BYTES,
            at_once=COMMANDS_IN_FLIGHT // 3,
        )
        for _, asked in in_flight:
            yield flight.answered(asked)
        flight.land()

    def message_ids(self, uids: Iterable[int]) -> dict[int, str]:
        """Message-ID by UID, "" for a message without one. Never by SEARCH: several servers ignore it."""
        found: dict[int, str] = {}
        for uid_set, _ in _uid_sets(uids):
            tag = self._send(b"UID FETCH " + uid_set + b" (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
            with self._of_the_folder():
                found.update(self._answers(tag, responses.message_id))
        return found

    def quota(self) -> tuple[int, int] | None:
        """Bytes used and allowed (RFC 9208), or None where the server does not tell."""
        if not self.has("QUOTA"):
            return None
        with contextlib.suppress(grammar.GrammarError):
            for response in self._unless_refused(self._send(b'GETQUOTAROOT "INBOX"')):
                tokens = response.tokens()
                if tokens[:1] == [b"QUOTA"] and isinstance(tokens[-1], list):
                    items = tokens[-1]
                    for name, used, limit in zip(items[::3], items[1::3], items[2::3], strict=False):
                        if isinstance(name, bytes) and name.upper() == b"STORAGE":
                            return grammar.number(used) * 1024, grammar.number(limit) * 1024
        return None

    # Commands and answers

    _compressible = True
    _unawaited: Sequence[bytes] = ()
    """Tags of commands whose answers come before those to anything sent later, and interest nobody."""

    def _in_flight(
        self,
        items: Iterable[T | None],
        send: Callable[[T], Sent],
        *,
        weight: Callable[[T], int] = lambda item: 0,
        limit: int = 0,
        at_once: int = COMMANDS_IN_FLIGHT,
    ) -> Iterator[tuple[T, Sent]]:
        """Send for several items ahead; yield each with what `send` returned when all its answers are to be read.

        Under way besides the one that is yielded are at most `at_once` others, and of weight at most `limit`. An item
        that is None means that the next one may only be sent when an answer has been read.
        """
        under_way: deque[tuple[T, Sent, int]] = deque()
        ahead = 0
        for item in items:
            if item is None:
                if under_way:
                    first, sent, weighed = under_way.popleft()
                    ahead -= weighed
                    yield first, sent
                continue
            weighs = weight(item)
            while under_way and (len(under_way) > at_once or (ahead and ahead + weighs > limit)):
                first, sent, weighed = under_way.popleft()
                ahead -= weighed
                yield first, sent
            under_way.append((item, send(item), weighs))
            ahead += weighs
        while under_way:
            first, sent, _ = under_way.popleft()
            yield first, sent

    def _answers(self, tag: bytes, read: Callable[[Response], T | None]) -> Iterator[T]:
        """What `read` makes of the untagged answers to a command, without what it makes nothing of."""
        deadline = Deadline()
        while True:
            response = self._read(deadline)
            if self._finish(response, tag) is not None:
                return
            try:
                found = read(response)
            except grammar.GrammarError as error:
                raise self._lost(f"unreadable FETCH: {error}") from None
            if found is not None:
                yield found

    @contextlib.contextmanager
    def _of_the_folder(self) -> Iterator[None]:
        """A FETCH over a whole folder, where a refusal that elsewhere means one message means the folder."""
        try:
            yield
        except Refused as refused:
            raise self._failure_of_folder(refused) from None

    def _collected(self, tag: bytes, stage: Stage, where: str = "") -> list[Response]:
        """The untagged answers of a command whose refusal is a failure."""
        try:
            return self._collect(tag)[1]
        except Refused as refused:
            raise self.failure(refused, stage, where) from None

    def failure(self, refused: Refused, stage: Stage, where: str = "") -> MigrationError:
        """The error that a refusal means."""
        found = classify(f"{refused.status} {refused.text}", stage=stage, side=self.side, host=self.server.host)
        return error_of_reach(found, self.side, self._redacted(f"{refused.status} {refused.text}"), where=where)

    def _failure_of_folder(self, refused: Refused) -> MigrationError:
        failure = self.failure(refused, "fetch", self._where)
        if isinstance(failure, MessageError):
            return FolderError(failure.cause_id, self.side, failure.server_text, where=failure.where)
        return failure

    def _collect(self, tag: bytes) -> tuple[str, list[Response]]:
        """The tagged text and the untagged answers of a command; Refused on NO and BAD."""
        deadline = Deadline()
        untagged: list[Response] = []
        collected = 0
        while True:
            response = self._read(deadline)
            text = self._finish(response, tag)
            if text is not None:
                return text, untagged
            collected += response.octets
            if collected > MAX_COLLECTED_BYTES:
                raise self._lost("the server's answer has no end")
            untagged.append(response)

    def _finish(self, response: Response, tag: bytes) -> str | None:
        """The text of the tagged OK, None while the command goes on; BYE and refusals raise."""
        line = response.segments[0]
        if line.startswith(b"* "):
            if line[2:5].upper() == b"BYE":
                response.segments[0] = line[2:]
                raise self._lost(response.text)
            response.segments[0] = line[2:]
            return None
        if line.startswith(tag):
            match = _STATUS.match(line[len(tag) :])
            if not match:
                raise self._lost(f"unreadable answer: {response.text}")
            status, text = match[1].decode().upper(), match[2].decode("utf-8", "backslashreplace").strip()
            if status != "OK":
                raise Refused(status, text)
            return text
        if line.startswith(b"+"):
            return None
        if any(line.startswith(other) for other in self._unawaited):
            response.segments[0] = b""
            return None
        raise self._lost(f"answer to a command nobody sent: {response.text}")

    def _send(self, command: bytes) -> bytes:
        """Send a whole command; returns its tag with the blank that follows."""
        tag = self._tag()
        self._write(tag + command + b"\r\n")
        return tag

    def _tag(self) -> bytes:
        self._sent += 1
        return b"B%d " % self._sent

    def _write(self, data: bytes | bytearray) -> None:
        try:
            self._wire.send(data)
        except OSError as error:
            raise self._lost_by(error) from None

    def _read(self, deadline: Deadline) -> Response:
        try:
            return self._wire.read(deadline)
        except WireBroken as broken:
            raise self._lost(str(broken)) from None
        except (OSError, ValueError) as error:
            # ValueError: another thread has closed the file.
            raise self._lost_by(error) from None

    def _lost(self, text: str) -> ConnectionLost:
        self.drop()
        found = classify(text, stage="list", side=self.side, host=self.server.host)
        if found not in HOST_BUSY | {"timeout"}:
            found = "connection_dropped"
        return ConnectionLost(found, self.side, self._redacted(text), where=self.server.host)

    def _lost_by(self, error: Exception) -> ConnectionLost:
        self.drop()
        found = classify_exception(error, stage="list", side=self.side, host=self.server.host)
        return ConnectionLost(found, self.side, self._redacted(_library_text(error)), where=self.server.host)

    def _redacted(self, text: str) -> str:
        user, password = self.account.user, self.account.password
        # Servers quote what they did not understand, also the line of a PLAIN login.
        return redact(text, [password, base64.b64encode(f"\0{user}\0{password}".encode()).decode()])


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A source folder as EXAMINE and a scan of all of it show it."""

    opened: Selected
    scan: Sequence[Envelope]


class SourceConnection(Connection):
    """A connection that can only read."""

    side: Side = "source"

    def examine(self, folder: Folder) -> Selected:
        """Open a folder read-only (EXAMINE): nothing that is read gets marked as seen."""
        return self._open(b"EXAMINE", folder.raw)

    def survey(self, folders: Iterable[Folder]) -> Iterator[tuple[Folder, Surveyed | MigrationError]]:
        """EXAMINE and scan many folders in flight; a folder that fails comes with its error, the others go on."""
        askable: list[Folder] = []
        for folder in folders:
            if _can_quote(folder.raw):
                askable.append(folder)
            else:
                error = FolderError("folder_name_invalid", self.side, "a line end or NUL in the name")
                yield folder, FolderError(error.cause_id, self.side, error.server_text, where=folder.name)

        def ask(folder: Folder) -> tuple[bytes, bytes]:
            opening = self._opening(b"EXAMINE", folder.raw)
            return opening, self._send(b"UID FETCH 1:* " + SCAN_ITEMS)

        for folder, (opening, scanning) in self._in_flight(askable, ask, at_once=COMMANDS_IN_FLIGHT // 2):
            try:
                opened = self._opened(opening, folder.raw)
            except ConnectionLost:
                raise
            except MigrationError as error:
                # Whatever is scanned now is not this folder.
                self._unless_refused(scanning)
                yield folder, error
                continue
            try:
                yield folder, Surveyed(opened, self._scanned(scanning))
            except ConnectionLost:
                raise
            except MigrationError as error:
                yield folder, error

    def stream(self, requests: Iterable[FetchRequest | None]) -> Iterator[Fetched]:
        """Fetch from folder after folder, in the order of the requests, with the next ones already under way.

        A request that is None means that nothing more is to be asked for before the next one is through.
        """
        return self._fetch_each(b"EXAMINE", requests)


class TargetConnection(Connection):
    """A connection that creates folders, appends messages, and lets flags and copies follow the source.

    It never deletes, and changes no octet of a message.
    """

    side: Side = "target"

    def select(self, name: str) -> Selected:
        """Open a folder for reading back. EXAMINE would show no PERMANENTFLAGS, and block APPEND on Courier."""
        return self._open(b"SELECT", grammar.encode_mailbox(name))

    def select_each(self, names: Iterable[str]) -> Iterator[tuple[str, Selected | MigrationError]]:
        """SELECT many folders in flight; one that is refused comes with its error. The last one stays open."""
        for name, tag in self._in_flight(names, lambda name: self._opening(b"SELECT", grammar.encode_mailbox(name))):
            try:
                yield name, self._opened(tag, grammar.encode_mailbox(name))
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
        return self._fetch_each(b"SELECT", requests)

    def create(self, names: Iterable[str]) -> Mapping[str, FolderError]:
        """Create and subscribe to folders; one that exists already is fine. Returns those that were refused."""
        refused: dict[str, FolderError] = {}
        stopped: MigrationError | None = None
        commands = [(verb, name) for name in names for verb in (b"CREATE", b"SUBSCRIBE")]

        def ask(command: tuple[bytes, str]) -> bytes:
            verb, name = command
            return self._send(verb + b" " + grammar.quote(grammar.encode_mailbox(name)))

        for (verb, name), tag in self._in_flight(commands, ask):
            try:
                self._collect(tag)
            except Refused as refusal:
                error = self.failure(refusal, "create", name)
                # A folder that cannot be subscribed to still holds its mail.
                if verb == b"SUBSCRIBE" or error.cause_id == "folder_exists":
                    continue
                if isinstance(error, FolderError) or error.cause_id in _OF_THE_NAME:
                    refused[name] = FolderError(error.cause_id, self.side, error.server_text, where=name)
                else:
                    stopped = stopped or error
        if stopped:
            raise stopped
        return refused

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
        for uid_set, _ in _uid_sets(uids):
            into = grammar.quote(grammar.encode_mailbox(name))
            text, untagged = self._collect(self._send(b"UID MOVE " + uid_set + b" " + into))
            for told in (*(response.text for response in untagged), text):
                if match := _COPYUID.search(told):
                    uidvalidity = int(match[1])
                    moved.update(zip(parse_uids(match[2]), parse_uids(match[3]), strict=False))
        return uidvalidity, moved

    def store(self, uids: Iterable[int], flags: frozenset[str], *, add: bool) -> None:
        """Add flags to messages of the opened folder, or take them away; others stay. Raises Refused."""
        item = b"+FLAGS.SILENT " if add else b"-FLAGS.SILENT "
        for uid_set, _ in _uid_sets(uids):
            self._collect(self._send(b"UID STORE " + uid_set + b" " + item + grammar.flag_list(flags)))

    def append(self, name: str, messages: Sequence[Outgoing]) -> tuple[int, list[int]]:
        """Append messages in order, in one command when MULTIAPPEND (RFC 3502) is offered or there is only one.

        Returns UIDVALIDITY and the new UIDs (APPENDUID, RFC 4315), or 0 and [] when the server does not tell. Raises
        Refused when the server took none; ConnectionLost leaves open what it took.
        """
        return self.appended(self.start_append(name, messages), len(messages))

    def start_append(self, name: str, messages: Sequence[Outgoing]) -> bytes:
        """Send an APPEND; the tag for `appended`. Waits only for leave to send a literal, where the server needs it."""
        if len(messages) > 1 and not self.has("MULTIAPPEND"):
            raise ValueError("this server takes one message a command")
        tag = self._tag()
        deadline = Deadline()
        out = bytearray(tag + b"APPEND " + grammar.quote(grammar.encode_mailbox(name)))
        for message in messages:
            out += _append_arguments(message)
            size = len(message.raw)
            deadline.allow(size)
            if self._unannounced(size):
                out += b" {%d+}\r\n" % size
            else:
                out += b" {%d}\r\n" % size
                self._write(out)
                out.clear()
                self._await_continuation(tag, deadline)
            if size < 65536:
                out += message.raw
            else:
                self._write(out)
                out.clear()
                self._write(message.raw)
            if len(out) > 262144:
                self._write(out)
                out.clear()
        self._write(out + b"\r\n")
        return tag

    def appended(self, tag: bytes, count: int) -> tuple[int, list[int]]:
        """The answer to an APPEND of `count` messages, as `append` returns and raises it."""
        deadline = Deadline()
        while True:
            text = self._finish(self._read(deadline), tag)
            if text is not None:
                return _append_uids(text, count)

    def append_each(self, name: str, messages: Iterable[Outgoing]) -> Iterator[tuple[int, list[int]] | Refused]:
        """Append messages one a command, the next one announced before the last is answered: one round trip each.

        Yields for each what `append` would return or raise. ConnectionLost, and a BAD, after which the octets of a
        message may be read as commands, leave open what became of the message and of the one after it.
        """
        head = b"APPEND " + grammar.quote(grammar.encode_mailbox(name))
        answered: bytes | None = None
        for message in messages:
            tag = self._tag()
            size = len(message.raw)
            plus = b"+" if self._unannounced(size) else b""
            self._write(tag + head + _append_arguments(message) + b" {%d%s}\r\n" % (size, plus))
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
            self._write(message.raw + b"\r\n" if size < 65536 else message.raw)
            if size >= 65536:
                self._write(b"\r\n")
        if answered:
            yield self._outcome(answered)

    def _outcome(self, tag: bytes) -> tuple[int, list[int]] | Refused:
        try:
            return self.appended(tag, 1)
        except Refused as refused:
            return refused

    def _unannounced(self, size: int) -> bool:
        return self.has("LITERAL+") or (size <= LITERAL_MINUS_BYTES and self.has("LITERAL-"))

    def _await_continuation(self, tag: bytes, deadline: Deadline) -> None:
        while True:
            response = self._read(deadline)
            if response.segments[0].startswith(b"+"):
                return
            if self._finish(response, tag) is not None:
                raise self._lost("the server said OK before it had the message")


def _append_arguments(message: Outgoing) -> bytes:
    flags = b" " + grammar.flag_list(message.flags) if message.flags else b""
    return flags + (b' "' + message.internal_date.encode("ascii") + b'"' if message.internal_date else b"")


def _append_uids(text: str, count: int) -> tuple[int, list[int]]:
    """UIDVALIDITY and UIDs of an APPENDUID (RFC 4315) for so many messages; 0 and [] where there is none that fits."""
    match = _APPENDUID.search(text)
    if not match:
        return 0, []
    ends = [[int(uid) for uid in part.split(":")] for part in match[2].split(",")]
    # Counted before it is written out: 1:4294967295 is short to say.
    fits = sum(abs(run[-1] - run[0]) + 1 for run in ends) == count
    return (int(match[1]), parse_uids(match[2])) if fits else (0, [])


def _told_capabilities(login: object) -> frozenset[str] | None:
    """The capabilities that an answer to a login tells: `OK [CAPABILITY IMAP4rev1 ...] Logged in` (RFC 9051 7.1)."""
    text = login.decode("latin-1") if isinstance(login, bytes) else str(login)
    match = re.match(r"\[CAPABILITY ([^\]]*)\]", text, re.IGNORECASE)
    return frozenset(match[1].upper().split()) if match else None


def _can_quote(raw: bytes) -> bool:
    try:
        grammar.quote(raw)
    except grammar.GrammarError:
        return False
    return True


def _uid_sets(uids: Iterable[int]) -> Iterator[tuple[bytes, set[int]]]:
    """Ascending UID sets (Tencent refuses others) short enough for a command, each with the UIDs that it names."""
    some: list[int] = []
    octets = 0
    for uid in sorted(uids):
        # A UID that only makes a run longer costs nothing; the estimate is never too low.
        octets += 0 if some and uid == some[-1] + 1 else 2 * len(str(uid)) + 2
        if some and (octets > SET_OCTETS or len(some) >= UIDS_PER_COMMAND):
            yield format_uids(some).encode(), set(some)
            some, octets = [], 2 * len(str(uid)) + 2
        some.append(uid)
    if some:
        yield format_uids(some).encode(), set(some)


def _tls_context(server: Server) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.ca_file:
        context.load_verify_locations(server.ca_file)
    return context


def _library_text(error: BaseException) -> str:
    """The server's words out of the library's wrapping: `b'[AUTHENTICATIONFAILED] ...'`, `LOGIN command error: ...`."""
    text = str(error)
    match = re.search(r"b(['\"])(.*)\1", text, re.DOTALL)
    if not match:
        return text
    try:
        found = ast.literal_eval(match[0])
    except (SyntaxError, ValueError):
        return match[2]
    return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else match[2]
