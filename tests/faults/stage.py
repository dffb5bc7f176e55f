"""Both demo servers in a process of their own, so that the process that copies may be forked, and may die.

The process that asks has no threads. What is asked goes over a pipe, one question at a time.
"""

import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from deployments.demo.imap_server import Account, Behaviour, Folder, ImapServer, Message, Received
from imapcopy.identity import digest

USER = "lin@example"
PASSWORD = "S3cret-canary"
WRITING = {"APPEND", "CREATE", "DELETE", "RENAME", "STORE", "EXPUNGE", "COPY", "MOVE", "SELECT", "CLOSE", "SUBSCRIBE"}
DEADLINE = 60.0


class Look(NamedTuple):
    """One message as a reader sees it."""

    folder: str
    raw: bytes
    arrived: datetime
    flags: frozenset[str]


@dataclass(frozen=True)
class Event:
    """Something that happens at a server before it carries out the nth command of a verb."""

    side: str
    verb: str
    act: "Callable[[Stage], object]"
    nth: int = 1


@dataclass(frozen=True)
class Seen:
    """What both sides hold and heard, told by the servers themselves."""

    source: Counter[Look]
    target: Counter[Look]
    appends: int
    received: Counter[bytes]
    """Digests of the messages that came to the target since `forget`."""
    wrote_at_source: set[str]


@dataclass
class Stage:
    """The two servers and the mailbox that is to be moved between them."""

    old: ImapServer = field(default_factory=lambda: ImapServer("old"))
    new: ImapServer = field(default_factory=lambda: ImapServer("new"))
    events: list[Event] = field(default_factory=list)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    received: Counter[bytes] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def source(self) -> Account:
        return self.old.account(USER)

    @property
    def target(self) -> Account:
        return self.new.account(USER)

    def clear(self, capabilities: frozenset[str]) -> None:
        """Empty accounts at servers that behave."""
        self.events = []
        self.counted.clear()
        for side, server in (("source", self.old), ("target", self.new)):
            server.behaviour = Behaviour(capabilities=capabilities)
            server.behaviour.before_command = self._hook(side)
            server.add_account(USER, PASSWORD)
            server.log.clear()
        self.received.clear()
        self.new.behaviour.refuse_message = self._received

    def seen(self) -> Seen:
        verbs = {entry.verb.removeprefix("UID ") for entry in self.old.log}
        appends = len(self.new.commands("APPEND"))
        return Seen(_looks(self.source), _looks(self.target), appends, Counter(self.received), verbs & WRITING)

    def at_source(self) -> list[tuple[Look, int]]:
        """Every message with its UID."""
        return [(_look(folder, message), message.uid) for folder in self.source.folders for message in folder.messages]

    def quiet(self) -> None:
        """Wait until every session has ended: what a dead client had sent has been carried out."""
        for server in (self.old, self.new):
            with server.lock:
                sessions = [session for session in server.sessions if session not in server.late]
            for session in sessions:
                if not session.ended.wait(DEADLINE):
                    raise TimeoutError("a session does not end")

    def _received(self, raw: bytes) -> None:
        with self.lock:
            self.received[digest(raw)] += 1

    def _hook(self, side: str) -> Callable[[Received], None]:
        def hook(entry: Received) -> None:
            verb = entry.verb.removeprefix("UID ")
            with self.lock:
                self.counted[side, verb] += 1
                due = [e for e in self.events if (e.side, e.verb, e.nth) == (side, verb, self.counted[side, verb])]
            for event in due:
                event.act(self)

        return hook


def _looks(account: Account) -> Counter[Look]:
    return Counter(_look(folder, message) for folder in account.folders for message in folder.messages)


def _look(folder: Folder, message: Message) -> Look:
    return Look(folder.name, message.raw, message.internal_date.astimezone(UTC), message.flags)


class Servers:
    """Starts the process of the servers, and asks it."""

    def __init__(self, answers: "dict[str, Callable[..., Any]]") -> None:
        """Take what may be asked for: functions of the Stage, by name."""
        self._asking, answering = Pipe()
        self.pid = os.fork()
        if not self.pid:
            self._asking.close()
            _serve(answering, answers)
        answering.close()
        self.ports: tuple[int, int] = self._asking.recv()

    def ask(self, name: str, *arguments: Any) -> Any:
        self._asking.send((name, arguments))
        if not self._asking.poll(2 * DEADLINE):
            raise TimeoutError(f"the servers do not answer {name}")
        failure, answer = self._asking.recv()
        if failure:
            raise AssertionError(failure)
        return answer

    def stop(self) -> None:
        self._asking.close()
        os.waitpid(self.pid, 0)


def _serve(pipe: Connection, answers: "dict[str, Callable[..., Any]]") -> None:
    """The whole life of the servers' process."""
    status = 1
    try:
        stage = Stage()
        with stage.old, stage.new:
            pipe.send((stage.old.port, stage.new.port))
            while True:
                try:
                    name, arguments = pipe.recv()
                except EOFError:
                    break
                try:
                    pipe.send(("", answers[name](stage, *arguments)))
                except Exception:  # noqa: BLE001  (told to whoever asked)
                    pipe.send((traceback.format_exc(), None))
        status = 0
    except BaseException:  # noqa: BLE001  (this process has nobody above it)
        traceback.print_exc()
    finally:
        os._exit(status)
