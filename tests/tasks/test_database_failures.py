"""A database that cannot be used in mid-copy: a named cause, nothing sent without a committed intent, and no double."""

import sqlite3
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from deployments.demo.imap_server import Received
from imapcopy import group_pass, send
from imapcopy.errors import MigrationError, ServerError
from models import lifecycle
from models.columns import now
from models.database import reading
from models.ledger import Ledger
from models.ledger_rows import Batch
from models.member import this_runner
from models.states import MemberState
from models.uid_sets import parse_uids
from tasks.leases import claimed
from tasks.migrate_member import migrate_member
from tests.servers.dovecot import DEADLINE
from tests.servers.postgres import PASSWORD, Postgres
from tests.servers.secrets_scan import find_secrets
from tests.tasks.office import Enrolled, Office

M = MemberState
CAUSE = "database_unavailable"


@dataclass
class Trouble:
    """Makes the SQLite database of a store refuse, from a moment on and for as long as it is told."""

    enrolled: Enrolled
    kind: str
    now: bool = False
    refused: int = 0
    holder: list[sqlite3.Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(self.enrolled.store.engine, "checkout", self._prepare)

    def begin(self) -> None:
        self.now = True
        if self.kind == "locked" and not self.holder:
            file = self.enrolled.store.engine.url.database
            assert file
            connection = sqlite3.connect(file, timeout=DEADLINE, isolation_level=None, check_same_thread=False)
            connection.execute("BEGIN IMMEDIATE")
            self.holder.append(connection)

    def end(self) -> None:
        self.now = False
        for connection in self.holder:
            connection.close()
        self.holder.clear()

    def _prepare(self, connection: Any, *_: object) -> None:
        self.refused += self.now
        settings = {
            "locked": ("busy_timeout=30000", "busy_timeout=0"),
            "full": ("max_page_count=1000000", "max_page_count=1"),
            "read-only": ("query_only=OFF", "query_only=ON"),
        }
        connection.execute(f"PRAGMA {settings[self.kind][self.now]}").fetchall()


WORDS = {
    "locked": "database is locked",
    "read-only": "attempt to write a readonly database",
}


@pytest.fixture
def li(office: Office, home: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    """Somebody with several batches, of which few are under way at once."""
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 5)
    office.add("li", messages=40)
    return Enrolled(office)


@pytest.fixture(params=list(WORDS))
def trouble(request: pytest.FixtureRequest, li: Enrolled) -> Trouble:
    return Trouble(li, request.param)


def move(enrolled: Enrolled) -> str:
    member = enrolled.member("li")
    return migrate_member.fn(member.id or 0, member.email)


def failure(enrolled: Enrolled) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        move(enrolled)
    # What the server has read it carries out, also of a client that is gone; from here on nothing comes any more.
    enrolled.office.new.drop_connections()
    assert "Traceback" not in str(caught.value)
    assert not any("sqlite3" in line for line in traceback.format_exception(caught.value))
    return caught.value


def at_nth_append(office: Office, nth: int, act: Callable[[], None]) -> None:
    met = 0

    def hook(command: Received) -> None:
        nonlocal met
        if command.verb == "APPEND":
            met += 1
            if met == nth:
                act()

    office.new.behaviour.before_command = hook


def assert_intended(enrolled: Enrolled, office: Office) -> None:
    """Everything at the target stands in the ledger."""
    with reading(enrolled.store.engine) as session:
        known = sum(len(parse_uids(batch.source_uids)) for batch in session.exec(select(Batch)))
    assert office.mail(office.new, "li").total() <= known


def test_a_disk_that_fills_up_in_mid_copy_is_said_and_what_is_left_comes_later(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite goes on until the first page that it would have to add."""
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 50)
    # Little under way at once, so that something is left when the disk is full.
    monkeypatch.setattr(send, "UNANSWERED_BATCHES", 2)
    office.add("li", messages=1000)
    li = Enrolled(office)
    trouble = Trouble(li, "full")
    at_nth_append(office, 1, trouble.begin)
    error = failure(li)
    assert (error.cause_id, error.server_text) == (CAUSE, "database or disk is full")
    assert 0 < office.mail(office.new, "li").total() < 1000
    trouble.end()
    assert_intended(li, office)
    assert move(li) == M.SYNCED
    office.assert_moved()


@pytest.mark.parametrize("nth", [1, 3])
def test_it_is_a_cause_of_its_own_and_the_next_pass_goes_on(
    li: Enrolled, office: Office, trouble: Trouble, nth: int
) -> None:
    at_nth_append(office, nth, trouble.begin)
    error = failure(li)
    assert isinstance(error, ServerError)
    assert (error.cause_id, error.retryable) == (CAUSE, True)
    assert WORDS[trouble.kind] in error.server_text
    assert trouble.refused
    trouble.end()
    assert_intended(li, office)
    assert li.member("li").state == M.SYNCING, "nothing could be written of it"
    assert move(li) == M.SYNCED
    office.assert_moved()
    assert li.member("li").lease_owner == ""


def test_nothing_is_sent_after_an_intent_that_could_not_be_written(
    li: Enrolled, office: Office, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Ledger.advance

    def advance(self: Ledger, *args: Any) -> list[int]:
        trouble.begin()
        return begun(self, *args)

    monkeypatch.setattr(Ledger, "advance", advance)
    assert failure(li).cause_id == CAUSE
    assert office.new.commands("APPEND") == []


def before_the_end_is_written(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act right before the failure of a member is written down."""
    write_down = lifecycle.member_failed

    def acting(*args: Any, **values: Any) -> None:
        act()
        write_down(*args, **values)

    monkeypatch.setattr(lifecycle, "member_failed", acting)


def test_a_database_that_is_back_when_the_end_is_written_down_shows_it(
    li: Enrolled, office: Office, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_end_is_written(monkeypatch, trouble.end)
    at_nth_append(office, 1, trouble.begin)
    failure(li)
    member = li.member("li")
    assert (member.state, member.cause, member.cause_side) == (M.FAILED, CAUSE, "")
    assert WORDS[trouble.kind] in member.server_text
    assert member.lease_owner == ""


def test_what_could_not_be_written_of_a_member_is_written_at_the_end_of_the_wave(
    li: Enrolled, office: Office, trouble: Trouble
) -> None:
    at_nth_append(office, 1, trouble.begin)
    failure(li)
    trouble.end()
    assert li.member("li").lease_owner == this_runner()
    lifecycle.finish_wave(li.store.engine, "first", unwritten=li.store.unwritten)
    member = li.member("li")
    assert (member.state, member.cause, member.lease_owner) == (M.FAILED, CAUSE, "")
    assert move(li) == M.SYNCED
    assert li.store.unwritten == {}
    office.assert_moved()


def test_a_member_that_another_runner_took_meanwhile_is_left_to_it(li: Enrolled, trouble: Trouble) -> None:
    member_id = li.member("li").id or 0
    lifecycle.take_member(li.store.engine, member_id)
    with li.store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE member SET lease_owner = 'another-machine/boot/1/1'")
    lifecycle.finish_wave(li.store.engine, "first", unwritten={member_id: "locked"})
    assert (li.member("li").state, li.member("li").cause) == (M.SYNCING, None)


def test_the_next_try_comes_at_its_time_although_nothing_is_written_of_it(
    li: Enrolled, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(li.store.settings, "retry_delays", (3600.0,))
    member = li.member("li")
    before = now()
    trouble.begin()
    assert migrate_member.fn(member.id or 0, member.email) == M.THROTTLED
    assert li.store.again[member.id or 0] > before + timedelta(minutes=30)
    with pytest.raises(ServerError):
        migrate_member.fn(member.id or 0, member.email)


def test_two_tasks_of_a_process_do_not_move_one_member(li: Enrolled, office: Office) -> None:
    with claimed(li.store.engine, li.member("li").id or 0):
        assert move(li) == M.SYNCING
    assert office.old.log == []


def test_a_statement_that_is_wrong_is_a_defect_and_no_trouble_of_the_database(
    li: Enrolled, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise IntegrityError("INSERT", {"email": "canary"}, ValueError("canary"))

    monkeypatch.setattr("tasks.migrate_member.copy_mailbox", wrong)
    error = failure(li)
    assert (error.cause_id, error.server_text) == ("unclassified", "IntegrityError")
    assert "canary" not in (home / "banjia.log").read_text()


# -- PostgreSQL


@pytest.fixture
def on_postgres(mortal_postgres: Postgres, office: Office, home: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    monkeypatch.setenv("BANJIA_DATABASE_URL", mortal_postgres.url(mortal_postgres.create_database()))
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 5)
    office.add("li", messages=40)
    return Enrolled(office)


def test_a_postgresql_that_is_killed_fails_the_pass_and_the_next_one_goes_on(
    on_postgres: Enrolled, office: Office, home: Path, mortal_postgres: Postgres
) -> None:
    li = on_postgres
    at_nth_append(office, 2, mortal_postgres.kill)
    error = failure(li)
    assert (error.cause_id, error.retryable) == (CAUSE, True)
    mortal_postgres.restart()
    assert_intended(li, office)
    lifecycle.finish_wave(li.store.engine, "first", unwritten=li.store.unwritten)
    assert (li.member("li").state, li.member("li").cause) == (M.FAILED, CAUSE)
    assert move(li) == M.SYNCED
    office.assert_moved()
    assert not find_secrets([PASSWORD, *office.secrets], [file for file in home.rglob("*") if file.is_file()])


def test_a_postgresql_that_is_back_within_the_pass_s_end_gives_the_member_its_next_time(
    on_postgres: Enrolled, office: Office, mortal_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    li = on_postgres
    monkeypatch.setattr(li.store.settings, "retry_delays", (3600.0,))
    before_the_end_is_written(monkeypatch, mortal_postgres.restart)
    at_nth_append(office, 2, mortal_postgres.kill)
    assert move(li) == M.THROTTLED
    member = li.member("li")
    assert (member.state, member.cause, member.lease_owner) == (M.THROTTLED, CAUSE, "")
    assert member.resume_at is not None
