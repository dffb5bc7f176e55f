"""Commands and answers on one signed-in wire: whose answer is whose, what is refused, what is lost.

A *flight* is what costs one round trip: commands sent together, whose answers are then read in their order (RFC 9051
section 5.5). Every failure comes out as a MigrationError, but for Refused, which only the caller can judge.
"""

import contextlib
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from imapcopy import grammar, responses
from imapcopy.account import Account, Token
from imapcopy.answers import Stage, Verdict, judge, judge_exception
from imapcopy.errors import (
    HOST_BUSY,
    ConnectionLost,
    FolderError,
    MemberError,
    MigrationError,
    Refused,
    Side,
    UnreadableAnswer,
    error_of_reach,
)
from imapcopy.limits import KEYWORDS_WEIGH, Limits
from imapcopy.limits import weight as weight_of
from imapcopy.responses import Selected
from imapcopy.wire import Deadline, Response, Sink, Unreadable, Wire, WireBroken
from models import steps
from models.server_words import KnownBy

FAREWELL_SECONDS = 1.0
"""How long a server may take to close after the goodbye, where somebody waits for it."""
COMMANDS_IN_FLIGHT = 50
"""Some servers read the next command only after the last answer: keep what is under way below their buffers."""

# struct linger: whether and for how long the end of a socket waits for what was written; 0 s resets the connection.
THROW_AWAY = struct.pack("ii", 1, 0)
_SEND_REST = struct.pack("ii", 0, 0)
STRAY_LINES = 100
"""So many lines that are no answers may stand among those to one command."""
_STATUS = re.compile(rb"([A-Za-z][A-Za-z-]{0,19})(?:[ \t]+(.*)|)\Z", re.DOTALL)
_OUR_TAG = re.compile(rb"B\d+ ", re.IGNORECASE)

T = TypeVar("T")
Sent = TypeVar("Sent")


class Unread(NamedTuple):
    """A line that cannot be read, among answers that can; `sequence` is the number of the message that it is about."""

    line: str
    sequence: int | None


