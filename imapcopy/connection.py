"""The one door to IMAP: opens a connection, speaks the commands a copy needs, and names what goes wrong.

imapclient connects, negotiates TLS and signs in. After that the copier speaks over the same socket itself: the
library's FETCH, LIST and APPEND copy each literal several times, rewrite bare line ends, lose a whole answer to one odd
name, never look at the status of MULTIAPPEND and cannot overlap commands. One connection serves one thread.

`SourceConnection` has no command that changes anything: the source is opened with EXAMINE and read with BODY.PEEK.
"""

import ast
import base64
import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import imapclient
from imapclient.exceptions import CapabilityError, IMAPClientError, LoginError

from imapcopy import grammar
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
from imapcopy.grammar import Token
from imapcopy.plan import Envelope
from models.uid_sets import format_uids, parse_uids

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
"""How long a server may say nothing while an answer is due."""
COMMAND_SECONDS = 600.0
"""How long one command may take besides its bytes; a server that drips or chatters for ever ends here."""
SLOWEST_BYTES_PER_SECOND = 10_000
MAX_LITERAL_BYTES = 1 << 30
MAX_UNTAGGED = 2_000_000
MAX_COLLECTED_BYTES = 64 << 20
"""How large the whole answer to a command without message content may be."""
WRITE_BYTES = 65536
"""The socket's time-out is for the whole of one write, so a large message goes out in pieces of this size."""
COMMANDS_IN_FLIGHT = 50
"""Some servers read the next command only after the last answer: keep what is under way below their buffers."""
UIDS_PER_COMMAND = 5000
SET_OCTETS = 1000
"""How long a UID set may be: Dovecot refuses command lines above 64 KB, Courier ends the session long before."""
IDENTITY = b'ID ("name" "Banjia")'
LITERAL_MINUS_BYTES = 4096
"""LITERAL- allows unannounced literals up to this size (RFC 7888)."""

