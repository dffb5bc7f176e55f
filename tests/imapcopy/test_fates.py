"""The table of fates: every situation has exactly one, and the documentation shows the same table."""

import re
from collections.abc import Collection
from enum import StrEnum
from itertools import product
from pathlib import Path

import pytest

from imapcopy.fates import TABLE, Copy, Departed, Fate, Known, Row, Situation, Source, fate

EVERYTHING = [Situation(*facts) for facts in product(Source, Known, (True, False), Copy, (True, False), Departed)]
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_every_situation_is_met_by_exactly_one_row() -> None:
    for situation in EVERYTHING:
        met = [row for row in TABLE if row.meets(situation)]
        assert len(met) == 1, (situation, met)
        assert fate(situation) == met[0].fate


def test_every_row_and_every_fate_is_needed() -> None:
    assert all(any(row.meets(situation) for situation in EVERYTHING) for row in TABLE)
    assert {row.fate for row in TABLE} == set(Fate)


def _cell(some: Collection[StrEnum] | None) -> str:
    return " / ".join(some) if some is not None else ""


def _said(fact: bool | None) -> str:
    return {None: "", True: "yes", False: "no"}[fact]


def _line(row: Row) -> str:
    facts = (_cell(row.source), _cell(row.known), _said(row.wanted), _cell(row.copy), _said(row.fits))
    line = f"| {' | '.join((*facts, _cell(row.departed), f'**{row.fate}**', row.why))} |"
    return re.sub("  +", " ", line)


def test_the_documentation_shows_the_table() -> None:
    _, _, section = ARCHITECTURE.read_text(encoding="utf-8").partition("## The fate of a message\n")
    shown = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|") and "**" in line]
    assert shown == [_line(row) for row in TABLE]


# Promises that hold whatever else is the case


def _all(**facts: object) -> set[Fate]:
    return {fate(at) for at in EVERYTHING if all(getattr(at, name) == fact for name, fact in facts.items())}


@pytest.mark.parametrize("source", [Source.COUNTED, Source.PARTLY])
def test_nothing_is_decided_about_what_was_not_told(source: Source) -> None:
    assert _all(source=source) == {Fate.ASK_AGAIN}


def test_what_the_target_did_not_tell_is_never_taken_for_absent() -> None:
    sending = {Fate.SEND, Fate.SEND_AGAIN, Fate.FORGET}
    for at in EVERYTHING:
        if at.copy == Copy.UNTOLD and at.known in (Known.NEW, Known.INTENDED, Known.SENT):
            assert fate(at) not in sending


def test_nothing_is_sent_before_the_target_was_asked() -> None:
    assert not _all(copy=Copy.UNASKED) & {Fate.SEND, Fate.SEND_AGAIN}


def test_what_was_verified_or_adopted_is_never_sent_again() -> None:
    for known in (Known.VERIFIED, Known.ADOPTED):
        assert not _all(known=known) & {Fate.SEND, Fate.SEND_AGAIN, Fate.MOVE}


def test_every_wanted_message_that_is_there_ends_as_copied_already_there_or_an_issue() -> None:
    """No message that the source holds is left without an end: the next step is known until there is one."""
    ends = {Fate.NOTHING, Fate.GIVE_UP, Fate.TELL, Fate.ADOPT, Fate.CONFIRM, Fate.REBIND, Fate.MOVE}
    steps = {Fate.ASK_AGAIN, Fate.LOOK_UP, Fate.READ_BACK, Fate.SEND, Fate.SEND_AGAIN, Fate.WAIT}
    for at in EVERYTHING:
        if at.wanted and at.source not in (Source.UNASKED, Source.LEFT):
            assert fate(at) in ends | steps
        if at.wanted and at.known == Known.NEW and at.source in (Source.TOLD, Source.VAGUE):
            assert fate(at) != Fate.NOTHING
