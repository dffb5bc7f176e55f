"""Lets copies follow what happened at the source after they were made: mail that was moved, flags that were changed.

A message that turns up in another folder with the digest of one that has left its own was moved. Its copy is moved
too, where nobody has touched it; else it stays where it is, and the message becomes an issue that says so. Flags are
only added or taken away as they were at the source: what the member did at the target stays.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache
from typing import NamedTuple

from imapcopy import fates
from imapcopy.deliver import Delivery
from imapcopy.errors import HOST_BUSY, FolderError, MigrationError, Refused, is_of_the_folder
from imapcopy.fates import Copy, Fate, Situation, Source, fate
from imapcopy.folders import Folder
from imapcopy.grammar import encode_mailbox
from imapcopy.plan import Envelope
from imapcopy.responses import FolderStatus, sendable_flags
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.target_connection import TargetConnection
from imapcopy.twins import AGREEMENTS_OF_MOVES, Mark, folded, pair
from imapcopy.verify import Bare
from models.flag_sets import Flags
from models.ledger import Ledger
from models.ledger_rows import MOVED, BatchRecord, BatchState, Entry, FolderCopy, GivenUp, Settled
from models.uid_sets import parse_uids

_DELETED = frozenset({"\\Deleted"})
"""A deletion at the source is never carried over, and so is no mark for one."""


@dataclass(frozen=True, slots=True)
class Left:
    """A message that was brought over and is no longer where it was at the source."""

    folder_id: int
    target_name: str
    target_uidvalidity: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Returned:
    """A message that has the digest of one that has left."""

    envelope: Envelope
    digest: bytes


class Condition(IntEnum):
    """How a copy was found at the target, the one that may follow first."""

    UNTOUCHED = 0
    TOUCHED = 1
    ABSENT = 2


class Departed:
    """What has left its place at the source since it was brought over, by digest: each stands for one message.

    `standing` are digests of messages that stayed behind before, because of what became of such a copy.
    """

    def __init__(self, left: Iterable[Left] = (), standing: Iterable[bytes] = ()) -> None:
        self._left: dict[bytes, list[Left]] = defaultdict(list)
        for each in left:
            self._left[each.entry.digest].append(each)
        self._standing = Counter(standing)

    def free(self, digest: bytes) -> int:
        """For how many messages with that digest they may stand."""
        return max(0, len(self.of(digest)) - self._standing[digest])

    def of(self, digest: bytes) -> Sequence[Left]:
        return self._left.get(digest, ())

    def take(self, left: Left) -> None:
        """It stands for a message now."""
        self._left[left.entry.digest].remove(left)


def find_departed(
    source: SourceConnection,
    target: TargetConnection,
    listed: Mapping[str, Folder],
    statuses: Mapping[bytes, FolderStatus],
    ledger: Ledger,
    scanned: Mapping[int, Collection[int]],
) -> Departed:
    """Compare the ledger with the source; of the folders that are not `scanned` (source UIDs, by ledger id) already,
    only those are looked at that may have lost something since their last pass.
    """
    every = ledger.folders(superseded=True)
    rows = {row.id or 0: row for row in every if row.superseded or has_known(row)}
    current = {row.source_name for row in every if not row.superseded}
    there: dict[int, Collection[int]] = {}
    gone: dict[int, Collection[int]] = {}
    doubtful: dict[bytes, list[int]] = defaultdict(list)
    for folder_id, row in rows.items():
        folder = listed.get(row.source_name)
        status = statuses.get(folder.raw) if folder else None
        if folder_id in scanned:
            there[folder_id] = scanned[folder_id]
        elif folder is None or not folder.selectable or _is_replaced(row, status, current):
            there[folder_id] = ()
        elif status:
            if may_have_lost(row.settled, status):
                doubtful[folder.raw].append(folder_id)
            else:
                gone[folder_id] = set(parse_uids(row.gone))
    for folder, survey in source.survey([listed[rows[ids[0]].source_name] for ids in doubtful.values()], statuses):
        for folder_id in doubtful[folder.raw]:
            # A folder that cannot be opened, or is another one now, is told by its own pass.
            if isinstance(survey, Surveyed) and survey.opened.uidvalidity == rows[folder_id].source_uidvalidity:
                if survey.hidden:
                    # What is not told may be one of them.
                    gone[folder_id] = set(parse_uids(rows[folder_id].gone))
                else:
                    there[folder_id] = {envelope.uid for envelope in survey.scan}

    def has_left(folder_id: int, uid: int) -> bool:
        return uid in gone[folder_id] if folder_id in gone else uid not in there[folder_id]

    left = [
        Left(folder_id, rows[folder_id].target_name, rows[folder_id].target_uidvalidity, entry)
        for folder_id, batches in ledger.batches_of([*there, *gone]).items()
        for batch in batches
        if batch.state != BatchState.INTENDED
        for entry in batch.entries
        if has_left(folder_id, entry.source_uid)
    ]
    issues = ledger.moved_issues([each for each in (*there, *gone) if not rows[each].superseded])
    standing = [digest for folder_id, uid, digest in issues if not has_left(folder_id, uid)]
    return Departed(_known_there(target, left), standing)


def has_known(row: FolderCopy) -> bool:
    """Whether the ledger knows messages of a folder."""
    return bool(row.copied or row.already_there or row.gone or row.issues)


def _is_replaced(row: FolderCopy, status: FolderStatus | None, current: Collection[str]) -> bool:
    """Whether what a row knows has other UIDs now: another folder has its name, or stands in its place."""
    if row.superseded and row.source_name in current:
        return True
    return status is not None and status.uidvalidity != row.source_uidvalidity


def _known_there(target: TargetConnection, left: Sequence[Left]) -> list[Left]:
    """Those whose copies can be told by their UIDs; where the target has numbered anew, nothing is known of them."""
    statuses = target.statuses(encode_mailbox(name) for name in sorted({each.target_name for each in left}))

    @cache
    def opened_as(name: str) -> int:
        # It may be one that says nothing.
        with suppress(FolderError):
            return target.select(name).uidvalidity
        return 0

    def is_known(each: Left) -> bool:
        status = statuses.get(encode_mailbox(each.target_name))
        if status is None or status.uidvalidity == each.target_uidvalidity:
            return True
        return opened_as(each.target_name) == each.target_uidvalidity

    return [each for each in left if is_known(each)]


def may_have_lost(settled: str, status: FolderStatus) -> bool:
    """Whether a message may have left a folder since its last pass: no more can have come than UIDs were given."""
    before = json.loads(settled) if settled else {}
    return has_lost(before.get("messages", 0), before.get("uidnext", 0), status)


def has_lost(messages: int, uidnext: int, status: FolderStatus) -> bool:
    """Whether a message may have left a folder since it had so many and that UIDNEXT, 0 for unknown."""
    if not (status.uidnext and uidnext):
        return True
    return status.messages - messages < status.uidnext - uidnext


class Following:
    """Decides and carries out what becomes of the copies of moved messages, for some folders of one mailbox."""

    def __init__(
        self, target: TargetConnection, ledger: Ledger, departed: Departed, deliveries: Iterable[Delivery]
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._departed = departed
        self._deliveries = {delivery.folder_id: delivery for delivery in deliveries}
        self.moved: Counter[int] = Counter()
        """Copies that followed, by ledger id of the folder where they are now."""
        self.left_over = False
        """Some have no copy: there are more of them than have left."""
        self._unavailable: dict[str, MigrationError] = {}
        """Target folders that cannot be opened now."""

    def follow(self, returned: Mapping[int, Sequence[Returned]]) -> dict[int, list[GivenUp]]:
        """Let copies follow their messages, which are given by ledger id of their folder.

        What stays behind is returned in the same way, for the caller to commit; what has no copy at all is to be sent.
        """
        copies = self._look({each.digest for some in returned.values() for each in some})
        paired = self._paired(returned, copies)
        stays: dict[int, list[GivenUp]] = defaultdict(list)
        moves: dict[tuple[str, int], dict[Left, Returned]] = defaultdict(dict)
        rebound: dict[int, dict[Left, Returned]] = defaultdict(dict)
        through: dict[int, set[int]] = defaultdict(set)
        """What has left folders that this pass is through with, or has left out, by ledger id."""
        for folder_id, some in returned.items():
            delivery = self._deliveries[folder_id]
            for each in some:
                if (left := paired.get((folder_id, each.envelope.uid))) is None:
                    self.left_over = True
                    continue
                condition = _condition(left, each, copies)
                copy = self._fares(left, condition, delivery)
                end = fate(Situation(Source.TOLD, copy=Copy.ABSENT, departed=copy))
                if end == Fate.WAIT:
                    delivery.failed = self._unavailable[left.target_name]
                    break
                if end == Fate.REBIND:
                    rebound[folder_id][left] = each
                elif end == Fate.MOVE:
                    moves[left.target_name, folder_id][left] = each
                else:
                    stays[folder_id].append(_stays(each, left, condition))
                    if left.folder_id not in self._deliveries:
                        through[left.folder_id].add(left.entry.source_uid)
        self._ledger.depart(through)
        if rebound:
            self._rebind(rebound)
        for (origin, folder_id), pairs in moves.items():
            try:
                stays[folder_id] += self._move(origin, self._deliveries[folder_id], pairs)
            except MigrationError as error:
                if not is_of_the_folder(error):
                    raise
                self._deliveries[folder_id].failed = error
        return stays

    def _fares(self, left: Left, condition: Condition, into: Delivery) -> fates.Departed:
        """How the copy of a departed message fares, for one that has turned up in the folder of a delivery."""
        if left.target_name in self._unavailable:
            return fates.Departed.UNTOLD
        if condition == Condition.ABSENT:
            return fates.Departed.REMOVED
        if _is_in(left, into):
            return fates.Departed.IN_PLACE
        movable = condition == Condition.UNTOUCHED and self._target.can_move
        return fates.Departed.MOVABLE if movable else fates.Departed.FIXED

    def tidy(self, arrived: Iterable[Entry]) -> None:
        """Forget what a run that died, or the member, had moved: it is known in its new place, and nowhere else."""
        digests = Counter(entry.digest for entry in arrived)
        copies = self._look(digests)
        absent: list[Left] = []
        for digest, count in digests.items():
            some = sorted(self._departed.of(digest), key=lambda left: copies[left] is not None)
            absent += [left for left in some[: min(count, self._departed.free(digest))] if copies[left] is None]
        absent = [left for left in absent if left.target_name not in self._unavailable]
        for left in absent:
            self._departed.take(left)
        if absent:
            self._commit([], {}, absent)

    def _paired(self, returned: Mapping[int, Sequence[Returned]], copies: "_Copies") -> dict[tuple[int, int], Left]:
        """Which copy stands for which message, by folder and source UID: of twins each for its own."""
        twins: dict[bytes, list[tuple[int, Returned]]] = defaultdict(list)
        for folder_id, some in returned.items():
            for each in some:
                twins[each.digest].append((folder_id, each))
        found = {}
        for digest, equal in twins.items():
            # One that nobody has touched first: it may follow.
            left = sorted(self._departed.of(digest), key=lambda each: _condition(each, None, copies))
            marks = [_mark(each.envelope, each.envelope.flags, self._deliveries[i].name) for i, each in equal]
            there = [_mark(copies[each], each.entry.flags, each.target_name) for each in left]
            for one, other in pair(marks, there, AGREEMENTS_OF_MOVES)[: self._departed.free(digest)]:
                folder_id, message = equal[one]
                found[folder_id, message.envelope.uid] = left[other]
        for taken in found.values():
            self._departed.take(taken)
        return found

    def _look(self, digests: Collection[bytes]) -> "_Copies":
        """See how the copies fare that may be asked for."""
        by_folder: dict[tuple[str, int], list[Left]] = defaultdict(list)
        for digest in digests:
            for left in self._departed.of(digest):
                by_folder[left.target_name, left.target_uidvalidity].append(left)
        found: _Copies = {}
        for (name, uidvalidity), some in by_folder.items():
            there: dict[int, Envelope] = {}
            keywords: frozenset[str] | None = None
            try:
                opened = self._target.select(name)
                if opened.uidvalidity == uidvalidity:
                    keywords = opened.keywords
                    there = {e.uid: e for e in self._target.scan_uids(left.entry.target_uid for left in some)}
            except MigrationError as error:
                if not is_of_the_folder(error):
                    raise
                if error.cause_id != "folder_missing":
                    self._unavailable[name] = error
            for left in some:
                copy = there.get(left.entry.target_uid)
                found[left] = _Copy(copy, keywords) if copy else None
        return found

    def _rebind(self, rebound: Mapping[int, Mapping[Left, Returned]]) -> None:
        """The copy lies in the right folder already: its message only has another UID."""
        entries = {
            folder_id: [_under(left.entry, each) for left, each in pairs.items()]
            for folder_id, pairs in rebound.items()
        }
        self._commit([], entries, [left for pairs in rebound.values() for left in pairs])

    def _move(self, origin: str, into: Delivery, pairs: Mapping[Left, Returned]) -> list[GivenUp]:
        """Move copies from one folder into another; returns what could not be moved."""
        opened = self._target.select(origin)
        if any(left.target_uidvalidity != opened.uidvalidity for left in pairs):
            raise FolderError("folder_missing", "target", "UIDVALIDITY changed", where=origin)
        entries = {left.entry.target_uid: _under(left.entry, each) for left, each in pairs.items()}
        settled = into.move_here(entries, {each.envelope.uid: each.envelope for each in pairs.values()})
        moved = {entry.source_uid for entry in settled.arrived}
        self.moved[into.folder_id] += len(moved)
        self._commit([settled], {}, [left for left, each in pairs.items() if each.envelope.uid in moved])
        return [
            _stays(each, left, Condition.UNTOUCHED) for left, each in pairs.items() if each.envelope.uid not in moved
        ]

    def _commit(self, settled: Sequence[Settled], rebound: Mapping[int, Sequence[Entry]], left: Iterable[Left]) -> None:
        gone: dict[int, set[int]] = defaultdict(set)
        for each in left:
            gone[each.folder_id].add(each.entry.source_uid)
        batches = self._ledger.follow(settled, rebound, gone)
        for folder_id, source_uids in gone.items():
            if folder_id in self._deliveries:
                self._deliveries[folder_id].forget(source_uids)
        for folder_id, batch_id in batches.items():
            self._deliveries[folder_id].note_adopted(batch_id, rebound[folder_id])


class _Copy(NamedTuple):
    """A copy as it was found, and the keywords that its folder allows."""

    envelope: Envelope
    keywords: frozenset[str] | None


_Copies = dict[Left, _Copy | None]
"""None for a copy that is not there."""


def _mark(found: Envelope | _Copy | None, flags: Flags, place: str) -> Mark:
    """What tells it from its twins; `flags` are those at the source when they were last carried over."""
    envelope = found.envelope if isinstance(found, _Copy) else found
    if envelope is None:
        return Mark(flags=folded(flags))
    return Mark(envelope.arrived, folded(flags), envelope.size, place=place)


def _is_in(left: Left, delivery: Delivery) -> bool:
    return (left.target_name, left.target_uidvalidity) == (delivery.name, delivery.uidvalidity)


def _under(entry: Entry, returned: Returned) -> Entry:
    """The copy, standing for the message in its new place; its flags are still those carried over before."""
    return replace(entry, source_uid=returned.envelope.uid)


def _stays(returned: Returned, left: Left, condition: Condition) -> GivenUp:
    place = "" if condition == Condition.ABSENT else left.target_name
    envelope = returned.envelope
    return GivenUp(envelope.uid, MOVED, place, envelope.size, envelope.arrived, returned.digest)


def _condition(left: Left, returned: Returned | None, copies: _Copies) -> Condition:
    """How a copy fares; one that has the message's present flags hides no act of the member."""
    if (found := copies[left]) is None:
        return Condition.ABSENT
    ours = [left.entry.flags, left.entry.flags - _DELETED]
    if returned and returned.envelope.flags_told:
        ours.append(returned.envelope.flags)
    alike = [_folded(sendable_flags(some, found.keywords)) for some in ours]
    untouched = found.envelope.flags_told and _folded(found.envelope.flags) in alike
    return Condition.UNTOUCHED if untouched else Condition.TOUCHED


