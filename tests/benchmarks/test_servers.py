"""The servers of a benchmark hold clients to what services hold them to."""

import imaplib

import pytest

from benchmarks.bench import MEMORY
from benchmarks.job import PASSWORD
from benchmarks.servers import LeanDovecot, two_servers
from tests.servers.dovecot import DEADLINE


@pytest.mark.dovecot
def test_an_account_has_no_more_connections_than_the_cap() -> None:
    with two_servers("full", MEMORY, ["one"], ["one"], cap=2) as servers:
        for server in servers:
            open_ones = [_sign_in(server) for _ in range(2)]
            with pytest.raises(imaplib.IMAP4.error, match="Maximum number of connections"):
                _sign_in(server)
            for connection in open_ones:
                connection.logout()


def _sign_in(server: LeanDovecot) -> imaplib.IMAP4:
    connection = imaplib.IMAP4(server.host, server.port, timeout=DEADLINE)
    try:
        connection.login("one", PASSWORD)
    except BaseException:
        connection.shutdown()
        raise
    return connection
