"""The program's database as it lies on the disk, read without the program."""

import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.servers.dovecot import DEADLINE
from tests.servers.sqlite_copy import copy_database


class LedgerFile:
    """The program's database, read from a copy: opening the file itself would mend what a kill has left."""

    def __init__(self, home: Path) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("member", "foldercopy", "batch")}
        with tempfile.TemporaryDirectory() as directory:
            file = home / "banjia.sqlite"
            copy = copy_database(file, Path(directory)) if file.exists() else Path(directory) / "none.sqlite"
            with closing(sqlite3.connect(copy)) as connection:
                connection.row_factory = sqlite3.Row
                tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
                for name in self._rows.keys() & tables:
                    self._rows[name] = [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]

    @staticmethod
    @contextmanager
    def held(home: Path) -> Iterator[None]:
        """Keep every other process from writing, as a backup or a forgotten session does."""
        with closing(sqlite3.connect(home / "banjia.sqlite", isolation_level=None, timeout=DEADLINE)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    @staticmethod
    def can_be_written(home: Path) -> bool:
        """Whether no process is in the middle of a transaction that writes."""
        with closing(sqlite3.connect(home / "banjia.sqlite", isolation_level=None, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    @property
    def leases_have_ended(self) -> bool:
        """Whether the time of every lease that was not given back is over."""
        now = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ")
        return all(member["lease_until"] < now for member in self.members if member["lease_owner"])

    @property
    def noted(self) -> int:
        """Messages that are known to be at the target."""
        return sum(len(_uids(batch["target_uids"])) for batch in self._rows["batch"])

    @property
    def unsettled(self) -> int:
        return sum(batch["state"] == "intended" for batch in self._rows["batch"])

    @property
    def intended(self) -> int:
        """Messages whose outcome is not known."""
        batches = [batch for batch in self._rows["batch"] if batch["state"] == "intended"]
        return sum(len(_uids(batch["source_uids"])) for batch in batches)

    def intended_of(self, members: Collection[int]) -> bool:
        """Whether something of these members is on its way."""
        folders = {folder["id"] for folder in self._rows["foldercopy"] if folder["member_id"] in members}
        return any(b["state"] == "intended" and b["folder_copy_id"] in folders for b in self._rows["batch"])

    @property
    def members(self) -> list[dict[str, Any]]:
        return self._rows["member"]

    @property
    def states(self) -> dict[str, str]:
        return {member["email"]: member["state"] for member in self.members}

    @property
    def attempts(self) -> int:
        return sum(member["attempts"] for member in self.members)

    @property
    def copies(self) -> list[dict[str, Any]]:
        """What is known of folders and batches, with who may write it."""
        tokens: list[dict[str, Any]] = [{"email": m["email"], "token": m["lease_token"]} for m in self.members]
        return [*tokens, *self._rows["foldercopy"], *self._rows["batch"]]

    def counts(self, email: str) -> tuple[int, int, int]:
        """Messages at the source, moved and given up, as the folders' rows count them."""
        folders = self._folders(email)
        moved = sum(folder["copied"] + folder["already_there"] for folder in folders)
        return sum(f["source_messages"] for f in folders), moved, sum(f["issues"] for f in folders)

    def target_uids(self, email: str) -> dict[str, list[int]]:
        """The UIDs that stand for a source message, by target folder."""
        found: dict[str, list[int]] = {}
        for folder in self._folders(email):
            batches = [batch for batch in self._rows["batch"] if batch["folder_copy_id"] == folder["id"]]
            if uids := sorted(uid for batch in batches for uid in _uids(batch["target_uids"])):
                found[folder["target_name"]] = uids
        return found

    def _folders(self, email: str) -> list[dict[str, Any]]:
        [member] = [row["id"] for row in self._rows["member"] if row["email"] == email]
        return [f for f in self._rows["foldercopy"] if f["member_id"] == member and not f["superseded"]]


def _uids(text: str) -> list[int]:
    """Read an IMAP sequence of UIDs, `7,9:12`."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition(":")
        found += range(int(first), int(last or first) + 1)
    return found