_STATUS = re.compile(rb"(OK|NO|BAD)\b ?(.*)", re.IGNORECASE | re.DOTALL)
_APPENDUID = re.compile(r"\[APPENDUID (\d+) (\d+(?::\d+)?(?:,\d+(?::\d+)?)*)\]", re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r?\n[ \t]+)?(\S+)", re.IGNORECASE | re.MULTILINE)
_SYSTEM_FLAGS = {"\\seen": "\\Seen", "\\answered": "\\Answered", "\\flagged": "\\Flagged", "\\deleted": "\\Deleted"}
_SYSTEM_FLAGS["\\draft"] = "\\Draft"
_OF_THE_NAME = {"client_bug", "protocol_unsupported", "message_too_large", "unclassified"}
"""How a server's words read that chokes on the name of one folder (`BAD Invalid characters in atom`)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FolderStatus:
    """STATUS of a folder; `highestmodseq` is 0 without CONDSTORE (RFC 7162)."""

    messages: int
    uidnext: int
    uidvalidity: int
    highestmodseq: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """The folders of a mailbox, and the prefix and separator under which new ones are made."""

    prefix: str
    separator: str
    folders: tuple[Folder, ...]


@dataclass(frozen=True, slots=True)
class Selected:
    """What SELECT or EXAMINE told. `keywords` is None when any keyword may be stored."""

    uidvalidity: int
    uidnext: int
    messages: int
    keywords: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the server delivered it; `raw` is None when it delivered nothing (gone, or unreadable)."""

    uid: int
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to append; `internal_date` as in INTERNALDATE, "" leaves the date to the server."""

    raw: bytes
    flags: frozenset[str]
    internal_date: str


@dataclass(slots=True)
class Response:
    """One answer of the server: its text cut at the literals, and the literals."""

    segments: list[bytes]
    literals: list[bytes] = field(default_factory=list)

    def tokens(self) -> list[Token]:
        return grammar.parse(self.segments, self.literals)

    @property
    def text(self) -> str:
        return self.segments[0].decode("utf-8", "backslashreplace").strip()


class Connection:
    """A signed-in connection; what both sides share. Every failure comes out as a MigrationError."""

    side: Side

    def __init__(self, account: Account) -> None:
        self.account = account
        self.capabilities: frozenset[str] = frozenset()
        self.selected = b""
        self._uidvalidity = 0
        self._sent = 0
        self._client = self._connect()
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
        """Say goodbye; a connection that is already gone is no failure."""
        try:
            with contextlib.suppress(MigrationError, Refused):
                self._command(b"LOGOUT", stage="list", seconds=5)
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
        plain_first = "AUTH=PLAIN" in self.capabilities
        ways: list[Callable[[], object]] = [
            lambda: self._client.plain_login(user, password),
            lambda: self._client.login(user, password),
        ]
        if not plain_first:
            ways.reverse()
        failure: MigrationError | None = MemberError("auth_mechanism", self.side, "", where=self.server.host)
        for number, way in enumerate(ways):
            try:
                way()
                failure = None
                break
            except UnicodeEncodeError:
                # LOGIN cannot carry it; the exception's own text would show the password.
                continue
            except (LoginError, IMAPClientError, OSError) as error:
                failure = self._login_failed(error)
                # BAD means "not this mechanism", NO means "not this password": only BAD may be tried otherwise.
                if number or " BAD [" not in f" {error}":
                    break
        if failure:
            # Raised out here, because the library's exception may quote the password and would stay its context.
            raise failure
        offered = self._send(b"CAPABILITY")
        # NetEase and Coremail refuse SELECT until they have been told who we are (RFC 2971).
        told = self._send(IDENTITY) if "ID" in self.capabilities else None
        self._note_capabilities(self._unless_refused(offered))
        if told is None and "ID" in self.capabilities:
            told = self._send(IDENTITY)
        self._unless_refused(told)

    def _login_failed(self, error: Exception) -> MigrationError:
        text = _library_text(error)
        if isinstance(error, OSError):
            found = classify_exception(error, stage="login", side=self.side, host=self.server.host)
        else:
            found = classify(text, stage="login", side=self.side, host=self.server.host)
        if found in {"timeout", "connection_dropped"}:
            return ServerError(found, self.side, self._redacted(text), where=self.account.user)
        return error_of_reach(found, self.side, self._redacted(text), where=self.account.user)

    def _note_capabilities(self, responses: Iterable[Response]) -> None:
        """Take over what the server offers now; one that refuses to tell is believed in what it said before."""
        found: set[str] = set()
        for response in responses:
            words = response.text.upper().split()
            if words[:1] == ["CAPABILITY"]:
                found.update(words[1:])
        self.capabilities = frozenset(found) or self.capabilities

    def has(self, capability: str) -> bool:
        return capability in self.capabilities

    # Reading

    def listing(self) -> Listing:
        """The namespace and every folder, each name once, asked for in one flight.

        Special use is asked for where it is offered (RFC 6154); some servers refuse the question all the same.
        """
        namespace = self._send(b"NAMESPACE") if self.has("NAMESPACE") else None
        everything = self._send(b'LIST "" "*"')
        offered = self.has("SPECIAL-USE") and self.has("LIST-EXTENDED")
        special = self._send(b'LIST (SPECIAL-USE) "" "*" RETURN (SPECIAL-USE)') if offered else None
        personal = _personal_namespace(self._unless_refused(namespace))
        found: dict[bytes, Folder] = {}
        try:
            listed = self._collect(everything, stage="list")[1]
        except Refused as refused:
            raise self.failure(refused, "list") from None
        for folder in _listed_folders(listed):
            found.setdefault(folder.raw, folder)
        for folder in _listed_folders(self._unless_refused(special)):
            plain = found.get(folder.raw, folder)
            found[folder.raw] = replace(plain, attributes=plain.attributes | folder.attributes)
        prefix, separator = personal or ("", self._root_separator())
        return Listing(prefix, separator, tuple(_told_apart(found.values())))

    def _unless_refused(self, tag: bytes | None) -> list[Response]:
        """The answers to a question that a server may refuse."""
        if tag is not None:
            with contextlib.suppress(Refused):
                return self._collect(tag, stage="list")[1]
        return []

    def _root_separator(self) -> str:
        """The hierarchy separator, from the server without a namespace (RFC 9051 section 6.3.9)."""
        found = _listed_folders(self._unless_refused(self._send(b'LIST "" ""')))
        return found[0].separator if found else "/"

    def statuses(self, names: Sequence[bytes]) -> dict[bytes, FolderStatus]:
        """STATUS of many folders in one flight; a folder whose STATUS is refused is absent."""
        items = b"MESSAGES UIDNEXT UIDVALIDITY" + (b" HIGHESTMODSEQ" if self.has("CONDSTORE") else b"")
        found: dict[bytes, FolderStatus] = {}
        askable = [name for name in names if _can_quote(name)]
        for some in _chunks(askable, COMMANDS_IN_FLIGHT):
            flight = [(name, self._send(b"STATUS " + grammar.quote(name) + b" (" + items + b")")) for name in some]
            for name, tag in flight:
                try:
                    untagged = self._collect(tag, stage="list")[1]
                except Refused:
                    continue
                for response in untagged:
                    with contextlib.suppress(grammar.GrammarError):
                        tokens = response.tokens()
                        if tokens[:1] == [b"STATUS"]:
                            values = grammar.pairs(tokens[-1])
                            found[name] = FolderStatus(
                                messages=grammar.number(values.get(b"MESSAGES")),
                                uidnext=grammar.number(values.get(b"UIDNEXT")),
                                uidvalidity=grammar.number(values.get(b"UIDVALIDITY")),
                                highestmodseq=grammar.number(values.get(b"HIGHESTMODSEQ", b"0")),
                            )
        return found

    def _open(self, verb: bytes, raw: bytes) -> Selected:
        uidvalidity = uidnext = messages = 0
        keywords: frozenset[str] | None = frozenset()
        self.selected = b""
        where = grammar.decode_mailbox(raw)
        if not _can_quote(raw):
            raise FolderError("folder_name_invalid", self.side, "a line end or NUL in the name", where=where)
        for response in self._checked(verb + b" " + grammar.quote(raw), stage="select", where=where):
            text = response.text
            if match := re.match(r"(\d+) EXISTS", text, re.IGNORECASE):
                messages = int(match[1])
            elif match := re.match(r"OK \[UIDVALIDITY (\d+)", text, re.IGNORECASE):
                uidvalidity = int(match[1])
            elif match := re.match(r"OK \[UIDNEXT (\d+)", text, re.IGNORECASE):
                uidnext = int(match[1])
            elif match := re.match(r"OK \[PERMANENTFLAGS \(([^)]*)\)", text, re.IGNORECASE):
                flags = match[1].split()
                keywords = None if "\\*" in flags else frozenset(f.lower() for f in flags if not f.startswith("\\"))
        self.selected, self._uidvalidity = raw, uidvalidity
        if not uidnext:
            # Servers older than UIDNEXT: the largest UID tells (RFC 3501 section 2.3.1.1).
            last = [e.uid for e in self._scan_set(b"*")] if messages else []
            uidnext = max(last, default=0) + 1
        return Selected(uidvalidity, uidnext, messages, keywords)

    def refresh(self) -> None:
        """Let the server tell what changed in the opened folder; until then some show it as it was."""
        self._checked(b"NOOP", stage="list", where=self._where)

    @property
    def _where(self) -> str:
        return grammar.decode_mailbox(self.selected)

    def scan(self, first: int = 1) -> list[Envelope]:
        """Flags, arrival date and size of every message of the opened folder from that UID up."""
        return [e for e in self._scan_set(b"%d:*" % first) if e.uid >= first]

    def scan_uids(self, uids: Sequence[int]) -> list[Envelope]:
        """The same for these UIDs; those that are gone are absent."""
        wanted = set(uids)
        found: list[Envelope] = []
        for uid_set, _ in _uid_sets(wanted):
            found += [e for e in self._scan_set(uid_set) if e.uid in wanted]
        return found

    def _scan_set(self, uid_set: bytes) -> list[Envelope]:
        found: dict[int, Envelope] = {}
        command = b"UID FETCH " + uid_set + b" (UID FLAGS INTERNALDATE RFC822.SIZE)"
        for uid, values in self._fetch_all(command):
            # An unsolicited FETCH of a flag change has no date: it is not an answer to us.
            if b"RFC822.SIZE" not in values:
                continue
            date = values.get(b"INTERNALDATE")
            text = date.decode("latin-1") if isinstance(date, bytes) else ""
            found[uid] = Envelope(
                uid=uid,
                flags=_flags(values.get(b"FLAGS")),
                internal_date=text,
                arrived=grammar.parse_date_time(text),
                size=self._number(values[b"RFC822.SIZE"]),
            )
        return sorted(found.values(), key=lambda e: e.uid)

    def messages(self, uids: Sequence[int]) -> Iterator[Message]:
        """The messages with these UIDs, one after the other as they come in; a missing one is absent.

        A refusal is raised as Refused: only the caller can tell whether it means one message or the whole folder.
        """
        for uid_set, due in _uid_sets(uids):
            command = b"UID FETCH " + uid_set + b" (UID BODY.PEEK[])"
            for uid, values in self._fetch(command):
                # A server that answers for a message nobody asked for, or twice, is not believed.
                if uid in due and b"BODY[]" in values:
                    due.remove(uid)
                    raw = values[b"BODY[]"]
                    yield Message(uid, raw if isinstance(raw, bytes) else None)

    def message_ids(self, uids: Sequence[int]) -> dict[int, str]:
        """Message-ID by UID, "" for a message without one. Never by SEARCH: several servers ignore it."""
        found: dict[int, str] = {}
        for uid_set, _ in _uid_sets(uids):
            command = b"UID FETCH " + uid_set + b" (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])"
            for uid, values in self._fetch_all(command):
                name = next((key for key in values if key.startswith(b"BODY[")), None)
                if name is None:
                    continue
                header = values[name]
                # Some servers answer with the whole header, some with NIL where there is none.
                match = _MESSAGE_ID.search(header) if isinstance(header, bytes) else None
                found[uid] = match[1].decode("latin-1") if match else ""
        return found

    def quota(self) -> tuple[int, int] | None:
        """Bytes used and allowed (RFC 9208), or None where the server does not tell."""
        if not self.has("QUOTA"):
            return None
        with contextlib.suppress(Refused, grammar.GrammarError):
            for response in self._command(b'GETQUOTAROOT "INBOX"', stage="list")[1]:
                tokens = response.tokens()
                if tokens[:1] == [b"QUOTA"] and isinstance(tokens[-1], list):
                    items = tokens[-1]
                    for name, used, limit in zip(items[::3], items[1::3], items[2::3], strict=False):
                        if isinstance(name, bytes) and name.upper() == b"STORAGE":
                            return grammar.number(used) * 1024, grammar.number(limit) * 1024
        return None

    # Commands and answers

    def _fetch(self, command: bytes) -> Iterator[tuple[int, dict[bytes, Token]]]:
        """Every FETCH answer that names its UID."""
        tag = self._send(command)
        deadline = _Deadline()
        while True:
            response = self._read(deadline)
            if self._finish(response, tag) is not None:
                return
            if b"FETCH" not in response.segments[0][:40].upper():
                continue
            try:
                tokens = response.tokens()
                verb = tokens[1] if len(tokens) == 3 else None
                values = grammar.pairs(tokens[2]) if isinstance(verb, bytes) and verb.upper() == b"FETCH" else {}
            except grammar.GrammarError as error:
                raise self._lost(f"unreadable FETCH: {error}") from None
            if b"UID" in values:
                yield self._number(values[b"UID"]), values

    def _fetch_all(self, command: bytes) -> Iterator[tuple[int, dict[bytes, Token]]]:
        """FETCH over a whole folder, where a refusal that elsewhere means one message means the folder."""
        try:
            yield from self._fetch(command)
        except Refused as refused:
            raise self._failure_of_folder(refused) from None

    def _number(self, token: Token) -> int:
        try:
            return grammar.number(token)
        except grammar.GrammarError as error:
            raise self._lost(f"unreadable FETCH: {error}") from None

    def _checked(self, command: bytes, *, stage: Stage, where: str = "") -> list[Response]:
        """Run a command whose refusal is a failure."""
        try:
            return self._command(command, stage=stage)[1]
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

    def _command(self, command: bytes, *, stage: Stage, seconds: float = COMMAND_SECONDS) -> tuple[str, list[Response]]:
        return self._collect(self._send(command), stage=stage, seconds=seconds)

    def _collect(self, tag: bytes, *, stage: Stage, seconds: float = COMMAND_SECONDS) -> tuple[str, list[Response]]:
        """The tagged text and the untagged answers of a command; Refused on NO and BAD."""
        deadline = _Deadline(seconds)
        untagged: list[Response] = []
        collected = 0
        while True:
            response = self._read(deadline)
            text = self._finish(response, tag)
            if text is not None:
                return text, untagged
            collected += sum(map(len, response.segments)) + sum(map(len, response.literals))
            if collected > MAX_COLLECTED_BYTES:
                raise self._lost("the server's answer has no end")
            untagged.append(response)

    def _finish(self, response: Response, tag: bytes) -> str | None:
        """The text of the tagged OK, None while the command goes on; BYE and refusals raise."""
        line = response.segments[0]
        if line.startswith(tag):
            match = _STATUS.match(line[len(tag) :])
            if not match:
                raise self._lost(f"unreadable answer: {response.text}")
            status, text = match[1].decode().upper(), match[2].decode("utf-8", "backslashreplace").strip()
            if status != "OK":
                raise Refused(status, text)
            return text
        if line.startswith(b"* "):
            if line[2:5].upper() == b"BYE":
                raise self._lost(response.text)
            response.segments[0] = line[2:]
            return None
        if line.startswith(b"+"):
            return None
        raise self._lost(f"answer to a command nobody sent: {response.text}")

    def _send(self, command: bytes) -> bytes:
        """Send a whole command; returns its tag with the blank that follows."""
        self._sent += 1
        tag = b"B%d " % self._sent
        self._write(tag + command + b"\r\n")
        return tag

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            for start in range(0, len(view), WRITE_BYTES):
                self._client._imap.send(view[start : start + WRITE_BYTES])
        except OSError as error:
            raise self._lost_by(error) from None

    def _read(self, deadline: "_Deadline") -> Response:
        """Read one answer with its literals."""
        response = Response([])
        while True:
            deadline.check(self)
            line = self._read_line()
            literal = grammar.LITERAL_AT_END.search(line)
            if not literal:
                response.segments.append(line.rstrip(b"\r\n"))
                return response
            response.segments.append(line[: literal.start()])
            response.literals.append(self._read_literal(int(literal[1]), deadline))

    def _read_line(self) -> bytes:
        try:
            line: bytes = self._client._imap.readline()
        except (OSError, IMAPClientError) as error:
            raise self._lost_by(error) from None
        if not line.endswith(b"\n"):
            raise self._lost("the server closed the connection")
        return line

    def _read_literal(self, size: int, deadline: "_Deadline") -> bytes:
        if size > MAX_LITERAL_BYTES:
            raise self._lost(f"the server announced {size} bytes at once")
        deadline.allow(size)
        chunks: list[bytes] = []
        left = size
        while left:
            deadline.check(self)
            try:
                chunk: bytes = self._client._imap.read(min(left, 1 << 20))
            except (OSError, IMAPClientError) as error:
                raise self._lost_by(error) from None
            if not chunk:
                raise self._lost("the server closed the connection within a message")
            chunks.append(chunk)
            left -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

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


class SourceConnection(Connection):
    """A connection that can only read."""

    side: Side = "source"

    def examine(self, folder: Folder) -> Selected:
        """Open a folder read-only (EXAMINE): nothing that is read gets marked as seen."""
        return self._open(b"EXAMINE", folder.raw)


class TargetConnection(Connection):
    """A connection that creates folders and appends messages; it never deletes, and changes no message."""

    side: Side = "target"

    def select(self, name: str) -> Selected:
        """Open a folder for reading back. EXAMINE would show no PERMANENTFLAGS, and block APPEND on Courier."""
        return self._open(b"SELECT", grammar.encode_mailbox(name))

    def read_back(self, uids: Sequence[int]) -> Iterator[Message]:
        """messages(), where a refusal is a failure of the folder: nothing may be concluded from what is missing."""
        try:
            yield from self.messages(uids)
        except Refused as refused:
            raise self._failure_of_folder(refused) from None

    def create(self, names: Sequence[str]) -> Mapping[str, FolderError]:
        """Create and subscribe to folders; one that exists already is fine. Returns those that were refused."""
        refused: dict[str, FolderError] = {}
        stopped: MigrationError | None = None
        for some in _chunks(names, COMMANDS_IN_FLIGHT // 2):
            flight = [
                (name, verb, self._send(verb + b" " + grammar.quote(grammar.encode_mailbox(name))))
                for verb in (b"CREATE", b"SUBSCRIBE")
                for name in some
            ]
            for name, verb, tag in flight:
                try:
                    self._collect(tag, stage="create")
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

    def append(self, name: str, messages: Sequence[Outgoing]) -> list[int]:
        """Append messages in order, in one command when MULTIAPPEND (RFC 3502) is offered or there is only one.

        Returns their new UIDs (APPENDUID, RFC 4315), or [] when the server does not tell. Raises Refused when the
        server took none; ConnectionLost leaves open what it took.
        """
        if len(messages) > 1 and not self.has("MULTIAPPEND"):
            raise ValueError("this server takes one message a command")
        self._sent += 1
        tag = b"B%d " % self._sent
        deadline = _Deadline()
        out = bytearray(tag + b"APPEND " + grammar.quote(grammar.encode_mailbox(name)))
        for message in messages:
            if message.flags:
                out += b" " + grammar.flag_list(message.flags)
            if message.internal_date:
                out += b' "' + message.internal_date.encode("ascii") + b'"'
            size = len(message.raw)
            deadline.allow(size)
            if self._unannounced(size):
                out += b" {%d+}\r\n" % size
            else:
                out += b" {%d}\r\n" % size
                self._write(bytes(out))
                out.clear()
                self._await_continuation(tag, deadline)
            if size < 65536:
                out += message.raw
            else:
                self._write(bytes(out))
                out.clear()
                self._write(message.raw)
            if len(out) > 262144:
                self._write(bytes(out))
                out.clear()
        self._write(bytes(out + b"\r\n"))
        while True:
            text = self._finish(self._read(deadline), tag)
            if text is not None:
                return self._append_uids(text, len(messages))

    def _append_uids(self, text: str, count: int) -> list[int]:
        match = _APPENDUID.search(text)
        if not match:
            return []
        if int(match[1]) != self._uidvalidity:
            # Into another folder of that name than the one that is open: where it went must be looked up.
            raise self._lost(f"UIDVALIDITY changed: {text}")
        ends = [[int(uid) for uid in part.split(":")] for part in match[2].split(",")]
        # Counted before it is written out: 1:4294967295 is short to say.
        return parse_uids(match[2]) if sum(abs(run[-1] - run[0]) + 1 for run in ends) == count else []

    def _unannounced(self, size: int) -> bool:
        return self.has("LITERAL+") or (size <= LITERAL_MINUS_BYTES and self.has("LITERAL-"))

    def _await_continuation(self, tag: bytes, deadline: "_Deadline") -> None:
        while True:
            response = self._read(deadline)
            if response.segments[0].startswith(b"+"):
                return
            if self._finish(response, tag) is not None:
                raise self._lost("the server said OK before it had the message")


class _Deadline:
    """The end of one command by the wall clock; a socket's own time-out starts anew with every byte."""

    def __init__(self, seconds: float = COMMAND_SECONDS) -> None:
        self._end = time.monotonic() + seconds
        self._answers = 0

    def allow(self, size: int) -> None:
        """Give a literal of that size its time."""
        self._end += size / SLOWEST_BYTES_PER_SECOND

    def check(self, connection: Connection) -> None:
        self._answers += 1
        if time.monotonic() > self._end:
            raise connection._lost("timed out: the server took too long over one command")
        if self._answers > MAX_UNTAGGED:
            raise connection._lost("the server's answer has no end")


