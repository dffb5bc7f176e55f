"""Opens the database: SQLite beside the program by default, PostgreSQL where several machines work together.

One short transaction a unit of work, never held across a network call. Either database loses updates silently by
default (two that read, then both write), so a writing transaction here is alone: on SQLite it begins with BEGIN
IMMEDIATE, on PostgreSQL with an advisory lock, which those that move a single member share: they lock its row first.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, ExceptionContext, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlmodel import Session, create_engine

from models.private_files import open_private

SCHEMA_HEAD = "0013"
"""The newest migration; opening an older database brings it there."""
CONNECTIONS = 16
"""To PostgreSQL, of one process: several machines fit into the hundred that a server allows. A transaction is short,
so members take turns with them."""
NO_CONNECTION_SECONDS = 30
WAIT_SECONDS = 30
"""For the lock of another transaction, on either database."""

_ADVISORY_LOCK = int.from_bytes(b"banjia")
_ALONE = text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
_BESIDE_OTHERS = text(f"SELECT pg_advisory_xact_lock_shared({_ADVISORY_LOCK})")
# A machine that dies in mid-transaction must not stop all others for longer than its lease lasts.
_SESSION = f"SET lock_timeout = '{WAIT_SECONDS}s'; SET idle_in_transaction_session_timeout = '60s'"
_PARAMETERS = {
    "application_name": "banjia",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

# What it has to say of a connection that broke comes as an exception too; nobody is shown its traceback.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())

_turns: WeakKeyDictionary[Engine, AbstractContextManager[object]] = WeakKeyDictionary()


class NoSuchDatabase(ValueError):
    """A URL that cannot be used; says why, and nothing of the URL, which may hold a password."""


class NewerDatabase(Exception):
    """The database was used by a newer version of the program; names the version of its schema."""


def database_url(given: str) -> URL:
    """The URL of a database that is known here, with its driver; NoSuchDatabase for another."""
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise NoSuchDatabase("is no URL such as postgresql://user:password@host/database") from None
    name, _, driver = url.drivername.partition("+")
    if name in ("postgresql", "postgres") and driver in ("", "psycopg"):
        if "@" in (url.host or ""):
            raise NoSuchDatabase("has an @ in its password: write %40 instead")
        return url.set(drivername="postgresql+psycopg")
    if name == "sqlite" and driver in ("", "pysqlite"):
        return url
    raise NoSuchDatabase("must begin with postgresql:// or sqlite:///")


def public_name(engine: Engine) -> str:
    """The engine's URL as it may be shown: its query may hold a password too."""
    return engine.url.set(query={}).render_as_string(hide_password=True)


def sqlite_file(engine: Engine) -> Path | None:
    """Where the database lies, if it is one file."""
    return Path(str(engine.url.database)) if _is_file(engine.url) else None


def still_in(engine: Engine, deleted: Sequence[bytes]) -> tuple[Path, ...]:
    """The files of a SQLite database in which deleted octets can still be found.

    What is deleted is overwritten (secure_delete), but its old pages lie in the write-ahead log until that is emptied,
    which waits for everybody who reads the database as it was. PostgreSQL keeps old rows until it vacuums, out of
    anybody's sight but its own administrator's.
    """
    file = sqlite_file(engine)
    if file is None:
        return ()
    log = Path(f"{file}-wal")
    with engine.connect() as connection:
        # Without a transaction: one of our own would be among those that it waits for.
        cursor = connection.connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_CHECKPOINT_SECONDS * 1000}")
        [busy, *_] = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        cursor.execute(f"PRAGMA busy_timeout={WAIT_SECONDS * 1000}")
    wanted = {octets[:_TELLING] for octets in deleted}
    found = [path for path in (file, log) if path.exists() and _holds_any(path, wanted)]
    return tuple(dict.fromkeys([*found, *([log] if busy else [])]))


_CHECKPOINT_SECONDS = 1
"""A reading transaction of ours is shorter; one that stands still is named instead of waited for."""
_TELLING = 48
"""So many first octets tell one sealed secret from every other: version, moment, and a random block."""


def _holds_any(path: Path, wanted: set[bytes]) -> bool:
    before = b""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            window = before + piece
            if any(octets in window for octets in wanted):
                return True
            before = window[-_TELLING:]
    return False


