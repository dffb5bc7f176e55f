"""Whose server it is, as its own words give it away: told to who asked, whether or not the login is taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

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
    with service("gmail", greeting=" ready", identity="NIL") as (account, met), TargetConnection(account):
        assert met == [("target", "anybody"), ("target", "gmail")]


@pytest.mark.parametrize("at_once", [False, True])
def test_the_answer_to_id_tells_it_where_greeting_and_capabilities_are_mute(at_once: bool) -> None:
    """Where the login has told the capabilities nobody waits for it: it comes ahead of the next answer."""
    capabilities = frozenset({"IMAP4rev1", "ID"})
    mute = {"capabilities": capabilities, "announced_before_login": "", "announced_after_login": ""}
    zimbra = {"identity": '("NAME" "Zimbra" "VERSION" "8.8.15_GA_3803")', "login_tells_capabilities": at_once}
    with service("courier", greeting=" ready", **mute, **zimbra) as (account, met):
        with SourceConnection(account) as connection:
            connection.listing()
            assert connection.provider.name == "zimbra"
        assert met[0] == ("source", "anybody")
        assert met[-1] == ("source", "zimbra")


@pytest.mark.parametrize("identity", ["NIL", "()", '("name" NIL)', '("name" ("odd"))', '("support-url" "http://x")'])
def test_an_answer_to_id_that_says_nothing_or_is_odd_disturbs_nobody(identity: str) -> None:
    with service(
        "courier",
        greeting=" ready",
        identity=identity,
        capabilities=frozenset({"IMAP4rev1", "ID"}),
        announced_before_login="",
        announced_after_login="",
    ) as (account, met):
        with SourceConnection(account) as connection:
            assert connection.listing().folders
            assert connection.provider.name == "anybody"
        assert {provider for _, provider in met} == {"anybody"}


def test_what_the_roster_told_counts_more_than_greeting_and_id() -> None:
    with service("netease") as (account, met):
        told = replace(account, server=replace(account.server, provider="netease_qiye"))
        with SourceConnection(told) as connection:
            connection.listing()
            assert connection.provider.name == "netease_qiye"
        assert {provider for _, provider in met} == {"netease_qiye"}
