"""What is told of single messages: all of it in a stream, or the gravest of each folder; subjects to who asks."""

import pytest
from sqlalchemy import Engine

from models import issues
from models.issues import AlteredMessages, issues_of
from models.ledger import Ledger
from models.ledger_rows import Altered, Entry, GivenUp, Heading
from models.member import take_lease
from tests.models.company import Company

NAMED = Heading("预算", "王芳 <wang@old.example>")


@pytest.fixture
def ledger(engine: Engine, company: Company) -> Ledger:
    """Of a member that nothing is altered of, and one with three folders."""
    company.add("well@new.example")
    member_id = company.add("a@new.example")
    return Ledger(engine, member_id, take_lease(engine, member_id))


def folder(ledger: Ledger, name: str, altered: dict[int, list[str]], target: str = "") -> int:
    folder_id = ledger.open_folder(name, 1, target or name, 1).id or 0
    ledger.note_altered(folder_id, [Altered(uid, 100 + uid, names, 7, None, NAMED) for uid, names in altered.items()])
    return folder_id


def test_the_gravest_of_each_folder_come_first_and_all_are_counted(engine: Engine, ledger: Ledger) -> None:
    benign = {uid: ["final_line_end"] for uid in range(1, 50)}
    folder(ledger, "INBOX", benign | {7: ["final_line_end", "header_8bit"], 40: ["nul"]})
    folder(ledger, "Work", {3: ["flags"]}, target="Job")
    folder(ledger, "Well", {})
    wave = AlteredMessages(engine, "first")
    [(member_id, email)] = wave.members()
    assert email == "a@new.example"
    inbox, work = wave.of_member(member_id, 4)
    assert (inbox.name, inbox.total, [each.uid for each in inbox.messages]) == ("INBOX", 49, [7, 40, 1, 2])
    [message] = work.messages
    assert (message.folder, message.target_folder, message.target_uid) == ("Work", "Job", 103)
    assert inbox.messages[0].alterations == ("final_line_end", "header_8bit")


def test_all_are_read_in_the_order_of_the_mailbox(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issues, "AT_ONCE", 3)
    folder(ledger, "INBOX", {uid: ["date"] for uid in range(10, 0, -1)})
    folder(ledger, "Work", {1: ["nul"]})
    found = [(each.folder, each.uid) for each in AlteredMessages(engine, "first").every()]
    assert found == [*(("INBOX", uid) for uid in range(1, 11)), ("Work", 1)]


def test_subjects_are_told_to_who_asks_for_them_alone(engine: Engine, ledger: Ledger) -> None:
    folder_id = folder(ledger, "INBOX", {1: ["nul"]})
    ledger.give_up(folder_id, [GivenUp(2, "invalid_message", heading=NAMED)])
    for asked, expected in (("shown", NAMED), ("hidden", (None, None)), (None, (None, None))):
        wave = AlteredMessages(engine, "first", *([asked] if asked else []))
        [(member_id, _)] = wave.members()
        told = [*wave.every(), *wave.of_member(member_id, 9)[0].messages]
        told += issues_of(engine, "first", *([asked] if asked else []))
        assert [(each.subject, each.sender) for each in told] == [expected] * 3


def test_what_was_repaired_says_how_and_for_which_words(engine: Engine, ledger: Ledger) -> None:
    folder_id = folder(ledger, "INBOX", {1: ["repaired"], 2: ["repaired"]})
    mended = Entry(1, 101, bytes(16), repairs="nul,separator", refusal="NO Message contains NUL characters")
    ledger.adopt(folder_id, [mended])
    first, second = AlteredMessages(engine, "first").every()
    assert (first.repairs, first.server_text) == (("nul", "separator"), "NO Message contains NUL characters")
    assert (second.repairs, second.server_text) == ((), "")


def test_a_folder_that_is_not_counted_any_more_tells_nothing(engine: Engine, ledger: Ledger) -> None:
    folder(ledger, "INBOX", {1: ["nul"]})
    ledger.open_folder("INBOX", 2, "INBOX", 1)
    wave = AlteredMessages(engine, "first", "shown")
    assert (list(wave.every()), wave.members()) == ([], [])
