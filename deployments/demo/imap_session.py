"""One connection of a demo server: reads commands, carries them out, and fails where the Behaviour says so.

What the commands do is in imap_access, imap_folders and imap_messages, as functions of the session and its arguments.
"""

import io
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from deployments.demo.imap_behaviour import Action, Behaviour, Fault, Received
from deployments.demo.imap_fetch import Item, fetch_answer
from deployments.demo.imap_grammar import Arguments, Literal, Malformed, Refused, decode_name, encode_name, quoted
from deployments.demo.imap_store import Account, Folder, Message

if TYPE_CHECKING:
    from deployments.demo.imap_server import ImapServer

_LONGEST_LINE = 65_536
_LONGEST_STRING = 65_536  # of a literal that is no message
_UNCONNECTED = ("CAPABILITY", "ID", "NOOP", "LOGOUT", "LOGIN", "AUTHENTICATE")
_HEAD = re.compile(rb'([^\x00-\x20\x7f-\xff(){%*"\\+]+) (?:([Uu][Ii][Dd]) )?([A-Za-z]+)')
_LITERAL = re.compile(rb"\{(\d{1,10})(\+?)\}$")
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)


class Hangup(Exception):
    """The connection ends here, on purpose."""


class _Counted(io.BufferedWriter):
    """Where the answers to a client go, as its server slips; it counts their octets as they leave."""

    def __init__(self, raw: Any, session: "Session") -> None:
        super().__init__(raw, 1 << 17)
        self._session = session
        self._server = session.server

    def write(self, octets: Any, /) -> int:
        if slip := self._server.behaviour.slip:
            octets = slip(self._session.answering, octets)
        with self._server.lock:
            self._server.octets_sent += len(octets)
        return super().write(octets)


class _Nowhere(io.RawIOBase):
    """Where the answers to a client go that is gone."""

    def writable(self) -> bool:
        return True

    def write(self, octets: Any) -> int:
        return len(octets)


@dataclass
class _Command:
    tag: str
    verb: str
    by_uid: bool
    parts: list[bytes]
    refusal: str = ""  # decided at a literal that came without asking; answered when the command is complete
    target: Folder | None = None  # where an APPEND goes
    octets: int = 0  # of the messages of an APPEND so far

    @property
    def name(self) -> str:
        return f"UID {self.verb}" if self.by_uid else self.verb

    @property
    def octets_of_text(self) -> int:
        """How long the command is without its literals, from the tag to the line end."""
        text = sum(len(part) for part in self.parts if not isinstance(part, Literal))
        return len(self.tag) + 1 + len(self.name) + text + 2

    @property
    def rest(self) -> str:
        if self.verb in ("LOGIN", "AUTHENTICATE"):
            return ""
        shown = (b"{%d}" % len(part) if isinstance(part, Literal) else part for part in self.parts)
        return b"".join(shown).strip().decode("latin-1")


@dataclass
class Selected:
    """A folder as this session has been told of it: its message numbers are places in `uids`."""

    folder: Folder
    read_only: bool
    uidvalidity: int
    uids: list[int]
    uidnext: int
    modseq: int
    told: dict[int, int] = field(default_factory=dict)  # UID -> MODSEQ of changes that an answer showed already

    @property
    def is_stale(self) -> bool:
        """Tell whether the folder was deleted or numbered anew behind the session's back."""
        return self.folder.deleted or self.folder.uidvalidity != self.uidvalidity


ALWAYS = ("new", "logged in", "selected")
BEFORE_LOGIN = ("new",)
LOGGED_IN = ("logged in", "selected")
FOLDER_OPEN = ("selected",)


class Usage(NamedTuple):
    """A command: what carries it out and returns the text of its OK, when it may come, and whose capability it is."""

    carry_out: Callable[["Session", Arguments], str]
    states: tuple[str, ...]
    capability: str = ""


