"""A real PostgreSQL for one test run, on a loopback port, with everything it writes under one directory.

Needs no root; started by root it becomes `nobody`, because PostgreSQL refuses to run as root. It waits for no disk
(`fsync=off`): a process that is killed loses nothing by that, only a machine that loses its power.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.servers.dovecot import DEADLINE, INSTALL, wait_until
from tests.servers.loopback import reserved_port

USER = "banjia"
PASSWORD = "canary-postgres-pass"
SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "full_page_writes=off",
    "autovacuum=off",
    "shared_buffers=32MB",
)


def postgres_binary(name: str) -> str:
    """Path of `initdb` or `postgres`, Debian's newest; fail the test (a skipped proof proves nothing) without one."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which(name)
    if found is None:
        pytest.fail(f"PostgreSQL's {name} is not installed: {INSTALL}", pytrace=False)
    return found


StartPostgres = Callable[[], "Postgres"]


class Postgres:
    """A throw-away PostgreSQL below `directory`, which must be open to `nobody` when root starts it."""

    host = "127.0.0.1"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = reserved_port(self)
        self._process: subprocess.Popen[bytes] | None = None
        self._account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self._names = itertools.count(1)

    # Start and stop

    def start(self) -> None:
        """Start, or start again on the same port, and return when it takes connections."""
        if self._process:
            raise RuntimeError("already started")
        if not self._data.exists():
            self._make_cluster()
        with self._log.open("ab") as log:
            command = [postgres_binary("postgres"), "-D", str(self._data), "-p", str(self.port)]
            self._process = subprocess.Popen(
                [*command, *(word for setting in SETTINGS for word in ("-c", setting))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches the test first
                **self._as_its_account(),
            )
        wait_until(self._answers_or_ended, "PostgreSQL to take connections")
        if self._process.poll() is not None:
            self._process = None
            raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")

    def stop(self) -> None:
        """End it and its sessions; a second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(DEADLINE)

    def kill(self) -> None:
        """Kill all its processes, as a power cut would; the directory is left as it is."""
        process, self._process = self._process, None
        if process is None:
            raise RuntimeError("not started")
        # The children are looked for before they lose their parent, and when it starts no more. It goes first: some of
        # the others end by themselves then, before they are killed.
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _stat(process.pid)[:1] == ["T"], "PostgreSQL to stand still")
        family = [process.pid, *_children(process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(DEADLINE)
        # One that still lives would keep the next start from the shared memory.
        wait_until(lambda: not any(_lives(pid) for pid in family), "PostgreSQL's processes to be gone")

    def restart(self) -> None:
        """Come back after `kill` or `stop`, on the same port; recovers what was committed."""
        self.start()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def wait_until_it_answers(self) -> None:
        """Wait until it takes connections again, after it has ended its sessions by itself."""
        wait_until(self._answers, "PostgreSQL to take connections")

    def kill_session(self, database: str) -> None:
        """Kill the newest session of a database; PostgreSQL has noticed then, ends all others and recovers."""
        with self.connection() as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = %s ORDER BY backend_start DESC LIMIT 1", [database]
            ).fetchone()
        assert row, f"nobody is connected to {database}"
        os.kill(row[0], signal.SIGKILL)
        # Until it has buried its child it takes connections, and breaks them right afterwards.
        wait_until(lambda: not _stat(row[0]), "PostgreSQL to notice")

    def end_sessions(self, database: str) -> int:
        """End the sessions of a database, as a restart does, and return how many there were when they have ended."""
        statement = "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = %s"
        with self.connection() as connection:
            ended = connection.execute(statement, [int(DEADLINE * 1000), database]).fetchall()
        assert all(each for (each,) in ended)
        return len(ended)

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # Databases

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@{self.host}:{self.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """Make a database, a copy of the template, and return its name."""
        name = f"test{next(self._names)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self._when_nobody_uses_it(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        self._when_nobody_uses_it(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _when_nobody_uses_it(self, statement: sql.Composed) -> None:
        """Carry out what PostgreSQL refuses as long as a session that was closed has not ended there."""

        def carried_out() -> bool:
            try:
                connection.execute(statement)
            except psycopg.errors.ObjectInUse:
                return False
            return True

        with self.connection() as connection:
            wait_until(carried_out, "the sessions of a database to end")

    def connection(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of the administrator, outside of transactions."""
        return psycopg.connect(
            host=self.host, port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        )

    # Inside

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _log(self) -> Path:
        return self.directory / "postgres.log"

    def _make_cluster(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        for path in (self.directory, password):
            if os.getuid() == 0:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        answer = subprocess.run(
            [
                *(postgres_binary("initdb"), "-D", str(self._data), "-U", USER, "--pwfile", str(password)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            **self._as_its_account(),
        )
        password.unlink()
        if answer.returncode:
            raise RuntimeError(f"initdb: {answer.stdout}{answer.stderr}")

    def _as_its_account(self) -> dict[str, object]:
        root = os.getuid() == 0
        return {
            "cwd": self.directory,
            "env": {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            "user": self._account.pw_uid if root else None,
            "group": self._account.pw_gid if root else None,
            "extra_groups": [] if root else None,
        }

    def _answers_or_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None or self._answers()

    def _answers(self) -> bool:
        try:
            self.connection().close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that is gone afterwards."""
    # Not pytest's own tmp_path: that is closed to the account that PostgreSQL runs under.
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    directory.chmod(0o711)
    server = Postgres(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def _lives(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def _stat(pid: int) -> list[str]:
    """State, parent and the rest of proc(5) stat."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
