"""Servers that drip, chatter or flood, and what each costs a client: peak memory, seconds, and how it ended.

`python -m tests.imapcopy.hostile` runs each against the bounds as they are set, in a process of its own, and prints a
table; `test_hostile.py` runs all of them with small bounds.
"""

import json
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count, repeat
from pathlib import Path

from imapcopy.account import Account, Server
from imapcopy.errors import MigrationError
from imapcopy.flight import FetchRequest
from imapcopy.folders import Folder
from imapcopy.limits import DEFAULT, Limits
from imapcopy.source_connection import SourceConnection

INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())
MOST_SENT = 6 << 30
"""Octets; a client that takes more is not bounded."""
DRIP_SECONDS = 0.01
OPENED = b"* 900000 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 5] x\r\n"
LINES = 2000
"""So many are sent at once."""


def _together(lines: Iterator[bytes]) -> Iterator[bytes]:
    while some := b"".join(line for line, _ in zip(lines, range(LINES), strict=False)):
        yield some


def _scanned(flags: Callable[[int], bytes]) -> Iterator[bytes]:
    date = b'"01-May-2024 10:00:00 +0000"'
    for uid in count(1):
        yield b"* %d FETCH (UID %d FLAGS (%b) INTERNALDATE %b RFC822.SIZE %d)\r\n" % (uid, uid, flags(uid), date, uid)


def _deflated(octets: Iterator[bytes]) -> Iterator[bytes]:
    deflate = zlib.compressobj(9, wbits=-15)
    for some in octets:
        yield deflate.compress(some) + deflate.flush(zlib.Z_SYNC_FLUSH)


def _body_of(uid: int, size: int) -> bytes:
    return b"* %d FETCH (UID %d BODY[] {%d}\r\n" % (uid, uid, size) + b"x" * size + b")\r\n"


@dataclass(frozen=True)
class Case:
    """What a server sends in place of an answer to a command ("" for its greeting), and what the client does."""

    command: str
    sends: Callable[[], Iterator[bytes]]
    act: Callable[[SourceConnection], object] = SourceConnection.listing
    compressed: bool = False
    drips: bool = False


def _opened(act: Callable[[SourceConnection], object]) -> Callable[[SourceConnection], object]:
    def opened(connection: SourceConnection) -> object:
        connection.examine(INBOX)
        return act(connection)

    return opened


_scan = _opened(SourceConnection.scan)
_stream = _opened(lambda c: list(c.stream([FetchRequest(b"INBOX", list(range(1, 251)), 250_000)])))
_zeros = b"\0" * (1 << 20)
CASES: dict[str, Case] = {
    "a greeting that drips": Case("", lambda: repeat(b"*"), drips=True),
    "a greeting without end": Case("", lambda: repeat(b"* OK " + b"x" * 65536)),
    "greetings without end": Case("", lambda: repeat(b"* NO slow\r\n" * LINES)),
    "capabilities that drip": Case("CAPABILITY", lambda: repeat(b"*"), drips=True),
    "chatter before the capabilities": Case("CAPABILITY", lambda: repeat(b"* OK still here\r\n" * LINES)),
    "an announced 10 GB": Case("LIST", lambda: repeat(b'* LIST () "/" {10737418240}\r\n' + b"x" * 65536)),
    "literals without end": Case("LIST", lambda: repeat(b'* LIST () "/" {4000000}\r\n' + b"x" * 4_000_000 + b" ")),
    "small literals without end": Case("LIST", lambda: repeat(b"* LIST () {1}\r\nx" + b" {1}\r\nx" * 60_000)),
    "a million folders": Case("LIST", lambda: _together(b'* LIST () "/" "F%d"\r\n' % n for n in range(1_000_000))),
    "folders of many attributes": Case("LIST", lambda: repeat(b"* LIST (" + b"\\a " * 80_000 + b') "/" F\r\n')),
    "a million subscriptions": Case("LSUB", lambda: _together(b'* LSUB () "/" "F%d"\r\n' % n for n in count())),
    "lines that are no answers": Case("LIST", lambda: repeat(b"what?\r\n" * LINES)),
    "brackets without end": Case("LIST", lambda: repeat(b"* LIST " + b"(" * 250_000 + b"\r\n")),
    "messages without end": Case("FETCH", lambda: _together(_scanned(lambda uid: b"\\Seen")), _scan),
    "keywords without end": Case(
        "FETCH", lambda: _scanned(lambda uid: b" ".join(b"%d-%d" % (uid, n) for n in range(15_000))), _scan
    ),
    "keywords of 300 octets": Case(
        "FETCH", lambda: _together(_scanned(lambda uid: b" ".join(b"%d-%d" % (uid, n) for n in range(30)))), _scan
    ),
    "messages larger than told": Case("FETCH", lambda: (_body_of(uid, 8 << 20) for uid in range(1, 251)), _stream),
    "a message of literals": Case(
        "FETCH", lambda: repeat(b"* 1 FETCH (UID 1 BODY[] {8000000}\r\n" + b"x" * 8_000_000 + b" "), _stream
    ),
    "zeros in a line": Case("LIST", lambda: _deflated(repeat(_zeros)), compressed=True),
    "zeros in a message": Case(
        "FETCH",
        lambda: _deflated(iter([b"* 1 FETCH (UID 1 BODY[] {180000000}\r\n", *repeat(_zeros, 172), b")\r\n"] * 20)),
        _stream,
        compressed=True,
    ),
}


