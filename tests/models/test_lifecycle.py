"""The life of a wave: who is in line, how each one ended, and what the wave is then."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from models import lifecycle
from models.columns import now
from models.database import writing
from models.ledger import Ledger
from models.ledger_rows import Altered, Entry, Finished, FolderTally, GivenUp, Heading
from models.lifecycle import NoSuchWave, finish_wave, needing_retry, start_wave, wave_state
from models.member import LeaseLost, release_lease, take_lease
from models.receive_range import FolderAge
from models.states import AT_REST, FINAL, MOVED, SHORT_STATES, MemberState, ShortState, WaveState
from models.vault import Vault
from models.wave import InvalidRow, Wave
from tests.models.company import Company

M = MemberState
ACTIVE = [state for state in MemberState if SHORT_STATES[state] == ShortState.ACTIVE]


def in_every_state(company: Company) -> dict[MemberState, int]:
    return {state: company.add(f"{state}@new.example", state) for state in MemberState}


def states(company: Company, members: dict[MemberState, int]) -> dict[MemberState, MemberState]:
    return {before: company.member(member_id).state for before, member_id in members.items()}


# -- queueing


def test_a_start_queues_all_that_are_not_through_and_leaves_the_final_ones_alone(
    engine: Engine, company: Company
) -> None:
    members = in_every_state(company)
    due = start_wave(engine, "first", flow_run_id="run-1")
    assert [member.email for member in due] == [f"{state}@new.example" for state in MemberState if state not in FINAL]
    after = states(company, members)
    assert all(after[state] == M.QUEUED for state in AT_REST)
    assert all(after[state] == state for state in MemberState if state not in AT_REST)
    wave = company.wave_row()
    assert (wave.state, wave.flow_run_id, wave.run_finished_at) == (WaveState.RUNNING, "run-1", None)
    assert wave.run_started_at is not None
    assert "start" in company.events()


def test_a_start_of_some_queues_only_those_whatever_the_case(engine: Engine, company: Company) -> None:
    company.add("A@new.example", M.FAILED)
    other = company.add("b@new.example", M.FAILED)
    assert [member.email for member in start_wave(engine, "first", ["a@NEW.example"])] == ["A@new.example"]
    assert company.member(other).state == M.FAILED


def test_a_member_in_line_shows_no_failure_of_an_earlier_run(engine: Engine, company: Company) -> None:
    later = now() + timedelta(hours=1)
    member_id = company.add(
        "a@new.example", M.THROTTLED, cause="throttled", cause_side="source", server_text="NO", resume_at=later
    )
    start_wave(engine, "first")
    member = company.member(member_id)
    assert (member.cause, member.cause_side, member.server_text, member.resume_at) == (None, "", "", None)
    assert company.events(member_id) == ["throttled > queued"]


@pytest.mark.parametrize("call", [start_wave, lifecycle.start_check, needing_retry, finish_wave])
def test_a_wave_that_is_not_there_has_its_own_error(engine: Engine, call: object) -> None:
    with pytest.raises(NoSuchWave, match="nowhere"):
        call(engine, "nowhere")  # type: ignore[operator]


def test_a_check_looks_at_those_that_were_not_moved_yet(engine: Engine, company: Company) -> None:
    in_every_state(company)
    due = {member.email.partition("@")[0] for member in lifecycle.start_check(engine, "first")}
    assert due == {str(state) for state in MemberState} - {str(state) for state in MOVED | FINAL}
    assert company.wave_row().state == WaveState.CHECKING


def test_a_retry_takes_what_is_not_through_or_has_messages_left(engine: Engine, company: Company) -> None:
    in_every_state(company)
    chosen = {email.partition("@")[0] for email in needing_retry(engine, "first")}
    assert chosen == {str(state) for state in MemberState} - {"synced", *map(str, FINAL)}


# -- how a member's pass ends


def started(engine: Engine, company: Company) -> tuple[int, int]:
    member_id = company.add("a@new.example")
    return member_id, lifecycle.take_member(engine, member_id).lease_token


def test_a_start_counts_the_attempt_and_forgets_the_last_failure(engine: Engine, company: Company) -> None:
    member_id, token = started(engine, company)
    lifecycle.member_failed(engine, member_id, token, "timeout", "source", "no answer", resume_at=now())
    lifecycle.take_member(engine, member_id)
    member = company.member(member_id)
    assert (member.state, member.attempts, member.cause, member.resume_at) == (M.SYNCING, 2, None, None)
    assert member.started_at is not None
    assert member.finished_at is None


@pytest.mark.parametrize(
    ("cause", "side", "state"),
    [
        ("bad_credentials", "source", M.NEEDS_PASSWORD),
        ("app_password_required", "source", M.NEEDS_PASSWORD),
        ("ambiguous_login", "source", M.NEEDS_PASSWORD),
        ("password_expired", "source", M.NEEDS_PASSWORD),
        ("bad_credentials", "target", M.FAILED),
        ("password_missing", "source", M.AWAITING_PASSWORD),
        ("password_missing", "target", M.AWAITING_PASSWORD),
        ("over_quota", "target", M.FAILED),
        ("imap_disabled", "source", M.FAILED),
        ("connect_failed", "source", M.FAILED),
    ],
)
def test_a_failure_leads_to_the_state_that_says_whose_turn_it_is(
    engine: Engine, company: Company, cause: str, side: str, state: MemberState
) -> None:
    member_id, token = started(engine, company)
    lifecycle.member_failed(engine, member_id, token, cause, side, "NO said the server")
    member = company.member(member_id)
    assert (member.state, member.cause, member.cause_side) == (state, cause, side)
    assert (member.server_text, member.resume_at) == ("NO said the server", None)
    assert member.finished_at is not None
    assert company.events(member_id)[-1] == f"syncing > {state}"


def test_a_failure_that_is_tried_again_always_has_its_time(engine: Engine, company: Company) -> None:
    member_id, token = started(engine, company)
    later = now() + timedelta(minutes=1)
    lifecycle.member_failed(engine, member_id, token, "bad_credentials", "source", "", resume_at=later)
    member = company.member(member_id)
    assert (member.state, member.resume_at) == (M.THROTTLED, later)


def test_a_pass_without_a_rest_is_synced_and_with_one_has_issues(engine: Engine, company: Company) -> None:
    member_id, token = started(engine, company)
    ledger = Ledger(engine, member_id, token)
    folder = ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0
    assert lifecycle.member_moved(engine, member_id, token) == M.SYNCED
    token = lifecycle.take_member(engine, member_id).lease_token
    ledger = Ledger(engine, member_id, token)
    ledger.give_up(folder, [GivenUp(1, "message_too_large")])
    assert lifecycle.member_moved(engine, member_id, token) == M.SYNCED_WITH_ISSUES
    token = lifecycle.take_member(engine, member_id).lease_token
    ledger = Ledger(engine, member_id, token)
    ledger.supersede_all_but([])
    assert lifecycle.member_moved(engine, member_id, token) == M.SYNCED


def test_a_message_whose_copy_did_not_follow_it_needs_nobody(engine: Engine, company: Company) -> None:
    member_id, token = started(engine, company)
    ledger = Ledger(engine, member_id, token)
    folder = ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0
    other = ledger.open_folder("Archive", 1, "Archive", 1).id or 0
    ledger.give_up(folder, [GivenUp(1, "moved_at_source"), GivenUp(2, "moved_at_source")])
    assert lifecycle.member_moved(engine, member_id, token) == M.SYNCED
    token = lifecycle.take_member(engine, member_id).lease_token
    ledger = Ledger(engine, member_id, token)
    ledger.give_up(other, [GivenUp(1, "message_too_large")])
    assert lifecycle.member_moved(engine, member_id, token) == M.SYNCED_WITH_ISSUES
    token = lifecycle.take_member(engine, member_id).lease_token
    ledger = Ledger(engine, member_id, token)
    # What it was in a folder that is no longer there makes up for nothing.
    ledger.supersede_all_but([other])
    assert lifecycle.member_moved(engine, member_id, token) == M.SYNCED_WITH_ISSUES


def test_a_check_leaves_a_ready_member_with_what_it_saw(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example")
    token = lifecycle.take_member(engine, member_id, M.CHECKING).lease_token
    lifecycle.member_checked(engine, member_id, token, [FolderAge(5, None), FolderAge(7, None)], 3456)
    member = company.member(member_id)
    assert (member.state, member.messages_found, member.source_bytes) == (M.READY, 12, 3456)


def test_a_stopped_member_is_paused_and_goes_on_with_the_next_run(engine: Engine, company: Company) -> None:
    member_id, token = started(engine, company)
    lifecycle.member_paused(engine, member_id, token)
    release_lease(engine, member_id, token)
    assert company.member(member_id).state == M.PAUSED
    assert [due.id for due in start_wave(engine, "first")] == [member_id]


@pytest.mark.parametrize(
    "write",
    [
        lambda engine, member_id, token: lifecycle.member_found(engine, member_id, token, 5),
        lambda engine, member_id, token: lifecycle.member_checked(engine, member_id, token, [], 1),
        lambda engine, member_id, token: lifecycle.member_moved(engine, member_id, token),
        lambda engine, member_id, token: lifecycle.member_failed(engine, member_id, token, "timeout", "source", ""),
        lambda engine, member_id, token: lifecycle.member_paused(engine, member_id, token),
    ],
)
def test_a_runner_that_slept_through_its_lease_does_not_write_over_the_new_one(
    engine: Engine, company: Company, write: object
) -> None:
    member_id, token = started(engine, company)
    company.expire_lease(member_id)
    take_lease(engine, member_id, "elsewhere/boot/1/1")
    before = company.member(member_id).model_dump()
    with pytest.raises(LeaseLost):
        write(engine, member_id, token)  # type: ignore[operator]
    assert company.member(member_id).model_dump() == before


# -- what the wave is then


@pytest.mark.parametrize("state", [*MemberState])
def test_one_member_alone_makes_the_wave(state: MemberState) -> None:
    expected = {
        ShortState.ACTIVE: WaveState.RUNNING,
        ShortState.WAITING: WaveState.PAUSED,
        ShortState.NEEDS_ATTENTION: WaveState.SYNCED_WITH_FAILURES,
        ShortState.SYNCED: WaveState.SYNCED,
        ShortState.DONE: WaveState.SYNCED,
    }
    assert wave_state([state], invalid_rows=False) == expected[SHORT_STATES[state]]


@pytest.mark.parametrize(
    ("members", "invalid_rows", "state"),
    [
        ([], False, WaveState.SYNCED),
        ([], True, WaveState.SYNCED_WITH_FAILURES),
        ([M.SYNCED, M.SYNCED], False, WaveState.SYNCED),
        ([M.SYNCED, M.SYNCED], True, WaveState.SYNCED_WITH_FAILURES),
        ([M.SYNCED, M.SYNCED_WITH_ISSUES], False, WaveState.SYNCED_WITH_FAILURES),
        ([M.SYNCED, M.FAILED, M.PAUSED], False, WaveState.PAUSED),
        ([M.SYNCED, M.READY], False, WaveState.PAUSED),
        ([M.SYNCED, M.THROTTLED], False, WaveState.PAUSED),
        ([M.FAILED, M.PAUSED, M.SYNCING], True, WaveState.RUNNING),
        ([M.COMPLETED, M.REMOVED], False, WaveState.SYNCED),
    ],
)
def test_a_wave_is_what_its_members_make(members: list[MemberState], invalid_rows: bool, state: WaveState) -> None:
    assert wave_state(members, invalid_rows) == state


def test_an_invalid_row_counts_when_a_wave_finishes(engine: Engine, company: Company) -> None:
    company.add("a@new.example", M.SYNCED)
    with writing(engine) as session:
        wave = session.exec(select(Wave)).one()
        row = dict.fromkeys(("column", "value", "code", "problem_zh", "problem_en", "fix_zh", "fix_en"), "")
        session.add(InvalidRow(wave_id=wave.id, line=3, **row))
    assert finish_wave(engine, "first") == WaveState.SYNCED_WITH_FAILURES
    assert company.wave_row().run_finished_at is not None


@pytest.mark.parametrize("state", ACTIVE)
def test_a_member_that_another_process_still_moves_keeps_the_wave_running(
    engine: Engine, company: Company, state: MemberState
) -> None:
    member_id = company.add("a@new.example", state)
    company.add("b@new.example", M.SYNCED)
    take_lease(engine, member_id, "another-machine/boot/1/1")
    assert finish_wave(engine, "first") == WaveState.RUNNING
    assert company.member(member_id).state == state


@pytest.mark.parametrize("state", [*ACTIVE, M.THROTTLED])
def test_a_member_whose_runner_died_is_paused_when_the_wave_finishes(
    engine: Engine, company: Company, state: MemberState
) -> None:
    later = now() + timedelta(hours=1)
    nobodys = company.add("a@new.example", state, resume_at=later, cause="timeout")
    dead = company.add("b@new.example", state)
    take_lease(engine, dead, "another-machine/boot/1/1")
    company.expire_lease(dead)
    assert finish_wave(engine, "first") == WaveState.PAUSED
    assert [company.member(each).state for each in (nobodys, dead)] == [M.PAUSED, M.PAUSED]
    assert company.member(nobodys).resume_at is None, "nobody goes on by itself then"


def test_a_check_of_a_new_wave_leaves_it_a_draft(engine: Engine, company: Company) -> None:
    company.add("a@new.example", M.READY)
    lifecycle.start_check(engine, "first")
    assert finish_wave(engine, "first", checked_only=True) == WaveState.DRAFT


def test_a_check_of_a_scheduled_wave_leaves_it_scheduled(engine: Engine, company: Company) -> None:
    company.add("a@new.example", M.READY)
    lifecycle.schedule_wave(engine, "first", now() + timedelta(hours=3), "run-7")
    lifecycle.start_check(engine, "first")
    assert finish_wave(engine, "first", checked_only=True) == WaveState.SCHEDULED


def test_a_check_of_a_wave_that_was_moved_tells_how_it_stands(engine: Engine, company: Company) -> None:
    company.add("a@new.example", M.SYNCED)
    company.add("b@new.example", M.READY)
    start_wave(engine, "first", ["nobody"])
    lifecycle.start_check(engine, "first")
    assert finish_wave(engine, "first", checked_only=True) == WaveState.PAUSED


def test_a_check_beside_a_running_wave_leaves_it_running(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example", M.SYNCING)
    take_lease(engine, member_id)
    assert finish_wave(engine, "first", checked_only=True) == WaveState.RUNNING


def test_what_a_run_copies_is_counted_from_its_own_start(engine: Engine, company: Company) -> None:
    member_id, token = started(engine, company)
    ledger = Ledger(engine, member_id, token)
    folder = ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0
    ledger.confirm(ledger.intend(folder, [1], [b"x" * 16], 10, 1), [Entry(1, 1, b"x" * 16)], size=10)
    ledger.finish_folders([Finished(folder, FolderTally(1, 1, 0, 0, None, None, ""))])
    start_wave(engine, "first")
    wave = company.wave_row()
    assert (wave.copied_before, wave.bytes_before) == (1, 10)


def test_scheduling_notes_the_time_and_the_run(engine: Engine, company: Company) -> None:
    company.add("a@new.example")
    at = now() + timedelta(hours=3)
    lifecycle.schedule_wave(engine, "first", at, "run-7")
    wave = company.wave_row()
    assert (wave.state, wave.start_at, wave.flow_run_id) == (WaveState.SCHEDULED, at, "run-7")


def test_a_wave_that_runs_while_its_next_run_is_scheduled_stays_running(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example", M.QUEUED)
    start_wave(engine, "first", flow_run_id="run-6")
    take_lease(engine, member_id)
    at = now() + timedelta(hours=3)
    lifecycle.schedule_wave(engine, "first", at, "run-7")
    wave = company.wave_row()
    assert (wave.state, wave.start_at, wave.flow_run_id) == (WaveState.RUNNING, at, "run-6")


def test_a_run_that_began_and_ended_before_it_was_noted_as_scheduled_stays_ended(
    engine: Engine, company: Company
) -> None:
    company.add("a@new.example", M.SYNCED)
    start_wave(engine, "first", flow_run_id="run-7")
    finish_wave(engine, "first")
    ended = company.wave_row().state
    at = now()
    lifecycle.schedule_wave(engine, "first", at, "run-7")
    wave = company.wave_row()
    assert (wave.state, wave.start_at, wave.flow_run_id) == (ended, at, "run-7")
    assert ended != WaveState.SCHEDULED


def test_purging_a_wave_deletes_its_passwords_and_says_when(engine: Engine, company: Company, vault: Vault) -> None:
    mine, other = company.add("a@new.example"), company.add("b@new.example", wave="second")
    vault.put_many([(mine, "source", "one"), (mine, "target", "two"), (other, "source", "three")])
    assert lifecycle.purge_credentials(engine, vault, "first").passwords == 2
    assert vault.get(mine, "source") is None
    assert vault.get(other, "source") == "three"
    assert company.wave_row().credentials_purged_at is not None
    assert "vault purge" in company.events()


def test_purging_a_wave_deletes_the_subjects_of_its_mail(engine: Engine, company: Company, vault: Vault) -> None:
    """They are the members' as their passwords are; what is altered and why stays."""
    kept: dict[str, tuple[Ledger, int]] = {}
    for wave in ("first", "second"):
        member_id = company.add(f"{wave}@new.example", wave=wave)
        ledger = Ledger(engine, member_id, take_lease(engine, member_id))
        folder = ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0
        ledger.note_altered(folder, [Altered(1, 50, ["nul"], heading=Heading("工资", "hr"))])
        ledger.give_up(folder, [GivenUp(2, "invalid_message", heading=Heading("奖金", "hr"))])
        kept[wave] = ledger, folder
    lifecycle.purge_credentials(engine, vault, "first")
    names = {
        wave: [(row.subject, row.sender) for row in (ledger.altered(folder)[1], ledger.issues(folder)[2])]
        for wave, (ledger, folder) in kept.items()
    }
    assert names == {"first": [(None, None), (None, None)], "second": [("工资", "hr"), ("奖金", "hr")]}
