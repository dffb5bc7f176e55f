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
    """Count what the body asks of the database."""
    count = Count()

    def asked(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == "BEGIN IMMEDIATE":
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
