"""One member's new mailbox, re-read outside of any pass: what is said of it, and what is written nowhere."""

from pathlib import Path

import pytest

from deployments.demo.imap_server import Action, Fault
from tasks.migrate_member import migrate_member
from tasks.verify_member import Verification, verify_member
from tests.tasks.office import Enrolled, Office

LI = "li@new.example"


@pytest.fixture
def moved(office: Office, home: Path) -> Enrolled:
    """Li with three messages in INBOX and two in Work, moved."""
    office.add("li")
    work = office.old.account("li@old.example").create("Work")
    for number in range(2):
        work.deliver(b"Subject: work %d\r\n\r\nx\r\n" % number)
    enrolled = Enrolled(office)
    member = enrolled.member("li")
    migrate_member.fn(member.id or 0, member.email)
    return enrolled


def verified(moved: Enrolled, *, deep: bool = True) -> Verification:
    before = moved.member("li").model_dump()
    found = verify_member(moved.store, moved.member("li"), deep=deep)
    assert moved.member("li").model_dump() == before
    return found


def test_the_folders_of_a_mailbox_are_one_sum(moved: Enrolled) -> None:
    assert verified(moved) == Verification(LI, checked=5, present=5, missing=0, read_back=5, source=5)
    account = moved.office.new.account("li@new.example")
    account.folder("INBOX").expunge([2])
    account.folder("Work").expunge([1])
    account.folder("Work").deliver(account.folder("Work").messages[0].raw)
    found = verified(moved)
    assert (found.checked, found.present, found.missing, found.altered) == (5, 3, 2, {"doubled": 1})
    assert found.messages == [
        {"folder": "INBOX", "uid": 2, "found": ["missing"]},
        {"folder": "Work", "uid": 1, "found": ["missing"]},
        {"folder": "Work", "uid": 2, "found": ["doubled"]},
    ]


def test_a_folder_that_cannot_be_opened_is_a_cause_and_hides_no_other(moved: Enrolled) -> None:
    moved.office.new.account("li@new.example").folder("INBOX").expunge([2])
    words = "[INUSE] Mailbox is locked"
    moved.office.new.behaviour.faults.append(Fault("SELECT", Action.NO, containing="Work", text=words, times=None))
    found = verified(moved)
    assert (found.checked, found.present, found.missing) == (3, 2, 1)
    assert found.cause


@pytest.mark.parametrize("verb", ["AUTHENTICATE", "LIST"])
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_mailbox_that_cannot_be_read_has_a_cause_and_no_numbers(moved: Enrolled, side: str, verb: str) -> None:
    server = moved.office.old if side == "old" else moved.office.new
    verb = verb if side == "old" else verb.replace("LIST", "SELECT")
    server.behaviour.faults.append(Fault(verb, Action.DROP_BEFORE, times=None))
    found = verified(moved, deep=False)
    assert found.cause == "connection_dropped"
    assert (found.checked, found.missing, found.altered) == (0, 0, {})
