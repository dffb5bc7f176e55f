"""Counts what is asked of a database: how dear something is, without a clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, event


@dataclass
class Count:
    """Transactions by kind, and the statements in them."""

    writing: int = 0
    reading: int = 0
    statements: int = 0


@contextmanager
def counted(engine: Engine) -> Iterator[Count]:
    """Count what the body asks of the database; what only reads, on SQLite alone."""
    count = Count()

    def asked(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        # PostgreSQL's driver begins by itself, and each writing transaction then asks for this lock.
        if statement == "BEGIN IMMEDIATE" or "pg_advisory_xact_lock" in statement:
            count.writing += 1
        elif statement == "BEGIN":
            count.reading += 1
        else:
            count.statements += 1

    event.listen(engine, "before_cursor_execute", asked)
    try:
        yield count
    finally:
        event.remove(engine, "before_cursor_execute", asked)