class Dialogue:
    """What is said on one connection."""

    def __init__(self, account: Account, side: Side, wire: Wire) -> None:
        self.account = account
        self.side = side
        self.selected = b""
        """The folder that is open, and its UIDVALIDITY."""
        self.uidvalidity = 0
        self.mechanism = ""
        """By which it was signed in."""
        self.identity = ""
        """What the server says of itself when it is told who we are (ID, RFC 2971)."""
        self.identified: Callable[[], object] = lambda: None
        """Called when it has said so: with the answer to a later command, where nobody waited for it."""
        self.sent = 0
        self.left_behind: Callable[[Response], object] = nobody_waits
        """Called with what a server had answered before it took no more; a MigrationError ends that."""
        self.is_careful = False
        """Nothing is sent before the last is answered."""
        self.token: Token | None = None
        """What was signed in with, if not a password."""
        self._wire = wire
        self.names_in_utf8 = False
        """It knows folder names as they are, and not in modified UTF-7, which is what all others here are in."""
        self.unread: list[Unread] = []
        """What could not be read in the answers to the last command or flight."""
        self._unawaited: Sequence[bytes] = ()

    @property
    def limits(self) -> Limits:
        return self._wire.limits

    def deadline(self) -> Deadline:
        """For an answer that is read from now on."""
        return Deadline(self._wire.limits)

    def be_patient(self, times: float) -> None:
        """Let a silence last so many times as long as elsewhere."""
        self._wire.be_patient(times * self._wire.limits.silence_seconds)

    @property
    def grew_too_much(self) -> bool:
        """Whether the connection ended because of what the server had compressed."""
        return self._wire.grew_too_much

    def drop(self) -> None:
        """Close the socket without a word: the only safe end of a connection that is out of step."""
        self._wire.close()

    def interrupt(self) -> None:
        """Wake a thread that waits for the server; the connection is of no more use. For other threads than its own."""
        # Of a TLS socket's own shutdown the reading thread would hear nothing.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._wire.socket, socket.SHUT_RDWR)

    def log_out(self) -> None:
        """Say goodbye; what was written before still goes out. Nothing to a server that is to be left alone."""
        with contextlib.suppress(OSError):
            self._wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _SEND_REST)
        self.send(b"LOGOUT")

    def hear_end(self, seconds: float = FAREWELL_SECONDS) -> None:
        """Wait until the server has closed, for so long at most, and close."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            connection = self._wire.socket
            while (left := deadline - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(1 << 16):
                    break
        self.drop()

    def compress(self) -> None:
        """From now on both directions are deflated; to be called with no command under way."""
        self._wire.compress()

    # Commands

    def send(self, command: bytes) -> bytes:
        """Send a whole command; returns its tag with the blank that follows."""
        tag = self.tag()
        self.write(tag + self.spelled(command) + b"\r\n")
        return tag

    def spelled(self, command: bytes) -> bytes:
        """A command, or a folder's name, with names as the server writes them."""
        return grammar.decode_mailbox(command).encode() if self.names_in_utf8 and b"&" in command else command

    def send_unawaited(self, command: bytes) -> None:
        """Send a command whose answer comes before those to anything sent later, and interests nobody."""
        self._unawaited = [self.send(command)]

    def tag(self) -> bytes:
        """The tag of the next command, with the blank that follows; ConnectionLost when there is to be none now."""
        self.account.admission.check()
        self.sent += 1
        return b"B%d " % self.sent

    def write(self, data: bytes | bytearray, fence: Callable[[], object] = lambda: None) -> None:
        """Send octets; `fence` may forbid it until the last moment, and is asked again after each wait for room."""
        try:
            self._wire.send(data, fence)
        except OSError as error:
            goodbye = None if isinstance(error, TimeoutError) else self._last_words()
            raise self.lost(goodbye) if goodbye else self.lost_by(error) from None
        steps.passed(steps.WRITTEN[self.side])

    def _last_words(self) -> str | None:
        """The BYE of a server that takes no more: it may say that it wants to be left alone."""
        with contextlib.suppress(WireBroken, OSError, ValueError, MigrationError):
            self._wire.socket.settimeout(FAREWELL_SECONDS)
            deadline = self.deadline()
            while True:
                response = self._wire.read(deadline)
                if response.segments[0][:5].upper() == b"* BYE":
                    return response.text[2:]
                self.left_behind(response)
        return None

    def in_flight(
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
        at_once = 0 if self.is_careful else at_once
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

    # Answers

    def read(self, deadline: Deadline, sink: Sink | None = None) -> Response:
        try:
            response = self._wire.read(deadline, sink)
        except Unreadable as broken:
            raise self.unreadable(str(broken)) from None
        except WireBroken as broken:
            raise self.lost(str(broken)) from None
        except (OSError, ValueError) as error:
            # ValueError: another thread has closed the socket.
            raise self.lost_by(error) from None
        steps.passed(steps.READ[self.side])
        return response

    def finish(self, response: Response, tag: bytes, *, skip_stray: bool = False) -> str | None:
        """The text of the tagged OK, None while the command goes on; BYE and refusals raise.

        A tagged status that IMAP does not know is a refusal, too. With `skip_stray` a line that is no answer at all is
        only noted: where no mail is on the way, nobody's words can be taken for an answer by that.
        """
        line = response.segments[0]
        if line.startswith(b"* "):
            response.segments[0] = line = line[2:].lstrip(b" ")
            if line[:1].isdigit():
                # Of a message, as by far the most.
                return None
            word = line[:3].upper()
            if word == b"BYE":
                raise self.lost(response.text)
            if word == b"ID " and (told := responses.identity(response)):
                self.identity = told
                self.identified()
            if responses.is_notice(response):
                self.account.hear(self.side, response.text)
            return None
        if line.startswith(tag) or line[: len(tag)].upper() == tag:
            match = _STATUS.match(line[len(tag) :].lstrip(b" "))
            if not match:
                raise self.unreadable(response.text)
            status, text = match[1].decode().upper(), (match[2] or b"").decode("utf-8", "backslashreplace").strip()
            if status != "OK":
                if self.token and self._judged(text).cause == "token_expired":
                    # Nothing more is carried out over this connection; the next one is opened with another token.
                    raise self.lost(text)
                raise Refused(status, text)
            self.hear_alert(f"{status} {text}")
            return text
        if line.startswith(b"+"):
            return None
        if any(line[: len(other)].upper() == other for other in self._unawaited):
            response.segments[0] = b""
            return None
        if skip_stray and not _OUR_TAG.match(line) and len(self.unread) < STRAY_LINES:
            self.note_unread(response)
            response.segments[0] = b""
            return None
        raise self.unreadable(response.text)

    def note_unread(self, response: Response) -> None:
        """Keep a line that cannot be read; what comes behind it can."""
        self.unread.append(Unread(self.account.redacted(response.text), responses.number_of(response)))
        if len(self.unread) > self.limits.answers // 100:
            raise self.unreadable(response.text)

    def hear_alert(self, text: str) -> None:
        """Tell what came with ALERT, which people must be shown (RFC 9051 section 7.1)."""
        if "[ALERT]" in text.upper():
            self.account.hear(self.side, text)

    def collect(self, tag: bytes) -> tuple[str, list[Response]]:
        """The tagged text and the untagged answers of a command; Refused on NO and BAD."""
        deadline = self.deadline()
        untagged: list[Response] = []
        weight = folders = 0
        self.unread.clear()
        while True:
            response = self.read(deadline)
            text = self.finish(response, tag, skip_stray=True)
            if text is not None:
                return text, untagged
            weight += response.weight
            if weight > self.limits.held_octets:
                raise self.unreadable("the server's answer has no end")
            if self.names_in_utf8:
                responses.respell(response)
            if responses.names_a_folder(response):
                folders += 1
                if folders > self.limits.folders:
                    raise self._too_many_folders()
            untagged.append(response)

    def answers(
        self,
        tag: bytes,
        read: Callable[[Response], T | None],
        sink: Sink | None = None,
        *,
        of_mail: bool = True,
        times: int = KEYWORDS_WEIGH,
    ) -> Iterator[T]:
        """What `read` makes of the untagged answers to a command, without what it makes nothing of.

        Of a line that cannot be read `unread` keeps a note. `of_mail`: words of strangers are on the way, so that a
        line which is not whole ends the connection: nobody knows whose the next one is. What a long line is taken
        apart into weighs `times` as much as its octets.
        """
        deadline = self.deadline()
        weight, most = 0, self.limits.scanned_octets
        self.unread.clear()
        while True:
            response = self.read(deadline, sink)
            if self.finish(response, tag, skip_stray=not of_mail) is not None:
                return
            try:
                found = read(response)
            except grammar.GrammarError as error:
                if of_mail and isinstance(error, grammar.NotWhole):
                    raise self.unreadable(response.text) from None
                self.note_unread(response)
                continue
            if not of_mail:
                octets = len(response.segments[0])
                weight += response.weight if response.literals else weight_of(octets, times=times)
                if weight > most:
                    raise self.unreadable("the server's answer has no end")
            if found is not None:
                yield found

    def collected(self, tag: bytes, stage: Stage, where: str = "") -> list[Response]:
        """The untagged answers of a command whose refusal is a failure."""
        try:
            return self.collect(tag)[1]
        except Refused as refused:
            raise self.failure(refused, stage, where) from None

    def unless_refused(self, tag: bytes | None) -> list[Response]:
        """The answers to a question that a server may refuse."""
        if tag is not None:
            with contextlib.suppress(Refused):
                return self.collect(tag)[1]
        return []

    # Opening a folder

    def opening(self, verb: bytes, raw: bytes) -> bytes:
        """Send EXAMINE or SELECT; the tag."""
        if not can_quote(raw):
            where = grammar.decode_mailbox(raw)
            raise FolderError("folder_name_invalid", self.side, "a line end or NUL in the name", where=where)
        return self.send(verb + b" " + grammar.quote(raw))

    def opened(self, tag: bytes, raw: bytes) -> Selected:
        """The answer to `opening`."""
        self.selected, self.uidvalidity = b"", 0
        found = responses.selected(self.collected(tag, "select", grammar.decode_mailbox(raw)))
        self.selected, self.uidvalidity = raw, found.uidvalidity
        return found

    # What goes wrong

    def failure(self, refused: Refused, stage: Stage, where: str = "") -> MigrationError:
        """The error that a refusal means."""
        text = f"{refused.status} {refused.text}"
        told = judge(text, stage=stage, side=self.side, host=self.account.server.host)
        if not told.rule and refused.status not in ("NO", "BAD"):
            told = Verdict("unreadable_answer", "")
        redacted, known_by = self.account.redacted(text), str(KnownBy(stage, told.rule))
        error = error_of_reach(told.cause, self.side, redacted, where=where, known_by=known_by)
        self.account.admission.failed(error)
        return error

    def _judged(self, text: str) -> Verdict:
        return judge(text, stage="", side=self.side, host=self.account.server.host)

    def lost(self, text: str) -> ConnectionLost:
        """The error that says so; nothing more goes over the connection."""
        self.drop()
        bye = text[:3].upper() == "BYE"
        told = self._judged(f"* {text}" if bye else text)
        found = told.cause
        if found == "token_expired" and self.account.tokens and self.token:
            self.account.tokens.ended(self.token)
        elif found not in HOST_BUSY | {"timeout"}:
            found = "connection_dropped"
        known_by = str(KnownBy("", told.rule)) if bye else ""
        redacted = self.account.redacted(text)
        error = ConnectionLost(found, self.side, redacted, where=self.account.server.host, known_by=known_by)
        self.account.admission.failed(error)
        return error

    def unreadable(self, text: str) -> UnreadableAnswer:
        """The error that says so; nothing more goes over the connection, as nothing that comes could be told apart."""
        self.drop()
        where = grammar.decode_mailbox(self.selected) if self.selected else self.account.server.host
        error = UnreadableAnswer("unreadable_answer", self.side, self.account.redacted(text), where=where)
        self.account.admission.failed(error)
        return error

    def _too_many_folders(self) -> MigrationError:
        self.drop()
        told = f"more than {self.limits.folders:,} folders"
        return MemberError("too_many_folders", self.side, told, where=self.account.server.host)

    def lost_by(self, error: Exception) -> ConnectionLost:
        self.drop()
        found = judge_exception(error, stage="", side=self.side, host=self.account.server.host).cause
        return ConnectionLost(found, self.side, self.account.redacted(str(error)), where=self.account.server.host)


def nobody_waits(response: Response) -> None:
    """What becomes of an answer that nobody has asked for, or waits for any more."""


def can_quote(raw: bytes) -> bool:
    """Whether a folder's name can be said in a command."""
    try:
        grammar.quote(raw)
    except grammar.GrammarError:
        return False
    return True
