"""Which of several equal messages is which. Pure.

Mail lists, copies to oneself and drafts make messages of the same octets, or of octets that differ in a line end, which
no digest tells apart. Their dates and flags differ, and a date that went to the wrong one cannot be repaired later.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from models.flag_sets import Flags


class Mark(NamedTuple):
    """What tells a message from one with the same digest; None and 0 where that is not known."""

    arrived: datetime | None = None
    flags: Flags | None = None
    """Folded, as the target can hold them (`folded`)."""
    size: int = 0
    uid: int = 0
    """At the target, where its server has told it."""
    place: str = ""
    """The target's folder where it is, or belongs."""


AGREEMENTS = (
    ("uid",),
    ("arrived", "flags", "size"),
    ("arrived", "flags"),
    ("arrived", "size"),
    ("arrived",),
    ("flags", "size"),
    ("flags",),
    ("size",),
    (),
)
"""In what equal messages and copies must agree to be each other's, the surest first; each is gone through for all of
them before the next, so that none takes a copy that fits another one better. A date before flags: servers drop
keywords and members mark mail, and neither changes a date. At last nothing: then servers keep neither.
"""
AGREEMENTS_OF_MOVES = tuple((*names, *place) for names in AGREEMENTS for place in (("place",), ()))
"""The same for messages that were moved: of copies that fit as well, one that lies in the right folder already."""


def folded(flags: Flags) -> Flags:
    """To be compared: flags have no case (RFC 9051 section 2.3.2), and \\Recent and \\Deleted are not carried over."""
    return frozenset(flag.lower() for flag in flags) - {"\\recent", "\\deleted"}


def pair(
    wanted: Sequence[Mark], found: Sequence[Mark], agreements: Sequence[tuple[str, ...]] = AGREEMENTS
) -> list[tuple[int, int]]:
    """Pair messages of one digest with copies of it, as many as there are on both sides; positions in both lists.

    The surest pairs come first; of those that are as sure, the first of either list.
    """
    if len(wanted) == len(found) == 1:
        return [(0, 0)]
    pairs: list[tuple[int, int]] = []
    left, free = list(range(len(wanted))), list(range(len(found)))
    for names in agreements:
        if not left or not free:
            break
        there: dict[tuple[object, ...], deque[int]] = defaultdict(deque)
        for position in free:
            there[_told(found[position], names)].append(position)
        unpaired = []
        for position in left:
            told = _told(wanted[position], names)
            if all(told) and there.get(told):
                pairs.append((position, there[told].popleft()))
            else:
                unpaired.append(position)
        left = unpaired
        taken = {position for _, position in pairs}
        free = [position for position in free if position not in taken]
    return pairs


def _told(mark: Mark, names: tuple[str, ...]) -> tuple[object, ...]:
    """Its values; one that is not known is no agreement, and no flags are flags."""
    values = (getattr(mark, name) for name in names)
    return tuple((value,) if isinstance(value, frozenset) else value for value in values)
