"""Flags of a batch's messages as the ledger keeps them: a line for each flag, with the places that have it.

`\\Seen 1:200` and `$Project 3,7` say which of the batch's messages, counted from 1, had the flag at the source when it
was last carried over. Most messages of a batch have the same flags, so this takes few octets.
"""

from collections import defaultdict
from collections.abc import Iterable

from models.uid_sets import format_uids, parse_uids

Flags = frozenset[str]


def format_flags(flags: Iterable[Flags]) -> str:
    """Write the flags of messages in their order."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, some in enumerate(flags, start=1):
        for flag in some:
            places[flag].append(place)
    return "\n".join(f"{flag} {format_uids(where)}" for flag, where in sorted(places.items()))


def parse_flags(text: str, count: int) -> list[Flags]:
    """Read the flags of so many messages."""
    found: list[tuple[str, ...]] = [()] * count
    for line in text.split("\n") if text else ():
        flag, _, where = line.rpartition(" ")
        for place in parse_uids(where):
            found[place - 1] = (*found[place - 1], flag)
    # A mailbox has few sets of flags and many messages: each is made once and shared.
    sets = {some: frozenset(some) for some in set(found)}
    return [sets[some] for some in found]
