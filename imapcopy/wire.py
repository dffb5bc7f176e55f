"""Octets between us and one IMAP server: commands out, responses in, bounded in time and in size from the first octet.

Knows lines, literals, time-outs and limits, and nothing of what a command means. Own code because the library reads
through a small buffer, copies each literal several times and waits for every command before it sends the next.
"""

import contextlib
import io
import select
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from imapcopy import grammar
from imapcopy.grammar import Token
from imapcopy.limits import DEFAULT, TURNS, Limits, weight

READ_BYTES = 262_144
INFLATED_BYTES = 4 << 20
"""How much is inflated at once: deflated zeros grow a thousandfold."""
MEASURED_BYTES = 2 << 20
"""So much mail tells how fast a line is."""
SLOW_BYTES_PER_SECOND = 2_000_000
"""Below, compressing is worth its processor time: mail shrinks to two thirds at 50 MB a second."""
MOST_PUT_TOGETHER = 16_384
"""Octets of a line to which another one may belong: whether it does takes time to find out."""
_LITERAL_ENDS = (b"}\r\n", b"}\n")


class WireBroken(Exception):
    """The connection is gone or out of step; the text says why and may quote the server."""


class Unreadable(WireBroken):
    """The server sends what cannot be read, or without end; asked again it would send the same."""


@dataclass(slots=True)
class Response:
    """One answer of the server: its text cut at the literals, and the literals."""

    segments: list[bytes]
    literals: list[bytes] = field(default_factory=list)
    passed_on: int = 0
    """Octets of literals that went to a `Sink`; in their place stand empty ones."""
    _tokens: list[Token] | None = field(default=None, init=False, repr=False, compare=False)

    def tokens(self) -> list[Token]:
        """What it consists of; several ask, and none changes it."""
        if self._tokens is None:
            self._tokens = grammar.parse(self.segments, self.literals)
        return self._tokens

    @property
    def text(self) -> str:
        return self.segments[0].decode("utf-8", "backslashreplace").strip()

    @property
    def weight(self) -> int:
        """About what it weighs in memory while it is kept."""
        if not self.literals:
            return weight(len(self.segments[0]))
        return weight(sum(map(len, self.segments)), sum(map(len, self.literals)), len(self.literals))


def _may_go_on(text: bytes, response: Response) -> bool:
    """Whether brackets or quotes do not add up, as in one response of thousands; `text` is the last of its segments."""
    if response.literals:
        text = b"".join(response.segments)
    return text.count(b"(") != text.count(b")") or (text[-1:] != b")" and text.count(b'"') & 1 == 1)


@dataclass(frozen=True, slots=True)
class Sink:
    """Takes the literals of more than so many octets as they come; what `write` raises leaves the wire out of step."""

    above: int
    write: Callable[[bytes], object]


class LinkSpeed:
    """Tells a line that is slower than the processor would compress what goes over it."""

    def __init__(self) -> None:
        self._octets = 0
        self._seconds = 0.0
        self._begun = time.monotonic()
        self._processor = time.process_time()

    def waited(self, octets: int, seconds: float) -> None:
        """So many octets took so long."""
        self._octets += octets
        self._seconds += seconds

    @property
    def is_slow(self) -> bool:
        if self._octets < MEASURED_BYTES or self._octets > SLOW_BYTES_PER_SECOND * self._seconds:
            return False
        # With many mailboxes at once it may be us who are slow; compressing would make that worse.
        return time.process_time() - self._processor < 0.5 * (time.monotonic() - self._begun)


class Deadline:
    """The end of one answer: it may take long as long as it gets on. Silence is the socket's own matter.

    A socket's time-out starts anew with every octet, so a server that drips would never meet it. What counts is the
    time that was waited for the server, not what passed while we were busy.
    """

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.answers_left = limits.answers
        self._octets = 0
        self._waited = 0.0
        self._turn_ends = limits.answer_seconds

    def answered(self) -> None:
        """A response, or an empty line, has begun."""
        self.answers_left -= 1
        if self.answers_left < 0:
            raise Unreadable("the server's answer has no end")

    def got(self, octets: int, seconds: float) -> None:
        """So many octets have come, for which we waited so long."""
        self._octets += octets
        self._waited += seconds
        if self._waited > self._turn_ends:
            last = self._waited > TURNS * self.limits.answer_seconds
            if last or self._octets < self.limits.least_octets:
                raise WireBroken("timed out: the server took too long over one command")
            self._octets = 0
            self._turn_ends = self._waited + self.limits.answer_seconds

    @property
    def patience(self) -> float | None:
        """How many seconds may pass until the next octet, where that is less than any silence may last."""
        return None


