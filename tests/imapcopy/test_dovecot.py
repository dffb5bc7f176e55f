"""The engine between two Dovecots: what only a real server does."""

import pytest
from sqlalchemy import Engine

from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import CopyOptions, copy_mailbox
from imapcopy.send import Capacity
from imapcopy.wire import LinkSpeed
from models.ledger import Ledger
from models.member import take_lease
from tests.imapcopy.world import new_member
from tests.servers.compare import mail_of
from tests.servers.dovecot import PLAIN_CAPABILITY, Dovecot, StartDovecot, User
from tests.servers.mail import mailbox_messages, seed

NAME, PASSWORD = "lin@old.example", "invented-1"
MESSAGES = 400


def filled(start: StartDovecot) -> Dovecot:
    server = start()
    server.add_users([User(NAME, PASSWORD)])
    seed(server, NAME, PASSWORD, mailbox_messages(NAME, MESSAGES))
    return server


def empty(start: StartDovecot, capability: str | None = None) -> Dovecot:
    server = start(capability=capability) if capability else start()
    server.add_users([User(NAME, PASSWORD)])
    return server


def copy(source: Dovecot, target: Dovecot, engine: Engine, options: CopyOptions | None = None) -> None:
    member = new_member(engine, NAME)
    source.forget_commands()
    target.forget_commands()
    accounts = [Account(Server("127.0.0.1", server.port, "plain"), NAME, PASSWORD) for server in (source, target)]
    copy_mailbox(*accounts, Ledger(engine, member, take_lease(engine, member)), options or CopyOptions())
    assert mail_of(target, NAME) == mail_of(source, NAME)


def test_a_slow_line_is_compressed_in_the_middle_of_a_copy(
    start_dovecot: StartDovecot, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkSpeed, "is_slow", property(lambda self: self._octets > 100_000))
    monkeypatch.setattr("imapcopy.copy_mailbox.BATCH_MESSAGES", 20)
    source, target = filled(start_dovecot), empty(start_dovecot)
    copy(source, target, engine)
    for server in (source, target):
        assert server.commands(NAME).count("COMPRESS") == 1


def test_a_fast_line_is_not_compressed(start_dovecot: StartDovecot, engine: Engine) -> None:
    source, target = filled(start_dovecot), empty(start_dovecot)
    copy(source, target, engine)
    assert "COMPRESS" not in source.commands(NAME) + target.commands(NAME)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_target_that_takes_one_message_a_command_is_filled_over_several_connections(
    start_dovecot: StartDovecot, engine: Engine, connections: int
) -> None:
    source, target = filled(start_dovecot), empty(start_dovecot, PLAIN_CAPABILITY)
    copy(source, target, engine, CopyOptions(capacity=Capacity(connections)))
    used = [session for session in target.sessions(NAME) if any(line.startswith("APPEND ") for line in session)]
    assert 1 <= len(used) <= connections
    assert (len(used) > 1) == (connections > 1)


def test_a_pass_over_an_unchanged_mailbox_asks_each_side_once(start_dovecot: StartDovecot, engine: Engine) -> None:
    """One LIST with the STATUS of every folder, and no folder is opened."""
    source, target = filled(start_dovecot), empty(start_dovecot)
    member = new_member(engine, NAME)
    ledger = Ledger(engine, member, take_lease(engine, member))
    accounts = [Account(Server("127.0.0.1", server.port, "plain"), NAME, PASSWORD) for server in (source, target)]
    copy_mailbox(*accounts, ledger, CopyOptions())
    source.forget_commands()
    target.forget_commands()
    copy_mailbox(*accounts, ledger, CopyOptions())
    for server in (source, target):
        assert set(server.commands(NAME)) <= {"ID", "NAMESPACE", "LIST", "LOGOUT"}
