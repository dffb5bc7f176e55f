"""Whole runs as processes of their own: interrupted, taken up again, and without a server to reach."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlmodel import select

from console import run
from deployments.demo.imap_server import Action, Fault, Received
from models.database import reading
from models.member import Member
from models.progress import wave_progress
from models.states import MemberState, WaveState
from tasks.store import store
from tests.console.conftest import LONGEST_RUN, CommandLine, Ended, Program
from tests.servers.dovecot import wait_until
from tests.servers.postgres import PASSWORD, Postgres
from tests.servers.secrets_scan import find_secrets
from tests.tasks.office import Office

pytestmark = pytest.mark.prefect
MESSAGES = 1500
"""Several batches a member: each interrupted run still sends the one under way."""


@pytest.fixture
def roster(office: Office, tmp_path: Path) -> Path:
    """Three people with more mail than fits into one batch, on servers that take their time."""
    for name in ("li", "wang", "chen"):
        office.add(name, MESSAGES)
    office.old.behaviour.latency = office.new.behaviour.latency = 0.02
    return office.write_roster(tmp_path / "members.csv")


def members(home: Path) -> list[Member]:
    with reading(store().engine) as session:
        return list(session.exec(select(Member)))


def arrived(office: Office) -> int:
    return sum(office.mail(office.new, name).total() for name in office.people)


@contextmanager
def held_in_the_middle(office: Office) -> Iterator[Callable[[], bool]]:
    """The new server takes one batch more, and the rest after the block; tells whether the rest has begun.

    All that is in flight then arrives, which may be all of a mailbox; so the last of the people gets no answer before.
    """
    passed, held, on = threading.Semaphore(1), threading.Event(), threading.Event()

    def hold(command: Received) -> None:
        if command.verb == "APPEND" and not passed.acquire(blocking=False):
            held.set()
            assert on.wait(LONGEST_RUN)

    def hold_the_last(command: Received) -> None:
        if command.account.startswith(office.people[-1]):
            assert on.wait(LONGEST_RUN)

    office.old.behaviour.before_command, office.new.behaviour.before_command = hold_the_last, hold
    try:
        yield held.is_set
    finally:
        on.set()
        office.old.behaviour.before_command = office.new.behaviour.before_command = None


def assert_saved(ended: Ended, home: Path) -> None:
    assert ended.code == 130, ended
    assert "Stopping" in ended.stderr
    assert "the state is saved" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    for member in members(home):
        assert member.state in (MemberState.PAUSED, MemberState.QUEUED, MemberState.SYNCED), member
        assert (member.lease_owner, member.lease_until, member.cause) == ("", None, None), member
    assert wave_progress(store().engine, "members").state == WaveState.PAUSED


def test_interrupted_runs_save_their_state_and_the_last_one_completes_it(
    program: Program, office: Office, roster: Path, home: Path
) -> None:
    """Ctrl-C first; then `timeout banjia migrate`, which sends SIGTERM to the group."""

    def interrupted(interrupt: Callable[[subprocess.Popen[str]], None]) -> Ended:
        with held_in_the_middle(office) as held:
            process = program.start("migrate", roster, "--json")
            wait_until(lambda: held() or process.poll() is not None, "a message to be sent", LONGEST_RUN)
            interrupt(process)
            wait_until(
                lambda: "Stopping" in program.said(process) or process.poll() is not None, "it to be heard", LONGEST_RUN
            )
        return program.end(process)

    assert_saved(interrupted(lambda process: process.send_signal(signal.SIGINT)), home)
    first = arrived(office)
    assert 0 < first <= MESSAGES * 2
    office.deliver("li", MESSAGES)  # all of the first may have arrived by now, and this one is to be in the middle too
    assert_saved(interrupted(lambda process: os.killpg(process.pid, signal.SIGTERM)), home)
    assert first < arrived(office) <= MESSAGES * 3

    last = program.run("migrate", roster, "--json")
    assert last.code == 0, last
    assert {m["state"] for m in last.document["members"]} == {"synced"}
    assert last.document["counts"]["copied"] == MESSAGES * 4
    office.assert_moved()


def test_signals_that_come_together_are_one_request_and_a_later_one_ends_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`timeout banjia migrate` sends SIGTERM to the process, and then to its group with the process in it."""
    clock, exits = [100.0], list[int]()
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(run, "os", SimpleNamespace(_exit=exits.append))
    monkeypatch.setattr(run.policy, "STOP", stop := threading.Event())
    stopper = run._Stopper()
    assert not stop.is_set()
    stopper()
    clock[0] += run.ONE_REQUEST_SECONDS
    stopper()
    assert stop.is_set()
    assert exits == []
    assert capsys.readouterr().err.count("Stopping") == 1
    clock[0] += 0.1
    stopper()
    assert exits == [130]


def test_a_wait_for_another_try_does_not_hold_the_end_up(
    program: Program, office: Office, roster: Path, home: Path
) -> None:
    """The server is unavailable, and would be asked again in an hour."""
    office.old.behaviour.faults = [
        Fault("EXAMINE", Action.NO, text="[UNAVAILABLE] Try again later", times=None),
    ]
    process = program.start("migrate", roster, BANJIA_RETRY_DELAYS="[3600]")
    wait_until(
        lambda: (
            process.poll() is not None
            or ((home / "banjia.sqlite").exists() and all_in_state(home, MemberState.THROTTLED))
        ),
        "everybody to wait",
        LONGEST_RUN,
    )
    process.send_signal(signal.SIGTERM)
    ended = program.end(process)
    assert ended.code == 130, ended
    assert all_in_state(home, MemberState.PAUSED)
    assert all(member.lease_owner == "" for member in members(home))


