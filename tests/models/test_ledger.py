"""The ledger: what is intended, confirmed, adopted, given up, verified; and that a stale runner writes nothing."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from models.database import reading
from models.ledger import (
    Batch,
    BatchKind,
    BatchState,
    Entry,
    Finished,
    FolderCopy,
    FolderKey,
    FolderTally,
    GivenUp,
    Ledger,
    MessageIssue,
    Settled,
)
from models.member import LeaseLost, take_lease
from tests.models.company import Company


def digest(uid: int) -> bytes:
    return uid.to_bytes(16, "big")


def entries(pairs: dict[int, int]) -> list[Entry]:
    return [Entry(source, target, digest(source)) for source, target in pairs.items()]


@pytest.fixture
def member_id(company: Company) -> int:
    return company.add("a@new.example")


@pytest.fixture
def ledger(engine: Engine, member_id: int) -> Ledger:
    return Ledger(engine, member_id, take_lease(engine, member_id))


@pytest.fixture
def folder(ledger: Ledger) -> int:
    return opened(ledger)


def opened(ledger: Ledger, name: str = "INBOX", validity: tuple[int, int] = (1, 1)) -> int:
    found = ledger.open_folder(name, validity[0], name, validity[1])
    assert found.id is not None
    return found.id


def intend(ledger: Ledger, folder: int, uids: list[int], size: int = 100) -> int:
    return ledger.intend(folder, uids, [digest(uid) for uid in uids], size, uidnext=50)


def claimed(ledger: Ledger) -> set[int]:
    return ledger.claimed_target_uids(["INBOX"]).get(("INBOX", 1), set())


def row(engine: Engine, folder: int) -> FolderCopy:
    with reading(engine) as session:
        return session.get_one(FolderCopy, folder)


def everything(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return [repr(each) for table in (FolderCopy, Batch, MessageIssue) for each in session.exec(select(table)).all()]


def test_what_is_intended_is_known_before_anything_is_sent(ledger: Ledger, folder: int) -> None:
    intend(ledger, folder, [4, 5, 9])
    (batch,) = ledger.batches(folder)
    assert batch.state == BatchState.INTENDED
    assert batch.entries == tuple(entries({4: 0, 5: 0, 9: 0}))
    assert batch.target_uidnext_before == 50
    assert claimed(ledger) == set()


def test_confirming_commits_the_uids_in_the_order_of_arrival(engine: Engine, ledger: Ledger, folder: int) -> None:
    batch = intend(ledger, folder, [4, 5, 9])
    ledger.confirm(batch, entries({9: 50, 4: 51, 5: 52}), size=90)
    (found,) = ledger.batches(folder)
    assert found.state == BatchState.CONFIRMED
    assert found.entries == tuple(entries({9: 50, 4: 51, 5: 52}))
    assert claimed(ledger) == {50, 51, 52}
    assert (row(engine, folder).copied, row(engine, folder).bytes) == (3, 90)


def test_what_did_not_arrive_and_was_not_given_up_is_to_be_sent_again(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    batch = intend(ledger, folder, [1, 2, 3], size=90)
    ledger.confirm(batch, entries({2: 50}), [GivenUp(3, "message_too_large", "too big", 40)], size=30)
    (found,) = ledger.batches(folder)
    assert [entry.source_uid for entry in found.entries] == [2]
    assert list(ledger.issues(folder)) == [3]
    assert (row(engine, folder).copied, row(engine, folder).issues, row(engine, folder).bytes) == (1, 1, 30)


def test_a_batch_of_which_nothing_arrived_leaves_nothing(engine: Engine, ledger: Ledger, folder: int) -> None:
    ledger.confirm(intend(ledger, folder, [1, 2]), [])
    assert ledger.batches(folder) == []
    assert (row(engine, folder).copied, row(engine, folder).bytes) == (0, 0)


def test_a_recovered_batch_counts_the_octets_of_what_was_found_only(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    """The rest is sent again and counted then; together they are what was sent."""
    ledger.confirm(intend(ledger, folder, [1, 2, 3, 4], size=400), entries({1: 50}))
    assert row(engine, folder).bytes == 100
    ledger.confirm(intend(ledger, folder, [2, 3, 4], size=300), entries({2: 51, 3: 52, 4: 53}), size=300)
    assert row(engine, folder).bytes == 400


def test_adopted_messages_count_as_already_there(engine: Engine, ledger: Ledger, folder: int) -> None:
    ledger.adopt(folder, entries({1: 7, 2: 8}))
    ledger.adopt(folder, [])
    (batch,) = ledger.batches(folder)
    assert (batch.kind, batch.state) == (BatchKind.ADOPTED, BatchState.CONFIRMED)
    assert (row(engine, folder).copied, row(engine, folder).already_there) == (0, 2)
    assert claimed(ledger) == {7, 8}


def test_given_up_messages_keep_their_reason_until_they_are_reopened(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    ledger.give_up(folder, [GivenUp(3, "invalid_message", "NO bad", 12, moment), GivenUp(4, "virus_rejected")])
    issue = ledger.issues(folder)[3]
    assert (issue.cause, issue.server_text, issue.size, issue.arrived) == ("invalid_message", "NO bad", 12, moment)
    assert row(engine, folder).issues == 2
    assert ledger.reopen_issues() == 2
    assert ledger.issues(folder) == {}
    assert (row(engine, folder).issues, row(engine, folder).settled) == (0, "")
    assert ledger.reopen_issues() == 0


def test_reopening_makes_a_settled_folder_be_looked_at_again(engine: Engine, ledger: Ledger, folder: int) -> None:
    quiet = opened(ledger, "Quiet")
    for each in (folder, quiet):
        ledger.finish_folders([Finished(each, FolderTally(1, 1, 0, 0, None, None, "both sides"))])
    ledger.give_up(folder, [GivenUp(3, "invalid_message")])
    ledger.reopen_issues()
    assert row(engine, folder).settled == ""
    assert row(engine, quiet).settled == "both sides"


def test_disowned_messages_are_no_longer_counted(engine: Engine, ledger: Ledger, folder: int) -> None:
    """They are sent again, and must then be neither twice among the copied nor twice in the octets."""
    ledger.confirm(intend(ledger, folder, [1, 2, 3, 4], size=400), entries({1: 50, 2: 51, 3: 52, 4: 53}), size=400)
    ledger.adopt(folder, entries({8: 60}))
    ledger.disown(folder, {2, 8})
    assert [[e.source_uid for e in batch.entries] for batch in ledger.batches(folder)] == [[1, 3, 4]]
    found = row(engine, folder)
    assert (found.copied, found.already_there, found.bytes) == (3, 0, 300)
    assert claimed(ledger) == {50, 52, 53}
    ledger.confirm(intend(ledger, folder, [2], size=100), entries({2: 61}), size=100)
    assert (row(engine, folder).copied, row(engine, folder).bytes) == (4, 400)


def test_verified_batches_are_marked_and_what_the_server_changed_is_added_up(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    batch = intend(ledger, folder, [1, 2])
    ledger.confirm(batch, entries({1: 50, 2: 51}), size=100)
    tally = FolderTally(2, 2, 0, 0, None, None, "")
    ledger.finish_folders([Finished(folder, tally, [batch], {"line_ends": 1}, 2)])
    ledger.finish_folders([Finished(folder, tally, [], {"line_ends": 2, "date": 1}, 1)])
    assert ledger.batches(folder)[0].state == BatchState.VERIFIED
    assert json.loads(row(engine, folder).altered) == {"date": 1, "line_ends": 3}
    assert row(engine, folder).read_back == 3
    ledger.finish_folders([Finished(folder, tally, [batch], {"line_ends": 1}, 2, afresh=True)])
    assert json.loads(row(engine, folder).altered) == {"line_ends": 1}
    assert row(engine, folder).read_back == 2


def test_finishing_writes_the_numbers_of_the_pass(engine: Engine, ledger: Ledger, folder: int) -> None:
    oldest, newest = datetime(2001, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    ledger.finish_folders([Finished(folder, FolderTally(10, 7, 2, 1, oldest, newest, "settled"))])
    found = row(engine, folder)
    assert (found.source_messages, found.copied, found.already_there, found.issues) == (10, 7, 2, 1)
    assert (found.oldest, found.newest, found.settled) == (oldest, newest, "settled")


def test_a_new_uidvalidity_makes_a_new_row_and_the_old_one_is_kept_for_the_record(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    ledger.adopt(folder, entries({1: 7}))
    renumbered = opened(ledger, validity=(2, 1))
    assert renumbered != folder
    assert row(engine, folder).superseded
    assert [each.id for each in ledger.folders()] == [renumbered]
    assert claimed(ledger) == set()
    assert opened(ledger, validity=(2, 1)) == renumbered


def test_a_folder_that_is_gone_at_the_source_is_no_longer_counted(ledger: Ledger, folder: int) -> None:
    gone = opened(ledger, "Gone")
    ledger.supersede_all_but([folder])
    assert [each.id for each in ledger.folders()] == [folder]
    assert opened(ledger, "Gone") == gone
    assert {each.id for each in ledger.folders()} == {folder, gone}


def test_equal_messages_are_two_entries(ledger: Ledger, folder: int) -> None:
    batch = ledger.intend(folder, [1, 2], [digest(1), digest(1)], 10, 50)
    ledger.confirm(batch, [Entry(1, 50, digest(1)), Entry(2, 51, digest(1))])
    assert len(ledger.batches(folder)[0].entries) == 2


WRITES: dict[str, Callable[[Ledger, int, int], object]] = {
    "open_folder": lambda ledger, folder, batch: ledger.open_folder("Other", 1, "Other", 1),
    "open_folders": lambda ledger, folder, batch: ledger.open_folders([FolderKey("Other", 1, "Other", 1)]),
    "supersede_all_but": lambda ledger, folder, batch: ledger.supersede_all_but([]),
    "intend": lambda ledger, folder, batch: intend(ledger, folder, [7]),
    "advance": lambda ledger, folder, batch: ledger.advance([Settled(batch, folder, entries({1: 50}), 10)]),
    "confirm": lambda ledger, folder, batch: ledger.confirm(batch, entries({1: 50})),
    "adopt": lambda ledger, folder, batch: ledger.adopt(folder, entries({8: 9})),
    "give_up": lambda ledger, folder, batch: ledger.give_up(folder, [GivenUp(9, "invalid_message")]),
    "reopen_issues": lambda ledger, folder, batch: ledger.reopen_issues(),
    "disown": lambda ledger, folder, batch: ledger.disown(folder, {1}),
    "finish_folders": lambda ledger, folder, batch: ledger.finish_folders(
        [Finished(folder, FolderTally(1, 1, 0, 0, None, None, "x"), [batch])]
    ),
    "check_lease": lambda ledger, folder, batch: ledger.check_lease(),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_runner_whose_lease_was_taken_over_writes_nothing(
    engine: Engine, ledger: Ledger, member_id: int, folder: int, company: Company, name: str
) -> None:
    batch = intend(ledger, folder, [1, 2])
    ledger.give_up(folder, [GivenUp(3, "invalid_message")])
    company.expire_lease(member_id)
    take_lease(engine, member_id, "elsewhere/boot/1/1")
    before, lease = everything(engine), company.member(member_id).lease_until
    with pytest.raises(LeaseLost):
        WRITES[name](ledger, folder, batch)
    assert everything(engine) == before
    assert company.member(member_id).lease_until == lease


def test_every_public_writing_method_is_among_those() -> None:
    readers = {"folders", "batches", "batches_of", "claimed_target_uids", "issues", "keep_lease"}
    assert {name for name in vars(Ledger) if not name.startswith("_")} - readers == set(WRITES)


def test_each_write_pushes_the_end_of_the_lease_on(company: Company, ledger: Ledger, member_id: int) -> None:
    company.expire_lease(member_id)
    expired = company.member(member_id).lease_until
    ledger.check_lease()
    renewed = company.member(member_id).lease_until
    assert expired is not None
    assert renewed is not None
    assert renewed > expired
