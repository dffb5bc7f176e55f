"""A target that tells another UIDVALIDITY with every SELECT: a warning, and no failure for ever; nothing is doubled."""

from collections import Counter
from dataclasses import replace

import pytest

from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.errors import MigrationError, Side
from imapcopy.numbering import Numbering, keep_their_uids
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from models.member import release_lease
from tests.imapcopy.world import LIN, NEW, Box, account_at, contents, mail, moment

INBOX = b"INBOX"


@pytest.fixture
def restless(mailbox: Box) -> Box:
    """Mail in three folders, on its way to a server whose UIDVALIDITY never stays."""
    for number in range(1, 7):
        mailbox.deliver(number, flags=frozenset({"\\Seen"} if number % 2 else ()))
    for number in (7, 8):
        mailbox.deliver(number, "Work")
    mailbox.source.create("Empty")
    mailbox.new.behaviour.restless_uidvalidity = True
    return mailbox


def test_all_arrives_and_is_verified_in_the_first_pass(restless: Box) -> None:
    heard: list[tuple[Side, str]] = []
    token = restless.lease()
    try:
        copy_mailbox(
            account_at(restless.old, LIN),
            replace(account_at(restless.new, NEW), heard=lambda side, text: heard.append((side, text))),
            Ledger(restless.engine, restless.member_id, token),
            restless.options,
        )
    finally:
        release_lease(restless.engine, restless.member_id, token)
    restless.assert_equal()
    assert {side for side, _ in heard} == {"target"}
    assert any(text.startswith("INBOX: UIDVALIDITY") for _, text in heard)
    # All of it was read back: its UIDs alone prove nothing.
    assert restless.row().read_back == 6


def test_later_passes_send_what_is_new_and_nothing_twice(restless: Box) -> None:
    restless.copy()
    sent = restless.sent()
    restless.copy()
    assert restless.sent() == sent
    restless.deliver(9)
    restless.source.folder("INBOX").set_flags(2, {"\\Flagged"})
    restless.copy()
    restless.assert_equal()
    assert len([row for row in restless.ledger.folders(superseded=True) if row.source_name == "INBOX"]) == 1


def test_what_the_member_did_stays(restless: Box) -> None:
    restless.copy()
    inbox = restless.target.folder("INBOX")
    inbox.expunge([3])
    inbox.set_flags(1, {"\\Seen", "\\Flagged"})
    restless.deliver(9)
    restless.copy()
    assert mail(3) not in restless.arrived()
    assert inbox.messages[0].flags == {"\\Seen", "\\Flagged"}
    assert mail(9) in restless.arrived()


def test_a_copy_follows_its_message_into_another_folder(restless: Box) -> None:
    restless.copy()
    restless.source.folder("INBOX").expunge([4])
    restless.source.folder("Work").deliver(mail(4), moment(5), ())
    restless.copy()
    assert contents(restless.new, NEW) == contents(restless.old, LIN)
    assert restless.row("Work").moved == 1


@pytest.mark.parametrize("capability", ["MULTIAPPEND", "UIDPLUS"])
def test_whichever_way_it_is_written(restless: Box, capability: str) -> None:
    restless.new.behaviour.capabilities -= {capability}
    restless.copy()
    restless.assert_equal()


@pytest.mark.parametrize("deep", [True, False])
def test_verification_reads_all_of_it_back(restless: Box, deep: bool) -> None:
    restless.copy()
    restless.target.folder("Work").expunge([1])
    verdicts = list(
        verify_mailbox(account_at(restless.old, LIN), account_at(restless.new, NEW), restless.ledger, deep=deep)
    )
    assert Counter(len(verdict.lost) for verdict in verdicts) == {0: 2, 1: 1}
    assert sum(verdict.read_back for verdict in verdicts) == 7
    assert not any(verdict.failure or verdict.altered for verdict in verdicts)


def test_a_restless_folder_that_is_really_numbered_anew_is_not_taken_for_the_same(restless: Box) -> None:
    restless.copy()
    inbox = restless.target.folder("INBOX")
    inbox.expunge([1])
    inbox.change_uidvalidity()
    sent = restless.sent()
    restless.deliver(9)
    with pytest.raises(MigrationError) as caught:
        restless.copy()
    assert (caught.value.cause_id, caught.value.where) == ("folder_missing", "INBOX")
    assert restless.sent() == sent


def test_one_change_of_uidvalidity_is_not_restless(restless: Box) -> None:
    restless.new.behaviour.restless_uidvalidity = False
    restless.copy()
    restless.target.folder("INBOX").change_uidvalidity()
    restless.copy()
    restless.assert_equal()
    assert len([row for row in restless.ledger.folders(superseded=True) if row.source_name == "INBOX"]) == 2


# What is known


def test_a_uidvalidity_is_kept_to_only_where_it_was_found_to_say_nothing() -> None:
    numbering = Numbering()
    assert not numbering.is_another(INBOX, 5)
    assert not numbering.is_another(INBOX, 5)
    assert numbering.is_another(INBOX, 6)
    numbering.numbered_anew(INBOX, 6)
    assert numbering.of(INBOX, 6) == 6
    numbering.note_restless(INBOX, {1: (10, moment(1))})
    assert (numbering.of(INBOX, 7), numbering.of(b"Work", 7)) == (6, 7)
    assert not numbering.is_another(INBOX, 8)


def test_messages_keep_their_uids_if_none_lies_under_anothers() -> None:
    one, two = (10, moment(1)), (20, moment(2))
    assert keep_their_uids({1: one, 2: two}, {1: one, 2: two})
    assert keep_their_uids({1: one, 2: two}, {2: two, 3: one})
    assert not keep_their_uids({1: one, 2: two}, {1: two})
    assert keep_their_uids({}, {1: one})
