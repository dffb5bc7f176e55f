"""Measures how much room the ledger takes for each copied message: `.venv/bin/python -m benchmarks.ledger --help`.

Writes it as a pass does over one large folder - batches intended, then confirmed together with the next one's intent,
all verified at the end - in SQLite and in PostgreSQL. No mail server takes part.
"""

import contextlib
import random
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from psycopg import sql
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from imapcopy.group_pass import BATCH_MESSAGES
from models.database import open_database, writing
from models.ledger import Ledger
from models.ledger_rows import DIGEST_BYTES, Entry, Finished, FolderKey, FolderTally, Intended, Settled
from models.member import Member, take_lease
from models.wave import Wave
from tests.servers.postgres import running_postgres

GOAL = 40.0
"""Bytes of ledger for a message."""
SPREAD = 10
"""Scattered UIDs: one of so many is still there."""
FLAGS = {
    frozenset({"\\Seen"}): 85,
    frozenset({"\\Seen", "\\Answered"}): 8,
    frozenset({"\\Seen", "\\Flagged"}): 2,
    frozenset[str](): 5,
}
"""Flags of a working mailbox, with how many of a hundred messages have them."""
CONSECUTIVE, AT_SOURCE, ON_BOTH_SIDES = "consecutive", "scattered at the source", "scattered on both sides"
UIDS = (CONSECUTIVE, AT_SOURCE, ON_BOTH_SIDES)


@dataclass(frozen=True)
class Size:
    """What a ledger of so many messages takes; by table where the database tells."""

    database: str
    uids: str
    messages: int
    octets: int
    tables: dict[str, int] = field(default_factory=dict)

    @property
    def each(self) -> float:
        return self.octets / self.messages


def main(
    messages: Annotated[int, typer.Option(help="Messages in the folder.")] = 100_000,
    postgresql: Annotated[
        str, typer.Option(help="URL of a server where databases may be created; without it, one is started here.")
    ] = "",
) -> None:
    """Write ledgers and show how much room a message takes in each."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as directory:
        sizes = [in_sqlite(Path(directory), uids, messages) for uids in UIDS]
    with contextlib.ExitStack() as stack:
        server = postgresql or stack.enter_context(running_postgres()).url("postgres")
        sizes += [in_postgresql(server, uids, messages) for uids in UIDS]
    Console(width=140).print(table_of(sizes))


def table_of(sizes: Sequence[Size]) -> Table:
    """The figures; the goal is that of the usual case."""
    table = Table(box=None, title=f"Bytes of ledger for a message, {sizes[0].messages:,} messages; goal {GOAL:g}")
    for name in ("database", "UIDs", "bytes a message", "in all", "largest tables"):
        table.add_column(name, justify="right" if name in ("bytes a message", "in all") else "left")
    for size in sizes:
        largest = sorted(size.tables.items(), key=lambda item: -item[1])[:3]
        table.add_row(
            size.database,
            size.uids,
            f"{size.each:.1f}",
            f"{size.octets:,}",
            ", ".join(f"{name} {octets / size.messages:.1f}" for name, octets in largest),
        )
    return table


def in_sqlite(directory: Path, uids: str, messages: int) -> Size:
    """A file with nothing left in its write-ahead log."""
    file = directory / f"{uids.replace(' ', '_')}.sqlite"
    engine = open_database(f"sqlite:///{file}")
    ledger = _enrolled(engine)
    empty = _file_size(engine, file)
    _copy(ledger, uids, messages)
    octets = _file_size(engine, file) - empty
    engine.dispose()
    return Size("SQLite", uids, messages, octets, _by_table(file))


def in_postgresql(server: str, uids: str, messages: int) -> Size:
    """Tables with their indexes after VACUUM, in a database that is made for it and dropped."""
    with _database(server) as url:
        engine = open_database(url)
        ledger = _enrolled(engine)
        empty = _relations(engine)
        _copy(ledger, uids, messages)
        full = _relations(engine)
        engine.dispose()
    grown = {name: octets - empty.get(name, 0) for name, octets in full.items()}
    return Size("PostgreSQL", uids, messages, sum(grown.values()), {n: octets for n, octets in grown.items() if octets})


def _copy(ledger: Ledger, uids: str, messages: int) -> None:
    dice = random.Random(7)  # noqa: S311  (the same figures each time)
    sources = _uids(dice, messages, scattered=uids != CONSECUTIVE)
    targets = _uids(dice, messages, scattered=uids == ON_BOTH_SIDES)
    [folder] = ledger.open_folders([FolderKey("INBOX", 1, "INBOX", 1)])
    settled: list[Settled] = []
    verified = []
    for start in range(0, messages, BATCH_MESSAGES):
        some = slice(start, start + BATCH_MESSAGES)
        digests = [dice.randbytes(DIGEST_BYTES) for _ in sources[some]]
        flags = dice.choices(list(FLAGS), list(FLAGS.values()), k=len(digests))
        size = 10_000 * len(digests)
        [batch_id] = ledger.advance(
            settled, [Intended(folder.id or 0, sources[some], digests, size, targets[start] if start else 1, flags)]
        )
        arrived = [Entry(*values) for values in zip(sources[some], targets[some], digests, flags, strict=True)]
        settled = [Settled(batch_id, folder.id or 0, arrived, size)]
        verified.append(batch_id)
    ledger.advance(settled)
    tally = FolderTally(messages, messages, 0, 0, None, None, "")
    ledger.finish_folders([Finished(folder.id or 0, tally, verified)])


def _uids(dice: random.Random, messages: int, *, scattered: bool) -> list[int]:
    if not scattered:
        return list(range(1, messages + 1))
    return sorted(dice.sample(range(1, SPREAD * messages), messages))


def _enrolled(engine: Engine) -> Ledger:
    with writing(engine) as session:
        wave = Wave(name="ledger")
        session.add(wave)
        session.flush()
        member = Member(wave_id=wave.id or 0, line=2, email="a@new.example", user_name="a")
        session.add(member)
    return Ledger(engine, member.id or 0, take_lease(engine, member.id or 0))


def _file_size(engine: Engine, file: Path) -> int:
    engine.dispose()
    with engine.connect() as connection:
        connection.rollback()
        connection.exec_driver_sql("COMMIT")  # what the engine began: no checkpoint goes inside of a transaction
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    return file.stat().st_size


def _by_table(file: Path) -> dict[str, int]:
    """Pages of each table and index; nothing where SQLite was built without dbstat."""
    with contextlib.closing(sqlite3.connect(file)) as database, contextlib.suppress(sqlite3.OperationalError):
        return dict(database.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"))
    return {}


def _relations(engine: Engine) -> dict[str, int]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM"))
        tables = "SELECT relname, pg_total_relation_size(oid) AS octets FROM pg_class WHERE relkind = 'r'"
        ours = "relnamespace = 'public'::regnamespace"
        return {row.relname: row.octets for row in connection.execute(text(f"{tables} AND {ours}"))}


@contextlib.contextmanager
def _database(server: str) -> Iterator[str]:
    name = "banjia_benchmark"
    conninfo = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


if __name__ == "__main__":
    typer.run(main)
