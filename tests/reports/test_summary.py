"""Counting, grading and grouping."""

from dataclasses import replace

import pytest

from models.causes import cause
from models.states import MemberState
from reports.summary import (
    GRADE_NAMES,
    GRADE_RULES,
    POOR_COUNT,
    Followed,
    Grade,
    MemberSummary,
    MessageCounts,
    grade,
    group_by_cause,
)
from tests.reports.sample import sample_later_summary, sample_member, sample_summary

ALL = MessageCounts(source=1000, copied=1000)


def counts_with(issues: int, source: int = 1000) -> MessageCounts:
    return MessageCounts(source=source, copied=source - issues, issues=issues)


def with_state(state: MemberState) -> MemberSummary:
    return next(member for member in sample_summary().members if member.state == state)


@pytest.mark.parametrize(
    ("counts", "altered", "expected"),
    [
        (ALL, {}, Grade.PERFECT),
        (MessageCounts(), {}, Grade.PERFECT),
        (MessageCounts(10, 4, 6), {}, Grade.PERFECT),
        (ALL, {"header": 0}, Grade.PERFECT),
        (ALL, {"line_ends": 1}, Grade.GOOD),
        (ALL, {"final_line_end": 900, "keyword_dropped": 3}, Grade.GOOD),
        (ALL, {"line_ends": 1, "header": 1}, Grade.INVESTIGATE),
        (ALL, {"something_new": 1}, Grade.INVESTIGATE),
        (counts_with(1), {}, Grade.INVESTIGATE),
    ],
)
def test_grades(counts: MessageCounts, altered: dict[str, int], expected: Grade) -> None:
    assert grade(counts, altered) is expected


@pytest.mark.parametrize(
    ("issues", "source", "expected"),
    [
        (POOR_COUNT, 20, Grade.INVESTIGATE),  # a large share, but few
        (POOR_COUNT + 1, 20, Grade.POOR),
        (100, 10_000, Grade.INVESTIGATE),  # many, but exactly one in a hundred
        (101, 10_000, Grade.POOR),
    ],
)
def test_poor_takes_both_many_and_a_large_share(issues: int, source: int, expected: Grade) -> None:
    assert grade(counts_with(issues, source), {}) is expected


def test_unaccounted_messages_weigh_like_issues() -> None:
    assert grade(MessageCounts(source=1000, copied=999), {}) is Grade.INVESTIGATE
    assert grade(MessageCounts(source=1000, copied=900), {}) is Grade.POOR


def test_more_copied_than_the_source_holds_is_no_loss() -> None:
    counts = MessageCounts(source=10, copied=12)
    assert counts.unaccounted == -2
    assert grade(counts, {}) is Grade.PERFECT


@pytest.mark.parametrize(
    ("issues", "harmless", "altered", "expected"),
    [
        (3, 3, {}, Grade.GOOD),
        (900, 900, {}, Grade.GOOD),
        (3, 2, {}, Grade.INVESTIGATE),
        (100, 80, {}, Grade.POOR),
        (1, 1, {"date": 1}, Grade.INVESTIGATE),
    ],
)
def test_a_message_whose_copy_did_not_follow_it_costs_no_more_than_perfect(
    issues: int, harmless: int, altered: dict[str, int], expected: Grade
) -> None:
    assert grade(counts_with(issues), altered, harmless) is expected


def test_what_needs_nobody_is_no_cause_of_the_member_and_stands_apart() -> None:
    summary = sample_later_summary()
    stayed, troubled = summary.members[3], summary.members[6]
    assert (stayed.harmless, stayed.leading_cause) == (2, None)
    assert (troubled.harmless, troubled.leading_cause) == (1, cause("message_too_large"))
    assert stayed in summary.completed
    assert cause("moved_at_source") not in {group.cause for group in summary.causes}
    [group] = summary.harmless_causes
    assert (group.cause.id, group.members, group.messages) == ("moved_at_source", (stayed, troubled), 3)


def test_copies_in_the_wrong_folder_are_looked_at_and_those_that_the_member_removed_are_not() -> None:
    stayed = sample_later_summary().members[3]
    assert (stayed.misplaced, stayed.grade) == (1, Grade.INVESTIGATE)
    removed = replace(stayed, issues=tuple(replace(issue, server_text="") for issue in stayed.issues))
    assert (removed.misplaced, removed.grade) == (0, Grade.GOOD)
    assert grade(counts_with(900), {}, 900, misplaced=900) is Grade.INVESTIGATE, "none of them is missing"


