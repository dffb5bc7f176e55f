"""Which mechanisms are tried in which order, and what they say."""

import base64
from dataclasses import replace

import pytest

from imapcopy.account import Account, Server, Token
from imapcopy.mechanisms import (
    acknowledgement,
    login_command,
    mechanisms,
    named_in_one,
    sasl_response,
    template_for,
    told_in,
)
from models.providers import provider_named

SERVER = Server("imap.example", 993)
MEMBER = Account(SERVER, "lin@old.example", "S3cret-canary")
PROXY = Account(SERVER, "lin", "S3cret-canary", login="admin", on_behalf=True)
BOTH_IN_ONE = Account(SERVER, "lin", "S3cret-canary", login="lin*admin")
UMLAUT = Account(SERVER, "lin", "pässword")


class _Tokens:
    def current(self) -> Token:
        return Token("t")

    def ended(self, token: Token) -> None:
        return

    def issued(self) -> tuple[str, ...]:
        return ()


BEARER = Account(SERVER, "lin,o=x@old.example", tokens=_Tokens())
EVERYTHING = frozenset({"AUTH=PLAIN", "AUTH=LOGIN", "AUTH=XOAUTH2", "AUTH=OAUTHBEARER", "SASL-IR"})


@pytest.mark.parametrize(
    ("account", "offered", "preferred", "known", "tried"),
    [
        (MEMBER, {"AUTH=PLAIN"}, (), "", ["PLAIN", "LOGIN"]),
        (MEMBER, set(), (), "", ["LOGIN", "PLAIN"]),
        (MEMBER, {"AUTH=PLAIN"}, ("LOGIN",), "", ["LOGIN", "PLAIN"]),
        (MEMBER, set(), ("XOAUTH2", "PLAIN"), "", ["PLAIN", "LOGIN"]),
        (MEMBER, {"AUTH=PLAIN"}, ("PLAIN",), "LOGIN", ["LOGIN", "PLAIN"]),
        (MEMBER, {"LOGINDISABLED", "AUTH=PLAIN"}, ("LOGIN",), "LOGIN", ["PLAIN"]),
        (MEMBER, {"LOGINDISABLED"}, ("LOGIN",), "", []),
        (UMLAUT, set(), ("LOGIN",), "", ["PLAIN"]),
        (PROXY, set(), ("LOGIN",), "LOGIN", ["PLAIN"]),
        (BOTH_IN_ONE, set(), (), "", ["LOGIN", "PLAIN"]),
        (BEARER, EVERYTHING, (), "", ["XOAUTH2", "OAUTHBEARER"]),
        (BEARER, EVERYTHING, ("OAUTHBEARER", "PLAIN"), "", ["OAUTHBEARER", "XOAUTH2"]),
        (BEARER, {"AUTH=OAUTHBEARER", "AUTH=PLAIN"}, ("XOAUTH2",), "XOAUTH2", ["OAUTHBEARER"]),
        (BEARER, set(), (), "", ["XOAUTH2", "OAUTHBEARER"]),
        (BEARER, {"AUTH=PLAIN"}, (), "", []),
    ],
)
def test_the_order_is_what_worked_then_what_the_service_likes_then_what_the_server_offers(
    account: Account, offered: set[str], preferred: tuple[str, ...], known: str, tried: list[str]
) -> None:
    assert mechanisms(account, offered, preferred=preferred, known=known) == tried


@pytest.mark.parametrize(
    ("provider", "account", "offered", "template"),
    [
        ("exchange", PROXY, {"AUTH=PLAIN"}, "{domain}/{admin}/{user}"),
        ("mirapoint", PROXY, set(), "#{user}@{domain}#{admin}#"),
        ("dovecot", PROXY, {"AUTH=PLAIN"}, ""),
        ("dovecot", PROXY, set(), "{user}*{admin}"),
        ("cyrus", PROXY, set(), ""),
        ("anybody", PROXY, {"AUTH=PLAIN"}, ""),
        ("exchange", BOTH_IN_ONE, {"AUTH=PLAIN"}, ""),
        ("exchange", MEMBER, {"AUTH=PLAIN"}, ""),
    ],
)
def test_an_administrator_is_named_as_the_service_wants_it_unless_the_admin_has_said_how(
    provider: str, account: Account, offered: set[str], template: str
) -> None:
    assert template_for(account, provider_named(provider), offered) == template


@pytest.mark.parametrize(
    ("template", "login"),
    [
        ("{user}*{admin}", "lin@old.example*admin"),
        ("{domain}/{admin}/{user}", "old.example/admin/lin"),
        ("CORP/{admin}/{local}", "CORP/admin/lin"),
        ("#{user}@{domain}#{admin}#", "#lin@old.example#admin#"),
    ],
)
def test_both_names_in_one(template: str, login: str) -> None:
    named = named_in_one(replace(PROXY, user="lin@old.example"), "source", template)
    assert (named.login, named.on_behalf, named.is_the_admins) == (login, False, True)


def test_what_each_mechanism_says() -> None:
    assert sasl_response("PLAIN", MEMBER, "") == b"\0lin@old.example\0S3cret-canary"
    assert sasl_response("PLAIN", PROXY, "") == b"lin\0admin\0S3cret-canary"
    assert sasl_response("PLAIN", BOTH_IN_ONE, "") == b"\0lin*admin\0S3cret-canary"
    assert sasl_response("XOAUTH2", BEARER, "T.7") == b"user=lin,o=x@old.example\x01auth=Bearer T.7\x01\x01"
    # RFC 7628 section 4.1, with the signs of a name that RFC 5801 wants written otherwise.
    assert sasl_response("OAUTHBEARER", BEARER, "T.7") == (
        b"n,a=lin=2Co=3Dx@old.example,\x01host=imap.example\x01port=993\x01auth=Bearer T.7\x01\x01"
    )
    assert login_command(Account(SERVER, 'a"b', "c\\d")) == b'LOGIN "a\\"b" "c\\\\d"'
    assert login_command(BOTH_IN_ONE) == b'LOGIN "lin*admin" "S3cret-canary"'
    assert (acknowledgement("XOAUTH2"), acknowledgement("OAUTHBEARER")) == (b"", b"AQ==")


@pytest.mark.parametrize(
    ("challenge", "told"),
    [
        (b'{"status":"401","schemes":"bearer"}', "status=401 schemes=bearer"),
        (b'{"status":"invalid_token"}', "status=invalid_token"),
        (b"[1]", ""),
        (b"no json", ""),
        (b"[" * 100_000, ""),
        (b"\xff", ""),
    ],
)
def test_what_a_server_says_of_a_token(challenge: bytes, told: str) -> None:
    assert told_in(base64.b64encode(challenge)) == told
    assert told_in(challenge) == ""
