"""Column types that the tables share."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Enum, Integer
from sqlmodel import SQLModel

# Named constraints, because a migration can only drop what has a name.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


WIDE: Any = BigInteger().with_variant(Integer(), "sqlite")
"""More than 31 bits, as UIDs, UIDVALIDITYs and sums of octets have; SQLite's INTEGER has 64 anyway."""


def stored_as_value(kind: type[StrEnum]) -> Any:
    """An enum stored by its value in a VARCHAR, so that adding a member needs no migration."""
    return Enum(kind, native_enum=False, length=32, values_callable=lambda members: [m.value for m in members])


def now() -> datetime:
    """This moment, in UTC: the only clock that is stored."""
    return datetime.now(UTC)