@dataclass(frozen=True, slots=True)
class FlagChange:
    """What is to be added and taken away."""

    add: Flags
    remove: Flags

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


def flag_changes(
    recorded: Iterable[BatchRecord], scan: Mapping[int, Envelope], keywords: frozenset[str] | None
) -> dict[FlagChange, list[Entry]]:
    """What changed at the source since it was last carried over, as far as the target can have it. Pure.

    The entries have the source's present flags.
    """
    found: dict[FlagChange, list[Entry]] = defaultdict(list)
    for batch in recorded:
        for entry in batch.entries if batch.state != BatchState.INTENDED else ():
            now = scan.get(entry.source_uid)
            if now is not None and now.flags_told and now.flags != entry.flags:
                add = sendable_flags(_beyond(now.flags, entry.flags), keywords) - _DELETED
                remove = sendable_flags(_beyond(entry.flags, now.flags), keywords) - _DELETED
                found[FlagChange(add, remove)].append(replace(entry, flags=now.flags))
    return found


def carry_flags(
    target: TargetConnection, ledger: Ledger, delivery: Delivery, changes: Mapping[FlagChange, Sequence[Entry]]
) -> set[int]:
    """Change flags at the target, and commit it; returns the source UIDs of what has them not, read from there."""
    refused: set[int] = set()
    if any(changes):
        delivery.look_up.opened()
        for change, entries in changes.items():
            # Another runner may have taken over, and the member may have changed them since.
            ledger.keep_lease()
            refused |= _carry(target, change, {entry.target_uid: entry.source_uid for entry in entries})
    delivery.note_flags({entry.source_uid: entry.flags for entries in changes.values() for entry in entries})
    return refused


