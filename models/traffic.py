"""What was read from and written to accounts in the last day, and when there is room for more: some services lock a
mailbox for a day that goes beyond its daily limit.

A row an account and hour, for services with such a limit alone. The window slides by the hour: what was moved within
one leaves it when all of it is a day old. The decisions are pure functions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import Literal

from sqlalchemy import Engine, delete
from sqlmodel import Field, Session, SQLModel, UniqueConstraint, col, select

from models.columns import WIDE
from models.database import reading, writing
from models.providers import Provider

HOUR = timedelta(hours=1)
WINDOW = timedelta(days=1)
MAIL_PERCENT = 95
"""Of the limit: so far mail is moved. The members' own clients count too, and what we cannot see of the wire."""
SPEECH_PERCENT = 98
"""Beyond that nothing is said at all."""
VISIT_PERCENT = 90
"""Nobody begins beyond that: a visit would go by with lists and scans."""
WORTH_A_VISIT = 4
"""Whoever has left off comes back for a quarter of the limit: each visit begins with the same lists and scans."""

Way = Literal["read", "written"]
WAYS: tuple[Way, Way] = "read", "written"
History = Mapping[datetime, int]
"""Octets by the beginning of their hour."""


class AccountTraffic(SQLModel, table=True):
    """What was moved within one hour."""

    __table_args__ = (UniqueConstraint("host", "login", "hour"),)

    id: int | None = Field(default=None, primary_key=True)
    host: str
    login: str
    """Folded."""
    hour: datetime
    read: int = Field(default=0, sa_type=WIDE)
    written: int = Field(default=0, sa_type=WIDE)


# Decisions


@dataclass(frozen=True, slots=True)
class Opening:
    """From then on so many octets may be moved."""

    at: datetime
    octets: int


def daily_limits(provider: Provider) -> dict[Way, int]:
    """Octets in 24 hours, by way, where the service has such limits."""
    limits: dict[Way, int | None] = {"read": provider.download_a_day, "written": provider.upload_a_day}
    return {way: limit for way, limit in limits.items() if limit}


def share(limit: int, percent: int = MAIL_PERCENT) -> int:
    return limit * percent // 100


def hour_of(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def moved(history: History, at: datetime) -> int:
    """Octets that are in the window at that moment."""
    return sum(octets for hour, octets in history.items() if hour + HOUR + WINDOW > at)


def opening(history: History, limit: int, wanted: int, at: datetime) -> Opening:
    """When so much may be moved, at the latest when nothing of the history is in the window any more."""
    leaves = sorted(hour + HOUR + WINDOW for hour in history if hour + HOUR + WINDOW > at)
    found = Opening(at, 0)
    for moment in (at, *leaves):
        found = Opening(moment, max(0, share(limit) - moved(history, moment)))
        if found.octets >= wanted:
            break
    return found


def days(octets: int, limit: int) -> int:
    """How many days so much takes at a daily limit."""
    return -(-octets // share(limit))


# Rows


def traffic(engine: Engine, host: str, login: str, at: datetime) -> dict[Way, dict[datetime, int]]:
    """What is in the window of an account, by way and hour."""
    with reading(engine) as session:
        return _in_window(session, host, login, at)


def add_traffic(
    engine: Engine, host: str, login: str, more: Mapping[Way, History], at: datetime
) -> dict[Way, dict[datetime, int]]:
    """Add what was moved; returns what all runners together have in the window then."""
    hours = sorted({hour for history in more.values() for hour in history})
    rows = [
        {"host": host, "login": login, "hour": hour, **{way: more.get(way, {}).get(hour, 0) for way in WAYS}}
        for hour in hours
    ]
    # Both can add where they insert, and nobody needs to load both.
    insert = import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert
    with writing(engine, alone=False) as session:
        if rows:
            added = insert(AccountTraffic).values(rows)
            sums = {way: getattr(AccountTraffic, way) + added.excluded[way] for way in WAYS}
            session.exec(added.on_conflict_do_update(index_elements=["host", "login", "hour"], set_=sums))
        old = col(AccountTraffic.hour) <= at - HOUR - WINDOW
        mine = col(AccountTraffic.host) == host, col(AccountTraffic.login) == login
        session.exec(delete(AccountTraffic).where(*mine, old))
        return _in_window(session, host, login, at)


def _in_window(session: Session, host: str, login: str, at: datetime) -> dict[Way, dict[datetime, int]]:
    rows = session.exec(
        select(AccountTraffic).where(
            AccountTraffic.host == host, AccountTraffic.login == login, AccountTraffic.hour > at - HOUR - WINDOW
        )
    ).all()
    return {"read": {row.hour: row.read for row in rows}, "written": {row.hour: row.written for row in rows}}
