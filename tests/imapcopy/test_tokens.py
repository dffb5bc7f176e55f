"""Mailboxes that open by access tokens, which end whenever they like: at the sign-in, in the middle of a mailbox."""

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from deployments.demo.imap_server import Action, Fault, ImapServer
from deployments.demo.imap_tokens import TokenBook
from imapcopy.account import Account, Server, Token
from imapcopy.admission import Admission
from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.endpoint import TOKENS_IN_VAIN
from imapcopy.errors import ConnectionLost, MemberError, MigrationError, ServerError
from imapcopy.source_connection import SourceConnection
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from models.member import release_lease
from tests.imapcopy.scripted import Peer, Played, Scripted
from tests.imapcopy.world import LIN, NEW, Box, everything


@dataclass
class Subject:
    """Tokens of one account out of a server's book, each with a life of so many commands."""

    book: TokenBook
    account: str
    commands: int | None = None
    only_first: bool = False
    """The first token alone has such a life, the others go on for ever."""
    most: int | None = None
    """So many tokens are issued; then none any more."""
    refusal: Callable[[], MigrationError] = lambda: MemberError("oauth_consent", "source", "invalid_grant: revoked")
    values: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    now: str = ""

    def current(self) -> Token:
        with self.lock:
            if self.now:
                return Token(self.now)
            if self.most is not None and len(self.values) >= self.most:
                raise self.refusal()
            self.now = self.book.issue(self.account, None if self.only_first and self.values else self.commands)
            self.values.append(self.now)
            return Token(self.now, fresh=True)

    def ended(self, token: Token) -> None:
        with self.lock:
            if self.now == token.value:
                self.now = ""

    def issued(self) -> Iterable[str]:
        return tuple(self.values)


def subject(server: ImapServer, user: str, **given: Any) -> Subject:
    return Subject(server.behaviour.tokens, user, **given)


def by_token(server: ImapServer, tokens: Subject) -> Account:
    return Account(Server("127.0.0.1", server.port, "plain"), tokens.account, tokens=tokens)


@pytest.fixture(autouse=True, params=["XOAUTH2", "OAUTHBEARER"])
def mechanism(request: pytest.FixtureRequest, old: ImapServer, new: ImapServer) -> str:
    for server in (old, new):
        server.behaviour.capabilities |= {f"AUTH={request.param}"}
    return str(request.param)


# At the sign-in


@pytest.mark.parametrize("at_once", [True, False])
def test_a_token_opens_the_mailbox(old: ImapServer, mechanism: str, at_once: bool) -> None:
    if not at_once:
        old.behaviour.capabilities -= {"SASL-IR"}
    SourceConnection(by_token(old, subject(old, LIN))).close()
    assert [entry.rest for entry in old.commands("AUTHENTICATE")] == [mechanism]


def test_a_token_that_has_ended_is_replaced_over_another_connection(old: ImapServer) -> None:
    tokens = subject(old, LIN)
    old.behaviour.tokens.end(tokens.current().value)
    with SourceConnection(by_token(old, tokens)) as connection:
        assert connection.listing().folders
    assert len(tokens.values) == 2
    assert len(old.commands("AUTHENTICATE")) == 2


@dataclass
class Door(Admission):
    """Lets so many connections in, then says what the host of a paused server says."""

    opens: int
    passed: list[str] = field(default_factory=list)

    def enter(self) -> None:
        if self.passed.count("enter") == self.opens:
            raise ConnectionLost("throttled", "source", "slow down")
        self.passed.append("enter")

    def signed_in(self) -> None:
        self.passed.append("signed in")

    def failed(self, error: MigrationError) -> None:
        self.passed.append(error.cause_id)

    def leaving(self, see_it_gone: Callable[[], None]) -> bool:
        self.passed.append("leaving")
        return False


def test_a_sign_in_with_another_token_is_let_in_like_any_other(old: ImapServer) -> None:
    """Paced, held up by a pause, and only when the connection before has made room."""
    tokens = subject(old, LIN)
    old.behaviour.tokens.end(tokens.current().value)
    door = Door(opens=2)
    with SourceConnection(replace(by_token(old, tokens), admission=door)) as connection:
        assert connection.listing().folders
        assert door.passed == ["enter", "leaving", "enter", "signed in"]


def test_a_host_that_is_left_alone_meanwhile_gets_no_second_sign_in(old: ImapServer) -> None:
    tokens = subject(old, LIN)
    old.behaviour.tokens.end(tokens.current().value)
    door = Door(opens=1)
    with pytest.raises(ConnectionLost) as caught:
        SourceConnection(replace(by_token(old, tokens), admission=door))
    assert caught.value.cause_id == "throttled"
    assert door.passed == ["enter", "leaving"]
    assert len(old.commands("AUTHENTICATE")) == 1


