"""A mailbox of which the old service shows a part is suspected; one that is whole is not."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from models.receive_range import (
    COMPARED,
    FAR_BELOW,
    QUOTA_MARGIN,
    RANGES,
    USUAL,
    FolderAge,
    Holding,
    LimitedRange,
    Sign,
    far_below,
    limited_range,
)

AT = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def folder(messages: int, days: float | None) -> FolderAge:
    return FolderAge(messages, None if days is None else AT - timedelta(days=days))


def suspected(folders: Sequence[FolderAge], **known: int) -> LimitedRange | None:
    return limited_range(folders, AT, **known)


@pytest.mark.parametrize("days", RANGES)
@pytest.mark.parametrize("younger", [-0.9, 0, 0.9])
def test_mail_that_begins_where_a_range_begins_is_suspected(days: int, younger: float) -> None:
    found = suspected([folder(400, days - younger), folder(30, 3), folder(0, None)])
    assert found == LimitedRange(Sign.AGE, days)


@pytest.mark.parametrize("days", [2, 14, 45, 120, 250, 400, 3000])
def test_mail_of_another_age_is_not(days: int) -> None:
    assert suspected([folder(400, days), folder(30, 1)]) is None


@pytest.mark.parametrize("folders", [[], [folder(0, None)], [folder(7, 30)], [folder(400, None)]])
def test_little_mail_and_mail_without_a_date_say_nothing(folders: list[FolderAge]) -> None:
    assert suspected(folders) is None


@pytest.mark.parametrize(("messages", "limit"), [(1000, 1000), (999, 0), (1001, 0), (100, 0)])
def test_a_largest_folder_that_is_full_to_a_number_is_suspected(messages: int, limit: int) -> None:
    found = suspected([folder(messages, 2000), folder(80, 1000)])
    assert found == (LimitedRange(Sign.COUNT, limit) if limit else None)


def test_a_full_folder_beside_a_larger_one_is_not() -> None:
    assert suspected([folder(1000, 2000), folder(4321, 1000)]) is None


def test_a_quota_that_is_used_by_what_nobody_sees_is_suspected() -> None:
    mailbox = [folder(300, 700)]
    hidden = QUOTA_MARGIN + 5_000_001
    assert suspected(mailbox, octets=5_000_000, used=5_000_000 + hidden) == LimitedRange(Sign.QUOTA, hidden)
    assert suspected(mailbox, octets=5_000_000, used=hidden - 1) is None
    assert suspected(mailbox, octets=5_000_000) is None


def test_a_roster_that_wants_no_older_mail_is_no_range() -> None:
    mailbox = [folder(400, 30)]
    assert limited_range(mailbox, AT, since=date(2026, 10, 23), octets=1, used=1 << 40) is None
    assert limited_range(mailbox, AT, since=date(2026, 1, 1)) == LimitedRange(Sign.AGE, 30)


@pytest.mark.parametrize("found", [LimitedRange(Sign.AGE, 30), LimitedRange(Sign.QUOTA, 1 << 40), None])
def test_a_suspicion_is_read_as_it_was_written(found: LimitedRange | None) -> None:
    assert LimitedRange.read(str(found or "")) == found


# -- compared with others


def wave(*small: Holding, others: int = COMPARED, messages: int = 8000, octets: int = 4 << 30) -> dict[int, Holding]:
    return dict(enumerate([*small, *[Holding(messages, octets)] * others]))


def test_a_mailbox_far_below_the_others_of_its_wave_is_suspected() -> None:
    small = Holding(8000 // FAR_BELOW - 1, (4 << 30) // FAR_BELOW)
    assert far_below(wave(small)) == {0: LimitedRange(Sign.MEDIAN, 8000)}
    # Where nothing is known of sizes, the messages decide.
    assert far_below(wave(Holding(10, 0), octets=0)) == {0: LimitedRange(Sign.MEDIAN, 8000)}


@pytest.mark.parametrize(
    "holdings",
    [
        wave(Holding(8000 // FAR_BELOW, 1)),
        wave(Holding(10, (4 << 30) // FAR_BELOW + 1)),  # few messages, large ones
        wave(Holding(0, 0)),
        wave(Holding(10, 10), others=COMPARED - 2),
        wave(Holding(10, 10), messages=USUAL - 1),
        {},
    ],
)
def test_small_waves_small_mailboxes_and_empty_ones_are_not(holdings: dict[int, Holding]) -> None:
    assert far_below(holdings) == {}
