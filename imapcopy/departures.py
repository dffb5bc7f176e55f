"""Tells which of the messages that have left their folders at the source were moved, and which deleted."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from models.ledger import Ledger
from models.uid_sets import parse_uids


class Departure(NamedTuple):
    """A message that was brought over and is no longer where it was at the source."""

    folder_id: int
    source_uid: int
    digest: bytes


def moved_away(left: Iterable[Departure], standing: Iterable[bytes]) -> list[Departure]:
    """Those that stand elsewhere now: as many of a digest as there are messages with it that stay behind. Pure.

    Copies that followed are not among those that have left: the ledger knows them in their new place.
    """
    free = Counter(standing)
    found = []
    for each in left:
        if free[each.digest] > 0:
            free[each.digest] -= 1
            found.append(each)
    return found


def tell_moved_from_deleted(ledger: Ledger) -> None:
    """Note which of the messages that have left their folders are elsewhere now, without their copies."""
    rows = {row.id or 0: row for row in ledger.folders(superseded=True)}
    standing = [digest for *_, digest in ledger.moved_issues([i for i, row in rows.items() if not row.superseded])]
    left: list[Departure] = []
    strayed: dict[int, set[int]] = {i: set() for i, row in rows.items() if row.strayed}
    # One folder at a time: all that a large mailbox consists of has no room in memory.
    for folder_id in (i for i, row in rows.items() if row.gone and standing):
        gone = set(parse_uids(rows[folder_id].gone))
        entries = (entry for batch in ledger.batches(folder_id) for entry in batch.entries)
        left += [Departure(folder_id, e.source_uid, e.digest) for e in entries if e.source_uid in gone]
    found: dict[int, set[int]] = defaultdict(set, strayed)
    for each in moved_away(left, standing):
        found[each.folder_id].add(each.source_uid)
    ledger.note_strayed({i: uids for i, uids in found.items() if uids != set(parse_uids(rows[i].strayed))})
