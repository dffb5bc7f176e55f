"""A fresh database of either kind for a test: a copy of one with a schema, because the migrations cost more.

A test says with a mark which kind it is for; without one, the default of its directory counts.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from sqlalchemy import Engine

from models.database import open_database
from tests.servers.postgres import Postgres

on_both = pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)


def full_url(engine: Engine) -> str:
    """The URL for another process, with the password."""
    return engine.url.render_as_string(hide_password=False)


@dataclass
class Databases:
    """Makes databases of both kinds."""

    directory: Path
    postgres: Callable[[], Postgres]

    @cached_property
    def _empty_file(self) -> Path:
        file = self.directory / "empty.sqlite"
        open_database(f"sqlite:///{file}").dispose()
        return file

    @cached_property
    def _empty_database(self) -> str:
        server = self.postgres()
        name = server.create_database()
        open_database(server.url(name)).dispose()
        return name

    @contextmanager
    def fresh(self, kind: str, directory: Path) -> Iterator[Engine]:
        """An empty database of that kind; SQLite's file lies in the directory."""
        if kind == "sqlite":
            file = directory / "banjia.sqlite"
            shutil.copyfile(self._empty_file, file)
            engine = open_database(f"sqlite:///{file}")
            yield engine
            engine.dispose()
            return
        server = self.postgres()
        name = server.create_database(self._empty_database)
        engine = open_database(server.url(name))
        yield engine
        engine.dispose()
        server.drop_database(name)
