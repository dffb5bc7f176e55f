"""Octets in any portion are the same responses; what has no end is left, and a large literal is held once."""

import contextlib
import itertools
import os
import random
import socket
import ssl
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy import wire
from imapcopy.limits import DEFAULT, Limits
from imapcopy.wire import Deadline, Response, Unreadable, Wire, WireBroken
from tests.servers.certificates import Authority

SECONDS = 120.0
"""No socket here waits longer: a test that hangs is a test that fails."""


class Portions:
    """A socket that hands over the given octets, at most one portion a read; empty ones are passed over."""

    def __init__(self, portions: Iterable[bytes]) -> None:
        self._portions = iter(portions)
        self._held = memoryview(b"")
        self.served = 0

    def settimeout(self, seconds: float) -> None:
        pass

    def recv(self, most: int) -> bytes:
        into = bytearray(most)
        return bytes(into[: self.recv_into(into)])

    def recv_into(self, into: Any) -> int:
        while not self._held:
            portion = next(self._portions, None)
            if portion is None:
                return 0
            self._held = memoryview(portion)
        count = min(len(into), len(self._held))
        into[:count] = self._held[:count]
        self._held = self._held[count:]
        self.served += count
        return count


def reading(portions: Iterable[bytes] | Portions, limits: Limits = DEFAULT) -> Wire:
    """A wire that can only read."""
    raw = portions if isinstance(portions, Portions) else Portions(portions)
    return Wire(cast(socket.socket, raw), limits)


def cut(octets: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(octets):
            return
        yield octets[at : at + size]
        at += size


def deflated(*flushed: bytes) -> bytes:
    """What a server sends that compresses: each part can be read when it has come."""
    deflate = zlib.compressobj(wbits=-15)
    return b"".join(deflate.compress(part) + deflate.flush(zlib.Z_SYNC_FLUSH) for part in flushed)


def written(response: Response) -> bytes:
    """The response as a server writes it."""
    out = b""
    for segment, literal in itertools.zip_longest(response.segments, response.literals):
        out += segment + (b"\r\n" if literal is None else b"{%d}\r\n" % len(literal) + literal)
    return out


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


TEXTS = st.lists(st.sampled_from(b'* 1FETCH()"\\\xff\r\0'), max_size=40).map(lambda some: bytes(some).strip(b"\r"))
LITERALS = st.lists(st.sampled_from([b"{3}\r\n", b"\r\n", b"B1 OK\r\n", b"\n", b")", b"x", b"\0\xff"])).map(b"".join)


@st.composite
def responses(draw: st.DrawFn) -> Response:
    literals = draw(st.lists(LITERALS, max_size=3))
    first, *others = [draw(TEXTS) for _ in range(len(literals) + 1)]
    return Response([b"*" + first, *others], literals)


@pytest.mark.parametrize("compressed", [False, True])
@given(
    told=st.lists(responses(), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    read_bytes=st.integers(1, 20),
)
def test_octets_are_the_same_responses_in_whatever_portions_they_come(
    compressed: bool, told: list[Response], sizes: list[int], read_bytes: int
) -> None:
    """With so small a READ_BYTES that literals of a few octets are large ones."""
    octets = b"".join(map(written, told))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "READ_BYTES", read_bytes)
        taken = reading(cut(deflated(octets) if compressed else octets, sizes))
        if compressed:
            taken.compress()
        for response in told:
            found = taken.read(Deadline())
            assert (found.segments, found.literals) == (response.segments, response.literals)
        with pytest.raises(WireBroken, match="closed"):
            taken.read(Deadline())


def test_a_response_may_be_cut_anywhere() -> None:
    told = [
        Response([b"* 1 FETCH (UID 1 BODY[] ", b" X ", b")"], [b"a\r\n{9}\r\n", b""]),
        Response([b"B1 OK done"], []),
    ]
    octets = b"".join(map(written, told))
    for first, second in itertools.combinations(range(len(octets) + 1), 2):
        taken = reading([octets[:first], octets[first:second], octets[second:]])
        assert [taken.read(Deadline()), taken.read(Deadline())] == told


@pytest.mark.parametrize("mark", [b"{5}", b"~{5}", b"{5+}"])
def test_a_literal_is_known_by_each_of_its_marks(mark: bytes) -> None:
    taken = reading([b"* 1 FETCH (BINARY[] " + mark + b"\r\na\r\nbc)\r\n"])
    assert taken.read(Deadline()) == Response([b"* 1 FETCH (BINARY[] ", b")"], [b"a\r\nbc"])


@pytest.mark.parametrize("line", [b"* OK {5} in the middle", b"* OK {}", b"* OK {x}", b"* OK {-5}", b"* OK {5"])
def test_what_only_looks_like_a_literal_is_text(line: bytes) -> None:
    taken = reading([line + b"\r\nB1 OK\r\n"])
    assert taken.read(Deadline()) == Response([line])
    assert taken.read(Deadline()) == Response([b"B1 OK"])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("portion", [1 << 30, 65_537])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 500_000])
