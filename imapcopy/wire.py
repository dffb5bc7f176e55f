"""Octets between us and one IMAP server: commands out, responses in, bounded in time and in size.

Knows lines, literals, time-outs and limits, and nothing of what a command means. Own code because the library reads
through a small buffer, copies each literal several times and waits for every command before it sends the next.
"""

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

COMMAND_SECONDS = 600.0
"""How long one command may take besides its bytes; a server that drips or chatters for ever ends here."""
SLOWEST_BYTES_PER_SECOND = 10_000
MAX_LINE_BYTES = 1_000_000
MAX_LITERAL_BYTES = 1 << 30
MAX_UNTAGGED = 2_000_000
READ_BYTES = 262_144
INFLATED_BYTES = 4 << 20
"""How much is inflated at once: deflated zeros grow a thousandfold."""
MEASURED_BYTES = 2 << 20
"""So much mail tells how fast a line is."""
SLOW_BYTES_PER_SECOND = 2_000_000
"""Below, compressing is worth its processor time: mail shrinks to two thirds at 50 MB a second."""


class WireBroken(Exception):
    """The connection is gone or out of step; the text says why and may quote the server."""


@dataclass(slots=True)
class Response:
    """One answer of the server: its text cut at the literals, and the literals."""

    segments: list[bytes]
    literals: list[bytes] = field(default_factory=list)
    passed_on: int = 0
    """Octets of literals that went to a `Sink`; in their place stand empty ones."""

    def tokens(self) -> list[Token]:
        return grammar.parse(self.segments, self.literals)

    @property
    def text(self) -> str:
        return self.segments[0].decode("utf-8", "backslashreplace").strip()

    @property
    def octets(self) -> int:
        return sum(map(len, self.segments)) + sum(map(len, self.literals))


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
    """The end of one command by the wall clock; a socket's own time-out starts anew with every byte."""

    def __init__(self, seconds: float | None = None) -> None:
        self._end = time.monotonic() + (COMMAND_SECONDS if seconds is None else seconds)
        self._answers = 0

    def allow(self, size: int) -> None:
        """Give a literal of that size its time."""
        self._end += size / SLOWEST_BYTES_PER_SECOND

    def check(self) -> None:
        self._answers += 1
        if time.monotonic() > self._end:
            raise WireBroken("timed out: the server took too long over one command")
        if self._answers > MAX_UNTAGGED:
            raise WireBroken("the server's answer has no end")


class Wire:
    """A socket on which the library has signed in, from there on read and written by us. Also raises OSError."""

    def __init__(
        self,
        connected: socket.socket,
        file: io.BufferedReader,
        count_read: Callable[[int], None] = lambda octets: None,
        count_written: Callable[[int], None] = lambda octets: None,
    ) -> None:
        self._socket = connected
        # The library's own file, because it may hold octets that it has read ahead.
        self._file = file
        # Octets before they are deflated: whether services count them so or after, nobody has written.
        self._count_read = count_read
        self._count_written = count_written
        self._buffer = b""
        self._at = 0
        self._deflate: zlib._Compress | None = None
        self._inflate: zlib._Decompress | None = None

    def compress(self) -> None:
        """From now on both directions are deflated (RFC 4978); to be called between two commands."""
        self._deflate = zlib.compressobj(1, wbits=-15)
        self._inflate = zlib.decompressobj(wbits=-15)
        rest, self._buffer, self._at = self._buffer[self._at :], b"", 0
        self._buffer = self._inflated(rest)

    def send(self, data: bytes | bytearray | memoryview, fence: Callable[[], object] = lambda: None) -> None:
        """Send octets; everything that belongs to one command should come in few calls.

        `fence` is asked right before any of them leave, again after each wait for room: a process that is stopped
        while it waits goes on exactly there.
        """
        self._count_written(len(data))
        if self._deflate:
            data = self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        silence = self._socket.gettimeout()
        end = (
            time.monotonic() + (COMMAND_SECONDS if silence is None else silence) + len(data) / SLOWEST_BYTES_PER_SECOND
        )
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
            self._socket.settimeout(silence)

    def _wait_until(self, ready: int, end: float) -> None:
        poll = select.poll()
        poll.register(self._socket, ready)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            raise TimeoutError("timed out: the server took nothing")

    def read(self, deadline: Deadline, sink: Sink | None = None) -> Response:
        """Read one response with its literals; the large ones go to the sink."""
        response = Response([])
        while True:
            deadline.check()
            line = self._read_line(deadline)
            literal = grammar.LITERAL_AT_END.search(line) if line.endswith(b"}\r\n") else None
            if not literal:
                response.segments.append(line.rstrip(b"\r\n"))
                return response
            response.segments.append(line[: literal.start()])
            size = int(literal[1])
            if sink and size > sink.above:
                self._pass_on(size, sink, deadline)
                response.passed_on += size
                response.literals.append(b"")
            else:
                response.literals.append(self._read_literal(size, deadline))

    def _read_line(self, deadline: Deadline) -> bytes:
        searched = self._at
        while (end := self._buffer.find(b"\n", searched)) < 0:
            held = len(self._buffer) - self._at
            if held > MAX_LINE_BYTES:
                raise WireBroken("the server sent a line without end")
            deadline.check()
            self._fill()
            searched = held
        line = self._buffer[self._at : end + 1]
        self._at = end + 1
        return line

    def _read_literal(self, size: int, deadline: Deadline) -> bytes:
        if size > MAX_LITERAL_BYTES:
            raise WireBroken(f"the server announced {size} bytes at once")
        deadline.allow(size)
        if size > READ_BYTES:
            return self._read_large(size, deadline)
        while len(self._buffer) - self._at < size:
            deadline.check()
            self._fill()
        start = self._at
        self._at += size
        return self._buffer[start : self._at]

    def _pass_on(self, size: int, sink: Sink, deadline: Deadline) -> None:
        if size > MAX_LITERAL_BYTES:
            raise WireBroken(f"the server announced {size} bytes at once")
        deadline.allow(size)
        while size:
            deadline.check()
            if self._at == len(self._buffer):
                self._fill()
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
                deadline.check()
                filled += self._receive_into(view[filled : filled + READ_BYTES])
        return whole.getvalue()

    def _receive_into(self, view: memoryview) -> int:
        if not self._inflate:
            count = self._file.readinto1(view)
            if not count:
                raise WireBroken("the server closed the connection")
            self._count_read(count)
            return count
        if self._at == len(self._buffer):
            self._fill()
        piece = self._buffer[self._at : self._at + len(view)]
        self._at += len(piece)
        view[: len(piece)] = piece
        return len(piece)

    def _fill(self) -> None:
        # What is left to be inflated first: a few octets may stand for many.
        chunk = self._inflate.unconsumed_tail if self._inflate else b""
        chunk = chunk or self._file.read1(READ_BYTES)
        if not chunk:
            raise WireBroken("the server closed the connection")
        octets = self._inflated(chunk)
        self._count_read(len(octets))
        self._buffer = self._buffer[self._at :] + octets
        self._at = 0

    def _inflated(self, octets: bytes) -> bytes:
        try:
            return self._inflate.decompress(octets, INFLATED_BYTES) if self._inflate else octets
        except zlib.error as error:
            raise WireBroken(f"cannot inflate what the server sent: {error}") from None
