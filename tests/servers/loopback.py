"""Ports on loopback, and a web server of the standard library on one of them, for as long as a test needs it."""

import os
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DEADLINE = 120.0
"""Seconds after which something will not come any more: far longer than it takes a busy machine."""


def reserved_port(server: object) -> int:
    """A port that nobody else is given while `server` lives, whether it listens there just then or not.

    A socket that is bound with SO_REUSEADDR and does not listen keeps the port from whoever is given any free one, for
    listening or for connecting from. A server that names the port and sets that option too, as all do that are started
    again on their port, may listen there.
    """
    with socket.socket() as holding:
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holding.bind(("127.0.0.1", 0))
        port: int = holding.getsockname()[1]
        weakref.finalize(server, os.close, holding.detach())
        return port


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests in threads; gives the server's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
