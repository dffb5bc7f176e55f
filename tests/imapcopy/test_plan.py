"""What is missing, in which batches it goes, and which folders go together."""

from datetime import UTC, date, datetime

from hypothesis import given
from hypothesis import strategies as st

from imapcopy.plan import Envelope, Grouping, batches, groups, wanted


def envelope(uid: int, size: int = 1, arrived: datetime | None = None) -> Envelope:
    return Envelope(uid, frozenset(), "", arrived, size)


SIZES = st.lists(st.integers(0, 500))


@given(SIZES, st.integers(1, 10), st.integers(1, 400))
def test_batches_hold_everything_once_in_order_and_within_the_limits(sizes: list[int], most: int, octets: int) -> None:
    given_envelopes = [envelope(uid, size) for uid, size in enumerate(sizes)]
    cut = list(batches(given_envelopes, most, octets))
    assert [one for batch in cut for one in batch] == given_envelopes
    for batch in cut:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(one.size for one in batch) <= octets


@given(st.lists(st.integers(0, 3 * Grouping().messages // 2), max_size=12), st.integers(1, 5))
def test_groups_hold_every_folder_once_in_order_and_within_the_limits(counts: list[int], folders: int) -> None:
    grouping = Grouping(folders=folders)
    found = list(groups(range(len(counts)), lambda folder: counts[folder], grouping))
    assert [folder for group in found for folder in group] == list(range(len(counts)))
    for group in found:
        assert 1 <= len(group) <= folders
        assert len(group) == 1 or sum(counts[folder] for folder in group) <= grouping.messages


def test_since_keeps_the_day_itself_and_what_has_no_date() -> None:
    days = [datetime(2024, 5, day, tzinfo=UTC) for day in (9, 10, 11)]
    scan = [envelope(uid, arrived=day) for uid, day in enumerate([*days, None])]
    assert [one.uid for one in wanted(scan, date(2024, 5, 10))] == [1, 2, 3]
    assert wanted(scan, None) == scan