def test_a_new_token_that_is_refused_is_not_replaced(old: ImapServer) -> None:
    """Gmail says so to good tokens when it has seen too many sign-ins: waiting helps, another token does not."""
    old.behaviour.faults = [
        Fault("AUTHENTICATE", Action.NO, text="[AUTHENTICATIONFAILED] Invalid credentials (Failure)", times=None)
    ]
    tokens = subject(old, LIN)
    with pytest.raises(ServerError) as caught:
        SourceConnection(by_token(old, tokens))
    assert caught.value.cause_id == "token_refused"
    assert caught.value.retryable
    assert (len(tokens.values), len(old.commands("AUTHENTICATE"))) == (1, 1)


def test_an_old_token_that_is_refused_is_replaced_once(old: ImapServer) -> None:
    old.behaviour.faults = [Fault("AUTHENTICATE", Action.NO, text="[AUTHENTICATIONFAILED] no", times=None)]
    tokens = subject(old, LIN)
    tokens.current()
    with pytest.raises(ServerError) as caught:
        SourceConnection(by_token(old, tokens))
    assert caught.value.cause_id == "token_refused"
    assert (len(tokens.values), len(old.commands("AUTHENTICATE"))) == (2, 2)


def test_a_connection_that_ends_in_place_of_an_answer_costs_a_token_and_no_try(old: ImapServer) -> None:
    old.behaviour.faults = [Fault("AUTHENTICATE", Action.DROP_BEFORE)]
    tokens = subject(old, LIN)
    tokens.current()
    SourceConnection(by_token(old, tokens)).close()
    assert len(tokens.values) == 2


def test_a_token_for_somebody_else_opens_nothing(old: ImapServer) -> None:
    tokens = subject(old, LIN)
    old.add_account("wang@old.example", "x")
    account = Account(Server("127.0.0.1", old.port, "plain"), "wang@old.example", tokens=tokens)
    with pytest.raises(MigrationError) as caught:
        SourceConnection(account)
    assert caught.value.cause_id == "token_refused"


def test_a_server_that_takes_no_tokens_is_named(old: ImapServer, mechanism: str) -> None:
    old.behaviour.capabilities -= {f"AUTH={mechanism}"}
    with pytest.raises(MemberError) as caught:
        SourceConnection(by_token(old, subject(old, LIN)))
    assert (caught.value.cause_id, caught.value.server_text) == ("auth_mechanism", "AUTH=PLAIN")
    assert not old.commands("AUTHENTICATE")


def test_no_token_is_the_end_of_the_member_before_anything_is_sent(old: ImapServer) -> None:
    with pytest.raises(MemberError) as caught:
        SourceConnection(by_token(old, subject(old, LIN, most=0)))
    assert caught.value.cause_id == "oauth_consent"
    assert not old.commands("AUTHENTICATE")


def test_a_challenge_is_answered_and_its_reason_is_told(mechanism: str) -> None:
    book = TokenBook()
    tokens = Subject(book, LIN)

    def play(peer: Peer) -> None:
        [asked] = peer.expect(b"CAPABILITY")
        peer.say(b"* CAPABILITY IMAP4rev1 AUTH=%b SASL-IR\r\n" % mechanism.encode() + asked + b" OK done\r\n")
        [login] = peer.expect(b"AUTHENTICATE " + mechanism.encode())
        # {"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}
        peer.say(
            b"+ eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIiwic2NvcGUiOiJodHRwczovL21haWwuZ29vZ2xlLmNvbS8ifQ==\r\n"
        )
        assert peer.line() == (b"AQ==" if mechanism == "OAUTHBEARER" else b"")
        peer.say(login + b" NO SASL authentication failed\r\n")

    with Played(play, b"") as server, pytest.raises(MigrationError) as caught:
        SourceConnection(Account(server.account.server, LIN, tokens=tokens))
    assert caught.value.cause_id == "token_refused"
    assert "status=400" in caught.value.server_text


