"""UID sets keep their order, and say runs shortly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.uid_sets import format_uids, parse_uids

UID = st.integers(min_value=1, max_value=2**32 - 1)
NEARBY = st.lists(st.integers(min_value=1, max_value=12))


@given(st.lists(UID) | NEARBY)
def test_what_was_written_is_read_again_in_its_own_order(uids: list[int]) -> None:
    assert parse_uids(format_uids(uids)) == uids


@given(st.sets(UID, min_size=1))
def test_a_set_is_never_longer_than_its_numbers(uids: set[int]) -> None:
    text = format_uids(sorted(uids))
    assert len(text) <= len(",".join(map(str, sorted(uids))))
    assert set(text) <= set("0123456789:,")


@pytest.mark.parametrize(
    ("uids", "text"),
    [
        ([], ""),
        ([7], "7"),
        ([3, 4], "3:4"),
        ([3, 4, 5, 6, 7, 9], "3:7,9"),
        ([9, 3, 4], "9,3:4"),
        ([5, 4, 3], "5,4,3"),
        ([2, 2], "2,2"),
    ],
)
def test_runs_are_written_as_ranges(uids: list[int], text: str) -> None:
    assert format_uids(uids) == text
    assert parse_uids(text) == uids


def test_a_range_counts_in_either_direction() -> None:
    assert parse_uids("7:5,1") == [5, 6, 7, 1]


@pytest.mark.parametrize("text", ["*", "1:*", "a", "1,,2", "1:2:3"])
def test_what_is_no_set_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse_uids(text)