def open_database(given: str) -> Engine:
    """Open the database and bring its schema to SCHEMA_HEAD; NewerDatabase where it is beyond that."""
    url = database_url(given)
    _close_to_others(url)
    # Values of statements stay out of exceptions: those are logged, and shown by Prefect.
    engine = create_engine(url, hide_parameters=True, **_options(url))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _record: _prepare_sqlite(connection, url))
        event.listen(engine, "begin", _begin_sqlite)
        _turns[engine] = threading.RLock()
    else:
        event.listen(engine, "connect", _prepare_postgresql)
        event.listen(engine, "handle_error", _leave_values_out)
    version = _schema_version(engine)
    if version is not None and version > SCHEMA_HEAD:
        engine.dispose()
        raise NewerDatabase(version)
    if version != SCHEMA_HEAD:
        with _one_at_a_time(url):
            _upgrade(engine)
    return engine


@contextmanager
def writing(engine: Engine, *, alone: bool = True) -> Iterator[Session]:
    """A transaction that may write, begun at once; committed at the end, rolled back by any exception.

    One that is not `alone` writes of one member and locks that member's row first: on PostgreSQL such run beside each
    other, and keep those of other members waiting for nothing.
    """
    with Session(engine, expire_on_commit=False) as session, _turn(engine), session.begin():
        # Said to the connection: an engine with an option is a copy, which costs a twentieth of a short transaction.
        connection = session.connection(execution_options={"writes": True})
        if engine.dialect.name == "postgresql":
            connection.execute(_ALONE if alone else _BESIDE_OTHERS)
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A transaction that only reads: it sees one moment and waits for nobody."""
    with Session(engine, expire_on_commit=False) as session:
        if engine.dialect.name == "postgresql":
            session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
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


def _options(url: URL) -> dict[str, Any]:
    """How connections are kept: opening and preparing one takes longer than using it.

    On SQLite each thread that moves a member has one, and those beyond are opened for the moment: no thread waits. In
    memory, SQLAlchemy's own choice stays. PostgreSQL's are few, and one that died while idle is replaced.
    """
    if url.get_backend_name() == "postgresql":
        return {
            "connect_args": {name: value for name, value in _PARAMETERS.items() if name not in url.query},
            "isolation_level": "READ COMMITTED",
            "pool_pre_ping": True,
            "pool_size": CONNECTIONS,
            "max_overflow": 0,
            "pool_timeout": NO_CONNECTION_SECONDS,
        }
    if not _is_file(url):
        return {}
    return {"pool_size": 32, "max_overflow": -1}


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")


def _close_to_others(url: URL) -> None:
    """Let only its owner read a SQLite file, from its first octet on; SQLite makes those beside it as this one is."""
    if not _is_file(url):
        return
    for beside in ("", "-wal", "-shm", ".lock"):
        file = f"{url.database}{beside}"
        # Of a file that cannot be had SQLite says best why.
        with contextlib.suppress(OSError):
            os.close(open_private(file, os.O_RDWR | (0 if beside else os.O_CREAT)))


def _prepare_postgresql(connection: Any, _record: object) -> None:
    connection.execute(_SESSION)
    connection.commit()


def _leave_values_out(context: ExceptionContext) -> None:
    """Cut what PostgreSQL says after its first line: `DETAIL: Key (email)=(...) already exists`."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args and isinstance(error.args[0], str):
            error.args = (error.args[0].split("\n")[0], *error.args[1:])


def _turn(engine: Engine) -> AbstractContextManager[object]:
    """Let one thread of this process write at a time; SQLite's own lock is for other processes.

    SQLite waits by sleeping, ever longer: the threads of eight small mailboxes slept through half of their time.
    """
    return _turns.get(engine, nullcontext())


def _prepare_sqlite(connection: Any, url: URL) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite alone
    cursor = connection.cursor()
    # Waiting comes first: others may be writing. secure_delete overwrites what is deleted, passwords among it.
    for pragma in (f"busy_timeout={WAIT_SECONDS * 1000}", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
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
        return _version_of(connection)


def _version_of(connection: Connection) -> str | None:
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
        if engine.dialect.name == "postgresql":
            # However long another process takes for the same.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(_ALONE)
        if _version_of(connection) == SCHEMA_HEAD:
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _one_at_a_time(url: URL) -> Iterator[None]:
    """Keep two processes from preparing one SQLite file at once; on PostgreSQL a lock inside does."""
    if not _is_file(url):
        yield
        return
    with open(f"{url.database}.lock", "w", opener=open_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
