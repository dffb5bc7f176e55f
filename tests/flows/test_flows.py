"""The flows, run for real: how Prefect names their end, what it can show, and what it never gets to know."""

from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from deployments.demo.imap_server import Action, Fault, Received
from imapcopy import group_pass, send
from models.columns import now
from models.progress import wave_progress
from models.receive_range import LimitedRange, Sign
from models.states import MemberState, WaveState
from reports.read import read_wave
from reports.summary import Grade
from tasks import policy
from tasks.prefect_server import settle
from tests.servers.dovecot import DEADLINE, wait_until
from tests.servers.secrets_scan import find_secrets
from tests.tasks.office import Enrolled, Office, written

pytestmark = pytest.mark.prefect
M = MemberState


def migrate(**options: Any) -> Any:
    from flows.migrate_wave import migrate_wave

    return migrate_wave("first", return_state=True, **options)


def states(enrolled: Enrolled) -> dict[str, MemberState]:
    return {name: enrolled.member(name).state for name in enrolled.office.people}


def wave_state(enrolled: Enrolled) -> WaveState:
    return wave_progress(enrolled.store.engine, "first").state


def logins(office: Office, name: str) -> int:
    account = f"{name}@old.example"
    return len(office.old.commands("LOGIN", account)) + len(office.old.commands("AUTHENTICATE", account))


