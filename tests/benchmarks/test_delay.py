"""The proxy between client and server counts round trips as a client waits for them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from benchmarks.delay import Distance


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that greets and then sends back every line; the value is its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with closing(connection), connection.makefile("rwb", buffering=0) as lines:
        lines.write(b"hello\n")
        for line in lines:
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


def test_what_overlaps_is_not_in_a_row(echo: int) -> None:
    # So far away that no answer comes between two lines that are sent one after the other.
    with (
        Distance(200, echo, echo) as distance,
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
    assert wire.in_a_row < wire.round_trips


class _Lines:
    """A connection as lines, after the greeting."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
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
