"""The vault: members' passwords, encrypted at rest with keys that live outside the database.

The key file (0600) holds one Fernet key a line, the newest first; every key in it still opens. A ciphertext carries
the member and the side inside, so that one moved to another row does not open there.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Engine, delete
from sqlmodel import Field, SQLModel, UniqueConstraint, col, select

from models.columns import now
from models.database import reading, writing

Side = Literal["source", "target"]


class Secret(SQLModel, table=True):
    """One sealed password."""

    __table_args__ = (UniqueConstraint("member_id", "side"),)

    id: int | None = Field(default=None, primary_key=True)
    member_id: int = Field(foreign_key="member.id", index=True)
    side: str
    sealed: bytes
    changed_at: datetime = Field(default_factory=now)


class VaultClosed(Exception):
    """The key file is missing, readable by others, or does not open what the database holds."""


class Vault:
    """Seals and opens members' passwords."""

    def __init__(self, engine: Engine, key_file: Path) -> None:
        self._engine = engine
        self._key_file = key_file

    def put_many(self, passwords: Iterable[tuple[int, Side, str]]) -> None:
        """Seal passwords, each replacing the one before."""
        sealed = [(member_id, side, self._seal(member_id, side, password)) for member_id, side, password in passwords]
        with writing(self._engine) as session:
            for member_id, side, token in sealed:
                session.exec(delete(Secret).where(col(Secret.member_id) == member_id, col(Secret.side) == side))
                session.add(Secret(member_id=member_id, side=side, sealed=token))

    def put(self, member_id: int, side: Side, password: str) -> None:
        """Seal one password, replacing the one before."""
        self.put_many([(member_id, side, password)])

    def _seal(self, member_id: int, side: Side, password: str) -> bytes:
        content = {"member": member_id, "side": side, "password": password}
        return self._fernet(create=True).encrypt(json.dumps(content).encode())

    def get(self, member_id: int, side: Side) -> str | None:
        """The password, or None when there is none; VaultClosed when it does not open."""
        with reading(self._engine) as session:
            row = session.exec(select(Secret).where(Secret.member_id == member_id, Secret.side == side)).first()
        if row is None:
            return None
        try:
            opened = json.loads(self._fernet().decrypt(row.sealed))
        except InvalidToken:
            raise VaultClosed(f"the keys in {self._key_file} do not open the stored passwords") from None
        if (opened["member"], opened["side"]) != (member_id, side):
            raise VaultClosed("a stored password belongs to another member: the database was changed by hand")
        return str(opened["password"])

    def check(self) -> None:
        """Raise VaultClosed unless the key file is private and opens what is stored."""
        fernet = self._fernet()
        with reading(self._engine) as session:
            row = session.exec(select(Secret)).first()
        if row is not None:
            try:
                fernet.decrypt(row.sealed)
            except InvalidToken:
                raise VaultClosed(f"the keys in {self._key_file} do not open the stored passwords") from None

    def rotate(self) -> int:
        """Seal everything with a new key and drop the old ones; returns how many passwords were sealed again.

        The new key is written first and the old ones are dropped last, so that stopping in between locks nobody out.
        """
        old = self._keys()
        new = Fernet.generate_key()
        self._write_keys([new, *old])
        fernet = self._fernet()
        with writing(self._engine) as session:
            rows = session.exec(select(Secret)).all()
            for row in rows:
                row.sealed = fernet.rotate(row.sealed)
                session.add(row)
        self._write_keys([new])
        return len(rows)

    def purge(self, member_ids: Sequence[int]) -> int:
        """Delete these members' passwords for good; returns how many were there."""
        with writing(self._engine) as session:
            rows = session.exec(select(Secret).where(col(Secret.member_id).in_(member_ids))).all()
            for row in rows:
                session.delete(row)
        return len(rows)

    def _fernet(self, *, create: bool = False) -> MultiFernet:
        if create and not self._key_file.exists():
            self._create_key()
        keys = self._keys()
        if not keys:
            raise VaultClosed(f"there is no key in {self._key_file}")
        return MultiFernet([Fernet(key) for key in keys])

    def _create_key(self) -> None:
        """Write the first key; of two processes that try at once, one wins and both use its key."""
        self._key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._key_file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._key_file.exists():
                self._write_keys([Fernet.generate_key()])

    def _keys(self) -> list[bytes]:
        try:
            mode = self._key_file.stat().st_mode
        except FileNotFoundError:
            return []
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise VaultClosed(f"{self._key_file} can be read by others; run: chmod 600 {self._key_file}")
        return self._key_file.read_bytes().split()

    def _write_keys(self, keys: Sequence[bytes]) -> None:
        self._key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._key_file.with_suffix(".new")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(b"\n".join(keys) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._key_file)
