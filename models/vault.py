"""The vault: members' and administrators' passwords, encrypted at rest with keys that live outside the database.

The key file (0600) holds one Fernet key a line, the newest first; every key in it still opens. A ciphertext carries
the member and the side inside, so that one moved to another row does not open there.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Engine, Table, bindparam, delete, func, insert
from sqlmodel import Field, Session, SQLModel, UniqueConstraint, col, select

from models.columns import now
from models.database import reading, still_in, writing
from models.member import Member
from models.private_files import NotPrivate, make_folder, open_private, read_private, write_private

Side = Literal["source", "target"]
_AT_ONCE = 500
"""A database takes only so many values in one statement."""


class Secret(SQLModel, table=True):
    """One sealed password."""

    __table_args__ = (UniqueConstraint("member_id", "side"),)

    id: int | None = Field(default=None, primary_key=True)
    member_id: int = Field(foreign_key="member.id", index=True)
    side: str
    sealed: bytes
    changed_at: datetime = Field(default_factory=now)


class StandingSecret(SQLModel, table=True):
    """One sealed secret that is no single member's: an administrator's password, an application's secret."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    sealed: bytes
    changed_at: datetime = Field(default_factory=now)


_TABLE: Table = Secret.__table__  # type: ignore[attr-defined]
_FORGET = delete(_TABLE).where(_TABLE.c.member_id == bindparam("of"), _TABLE.c.side == bindparam("on"))
_KEEP = insert(_TABLE).values(
    member_id=bindparam("of"), side=bindparam("on"), sealed=bindparam("sealed"), changed_at=bindparam("at")
)


def _content(member_id: int, side: Side, password: str) -> bytes:
    return json.dumps({"member": member_id, "side": side, "password": password}).encode()


def _standing_content(name: str, secret: str) -> bytes:
    return json.dumps({"name": name, "secret": secret}).encode()


def stored_sides(session: Session, wave_id: int, only: int | None = None) -> dict[int, frozenset[str]]:
    """For which sides each member of a wave, or one of them, has a password; opens none."""
    query = select(Secret.member_id, Secret.side).join(Member).where(Member.wave_id == wave_id)
    if only is not None:
        query = query.where(Secret.member_id == only)
    found: dict[int, frozenset[str]] = {}
    for member_id, side in session.exec(query):
        found[member_id] = found.get(member_id, frozenset()) | {side}
    return found


class VaultClosed(Exception):
    """The key file is missing, readable by others, or does not open what the database holds."""


class Purged(NamedTuple):
    """What a purge came to."""

    passwords: int
    still_in: tuple[Path, ...]
    """Files in which sealed passwords can still be found: another process reads the database as it was."""


