"""The ledger: what is intended, confirmed, adopted, given up, verified; and that a stale runner writes nothing."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from models import ledger as ledger_module
from models.database import reading
from models.flag_sets import Flags
from models.ledger import Ledger
from models.ledger_rows import (
    Altered,
    Batch,
    BatchKind,
    BatchState,
    Doubt,
    Entry,
    Finished,
    FolderCopy,
    FolderKey,
    FolderTally,
    GivenUp,
    Heading,
    Intended,
    MessageIssue,
    MessageRepair,
    Settled,
)
from models.member import LeaseLost, lease_seconds, release_lease, take_lease
from tests.models.company import Company

SEEN, FLAGGED = frozenset({"\\Seen"}), frozenset({"\\Flagged", "$Project"})


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


def altered(engine: Engine, folder: int) -> dict[str, int]:
    return dict(json.loads(row(engine, folder).altered))


def told(ledger: Ledger, folder: int) -> dict[int, str]:
    return {uid: found.alterations for uid, found in ledger.altered(folder).items()}


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
    ledger.note_altered(folder, [Altered(1, 50, ["line_ends"])])
    ledger.finish_folders([Finished(folder, tally, [batch], {"doubled": 1}, 2)])
    ledger.note_altered(folder, [Altered(1, 50, ["date", "line_ends"]), Altered(2, 51, ["flags", "nul", "doubled"])])
    ledger.finish_folders([Finished(folder, tally, [], {"doubled": 2}, 1)])
    assert ledger.batches(folder)[0].state == BatchState.VERIFIED
    assert altered(engine, folder) == {"date": 1, "doubled": 3, "flags": 1, "line_ends": 1, "nul": 1}
    assert told(ledger, folder) == {1: "date,line_ends", 2: "doubled,flags,nul"}
    assert row(engine, folder).read_back == 3
    ledger.finish_folders([Finished(folder, tally, [batch], {"doubled": 1}, 2, afresh={"nul": {2}, "doubled": {2}})])
    assert altered(engine, folder) == {"doubled": 1, "flags": 1, "nul": 1}
    assert told(ledger, folder) == {2: "doubled,flags,nul"}, "flags are looked for once"
    assert row(engine, folder).read_back == 2


def test_what_is_found_twice_is_told_once(engine: Engine, ledger: Ledger, folder: int) -> None:
    """As when a pass dies after it has written it down, before the batches are marked as verified."""
    for _ in range(2):
        ledger.note_altered(folder, [Altered(uid, 50 + uid, ["header_8bit"]) for uid in range(1, 2001)])
    assert altered(engine, folder) == {"header_8bit": 2000}
    assert len(told(ledger, folder)) == 2000


def test_a_message_that_is_to_be_sent_again_is_not_altered_any_more(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    ledger.confirm(intend(ledger, folder, [1, 2]), entries({1: 50, 2: 51}), size=100)
    ledger.note_altered(folder, [Altered(1, 50, ["date"]), Altered(2, 51, ["date", "nul"])])
    ledger.disown(folder, {2})
    assert (altered(engine, folder), told(ledger, folder)) == ({"date": 1}, {1: "date"})
    ledger.disown(folder, {1})
    assert (altered(engine, folder), told(ledger, folder)) == ({}, {})


def test_what_a_server_altered_goes_along_with_a_copy_that_follows_its_message(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    other = opened(ledger, "Work")
    ledger.confirm(intend(ledger, folder, [1, 2]), entries({1: 50, 2: 51}), size=100)
    ledger.note_altered(folder, [Altered(uid, 49 + uid, ["nul"], 7, None, Heading("预算", "王芳")) for uid in (1, 2)])
    moved = entries({1: 90})[0]
    batch = ledger.intend(other, [8], [moved.digest], 50, 90)
    settled = Settled(batch, other, [replace(moved, source_uid=8)], 50)
    ledger.follow([settled], {}, {folder: {1}})
    assert (altered(engine, folder), told(ledger, folder)) == ({"nul": 1}, {2: "nul"})
    assert (altered(engine, other), told(ledger, other)) == ({"nul": 1}, {8: "nul"})
    [found] = ledger.altered(other).values()
    assert (found.target_uid, found.subject, found.sender, found.benign) == (90, "预算", "王芳", False)


def test_a_ledger_that_keeps_no_subjects_keeps_none_whoever_brings_them(engine: Engine, folder: int) -> None:
    member_id = row(engine, folder).member_id
    release_lease(engine, member_id, 1)
    ledger = Ledger(engine, member_id, take_lease(engine, member_id), keeps_subjects=False)
    named = Heading("工资表", "hr@corp.example")
    ledger.give_up(folder, [GivenUp(3, "invalid_message", heading=named)])
    ledger.name_issues(folder, {3: named})
    ledger.note_altered(folder, [Altered(1, 50, ["nul"], heading=named)])
    ledger.confirm(intend(ledger, folder, [4]), [], [GivenUp(4, "invalid_message", heading=named)])
    rows = [*ledger.issues(folder).values(), *ledger.altered(folder).values()]
    assert {(found.subject, found.sender) for found in rows} == {(None, None)}
    assert len(rows) == 3


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
    "follow": lambda ledger, folder, batch: ledger.follow(
        [Settled(batch, folder, entries({1: 50}), 10)], {folder: entries({8: 9})}, {folder: {2}}
    ),
    "note_flags": lambda ledger, folder, batch: ledger.note_flags({batch: [SEEN, SEEN]}),
    "give_up": lambda ledger, folder, batch: ledger.give_up(folder, [GivenUp(9, "invalid_message")]),
    "reopen_issues": lambda ledger, folder, batch: ledger.reopen_issues(),
    "disown": lambda ledger, folder, batch: ledger.disown(folder, {1}),
    "finish_folders": lambda ledger, folder, batch: ledger.finish_folders(
        [Finished(folder, FolderTally(1, 1, 0, 0, None, None, "x"), [batch])]
    ),
    "check_lease": lambda ledger, folder, batch: ledger.check_lease(),
    "doubt": lambda ledger, folder, batch: ledger.doubt(folder, Doubt(1)),
    "note_altered": lambda ledger, folder, batch: ledger.note_altered(folder, [Altered(1, 50, ["nul"])]),
    "name_issues": lambda ledger, folder, batch: ledger.name_issues(folder, {3: Heading("a", "b")}),
    "take_back": lambda ledger, folder, batch: ledger.take_back(folder, "flags", {1}),
    "withdraw": lambda ledger, folder, batch: ledger.withdraw(folder, {1}),
    "depart": lambda ledger, folder, batch: ledger.depart({folder: {1}}),
    "note_strayed": lambda ledger, folder, batch: ledger.note_strayed({folder: {1}}),
    "note_places": lambda ledger, folder, batch: ledger.note_places([ledger.place("Work", "Work (2)", "taken")]),
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


def test_a_message_that_was_not_to_blame_is_no_issue_any_more(ledger: Ledger, folder: int) -> None:
    ledger.give_up(folder, [GivenUp(uid, "connection_dropped") for uid in (1, 2, 3)])
    ledger.withdraw(folder, {1, 3, 9})
    assert set(ledger.issues(folder)) == {2}
    assert [copy.issues for copy in ledger.folders() if copy.id == folder] == [1]


def test_every_public_writing_method_is_among_those() -> None:
    readers = {"folders", "batches", "batches_of", "claimed_target_uids", "issues", "moved_issues", "keep_lease"}
    readers |= {"places", "place", "unnamed_issues", "altered", "keeps_subjects"}
    assert {name for name in vars(Ledger) if not name.startswith("_")} - readers == set(WRITES)


def repairs(ledger: Ledger, folder: int) -> dict[int, str]:
    return {e.source_uid: e.repairs for batch in ledger.batches(folder) for e in batch.entries if e.repairs}


def test_a_repair_is_kept_beside_the_batch_and_goes_with_it(engine: Engine, ledger: Ledger, folder: int) -> None:
    arrived = entries({1: 50, 2: 51, 3: 52})
    arrived[1] = replace(arrived[1], repairs="nul,line_ends", refusal="NO Message contains NUL characters")
    ledger.confirm(intend(ledger, folder, [1, 2, 3]), arrived)
    assert repairs(ledger, folder) == {2: "nul,line_ends"}
    with reading(engine) as session:
        [row] = session.exec(select(MessageRepair))
        assert (row.source_uid, row.server_text) == (2, "NO Message contains NUL characters")
    ledger.disown(folder, {1})
    assert repairs(ledger, folder) == {2: "nul,line_ends"}
    ledger.disown(folder, {2})
    assert repairs(ledger, folder) == {}
    with reading(engine) as session:
        assert not session.exec(select(MessageRepair)).all()


def test_a_repair_follows_its_message_into_another_folder(ledger: Ledger, folder: int) -> None:
    mended = replace(entries({1: 50})[0], repairs="nul")
    ledger.confirm(intend(ledger, folder, [1]), [mended])
    other = ledger.open_folder("Later", 1, "Later", 1).id or 0
    [known] = ledger.batches(folder)[0].entries
    ledger.follow([], {other: [replace(known, source_uid=9)]}, {folder: {1}})
    assert (repairs(ledger, folder), repairs(ledger, other)) == ({}, {9: "nul"})


def test_a_doubt_unsettles_its_folder_until_a_pass_ends_it(ledger: Ledger, folder: int) -> None:
    ledger.finish_folders([Finished(folder, FolderTally(0, 0, 0, 0, None, None, "settled"))])
    ledger.doubt(folder, Doubt(7, told=2))
    [row] = ledger.folders()
    assert (row.settled, Doubt.read(row.doubt)) == ("", (7, 2, 0.0))
    ledger.finish_folders([Finished(folder, FolderTally(0, 0, 0, 0, None, None, "settled"))])
    [row] = ledger.folders()
    assert (row.settled, Doubt.read(row.doubt)) == ("settled", None)


def test_each_write_pushes_the_end_of_the_lease_on(company: Company, ledger: Ledger, member_id: int) -> None:
    company.expire_lease(member_id)
    expired = company.member(member_id).lease_until
    ledger.check_lease()
    renewed = company.member(member_id).lease_until
    assert expired is not None
    assert renewed is not None
    assert renewed > expired


# Many batches and many folders at once


def intended(folder: int, uids: list[int], size: int = 100) -> Intended:
    return Intended(folder, uids, [digest(uid) for uid in uids], size, 50)


def source_uids(ledger: Ledger, folder: int) -> dict[int, list[int]]:
    return {batch.id: [entry.source_uid for entry in batch.entries] for batch in ledger.batches(folder)}


def test_intended_batches_get_their_ids_in_the_order_given(ledger: Ledger, folder: int) -> None:
    """Also those of other folders in between, and UIDs that do not ascend."""
    other = opened(ledger, "Other")
    wanted = [(folder if n % 3 else other, [100 - n, 200 + n]) for n in range(40)]
    ids = ledger.advance([], [intended(into, uids) for into, uids in wanted])
    assert len(set(ids)) == 40
    found = source_uids(ledger, folder) | source_uids(ledger, other)
    assert [found[batch] for batch in ids] == [uids for _, uids in wanted]
    assert {n for n, batch in enumerate(ids) if batch in source_uids(ledger, other)} == set(range(0, 40, 3))
    assert ledger.advance([]) == []


def test_batches_of_several_folders_are_counted_for_each_folder(engine: Engine, ledger: Ledger, folder: int) -> None:
    other = opened(ledger, "Other")
    first, second, third, nothing = ledger.advance(
        [], [intended(folder, [1, 2]), intended(other, [1, 2]), intended(folder, [3, 4]), intended(other, [5])]
    )
    [following] = ledger.advance(
        [
            Settled(first, folder, entries({1: 50, 2: 51}), 70),
            Settled(second, other, entries({2: 60}), 30, [GivenUp(1, "message_too_large")]),
            Settled(third, folder, entries({4: 53}), 5, [GivenUp(3, "invalid_message")]),
            Settled(nothing, other, [], 999),
        ],
        [intended(other, [5])],
    )
    numbers = [(r.copied, r.bytes, r.issues) for r in (row(engine, folder), row(engine, other))]
    assert numbers == [(3, 75, 1), (1, 30, 1)]
    assert source_uids(ledger, folder) == {first: [1, 2], third: [4]}
    assert source_uids(ledger, other) == {second: [2], following: [5]}
    assert [batch.state for batch in ledger.batches(other)] == [BatchState.CONFIRMED, BatchState.INTENDED]
    assert (list(ledger.issues(folder)), list(ledger.issues(other))) == ([3], [1])
    ledger.advance([Settled(following, other, entries({5: 61}), 7)])
    assert (row(engine, other).copied, row(engine, other).bytes) == (2, 37)


def test_settling_and_intending_fail_together(engine: Engine, ledger: Ledger, folder: int) -> None:
    """The second folder's issue is known already: nothing of all that is written, not even the good batch."""
    other = opened(ledger, "Other")
    ledger.give_up(other, [GivenUp(9, "invalid_message")])
    good, gone, bad = ledger.advance([], [intended(folder, [1]), intended(folder, [2]), intended(other, [9])])
    before = everything(engine)
    with pytest.raises(IntegrityError):
        ledger.advance(
            [
                Settled(good, folder, entries({1: 50}), 10),
                Settled(gone, folder, [], 0),
                Settled(bad, other, [], 0, [GivenUp(9, "invalid_message")]),
            ],
            [intended(folder, [3])],
        )
    assert everything(engine) == before
    with pytest.raises(IntegrityError):
        # A folder that does not exist.
        ledger.advance([Settled(good, folder, entries({1: 50}), 10)], [intended(folder, [3]), intended(10**6, [4])])
    assert everything(engine) == before
    ledger.advance([Settled(good, folder, entries({1: 50}), 10)])
    assert row(engine, folder).copied == 1


