"""Whose server it is, as its own words give it away: told to who asked, whether or not the login is taken."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deployments.demo.imap_server import ImapServer
from deployments.demo.personality import personality
from imapcopy.account import Account, Server
from imapcopy.errors import MemberError
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import TargetConnection

USER, PASSWORD = "li@old.example", "canary-password"


@contextmanager
def service(name: str, **changes: object) -> Iterator[tuple[Account, list[tuple[str, str]]]]:
    met: list[tuple[str, str]] = []
    with ImapServer("old.example", behaviour=personality(name).behaviour(**changes)) as server:
        server.add_account(USER, PASSWORD)
        heard = Account(
            Server("127.0.0.1", server.port, "plain"),
            USER,
            PASSWORD,
            met=lambda side, provider: met.append((side, provider)),
        )
        yield heard, met


def test_a_greeting_tells_it_also_to_who_is_refused() -> None:
    with service("qq", login_refusals={USER: "Login fail."}) as (account, met), pytest.raises(MemberError):
        SourceConnection(account)
    assert met == [("source", "qq")]


def test_a_capability_tells_it_after_the_login_where_the_greeting_does_not() -> None:
    with service("gmail", greeting=" ready") as (account, met), TargetConnection(account):
        assert met == [("target", "anybody"), ("target", "gmail")]
