"""Administrators and access tokens at real servers: what they let in, and in which words they refuse."""

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from imapcopy.account import Account, Server, Token
from imapcopy.errors import MemberError, MigrationError
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import TargetConnection
from models.providers import use_providers
from tasks.credentials import by_administrator
from tests.servers.cyrus import ADMIN, Cyrus, StartCyrus
from tests.servers.dovecot import Dovecot, StartDovecot, User

LIN, WANG = User("lin@old.example", "invented-1"), User("wang@old.example", "invented-2")
MASTER = User("mailadmin", "invented master 7")
MASTERS = """
auth_master_user_separator = *
passdb {
  driver = passwd-file
  args = HERE/masters
  master = yes
  result_success = continue
}
"""


@pytest.fixture
def dovecot(start_dovecot: StartDovecot) -> Dovecot:
    server = start_dovecot(settings=MASTERS, files={"masters": f"{MASTER.name}:{{PLAIN}}{MASTER.password}\n"})
    server.add_users([LIN, WANG])
    return server


@pytest.fixture
def cyrus(start_cyrus: StartCyrus) -> Cyrus:
    server = start_cyrus(settings={"proxyservers": "mover"})
    server.add_users([User("lin", "invented-1"), User("wang", "invented-2"), User("mover", MASTER.password)])
    return server


def at(server: Dovecot | Cyrus) -> Server:
    return Server("127.0.0.1", server.port, "plain")


def folder_made_by(account: Account, name: str) -> None:
    with TargetConnection(account) as connection:
        assert not connection.create([name], {}, [])


def folders(account: Account) -> set[str]:
    with SourceConnection(account) as connection:
        return {folder.name for folder in connection.listing().folders}


def refused(account: Account) -> MigrationError:
    with pytest.raises(MemberError) as caught:
        SourceConnection(account)
    return caught.value


@pytest.mark.parametrize("template", ["{user}*{admin}", ""])
def test_a_master_of_dovecot_opens_the_member_s_own_mailbox(dovecot: Dovecot, template: str) -> None:
    folder_made_by(Account(at(dovecot), LIN.name, LIN.password), "Only Lin")
    master = by_administrator(at(dovecot), "source", LIN.name, MASTER.name, MASTER.password, template)
    assert "Only Lin" in folders(master)
    other = by_administrator(at(dovecot), "source", WANG.name, MASTER.name, MASTER.password, template)
    assert "Only Lin" not in folders(other)


def test_a_master_of_dovecot_needs_no_separator_where_no_template_is_written(start_dovecot: StartDovecot) -> None:
    settings = MASTERS.replace("auth_master_user_separator = *\n", "")
    server = start_dovecot(settings=settings, files={"masters": f"{MASTER.name}:{{PLAIN}}{MASTER.password}\n"})
    server.add_users([LIN])
    folder_made_by(Account(at(server), LIN.name, LIN.password), "Only Lin")
    master = by_administrator(at(server), "source", LIN.name, MASTER.name, MASTER.password)
    with SourceConnection(master) as connection:
        assert connection.provider.name == "dovecot"
        assert "Only Lin" in {folder.name for folder in connection.listing().folders}
    assert "[AUTH" in refused(replace(master, login=f"{LIN.name}*{MASTER.name}", on_behalf=False)).server_text


def test_an_own_row_says_how_its_server_names_a_master(start_dovecot: StartDovecot) -> None:
    settings = MASTERS.replace("separator = *", "separator = %")
    server = start_dovecot(settings=settings, files={"masters": f"{MASTER.name}:{{PLAIN}}{MASTER.password}\n"})
    server.add_users([LIN])
    folder_made_by(Account(at(server), LIN.name, LIN.password), "Only Lin")
    row = '[corp]\ntitle = { zh = "旧邮箱", en = "old mail" }\nmaster = "{user}%{admin}"\n'
    use_providers(row, "providers.toml")
    try:
        told = replace(at(server), provider="corp")
        assert "Only Lin" in folders(by_administrator(told, "source", LIN.name, MASTER.name, MASTER.password))
    finally:
        use_providers("", "")


