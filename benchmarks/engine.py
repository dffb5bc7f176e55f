"""Banjia's engine as a tool: `copy_mailbox`, from the first connection to the verified copy, with a ledger in SQLite.

Not in the time: the start of Python and the making of the database, which a migration pays once for all mailboxes.
"""

import cProfile
import pstats
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import col, func, select

from benchmarks.job import HOST, PASSWORD, Job, Pass, answer, own_peak_bytes, read_job, stopwatch
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import CopyOptions, copy_mailbox
from models.database import open_database, reading, writing
from models.ledger import FolderCopy, Ledger
from models.member import Member, take_lease
from models.wave import Wave

PROFILE_LINES = 15


class Copier:
    """The members of a job and their ledger, from one pass to the next."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file = Path(job.scratch) / "ledger.sqlite"
        self._engine = open_database(f"sqlite:///{self._file}")
        self._members = _enrol(self._engine, [source for source, _ in job.pairs])
        self._empty_bytes = self._ledger_bytes()

    def run_pass(self) -> Pass:
        """Copy every mailbox, each in a thread of its own when there are several."""
        with stopwatch() as spent:
            if len(self._members) == 1:
                with profiled() if self._job.profile else nullcontext():
                    self._copy(0)
            else:
                with ThreadPoolExecutor(len(self._members)) as threads:
                    list(threads.map(self._copy, range(len(self._members))))
        seconds, cpu = spent()
        with reading(self._engine) as session:
            messages, octets = session.exec(
                select(
                    func.sum(col(FolderCopy.copied) + col(FolderCopy.already_there)), func.sum(col(FolderCopy.bytes))
                )
            ).one()
        return Pass(seconds, cpu, own_peak_bytes(), messages, octets, self._ledger_bytes() - self._empty_bytes)

    def _copy(self, number: int) -> None:
        source, target = self._job.pairs[number]
        copy_mailbox(
            Account(Server(HOST, self._job.source_port, "plain"), source, PASSWORD),
            Account(Server(HOST, self._job.target_port, "plain"), target, PASSWORD),
            self._members[number],
            CopyOptions(),
        )

    def _ledger_bytes(self) -> int:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._file.stat().st_size


def _enrol(engine: Engine, users: list[str]) -> list[Ledger]:
    with writing(engine) as session:
        wave = Wave(name="benchmark")
        session.add(wave)
        session.flush()
        members = [
            Member(wave_id=wave.id or 0, line=n, email=f"{u}@example.com", user_name=u) for n, u in enumerate(users)
        ]
        session.add_all(members)
        session.flush()
        ids = [member.id or 0 for member in members]
    return [Ledger(engine, member_id, take_lease(engine, member_id)) for member_id in ids]


@contextmanager
def profiled() -> Iterator[None]:
    """Profile the body and the threads that it starts, and print where this one and those spent their time."""
    found: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        # From 3.12 on one profiler serves the whole process, and a second one is refused.
        profile = cProfile.Profile()
        try:
            profile.enable()
        except ValueError:
            return
        found.append(profile)

    threading.setprofile(begin)
    begin()
    try:
        yield
    finally:
        threading.setprofile(None)
        for name, profiles in (("this thread", found[:1]), ("the threads it started", found[1:])):
            if profiles:
                sys.stderr.write(f"\n{name}: ")
                stats = pstats.Stats(*profiles, stream=sys.stderr)
                stats.sort_stats("cumulative").print_stats(PROFILE_LINES)
                stats.sort_stats("tottime").print_stats(PROFILE_LINES)


if __name__ == "__main__":
    answer(Copier(read_job()).run_pass)