def restore_flags(target: TargetConnection, ledger: Ledger, delivery: Delivery, bare: Mapping[int, Bare]) -> set[int]:
    """Set flags that a server ignored when it stored the messages; returns the UIDs of those that have all of theirs.

    Only adds: what the member has set meanwhile stays.
    """
    delivery.look_up.opened()
    alike: dict[Flags, list[int]] = defaultdict(list)
    for uid, each in bare.items():
        alike[each.missing].append(uid)
    # The rarest first: what is left after a crash is told by its number to be the server's doing.
    for flags, uids in sorted(alike.items(), key=lambda item: len(item[1])):
        ledger.keep_lease()
        _store(target, flags, uids, add=True)
    return {e.uid for e in target.scan_uids(bare) if _folded(e.flags) == _folded(bare[e.uid].expected)}


def _store(target: TargetConnection, flags: Flags, uids: Collection[int], *, add: bool) -> None:
    try:
        target.store(uids, flags, add=add)
    except Refused as refused:
        # What is not as it should be afterwards is counted; a busy server gets it with the next pass.
        if (failure := target.failure(refused, "append")).cause_id in HOST_BUSY:
            raise failure from None


def _carry(target: TargetConnection, change: FlagChange, uids: Mapping[int, int]) -> set[int]:
    """`uids` are source UIDs by those at the target."""
    for flags, add in ((change.add, True), (change.remove, False)):
        if flags:
            _store(target, flags, uids, add=add)
    if not change:
        return set()
    found = target.scan_uids(uids)
    return {
        uids[e.uid]
        for e in found
        if not e.flags_told or not _folded(change.add) <= _folded(e.flags) or change.remove & e.flags
    }


def _beyond(some: Flags, others: Flags) -> Flags:
    """What only the first have. Folders may write the same keyword in different cases, and a message may have moved."""
    folded = _folded(others)
    return frozenset(flag for flag in some if flag.lower() not in folded)


def _folded(flags: Flags) -> Flags:
    return frozenset(flag.lower() for flag in flags)
