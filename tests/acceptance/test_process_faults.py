"""What happens to the program as a process: stopped, doubled, starved of its disk, its clock or its password.

Seen from outside, between two real Dovecots and over a line that can be held: the command line, what the servers
hold, and the database as it lies on the disk. After each fault the next run completes the wave, and nothing is twice.
"""

import math
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from tests.acceptance.command_line import ALL_DONE, LONGEST_RUN, PARTIAL, UNEXPECTED, Banjia, Started, write_roster
from tests.acceptance.ledger_file import LedgerFile
from tests.acceptance.office import A_PART, MEMBERS, MESSAGES, Office, assert_all_done
from tests.servers.dovecot import wait_until
from tests.servers.line import Line
from tests.servers.mail import mailbox_messages

pytestmark = [pytest.mark.dovecot, pytest.mark.prefect]

LEASE_SECONDS = 4.0
EVERYTHING = None
"""All capabilities of the server: batches go out without waiting for answers."""
CRAWL = 10_000
"""Octets a second, for a killed run's octets to come late if they come."""
TRICKLE = 3_000
"""Octets a second: minutes for what is left, and no connection is silent for so long that it is given up."""
MORE_THAN_COMMANDS = 10_000
"""Octets on one connection, before any mail is through."""
NO_WAITING = {"BANJIA_RETRY_DELAYS": "[0.2, 0.2]"}


@pytest.fixture
def banjia(guest: Banjia) -> Banjia:
    """None of these tests kills Prefect's server."""
    return guest


def test_a_database_that_another_program_holds_is_waited_for(office: Office, banjia: Banjia) -> None:
    started = banjia.start_migrate(office.roster)
    office.wait_for_mail(started)
    with LedgerFile.held(banjia.home):
        office.line.hurry()
        wait_until(office.line.quiet, "the run to wait")
        ledger = LedgerFile(banjia.home)
        assert office.target.message_count() <= ledger.noted + ledger.intended, "sent without an intent"
        assert office.target.message_count() < MEMBERS * MESSAGES, "it did not wait"
        assert started.running
    assert_all_done(started.wait())
    assert LedgerFile(banjia.home).attempts == MEMBERS, "a member was given up and tried again"
    office.assert_moved(banjia)


def test_a_database_that_cannot_be_written_is_named_and_nothing_is_sent(office: Office, banjia: Banjia) -> None:
    banjia.start(["wave", "create", str(office.roster), "--wave", "first"]).wait()
    read_only = f"sqlite:///file:{banjia.home / 'banjia.sqlite'}?mode=ro&uri=true"
    refused = banjia.start(["wave", "start", "first"], BANJIA_DATABASE_URL=read_only, **NO_WAITING).wait()
    assert refused.code == UNEXPECTED, refused
    assert "database cannot be used" in refused.stderr, refused
    assert "readonly" in refused.stderr, refused
    assert "Traceback" not in refused.stderr, refused
    assert office.target.message_count() == 0


def test_a_disk_that_is_full_in_mid_run_is_named_and_the_next_run_completes(office: Office, banjia: Banjia) -> None:
    """No file of the program may grow any more; what it prints is short."""
    started = banjia.start_migrate(office.roster, as_json=False, **NO_WAITING)
    office.wait_for_mail(started)
    resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    office.line.hurry()
    ended = started.wait()
    assert ended.code == UNEXPECTED, ended
    assert "database cannot be used" in ended.stderr, ended
    assert "Traceback" not in ended.stderr, ended
    ledger = LedgerFile(banjia.home)
    assert office.target.message_count() <= ledger.noted + ledger.intended, "sent without an intent"
    assert office.target.message_count() < MEMBERS * MESSAGES, "it did not stop"
    assert_all_done(banjia.migrate(office.roster))
    office.assert_moved(banjia)


@pytest.mark.parametrize("office", [EVERYTHING], indirect=True)
def test_what_a_killed_run_had_not_got_over_the_line_never_arrives(office: Office, banjia: Banjia) -> None:
    """Whole batches lie in its sockets when it dies; what looks for them finds nothing, so nothing may come later."""
    started = banjia.start_migrate(office.roster)
    wait_until(lambda: office.line.held or not started.running, "mail on its way", LONGEST_RUN)
    started.kill(everything=False)
    office.line.slow_down(CRAWL)
    connections = len(office.line.octets)
    second = banjia.start_migrate(office.roster)
    wait_until(
        lambda: max(office.line.octets[connections:], default=0) > MORE_THAN_COMMANDS or not second.running,
        "the next run to send",
        LONGEST_RUN,
    )
    office.line.hurry()
    assert_all_done(second.wait())
    office.assert_moved(banjia)


def test_a_run_that_slept_through_its_lease_writes_nothing_more(office: Office, banjia: Banjia) -> None:
    """Stopped with messages announced and not sent: the server waits for them still when it wakes."""
    lease = {"BANJIA_LEASE_SECONDS": str(LEASE_SECONDS)}
    sleeper = banjia.start_migrate(office.roster, **lease)
    office.wait_for_mail(sleeper)
    put_to_sleep(sleeper, banjia.home)
    try:
        office.line.hurry()
        wait_until(lambda: LedgerFile(banjia.home).leases_have_ended, "the end of its leases")
        assert_all_done(banjia.start_migrate(office.roster, **lease).wait())
        office.assert_moved(banjia)
        ledger = LedgerFile(banjia.home).copies
    finally:
        sleeper.process.send_signal(signal.SIGCONT)
    assert sleeper.wait().code in (ALL_DONE, PARTIAL)
    assert LedgerFile(banjia.home).copies == ledger
    office.assert_moved(banjia)


