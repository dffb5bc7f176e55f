"""How far a wave is: every member once, with what the ledger says."""

import pytest
from sqlalchemy import Engine

from models.ledger import Ledger
from models.ledger_rows import Entry, GivenUp
from models.lifecycle import NoSuchWave, start_wave
from models.member import take_lease
from models.progress import wave_progress
from models.states import MemberState, ShortState
from tests.models.company import Company


def test_a_wave_without_members_has_no_rows(engine: Engine, company: Company) -> None:
    company.add("a@new.example", wave="other")
    with pytest.raises(NoSuchWave):
        wave_progress(engine, "first")


def test_each_member_is_there_once_with_the_sums_of_its_folders(engine: Engine, company: Company) -> None:
    member_id = company.add("b@new.example", MemberState.SYNCING, messages_found=10)
    company.add("a@new.example", MemberState.FAILED, cause="timeout")
    company.add("c@new.example", wave="other")
    ledger = Ledger(engine, member_id, take_lease(engine, member_id))
    for name in ("INBOX", "Sent"):
        folder = ledger.open_folder(name, 1, name, 1).id or 0
        ledger.confirm(
            ledger.intend(folder, [1, 2], [b"x" * 16] * 2, 30, 1),
            [Entry(1, 1, b"x" * 16)],
            [GivenUp(2, "message_too_large")],
            20,
        )
        ledger.adopt(folder, [Entry(3, 3, b"y" * 16)])
    progress = wave_progress(engine, "first")
    assert [member.email for member in progress.members] == ["b@new.example", "a@new.example"]
    moving, failed = progress.members
    assert (moving.found, moving.done, moving.issues, moving.bytes) == (10, 6, 2, 40)
    assert (failed.found, failed.done, failed.cause) == (0, 0, "timeout")
    assert progress.count(ShortState.ACTIVE) == progress.count(ShortState.NEEDS_ATTENTION) == 1


def test_more_done_than_was_found_is_never_shown(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example", messages_found=1)
    ledger = Ledger(engine, member_id, take_lease(engine, member_id))
    ledger.adopt(ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0, [Entry(n, n, b"x" * 16) for n in (1, 2)])
    (member,) = wave_progress(engine, "first").members
    assert (member.found, member.done) == (2, 2)


def test_a_superseded_folder_no_longer_counts(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example")
    ledger = Ledger(engine, member_id, take_lease(engine, member_id))
    ledger.adopt(ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0, [Entry(1, 1, b"x" * 16)])
    ledger.open_folder("INBOX", 2, "INBOX", 1)
    (member,) = wave_progress(engine, "first").members
    assert member.done == 0


def test_what_was_there_before_and_what_earlier_runs_copied_is_no_speed_of_this_run(
    engine: Engine, company: Company
) -> None:
    member_id = company.add("a@new.example")
    ledger = Ledger(engine, member_id, take_lease(engine, member_id))
    folder = ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0
    ledger.confirm(ledger.intend(folder, [1], [b"x" * 16], 30, 1), [Entry(1, 1, b"x" * 16)])
    start_wave(engine, "first")
    ledger.adopt(folder, [Entry(2, 2, b"y" * 16)])
    assert wave_progress(engine, "first").copied_this_run == 0
    ledger.confirm(ledger.intend(folder, [3], [b"z" * 16], 30, 1), [Entry(3, 3, b"z" * 16)])
    assert wave_progress(engine, "first").copied_this_run == 1