def sendable_flags(flags: frozenset[str], keywords: frozenset[str] | None) -> frozenset[str]:
    """The flags that the target's folder can store: system flags without \\Recent, and the keywords it allows."""
    kept = set()
    for flag in flags:
        if flag.startswith("\\"):
            if flag.lower() in _SYSTEM_FLAGS:
                kept.add(_SYSTEM_FLAGS[flag.lower()])
        elif (keywords is None or flag.lower() in keywords) and grammar.is_flag(flag.encode()):
            kept.add(flag)
    return frozenset(kept)


def _flags(token: Token) -> frozenset[str]:
    if not isinstance(token, list):
        return frozenset()
    found = (f.decode("latin-1") for f in token if isinstance(f, bytes))
    return frozenset(_SYSTEM_FLAGS.get(f.lower(), f) for f in found if f.lower() != "\\recent")


def _can_quote(raw: bytes) -> bool:
    try:
        grammar.quote(raw)
    except grammar.GrammarError:
        return False
    return True


def _personal_namespace(responses: Iterable[Response]) -> tuple[str, str] | None:
    """Prefix and separator of the first personal namespace (RFC 2342)."""
    for response in responses:
        with contextlib.suppress(grammar.GrammarError):
            tokens = response.tokens()
            personal = tokens[1] if tokens[:1] == [b"NAMESPACE"] and len(tokens) > 1 else None
            first = personal[0] if isinstance(personal, list) and personal else None
            if isinstance(first, list) and len(first) > 1 and isinstance(first[0], bytes):
                separator = first[1] if isinstance(first[1], bytes) else b""
                return grammar.decode_mailbox(first[0]), separator.decode("latin-1")
    return None


