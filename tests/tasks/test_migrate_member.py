"""One member through the task, against two mail servers: every way to end is written down, and no secret leaves."""

import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.imap_server import Action, Fault, Received
from imapcopy import group_pass, send
from imapcopy.errors import MemberError, MigrationError
from imapcopy.limits import DEFAULT
from models import lifecycle
from models.check import Look, MemberCheck
from models.columns import now
from models.database import reading, writing
from models.lifecycle import start_wave
from models.member import Member, take_lease
from models.states import MemberState
from models.vault import VaultClosed
from reports.read import read_wave
from reports.summary import Followed, Grade
from tasks import policy
from tasks.migrate_member import check_member, migrate_member
from tasks.store import MOST_NOTICES
from tests.models.counting import counted
from tests.servers.secrets_scan import find_secrets
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office, Row, old_password, written

M = MemberState


@pytest.fixture(autouse=True)
def one_try(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect does the retries; here a failure is final unless a test says otherwise."""
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")


@pytest.fixture
def li(office: Office, home: Path) -> Enrolled:
    office.add("li")
    return Enrolled(office)


def move(enrolled: Enrolled, name: str = "li", **options: bool) -> str:
    member = enrolled.member(name)
    return migrate_member.fn(member.id or 0, member.email, **options)


def failure(enrolled: Enrolled, name: str = "li") -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        move(enrolled, name)
    return caught.value


def assert_at_rest(enrolled: Enrolled, state: MemberState, cause: str | None = None, name: str = "li") -> None:
    member = enrolled.member(name)
    assert (member.state, member.cause) == (state, cause)
    assert (member.lease_owner, member.lease_until) == ("", None)


def test_a_mailbox_arrives_and_a_second_pass_sends_nothing(li: Enrolled, office: Office) -> None:
    assert move(li) == M.SYNCED
    office.assert_moved()
    assert_at_rest(li, M.SYNCED)
    assert li.member("li").messages_found == 3
    sent = len(office.new.commands("APPEND"))
    assert move(li) == M.SYNCED
    assert len(office.new.commands("APPEND")) == sent
    assert li.member("li").attempts == 2


def test_a_check_writes_to_no_mailbox(li: Enrolled, office: Office) -> None:
    member = li.member("li")
    assert check_member.fn(member.id or 0, member.email) == M.READY
    assert_at_rest(li, M.READY)
    assert li.member("li").messages_found == 3
    assert not written(office.old) | written(office.new)


@pytest.mark.parametrize(
    ("blank", "wrong", "told"),
    [
        ({"Password": ""}, {}, [("password_missing", "source")]),
        ({"Password": ""}, {"TargetPassword": "no"}, [("password_missing", "source"), ("bad_credentials", "target")]),
        ({"TargetPassword": ""}, {"Password": "no"}, [("bad_credentials", "source"), ("password_missing", "target")]),
        ({"Password": "", "TargetPassword": ""}, {}, [("password_missing", "source"), ("password_missing", "target")]),
    ],
)
def test_a_check_looks_at_the_side_that_has_a_password_where_the_other_has_none(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch, blank: Row, wrong: Row, told: list[tuple[str, str]]
) -> None:
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    office.add("li")
    li = Enrolled(office, office.row("li", **blank, **wrong))
    member = li.member("li")
    with pytest.raises(MigrationError):
        check_member.fn(member.id or 0, member.email)
    with reading(li.store.engine) as session:
        look = Look.read(session.get_one(MemberCheck, member.id).document)
    assert look is not None
    assert [(found.name, found.side) for found in look.findings] == told
    lacks = {side for cause, side in told if cause == "password_missing"}
    for side, server in (("source", office.old), ("target", office.new)):
        assert (len(server.commands("AUTHENTICATE")) == 0) == (side in lacks)


@pytest.mark.parametrize(("setting", "copies"), [("", 1), ("adopt", 1), ("copy", 2)])
def test_mail_that_is_there_already_is_recognised_or_copied_as_the_admin_sets_it(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch, setting: str, copies: int
) -> None:
    monkeypatch.setenv("BANJIA_EXISTING", setting)
    office.add("li")
    li = Enrolled(office)
    old, new = (s.account(f"li@{s.name}").folder("INBOX") for s in (office.old, office.new))
    before = old.messages[0]
    new.deliver(before.raw, before.internal_date, before.flags)
    for _ in range(2):
        assert move(li) == M.SYNCED
        assert office.mail(office.new, "li")[before.raw] == copies
    assert office.mail(office.new, "li").total() == 2 + copies


def test_what_happened_at_the_source_since_is_in_the_report_and_needs_nobody(li: Enrolled, office: Office) -> None:
    assert move(li) == M.SYNCED
    assert not read_wave(li.store.engine, "first").followed
    old, new = (s.account(f"li@{s.name}") for s in (office.old, office.new))
    inbox, work = old.folder("INBOX"), old.create("Work")
    for uid in (1, 2):
        message = inbox.messages[0]
        work.deliver(message.raw, message.internal_date, message.flags)
        inbox.expunge([uid])
    new.folder("INBOX").set_flags(2, ["\\Flagged"])  # the member's; so this copy does not follow
    inbox.set_flags(3, [])
    assert move(li) == M.SYNCED
    [member] = read_wave(li.store.engine, "first").members
    assert {f.source_name: f.followed for f in member.folders} == {
        "INBOX": Followed(strayed=1, flags_changed=1),
        "Work": Followed(moved=1),
    }
    assert [(issue.folder, issue.cause.id, issue.server_text) for issue in member.issues] == [
        ("Work", "moved_at_source", "INBOX")
    ]
    assert (member.counts.unaccounted, member.harmless, member.grade) == (0, 1, Grade.INVESTIGATE)
    old.delete(work)
    assert move(li) == M.SYNCED
    [member] = read_wave(li.store.engine, "first").members
    assert {f.source_name: (f.counts.source, f.followed.gone) for f in member.folders} == {
        "INBOX": (1, 1),
        "Work": (0, 1),
    }
    assert (member.issues, member.counts.unaccounted, member.grade) == ((), 0, Grade.PERFECT)


def test_beside_its_ledger_a_member_costs_three_writing_transactions(
    li: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken and begun; what it has is noted; it is moved and given back. It gets the slots of the one before."""
    monkeypatch.setattr("tasks.slots.POLL_SECONDS", 3600)
    for _ in range(2):
        assert move(li) == M.SYNCED
    monkeypatch.setattr(
        "tasks.migrate_member.copy_mailbox", lambda source, target, ledger, options, watch: watch.found(3)
    )
    member = li.member("li")
    with counted(li.store.engine) as count:
        assert migrate_member.fn(member.id or 0, member.email) == M.SYNCED
    assert (count.writing, count.reading) == (3, 1)
    assert count.statements <= 9
    assert_at_rest(li, M.SYNCED)


def test_a_small_mailbox_is_moved_in_seven_writing_transactions(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three of a member; and its folders are opened, what is sent is intended, confirmed, and read back."""
    monkeypatch.setattr("tasks.slots.POLL_SECONDS", 3600)
    office.add("li")
    office.add("wang")
    enrolled = Enrolled(office, office.row("li"), office.row("wang"))
    for _ in range(2):
        assert move(enrolled, "wang") == M.SYNCED
    member = enrolled.member("li")
    with counted(enrolled.store.engine) as count:
        assert migrate_member.fn(member.id or 0, member.email) == M.SYNCED
    assert (count.writing, count.reading) == (7, 8)
    assert count.statements <= 30


def test_a_member_that_fails_costs_no_more(office: Office, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.slots.POLL_SECONDS", 3600)
    office.add("li")
    office.add("wang")
    enrolled = Enrolled(office, office.row("li", Password="canary-wrong-one"), office.row("wang"))
    for _ in range(2):
        assert move(enrolled, "wang") == M.SYNCED
    member = enrolled.member("li")
    with counted(enrolled.store.engine) as count, pytest.raises(MigrationError):
        migrate_member.fn(member.id or 0, member.email)
    assert (count.writing, count.reading) == (2, 1)
    assert_at_rest(enrolled, M.NEEDS_PASSWORD, "bad_credentials")


def test_a_wrong_password_needs_a_new_one_and_is_tried_once(office: Office, home: Path) -> None:
    office.add("li")
    enrolled = Enrolled(office, office.row("li", Password="canary-wrong-one"))
    error = failure(enrolled)
    assert error.cause_id == "bad_credentials"
    assert_at_rest(enrolled, M.NEEDS_PASSWORD, "bad_credentials")
    assert enrolled.member("li").cause_side == "source"
    tries = office.old.commands("LOGIN") + office.old.commands("AUTHENTICATE")
    assert len(tries) == 1
    assert not find_secrets(["canary-wrong-one"], [file for file in home.rglob("*") if file.is_file()])


def test_a_wrong_password_at_the_target_is_the_admin_s(office: Office, home: Path) -> None:
    office.add("li")
    enrolled = Enrolled(office, office.row("li", TargetPassword="canary-wrong-one"))
    failure(enrolled)
    assert_at_rest(enrolled, M.FAILED, "bad_credentials")
    assert enrolled.member("li").cause_side == "target"


def test_a_password_that_is_missing_is_waited_for(office: Office, home: Path) -> None:
    office.add("li")
    enrolled = Enrolled(office, office.row("li", Password=""))
    assert failure(enrolled).cause_id == "password_missing"
    assert_at_rest(enrolled, M.AWAITING_PASSWORD, "password_missing")
    assert office.old.log == office.new.log == []


def test_a_full_mailbox_fails_and_goes_on_when_there_is_room(li: Enrolled, office: Office) -> None:
    office.new.behaviour.quota_bytes = 100
    assert failure(li).cause_id == "over_quota"
    assert_at_rest(li, M.FAILED, "over_quota")
    office.new.behaviour.quota_bytes = None
    assert move(li) == M.SYNCED
    office.assert_moved()


def test_a_message_that_is_refused_stays_an_issue_until_it_is_tried_again(li: Enrolled, office: Office) -> None:
    office.new.behaviour.refuse_message = lambda raw: "[CANNOT] it contains a virus" if b"Subject: 1\r" in raw else None
    assert move(li) == M.SYNCED_WITH_ISSUES
    office.new.behaviour.refuse_message = None
    assert move(li) == M.SYNCED_WITH_ISSUES
    assert move(li, reopen_issues=True) == M.SYNCED
    office.assert_moved()


def test_a_server_that_is_down_is_a_failure_with_a_time_while_tries_are_left(
    li: Enrolled, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.old.stop()
    failure(li)
    assert_at_rest(li, M.FAILED, "connect_failed")
    monkeypatch.setattr(li.store.settings, "retry_delays", (3600.0,))
    li.store.attempts.clear()
    before = now()
    assert move(li) == M.THROTTLED
    assert_at_rest(li, M.THROTTLED, "connect_failed")
    resume_at = li.member("li").resume_at
    assert resume_at is not None
    assert resume_at > before + timedelta(minutes=30)


def test_a_member_that_another_runner_has_is_left_alone(li: Enrolled, office: Office) -> None:
    member = li.member("li")
    take_lease(li.store.engine, member.id or 0, "another-machine/boot/1/1")
    held = li.member("li").model_dump()
    assert move(li) == M.SYNCING
    assert li.member("li").model_dump() == held
    assert office.old.log == office.new.log == []


def test_a_runner_that_lost_its_member_writes_nothing_more(li: Enrolled, office: Office) -> None:
    """The takeover comes with the first message under way."""
    member_id = li.member("li").id or 0

    def take_over(command: Received) -> None:
        if command.verb == "APPEND" and not li.member("li").lease_owner.startswith("another"):
            with writing(li.store.engine) as session:
                member = session.get_one(Member, member_id)
                member.lease_owner, member.lease_until = "another-machine/boot/1/1", now()
                session.add(member)
            take_lease(li.store.engine, member_id, "another-machine/boot/1/1")

    office.new.behaviour.before_command = take_over
    assert failure(li).cause_id == "lease_lost"
    member = li.member("li")
    assert (member.state, member.cause) == (M.SYNCING, None)
    assert member.lease_owner == "another-machine/boot/1/1"


def test_a_stop_request_pauses_and_the_next_run_completes_without_a_double(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Little under way at once, so that something is left when the request comes.
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 10)
    monkeypatch.setattr(send, "UNANSWERED_BATCHES", 2)
    office.add("li", messages=350)
    enrolled = Enrolled(office)

    def stop(command: Received) -> None:
        if command.verb == "APPEND":
            policy.STOP.set()

    office.new.behaviour.before_command = stop
    assert move(enrolled) == M.PAUSED
    assert_at_rest(enrolled, M.PAUSED)
    arrived = office.mail(office.new, "li")
    assert 0 < arrived.total() < 350
    office.new.behaviour.before_command = None
    policy.STOP.clear()
    assert move(enrolled) == M.SYNCED
    office.assert_moved()


def test_after_a_stop_request_nobody_is_started(li: Enrolled, office: Office) -> None:
    policy.STOP.set()
    before = li.member("li").model_dump()
    assert move(li) == M.PAUSED
    assert li.member("li").model_dump() == before
    assert office.old.log == []


def test_a_connection_that_breaks_while_stopping_is_no_failure(li: Enrolled, office: Office) -> None:
    office.new.behaviour.before_command = lambda command: policy.STOP.set()
    office.new.behaviour.faults = [Fault("LIST", Action.DROP_BEFORE, times=None)]
    assert move(li) == M.PAUSED
    assert_at_rest(li, M.PAUSED)


def test_who_waits_for_a_host_is_in_line_at_once_for_an_admin_may_end_its_pause(
    li: Enrolled, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BANJIA_RETRY_DELAYS")
    forget_everything()
    text = "Request is throttled. Suggested Backoff Time: 3600000 milliseconds"
    office.old.behaviour.faults = [Fault("FETCH", Action.NO, text=text)]
    before = now()
    assert move(li) == M.THROTTLED
    member = li.member("li")
    assert member.resume_at is not None
    assert member.resume_at >= before + timedelta(hours=1)
    assert li.store.again[member.id or 0] <= now()


def test_a_new_run_waits_for_no_time_of_an_earlier_one(li: Enrolled, office: Office) -> None:
    with writing(li.store.engine) as session:
        member = session.get_one(Member, li.member("li").id)
        member.state, member.cause, member.resume_at = M.THROTTLED, "timeout", now() + timedelta(hours=1)
        session.add(member)
    start_wave(li.store.engine, "first")
    assert move(li) == M.SYNCED


def test_a_closed_vault_is_said_and_holds_no_lease(li: Enrolled, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> dict[str, str]:
        raise VaultClosed("keys/vault.key can be read by others")

    monkeypatch.setattr(type(li.store.vault), "get_sides", closed)
    assert "can be read by others" in failure(li).server_text
    assert_at_rest(li, M.FAILED, "vault_closed")


# -- defects of ours


def broken(*_: Any) -> None:
    """Fail as a library may: with the password in the text, and in that of the exception behind it."""
    try:
        raise OSError(f"login {old_password('li')}")
    except OSError as error:
        raise ValueError(f"cannot parse {old_password('li')!r}") from error


@pytest.fixture(params=["copy", "write down", "both"])
def defect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A defect in the engine, in what writes the failure down, or in both."""
    if request.param in ("copy", "both"):
        monkeypatch.setattr("tasks.migrate_member.copy_mailbox", broken)
    if request.param in ("write down", "both"):

        def cannot_write(*_: Any, **__: Any) -> None:
            raise TimeoutError("the database is locked")

        monkeypatch.setattr(lifecycle, "member_failed", cannot_write)
        if request.param == "write down":
            monkeypatch.setattr("tasks.migrate_member.copy_mailbox", broken)
    return str(request.param)


def test_a_defect_of_ours_gives_no_secret_away(li: Enrolled, home: Path, defect: str) -> None:
    """What leaves the task is stored by Prefect and shown by its pages, with the traceback."""
    with pytest.raises(MemberError if defect == "copy" else TimeoutError) as caught:
        move(li)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.args)
    assert "canary" not in shown
    assert "cannot parse" not in shown
    log = (home / "banjia.log").read_text()
    assert "ValueError" in log
    assert "test_migrate_member.py" in log
    assert not find_secrets(li.office.secrets, [file for file in home.rglob("*") if file.is_file()])
    if defect == "copy":
        assert_at_rest(li, M.FAILED, "unclassified")
        assert li.member("li").server_text == "ValueError"
    else:
        assert li.member("li").lease_owner == ""


@pytest.mark.parametrize("task", [migrate_member, check_member])
def test_a_run_is_named_after_the_member_and_keeps_nothing(task: Any) -> None:
    assert "{email}" in task.task_run_name
    assert task.persist_result is False


def test_the_words_of_a_hostile_server_are_made_harmless(li: Enrolled, office: Office) -> None:
    office.old.behaviour.login_refusals = {"li@old.example": f"\x1b[31mno {old_password('li')} here\x07"}
    error = failure(li)
    assert "canary" not in str(error)
    assert "\x1b" not in li.member("li").server_text
    assert "canary" not in li.member("li").server_text


def test_what_servers_say_to_people_is_in_the_timeline_once(li: Enrolled, office: Office) -> None:
    office.old.behaviour.says_with = {"EXAMINE": "* OK [ALERT] We move house", "NAMESPACE": "* OK nothing special"}
    office.new.behaviour.says_with = {
        "APPEND": "* NO Mailbox is almost full",
        "NAMESPACE": "* NO Mailbox is almost full",
    }
    for _ in range(2):
        assert move(li) == M.SYNCED
        office.old.account("li@old.example").folder("INBOX").deliver(b"Subject: new\r\n\r\nnew\r\n")
    [member] = read_wave(li.store.engine, "first").members
    said = [(event.who, event.why) for event in member.events if event.what == "says"]
    assert sorted(said) == [("source", "OK [ALERT] We move house"), ("target", "NO Mailbox is almost full")]


def test_a_server_that_says_something_new_each_time_does_not_fill_the_timeline(li: Enrolled) -> None:
    source, _ = li.store.accounts(li.member("li"))
    for number in range(100):
        source.hear("source", f"OK [ALERT] {number}")
    [member] = read_wave(li.store.engine, "first").members
    assert sum(event.what == "says" for event in member.events) == MOST_NOTICES


def test_how_patient_to_be_with_a_server_is_a_setting(li: Enrolled) -> None:
    li.store.settings.silence_seconds, li.store.settings.answer_seconds = 7.0, 9.0
    for account in li.store.accounts(li.member("li")):
        limits = account.limits
        assert (limits.silence_seconds, limits.answer_seconds, limits.connect_seconds) == (
            7,
            9,
            DEFAULT.connect_seconds,
        )
