"""Banjia's engine as a tool: `copy_mailbox`, from the first connection to the verified copy, with a ledger in SQLite.

Not in the time: the start of Python, the making of the database and the reading of the table of providers, which a
migration pays once for all mailboxes.
"""

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import col, func, select

from benchmarks.hotspots import profiled
from benchmarks.job import HOST, PASSWORD, Job, Pass, answer, peak_bytes, read_job, stopwatch
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from models.database import open_database, reading, writing
from models.ledger import Ledger
from models.ledger_rows import FolderCopy
from models.member import Member, take_lease
from models.providers import providers
from models.wave import Wave


class Copier:
    """The members of a job and their ledger, from one pass to the next."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._file = Path(job.scratch) / "ledger.sqlite"
        self._engine = open_database(f"sqlite:///{self._file}")
        self._members = _enrol(self._engine, [source for source, _ in job.pairs])
        self._empty_bytes = self._ledger_bytes()
        # As every wave does; the providers have been read with the roster.
        providers()
        gc.collect()
        gc.freeze()

    def run_pass(self) -> Pass:
        """Copy every mailbox, as many at a time as the job says, each in one thread."""
        with (
            profiled() if self._job.profile else nullcontext(),
            stopwatch() as spent,
            ThreadPoolExecutor(self._job.at_once) as threads,
        ):
            list(threads.map(self._copy, range(len(self._members))))
        seconds, cpu = spent()
        with reading(self._engine) as session:
            messages, octets = session.exec(
                select(
                    func.sum(col(FolderCopy.copied) + col(FolderCopy.already_there)), func.sum(col(FolderCopy.bytes))
                )
            ).one()
        return Pass(seconds, cpu, peak_bytes(), messages, octets, self._ledger_bytes() - self._empty_bytes)

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


if __name__ == "__main__":
    answer(Copier(read_job()).run_pass)
