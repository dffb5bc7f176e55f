"""A proxy between us and a server that damages what goes through it, at the octet that it is told to.

Runs in a thread of its own. A rule is armed when a test wants it, and begins to count when its pattern has passed:
`proxy.arm(Rule("s2c", "reset", after=b"APPENDUID"))`.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from tests.servers.dovecot import DEADLINE
from tests.servers.loopback import reserved_port

HOST = "127.0.0.1"
CHUNK = 65536
T = TypeVar("T")

Direction = Literal["c2s", "s2c"]
Act = Literal["reset", "fin", "down", "hang", "drip", "swallow", "repeat", "insert", "endless"]
_AT_ONCE = {"reset", "fin", "down", "hang"}


@dataclass
class Rule:
    """What is done to one direction of one connection.

    Counting begins behind `after`, or with the connection; `at` octets later it strikes, at once or at the next line:

    - reset, fin: both sides end, by RST or by FIN.
    - down: reset, and who connects is refused until `accept()`.
    - hang: nothing more goes through in either direction, and nothing is closed.
    - drip: from here on `step` octets at a time, and before each of them `tick`.
    - swallow: the next line is lost; then `then` happens.
    - repeat: the next line goes through twice.
    - insert: `octets` go before the next line.
    - endless: `octets` go again and again instead of the next line, until the client leaves.
    """

    direction: Direction
    act: Act
    after: bytes = b""
    at: int = 0
    then: Act | None = None
    octets: bytes = b""
    step: int = 100
    tick: Callable[[], object] = lambda: None
    times: int = 1
    """So many connections are struck."""
    struck: int = field(default=0, init=False)


class FaultProxy:
    """Listens on `port` and passes everything on to `server_port`, but for the rules that are armed."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = reserved_port(self)
        self.connections = 0
        self.passed: dict[Direction, int] = {"c2s": 0, "s2c": 0}
        """Octets of the last connection."""
        self._rules: list[Rule] = []
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.BaseTransport] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def arm(self, *rules: Rule) -> None:
        """Apply these, and no others, to the connections that come from now on."""
        self._rules = list(rules)

    def refuse(self) -> None:
        """Close the port: who connects is refused."""
        self._run(self.close())

    def accept(self) -> None:
        """Open it again."""
        self._run(self._listen())

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(DEADLINE)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, HOST, self.port, reuse_address=True)

    async def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener:
            for each in listener.sockets:
                self._loop.remove_reader(each.fileno())
            # A connection that has only just come gets a task of its own first: asyncio leaves it open otherwise.
            for _ in range(5):
                await asyncio.sleep(0)
            listener.close()

    async def _end(self) -> None:
        await self.close()
        while tasks := asyncio.all_tasks() - {cast("asyncio.Task[None]", asyncio.current_task())}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # One that is closed stays open until the other side has taken all: nobody waits for that now.
        for end in self._ends:
            cast("asyncio.Transport", end).abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer.transport)
        self.connections += 1
        self.passed = {"c2s": 0, "s2c": 0}
        try:
            there = await asyncio.open_connection(HOST, self._server_port)
            self._ends.add(there[1].transport)
            line = _Line(self, list(self._rules), (reader, writer), there)
            await line.carry()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Line:
    """One connection through the proxy."""

    def __init__(self, proxy: FaultProxy, rules: list[Rule], client: Stream, server: Stream) -> None:
        self._proxy = proxy
        self._rules = rules
        self._ends = {"c2s": (client[0], server[1]), "s2c": (server[0], client[1])}
        self._hung = asyncio.Event()

    async def carry(self) -> None:
        directions: tuple[Direction, Direction] = ("c2s", "s2c")
        carrying = [asyncio.ensure_future(self._carry(direction)) for direction in directions]
        try:
            await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)
            for _, writer in self._ends.values():
                with contextlib.suppress(OSError):
                    writer.close()

    async def _carry(self, direction: Direction) -> None:
        reader, writer = self._ends[direction]
        rule = next((rule for rule in self._rules if rule.direction == direction and rule.struck < rule.times), None)
        seen = b""
        began = not (rule and rule.after)
        left = rule.at if rule else 0
        while data := await reader.read(CHUNK):
            if self._hung.is_set():
                continue
            if rule and not began:
                # A pattern may come in two pieces.
                window = seen[-len(rule.after) + 1 :] if len(rule.after) > 1 else b""
                found = (window + data).find(rule.after)
                if found < 0:
                    seen = window + data
                    await self._pass(direction, writer, data)
                    continue
                began = True
                before = found + len(rule.after) - len(window)
                await self._pass(direction, writer, data[:before])
                data = data[before:]
            if rule and rule.struck < rule.times:
                if len(data) <= left and (len(data) < left or rule.act not in _AT_ONCE):
                    left -= len(data)
                    await self._pass(direction, writer, data)
                    continue
                await self._pass(direction, writer, data[:left])
                rule.struck += 1
                if await self._strike(rule, rule.act, direction, data[left:]):
                    return
                rule = None
                continue
            await self._pass(direction, writer, data)

    async def _pass(self, direction: Direction, writer: asyncio.StreamWriter, data: bytes) -> None:
        if data:
            self._proxy.passed[direction] += len(data)
            writer.write(data)
            await writer.drain()

    async def _strike(self, rule: Rule, act: Act, direction: Direction, data: bytes) -> bool:
        """Do it; whether the connection has ended."""
        _, writer = self._ends[direction]
        if act == "hang":
            self._hung.set()
            return False
        if act in _AT_ONCE:
            if act == "down":
                await self._proxy.close()
            for _, end in self._ends.values():
                _close(end, abortively=act != "fin")
            return True
        if act == "drip":
            await self._drip(rule, direction, data)
            return True
        begun, data = await self._line(direction, data)
        await self._pass(direction, writer, begun)
        while act == "endless":
            await self._pass(direction, writer, rule.octets)
        if act == "insert":
            await self._pass(direction, writer, rule.octets + data)
            return False
        line, rest = await self._line(direction, data)
        if act == "repeat":
            await self._pass(direction, writer, line * 2)
        elif rule.then:
            return await self._strike(rule, rule.then, direction, rest)
        await self._pass(direction, writer, rest)
        return False

    async def _line(self, direction: Direction, data: bytes) -> tuple[bytes, bytes]:
        """What is there up to the end of a line, and what comes behind it."""
        reader, _ = self._ends[direction]
        while b"\n" not in data and (more := await reader.read(CHUNK)):
            data += more
        line, end, rest = data.partition(b"\n")
        return line + end, rest

    async def _drip(self, rule: Rule, direction: Direction, data: bytes) -> None:
        reader, writer = self._ends[direction]
        while data:
            for start in range(0, len(data), rule.step):
                rule.tick()
                await self._pass(direction, writer, data[start : start + rule.step])
            data = await reader.read(CHUNK)


def _close(writer: asyncio.StreamWriter, *, abortively: bool) -> None:
    if abortively:
        connected: socket.socket = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
