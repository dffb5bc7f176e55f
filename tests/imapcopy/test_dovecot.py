"""The engine between two Dovecots: what only a real server does."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import ImapServer
from imapcopy import wire
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.send import Capacity
from imapcopy.target_connection import TargetConnection
from imapcopy.wire import LinkSpeed
from models.ledger import Ledger
from models.member import take_lease
from models.rules import Repair
from tests.imapcopy.world import LIN, mail, moment, new_member
from tests.imapcopy.world import PASSWORD as OLD_PASSWORD
from tests.servers.compare import mail_of
from tests.servers.dovecot import DEADLINE, PLAIN_CAPABILITY, Dovecot, StartDovecot, User
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
    monkeypatch.setattr("imapcopy.group_pass.BATCH_MESSAGES", 20)
    source, target = filled(start_dovecot), empty(start_dovecot)
    copy(source, target, engine)
    for server in (source, target):
        assert server.commands(NAME).count("COMPRESS") == 1


def test_a_fast_line_is_not_compressed(
    start_dovecot: StartDovecot, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long this machine takes over it.
    monkeypatch.setattr(wire, "SLOW_BYTES_PER_SECOND", 0)
    source, target = filled(start_dovecot), empty(start_dovecot)
    copy(source, target, engine)
    assert "COMPRESS" not in source.commands(NAME) + target.commands(NAME)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_target_that_takes_one_message_a_command_is_filled_over_several_connections(
    start_dovecot: StartDovecot, engine: Engine, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    """None of the first two sends anything before the other is there: one that is quick enough would need no help."""
    append_each, met, together = TargetConnection.append_each, count(), threading.Barrier(min(connections, 2))
    numbers: dict[TargetConnection, int] = defaultdict(met.__next__)

    def appending(self: TargetConnection, *args: Any) -> Iterator[Any]:
        if self not in numbers and numbers[self] < 2:
            together.wait(DEADLINE)
        return append_each(self, *args)

    monkeypatch.setattr(TargetConnection, "append_each", appending)
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


@pytest.mark.parametrize("capability", [None, PLAIN_CAPABILITY], ids=["all it has", "only UIDPLUS"])
@pytest.mark.parametrize("repair", ["never", "refused"])
def test_what_dovecot_refuses_or_misdates_takes_no_neighbour_along(
    start_dovecot: StartDovecot, old: ImapServer, engine: Engine, capability: str | None, repair: Repair
) -> None:
    """No octets, keywords of sixty, a hundred and twenty of them, and dates that it replaces without a word."""
    target = start_dovecot(capability=capability) if capability else start_dovecot()
    target.add_users([User(NAME, PASSWORD)])
    inbox = old.account(LIN).folder("INBOX")
    received = b"Received: by a; Wed, 1 May 2024 10:00:00 +0800\r\n"
    long = "k" * 60
    for number in range(20):
        inbox.deliver(mail(number), moment(1 + number))
    inbox.deliver(b"", moment(21))
    inbox.deliver(mail(22), moment(22), ["\\Seen", "$Forwarded", long])
    inbox.deliver(mail(23), moment(23), ["\\Flagged", *(f"kw{number}" for number in range(120))])
    inbox.deliver(received + mail(24), datetime(2040, 1, 1, tzinfo=UTC))
    inbox.deliver(received + mail(25), datetime(1900, 1, 1, tzinfo=UTC))
    inbox.deliver(mail(26), moment(26), ["\\Seen", long])
    member = new_member(engine, NAME)
    ledger = Ledger(engine, member, take_lease(engine, member))
    accounts = (
        Account(Server("127.0.0.1", old.port, "plain"), LIN, OLD_PASSWORD),
        Account(Server("127.0.0.1", target.port, "plain"), NAME, PASSWORD),
    )
    copy_mailbox(*accounts, ledger, CopyOptions(repair=repair))
    [row] = [row for row in ledger.folders() if row.source_name == "INBOX"]
    issues = [issue.cause for issue in ledger.issues(row.id or 0).values()]
    altered = json.loads(row.altered)
    assert issues == ([] if repair == "refused" else ["invalid_message"])
    assert altered.pop("repaired", 0) == (1 if repair == "refused" else 0)
    assert altered == {"keyword_dropped": 2, "date_received": 2}
    stored = {each.sha256: each for each in mail_of(target, NAME)}
    assert len(stored) == (26 if repair == "refused" else 25)
    assert stored[sha256(mail(22)).hexdigest()].flags == {"\\seen", "$Forwarded"}
    assert stored[sha256(received + mail(25)).hexdigest()].arrived == datetime(2024, 5, 1, 2, tzinfo=UTC)
    copy_mailbox(*accounts, ledger, CopyOptions(repair=repair))
    assert sum(mail_of(target, NAME).values()) == len(stored), "and a second pass sends nothing"
