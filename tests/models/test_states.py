"""The table of states: every change is either in it or refused, and every state has its words."""

from itertools import product

import pytest

from models.bilingual import LANGUAGES
from models.states import (
    AT_REST,
    FINAL,
    MEMBER_CHANGES,
    MEMBER_STATE_NAMES,
    MOVED,
    SHORT_STATE_NAMES,
    SHORT_STATES,
    WAVE_STATE_NAMES,
    IllegalChange,
    MemberState,
    ShortState,
    WaveState,
    check_member_change,
)

M = MemberState
EVERY_CHANGE = list(product(MemberState, MemberState))


@pytest.mark.parametrize(("old", "new"), [c for c in EVERY_CHANGE if c[0] == c[1] or c[1] in MEMBER_CHANGES[c[0]]])
def test_a_change_in_the_table_is_allowed(old: MemberState, new: MemberState) -> None:
    check_member_change(old, new)


@pytest.mark.parametrize(("old", "new"), [c for c in EVERY_CHANGE if c[0] != c[1] and c[1] not in MEMBER_CHANGES[c[0]]])
def test_every_other_change_is_refused(old: MemberState, new: MemberState) -> None:
    with pytest.raises(IllegalChange, match=f"from {old} to {new}"):
        check_member_change(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (M.COMPLETED, M.QUEUED),
        (M.COMPLETED, M.SYNCING),
        (M.COMPLETED, M.FAILED),
        (M.REMOVED, M.SYNCING),
        (M.INVALID, M.SYNCING),
        (M.INVALID, M.SYNCED),
        (M.SYNCING, M.REMOVED),
        (M.SYNCING, M.COMPLETED),
        (M.COMPLETED_WITH_ISSUES, M.COMPLETED),
    ],
)
def test_what_would_lose_or_skip_something_is_not_in_the_table(old: MemberState, new: MemberState) -> None:
    with pytest.raises(IllegalChange):
        check_member_change(old, new)


def test_a_run_that_died_can_be_taken_up_again() -> None:
    for state in (M.CHECKING, M.SYNCING):
        assert {M.QUEUED, M.PAUSED} <= MEMBER_CHANGES[state]


def test_from_every_state_at_rest_a_run_can_start_and_from_a_run_every_one_is_reached() -> None:
    for state in AT_REST:
        assert {M.SYNCING, M.CHECKING} <= MEMBER_CHANGES[state]
        assert state in MEMBER_CHANGES[M.SYNCING]


def test_every_state_has_its_row_its_short_word_and_its_names() -> None:
    assert set(MEMBER_CHANGES) == set(SHORT_STATES) == set(MEMBER_STATE_NAMES) == set(MemberState)
    assert set(WAVE_STATE_NAMES) == set(WaveState)
    assert set(SHORT_STATE_NAMES) == set(SHORT_STATES.values()) == set(ShortState)


@pytest.mark.parametrize("names", [MEMBER_STATE_NAMES, WAVE_STATE_NAMES, SHORT_STATE_NAMES])
def test_no_word_stands_for_two_situations(names: dict[object, object]) -> None:
    for language in LANGUAGES:
        words = [text.in_language(language) for text in names.values()]  # type: ignore[attr-defined]
        assert all(words)
        assert len(set(words)) == len(words)


def test_final_and_moved_are_what_they_say() -> None:
    assert not FINAL & AT_REST
    assert {SHORT_STATES[state] for state in FINAL} == {ShortState.DONE}
    assert M.REMOVED not in MOVED
