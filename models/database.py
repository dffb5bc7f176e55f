"""Opens the database: SQLite beside the program by default, PostgreSQL where several machines work together.

One short transaction a unit of work, never held across a network call. SQLite's own default loses updates silently
(a read-modify-write of two threads), so every writing transaction here begins with BEGIN IMMEDIATE.
"""

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlmodel import Session, create_engine

SCHEMA_HEAD = "0002"
"""The newest migration; opening an older database brings it there."""


# What it has to say of a connection that broke comes as an exception too; nobody is shown its traceback.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())

_turns: WeakKeyDictionary[Engine, AbstractContextManager[object]] = WeakKeyDictionary()


def open_database(url: str) -> Engine:
    """Open the database and bring its schema to SCHEMA_HEAD."""
    # Values of statements stay out of exceptions: those are logged, and shown by Prefect.
    engine = create_engine(url, hide_parameters=True, **_pool(url))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _record: _prepare_sqlite(connection, url))
        event.listen(engine, "begin", _begin_sqlite)
        _turns[engine] = threading.RLock()
    if _schema_version(engine) != SCHEMA_HEAD:
        with _one_at_a_time(url):
            if _schema_version(engine) != SCHEMA_HEAD:
                _upgrade(engine)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A transaction that may write, begun at once; committed at the end, rolled back by any exception."""
    with Session(engine, expire_on_commit=False) as session, _turn(engine), session.begin():
        # Said to the connection: an engine with an option is a copy, which costs a twentieth of a short transaction.
        session.connection(execution_options={"writes": True})
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A transaction that only reads: it sees one moment and waits for nobody."""
    with Session(engine, expire_on_commit=False) as session:
        yield session


def trouble(error: SQLAlchemyError) -> str | None:
    """The words of a database that cannot be used now, in one line; None for what is a defect of ours.

    Down, out of connections, locked, full, read-only, damaged: what was not committed is not in it.
    """
    if isinstance(error, OperationalError | InterfaceError | InternalError | NoConnectionFree):
        return words(error)
    # A damaged file is none of the finer classes.
    return words(error) if type(error) is DatabaseError else None


def words(error: SQLAlchemyError) -> str:
    """What the driver says, in one line: the statement around it helps nobody, and what follows may hold values."""
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip().split("\n")[0]
    return said or type(error).__name__


def _pool(url: str) -> dict[str, Any]:
    """Keep a connection for each thread that moves a member: opening and preparing one takes longer than using it.

    Those beyond the size are opened for the moment: no thread waits. In memory, SQLAlchemy's own choice stays.
    """
    if not url.startswith("sqlite") or make_url(url).database in (None, "", ":memory:"):
        return {}
    return {"pool_size": 32, "max_overflow": -1}


def _turn(engine: Engine) -> AbstractContextManager[object]:
    """Let one thread of this process write at a time; SQLite's own lock is for other processes.

    SQLite waits by sleeping, ever longer: the threads of eight small mailboxes slept through half of their time.
    """
    return _turns.get(engine, nullcontext())


def _prepare_sqlite(connection: Any, url: str) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite alone
    cursor = connection.cursor()
    # Waiting comes first: others may be writing. secure_delete overwrites what is deleted, passwords among it.
    for pragma in ("busy_timeout=30000", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    if _journal_mode(cursor) != "wal":
        # For the turn to WAL SQLite waits for nobody, and two processes may open a new file at once.
        with _one_at_a_time(url):
            cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


def _journal_mode(cursor: Any) -> str:
    return str(cursor.execute("PRAGMA journal_mode").fetchone()[0])


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _schema_version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(engine: Engine) -> None:
    # Imported here because Alembic costs every command a quarter of a second.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _one_at_a_time(url: str) -> Iterator[None]:
    """Keep two processes from upgrading one SQLite file at once; other databases lock their own catalogue."""
    database = make_url(url).database
    if not url.startswith("sqlite") or not database or database == ":memory:":
        yield
        return
    with Path(f"{database}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