@pytest.mark.parametrize("said", [b"TAG NO I do not know %s\r\n", b"TAG BAD %s\r\n", b"* BYE %s\r\n\r\n"])
def test_no_exception_shows_the_token_that_a_server_sends_back(mechanism: str, said: bytes) -> None:
    tokens = Subject(TokenBook(), LIN)
    announced = b"* CAPABILITY IMAP4rev1 SASL-IR AUTH=" + mechanism.encode() + b"\r\n"

    def quoted(rest: bytes) -> bytes:
        return said.replace(b"%s", rest.partition(b" ")[2] + b" " + tokens.values[-1].encode())

    with Scripted({"CAPABILITY": announced, "AUTHENTICATE": quoted}) as server:
        with pytest.raises(MigrationError) as caught:
            SourceConnection(Account(server.account.server, LIN, tokens=tokens))
        shown = repr(caught.value) + caught.value.server_text
        for value in tokens.values:
            assert value not in shown
            line = server.received[-1].split()[-1].decode()
            assert line[60:100] not in shown


# In the middle of a mailbox


def fill(mailbox: Box) -> None:
    number = 0
    for folder, count in (("INBOX", 260), ("Work", 120), ("Work/2024", 40), ("Empty", 0)):
        mailbox.folder(folder)
        for _ in range(count):
            number += 1
            mailbox.deliver(number, folder, flags=("\\Seen",) if number % 3 else ())


def copy(mailbox: Box, source: Account, target: Account) -> None:
    token = mailbox.lease()
    try:
        copy_mailbox(source, target, Ledger(mailbox.engine, mailbox.member_id, token), CopyOptions())
    finally:
        release_lease(mailbox.engine, mailbox.member_id, token)


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("sides", ["source", "target", "both"])
def test_tokens_that_end_in_mid_mailbox_lose_and_double_nothing(
    mailbox: Box, old: ImapServer, new: ImapServer, sides: str, one_at_a_time: bool
) -> None:
    fill(mailbox)
    if one_at_a_time:
        new.behaviour.capabilities -= {"MULTIAPPEND", "LITERAL+"}
    source = subject(old, LIN, commands=14 if sides != "target" else None)
    target = subject(new, NEW, commands=(60 if one_at_a_time else 20) if sides != "source" else None)
    copy(mailbox, by_token(old, source), by_token(new, target))
    mailbox.assert_equal()
    mailbox.assert_untouched()
    assert len(source.values) > 1 or sides == "target"
    assert len(target.values) > 1 or sides == "source"


@pytest.mark.parametrize("life", range(1, 15))
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_token_that_ends_at_any_of_the_first_commands_costs_no_try(
    mailbox: Box, old: ImapServer, new: ImapServer, side: str, life: int
) -> None:
    """LIST, STATUS, CREATE, EXAMINE, SELECT: each of them is asked again over the next session."""
    for server in (old, new):
        server.behaviour.capabilities -= {"LIST-STATUS"}
    for folder in ("INBOX", "Work", "Work/2024"):
        mailbox.folder(folder)
        mailbox.deliver(1, folder)
    source = subject(old, LIN, commands=life if side == "source" else None, only_first=True)
    target = subject(new, NEW, commands=life if side == "target" else None, only_first=True)
    copy(mailbox, by_token(old, source), by_token(new, target))
    mailbox.assert_equal()
    mailbox.assert_untouched()
    assert (len(source.values), len(target.values)) == ((2, 1) if side == "source" else (1, 2))


def test_a_session_that_ends_without_a_word_may_have_ended_with_its_token(
    mailbox: Box, old: ImapServer, new: ImapServer
) -> None:
    fill(mailbox)
    old.behaviour.faults = [Fault("LIST", Action.DROP_BEFORE)]
    copy(mailbox, by_token(old, subject(old, LIN)), by_token(new, subject(new, NEW)))
    mailbox.assert_equal()


def test_sessions_that_always_end_are_not_opened_for_ever(mailbox: Box, old: ImapServer, new: ImapServer) -> None:
    old.behaviour.faults = [Fault("LIST", Action.DROP_BEFORE, times=None)]
    with pytest.raises(ConnectionLost):
        copy(mailbox, by_token(old, subject(old, LIN)), by_token(new, subject(new, NEW)))
    assert len(old.commands("AUTHENTICATE")) == TOKENS_IN_VAIN + 1


@pytest.mark.parametrize("text", ["Session invalidated - AccessTokenExpired", "Session expired, please login again"])
def test_one_lost_session_costs_one_token(mailbox: Box, old: ImapServer, new: ImapServer, text: str) -> None:
    fill(mailbox)
    old.behaviour.token_ended = text
    tokens = subject(old, LIN)
    account = by_token(old, tokens)
    mailbox.later(old, "FETCH", lambda: old.behaviour.tokens.end(tokens.values[-1]), nth=3)
    copy(mailbox, account, by_token(new, subject(new, NEW)))
    mailbox.assert_equal()
    assert len(tokens.values) == 2
    assert len(old.commands("AUTHENTICATE")) == 2


