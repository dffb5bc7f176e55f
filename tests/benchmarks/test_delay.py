"""The proxy between client and server counts round trips as a client waits for them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from benchmarks.delay import Distance
from tests.servers.dovecot import DEADLINE


@pytest.fixture
def together(request: pytest.FixtureRequest) -> threading.Barrier:
    """So many connections have to send a line before any of them gets its own back: one, if no test says otherwise."""
    return threading.Barrier(getattr(request, "param", 1))


@pytest.fixture
def echo(together: threading.Barrier) -> Iterator[int]:
    """A server that greets and then sends back every line; the value is its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, together), daemon=True).start()
        yield listening.getsockname()[1]
        together.abort()
        listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, together: threading.Barrier) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection, together), daemon=True).start()


def _echo(connection: socket.socket, together: threading.Barrier) -> None:
    # Whoever leaves first is no failure of the other.
    with (
        suppress(OSError, threading.BrokenBarrierError),
        closing(connection),
        connection.makefile("rwb", buffering=0) as lines,
    ):
        lines.write(b"hello\n")
        for line in lines:
            together.wait()
            lines.write(line)


def test_lines_that_wait_for_each_other_are_round_trips_in_a_row(echo: int) -> None:
    with Distance(2, echo, echo) as distance, _Lines(distance.ports[0]) as lines:
        for _ in range(3):
            lines.say()
            lines.hear()
        wire = distance.wire()

    assert (wire.source.connections, wire.source.round_trips, wire.target.round_trips) == (1, 3, 0)
    assert (wire.source.up, wire.source.down) == (12, 18)
    assert wire.in_a_row == 2 + 3


@pytest.mark.parametrize("together", [2], indirect=True)
def test_what_overlaps_is_not_in_a_row(echo: int) -> None:
    with (
        Distance(2, echo, echo) as distance,
        _Lines(distance.ports[0]) as source,
        _Lines(distance.ports[1]) as target,
    ):
        before = distance.wire()
        for _ in range(2):
            source.say()
            target.say()
            source.hear()
            target.hear()
        wire = distance.wire() - before

    assert (wire.source.round_trips, wire.target.round_trips, wire.round_trips, wire.longer_side) == (2, 2, 4, 2)
    assert wire.in_a_row == 2


class _Lines:
    """A connection as lines, after the greeting."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._lines = self._socket.makefile("rwb", buffering=0)

    def __enter__(self) -> "_Lines":
        assert self._lines.readline() == b"hello\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def say(self) -> None:
        self._lines.write(b"one\n")

    def hear(self) -> None:
        assert self._lines.readline() == b"one\n"
