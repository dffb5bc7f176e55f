"""UID sets in IMAP's notation (RFC 9051 sequence-set): `3:7,9` is 3 4 5 6 7 9.

The ledger keeps them in append order, so `9,3:7` is another value than `3:7,9`; a command gets them ascending.
"""

from collections.abc import Iterable, Iterator


def format_uids(uids: Iterable[int]) -> str:
    """Write UIDs in their own order, runs of consecutive ones as `first:last`."""
    return ",".join(str(first) if first == last else f"{first}:{last}" for first, last in _runs(uids))


def parse_uids(text: str) -> list[int]:
    """Read a set in its own order; `7:3` counts as `3:7` (RFC 9051 section 9)."""
    uids: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition(":")
        low, high = int(first), int(last or first)
        uids.extend(range(min(low, high), max(low, high) + 1))
    return uids


def _runs(uids: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for uid in uids:
        if first is None or last is None:
            first = last = uid
        elif uid == last + 1:
            last = uid
        else:
            yield first, last
            first = last = uid
    if first is not None and last is not None:
        yield first, last