def test_a_large_literal_comes_in_one_piece_and_exact(beyond: int, portion: int, compressed: bool) -> None:
    """Also when some of it was read ahead with the line, and when another one follows at once."""
    body = noise(wire.READ_BYTES + beyond)
    told = [
        Response([b"* 1 FETCH (UID 1 BODY[] ", b")"], [body]),
        Response([b"* 2 FETCH (UID 2 BODY[] ", b" X ", b")"], [body[::-1], body]),
        Response([b"B1 OK done"]),
    ]
    octets = b"".join(map(written, told))
    taken = reading(cut(deflated(octets) if compressed else octets, [portion]))
    if compressed:
        taken.compress()
    for response in told:
        found = taken.read(Deadline())
        assert found.segments == response.segments
        assert found.literals == response.literals
        assert all(type(literal) is bytes for literal in found.literals)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_large_literal_is_held_about_once(compressed: bool) -> None:
    size = 30_000_000
    octets = b"* 1 FETCH (UID 1 BODY[] {%d}\r\n" % size + noise(size) + b")\r\n"
    taken = reading([deflated(octets) if compressed else octets])
    if compressed:
        taken.compress()
    tracemalloc.start()
    try:
        found = taken.read(Deadline())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.literals[0]) == size
    assert found.literals[0] == octets[-size - 3 : -3]
    assert peak < 1.3 * size


# What has no end


@pytest.mark.parametrize(
    "start", [b"", b"* 1 FETCH (BODY[] {3}\r\nabc", b"* 1 FETCH (BODY[] {300000}\r\n" + b"x" * 300_000]
)
def test_a_line_without_end_is_left_before_it_fills_the_memory(start: bytes) -> None:
    raw = Portions(itertools.chain([start], itertools.repeat(b"x" * 100_000)))
    with pytest.raises(WireBroken, match="line without end"):
        reading(raw).read(Deadline())
    assert raw.served <= len(start) + DEFAULT.line_octets + 2 * wire.READ_BYTES


def test_a_line_may_be_nearly_as_long_as_is_allowed() -> None:
    line = b"* " + b"x" * (DEFAULT.line_octets - 10)
    assert reading(cut(line + b"\r\n", [100_000])).read(Deadline()).segments == [line]


def test_a_literal_too_large_is_refused_before_any_of_it_is_read() -> None:
    limits = Limits(literal_octets=wire.READ_BYTES + 5)
    allowed = b"x" * limits.literal_octets
    taken = reading([b"* 1 FETCH (BODY[] {%d}\r\n" % len(allowed), allowed + b")\r\n"], limits)
    assert taken.read(Deadline()).literals == [allowed]
    announcement = b"* 1 FETCH (BODY[] {%d}\r\n" % (len(allowed) + 1)
    raw = Portions([announcement, b"never to be read"])
    with pytest.raises(Unreadable, match=f"announced {len(allowed) + 1} bytes"):
        reading(raw, limits).read(Deadline())
    assert raw.served == len(announcement)


def test_the_literals_of_one_response_are_bounded_together() -> None:
    parts = [b"* 1 FETCH (BODY[] {10}\r\n0123456789"] + [b" X {10}\r\n0123456789"] * 20
    for limits, match in ((Limits(literal_octets=95), "announced 100 bytes"), (Limits(literals=5), "has no end")):
        raw = Portions(parts)
        with pytest.raises(Unreadable, match=match):
            reading(raw, limits).read(Deadline())
        assert raw.served < 250


