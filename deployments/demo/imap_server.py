"""A small IMAP server on loopback, for the demo and for the tests that need a server to misbehave.

It keeps to RFC 9051 and RFC 3501, except where its Behaviour says otherwise; messages live in memory. It leaves out
ENVELOPE, BODYSTRUCTURE and single MIME parts, which moving a mailbox never needs, and STARTTLS.
"""

import socket
import socketserver
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from deployments.demo.imap_access import ACCESS_COMMANDS
from deployments.demo.imap_behaviour import CAPABILITIES, Action, Behaviour, Fault, Received
from deployments.demo.imap_folders import FOLDER_COMMANDS
from deployments.demo.imap_messages import MESSAGE_COMMANDS
from deployments.demo.imap_session import Session
from deployments.demo.imap_store import Account, Folder, Message

__all__ = ["CAPABILITIES", "Account", "Action", "Behaviour", "Fault", "Folder", "ImapServer", "Message", "Received"]

PATIENCE = 120.0
"""Seconds after which a session that its client has left is taken not to come to its end."""

COMMANDS = {**ACCESS_COMMANDS, **FOLDER_COMMANDS, **MESSAGE_COMMANDS}


class ImapServer:
    """A server with its accounts; `log` has every command that it received, in order."""

    def __init__(
        self,
        name: str = "demo",
        accounts: Mapping[str, str] | None = None,
        behaviour: Behaviour | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Take the accounts as address -> password; they begin with an empty INBOX."""
        self.name = name
        self.behaviour = behaviour or Behaviour()
        self.tls = tls
        self.lock = threading.Lock()
        self.log: list[Received] = []
        self.sessions: set[Session] = set()
        self.taken = 0  # connections so far
        self.connections = self.most_connections = 0  # open now, and at once at most, as the server counts them
        self.octets_sent = 0  # to all clients
        self.late: list[Session] = []  # whose clients are gone, and whose commands are not carried out yet
        self.failures: list[Exception] = []  # what went wrong in the server itself
        self._accounts: dict[str, Account] = {}
        self._listener: _Listener | None = None
        self._accepting: threading.Thread | None = None
        for address, password in (accounts or {}).items():
            self.add_account(address, password)

    def add_account(self, address: str, password: str) -> Account:
        account = Account(address, password, self.behaviour.separator, folds_case=self.behaviour.folds_case)
        self._accounts[address] = account
        return account

    def account(self, address: str) -> Account:
        return self._accounts[address]

    def find_account(self, address: str) -> Account | None:
        return self._accounts.get(address)

    @property
    def addresses(self) -> list[str]:
        return list(self._accounts)

    @property
    def port(self) -> int:
        if self._listener is None:
            raise RuntimeError("the server is not running")
        return int(self._listener.server_address[1])

    def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1 and return the port; 0 takes a free one."""
        self._listener = _Listener(self, port)
        self._accepting = threading.Thread(
            target=self._listener.serve_forever, args=(0.02,), name=f"imap {self.name}", daemon=True
        )
        self._accepting.start()
        return self.port

    def stop(self) -> None:
        """Close every connection and wait for its end; raise what went wrong inside, lest a test overlook it."""
        if self._listener is None or self._accepting is None:
            return
        self._listener.shutdown()
        self._accepting.join()
        self.drop_connections()
        self._listener.server_close()
        self._listener = self._accepting = None
        if self.failures:
            raise self.failures[0]

    def drop_connections(self) -> None:
        """Cut off every client, as a restart of the server does."""
        with self.lock:
            sessions = list(self.sessions)
        for session in sessions:
            session.drop()
        for session in sessions:
            session.ended.wait()

    def settle(self, before: Session | None = None) -> None:
        """Wait until all is carried out that came over connections which their clients have left.

        Every sign-in waits so for those before it of the same user: what a client left behind is there when it comes
        again, unless it is to be late.
        """
        with self.lock:
            left = [
                session
                for session in self.sessions
                if before is None or (session.user == before.user and session.number < before.number)
            ]
        for session in left:
            if session.is_left and not session.settled.wait(PATIENCE):
                raise RuntimeError(f"a session of {self.name} does not end that its client has left")

    def store_late(self) -> None:
        """Carry out what came over connections that were lost with STORE_LATE."""
        with self.lock:
            late, self.late = self.late, []
        for session in late:
            session.store_late()

    def looked(self, looking: Session) -> None:
        """A session looks what is there: those that wait for that many looks carry out what they have."""
        with self.lock:
            due = [late for late in self.late if late is not looking and late.seen_by_another()]
            self.late = [late for late in self.late if late not in due]
        for session in due:
            session.store_late()

    def commands(self, verb: str, account: str | None = None) -> list[Received]:
        """Return the received commands of one verb ("FETCH" and "UID FETCH" are two)."""
        with self.lock:
            return [entry for entry in self.log if entry.verb == verb and account in (None, entry.account)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Listener(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, imap_server: ImapServer, port: int) -> None:
        self.imap_server = imap_server
        super().__init__(("127.0.0.1", port), socketserver.BaseRequestHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a session in a thread of its own, known to the server from here on, so that stop() misses none."""
        server = self.imap_server
        connection: socket.socket = request
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.tls is not None:
                # The handshake waits for the client, so it is for the session's thread.
                connection = server.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:  # the client has gone already
            connection.close()
            return
        session = Session(server, connection, COMMANDS, server.taken)
        with server.lock:
            server.taken += 1
            server.sessions.add(session)
            server.connections += 1
            server.most_connections = max(server.most_connections, server.connections)
        threading.Thread(target=session.run, name=f"imap {server.name} session", daemon=True).start()