class Session:
    """A client's connection, from the greeting to the end."""

    def __init__(
        self, server: "ImapServer", connection: socket.socket, commands: Mapping[str, Usage], number: int
    ) -> None:
        self.server = server
        self.number = number  # of those that the server has taken, from the first on
        self.account: Account | None = None
        self.user = ""  # who has asked to be let in
        self.token = ""  # by which it was opened
        self.ended = threading.Event()
        self.settled = threading.Event()  # nothing more is carried out, unless it is to be late
        self._dropped = threading.Event()
        self._connection = connection
        self._commands = commands
        self._in = connection.makefile("rb", buffering=1 << 17)
        self.out: io.BufferedWriter = _Counted(connection.makefile("wb", buffering=0), self)
        self.selected: Selected | None = None
        self.identified = False
        self.condstore = False
        self.idling = False
        self._errors = 0
        self._bodies = 0  # that were fetched
        self._commands_begun = 0  # since the login
        self.striking: Fault | None = None  # meets the command that is being carried out
        self._late: list[_Command] = []  # of a client that is gone, still to be carried out
        self._serving: _Command | None = None
        self._all_read = threading.Event()
        self._stored_late = threading.Event()
        self._looks_left: int | None = None

    @property
    def answering(self) -> str:
        """The command that is being answered, as in `Received.verb`; "" for none."""
        return self._serving.name if self._serving else ""

    # -- the connection

    def run(self) -> None:
        """Serve the client until it leaves; called in a thread of its own."""
        try:
            if isinstance(self._connection, ssl.SSLSocket):
                self._connection.do_handshake()
            self._greet()
            while True:
                self._serve(self._read_command())
        except (OSError, Hangup):
            pass
        except Exception as failure:  # noqa: BLE001 - kept for stop(), which raises it where a test sees it
            self.server.failures.append(failure)
        finally:
            self._close()

    def drop(self) -> None:
        """End the connection from another thread; the session notices and closes."""
        self._dropped.set()
        self._stored_late.set()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    @property
    def is_left(self) -> bool:
        """Whether the client has closed the connection; what it sent before may still be unread."""
        poll = select.poll()
        try:
            poll.register(self._connection, getattr(select, "POLLRDHUP", 0))
        except ValueError:  # closed here too
            return True
        return any(events & _GONE for _, events in poll.poll(0))

    def _close(self) -> None:
        # Before the client can see the end, which may be a BYE: another connection may come at once.
        self.leave()
        with self.server.lock:
            self.server.connections -= 1
        with suppress(OSError):
            self.out.close()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._in.close()
        self._connection.close()
        with self.server.lock:
            self.server.sessions.discard(self)
        self.settled.set()
        self.ended.set()

    def leave(self) -> None:
        """Log out: from here on the connection counts for no account."""
        self.selected = None
        with self.server.lock:
            self.account = None

    @property
    def behaviour(self) -> Behaviour:
        return self.server.behaviour

    def offers(self, capability: str) -> bool:
        return self.behaviour.offers(capability)

    def line(self, text: str) -> None:
        self.out.write(text.encode("latin-1") + b"\r\n")

    def untagged(self, text: str, *strings: bytes) -> None:
        """Write an untagged line; the strings are quoted and put behind it."""
        end = b" \r\n" if self.behaviour.trailing_blanks else b"\r\n"
        self.out.write(b"* " + b" ".join([text.encode("latin-1"), *map(quoted, strings)]) + end)

    def ask(self, text: str) -> None:
        self.line("+" if self.behaviour.bare_continuation else f"+ {text}")
        self.out.flush()

    def bye(self, text: str) -> NoReturn:
        for _ in range(self.behaviour.byes):
            self.untagged(f"BYE {text}")
        raise Hangup

    def _greet(self) -> None:
        try:
            self._meet_faults(Received("", "CONNECT", ""))
        except (Refused, Malformed) as refusal:
            self.bye(str(refusal))
        announced = self.behaviour.announced(logged_in=False)
        self.line("* OK" + (self.behaviour.greeting or f" [CAPABILITY {announced}] {self.server.name} is ready"))
        self.out.flush()

    # -- reading a command

    def read_line(self) -> bytes:
        line = self._in.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            if len(line) == _LONGEST_LINE:
                self.bye("Line too long")
            raise Hangup
        return line.removesuffix(b"\n").removesuffix(b"\r")

    def _read_command(self) -> _Command:
        line = self.read_line()
        while not (head := _HEAD.match(line)):
            self.untagged("BAD Tag and command expected")
            self.out.flush()
            line = self.read_line()
        command = _Command(head[1].decode("ascii"), head[3].decode("ascii").upper(), head[2] is not None, [])
        line = line[head.end() :]
        while announced := _LITERAL.search(line):
            command.parts.append(line[: announced.start()])
            if not self._read_literal(command, int(announced[1]), waits=not announced[2]):
                return command
            line = self.read_line()
        command.parts.append(line)
        return command

    def _read_literal(self, command: _Command, size: int, *, waits: bool) -> bool:
        """Add a literal to the command; False when it is refused while the client still waits to send it."""
        if not waits and not (self.offers("LITERAL+") or (self.offers("LITERAL-") and size <= 4096)):
            self.line(f"{command.tag} BAD Literal without asking")
            self.bye("What follows cannot be told from commands")
        if not command.refusal:
            command.refusal = self._literal_refusal(command, size)
        if waits:
            if command.refusal:
                return False
            self.ask("OK")
        elif command.refusal:
            while size > 0:
                size -= len(self._read_exactly(min(size, 1 << 20)))
        command.parts.append(Literal(b"" if command.refusal else self._read_exactly(size)))
        return True

    def _read_exactly(self, size: int) -> bytes:
        octets: bytes = self._in.read(size)
        if len(octets) < size:
            raise Hangup
        return octets

    def _literal_refusal(self, command: _Command, size: int) -> str:
        """Say why a literal is not wanted, before its octets are asked for."""
        if command.verb != "APPEND" or self.account is None or command.parts == [b" "]:
            return "[TOOBIG] String too long" if size > _LONGEST_STRING else ""
        try:
            if command.target is None:
                command.target = self.append_target(Arguments([*command.parts, b""]))
            command.octets += size
            self.check_room(command.octets, largest=size)
        except (Refused, Malformed) as refusal:
            return str(refusal)
        return ""

    # -- carrying it out

    def _serve(self, command: _Command) -> None:
        self.striking = None
        self._serving = command
        status = "OK"
        try:
            # A login begins when its account is known, which may take another line.
            if command.verb not in ("LOGIN", "AUTHENTICATE"):
                self.begin(Received(self.account.name if self.account else "", command.name, command.rest))
            text = self._carry_out(command)
        except Refused as refusal:
            status, text = "NO", str(refusal)
        except Malformed as mistake:
            status, text = "BAD", str(mistake)
        # Message numbers must stay what they are while a client may still use them (RFC 9051 section 7.5.1).
        if command.by_uid or command.verb not in ("FETCH", "STORE", "SEARCH"):
            self.report_changes()
        if self.striking and self.striking.action is Action.DROP_AFTER:
            raise Hangup
        if said := self.behaviour.says_with.get(command.verb):
            self.line(said)
        self.line(f"{command.tag} {status} {text}")
        self._errors += status != "OK"
        if self._errors == self.behaviour.errors_before_bye:
            self.bye("Connection closed. 14")
        self.out.flush()
        if command.verb == "LOGOUT":
            raise Hangup

    def begin(self, entry: Received) -> None:
        """Record a command, and let happen what is to happen before it is carried out."""
        if entry.verb in ("LOGIN", "AUTHENTICATE"):
            self.user = entry.account
            self.server.settle(before=self)
        if self.token and not self.behaviour.tokens.spend(self.token):
            self.bye(self.behaviour.token_ended)
        with self.server.lock:
            self.server.log.append(entry)
        if entry.verb == "NOOP":
            self.server.looked(self)
        if self.account and self.behaviour.commands_a_session is not None:
            self._commands_begun += 1
            if self._commands_begun > self.behaviour.commands_a_session:
                self.bye(self.behaviour.session_ended)
        if self.behaviour.before_command:
            self.behaviour.before_command(entry)
        if self.behaviour.latency:
            self._dropped.wait(self.behaviour.latency)
        self._meet_faults(entry)

    def _meet_faults(self, entry: Received) -> None:
        with self.server.lock:
            # Every fault counts, also behind one that strikes.
            met = [fault for fault in self.behaviour.faults if fault.meets(*entry)]
        if not met:
            return
        self.striking = fault = met[0]
        if fault.action is Action.NO:
            raise Refused(fault.text)
        if fault.action is Action.BAD:
            raise Malformed(fault.text)
        if fault.action is Action.BYE:
            self.bye(fault.text)
        if fault.action is Action.DROP_BEFORE:
            raise Hangup
        if fault.action is Action.STORE_LATE:
            self._lose_the_client(fault)
        if fault.action is Action.HANG:
            while self._in.readline(_LONGEST_LINE):
                pass
            raise Hangup

    def _lose_the_client(self, fault: Fault) -> None:
        """End the connection; what came over it, this command first, waits for store_late() in another thread."""
        with self.server.lock:
            self._looks_left = fault.looks
            self.server.late.append(self)
        assert self._serving
        self._late = [self._serving]
        self.out.flush()
        self.settled.set()
        self._connection.shutdown(socket.SHUT_WR)
        self.out = io.BufferedWriter(_Nowhere())
        with suppress(OSError, Hangup):
            while True:
                self._late.append(self._read_command())
        self._all_read.set()
        self._stored_late.wait()
        raise Hangup

    def seen_by_another(self) -> bool:
        """Count a look of another session; tell whether this one's commands are to be carried out now."""
        if self._looks_left is not None:
            self._looks_left -= 1
        return self._looks_left == 0

    def store_late(self) -> None:
        """Carry out what the lost client had sent; called in the thread of whoever makes it happen."""
        self._all_read.wait()
        for command in self._late:
            with suppress(Refused, Malformed):
                self._carry_out(command)
        self._stored_late.set()

    def _throttled(self) -> bool:
        with self.server.lock:
            if self.account is None or self.behaviour.throttle_next < 1:
                return False
            self.behaviour.throttle_next -= 1
            return True

    def _carry_out(self, command: _Command) -> str:
        """Carry a command out and return the text of its OK."""
        usage = self._commands.get(command.name)
        if usage is None or not (usage.capability == "" or self.offers(usage.capability)):
            raise Malformed(f"Unknown command {command.name}")
        if command.verb in self.behaviour.unknown_commands:
            raise Malformed(self.behaviour.unknown_text)
        if self.behaviour.longest_command is not None and command.octets_of_text > self.behaviour.longest_command:
            raise Malformed("Command line too long")
        if self.account and self.account.name in self.behaviour.not_connected and command.verb not in _UNCONNECTED:
            raise Malformed("User is authenticated but not connected.")
        if command.refusal:
            raise Refused(command.refusal)
        state = "selected" if self.selected else "logged in" if self.account else "new"
        if state not in usage.states:
            raise Malformed(f"{command.name} cannot be used now")
        if self.selected and self.selected.is_stale:
            self.bye("The selected mailbox is not what it was")
        if command.verb not in ("CAPABILITY", "LOGOUT") and self._throttled():
            raise Refused("[THROTTLED] Request is throttled. Suggested Backoff Time: 2000 milliseconds")
        return usage.carry_out(self, Arguments(command.parts, by_uid=command.by_uid))

    def count_body(self) -> None:
        """Another body is about to be delivered: the session may be one that ends before."""
        self._bodies += 1
        if self.behaviour.bodies_a_session is not None and self._bodies > self.behaviour.bodies_a_session:
            self.bye(self.behaviour.session_ended)

    def report_changes(self) -> None:
        """Tell what changed in the selected folder since it was last told."""
        selected = self.selected
        if selected is None or selected.is_stale or selected.folder.highest_modseq == selected.modseq:
            return
        folder = selected.folder
        with folder.account.lock:
            present = {message.uid: message for message in self.shown(folder)}
            modseq = folder.highest_modseq
        for index in reversed(range(len(selected.uids))):
            if selected.uids[index] not in present:
                del selected.uids[index]
                self.untagged(f"{index + 1} EXPUNGE")
        for number, uid in enumerate(selected.uids, start=1):
            message = present[uid]
            if message.modseq > max(selected.modseq, selected.told.get(uid, 0)):
                self.write_message(number, message, ["UID", "FLAGS"])
        arrived = [uid for uid in present if uid >= selected.uidnext]
        if arrived:
            selected.uids += arrived
            selected.uidnext = arrived[-1] + 1
            self.untagged(f"{len(selected.uids)} EXISTS")
        selected.modseq = modseq
        selected.told.clear()

    # -- what commands ask of it

    @property
    def mail(self) -> Account:
        assert self.account is not None
        return self.account

    def folder_name(self, args: Arguments) -> str:
        wire = args.astring()
        raw = [folder.name for folder in self.mail.folders if folder.raw_name == wire]
        return raw[0] if raw else decode_name(wire)

    def find(self, name: str) -> Folder | None:
        """The folder that a client means by one of its names."""
        behaviour = self.behaviour
        if behaviour.second_prefix and name != behaviour.second_prefix:
            name = name.removeprefix(behaviour.second_prefix)
        if behaviour.lists_ended and behaviour.opens_ended:
            name = name.removesuffix(self.mail.separator)
        if behaviour.made_as and behaviour.opens_as_made:
            name = behaviour.made_as(name)
        folder = self.mail.find(name)
        return folder if folder and not folder.shown_after else None

    def append_target(self, args: Arguments) -> Folder:
        args.space()
        name = self.folder_name(args)
        folder = self.find(name)
        if folder is None or not folder.selectable:
            raise Refused("[TRYCREATE] Mailbox does not exist")
        return folder

    def uidvalidity_of(self, folder: Folder) -> int:
        """What is told of it; the folder keeps its own."""
        return folder.uidvalidity + (1000 * folder.openings if self.behaviour.restless_uidvalidity else 0)

    def shown(self, folder: Folder) -> list[Message]:
        """Return the messages of a folder that lie in the receive range."""
        since = self.behaviour.hidden_before
        return [message for message in folder.messages if since is None or message.internal_date >= since]

    def labels_of(self, message: Message) -> list[str]:
        """Spell the other folders that show the same content, as X-GM-LABELS does."""
        assert self.selected
        holding = (folder for folder in self.mail.folders if any(m.raw == message.raw for m in folder.messages))
        return [
            quoted(encode_name(folder.special_use or folder.name)).decode("ascii")
            for folder in holding
            if folder is not self.selected.folder
        ]

    def check_room(self, octets: int, largest: int = 0) -> None:
        limit, quota = self.behaviour.max_message_bytes, self.behaviour.quota_of(self.mail.name)
        if limit is not None and largest > limit:
            raise Refused("[TOOBIG] Message too large")
        if quota is not None and self.mail.used_bytes + octets > quota:
            raise Refused("[OVERQUOTA] Quota exceeded (mailbox for user is full)")

    @property
    def opened(self) -> Selected:
        assert self.selected is not None
        return self.selected

    def write_message(self, number: int, message: Message, items: list[Item]) -> None:
        """Tell a change of flags, with its MODSEQ to a client that asked for those once."""
        if self.condstore and "MODSEQ" not in items:
            items = [*items, "MODSEQ"]
        self.out.writelines(fetch_answer(number, message, items))