def _listed_folders(responses: Iterable[Response]) -> list[Folder]:
    """The folders of LIST answers; one that cannot be read never costs the others."""
    folders = []
    for response in responses:
        try:
            tokens = response.tokens()
        except grammar.GrammarError:
            continue
        if len(tokens) < 4 or tokens[0] not in (b"LIST", b"XLIST"):
            continue
        attributes, separator, raw = tokens[1:4]
        # An unquoted name may look like NIL; there is no other way to write the folder named so.
        raw = b"NIL" if raw is None else raw
        if isinstance(attributes, list) and isinstance(raw, bytes):
            folders.append(
                Folder(
                    raw=b"INBOX" if raw.upper() == b"INBOX" else raw,
                    name="INBOX" if raw.upper() == b"INBOX" else grammar.decode_mailbox(raw),
                    separator=separator.decode("latin-1") if isinstance(separator, bytes) else "",
                    attributes=frozenset(a.decode("latin-1").lower() for a in attributes if isinstance(a, bytes)),
                )
            )
    return folders


def _told_apart(folders: Iterable[Folder]) -> list[Folder]:
    """Two spellings on the wire may read the same; the ledger knows a folder by its name, so each gets its own."""
    found: dict[str, Folder] = {}
    for folder in folders:
        name = folder.name if folder.name not in found else folder.raw.decode("latin-1")
        found.setdefault(name, replace(folder, name=name))
    return list(found.values())


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


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


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