def put_to_sleep(started: Started, home: Path) -> None:
    """Stop a run between two transactions: within one it would keep everybody else out of SQLite until it wakes."""
    while True:
        started.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, started.process.pid, os.WSTOPPED | os.WNOWAIT)
        if LedgerFile.can_be_written(home):
            return
        started.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(("first", "second"), [("+0", "+1d"), pytest.param("-1h", "+0", marks=pytest.mark.thorough)])
def test_a_clock_that_is_wrong_takes_no_member_from_a_run_that_lives(
    office: Office, banjia: Banjia, first: str, second: str
) -> None:
    one = banjia.start_migrate(office.roster, **clock(banjia, first))
    office.wait_for_mail(one)
    office.line.slow_down(TRICKLE)
    before = LedgerFile(banjia.home).copies[:MEMBERS]
    other = banjia.start_migrate(office.roster, **clock(banjia, second)).wait()
    assert one.running, "or it proves nothing"
    assert other.code == PARTIAL, other
    assert LedgerFile(banjia.home).copies[:MEMBERS] == before, "a lease was taken"
    office.line.hurry()
    assert_all_done(one.wait())
    office.assert_moved(banjia)


@pytest.mark.thorough
def test_a_clock_that_is_set_in_mid_run_changes_no_result(office: Office, banjia: Banjia, tmp_path: Path) -> None:
    now = tmp_path / "clock"
    now.write_text("+0")
    set_by_file = clock(banjia, "") | {"FAKETIME_TIMESTAMP_FILE": str(now), "FAKETIME_CACHE_DURATION": "1"}
    del set_by_file["FAKETIME"]
    started = banjia.start_migrate(office.roster, **set_by_file)
    for jump in ("-1h", "+1d"):
        office.wait_for_mail(started)
        now.write_text(jump)
        office.line.hold(after=A_PART)
    office.line.hurry()
    assert_all_done(started.wait())
    office.assert_moved(banjia)
    second = banjia.migrate(office.roster)
    assert_all_done(second)
    assert all(member["messages"]["copied"] == MESSAGES for member in second.members.values())
    office.assert_moved(banjia)


SLEEP_THAT_WORKS = """
import threading, time
time.sleep = lambda seconds: (threading.Event().wait(seconds), None)[1]
"""
"""Python sleeps until a moment of the monotonic clock, which libfaketime takes for one of the clock that it fakes."""


def clock(banjia: Banjia, offset: str) -> dict[str, str]:
    """What makes a process see another time of day (libfaketime), and no other durations."""
    if offset == "+0":
        return {}
    found = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]
    if not found or not shutil.which("faketime"):
        pytest.fail("faketime is not installed: run tests/setup/install_servers", pytrace=False)
    start = banjia.directory / "start"
    start.mkdir(exist_ok=True)
    (start / "sitecustomize.py").write_text(SLEEP_THAT_WORKS)
    faked = {"LD_PRELOAD": str(found[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return faked | {"PYTHONPATH": str(start)}


def test_two_runs_at_once_move_every_member_once(office: Office, banjia: Banjia) -> None:
    both = [banjia.start_migrate(office.roster) for _ in range(2)]
    office.line.hurry()
    ended = [started.wait() for started in both]
    codes = sorted(run.code for run in ended)
    assert codes in ([ALL_DONE, ALL_DONE], [ALL_DONE, PARTIAL]), "\n".join(map(str, ended))
    assert LedgerFile(banjia.home).states == dict.fromkeys(office.mail, "synced")
    office.assert_moved(banjia)


def test_a_password_that_is_changed_in_mid_run_stops_one_member_until_it_is_given(
    office: Office, banjia: Banjia
) -> None:
    unlucky, *others = office.mail
    office.line.hurry()
    most = sum(len(message.raw) for message in mailbox_messages(unlucky, MESSAGES)) * 2 / 3
    with Line(office.source.port) as line:
        line.hold(after=math.inf, after_answers=most)
        rows = [office.row(unlucky, SourcePort=str(line.port)), *(office.row(email) for email in others)]
        started = banjia.start_migrate(write_roster(office.roster, rows), **NO_WAITING)
        wait_until(lambda: line.held or not started.running, "most of the mail to be read", LONGEST_RUN)
        wait_until(lambda: office.target.message_count(unlucky) > 0 or not started.running, "mail", LONGEST_RUN)
        office.source.set_password(unlucky, "Canary-old-changed")
        office.source.disconnect(unlucky)
        line.cut()
        line.hurry()
        run = started.wait()
    assert run.code == PARTIAL, run
    states = {email: member["state"] for email, member in run.members.items()}
    assert states == {unlucky: "needs_password", **dict.fromkeys(others, "synced")}
    # The server writes its log in a process of its own.
    wait_until(lambda: office.source.refused_logins(unlucky) > 0, "the refusal in the server's log")
    assert office.source.refused_logins(unlucky) <= 2, "a storm of these locks accounts"
    arrived = office.target.message_count(unlucky)
    assert 0 < arrived < MESSAGES, "not in the middle"

    banjia.keep_secret(office.source)
    mended = write_roster(office.roster, [office.row(email) for email in office.mail])
    office.target.forget_commands()
    retried = banjia.start(["wave", "retry", "first", "--roster", str(mended), "--json"]).wait()
    assert_all_done(retried)
    assert office.target.commands(unlucky).count("APPEND") == MESSAGES - arrived
    assert not any("APPEND" in office.target.commands(email) for email in others)
    office.assert_moved(banjia)
