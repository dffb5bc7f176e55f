"""A distance between client and server: every octet arrives half a round trip later, in order, at any bandwidth.

Runs as a process of its own, so that it does not wait for a client's Python. Also counts: octets, and round trips as
the client sees them. For those that had to wait for each other, all that the client says carries a number: one more
than the highest that it has heard so far on any connection. A server's words carry the highest that it has heard.
"""

import asyncio
import json
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self, cast

from benchmarks.job import HOST, Traffic, Wire

_OPENING = 2
"""Round trips until the greeting: SYN and SYN-ACK, then ACK and greeting."""


class Distance:
    """Starts the process with a port for either server: `with Distance(20, 143, 144) as distance: distance.ports`."""

    def __init__(self, milliseconds: float, source_port: int, target_port: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.delay", *map(str, (milliseconds, source_port, target_port))]
        self.ports: tuple[int, int] = (0, 0)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        source, target = json.loads(self._line())
        self.ports = (source, target)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def wire(self) -> Wire:
        """What has gone through so far."""
        if self._process.stdin is None:
            raise AssertionError("started with a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        values = json.loads(self._line())
        return Wire(Traffic(**values["source"]), Traffic(**values["target"]), values["in_a_row"])

    def _line(self) -> str:
        if self._process.stdout is None:
            raise AssertionError("started with a pipe")
        return self._process.stdout.readline()


@dataclass
class _Client:
    """What all connections of a client have in common."""

    heard: int = 0
    """The highest number that it has heard."""


class _Line:
    """One direction of one connection: what is put in comes out `seconds` later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, arrived: Callable[[int], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._arrived = arrived
        self._under_way: deque[tuple[float, bytes, int]] = deque()
        self._out: asyncio.Transport | None = None
        self._waiting = False

    def lead_to(self, out: asyncio.Transport) -> None:
        self._out = out
        self._deliver()

    def put(self, data: bytes, number: int = 0) -> None:
        """Send; b"" ends the connection."""
        self._under_way.append((self._loop.time() + self._seconds, data, number))
        if not self._waiting and self._out:
            self._wait()

    def _wait(self) -> None:
        self._waiting = True
        self._loop.call_at(self._under_way[0][0], self._deliver)

    def _deliver(self) -> None:
        self._waiting = False
        if self._out is None:
            return
        now = self._loop.time()
        due = []
        highest = 0
        while self._under_way and self._under_way[0][0] <= now:
            _, data, number = self._under_way.popleft()
            due.append(data)
            highest = max(highest, number)
        if due and not self._out.is_closing():
            self._arrived(highest)
            self._out.write(b"".join(due))
            if not due[-1]:
                self._out.close()
        if self._under_way:
            self._wait()


class _ClientSide(asyncio.Protocol):
    """Faces the client; opens the connection to the server when the handshake would be through."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, port: int, traffic: Traffic, client: _Client
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._port = port
        self._traffic = traffic
        self._client = client
        self._heard = False
        self._server_heard = 0
        self._up = _Line(loop, seconds, self._server_hears)
        self._down = _Line(loop, seconds, self._client_hears)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._traffic.connections += 1
        self._server_heard = self._client.heard + _OPENING
        self._down.lead_to(cast(asyncio.Transport, transport))
        # SYN, SYN-ACK and ACK take three half trips before a distant server sees the client.
        self._loop.call_later(3 * self._seconds, self._connect)

    def _connect(self) -> None:
        task = self._loop.create_task(
            self._loop.create_connection(lambda: _ServerSide(self, self._up), HOST, self._port)
        )
        task.add_done_callback(lambda done: self._down.put(b"") if done.exception() else None)

    def data_received(self, data: bytes) -> None:
        self._traffic.up += len(data)
        if self._heard:
            self._traffic.round_trips += 1
            self._heard = False
        self._up.put(data, self._client.heard + 1)

    def server_spoke(self, data: bytes) -> None:
        self._traffic.down += len(data)
        self._down.put(data, self._server_heard)

    def server_ended(self) -> None:
        self._down.put(b"")

    def connection_lost(self, _: Exception | None) -> None:
        self._up.put(b"")

    def _server_hears(self, number: int) -> None:
        self._server_heard = max(self._server_heard, number)

    def _client_hears(self, number: int) -> None:
        self._heard = True
        self._client.heard = max(self._client.heard, number)


class _ServerSide(asyncio.Protocol):
    def __init__(self, client_side: _ClientSide, up: _Line) -> None:
        self._client_side = client_side
        self._up = up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._up.lead_to(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._client_side.server_spoke(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._client_side.server_ended()


async def _serve(milliseconds: float, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    client = _Client()
    traffics = [Traffic() for _ in ports]
    servers = []
    for port, traffic in zip(ports, traffics, strict=True):

        def side(port: int = port, traffic: Traffic = traffic) -> _ClientSide:
            return _ClientSide(loop, milliseconds / 2000, port, traffic, client)

        servers.append(await loop.create_server(side, HOST, 0))

    def asked() -> None:
        if not sys.stdin.readline():
            loop.remove_reader(sys.stdin)
            ended.set_result(None)
            return
        _say(asdict(Wire(traffics[0], traffics[1], client.heard)))

    loop.add_reader(sys.stdin, asked)
    _say([server.sockets[0].getsockname()[1] for server in servers])
    await ended


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # select() waits by the microsecond, epoll by the millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