class OpeningDeadline(Deadline):
    """The end of all that comes before the sign-in, in seconds and in octets, whatever comes meanwhile."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        super().__init__(limits)
        self._end = time.monotonic() + limits.connect_seconds

    def got(self, octets: int, seconds: float) -> None:
        self._octets += octets
        if self._octets > self.limits.opening_octets:
            raise Unreadable("the server's greeting has no end")
        if time.monotonic() > self._end:
            raise TimeoutError("timed out: the server took too long to greet")

    @property
    def patience(self) -> float | None:
        return max(0.001, self._end - time.monotonic())


class Wire:
    """A connected socket, read and written by us alone. Also raises OSError."""

    def __init__(
        self,
        connected: socket.socket,
        limits: Limits = DEFAULT,
        count_read: Callable[[int], None] = lambda octets: None,
        count_written: Callable[[int], None] = lambda octets: None,
    ) -> None:
        self._socket = connected
        self.limits = limits
        self.silence = limits.silence_seconds
        """Seconds in which something has to come, or to be taken."""
        # Octets before they are deflated: whether services count them so or after, nobody has written.
        self._count_read = count_read
        self._count_written = count_written
        self._buffer = b""
        self._at = 0
        self._deflate: zlib._Compress | None = None
        self._inflate: zlib._Decompress | None = None
        self._came = self._inflated_to = 0
        self.grew_too_much = False
        """It sent what grows out of all proportion when it is inflated."""
        self._socket.settimeout(self.silence)

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def be_patient(self, seconds: float) -> None:
        """Let a silence last so long from now on."""
        self.silence = seconds
        self._socket.settimeout(seconds)

    def encrypt(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Begin TLS, within so many seconds. Whatever came in clear behind the leave to do so is thrown away."""
        self._buffer, self._at = b"", 0
        self._socket.settimeout(seconds)
        self._socket = context.wrap_socket(self._socket, server_hostname=host)
        self._socket.settimeout(self.silence)

    def compress(self) -> None:
        """From now on both directions are deflated (RFC 4978); to be called between two commands."""
        self._deflate = zlib.compressobj(1, wbits=-15)
        self._inflate = zlib.decompressobj(wbits=-15)
        rest, self._buffer, self._at = self._buffer[self._at :], b"", 0
        self._buffer = self._inflated(rest)

    def close(self) -> None:
        """End the connection without a word."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def send(self, data: bytes | bytearray | memoryview, fence: Callable[[], object] = lambda: None) -> None:
        """Send octets; everything that belongs to one command should come in few calls.

        `fence` is asked right before any of them leave, again after each wait for room: a process that is stopped
        while it waits goes on exactly there.
        """
        self._count_written(len(data))
        if self._deflate:
            data = self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        end = time.monotonic() + self.silence + len(data) / self.limits.taken_per_second
        view = memoryview(data)
        self._socket.settimeout(0)
        try:
            while view:
                fence()
                try:
                    view = view[self._socket.send(view) :]
                except ssl.SSLWantReadError:
                    self._wait_until(select.POLLIN, end)
                except (BlockingIOError, ssl.SSLWantWriteError):
                    self._wait_until(select.POLLOUT, end)
        finally:
            self._socket.settimeout(self.silence)

    def _wait_until(self, ready: int, end: float) -> None:
        poll = select.poll()
        poll.register(self._socket, ready)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError("timed out: the server took nothing")

    def read(self, deadline: Deadline, sink: Sink | None = None) -> Response:
        """Read one response with its literals; the large ones go to the sink."""
        deadline.answers_left -= 1
        if deadline.answers_left < 0:
            raise Unreadable("the server's answer has no end")
        response = Response([])
        # What was read and is not whole yet: a line end stood within it where none may be.
        before = b""
        octets = 0
        while True:
            line = self._read_line(deadline)
            if before:
                line, before = self._together(before, line), b""
            if line.endswith(_LITERAL_ENDS) and (literal := grammar.LITERAL_AT_END.search(line)):
                response.segments.append(line[: literal.start()])
                size = int(literal[1])
                if sink and size > sink.above:
                    response.passed_on += size
                    self._pass_on(size, response.passed_on, sink, deadline)
                    response.literals.append(b"")
                else:
                    octets += size
                    response.literals.append(self._read_literal(size, octets, len(response.literals), deadline))
                continue
            text = line.rstrip(b"\r\n")
            if text == b")" and len(response.literals) == 1:
                # As nearly every server ends a message.
                response.segments.append(text)
                return response
            if not text and not response.segments:
                # Between two responses it says nothing.
                deadline.answered()
                continue
            response.segments.append(text)
            if _may_go_on(text, response) and self._goes_on(response.segments, deadline):
                before = response.segments.pop() + line[len(text) :]
                continue
            return response

    def _goes_on(self, segments: list[bytes], deadline: Deadline) -> bool:
        """Whether the next line belongs to this response, beyond doubt: it closes what is still open."""
        if len(segments[-1]) > MOST_PUT_TOGETHER or not grammar.is_data(segments[0]):
            # Words for people may hold any bracket, and nothing may follow them.
            return False
        opened, quoted = grammar.left_open(segments)
        if not opened and not quoted:
            return False
        following = self._next_line(deadline)
        if quoted:
            return not grammar.begins_response(following) and following.count(b'"') & 1 == 1
        return not following.strip() or following.lstrip().startswith(b")")

    def _together(self, text: bytes, line: bytes) -> bytes:
        if len(text) + len(line) > self.limits.line_octets:
            raise Unreadable("the server sent a line without end")
        # Within quotes the line end is part of what is quoted; elsewhere it is a blank.
        quoted = grammar.left_open([text.rstrip(b"\r\n")])[1]
        return text + line if quoted else text.rstrip(b"\r\n") + b" " + line

    def _next_line(self, deadline: Deadline) -> bytes:
        """The line that comes next, without taking it; b"" where the connection ends."""
        try:
            line = self._read_line(deadline)
        except (WireBroken, OSError):
            # Whoever reads on meets it again.
            return b""
        self._at -= len(line)
        return line

    def _read_line(self, deadline: Deadline) -> bytes:
        searched = self._at
        while (end := self._buffer.find(b"\n", searched)) < 0:
            held = len(self._buffer) - self._at
            if held > self.limits.line_octets:
                raise Unreadable("the server sent a line without end")
            self._fill(deadline)
            searched = held
        if end - self._at > self.limits.line_octets:
            raise Unreadable("the server sent a line without end")
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        return line

    def line(self, deadline: Deadline) -> bytes:
        """One line and nothing more, with its end."""
        return self._read_line(deadline)

    def octets(self, size: int, deadline: Deadline) -> bytes:
        """So many octets."""
        return self._read_literal(size, size, 0, deadline)

    def _read_literal(self, size: int, together: int, before: int, deadline: Deadline) -> bytes:
        """A literal, with which all of its response have so many octets together, and so many came before it."""
        if together > self.limits.literal_octets:
            raise Unreadable(f"the server announced {together} bytes at once")
        if before >= self.limits.literals:
            raise Unreadable("the server's answer has no end")
        if size > READ_BYTES:
            return self._read_large(size, deadline)
        while len(self._buffer) - self._at < size:
            self._fill(deadline)
        start = self._at
        self._at += size
        return self._buffer[start : self._at]

    def _pass_on(self, size: int, together: int, sink: Sink, deadline: Deadline) -> None:
        if together > self.limits.passed_octets:
            raise Unreadable(f"the server announced {together} bytes at once")
        while size:
            if self._at == len(self._buffer):
                self._fill(deadline)
            piece = self._buffer[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            sink.write(piece)

    def _read_large(self, size: int, deadline: Deadline) -> bytes:
        # Read into the place where it stays: to join pieces would hold a large message twice.
        whole = io.BytesIO(bytes(size))
        with whole.getbuffer() as view:
            filled = min(size, len(self._buffer) - self._at)
            view[:filled] = self._buffer[self._at : self._at + filled]
            self._at += filled
            while filled < size:
                filled += self._receive_into(view[filled : filled + READ_BYTES], deadline)
        return whole.getvalue()

    def _receive_into(self, view: memoryview, deadline: Deadline) -> int:
        if not self._inflate:
            begun = self._wait_for(deadline)
            count = self._socket.recv_into(view)
            if not count:
                raise WireBroken("the server closed the connection")
            deadline.got(count, time.monotonic() - begun)
            self._count_read(count)
            return count
        if self._at == len(self._buffer):
            self._fill(deadline)
        piece = self._buffer[self._at : self._at + len(view)]
        self._at += len(piece)
        view[: len(piece)] = piece
        return len(piece)

    def _fill(self, deadline: Deadline) -> None:
        # What is left to be inflated first: a few octets may stand for many.
        chunk = self._inflate.unconsumed_tail if self._inflate else b""
        if not chunk:
            begun = self._wait_for(deadline)
            chunk = self._socket.recv(READ_BYTES)
            if not chunk:
                raise WireBroken("the server closed the connection")
            self._came += len(chunk)
            deadline.got(len(chunk), time.monotonic() - begun)
        octets = self._inflated(chunk)
        self._count_read(len(octets))
        self._buffer = self._buffer[self._at :] + octets
        self._at = 0

    def _wait_for(self, deadline: Deadline) -> float:
        """Have the socket wait no longer than it may; when the waiting begins."""
        if (patience := deadline.patience) is not None:
            self._socket.settimeout(min(patience, self.silence))
        return time.monotonic()

    def _inflated(self, octets: bytes) -> bytes:
        if not self._inflate:
            return octets
        try:
            inflated = self._inflate.decompress(octets, INFLATED_BYTES)
        except zlib.error as error:
            raise WireBroken(f"cannot inflate what the server sent: {error}") from None
        self._inflated_to += len(inflated)
        most = max(self.limits.inflated_octets, self.limits.inflated_times * self._came)
        if self._inflated_to > most:
            self.grew_too_much = True
            raise WireBroken("what the server sent grows out of all proportion when it is inflated")
        return inflated