def recorded(state: Any, tasks: int) -> tuple[Any, list[Any], list[Any]]:
    """What Prefect keeps of a flow run: the run, its tasks and its artifacts, once it has written all down."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId

    run_id = state.state_details.flow_run_id
    settle()
    with get_client(sync_client=True) as client:
        this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))

        def runs() -> list[Any]:
            return client.read_task_runs(flow_run_filter=this_run)

        wait_until(
            lambda: sum(run.state is not None and run.state.is_final() for run in runs()) == tasks,
            f"{tasks} ended task runs",
        )
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
        return client.read_flow_run(run_id), runs(), artifacts


def test_one_wrong_password_does_not_stop_the_wave_and_names_its_end(
    office: Office, home: Path, prefect_database: Path
) -> None:
    for name in ("li", "wang", "chen", "zhao"):
        office.add(name)
    rows = [office.row(name) for name in office.people]
    rows[1]["Password"] = "canary-wrong-one"
    enrolled = Enrolled(office, *rows)
    state = migrate()
    assert (state.name, state.type.value) == ("CompletedWithFailures", "COMPLETED")
    assert states(enrolled) == {"li": M.SYNCED, "wang": M.NEEDS_PASSWORD, "chen": M.SYNCED, "zhao": M.SYNCED}
    assert wave_state(enrolled) == WaveState.SYNCED_WITH_FAILURES
    office.assert_moved("li", "chen", "zhao")
    assert logins(office, "wang") == 1, "a password that was refused is not tried again"

    run, tasks, artifacts = recorded(state, tasks=4)
    assert (run.name, run.state_name) == ("move first", "CompletedWithFailures")
    assert "3 of 4" in run.state.message
    assert {task.name for task in tasks} == {f"move {name}@new.example" for name in office.people}
    (report,) = (home / "reports").rglob("wave.html")
    assert [(link.type, report.as_uri() in str(link.data)) for link in artifacts] == [("markdown", True)]

    secrets = [*office.secrets, "canary-wrong-one"]
    hits = find_secrets(secrets, [prefect_database, home])
    assert not hits, hits[:5]


def test_a_wave_without_a_rest_is_completed_and_again_after_nothing_new(office: Office, home: Path) -> None:
    office.add("li")
    enrolled = Enrolled(office)
    for _ in range(2):
        state = migrate()
        assert (state.name, state.type.value) == ("Completed", "COMPLETED")
        assert wave_state(enrolled) == WaveState.SYNCED
    office.assert_moved()
    assert len(office.new.commands("APPEND")) == 1


def test_only_those_who_are_named_are_moved(office: Office, home: Path) -> None:
    office.add("li")
    office.add("wang")
    enrolled = Enrolled(office)
    migrate(only=["WANG@new.example"])
    assert states(enrolled) == {"li": M.QUEUED, "wang": M.SYNCED}
    assert wave_state(enrolled) == WaveState.PAUSED
    assert logins(office, "li") == 0


def test_a_server_that_is_unavailable_twice_is_tried_a_third_time(office: Office, home: Path) -> None:
    office.add("li")
    office.old.behaviour.faults = [
        Fault("EXAMINE", Action.NO, text="[UNAVAILABLE] Try again later", times=2),
    ]
    enrolled = Enrolled(office)
    state = migrate()
    assert state.name == "Completed"
    assert enrolled.member("li").attempts == 3
    office.assert_moved()
    _, tasks, _ = recorded(state, tasks=3)
    assert {task.run_count for task in tasks} == {1}, "each try is a run of its own"


def test_a_server_that_stays_unavailable_ends_the_tries(office: Office, home: Path) -> None:
    office.add("li")
    office.old.behaviour.faults = [
        Fault("EXAMINE", Action.NO, text="[UNAVAILABLE] Try again later", times=None),
    ]
    enrolled = Enrolled(office)
    assert migrate().name == "CompletedWithFailures"
    member = enrolled.member("li")
    assert (member.state, member.cause, member.attempts) == (M.FAILED, "mailbox_unavailable", 3)


def test_a_check_writes_nothing_and_says_who_is_not_ready(office: Office, home: Path) -> None:
    from flows.check_wave import check_wave

    office.add("li")
    office.add("wang")
    enrolled = Enrolled(office, office.row("li"), office.row("wang", Password="canary-wrong-one"))
    state = check_wave("first", return_state=True)
    assert (state.name, state.type.value) == ("CompletedWithFailures", "COMPLETED")
    assert states(enrolled) == {"li": M.READY, "wang": M.NEEDS_PASSWORD}
    assert wave_state(enrolled) == WaveState.DRAFT
    assert not written(office.old) | written(office.new)
    assert office.old.commands("EXAMINE"), "or the record of commands does not work"
    run, tasks, _ = recorded(state, tasks=2)
    assert run.name == "check first"
    assert {task.name for task in tasks} == {"check li@new.example", "check wang@new.example"}


def test_a_limited_receive_range_is_told_before_the_copy_and_what_it_hid_is_fetched_later(
    office: Office, home: Path
) -> None:
    from flows.check_wave import check_wave

    office.add("li", messages=0)
    inbox = office.old.account("li@old.example").folder("INBOX")
    for day in range(100):
        inbox.deliver(b"Subject: day %d\r\n\r\n" % day, now() - timedelta(days=100 - day, hours=-1))
    enrolled = Enrolled(office)
    office.old.behaviour.hidden_before = now() - timedelta(days=30)
    for flow in (lambda: check_wave("first", return_state=True), migrate):
        flow()
        [member] = read_wave(enrolled.store.engine, "first").members
        assert member.limited_range == LimitedRange(Sign.AGE, 30)
    assert member.grade == Grade.INVESTIGATE
    before = office.mail(office.new, "li")
    assert 20 < before.total() < 40
    page = (home / "reports" / "first" / "wave.en.html").read_text(encoding="utf-8")
    assert "Receive range seems limited" in page

    office.old.behaviour.hidden_before = None
    assert migrate().name == "Completed"
    [member] = read_wave(enrolled.store.engine, "first").members
    assert (member.limited_range, member.grade) == (None, Grade.PERFECT)
    assert office.mail(office.new, "li") == office.mail(office.old, "li")


def test_a_report_can_be_made_at_any_time(office: Office, home: Path) -> None:
    from flows.report_wave import report_wave

    office.add("li")
    Enrolled(office)
    state = report_wave("first", return_state=True)
    assert (state.name, state.type.value) == ("Completed", "COMPLETED")
    assert (home / "reports" / "first" / "wave.html").exists()
    run, _, artifacts = recorded(state, tasks=0)
    assert run.name == "report first"
    assert len(artifacts) == 1
    assert office.old.log == []


def test_a_stopped_wave_says_so_and_the_next_one_completes_it(office: Office, home: Path) -> None:
    for name in ("li", "wang", "chen"):
        office.add(name, messages=250)
    enrolled = Enrolled(office)

    def stop(command: Received) -> None:
        if command.verb == "APPEND":
            policy.STOP.set()

    office.new.behaviour.before_command = stop
    state = migrate()
    assert (state.name, state.type.value) == ("Stopped", "CANCELLED")
    assert set(states(enrolled).values()) <= {M.PAUSED, M.QUEUED}
    assert all(enrolled.member(name).lease_owner == "" for name in office.people)
    assert wave_state(enrolled) == WaveState.PAUSED
    office.new.behaviour.before_command = None
    policy.STOP.clear()
    assert migrate().name == "Completed"
    office.assert_moved()


def test_a_cancelled_run_waits_for_its_members_before_it_says_how_the_wave_stands(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker's SIGTERM does: an exception in the middle of the waiting, while threads move members."""
    from flows import migrate_wave as module

    # Little under way at once, so that something is left when the signal comes.
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 5)
    monkeypatch.setattr(send, "UNANSWERED_BATCHES", 2)
    for name in ("li", "wang"):
        office.add(name, messages=250)
    enrolled = Enrolled(office)
    run_each = module.run_each
    sending = Barrier(3)

    class Terminated(BaseException):
        """As Prefect's TerminationSignal."""

    def stay_there(command: Received) -> None:
        """Both are in the middle when the exception comes, and stay there until it has stopped them."""
        if command.verb == "APPEND" and not policy.STOP.is_set():
            sending.wait(DEADLINE)
            assert policy.STOP.wait(DEADLINE)

    def interrupted(submit: Any, items: list[Any], *rest: Any) -> None:
        def submit_then_raise(item: Any) -> Any:
            future = submit(item)
            if item is items[-1]:
                sending.wait(DEADLINE)
                raise Terminated
            return future

        run_each(submit_then_raise, items, *rest)

    office.new.behaviour.before_command = stay_there
    monkeypatch.setattr(module, "run_each", interrupted)
    with pytest.raises(Terminated):
        migrate()
    assert enrolled.member("li").state == M.PAUSED
    assert wave_state(enrolled) in (WaveState.PAUSED, WaveState.RUNNING)
    assert policy.STOP.is_set()


