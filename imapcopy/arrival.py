"""When a message arrived, where its server does not say so in a way that every other server keeps. Pure.

Dovecot replaces what lies beyond 2038 by the present, Cyrus wraps it and refuses what was before 1970, and some take
the first second of 1970 for no date. What is outside is no arrival of a mail but a server's mistake, and the message
tells it better: by its first Received field, which the last server on its way wrote, else by its Date.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_tz
from typing import NamedTuple

EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
LATEST = datetime(2038, 1, 19, tzinfo=UTC)
HEADER_BYTES = 1 << 18
"""So much of a message is searched: headers above are made to be expensive."""

_HEADER_END = re.compile(rb"\r?\n\r?\n")
_RECEIVED = re.compile(rb"^received[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE)
_DATE = re.compile(rb"^date[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)", re.IGNORECASE | re.MULTILINE)


class Arrival(NamedTuple):
    """The moment to be told to the target, None for none; `rule` names where it comes from, "" for the source."""

    moment: datetime | None
    rule: str = ""
    """date_received, date_header, date_unknown."""


def is_kept_everywhere(moment: datetime | None) -> bool:
    """Whether it is a moment that every server keeps as it is."""
    return moment is not None and EARLIEST <= moment < LATEST


def arrival(told: datetime | None, beginning: Callable[[], bytes]) -> Arrival:
    """What to tell the target; `beginning` gives the first octets of the message, where they are needed.

    A moment that only some servers keep is better than none, so it goes out when the message knows no other.
    """
    if is_kept_everywhere(told):
        return Arrival(told)
    start = beginning()[:HEADER_BYTES]
    end = _HEADER_END.search(start)
    header = start[: end.start()] if end else start
    header = b"" if start.startswith((b"\n", b"\r\n")) else header
    for field, rule in ((_RECEIVED, "date_received"), (_DATE, "date_header")):
        found = field.search(header)
        # In a Received field the date follows the last semicolon.
        moment = _moment(found[1].rpartition(b";")[2]) if found else None
        if is_kept_everywhere(moment):
            return Arrival(moment, rule)
    return Arrival(told) if told else Arrival(None, "date_unknown")


def _moment(field: bytes) -> datetime | None:
    try:
        parts = parsedate_tz(" ".join(field.decode("latin-1").split()))
        if parts is None:
            return None
        # Without a zone it is taken for UTC: half a day off is better than years.
        zone = timezone(timedelta(seconds=parts[9] or 0))
        year, month, day, hour, minute, second = parts[:6]
        return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