def test_what_happened_at_the_source_adds_up() -> None:
    summary = sample_later_summary()
    assert summary.members[3].followed == Followed(gone=3, moved=3, flags_changed=1041, strayed=2)
    assert summary.followed == Followed(gone=1207, moved=3, flags_changed=1041, strayed=2)
    assert not sample_summary().followed


def test_every_grade_has_its_name_and_rule() -> None:
    assert set(GRADE_NAMES) == set(GRADE_RULES) == set(Grade)


def test_a_mailbox_that_is_not_through_has_no_grade() -> None:
    assert with_state(MemberState.SYNCING).grade is None
    assert with_state(MemberState.FAILED).grade is None
    assert with_state(MemberState.SYNCED).grade is not None


def test_a_wave_takes_the_worst_grade() -> None:
    summary = sample_summary()
    assert summary.grade is Grade.INVESTIGATE
    assert replace(summary, members=()).grade is None


def test_a_member_is_the_sum_of_its_folders() -> None:
    member = sample_member(1)
    assert len(member.folders) == 2
    assert member.counts.source == 48213
    assert member.counts == member.folders[0].counts + member.folders[1].counts
    assert member.counts.unaccounted == 0


def test_every_member_is_in_exactly_one_group() -> None:
    summary = sample_summary()
    groups = summary.completed + summary.needs_attention + summary.unfinished + summary.removed
    assert sorted(member.id for member in groups) == [member.id for member in summary.members]


def test_the_leading_cause_is_the_members_own() -> None:
    assert with_state(MemberState.NEEDS_PASSWORD).leading_cause == cause("app_password_required")
    assert with_state(MemberState.SYNCED).leading_cause is None


def test_else_the_leading_cause_is_the_commonest_of_its_issues() -> None:
    member = with_state(MemberState.SYNCED_WITH_ISSUES)
    assert member.leading_cause == cause("message_too_large")
    # A tie goes to the name that comes first, so that two reports of the same ledger are equal.
    assert replace(member, issues=member.issues[1:]).leading_cause == cause("invalid_message")


def test_causes_are_grouped_commonest_first() -> None:
    groups = sample_summary().causes
    assert [(group.cause.id, len(group.members), group.messages) for group in groups][:3] == [
        ("imap_disabled", 2, 0),
        ("invalid_message", 2, 2),
        ("message_too_large", 2, 4),
    ]
    assert [len(group.members) for group in groups] == sorted((len(group.members) for group in groups), reverse=True)


def test_a_member_counts_once_for_each_cause_among_its_issues() -> None:
    member = with_state(MemberState.SYNCED_WITH_ISSUES)
    assert {group.cause.id: len(group.members) for group in group_by_cause([member])} == {
        "message_too_large": 1,
        "invalid_message": 1,
    }


def test_members_that_need_nobody_are_in_no_cause_group() -> None:
    assert group_by_cause([with_state(MemberState.THROTTLED), with_state(MemberState.SYNCED)]) == ()


def test_a_row_with_two_problems_is_one_row() -> None:
    summary = sample_summary()
    assert len(summary.invalid_rows) == 3
    assert summary.invalid_lines == 2


def test_a_wave_is_done_when_nobody_waits_and_nothing_was_left_out() -> None:
    done = replace(sample_summary(), members=(sample_member(1), sample_member(4)), invalid_rows=())
    assert done.all_done
    assert not replace(done, members=(*done.members, sample_member(18))).all_done
    assert not replace(done, invalid_rows=sample_summary().invalid_rows).all_done
    assert not sample_summary().all_done


def test_a_mailbox_that_seems_to_hide_mail_is_listed_and_at_best_investigate() -> None:
    before, after = sample_member(5), sample_later_summary().members[4]
    assert before.grade is not None
    assert after.grade == max(before.grade, Grade.INVESTIGATE)
    limited = sample_later_summary().limited
    assert limited is not None
    assert [member.id for member in limited.members] == [5]
    assert sample_summary().limited is None
