"""The schema and its migrations agree on both databases, and both are opened so that nothing written is lost."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlmodel import SQLModel, select

from models.database import (
    CONNECTIONS,
    SCHEMA_HEAD,
    NewerDatabase,
    NoSuchDatabase,
    database_url,
    open_database,
    public_name,
    reading,
    trouble,
    words,
    writing,
)
from models.ledger import Ledger
from models.ledger_rows import Batch, BatchState, Entry, FolderCopy, GivenUp
from models.member import Member, take_lease
from models.notices import Notice
from models.progress import wave_progress
from models.states import MemberState, WaveState
from models.vault import Secret
from models.wave import InvalidRow, Wave
from tests.models.company import Company
from tests.servers.databases import full_url, on_postgresql, on_sqlite
from tests.servers.dovecot import DEADLINE, wait_until
from tests.servers.postgres import PASSWORD, Postgres

MIGRATIONS = Path(__file__).parents[2] / "models" / "migrations"


def test_the_newest_migration_is_the_schema_that_the_program_asks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_HEAD


def test_the_migrations_make_the_tables_of_the_models(engine: Engine) -> None:
    assert {Batch, FolderCopy, InvalidRow, Member, Notice, Secret, Wave}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, SQLModel.metadata) == []


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fresh.sqlite'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


def test_opening_a_second_time_changes_nothing_and_keeps_the_rows(bare_url: str) -> None:
    first = open_database(bare_url)
    with writing(first) as session:
        session.add(Wave(name="kept"))
    first.dispose()
    second = open_database(bare_url)
    with reading(second) as session:
        assert session.exec(select(Wave.name)).all() == ["kept"]
    second.dispose()


def test_a_database_of_a_newer_program_is_refused_and_left_as_it_is(bare_url: str) -> None:
    engine = open_database(bare_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(NewerDatabase, match="9999"):
        open_database(bare_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()


def test_two_processes_may_open_a_fresh_database_at_once(bare_url: str) -> None:
    """All are at the door when the go comes, so that they meet in the migration."""
    code = (
        "import sys; from models.database import *; from models.wave import Wave;"
        "print('ready', flush=True); sys.stdin.readline();"
        f"e = open_database({bare_url!r});\n"
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
    engine = open_database(bare_url)
    with reading(engine) as session:
        assert sorted(session.exec(select(Wave.name)).all()) == ["a", "b", "c"]
    engine.dispose()


@on_sqlite
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


@on_sqlite
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
        assert pool.submit(company.add, "b@new.example").result(DEADLINE)


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


def test_a_reader_sees_one_moment(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example")
    with reading(engine) as session:
        assert session.exec(select(Member.attempts)).one() == 0
        with writing(engine) as other:
            other.get_one(Member, member_id).attempts = 5
        assert session.exec(select(Member.attempts)).one() == 0


def test_numbers_of_imap_and_sums_of_octets_fit(engine: Engine, company: Company) -> None:
    """UIDs and UIDVALIDITYs have 32 bits without a sign; a mailbox has more octets than that."""
    most, octets = 2**32 - 1, 2**41
    member_id = company.add("a@new.example", source_bytes=octets)
    ledger = Ledger(engine, member_id, take_lease(engine, member_id))
    row = ledger.open_folder("INBOX", most, "INBOX", most)
    other = ledger.open_folder("Sent", most, "Sent", most)
    for folder in (row, other):
        batch_id = ledger.intend(folder.id or 0, [most], [b"x" * 16], octets, most)
        ledger.confirm(batch_id, [], [GivenUp(most, "message_too_large", size=octets)])
        ledger.adopt(folder.id or 0, [Entry(most - 1, most, b"y" * 16)])
        batch_id = ledger.intend(folder.id or 0, [most - 2], [b"z" * 16], octets, most)
        ledger.confirm(batch_id, [Entry(most - 2, most - 2, b"z" * 16)], size=octets)
    assert ledger.issues(row.id or 0)[most].size == octets
    [member] = wave_progress(engine, "first").members
    assert (member.bytes, type(member.bytes)) == (2 * octets, int)


# -- several at once, on PostgreSQL


@on_postgresql
def test_members_are_written_of_beside_each_other(engine: Engine, company: Company) -> None:
    one, two = company.add("a@new.example"), company.add("b@new.example")
    with writing(engine, alone=False) as session:
        session.get_one(Member, one, with_for_update=True).attempts = 1
        session.flush()
        with writing(engine, alone=False) as other:
            other.get_one(Member, two, with_for_update=True).attempts = 2
        assert company.member(two).attempts == 2
    assert company.member(one).attempts == 1


@on_postgresql
def test_what_is_written_of_a_whole_wave_waits_for_those_of_members(engine: Engine, company: Company) -> None:
    member_id = company.add("a@new.example")

    def write_alone() -> None:
        with writing(engine) as session:
            member = session.get_one(Member, member_id)
            member.attempts *= 2

    with ThreadPoolExecutor(1) as pool:
        with writing(engine, alone=False) as session:
            session.get_one(Member, member_id, with_for_update=True).attempts = 5
            session.flush()
            waiting = pool.submit(write_alone)
            wait_until(lambda: _sessions(engine, "wait_event_type = 'Lock'") == 1, "the other to wait")
            assert not waiting.done()
        waiting.result(DEADLINE)
    assert company.member(member_id).attempts == 10


def _sessions(engine: Engine, where: str = "true") -> int:
    with reading(engine) as session:
        statement = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {where}"
        return int(session.connection().execute(text(statement)).scalar_one())


@on_postgresql
def test_a_process_has_few_connections_however_many_threads_it_has(
    engine: Engine, company: Company, postgres: Postgres
) -> None:
    member_id = company.add("a@new.example")
    threads = 2 * CONNECTIONS

    def count(_: int) -> None:
        for _ in range(3):
            with writing(engine) as session:
                session.get_one(Member, member_id).attempts += 1

    with ThreadPoolExecutor(threads) as pool, postgres.connection() as admin:

        def sessions(where: str) -> int:
            statement = f"SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND {where}"
            row = admin.execute(statement, [engine.url.database]).fetchone()  # type: ignore[arg-type]
            return int(row[0]) if row else 0

        with writing(engine):
            written = [pool.submit(count, number) for number in range(threads)]
            # All that there are: one holds what the others want, and whoever else wants it waits for one of them.
            waiting = CONNECTIONS - 1
            wait_until(lambda: sessions("wait_event_type = 'Lock'") == waiting, "threads to wait for the lock")
            assert sessions("true") == CONNECTIONS
        for each in written:
            each.result(DEADLINE)
        assert sessions("true") == CONNECTIONS
    assert company.member(member_id).attempts == 3 * threads


@on_postgresql
def test_a_connection_that_ended_while_nobody_used_it_is_replaced(
    engine: Engine, company: Company, postgres: Postgres
) -> None:
    company.add("a@new.example")
    assert postgres.end_sessions(engine.url.database or "")
    assert company.add("b@new.example")


@on_postgresql
def test_a_machine_that_is_gone_in_mid_transaction_holds_the_others_up_for_a_minute_at_most(engine: Engine) -> None:
    with engine.connect() as connection:
        for setting, value in (("idle_in_transaction_session_timeout", "1min"), ("lock_timeout", "30s")):
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar() == value


# -- what is said of a database


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:***@h/d"),
        ("postgres://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg://h/d?sslmode=verify-full", "postgresql+psycopg://h/d?sslmode=verify-full"),
        ("sqlite:////srv/x.sqlite", "sqlite:////srv/x.sqlite"),
    ],
)
def test_the_url_of_a_database_gets_its_driver(given: str, used: str) -> None:
    assert str(database_url(given)) == used


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("postgresql://u:canary@canary@h/d", "write %40"),
        ("postgresql://u@h:canary/d", "is no URL"),
        ("canary", "is no URL"),
        ("mysql://u:canary@h/d", "must begin with"),
        ("postgresql+psycopg2://u:canary@h/d", "must begin with"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_shown(given: str, said: str) -> None:
    with pytest.raises(NoSuchDatabase, match=said) as caught:
        open_database(given)
    assert "canary" not in str(caught.value)


@on_postgresql
def test_a_password_in_the_url_is_shown_nowhere(engine: Engine, postgres: Postgres) -> None:
    url = full_url(engine)
    assert PASSWORD in url
    shown = [repr(engine), repr(engine.pool), public_name(engine)]
    for wrong in (
        url.replace(PASSWORD, PASSWORD + "2"),
        url + "_no_such_database",
        url.replace(str(postgres.port), "1"),
        url.replace(f":{PASSWORD}@", "@") + f"?password={PASSWORD}2",
        url + f"?no_such_option={PASSWORD}",
    ):
        with pytest.raises(SQLAlchemyError) as caught:
            open_database(wrong)
        assert trouble(caught.value) or isinstance(caught.value, ProgrammingError)
        shown += [str(caught.value), repr(caught.value), words(caught.value)]
    assert not [text for text in shown if "canary" in text]
    with_query = open_database(url.replace(f":{PASSWORD}@", "@") + f"?password={PASSWORD}")
    assert public_name(with_query) == str(engine.url).replace(":***", "")
    with_query.dispose()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationalError("INSERT", {}, Exception("database is locked\nmore")), "database is locked"),
        (DatabaseError("SELECT", {}, Exception("file is not a database")), "file is not a database"),
        (NoConnectionFree("QueuePool limit"), "QueuePool limit"),
        (OperationalError("SELECT", {}, Exception()), "OperationalError"),
        (IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed")), None),
        (ProgrammingError("SELECT", {}, Exception("no such table")), None),
    ],
)
def test_what_is_trouble_of_the_database_and_what_a_defect_of_ours(error: SQLAlchemyError, said: str | None) -> None:
    assert trouble(error) == said