def test_a_literal_of_twenty_digits_needs_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireBroken, match="bytes at once"):
            reading([b"* 1 FETCH (BODY[] {99999999999999999999}\r\n"]).read(Deadline())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[bytes]], Iterator[bytes]]:
    """Portions that come one a second, by a clock of their own."""
    now = 0.0
    monkeypatch.setattr(wire, "time", SimpleNamespace(monotonic=lambda: now))

    def slowly(portions: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal now
        for portion in portions:
            now += 1
            yield portion

    return slowly


LITERAL_THAT_DRIPS = b"* 1 FETCH (BODY[] {300000}\r\n"


@pytest.mark.parametrize("start", [b"* OK", b"* 1 FETCH (BODY[] {3000}\r\n", LITERAL_THAT_DRIPS])
def test_a_server_that_drips_is_left_in_the_middle_of_whatever_it_sends(
    ticking: Callable[[Iterable[bytes]], Iterator[bytes]], start: bytes
) -> None:
    """Each octet starts the socket's own time-out anew."""
    raw = Portions(ticking(itertools.chain([start], itertools.repeat(b"x"))))
    with pytest.raises(WireBroken, match="timed out"):
        reading(raw).read(Deadline())
    assert raw.served < len(start) + DEFAULT.answer_seconds + 5


@pytest.mark.parametrize("start", [b"* OK", LITERAL_THAT_DRIPS])
def test_a_server_that_sends_blocks_of_nothing_is_left(
    ticking: Callable[[Iterable[bytes]], Iterator[bytes]], start: bytes
) -> None:
    """A deflated block may be empty: the connection is alive and nothing ever comes."""
    raw = Portions(ticking(itertools.chain([deflated(start)], itertools.repeat(b"\0\0\0\xff\xff"))))
    taken = reading(raw)
    taken.compress()
    with pytest.raises(WireBroken, match="timed out"):
        taken.read(Deadline())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "octets",
    [b"", b"* OK", b"* OK\r", b"* 1 FETCH (BODY[] {5}\r\nabcd", b"* 1 FETCH (BODY[] {300000}\r\n" + b"x" * 299_999],
    ids=["nothing", "line", "line end", "literal", "large literal"],
)
def test_a_connection_cut_anywhere_is_broken(octets: bytes, compressed: bool) -> None:
    taken = reading([deflated(octets) if compressed else octets])
    if compressed:
        taken.compress()
    with pytest.raises(WireBroken, match="closed the connection"):
        taken.read(Deadline())


# Deflated both ways (RFC 4978)


@pytest.fixture
def pair() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(SECONDS)
        yield Wire(ours, Limits(silence_seconds=SECONDS)), theirs


def test_both_directions_are_deflated_with_a_peer_that_answers_at_once(pair: tuple[Wire, socket.socket]) -> None:
    """Each command can be read when it has come: the peer answers before the next one is sent."""
    ours, theirs = pair
    body = noise(700_000)
    commands = [b"B2 NOOP\r\n", b"B3 APPEND {700000+}\r\n" + body + b"\r\n", b"B4 LOGOUT\r\n"]

    def serve() -> None:
        inflate, deflate = zlib.decompressobj(wbits=-15), zlib.compressobj(wbits=-15)
        for command in commands:
            came = b""
            while len(came) < len(command):
                came += inflate.decompress(theirs.recv(65_536))
            heard.append(came)
            answer = b"* 1 FETCH (UID 1 BODY[] {%d}\r\n" % len(came) + came + b")\r\n" + came[:3] + b"OK\r\n"
            theirs.sendall(deflate.compress(answer) + deflate.flush(zlib.Z_SYNC_FLUSH))

    heard: list[bytes] = []
    theirs.sendall(b"B1 OK DEFLATE active\r\n")
    assert ours.read(Deadline()) == Response([b"B1 OK DEFLATE active"])
    ours.compress()
    serving = threading.Thread(target=serve)
    serving.start()
    try:
        for command in commands:
            ours.send(command)
            found = ours.read(Deadline())
            assert found.literals == [command]
            assert ours.read(Deadline()) == Response([command[:3] + b"OK"])
    finally:
        theirs.shutdown(socket.SHUT_RD)
        serving.join()
    assert heard == commands


