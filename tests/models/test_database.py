"""The schema and its migrations agree; SQLite is opened so that nothing written is lost."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel, select

from models.database import SCHEMA_HEAD, open_database, reading, writing
from models.ledger import Batch, BatchState, FolderCopy
from models.member import Member
from models.states import MemberState, WaveState
from models.vault import Secret
from models.wave import InvalidRow, Wave
from tests.models.company import Company

MIGRATIONS = Path(__file__).parents[2] / "models" / "migrations"


def test_the_newest_migration_is_the_schema_that_the_program_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_HEAD


def test_the_migrations_make_the_tables_of_the_models(engine: Engine) -> None:
    assert {Batch, FolderCopy, InvalidRow, Member, Secret, Wave}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_opening_a_second_time_changes_nothing_and_keeps_the_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'twice.sqlite'}"
    first = open_database(url)
    with writing(first) as session:
        session.add(Wave(name="kept"))
    first.dispose()
    second = open_database(url)
    with reading(second) as session:
        assert session.exec(select(Wave.name)).all() == ["kept"]
    second.dispose()


def test_two_processes_may_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    """Both are at the door when the go comes, so that they meet in the migration."""
    file = tmp_path / "fresh.sqlite"
    code = (
        "import sys; from models.database import *; from models.wave import Wave;"
        "print('ready', flush=True); sys.stdin.readline();"
        f"e = open_database('sqlite:///{file}');\n"
        "with writing(e) as s: s.add(Wave(name=sys.argv[1]))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, name],
            cwd=MIGRATIONS.parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    ends = []
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate()
        ends.append((process.returncode, errors))
    assert ends == [(0, "")] * 3
    engine = open_database(f"sqlite:///{file}")
    with reading(engine) as session:
        assert sorted(session.exec(select(Wave.name)).all()) == ["a", "b", "c"]
    engine.dispose()


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("busy_timeout", 30000), ("synchronous", 1), ("secure_delete", 1)],
)
def test_every_connection_to_sqlite_is_prepared(engine: Engine, pragma: str, value: object) -> None:
    with engine.connect() as first, engine.connect() as second:
        for connection in (first, second):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value


def test_a_row_cannot_point_to_nothing(engine: Engine) -> None:
    with pytest.raises(IntegrityError), writing(engine) as session:
        session.add(Member(wave_id=4711, line=1, email="a@new.example", user_name="a"))


def test_threads_that_read_and_then_write_lose_no_update(engine: Engine, company: Company) -> None:
    """SQLite's own default does lose them: both read, both write, the later one wins."""
    member_id = company.add("a@new.example")
    threads, rounds = 8, 10
    together = threading.Barrier(threads)

    def count() -> None:
        together.wait()
        for _ in range(rounds):
            with writing(engine) as session:
                member = session.get_one(Member, member_id)
                member.attempts += 1
                session.add(member)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(count) for _ in range(threads)]:
            done.result()
    assert company.member(member_id).attempts == threads * rounds


def test_the_threads_of_a_process_do_not_ask_sqlite_for_its_lock_at_once(engine: Engine, company: Company) -> None:
    """It would make all but one sleep, in no order."""
    asking: list[int] = []
    most: list[int] = []

    def ask(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == "BEGIN IMMEDIATE":
            asking.append(1)
            most.append(len(asking))

    event.listen(engine, "before_cursor_execute", ask)
    event.listen(engine, "commit", lambda _: asking.pop())
    threads = 8
    together = threading.Barrier(threads)

    def write(number: int) -> None:
        together.wait()
        for n in range(10):
            with writing(engine) as session:
                session.add(Wave(name=f"{number} {n}"))

    with ThreadPoolExecutor(threads) as pool:
        assert len([*pool.map(write, range(threads))]) == threads
    assert len(most) == threads * 10
    assert max(most) == 1


def test_a_thread_that_fails_leaves_its_turn_to_the_others(engine: Engine, company: Company) -> None:
    with pytest.raises(IntegrityError), writing(engine) as session:
        session.add(Member(wave_id=4711, line=1, email="a@new.example", user_name="a"))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(company.add, "b@new.example").result(10)


def test_a_reader_waits_for_no_writer(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example")
    with writing(engine) as session:
        member = session.get_one(Member, member_id)
        member.attempts = 5
        session.add(member)
        session.flush()
        assert company.member(member_id).attempts == 0
    assert company.member(member_id).attempts == 5


def test_an_exception_takes_the_whole_transaction_back(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example")

    def fail_half_way() -> None:
        with writing(engine) as session:
            member = session.get_one(Member, member_id)
            member.attempts = 5
            session.add(member)
            session.flush()
            raise TimeoutError

    with pytest.raises(TimeoutError):
        fail_half_way()
    assert company.member(member_id).attempts == 0


def test_moments_come_back_aware_and_in_utc(company: Company) -> None:
    written = datetime(2026, 12, 5, 22, 0, 1, 5, tzinfo=timezone(timedelta(hours=8)))
    member = company.member(company.add("a@new.example", resume_at=written))
    assert member.resume_at == written
    assert member.resume_at is not None
    assert member.resume_at.utcoffset() == timedelta(0)
    assert company.wave_row().created_at.tzinfo == UTC


def test_enums_are_stored_by_their_value(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example", MemberState.SYNCED_WITH_ISSUES)
    with writing(engine) as session:
        folder = FolderCopy(
            member_id=member_id, source_name="INBOX", source_uidvalidity=1, target_name="INBOX", target_uidvalidity=1
        )
        session.add(folder)
        session.flush()
        assert folder.id is not None
        session.add(Batch(folder_copy_id=folder.id, state=BatchState.INTENDED, source_uids="1", digests=b"x" * 16))
        wave = session.exec(select(Wave)).one()
        wave.state = WaveState.SYNCED_WITH_FAILURES
        session.add(wave)
    with engine.connect() as connection:
        stored = [
            connection.execute(text(statement)).scalar()
            for statement in (
                "SELECT state FROM member",
                "SELECT state FROM wave",
                "SELECT state FROM batch",
                "SELECT kind FROM batch",
            )
        ]
    assert stored == ["synced_with_issues", "synced_with_failures", "intended", "copied"]
    assert company.member(member_id).state is MemberState.SYNCED_WITH_ISSUES


def test_the_words_of_a_database_error_hold_no_values(engine: Engine, company: Company) -> None:
    company.add("secret-looking@new.example")
    with pytest.raises(IntegrityError) as caught:
        company.add("secret-looking@new.example")
    assert "secret-looking" not in str(caught.value)
