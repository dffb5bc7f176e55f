"""A distance between client and server: every octet arrives half a round trip later, in order, at any bandwidth.

Runs as a process of its own, so that it does not wait for a client's Python. Also counts: octets, and round trips as
the client sees them (it spoke after it had heard something).
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

from benchmarks.job import HOST


@dataclass
class Traffic:
    """What has gone through one port."""

    connections: int = 0
    round_trips: int = 0
    up: int = 0
    """Octets from the client to the server."""
    down: int = 0


class Distance:
    """Starts the process with one port for each server: `with Distance(20, [143]) as distance: distance.ports`."""

    def __init__(self, milliseconds: float, ports: list[int]) -> None:
        self._command = [sys.executable, "-m", "benchmarks.delay", str(milliseconds), *map(str, ports)]
        self.ports: list[int] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ports = json.loads(self._line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()

    def traffic(self) -> list[Traffic]:
        """What has gone through so far, port by port."""
        if self._process.stdin is None:
            raise AssertionError("started with a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [Traffic(**values) for values in json.loads(self._line())]

    def _line(self) -> str:
        if self._process.stdout is None:
            raise AssertionError("started with a pipe")
        return self._process.stdout.readline()


class _Line:
    """One direction of one connection: what is put in comes out `seconds` later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, arrived: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._arrived = arrived
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._out: asyncio.Transport | None = None
        self._waiting = False

    def lead_to(self, out: asyncio.Transport) -> None:
        self._out = out
        self._deliver()

    def put(self, data: bytes) -> None:
        """Send; b"" ends the connection."""
        self._under_way.append((self._loop.time() + self._seconds, data))
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
        while self._under_way and self._under_way[0][0] <= now:
            due.append(self._under_way.popleft()[1])
        if due and not self._out.is_closing():
            self._arrived()
            self._out.write(b"".join(due))
            if not due[-1]:
                self._out.close()
        if self._under_way:
            self._wait()


class _ClientSide(asyncio.Protocol):
    """Faces the client; opens the connection to the server when the handshake would be through."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, port: int, traffic: Traffic) -> None:
        self._loop = loop
        self._seconds = seconds
        self._port = port
        self.traffic = traffic
        self._heard = False
        self._up = _Line(loop, seconds, lambda: None)
        self._down = _Line(loop, seconds, self._hear)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.traffic.connections += 1
        self._down.lead_to(cast(asyncio.Transport, transport))
        # SYN, SYN-ACK and ACK take three half trips before a distant server sees the client.
        self._loop.call_later(3 * self._seconds, self._connect)

    def _connect(self) -> None:
        task = self._loop.create_task(
            self._loop.create_connection(lambda: _ServerSide(self, self._up, self._down), HOST, self._port)
        )
        task.add_done_callback(lambda done: self._down.put(b"") if done.exception() else None)

    def data_received(self, data: bytes) -> None:
        self.traffic.up += len(data)
        if self._heard:
            self.traffic.round_trips += 1
            self._heard = False
        self._up.put(data)

    def _hear(self) -> None:
        self._heard = True

    def connection_lost(self, _: Exception | None) -> None:
        self._up.put(b"")


class _ServerSide(asyncio.Protocol):
    def __init__(self, client: _ClientSide, up: _Line, down: _Line) -> None:
        self._client = client
        self._up = up
        self._down = down

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._up.lead_to(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._client.traffic.down += len(data)
        self._down.put(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._down.put(b"")


async def _serve(milliseconds: float, ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    traffics = [Traffic() for _ in ports]
    servers = []
    for port, traffic in zip(ports, traffics, strict=True):

        def side(port: int = port, traffic: Traffic = traffic) -> _ClientSide:
            return _ClientSide(loop, milliseconds / 2000, port, traffic)

        servers.append(await loop.create_server(side, HOST, 0))

    def asked() -> None:
        if not sys.stdin.readline():
            loop.remove_reader(sys.stdin)
            ended.set_result(None)
            return
        _say([asdict(traffic) for traffic in traffics])

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