class Vault:
    """Seals and opens members' passwords."""

    def __init__(self, engine: Engine, key_file: Path) -> None:
        self._engine = engine
        self._key_file = key_file

    def put_many(self, passwords: Iterable[tuple[int, Side, str]]) -> None:
        """Seal passwords, each replacing the one before."""
        found = list(passwords)
        if not found:
            return
        self._have_key()
        with writing(self._engine) as session:
            # The keys are read inside the transaction: a rotation is before it or after it, never around it.
            fernet = self._fernet()
            # Two statements for a whole roster. Of two passwords for the same side the later one stays.
            rows = [
                {
                    "of": member_id,
                    "on": side,
                    "sealed": fernet.encrypt(_content(member_id, side, password)),
                    "at": now(),
                }
                for (member_id, side), password in {(member_id, side): last for member_id, side, last in found}.items()
            ]
            session.connection().execute(_FORGET, rows)
            session.connection().execute(_KEEP, rows)

    def put(self, member_id: int, side: Side, password: str) -> None:
        """Seal one password, replacing the one before."""
        self.put_many([(member_id, side, password)])

    def get(self, member_id: int, side: Side) -> str | None:
        """The password, or None when there is none; VaultClosed when it does not open."""
        return self.get_sides(member_id, (side,)).get(side)

    def get_sides(self, member_id: int, sides: Sequence[Side] = ("source", "target")) -> dict[Side, str]:
        """The member's passwords by side, as far as there are any; VaultClosed when one does not open."""
        # Twice, because a rotation may come between the look at the rows and the look at the keys.
        for _ in range(2):
            with contextlib.suppress(InvalidToken):
                return self._opened(member_id, sides)
        raise self._does_not_open()

    def _opened(self, member_id: int, sides: Sequence[Side]) -> dict[Side, str]:
        """The passwords by side; InvalidToken when the keys do not open one."""
        with reading(self._engine) as session:
            rows = session.exec(
                select(Secret.side, Secret.sealed).where(Secret.member_id == member_id, col(Secret.side).in_(sides))
            ).all()
        if not rows:
            return {}
        fernet = self._fernet()
        contents = {side: json.loads(fernet.decrypt(sealed)) for side, sealed in rows}
        if any((content["member"], content["side"]) != (member_id, side) for side, content in contents.items()):
            raise VaultClosed("a stored password belongs to another member: the database was changed by hand")
        return {side: str(contents[side]["password"]) for side in sides if side in contents}

    def put_standing(self, name: str, secret: str) -> None:
        """Seal a secret under a name, replacing the one before."""
        self._have_key()
        with writing(self._engine) as session:
            row = session.exec(select(StandingSecret).where(StandingSecret.name == name)).first()
            row = row or StandingSecret(name=name, sealed=b"")
            row.sealed, row.changed_at = self._fernet().encrypt(_standing_content(name, secret)), now()
            session.add(row)

    def get_standing(self, name: str) -> str | None:
        """The secret of that name, or None when there is none; VaultClosed when it does not open."""
        for _ in range(2):
            with reading(self._engine) as session:
                sealed = session.exec(select(StandingSecret.sealed).where(StandingSecret.name == name)).first()
            if sealed is None:
                return None
            with contextlib.suppress(InvalidToken):
                content = json.loads(self._fernet().decrypt(sealed))
                if content.get("name") != name:
                    raise VaultClosed("a stored secret belongs to another name: the database was changed by hand")
                return str(content["secret"])
        raise self._does_not_open()

    def standing(self) -> list[str]:
        """The names under which secrets are stored."""
        with reading(self._engine) as session:
            return sorted(session.exec(select(StandingSecret.name)))

    def forget_standing(self, name: str) -> bool:
        """Delete the secret of that name for good; whether there was one."""
        with writing(self._engine) as session:
            return bool(session.exec(delete(StandingSecret).where(col(StandingSecret.name) == name)).rowcount)

    def _does_not_open(self) -> VaultClosed:
        return VaultClosed(f"the keys in {self._key_file} do not open the stored passwords")

    def check(self) -> None:
        """Raise VaultClosed unless the key file is private and opens everything that is stored."""
        with reading(self._engine) as session:
            sealed = [*session.exec(select(Secret.sealed)), *session.exec(select(StandingSecret.sealed))]
        # Where nothing is stored no key is needed; one that is there must be private all the same.
        if not self._keys() and not sealed:
            return
        fernet = self._fernet()
        shut = 0
        for content in sealed:
            try:
                fernet.decrypt(content)
            except InvalidToken:
                shut += 1
        if shut:
            raise VaultClosed(f"{self._does_not_open()}: {shut} of {len(sealed)}")

    def rotate(self) -> int:
        """Seal everything with a new key and drop the old ones; returns how many secrets were sealed again.

        The new key is written first and the old ones are dropped last, so that stopping in between locks nobody out.
        """
        with self._one_at_a_time():
            old = self._keys()
            new = Fernet.generate_key()
            self._write_keys([new, *old])
            fernet = self._fernet()
            with writing(self._engine) as session:
                rows = [*session.exec(select(Secret)), *session.exec(select(StandingSecret))]
                for row in rows:
                    try:
                        row.sealed = fernet.rotate(row.sealed)
                    except InvalidToken:
                        raise self._does_not_open() from None
                    session.add(row)
            self._write_keys([new])
            return len(rows)

    def purge(self, member_ids: Sequence[int]) -> Purged:
        """Delete these members' passwords for good, and look whether the database has forgotten them."""
        parts = [member_ids[at : at + _AT_ONCE] for at in range(0, len(member_ids), _AT_ONCE)]
        sealed: list[bytes] = []
        with writing(self._engine) as session:
            for part in parts:
                sealed += session.exec(select(Secret.sealed).where(col(Secret.member_id).in_(part)))
                session.exec(delete(Secret).where(col(Secret.member_id).in_(part)))
        return Purged(len(sealed), still_in(self._engine, sealed))

    def _fernet(self) -> MultiFernet:
        keys = self._keys()
        if not keys:
            raise VaultClosed(f"there is no key in {self._key_file}")
        try:
            return MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise VaultClosed(f"{self._key_file} holds something else than keys") from None

    def _have_key(self) -> None:
        """Write the first key; of two processes that try at once, one wins and both use its key.

        VaultClosed where secrets are sealed already: a second key would open none of them, and hide that the first is
        lost.
        """
        if self._key_file.exists():
            return
        with self._one_at_a_time():
            if self._key_file.exists():
                return
            if sealed := self._sealed():
                raise VaultClosed(
                    f"the key file {self._key_file} is gone, and {sealed} sealed secrets need it: put it back from a "
                    "backup; if it is lost, delete them (banjia vault purge WAVE, banjia vault forget NAME) first"
                )
            self._write_keys([Fernet.generate_key()])

    def _sealed(self) -> int:
        """How many secrets are stored."""
        with reading(self._engine) as session:
            return sum(
                session.exec(select(func.count()).select_from(table)).one() for table in (Secret, StandingSecret)
            )

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Keep two processes from writing the key file at once."""
        make_folder(self._key_file.parent)
        with open(self._key_file.with_suffix(".lock"), "w", opener=open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _keys(self) -> list[bytes]:
        try:
            return read_private(self._key_file).split()
        except FileNotFoundError:
            return []
        except NotPrivate as open_to_others:
            raise VaultClosed(str(open_to_others)) from None

    def _write_keys(self, keys: Sequence[bytes]) -> None:
        make_folder(self._key_file.parent)
        write_private(self._key_file, b"\n".join(keys) + b"\n")
