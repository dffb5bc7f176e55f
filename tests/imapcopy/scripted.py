"""A server that says what a test tells it to say, right or wrong."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable

from imapcopy.account import Account, Server
from tests.imapcopy.world import LIN, PASSWORD

CAPABILITY = b"IMAP4rev1 UIDPLUS MULTIAPPEND LITERAL+ AUTH=PLAIN SASL-IR"

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