def test_settling_and_intending_are_one_transaction(engine: Engine, ledger: Ledger, folder: int) -> None:
    batches = ledger.advance([], [intended(folder, [n]) for n in range(1, 6)])
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)
    ledger.advance(
        [Settled(batch, folder, entries({n: 50 + n}), 1) for n, batch in enumerate(batches, start=1)],
        [intended(folder, [n]) for n in range(6, 9)],
    )
    assert len(commits) == 1


def test_a_fresh_lease_is_kept_without_a_transaction(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.check_lease()
    begun: list[object] = []
    event.listen(engine, "begin", begun.append)
    for _ in range(10):
        ledger.keep_lease()
    assert not begun
    monkeypatch.setattr(ledger_module, "LEASE_FRESH", 0)
    ledger.keep_lease()
    assert len(begun) == 1


def test_a_new_runners_first_keep_checks(engine: Engine, ledger: Ledger) -> None:
    """A lease that this ledger never renewed is not taken to be fresh."""
    begun: list[object] = []
    event.listen(engine, "begin", begun.append)
    ledger.keep_lease()
    ledger.keep_lease()
    assert len(begun) == 1


def test_every_write_makes_the_lease_fresh_and_a_failed_one_does_not(
    engine: Engine, ledger: Ledger, folder: int, member_id: int, company: Company
) -> None:
    begun: list[object] = []
    intend(ledger, folder, [1])
    event.listen(engine, "begin", begun.append)
    ledger.keep_lease()
    assert not begun
    stale = Ledger(engine, member_id, ledger._token - 1)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            stale.keep_lease()
    assert len(begun) == 2


def test_a_lease_that_is_not_fresh_any_more_may_be_lost(
    engine: Engine, ledger: Ledger, member_id: int, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.keep_lease()
    company.expire_lease(member_id)
    take_lease(engine, member_id, "elsewhere/boot/1/1")
    ledger.keep_lease()  # within the time in which nobody else can have taken it
    monkeypatch.setattr(ledger_module, "LEASE_FRESH", 0)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            ledger.keep_lease()


def test_a_runner_that_slept_right_after_it_looked_looks_again(
    engine: Engine, ledger: Ledger, member_id: int, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the transaction and what it allows."""
    look = ledger.check_lease

    def and_sleep() -> None:
        look()
        now = time.clock_gettime
        monkeypatch.setattr(ledger_module.time, "clock_gettime", lambda clock: now(clock) + lease_seconds())
        monkeypatch.setattr(ledger, "check_lease", look)
        company.expire_lease(member_id)
        take_lease(engine, member_id, "elsewhere/boot/1/1")

    monkeypatch.setattr(ledger, "check_lease", and_sleep)
    with pytest.raises(LeaseLost):
        ledger.keep_lease()


def test_batches_of_many_folders_come_by_folder_oldest_first(engine: Engine, ledger: Ledger, folder: int) -> None:
    other, empty, unasked = opened(ledger, "Other"), opened(ledger, "Empty"), opened(ledger, "Unasked")
    ids = ledger.advance([], [intended(each, [n]) for n, each in enumerate([folder, other, unasked] * 3, start=1)])
    found = ledger.batches_of([empty, other, folder])
    assert {each: [batch.id for batch in batches] for each, batches in found.items()} == {
        empty: [],
        other: ids[1::3],
        folder: ids[0::3],
    }
    assert ledger.batches_of([]) == {}


def test_claimed_uids_come_by_target_folder(engine: Engine, ledger: Ledger, company: Company) -> None:
    """Of all source folders that were copied there, of this member alone, and of each UIDVALIDITY apart."""
    keys = [FolderKey("A", 1, "Shared", 7), FolderKey("B", 1, "Shared", 7), FolderKey("C", 1, "Shared", 8)]
    keys += [FolderKey("D", 1, "Alone", 7), FolderKey("E", 1, "Unasked", 7), FolderKey("F", 1, "Empty", 7)]
    a, b, c, d, e, f = (each.id or 0 for each in ledger.open_folders(keys))
    for each, pairs in ((a, {1: 50, 2: 51}), (b, {1: 52}), (c, {1: 50}), (d, {5: 9}), (e, {1: 1})):
        ledger.confirm(intend(ledger, each, list(pairs)), entries(pairs))
    ledger.adopt(b, entries({7: 80}))
    intend(ledger, f, [1])
    stranger = company.add("b@new.example")
    others = Ledger(engine, stranger, take_lease(engine, stranger))
    others.adopt(others.open_folder("A", 1, "Shared", 7).id or 0, entries({1: 99}))
    assert {key: uids for key, uids in ledger.claimed_target_uids(["Shared", "Alone", "Empty"]).items() if uids} == {
        ("Shared", 7): {50, 51, 52, 80},
        ("Shared", 8): {50},
        ("Alone", 7): {9},
    }
    assert not ledger.claimed_target_uids([])


def test_many_folders_are_opened_at_once_and_found_again(engine: Engine, ledger: Ledger) -> None:
    keys = [FolderKey(f"Folder {n}", n, f"Target {n}", n + 1) for n in range(300)]
    rows = ledger.open_folders(keys)
    assert [FolderKey(r.source_name, r.source_uidvalidity, r.target_name, r.target_uidvalidity) for r in rows] == keys
    assert len({each.id for each in rows}) == 300
    backwards = ledger.open_folders(keys[::-1])
    assert [each.id for each in backwards] == [each.id for each in rows][::-1]
    assert len(ledger.folders()) == 300
    assert ledger.open_folders([]) == []


def test_opening_many_folders_supersedes_what_they_were_before_and_no_other(engine: Engine, ledger: Ledger) -> None:
    old = ledger.open_folders([FolderKey(name, 1, name, 1) for name in "ABCD"])
    changed = [FolderKey("A", 2, "A", 1), FolderKey("B", 1, "B", 2), FolderKey("C", 1, "Elsewhere", 1)]
    new = ledger.open_folders([*changed, FolderKey("E", 1, "E", 1)])
    assert [row(engine, each.id or 0).superseded for each in old] == [True, True, True, False]
    assert not {each.id for each in new} & {each.id for each in old}
    assert {each.source_name for each in ledger.folders()} == set("ABCDE")
    assert len(ledger.folders()) == 5
    # And back again: the old rows are the current ones, with all that was in them.
    back = ledger.open_folders([FolderKey(name, 1, name, 1) for name in "CBA"])
    assert [each.id for each in back] == [old[2].id, old[1].id, old[0].id]
    assert [row(engine, each.id or 0).superseded for each in new] == [True, True, True, False]


# Later passes


def arrived(ledger: Ledger, folder: int, pairs: dict[int, int], size: int = 100) -> int:
    """A batch that was sent and confirmed; returns its id."""
    batch = intend(ledger, folder, list(pairs), size)
    ledger.confirm(batch, entries(pairs), size=size)
    return batch


def flags_of(ledger: Ledger, folder: int) -> dict[int, Flags]:
    return {entry.source_uid: entry.flags for batch in ledger.batches(folder) for entry in batch.entries}


def finished(folder: int, gone: Sequence[int] = (), moved: int = 0, flags_changed: int = 0) -> Finished:
    tally = FolderTally(3, 3, 0, 0, None, None, "", gone)
    return Finished(folder, tally, moved=moved, flags_changed=flags_changed)


def test_the_flags_that_a_message_came_with_are_kept_from_the_intent_on(ledger: Ledger, folder: int) -> None:
    uids = [4, 5, 9]
    [batch] = ledger.advance([], [Intended(folder, uids, [digest(u) for u in uids], 10, 50, [SEEN, FLAGGED, SEEN])])
    assert flags_of(ledger, folder) == {4: SEEN, 5: FLAGGED, 9: SEEN}
    # They are in the order of arrival then, and one did not arrive.
    ledger.confirm(batch, [Entry(9, 50, digest(9), SEEN), Entry(5, 51, digest(5), FLAGGED)])
    assert flags_of(ledger, folder) == {9: SEEN, 5: FLAGGED}


def test_flags_are_noted_for_each_message_of_a_batch_and_nothing_else_changes(ledger: Ledger, folder: int) -> None:
    first = arrived(ledger, folder, {1: 50, 2: 51})
    second = ledger.adopt(folder, entries({3: 9}))
    before = ledger.batches(folder)
    ledger.note_flags({first: [FLAGGED, frozenset()], second: [SEEN]})
    assert flags_of(ledger, folder) == {1: FLAGGED, 2: frozenset(), 3: SEEN}
    bare = [tuple(replace(entry, flags=frozenset()) for entry in b.entries) for b in ledger.batches(folder)]
    assert bare == [batch.entries for batch in before]


def test_no_flags_to_note_are_no_transaction(engine: Engine, ledger: Ledger) -> None:
    begun: list[object] = []
    event.listen(engine, "begin", begun.append)
    ledger.note_flags({})
    assert not begun


def test_a_message_taken_out_of_a_batch_leaves_the_flags_of_the_others(ledger: Ledger, folder: int) -> None:
    batch = arrived(ledger, folder, {1: 50, 2: 51, 3: 52})
    ledger.note_flags({batch: [SEEN, frozenset(), FLAGGED]})
    ledger.disown(folder, {1})
    assert flags_of(ledger, folder) == {2: frozenset(), 3: FLAGGED}


def test_a_copy_that_was_moved_stands_for_its_message_in_the_new_folder_alone(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    into = opened(ledger, "Archive")
    arrived(ledger, folder, {1: 50, 2: 51, 3: 52}, size=300)
    ledger.finish_folders([finished(folder, gone=[2, 3])])
    moving = intend(ledger, into, [7], size=100)
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)
    ledger.follow([Settled(moving, into, [Entry(7, 80, digest(2), SEEN)], 100)], {}, {folder: {2}})
    assert len(commits) == 1
    assert list(source_uids(ledger, folder).values()) == [[1, 3]]
    [there] = ledger.batches(into)
    assert (there.state, there.entries) == (BatchState.CONFIRMED, (Entry(7, 80, digest(2), SEEN),))
    # It had been taken from among those that are at the source before; what is still gone stays so.
    assert (row(engine, folder).copied, row(engine, folder).gone) == (3, "3")
    assert (row(engine, into).copied, row(engine, into).bytes) == (1, 100)


def test_a_copy_that_lay_in_the_right_folder_is_known_by_its_new_uid(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    arrived(ledger, folder, {1: 50, 2: 51})
    ledger.finish_folders([finished(folder, gone=[2])])
    ids = ledger.follow([], {folder: [Entry(9, 51, digest(2), FLAGGED)]}, {folder: {2}})
    assert source_uids(ledger, folder)[ids[folder]] == [9]
    assert flags_of(ledger, folder) == {1: frozenset(), 9: FLAGGED}
    assert claimed(ledger) == {50, 51}
    assert (row(engine, folder).already_there, row(engine, folder).gone) == (1, "")


def test_a_folder_whose_copies_have_all_followed_has_no_batch_left(ledger: Ledger, folder: int) -> None:
    arrived(ledger, folder, {1: 50, 2: 51})
    ledger.adopt(folder, entries({3: 9}))
    ledger.follow([], {}, {folder: {1, 2, 3}})
    assert ledger.batches(folder) == []
    assert claimed(ledger) == set()


def test_what_followed_is_known_entirely_or_not_at_all(engine: Engine, ledger: Ledger, folder: int) -> None:
    arrived(ledger, folder, {1: 50})
    into = opened(ledger, "Archive")
    moving = intend(ledger, into, [7])
    ledger.give_up(into, [GivenUp(8, "moved_at_source")])
    before = everything(engine)
    settled = Settled(moving, into, [Entry(7, 80, digest(1))], 10, [GivenUp(8, "moved_at_source")])
    with pytest.raises(IntegrityError):
        ledger.follow([settled], {}, {folder: {1}})
    assert everything(engine) == before


def test_finishing_says_what_is_gone_now_and_adds_up_what_followed(engine: Engine, ledger: Ledger, folder: int) -> None:
    ledger.finish_folders([finished(folder, gone=[9, 3, 4, 5], moved=2, flags_changed=7)])
    ledger.finish_folders([finished(folder, gone=[4, 9], moved=1)])
    found = row(engine, folder)
    assert (found.gone, found.moved, found.flags_changed) == ("4,9", 3, 7)
    ledger.finish_folders([finished(folder)])
    assert row(engine, folder).gone == ""


def test_an_issue_whose_message_has_left_is_forgotten_when_the_folder_is_finished(ledger: Ledger, folder: int) -> None:
    other = opened(ledger, "Other")
    for each in (folder, other):
        ledger.give_up(each, [GivenUp(1, "invalid_message"), GivenUp(2, "moved_at_source")])
    ledger.finish_folders([replace(finished(folder), outdated={2}), finished(other)])
    assert (list(ledger.issues(folder)), list(ledger.issues(other))) == ([1], [1, 2])


def test_of_a_folder_that_was_deleted_at_the_source_all_that_arrived_is_gone(
    engine: Engine, ledger: Ledger, folder: int
) -> None:
    deleted, left_out = opened(ledger, "Deleted"), opened(ledger, "Left out")
    for each in (folder, deleted, left_out):
        arrived(ledger, each, {1: 50, 2: 51})
        ledger.adopt(each, entries({7: 9}))
        intend(ledger, each, [8])
        ledger.finish_folders([finished(each, gone=[2])])
    ledger.supersede_all_but([folder], {"Deleted"})
    assert [row(engine, each).gone for each in (folder, deleted, left_out)] == ["2", "1:2,7", ""]
    # It is there again, or has other UIDs: the pass will say what is gone then.
    assert opened(ledger, "Deleted") == deleted
    opened(ledger, "Deleted", (2, 1))
    assert (row(engine, deleted).superseded, row(engine, deleted).gone) == (True, "")
