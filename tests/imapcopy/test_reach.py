"""To which of its addresses a host is connected to: what a name means is looked at when it is used."""

import socket
from dataclasses import replace
from typing import Any

import pytest

from deployments.demo.imap_server import ImapServer
from imapcopy import reach, unconnected
from imapcopy.errors import MemberError
from imapcopy.source_connection import SourceConnection
from tests.imapcopy.world import LIN, account_at


def means(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let every name have these addresses; returns what is connected to."""
    connected: list[str] = []

    def found(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            connected.append(address[0])
            super().connect(address)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr(reach.socket, "socket", Watched)
    return connected


NEVER = ["169.254.169.254", "fe80::1", "::ffff:169.254.1.1", "100.100.100.200"]


@pytest.mark.parametrize("address", NEVER)
def test_a_name_that_leads_to_what_is_no_mail_server_is_not_connected_to(
    address: str, old: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = means(monkeypatch, address)
    account = account_at(old, LIN)
    with pytest.raises(MemberError) as caught:
        SourceConnection(replace(account, server=replace(account.server, host="imap.old.example", plain_allowed=True)))
    assert (caught.value.cause_id, caught.value.retryable) == ("address_refused", False)
    assert unconnected.banner("imap.old.example", 993) == b""
    assert connected == []


def test_a_private_address_is_connected_to_only_where_it_may_be(
    old: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = means(monkeypatch, *NEVER, "127.0.0.1")
    account = account_at(old, LIN)
    server = replace(account.server, host="imap.old.example", plain_allowed=True)
    with pytest.raises(MemberError) as caught:
        SourceConnection(replace(account, server=replace(server, private_allowed=False)))
    assert caught.value.cause_id == "address_refused"
    assert connected == []
    SourceConnection(replace(account, server=server)).close()
    assert connected == ["127.0.0.1"]