def all_in_state(home: Path, state: MemberState) -> bool:
    found = members(home)
    return bool(found) and all(member.state == state for member in found)


def test_a_report_says_what_changed_since_that_of_the_run_before(
    program: Program, office: Office, roster: Path
) -> None:
    """One report a run: a second one would compare itself with the first."""
    office.old.behaviour.latency = office.new.behaviour.latency = 0
    first, second = (program.run("migrate", roster, "--json") for _ in range(2))
    assert (first.code, second.code) == (0, 0), f"{first}\n{second}"
    assert first.document["previous"] is None
    assert second.document["previous"] == {
        "made_at": first.document["made_at"],
        "copied": MESSAGES * 3,
        "synced": 3,
        "needs_attention": 0,
    }


def test_one_server_that_nobody_reaches_is_5(program: Program, office: Office, roster: Path) -> None:
    with socket.socket() as nobody:  # to whom a port is given that no other server gets meanwhile
        nobody.bind(("127.0.0.1", 0))
        rows = [office.row(name, SourcePort=str(nobody.getsockname()[1])) for name in office.people]
        office.write_roster(roster, *rows)
        moved = program.run("migrate", roster, "--json", BANJIA_RETRY_DELAYS="[]")
        assert moved.code == 5, moved
        assert {m["cause"] for m in moved.document["members"]} == {"connect_failed"}
        checked = program.run("wave", "check", "members", BANJIA_RETRY_DELAYS="[]", BANJIA_LANGUAGE="zh-CN")
        assert checked.code == 5, checked
        assert "无法连接服务器" in checked.stdout


def test_a_run_with_a_failure_and_then_a_retry_of_it(
    program: Program, banjia: CommandLine, office: Office, roster: Path, tmp_path: Path
) -> None:
    office.old.behaviour.latency = office.new.behaviour.latency = 0
    rows = [office.row("li"), office.row("wang", Password="canary-wrong-one"), office.row("chen")]
    assert banjia("wave", "create", office.write_roster(roster, *rows), "--wave", "pilot").code == 0
    moved = program.run("wave", "start", "pilot")
    assert moved.code == 3, moved
    assert "Wrong user name or password" in moved.stdout
    assert "What to do" in moved.stdout
    assert "canary" not in moved.stdout + moved.stderr

    mended = office.write_roster(tmp_path / "mended.csv", office.row("wang"))
    retried = program.run("wave", "retry", "pilot", "--roster", mended, "--json")
    assert retried.code == 0, retried
    assert len(retried.document["members"]) == 3, "those who are not on the mended roster stay"
    office.assert_moved()
    nothing = banjia("wave", "retry", "pilot")
    assert nothing.code == 0
    assert "No member needs a retry" in nothing.stdout


def test_a_database_that_fails_while_members_are_chosen_is_named_and_no_interruption(
    program: Program, office: Office, roster: Path, home: Path
) -> None:
    """The members are stopped for it, as they are when the admin asks for it."""
    assert program.run("wave", "create", roster).code == 0
    with contextlib.closing(sqlite3.connect(home / "banjia.sqlite")) as database, database:
        failing = "BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        database.execute(f"CREATE TRIGGER full BEFORE INSERT ON hostslots {failing}")
    ended = program.run("wave", "start", "members")
    assert ended.code == 1, ended
    assert "The database cannot be used" in ended.stderr
    assert "disk is full" in ended.stderr
    assert "Interrupted" not in ended.stderr
    assert arrived(office) == 0
    with contextlib.closing(sqlite3.connect(home / "banjia.sqlite")) as database, database:
        database.execute("DROP TRIGGER full")
    assert program.run("wave", "start", "members").code == 0


def test_a_run_whose_postgresql_is_killed_ends_in_one_sentence_and_the_next_one_completes_it(
    program: Program, office: Office, roster: Path, home: Path, mortal_postgres: Postgres
) -> None:
    """And no text of either run has the database's password in it."""
    database = {
        "BANJIA_DATABASE_URL": mortal_postgres.url(mortal_postgres.create_database()),
        "BANJIA_RETRY_DELAYS": "[0.1]",
    }
    with held_in_the_middle(office):
        running = program.start("migrate", roster, **database)
        wait_until(lambda: arrived(office) > 0 or running.poll() is not None, "the first messages", LONGEST_RUN)
        mortal_postgres.kill()
    ended = program.end(running)
    assert ended.code == 5, ended
    assert "The database cannot be used" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert 0 < arrived(office) < 3 * MESSAGES
    mortal_postgres.restart()
    completed = program.run("migrate", roster, **database)
    assert completed.code == 0, completed
    office.assert_moved()
    assert PASSWORD not in str(ended) + str(completed)
    assert not find_secrets([PASSWORD], [file for file in home.rglob("*") if file.is_file()])