def test_a_plan_shows_where_folders_would_go_and_changes_nothing(
    office: Office, home: Path, prefect_database: Path
) -> None:
    from flows.plan_wave import plan_wave

    for name in ("li", "wang"):
        office.add(name)
    old = office.old.account("li@old.example")
    for number, name in enumerate(("已发送", "项目", "项目/v1.2", "病毒文件夹"), start=1):
        folder = old.create(name)
        for _ in range(number):
            folder.deliver(b"Subject: x\r\n\r\nx\r\n")
    office.new.account("li@new.example").create("Sent Messages", "\\Sent")
    enrolled = Enrolled(office, office.row("li"), office.row("wang", Password="canary-wrong-one"))
    before = states(enrolled)
    li, wang = plan_wave("first")
    assert [(f.source_name, f.target_name, f.new, f.role, f.why, f.messages) for f in li.folders] == [
        ("INBOX", "INBOX", False, "", "", 3),
        ("已发送", "Sent Messages", False, "sent", "known_name", 1),
        ("项目", "项目", True, "", "", 2),
        ("项目/v1.2", "项目/v1.2", True, "", "", 3),
        ("病毒文件夹", "", False, "", "virus", 4),
    ]
    assert (wang.folders, wang.cause, wang.side) == ((), "bad_credentials", "source")
    assert states(enrolled) == before
    assert written(office.old) == written(office.new) == set()
    # What is then moved goes where the plan said.
    assert migrate(only=["li@new.example"]).is_completed()
    assert {f.source_name: f.target_name for f in plan_wave("first")[0].folders if not f.new} == {
        f.source_name: f.target_name for f in li.folders
    }
