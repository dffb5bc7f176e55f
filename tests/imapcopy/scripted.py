"""A server that says what a test tells it to say, right or wrong."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable

from imapcopy.account import Account, Server
from tests.imapcopy.world import LIN, PASSWORD

CAPABILITY = b"IMAP4rev1 UIDPLUS MULTIAPPEND LITERAL+ AUTH=PLAIN SASL-IR"

SECONDS = 120.0
"""No played server waits longer for its client: a test that hangs is a test that fails."""

# Verb -> the untagged lines before a tagged OK, or a function of the arguments that returns the whole answer.
Answers = dict[str, bytes | Callable[[bytes], bytes]]


class Scripted:
    """Serves one connection after the other; `received` has every line that a client sent."""

    def __init__(self, answers: Answers | None = None, greeting: bytes = b"* OK ready\r\n") -> None:
        self.answers: Answers = {
            "CAPABILITY": b"* CAPABILITY " + CAPABILITY + b"\r\n",
            "EXAMINE": b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n",
            "SELECT": b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 4] x\r\n",
            **(answers or {}),
        }
        self.greeting = greeting
        self.received: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._connections: list[socket.socket] = []

    def __enter__(self) -> "Scripted":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    @property
    def account(self) -> Account:
        return Account(Server("127.0.0.1", self._listener.getsockname()[1], "plain"), LIN, PASSWORD)

    def verbs(self) -> list[str]:
        return [self._verb(line) for line in self.received]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
                connection.sendall(self.greeting)
                for line in lines:
                    self.received.append(line)
                    if not self._answer(connection, line):
                        break

    def _answer(self, connection: socket.socket, line: bytes) -> bool:
        found = re.match(rb"(\S+) (?:UID )?([A-Za-z]+) ?(.*)\r\n", line, re.DOTALL)
        if not found:
            return True
        tag, verb, rest = found.groups()
        answer = self.answers.get(verb.decode().upper(), b"")
        if callable(answer):
            said = answer(rest).replace(b"TAG", tag)
        elif verb.upper() == b"AUTHENTICATE" and b" " not in rest and not answer:
            connection.sendall(b"+ \r\n")
            said = answer + tag + b" OK done\r\n"
        else:
            said = answer + tag + b" OK done\r\n"
        connection.sendall(said)
        # An answer with an empty last line is the end of the connection.
        return not said.endswith(b"\r\n\r\n") and verb.upper() != b"LOGOUT"

    def _verb(self, line: bytes) -> str:
        words = line.decode("latin-1").split()
        return words[1].upper() if len(words) > 1 else ""


class Peer:
    """The server's end of one connection; whatever does not come is a TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def say(self, octets: bytes) -> None:
        self._connection.sendall(octets)

    def line(self) -> bytes:
        """The next line without its end, b"" when the client is gone."""
        return self._file.readline().removesuffix(b"\r\n")

    def octets(self, size: int) -> bytes:
        return self._file.read(size)

    def expect(self, *commands: bytes) -> list[bytes]:
        """Read so many commands without answering any; they must begin so. Returns their tags."""
        tags = []
        for command in commands:
            tag, _, rest = self.line().partition(b" ")
            assert rest.startswith(command), f"{rest!r} came where {command!r} was expected"
            tags.append(tag)
        return tags

    def cut(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()


Play = Callable[[Peer], object]


class Played:
    """A server whose only connection a test plays, command by command; what goes wrong in the play fails the test.

    Signs the client in first, unless `capabilities` is empty. After the play each command is answered with OK.
    """

    def __init__(self, play: Play, capabilities: bytes = CAPABILITY) -> None:
        self._play = play
        self._capabilities = capabilities
        self._failure: BaseException | None = None
        self.after: list[bytes] = []
        """The commands that came after the play."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SECONDS)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Played":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.join(2 * SECONDS)
        self._listener.close()
        assert not self._thread.is_alive(), "the play has not ended"
        if self._failure:
            raise self._failure

    @property
    def account(self) -> Account:
        return Account(Server("127.0.0.1", self._listener.getsockname()[1], "plain"), LIN, PASSWORD)

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(SECONDS)
                peer = Peer(connection)
                try:
                    self._serve(peer)
                finally:
                    peer.close()
        except BaseException as failure:  # noqa: BLE001  (raised in the test's own thread)
            self._failure = failure

    def _serve(self, peer: Peer) -> None:
        peer.say(b"* OK ready\r\n")
        if self._capabilities:
            [asked] = peer.expect(b"CAPABILITY")
            peer.say(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\r\n" + asked + b" OK done\r\n")
            [login] = peer.expect(b"AUTHENTICATE PLAIN ")
            peer.say(login + b" OK [CAPABILITY " + self._capabilities + b"] in\r\n")
        self._play(peer)
        with contextlib.suppress(ConnectionError):
            while line := peer.line():
                tag, _, command = line.partition(b" ")
                self.after.append(command)
                if command == b"LOGOUT":
                    return
                peer.say(tag + b" OK done\r\n")


def opened(tag: bytes, uidvalidity: int = 7, keywords: bytes = b"\\*", exists: int = 3) -> bytes:
    told = b"* %d EXISTS\r\n* OK [UIDVALIDITY %d] x\r\n* OK [UIDNEXT 4] x\r\n" % (exists, uidvalidity)
    told += b"* OK [PERMANENTFLAGS (%b)] x\r\n" % keywords
    return told + tag + b" OK open\r\n"


def body(uid: int, raw: bytes) -> bytes:
    return b"* %d FETCH (UID %d BODY[] {%d}\r\n%b)\r\n" % (uid, uid, len(raw), raw)


def line(uid: int, size: int = 5) -> bytes:
    date = b'"01-May-2024 10:00:00 +0000"'
    return b"* %d FETCH (UID %d FLAGS () INTERNALDATE %b RFC822.SIZE %d)\r\n" % (uid, uid, date, size)


def done(*tags: bytes) -> bytes:
    return b"".join(tag + b" OK done\r\n" for tag in tags)
