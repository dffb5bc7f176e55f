"""How often an account is tried that was refused: never so often that its server locks it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.refusals import (
    AMBIGUOUS_APART,
    APART,
    CORROBORATED,
    OF_THE_ACCOUNT,
    Refusal,
    is_parked,
    not_before,
    read_refusals,
    refused,
    write_refusals,
)

AT = datetime(2026, 12, 5, 22, tzinfo=UTC)


@pytest.mark.parametrize("cause", sorted(OF_THE_ACCOUNT - {"ambiguous_login"}))
def test_one_that_never_worked_is_parked_by_the_first_plain_refusal(cause: str) -> None:
    assert refused(None, cause, AT, worked=False).parked


@pytest.mark.parametrize("cause", sorted(OF_THE_ACCOUNT))
def test_one_that_worked_is_parked_by_three_refusals_that_are_apart(cause: str) -> None:
    found, at = None, AT
    for number in range(1, CORROBORATED + 1):
        found = refused(found, cause, at, worked=True)
        assert (found.times, found.parked) == (number, number == CORROBORATED)
        # Right behind it proves nothing more.
        assert refused(found, cause, at + timedelta(seconds=1), worked=True).times == number
        at = found.not_before


def test_a_refusal_without_a_reason_is_tried_twice_more_half_an_hour_apart() -> None:
    found, at = refused(None, "ambiguous_login", AT, worked=False), AT
    for _ in range(2):
        assert not found.parked
        assert found.not_before == at + AMBIGUOUS_APART
        at = found.not_before
        found = refused(found, "ambiguous_login", at, worked=False)
    assert found.parked


def test_another_answer_begins_anew() -> None:
    twice = Refusal("bad_credentials", 2, AT, parked=False)
    found = refused(twice, "account_locked", AT + APART, worked=True)
    assert (found.cause, found.times, found.parked) == ("account_locked", 1, False)


refusals = st.dictionaries(
    st.sampled_from(["source", "target"]),
    st.builds(
        Refusal,
        st.sampled_from(sorted(OF_THE_ACCOUNT)),
        st.integers(1, 5),
        st.datetimes(timezones=st.just(UTC)),
        st.booleans(),
    ),
)


@given(refusals)
def test_what_is_written_is_read(found: dict[str, Refusal]) -> None:
    assert read_refusals(write_refusals(found)) == found


def test_both_sides_count() -> None:
    old, new = Refusal("bad_credentials", 1, AT, parked=False), Refusal("ambiguous_login", 1, AT, parked=True)
    assert is_parked({"source": old, "target": new})
    assert not is_parked({"source": old})
    assert not_before({"source": old, "target": new}) == AT + AMBIGUOUS_APART
    assert not_before({}) is None
    assert write_refusals({}) == ""