def test_a_refusal_that_means_the_end_of_the_token_is_one(mailbox: Box, old: ImapServer, new: ImapServer) -> None:
    """Exchange answers so where others say BYE."""
    fill(mailbox)
    tokens = subject(new, NEW)
    new.behaviour.faults = [Fault("APPEND", Action.BAD, nth=2, text="Command Error. 10")]
    copy(mailbox, by_token(old, subject(old, LIN)), by_token(new, tokens))
    mailbox.assert_equal()
    assert len(tokens.values) == 2


def test_a_refused_refresh_ends_the_member_and_the_next_run_goes_on(
    mailbox: Box, old: ImapServer, new: ImapServer
) -> None:
    fill(mailbox)
    revoked = subject(old, LIN, commands=14, most=1)
    with pytest.raises(MemberError) as caught:
        copy(mailbox, by_token(old, revoked), by_token(new, subject(new, NEW)))
    assert (caught.value.cause_id, caught.value.side) == ("oauth_consent", "source")
    assert everything(new, NEW) != everything(old, LIN)
    copy(mailbox, by_token(old, subject(old, LIN)), by_token(new, subject(new, NEW)))
    mailbox.assert_equal()


def test_a_refresh_that_is_refused_at_the_target_loses_nothing_either(
    mailbox: Box, old: ImapServer, new: ImapServer
) -> None:
    fill(mailbox)
    refused = lambda: MemberError("oauth_consent", "target", "revoked")  # noqa: E731
    revoked = subject(new, NEW, commands=25, most=1, refusal=refused)
    with pytest.raises(MemberError) as caught:
        copy(mailbox, by_token(old, subject(old, LIN)), by_token(new, revoked))
    assert (caught.value.cause_id, caught.value.side) == ("oauth_consent", "target")
    copy(mailbox, by_token(old, subject(old, LIN)), by_token(new, subject(new, NEW)))
    mailbox.assert_equal()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_verification_goes_on_where_a_token_ends_at_any_of_its_commands(
    mailbox: Box, old: ImapServer, new: ImapServer, side: str, deep: bool
) -> None:
    fill(mailbox)
    mailbox.copy()
    for life in itertools.count(1):
        source = subject(old, LIN, commands=life if side == "source" else None, only_first=True)
        target = subject(new, NEW, commands=life if side == "target" else None, only_first=True)
        found = list(verify_mailbox(by_token(old, source), by_token(new, target), mailbox.ledger, deep=deep))
        assert sum(verdict.checked for verdict in found) == 420
        assert not any(verdict.lost or verdict.altered or verdict.failure for verdict in found)
        if len(source.values) + len(target.values) == 2:
            break
    assert life > 4
    mailbox.assert_equal()


def test_a_verification_whose_sessions_always_end_is_not_begun_for_ever(
    mailbox: Box, old: ImapServer, new: ImapServer
) -> None:
    fill(mailbox)
    mailbox.copy()
    source = subject(old, LIN, commands=2)
    with pytest.raises(ConnectionLost):
        list(verify_mailbox(by_token(old, source), by_token(new, subject(new, NEW)), mailbox.ledger, deep=True))
    assert len(source.values) == TOKENS_IN_VAIN + 1
    mailbox.assert_equal()


def test_a_check_goes_on_with_a_new_token_too(mailbox: Box, old: ImapServer, new: ImapServer) -> None:
    fill(mailbox)
    tokens = subject(old, LIN)
    old.behaviour.tokens.end(tokens.current().value)
    check_mailbox(by_token(old, tokens), by_token(new, subject(new, NEW)), CopyOptions())
    mailbox.assert_untouched()


@pytest.mark.parametrize("life", range(1, 5))
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_check_goes_on_where_a_token_ends_at_any_of_its_commands(
    mailbox: Box, old: ImapServer, new: ImapServer, side: str, life: int
) -> None:
    fill(mailbox)
    source = subject(old, LIN, commands=life if side == "source" else None, only_first=True)
    target = subject(new, NEW, commands=life if side == "target" else None, only_first=True)
    checked = check_mailbox(by_token(old, source), by_token(new, target), CopyOptions())
    assert (checked.failures, checked.look.messages) == ((), 420)
    assert (len(source.values), len(target.values)) == ((2, 1) if side == "source" else (1, 2))
    mailbox.assert_untouched()
