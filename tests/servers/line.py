"""A line to a server: as slow as told, and able to leave things out of what the server says.

What a client has written and a slow line has not taken yet waits in the client's own socket, as with a distant server.
"""

import contextlib
import math
import re
import select
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
PIECE = 8192
_LINGER_NOT = struct.pack("ii", 1, 0)


class _Pace:
    """One direction: whoever wants to send waits for the turn of its octets."""

    def __init__(self, octets_per_second: float) -> None:
        self.seconds_an_octet = 1 / octets_per_second if octets_per_second else 0.0
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait_for_turn(self, octets: int) -> None:
        with self._lock:
            through = self._free_at = max(self._free_at, time.monotonic()) + octets * self.seconds_an_octet
        while self.seconds_an_octet and (left := through - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))


class Line:
    """`with Line(server.port, octets_per_second=500_000) as line: line.port`; all its connections share its speeds."""

    def __init__(
        self, port: int, *, octets_per_second: float = 0, down_octets_per_second: float = 0, leave_out: bytes = b""
    ) -> None:
        self._server = port
        self._up_pace = _Pace(octets_per_second)
        self._down_pace = _Pace(down_octets_per_second)
        self._leave_out = re.compile(leave_out) if leave_out else None
        self._listener = socket.socket()
        # Little room: what is under way shall lie where the client's end can take it along.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        self._listener.bind((HOST, 0))
        self._listener.listen(128)
        self.port: int = self._listener.getsockname()[1]
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._left = {"up": math.inf, "down": math.inf}
        """So many octets may go to the server, and to the client, yet."""
        self._passing = threading.Event()
        self._passing.set()
        self._open: set[socket.socket] = set()
        self.octets: list[int] = []
        """What each connection has carried to the server, in the order of their opening."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in list(self._open):
            _reset(end)
        self._passing.set()

    def hurry(self) -> None:
        """From now on be as fast as can be."""
        self._up_pace.seconds_an_octet = self._down_pace.seconds_an_octet = 0.0
        self._let_all_through()

    def slow_down(self, octets_per_second: float) -> None:
        """From now on carry no more than this to the server."""
        self._up_pace.seconds_an_octet = 1 / octets_per_second
        self._let_all_through()

    def hold(self, after: float = 0, *, after_answers: float = math.inf) -> None:
        """Carry so many octets more to the server, or to the client; then nothing either way until told to go on."""
        with self._lock:
            self._left = {"up": after, "down": after_answers}
            if min(self._left.values()) <= 0:
                self._passing.clear()
            else:
                self._passing.set()

    @property
    def held(self) -> bool:
        """Whether nothing goes through."""
        return not self._passing.is_set()

    def cut(self) -> None:
        """Break every connection; what is on its way is lost."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                end.shutdown(socket.SHUT_RDWR)

    def quiet(self, seconds: float = 1.0) -> bool:
        """Whether nothing has gone to the server for so long since it may."""
        return time.monotonic() - self._last > seconds

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket()
                self._open |= {client, server}
                try:
                    server.connect((HOST, self._server))
                except OSError:
                    _reset(client)
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.octets.append(0)
                number = len(self.octets) - 1
                threading.Thread(target=self._up, args=(number, client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, number: int, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(PIECE):
                self._up_pace.wait_for_turn(len(data))
                self._let_through("up", len(data))
                self._passing.wait()
                server.sendall(data)
                self.octets[number] += len(data)
                self._last = time.monotonic()
            server.shutdown(socket.SHUT_WR)
        except OSError:
            # What a reset takes along on a real line it takes along here.
            _reset(server)

    def _let_through(self, way: str, octets: int) -> None:
        with self._lock:
            self._left[way] -= octets
            if self._left[way] <= 0:
                self._passing.clear()

    @property
    def _counts_answers(self) -> bool:
        return self._down_pace.seconds_an_octet > 0 or self._left["down"] < math.inf

    def _let_all_through(self) -> None:
        with self._lock:
            self._left = {"up": math.inf, "down": math.inf}
            self._last = time.monotonic()
            self._passing.set()

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        rest = b""
        try:
            while data := _received(server, PIECE if self._counts_answers else 1 << 16):
                # Whole lines, so that nothing that is to be left out is cut in two.
                lines, end, rest = (rest + data).rpartition(b"\n")
                lines += end
                self._down_pace.wait_for_turn(len(lines))
                self._let_through("down", len(lines))
                self._passing.wait()
                client.sendall(self._leave_out.sub(b"", lines) if self._leave_out else lines)
            client.sendall(rest)
        except (OSError, ValueError):
            pass  # the other direction has ended it
        finally:
            self._open -= {client, server}
            for one in (client, server):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


def _received(server: socket.socket, octets: int) -> bytes:
    # In short turns: a socket that the other thread closes is closed only when nobody waits at it any more.
    while not select.select([server], [], [], 0.05)[0]:
        pass
    return server.recv(octets)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        end.close()
