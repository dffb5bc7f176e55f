"""A mailbox with folders in two languages, moved from server to server and back to one like the first."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import MemberError
from imapcopy.folders import Folder
from imapcopy.source_connection import SourceConnection
from models.database import open_database
from models.ledger import Ledger
from models.member import release_lease, take_lease
from tests.fidelity.__main__ import running
from tests.fidelity.moves import PASSWORD, RealServer
from tests.imapcopy.world import new_member
from tests.servers.compare import Mail, mail_of
from tests.servers.courier import Courier
from tests.servers.cyrus import Cyrus
from tests.servers.dovecot import Dovecot
from tests.servers.mail import FOLDERS, mailbox_messages, seed, store_each

MESSAGES = 150


def _moved(source: RealServer, target: RealServer, user: str, directory: Path) -> Counter[str]:
    """Move an account into a new one of the same name; what the report tells of all folders."""
    target.add_user(user, PASSWORD)
    engine = open_database(f"sqlite:///{directory}/{type(source).__name__}.sqlite")
    member = new_member(engine)
    told: Counter[str] = Counter()
    for _ in range(2):
        token = take_lease(engine, member)
        ledger = Ledger(engine, member, token)
        old, new = (Account(Server(s.host, s.port, "plain"), user, PASSWORD) for s in (source, target))
        copy_mailbox(old, new, ledger, CopyOptions())
        release_lease(engine, member, token)
    for row in ledger.folders():
        assert row.copied == row.source_messages, row
        told.update(json.loads(row.altered))
    engine.dispose()
    return told


def _without_text(mail: Counter[Mail]) -> Counter[Mail]:
    found: Counter[Mail] = Counter()
    for each, count in mail.items():
        found[each._replace(sha256="", folder=each.folder.removeprefix("INBOX.").replace(".", "/"))] += count
    return found


@pytest.mark.parametrize(
    "between", [(Cyrus, Courier), (Courier, Cyrus)], ids=lambda kinds: "-".join(kind.__name__ for kind in kinds)
)
def test_a_mailbox_that_goes_round_keeps_folders_dates_flags_and_every_message(
    between: tuple[type, type], tmp_path: Path
) -> None:
    """Every move is made in two passes: nothing is there twice afterwards."""
    with running([Dovecot, *between, Dovecot]) as servers:
        servers[0].add_user("ming", PASSWORD)
        seed(servers[0], "ming", PASSWORD, mailbox_messages("round", MESSAGES))
        first = before = mail_of(servers[0], "ming")
        assert first.total() == MESSAGES
        assert {mail.folder for mail in _without_text(first)} == set(FOLDERS)
        for source, target in pairwise(servers):
            told = _moved(source, target, "ming", tmp_path)
            after = mail_of(target, "ming")
            assert _without_text(after) == _without_text(before)
            changed = Counter(mail.sha256 for mail in before.elements()) - Counter(m.sha256 for m in after.elements())
            assert changed.total() == told.total()
            before = after
        assert {mail.folder for mail in before} == {mail.folder for mail in first}


def test_a_mailbox_of_which_the_server_lists_no_folder_is_no_empty_mailbox(tmp_path: Path) -> None:
    """Cyrus does so where a user has a dot in the name and dots separate folders, as Debian ships it."""
    with running([Cyrus, Dovecot]) as servers:
        servers[0].add_user("li.ming", PASSWORD)
        [stored] = store_each(servers[0], "li.ming", PASSWORD, mailbox_messages("dot", 1))
        assert stored == 1
        with pytest.raises(MemberError) as caught:
            _moved(servers[0], servers[1], "li.ming", tmp_path)
        assert caught.value.cause_id == "no_folders"


@pytest.mark.parametrize("kind", [Cyrus, Courier])
def test_a_folder_with_very_many_gaps_can_be_asked_about(kind: type) -> None:
    """Courier ends the session at a command that names thousands of UIDs."""
    with running([kind]) as (server,):
        server.add_user("ming", PASSWORD)
        assert store_each(server, "ming", PASSWORD, mailbox_messages("gaps", 1) * 3) == [1, 2, 3]
        with SourceConnection(Account(Server(server.host, server.port, "plain"), "ming", PASSWORD)) as connection:
            connection.examine(Folder(b"INBOX", "INBOX", ".", frozenset()))
            assert [envelope.uid for envelope in connection.scan_uids(range(1, 40_000, 2))] == [1, 3]
            assert [message.uid for message in connection.messages(range(1, 40_000, 2))] == [1, 3]
