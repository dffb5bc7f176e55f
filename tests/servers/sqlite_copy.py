"""An SQLite database as it lies on the disk, copied without being opened, while other processes write to it."""

import shutil
from contextlib import suppress
from pathlib import Path

_HEAD = 32
"""Octets at the beginning of the log; they change whenever it begins anew."""


def copy_database(file: Path, directory: Path) -> Path:
    """Copy a database with its write-ahead log into a directory, both as they belong together.

    What a checkpoint moves from the log into the file meanwhile is still in the log, until the log begins anew: then
    it may be missing in both copies, and they are made once more.
    """
    log, copy = file.with_name(file.name + "-wal"), directory / "copy.sqlite"
    log_copy = copy.with_name(copy.name + "-wal")
    while True:
        begun = _head(log)
        shutil.copyfile(file, copy)
        log_copy.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # all has been moved into the file
            shutil.copyfile(log, log_copy)
        if _head(log) == begun:
            return copy


def _head(log: Path) -> bytes:
    try:
        with log.open("rb") as content:
            return content.read(_HEAD)
    except FileNotFoundError:
        return b""
