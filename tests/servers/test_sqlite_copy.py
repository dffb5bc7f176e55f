"""Copies of a database that is being written to."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.sqlite_copy import copy_database


def test_a_log_that_begins_anew_between_the_copies_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "live.sqlite"
    copy_file, turns = shutil.copyfile, iter(range(2))
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE seen (number INTEGER)")
        writer.execute("INSERT INTO seen VALUES (1)")

        def copy_and_begin_anew(source: Path, target: Path) -> object:
            done = copy_file(source, target)
            if source == file and next(turns, None) is not None:
                writer.execute("PRAGMA wal_checkpoint(RESTART)")
                writer.execute("INSERT INTO seen VALUES (2)")
            return done

        monkeypatch.setattr(shutil, "copyfile", copy_and_begin_anew)
        with closing(sqlite3.connect(copy_database(file, tmp_path))) as copy:
            assert copy.execute("SELECT number FROM seen").fetchall() == [(1,), (2,), (2,)]
    assert not file.with_name("live.sqlite-wal").exists()
    with closing(sqlite3.connect(copy_database(file, tmp_path))) as copy:
        assert copy.execute("SELECT count(*) FROM seen").fetchone() == (3,)