@pytest.mark.parametrize("template", ["{user}*{admin}", ""])
@pytest.mark.parametrize(
    ("user", "admin", "password", "cause", "code"),
    [
        (LIN.name, MASTER.name, "wrong one", "admin_refused", "[AUTHENTICATIONFAILED]"),
        (LIN.name, WANG.name, WANG.password, "admin_refused", "[AUTHENTICATIONFAILED]"),
        ("nobody@old.example", MASTER.name, MASTER.password, "not_authorized", "[AUTHORIZATIONFAILED]"),
    ],
)
def test_what_dovecot_says_of_a_master_is_not_laid_to_the_member(
    dovecot: Dovecot, template: str, user: str, admin: str, password: str, cause: str, code: str
) -> None:
    error = refused(by_administrator(at(dovecot), "source", user, admin, password, template))
    assert (error.cause_id, error.cause.owner) == (cause, "admin")
    assert code in error.server_text
    assert password not in str(error)


@pytest.mark.parametrize(("admin", "password"), [("mover", MASTER.password), (ADMIN.name, ADMIN.password)])
def test_a_proxy_of_cyrus_opens_the_member_s_own_mailbox(cyrus: Cyrus, admin: str, password: str) -> None:
    folder_made_by(Account(at(cyrus), "lin", "invented-1"), "INBOX.Only Lin")
    assert "INBOX.Only Lin" in folders(by_administrator(at(cyrus), "source", "lin", admin, password))
    assert "INBOX.Only Lin" not in folders(by_administrator(at(cyrus), "source", "wang", admin, password))


@pytest.mark.parametrize(("admin", "password"), [("wang", "invented-2"), ("mover", "wrong one")])
def test_cyrus_does_not_say_whether_a_right_or_the_password_is_lacking(cyrus: Cyrus, admin: str, password: str) -> None:
    error = refused(by_administrator(at(cyrus), "source", "lin", admin, password))
    assert (error.cause_id, error.server_text) == ("admin_refused", "NO authentication failure")


# Access tokens


@dataclass
class Introspection:
    """Tells Dovecot whose a token is (RFC 7662 in the form that Google has)."""

    good: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def __enter__(self) -> "Introspection":
        good = self.good

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                [token] = parse_qs(urlparse(self.path).query).get("access_token", [""])
                content = json.dumps({"email": good[token]} if token in good else {"error": "invalid_token"}).encode()
                self.send_response(200 if token in good else 400)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Listed:
    """Tokens out of a list, the next one when the one before has ended."""

    values: list[str]
    shown: list[str] = field(default_factory=list)

    def current(self) -> Token:
        fresh = not self.shown
        if fresh:
            self.shown.append(self.values[0])
        return Token(self.values[0], fresh=fresh or self.values[0] not in self.shown[:1])

    def ended(self, token: Token) -> None:
        if len(self.values) > 1 and self.values[0] == token.value:
            del self.values[0]

    def issued(self) -> Iterable[str]:
        return tuple(self.values)


@pytest.fixture
def introspection() -> Iterator[Introspection]:
    with Introspection() as running:
        yield running


@pytest.fixture(params=["xoauth2", "oauthbearer"])
def with_tokens(request: pytest.FixtureRequest, start_dovecot: StartDovecot, introspection: Introspection) -> Dovecot:
    server = start_dovecot(
        settings=f"""
auth_mechanisms = plain {request.param}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = HERE/oauth2.conf
}}
""",
        files={
            "oauth2.conf": f"tokeninfo_url = http://127.0.0.1:{introspection.port}/tokeninfo?access_token=\n"
            "introspection_mode = get\nusername_attribute = email\n"
        },
    )
    server.add_users([LIN, WANG])
    return server


def test_dovecot_takes_a_token_by_either_mechanism(with_tokens: Dovecot, introspection: Introspection) -> None:
    introspection.good["canary-token-1"] = LIN.name
    folder_made_by(Account(at(with_tokens), LIN.name, LIN.password), "Only Lin")
    assert "Only Lin" in folders(Account(at(with_tokens), LIN.name, tokens=Listed(["canary-token-1"])))


def test_dovecot_s_refusal_of_a_token_is_answered_and_a_new_one_is_taken(
    with_tokens: Dovecot, introspection: Introspection
) -> None:
    introspection.good["canary-token-2"] = LIN.name
    tokens = Listed(["canary-token-1", "canary-token-2"])
    tokens.current()
    assert folders(Account(at(with_tokens), LIN.name, tokens=tokens))
    with pytest.raises(MigrationError) as caught:
        SourceConnection(Account(at(with_tokens), LIN.name, tokens=Listed(["canary-token-9"])))
    assert caught.value.cause_id == "token_refused", caught.value.server_text
    assert "canary-token-9" not in str(caught.value)
    with pytest.raises(MigrationError):
        SourceConnection(Account(at(with_tokens), WANG.name, tokens=Listed(["canary-token-2"])))