class Hostile:
    """Serves one connection: friendly until the command of the case comes."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError), self._listener, self._listener.accept()[0] as connection:
            if not self._case.command:
                self._attack(connection)
                return
            connection.sendall(b"* OK ready\r\n")
            deflate: zlib._Compress | None = None
            inflate = zlib.decompressobj(wbits=-15)
            waiting = b""
            while came := connection.recv(65536):
                waiting += inflate.decompress(came) if deflate else came
                while b"\r\n" in waiting:
                    line, _, waiting = waiting.partition(b"\r\n")
                    tag, verb, *_ = (*line.replace(b" UID ", b" ").split(b" "), b"")
                    if verb == self._case.command.encode():
                        self._attack(connection)
                        return
                    said = self._untagged(verb) + tag + b" OK done\r\n"
                    connection.sendall(deflate.compress(said) + deflate.flush(zlib.Z_SYNC_FLUSH) if deflate else said)
                    if verb == b"COMPRESS":
                        deflate = zlib.compressobj(wbits=-15)

    @staticmethod
    def _untagged(verb: bytes) -> bytes:
        if verb == b"CAPABILITY":
            return b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN COMPRESS=DEFLATE\r\n"
        return OPENED if verb == b"EXAMINE" else b""

    def _attack(self, connection: socket.socket) -> None:
        for octets in self._case.sends():
            connection.sendall(octets)
            self.sent += len(octets)
            if self._case.drips:
                time.sleep(DRIP_SECONDS)
            if self.sent > MOST_SENT:
                return


@dataclass(frozen=True)
class Outcome:
    """How a case ended; `grew` is by how much the peak of memory is above what the process had before, in MB."""

    case: str
    cause: str
    seconds: float
    grew: float
    peak: float


def peak() -> float:
    """The most that this process has had, in MB; ru_maxrss would count what its parent had when it began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def run(name: str, limits: Limits) -> Outcome:
    """Meet a case in this process."""
    case = CASES[name]
    server = Hostile(case)
    account = Account(Server("127.0.0.1", server.port, "plain"), "lin", "invented-1", limits=limits)
    before, begun, cause = peak(), time.monotonic(), "none"
    connection: SourceConnection | None = None
    try:
        connection = SourceConnection(account)
        if case.compressed:
            connection.compress()
        case.act(connection)
    except MigrationError as error:
        cause = error.cause_id
    finally:
        if connection:
            connection.drop()
    return Outcome(name, cause, time.monotonic() - begun, peak() - before, peak())


def in_a_process(names: list[str], limits: Limits = DEFAULT) -> list[Outcome]:
    """Meet cases one after the other in one process of their own."""
    asked = json.dumps([names, asdict(limits)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.imapcopy.hostile", asked], capture_output=True, text=True, check=True
    )
    return [Outcome(**each) for each in json.loads(done.stdout)]


def main() -> None:
    if len(sys.argv) > 1:
        names, limits = json.loads(sys.argv[1])
        print(json.dumps([asdict(run(name, Limits(**limits))) for name in names]))
        return
    for name in CASES:
        [found] = in_a_process([name])
        print(f"{found.case:35} {found.cause:20} {found.seconds:6.1f} s {found.grew:6.0f} MB {found.peak:6.0f} MB")


if __name__ == "__main__":
    main()
