"""What follows the source, decided: which flags change, whether a folder has to be looked at, which copy is taken."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.follow import Departed, FlagChange, Left, flag_changes, may_have_lost
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus
from models.flag_sets import Flags
from models.ledger_rows import BatchKind, BatchRecord, BatchState, Entry

NONE: Flags = frozenset()


def digest(number: int) -> bytes:
    return number.to_bytes(16, "big")


def flags(*names: str) -> Flags:
    return frozenset(names)


def batch(before: dict[int, Flags], state: BatchState = BatchState.VERIFIED) -> BatchRecord:
    entries = tuple(Entry(uid, uid + 100, digest(uid), had) for uid, had in before.items())
    return BatchRecord(1, BatchKind.COPIED, state, entries, 50)


def scan(now: dict[int, Flags]) -> dict[int, Envelope]:
    return {uid: Envelope(uid, has, "", None, 10) for uid, has in now.items()}


def changes(
    before: dict[int, Flags], now: dict[int, Flags], keywords: Flags | None = None
) -> dict[tuple[Flags, Flags], list[int]]:
    """UIDs at the target, by what is added and what is taken away."""
    found = flag_changes([batch(before)], scan(now), keywords)
    return {(change.add, change.remove): [entry.target_uid for entry in some] for change, some in found.items()}


# Flags


def test_messages_with_the_same_change_are_together() -> None:
    before = {1: NONE, 2: flags("\\Seen"), 3: NONE, 4: flags("\\Flagged"), 5: flags("\\Seen")}
    now = {1: flags("\\Seen"), 2: NONE, 3: flags("\\Seen"), 4: flags("\\Seen", "\\Flagged"), 5: flags("\\Seen")}
    assert changes(before, now) == {
        (flags("\\Seen"), NONE): [101, 103, 104],
        (NONE, flags("\\Seen")): [102],
    }


def test_the_entries_have_the_present_flags_of_the_source() -> None:
    now = flags("\\Seen", "\\Deleted", "$Project")
    [[entry]] = flag_changes([batch({1: NONE})], scan({1: now}), NONE).values()
    assert entry == Entry(1, 101, digest(1), now)


def test_a_mark_for_deletion_is_neither_set_nor_taken_away() -> None:
    """It is noted all the same, or it would be a change again in each pass."""
    assert changes({1: NONE}, {1: flags("\\Deleted")}) == {(NONE, NONE): [101]}
    assert changes({1: flags("\\Deleted")}, {1: flags("\\Seen")}) == {(flags("\\Seen"), NONE): [101]}
    assert not FlagChange(NONE, NONE)


@pytest.mark.parametrize(
    ("keywords", "added"),
    [
        (None, flags("\\Seen", "$Project", "$Junk")),
        (flags("$project"), flags("\\Seen", "$Project")),
        (NONE, flags("\\Seen")),
    ],
    ids=["any keyword", "some keywords", "no keyword"],
)
def test_only_what_the_target_takes_is_asked_for(keywords: Flags | None, added: Flags) -> None:
    now = flags("\\Seen", "$Project", "$Junk", "\\Recent")
    [(add, remove)] = changes({1: NONE}, {1: now}, keywords)
    assert (add, remove) == (added, NONE)


def test_what_left_the_source_and_what_was_only_intended_are_no_change() -> None:
    assert changes({1: NONE, 2: NONE}, {2: NONE}) == {}
    intended = batch({1: NONE}, BatchState.INTENDED)
    assert flag_changes([intended], scan({1: flags("\\Seen")}), None) == {}


FLAGS = st.frozensets(st.sampled_from(["\\Seen", "\\Answered", "\\Flagged", "\\Draft", "\\Deleted", "$A", "$B"]))


@given(FLAGS, FLAGS, FLAGS)
def test_what_changed_at_the_source_is_as_it_is_there_and_all_else_as_the_member_has_it(
    before: Flags, now: Flags, member: Flags
) -> None:
    after = member
    for add, remove in changes({1: before}, {1: now}):
        after = (after | add) - remove
    changed = (before ^ now) - {"\\Deleted"}
    assert after & changed == now & changed
    assert after - changed == member - changed


def test_a_keyword_written_in_another_case_is_the_same() -> None:
    """To add it and then to take it away would lose it where case makes no difference."""
    assert changes({1: flags("$Project")}, {1: flags("$project")}) == {(NONE, NONE): [101]}


# Whether a folder has to be looked at


def settled(messages: int, uidnext: int) -> str:
    return json.dumps(asdict(FolderStatus(messages, uidnext, 1)) | {"since": "None"})


@pytest.mark.parametrize(
    ("messages", "uidnext", "may"),
    [
        (10, 50, False),  # as it was
        (13, 53, False),  # three came
        (13, 60, True),  # seven that came are not there, or some of the old ones
        (9, 50, True),
        (10, 51, True),  # one came, one left
        (12, 53, True),
    ],
)
def test_a_folder_may_have_lost_mail_when_fewer_came_than_uids_were_given(
    messages: int, uidnext: int, may: bool
) -> None:
    assert may_have_lost(settled(10, 50), FolderStatus(messages, uidnext, 1)) is may


def test_a_folder_that_was_left_with_a_rest_is_looked_at() -> None:
    assert may_have_lost("", FolderStatus(10, 50, 1))


@given(st.integers(0, 50), st.integers(0, 50), st.data())
def test_no_loss_is_overlooked(before: int, came: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(1, before + came)) if before + came else 0
    status = FolderStatus(before + came - lost, 100 + came, 1)
    assert may_have_lost(settled(before, 100), status) == bool(lost)


# What has left its place


def left(uid: int, content: int, folder_id: int = 1) -> Left:
    return Left(folder_id, "INBOX", 7, Entry(uid, uid + 100, digest(content)))


def test_each_message_that_left_stands_for_one_message_only() -> None:
    departed = Departed([left(1, 5), left(2, 5), left(3, 6)])
    assert [departed.free(digest(content)) for content in (5, 6, 7)] == [2, 1, 0]
    departed.take(left(1, 5))
    assert (departed.free(digest(5)), departed.of(digest(5))) == (1, [left(2, 5)])


def test_what_a_message_stayed_behind_for_is_taken() -> None:
    departed = Departed([left(1, 5), left(2, 5)], [digest(5), digest(6), digest(6)])
    assert (departed.free(digest(5)), departed.free(digest(6))) == (1, 0)


def test_where_nothing_left_nothing_stands_for_anything() -> None:
    departed = Departed()
    assert not departed.free(digest(5))
    assert departed.of(digest(5)) == ()
