"""Suspects that the old service shows IMAP only a part of the mail (receive range, 收取范围). Pure.

What lies outside the range is in no LIST, STATUS or SEARCH, so it cannot be counted; only its traces can be seen:
the oldest mail is as old as one of the ranges that services offer, the largest folder holds exactly as many messages
as a service shows at most, the mailbox uses far more of its quota than its mail weighs, or it is far smaller than the
others of its wave. A trace is a reason to
look, never a reason not to copy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from statistics import median

RANGES = (7, 30, 60, 90, 180, 365)
"""Days that services offer: Alibaba's default is 30."""
MOST_SHOWN = (500, 1000, 2000, 5000, 10000)
"""Messages a folder that services offer: Gmail shows 1,000, 2,000, 5,000, 10,000 or all."""
ENOUGH_MAIL = 20
"""Fewer messages than these say nothing by their age: the range may begin long before the first of them."""
COMPARED = 10
"""Fewer mailboxes than these have no usual size."""
USUAL = 1000
"""Messages; where a wave's usual mailbox is smaller than that, a small one is nothing odd."""
FAR_BELOW = 20
"""A mailbox is far below the usual one when that is so many times as large, by messages and by octets."""
QUOTA_MARGIN = 100 << 20
"""Octets; services count trash, calendars and files on top of what IMAP shows."""


class Sign(StrEnum):
    """What gives a limited range away."""

    AGE = "age"
    """The oldest message is as old as the range; `number` is in days."""
    COUNT = "count"
    """The largest folder is full to the number; `number` is in messages."""
    QUOTA = "quota"
    """`number` octets of the used quota are not to be seen."""
    MEDIAN = "median"
    """It is far smaller than others of its wave, whose median is `number` messages."""


@dataclass(frozen=True, slots=True)
class LimitedRange:
    """A suspicion, and its sign."""

    sign: Sign
    number: int

    def __str__(self) -> str:
        return f"{self.sign} {self.number}"

    @classmethod
    def read(cls, text: str) -> "LimitedRange | None":
        """What `str` gave, or None for an empty text."""
        sign, _, number = text.partition(" ")
        return cls(Sign(sign), int(number)) if text else None


@dataclass(frozen=True, slots=True)
class FolderAge:
    """How much a folder holds, and since when."""

    messages: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Holding:
    """What one mailbox of a wave shows: messages, and octets (0: unknown)."""

    messages: int
    octets: int


def far_below(holdings: Mapping[int, Holding]) -> dict[int, LimitedRange]:
    """The mailboxes (by any key) that are far smaller than the others of their wave.

    To be asked of mailboxes of single people that have been looked at and whose roster wants all mail: a shared one
    may well be small. An empty one says nothing, a new colleague has it too.
    """
    if len(holdings) < COMPARED:
        return {}
    usual = int(median(each.messages for each in holdings.values()))
    weight = median(each.octets for each in holdings.values())
    if usual < USUAL:
        return {}
    return {
        key: LimitedRange(Sign.MEDIAN, usual)
        for key, each in holdings.items()
        if 0 < each.messages * FAR_BELOW < usual and each.octets * FAR_BELOW <= weight
    }


def limited_range(
    folders: Iterable[FolderAge], at: datetime, *, since: date | None = None, octets: int = 0, used: int = 0
) -> LimitedRange | None:
    """The strongest sign in a mailbox as it was seen `at` that time, or None.

    `since` is from when on the roster wants the mail; `octets` are what its mail weighs, `used` of its quota (0:
    unknown).
    """
    full = [folder for folder in folders if folder.messages]
    ages = [(at - folder.oldest).total_seconds() / 86400 for folder in full if folder.oldest]
    if ages and sum(folder.messages for folder in full) >= ENOUGH_MAIL:
        wanted = float("inf") if since is None else (at.date() - since).days - 1
        for days in RANGES:
            # Older than the range nothing is; younger by as long as nobody wrote at its beginning.
            if days < wanted and days - min(3.0, max(1.0, 0.05 * days)) <= max(ages) <= days + 1:
                return LimitedRange(Sign.AGE, days)
    largest = max((folder.messages for folder in full), default=0)
    if largest in MOST_SHOWN:
        return LimitedRange(Sign.COUNT, largest)
    if used > 2 * octets + QUOTA_MARGIN and since is None:
        return LimitedRange(Sign.QUOTA, used - octets)
    return None