def test_what_a_server_deflates_right_behind_its_ok_is_not_lost() -> None:
    """It may have been read ahead with the line that says so."""
    behind = deflated(b"* OK first\r\n", b"* OK second\r\n")
    for size in range(len(behind) + 1):
        taken = reading([b"B1 OK\r\n" + behind[:size], behind[size:]])
        assert taken.read(Deadline()) == Response([b"B1 OK"])
        taken.compress()
        assert taken.read(Deadline()) == Response([b"* OK first"])
        assert taken.read(Deadline()) == Response([b"* OK second"])


NO_DEFLATE = b"\xff" * 50


@pytest.mark.parametrize("sound", [b"", b"* OK", b"* 1 FETCH (BODY[] {5}\r\n", LITERAL_THAT_DRIPS])
def test_what_cannot_be_inflated_is_a_broken_wire(sound: bytes) -> None:
    taken = reading([deflated(sound) + NO_DEFLATE])
    taken.compress()
    with pytest.raises(WireBroken, match="cannot inflate"):
        taken.read(Deadline())


def test_what_cannot_be_inflated_right_behind_the_ok_is_a_broken_wire_too() -> None:
    taken = reading([b"B1 OK\r\n" + NO_DEFLATE])
    taken.read(Deadline())
    with pytest.raises(WireBroken, match="cannot inflate"):
        taken.compress()


# Sending


Sending = tuple[Wire, socket.socket]


@pytest.fixture(params=["plain", "tls"])
def sending(request: pytest.FixtureRequest, authority: Authority, tmp_path: Path) -> Iterator[Sending]:
    """A wire to write to, and the server's end; little fits in between."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        end.settimeout(SECONDS)
    if request.param == "tls":
        server, client = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            ssl.create_default_context(cadata=authority.root.decode()),
        )
        certificate = authority.issue()
        pem = tmp_path / "server.pem"
        pem.write_bytes(certificate.key + certificate.chain)
        server.load_cert_chain(pem)
        with ThreadPoolExecutor(1) as other:
            accepting = other.submit(server.wrap_socket, theirs, server_side=True)
            ours = client.wrap_socket(ours, server_hostname="localhost")
            theirs = accepting.result()
    with ours, theirs:
        yield Wire(ours, Limits(silence_seconds=SECONDS)), theirs


def received(theirs: socket.socket, octets: int) -> bytes:
    found = b""
    while len(found) < octets:
        found += theirs.recv(65536)
    return found


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_sent_arrives_whole(sending: Sending, kind: Callable[[bytes], Any]) -> None:
    ours, theirs = sending
    data = noise(1 << 20)
    with ThreadPoolExecutor(1) as other:
        receiving = other.submit(received, theirs, len(data))
        ours.send(kind(data))
        assert receiving.result() == data


def test_what_is_sent_is_deflated(sending: Sending) -> None:
    ours, theirs = sending
    ours.compress()
    ours.send(b"mail " * 1000)
    assert zlib.decompressobj(wbits=-15).decompress(theirs.recv(65536)) == b"mail " * 1000


def test_whoever_waited_for_room_asks_again_before_anything_more_leaves(
    sending: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process goes on where it waited: what it was about to send must not go out unasked."""
    ours, theirs = sending
    raw = socket.socket(fileno=os.dup(theirs.fileno()))  # octets as they are, not as TLS reads them
    raw.settimeout(SECONDS)
    before = bytearray()

    class Lost(Exception):
        pass

    def make_room(*_: object) -> None:
        before.extend(raw.recv(1 << 20))

    def fence() -> None:
        if before:
            raise Lost

    monkeypatch.setattr(ours, "_wait_until", make_room)
    with pytest.raises(Lost):
        ours.send(noise(1 << 20), fence)
    ours.close()
    with raw, contextlib.suppress(ConnectionError):
        while more := raw.recv(65536):
            before.extend(more)
    assert 0 < len(before) < 1 << 20


def test_a_server_that_takes_nothing_is_not_waited_for_for_ever(sending: Sending) -> None:
    ours, _ = sending
    ours.limits = Limits(taken_per_second=1 << 40)
    ours.be_patient(0.1)
    with pytest.raises(TimeoutError):
        ours.send(noise(1 << 20))
    assert ours.socket.gettimeout() == 0.1
