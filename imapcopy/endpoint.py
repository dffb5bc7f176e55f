"""One side of a copy: an account and the connection that is open to it now."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar

from imapcopy.account import Account
from imapcopy.connection import Connection
from imapcopy.errors import ConnectionLost, Stopped
from imapcopy.numbering import Numbering
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import TargetConnection

C = TypeVar("C", bound=Connection)
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
P = ParamSpec("P")

TOKENS_IN_VAIN = 4
"""So often a session may end with its access token before anything came of it."""


class Endpoint(Generic[C]):
    """Opens its connection when first asked, and a fresh one after a loss."""

    def __init__(
        self, account: Account, open_connection: Callable[[Account], C], stop: threading.Event | None = None
    ) -> None:
        self.account = account
        self._stop = stop
        self._open = open_connection
        self._connection: C | None = None
        self._last: C | None = None
        self._ended = False
        self._beside: list[Endpoint[C]] = []
        self.is_careful = False
        """One command at a time, and small ones: a session has ended before anything came of it."""
        self.dropped_at = time.monotonic()
        """When a connection was last thrown away; an earlier process may have lost one just before this began."""
        self.longest_wait = 0.0
        """The longest that the server has taken to answer what changes something, in seconds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is None:
            return
        if error is None:
            self._connection.close()
        else:
            # In the middle of a command a LOGOUT would be read as part of a message.
            self._connection.drop()

    @property
    def connection(self) -> C:
        if self._connection is None:
            if self._ended:
                raise Stopped
            self._connection = self._open(self.account)
            if self._ended:
                self.forget()
                raise Stopped
            if self._last:
                # That a server knows no EXAMINE, or gives no parts of a message, is found out once.
                self._connection.learn_from(self._last)
            self._last = self._connection
            self._connection.is_careful = self.is_careful
        return self._connection

    def check_stop(self) -> None:
        """Raise Stopped when a stop has been asked for: between the parts of what takes long."""
        if self._stop and self._stop.is_set():
            raise Stopped

    def ask(self, question: Callable[Concatenate[C, P], A], *args: P.args, **named: P.kwargs) -> A:
        """The answer to what may be asked twice: again from its beginning where the session ends with its token."""
        for _ in range(TOKENS_IN_VAIN):
            try:
                return question(self.connection, *args, **named)
            except ConnectionLost as lost:
                if not self.may_be_the_token(lost):
                    raise
                self.forget()
        return question(self.connection, *args, **named)

    def each(
        self, items: Iterable[T], question: Callable[[C, Sequence[T]], Iterable[tuple[T, A]]]
    ) -> Iterator[tuple[T, A]]:
        """What is answered of many things, as it comes; where a session ends, the rest is asked for over the next one.

        That goes on as long as each session brings something; one that brought nothing is followed by a careful one.
        """
        left = dict.fromkeys(items)
        # Of a session that has been in use before, it says little when it ends.
        in_vain = 0 if self._connection is None else -1
        while True:
            before = len(left)
            try:
                for item, answer in question(self.connection, list(left)):
                    left.pop(item, None)
                    yield item, answer
                return
            except ConnectionLost as lost:
                in_vain = 0 if len(left) < before else in_vain + 1
                # Where a server falls silent, or says what cannot be read, it may be for what it was asked about.
                ended = lost.cause_id == "connection_dropped" or self.may_be_the_token(lost)
                if not ended or (in_vain > 0 and not self.may_go_on(lost, in_vain)):
                    raise
                self.check_stop()
                self.forget()

    def again(self, question: Callable[Concatenate[C, P], A], *args: P.args, **named: P.kwargs) -> A:
        """The answer to what may be asked twice; once more where the session ends with it."""
        [(_, answer)] = self.each([None], lambda connection, _: [(None, question(connection, *args, **named))])
        return answer

    def may_go_on(self, lost: ConnectionLost, in_vain: int) -> bool:
        """Whether to ask once more after so many sessions in a row that ended before anything came of them.

        Over the next one nothing is sent before the last is answered: what a server that ends sessions had answered to
        commands behind would be lost with it.
        """
        if self.may_be_the_token(lost):
            return in_vain <= TOKENS_IN_VAIN
        before, self.is_careful = self.is_careful, True
        return not before

    def may_be_the_token(self, lost: ConnectionLost) -> bool:
        """Whether a session ended with its access token: who is writing then may not come to read that it did."""
        return self.account.tokens is not None and lost.cause_id in {"token_expired", "connection_dropped"}

    def interrupt(self) -> None:
        """Wake the thread that waits for this connection; `forget` it once that thread has ended."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def another(self) -> "Endpoint[C]":
        """One more connection to the same account, which ends with this one."""
        found = Endpoint(self.account, self._open, self._stop)
        self._beside.append(found)
        return found

    def end(self) -> None:
        """Cut the connection, and open none any more: whoever asks for one is told that a stop was asked for."""
        for endpoint in (self, *self._beside):
            endpoint._ended = True
            endpoint.interrupt()

    def forget(self) -> None:
        """Throw the connection away; the next use opens another."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.drop()
            self._connection = None
            self.dropped_at = time.monotonic()

    def waited(self, begun: float) -> None:
        """An answer has come to what was sent at that moment of time.monotonic()."""
        self.longest_wait = max(self.longest_wait, time.monotonic() - begun)

    def reopen(self) -> C:
        """Throw the connection away and open another."""
        self.forget()
        return self.connection


def source_endpoint(account: Account, stop: threading.Event | None = None) -> Endpoint[SourceConnection]:
    return Endpoint(account, SourceConnection, stop)


def target_endpoint(account: Account, stop: threading.Event | None = None) -> Endpoint[TargetConnection]:
    numbering = Numbering()

    def open_connection(account: Account) -> TargetConnection:
        connection = TargetConnection(account)
        # What was found out about its folders is found out once.
        connection.numbering = numbering
        return connection

    return Endpoint(account, open_connection, stop)


def ask_both(at_source: Callable[[], A], at_target: Callable[[], B]) -> tuple[A, B]:
    """Ask both servers at once; a failure at the source is told first."""
    with ThreadPoolExecutor(1) as other:
        asking = other.submit(at_target)
        told = at_source()
        return told, asking.result()
