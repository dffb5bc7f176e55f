"""Re-reads the target and compares it with the ledger and the source: success is what is found there.

OK, counts and sizes are no proof (Cyrus overwrites 8-bit header octets at equal size, Courier serves truncated bodies
with an agreeing size). Every recorded message is looked for under its UID and compared in size, date and flags; those
that some server is known to alter or of which that is not known, those whose size differs, and a random sample are
fetched back and compared by digest. `deep` reads back all, also what was adopted, and looks for what is there twice.
"""

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from imapcopy import distant
from imapcopy.account import Account
from imapcopy.arrival import Arrival, is_kept_everywhere
from imapcopy.distant import identified, is_large
from imapcopy.endpoint import Endpoint, source_endpoint, target_endpoint
from imapcopy.errors import (
    HOST_BUSY,
    ConnectionLost,
    FolderError,
    MessageError,
    MigrationError,
    Refused,
    is_of_the_folder,
)
from imapcopy.flight import Fetched, FetchRequest
from imapcopy.folders import Folder
from imapcopy.grammar import encode_mailbox
from imapcopy.identity import Identification, alteration, alteration_of_repaired, digest
from imapcopy.look_up import fingerprints
from imapcopy.plan import GROUPING, Envelope, Grouping, batches, falls_short, groups
from imapcopy.responses import Message, sendable_flags
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.target_connection import TargetConnection
from models.ledger import Ledger
from models.ledger_rows import BatchKind, BatchRecord, BatchState, Entry, FolderCopy
from models.probe import Known

SAMPLE_SHARE = 0.02
SAMPLE_LEAST = 3
_DELETED = frozenset({"\\Deleted"})
SCAN_UIDS = 5000
"""So many are asked for at once: scattered ones make long commands."""
CHUNK_MESSAGES = 100
CHUNK_BYTES = 4 << 20


class Bare(NamedTuple):
    """A message without some of its flags: those that are missing, and all that it should have."""

    missing: frozenset[str]
    expected: frozenset[str]


@dataclass(slots=True)
class Verdict:
    """What re-reading found: messages that are not there, and which the server altered in which way."""

    folder: str = ""
    """At the source."""
    lost: set[int] = field(default_factory=set)
    """Source UIDs."""
    alterations: dict[str, set[int]] = field(default_factory=partial(defaultdict, set))
    """Source UIDs by what was altered."""
    doubled: Counter[int] = field(default_factory=Counter)
    """Second copies at the target, by source UID of what they are copies of."""
    checked: int = 0
    read_back: int = 0
    failure: MigrationError | None = None
    """Why the folder could not be read: nothing else is said of it."""
    bare: dict[int, Bare] = field(default_factory=dict)
    """Messages that the server stored without flags that it ignores when it stores, by target UID."""
    source: int = 0
    """How many messages the source counts now."""
    hidden: int = 0
    """How many of them it does not show."""

    @property
    def altered(self) -> Counter[str]:
        """The same in numbers."""
        return +Counter(
            {name: len(uids) for name, uids in self.alterations.items()} | {"doubled": self.doubled.total()}
        )

    def note(self, name: str, uid: int) -> None:
        self.alterations[name].add(uid)

    def by_message(self) -> dict[int, list[str]]:
        """What was found of each message by source UID: `missing`, or what was altered."""
        found: dict[int, list[str]] = {uid: ["missing"] for uid in self.lost}
        for name, uids in (*sorted(self.alterations.items()), ("doubled", self.doubled)):
            for uid in uids:
                found.setdefault(uid, []).append(name)
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class Delivered:
    """What this run knows of what it sent, by source UID."""

    sizes: Mapping[int, int] = field(default_factory=dict)
    """Octets of each message that this run has read: of others nobody knows any more what a server may alter."""
    hazardous: Collection[int] = ()
    """Those of them that are worth reading back."""
    keywords_dropped: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Keywords that were left out because the target refused them."""
    arrivals: Mapping[int, Arrival] = field(default_factory=dict)
    """What was told of messages whose moment of arrival is not the source's."""


@dataclass(frozen=True, slots=True)
class Due:
    """One folder to be verified: batches of the ledger, and the source folder's scan by UID.

    `delivered` is None when no run has just sent anything.
    """

    source: Folder | None
    target_name: str
    target_uidvalidity: int
    recorded: Sequence[BatchRecord]
    scan: Mapping[int, Envelope]
    delivered: Delivered | None = None
    claimed: Collection[int] = ()
    """Target UIDs that stand for a message of any source folder."""
    known: Known = field(default_factory=Known)
    """What a probe has found out about the target."""
    hidden: int = 0
    """Messages that the source counts and that are not in the scan, because it does not show them."""

    @property
    def entries(self) -> list[tuple[BatchKind, Entry]]:
        return [(batch.kind, entry) for batch in self.recorded for entry in batch.entries]


def verify_mailbox(
    source: Account, target: Account, ledger: Ledger, *, deep: bool, grouping: Grouping = GROUPING
) -> Iterator[Verdict]:
    """Re-read every folder of a mailbox that the ledger knows, some folders at a time; writes nothing."""
    with source_endpoint(source) as from_source, target_endpoint(target) as to_target:
        known = {folder.name: folder for folder in from_source.again(SourceConnection.listing).folders}
        for group in groups(ledger.folders(), lambda row: row.copied + row.already_there, grouping):
            yield from _verdicts(group, ledger, known, from_source, to_target, deep=deep)


def _verdicts(
    group: Sequence[FolderCopy],
    ledger: Ledger,
    known: Mapping[str, Folder],
    source: Endpoint[SourceConnection],
    target: Endpoint[TargetConnection],
    *,
    deep: bool,
) -> Iterator[Verdict]:
    verdicts = verify_folders(source, target, _dues(group, ledger, source, known), deep=deep, flags=False)
    for row, (due, verdict) in zip(group, verdicts, strict=True):
        if not isinstance(verdict, MigrationError):
            told = verdict
        elif verdict.cause_id == "folder_missing":
            # Gone, or another folder under the same name: none of the recorded UIDs means anything in it.
            lost = {entry.source_uid for _, entry in due.entries}
            told = Verdict(lost=lost, checked=len(due.entries))
        elif is_of_the_folder(verdict):
            told = Verdict(failure=verdict)
        else:
            raise verdict
        told.folder, told.source, told.hidden = row.source_name, len(due.scan) + due.hidden, due.hidden
        yield told


def _dues(
    group: Sequence[FolderCopy], ledger: Ledger, source: Endpoint[SourceConnection], known: Mapping[str, Folder]
) -> list[Due]:
    recorded = ledger.batches_of([row.id or 0 for row in group])
    claimed = ledger.claimed_target_uids([row.target_name for row in group])
    scans: dict[tuple[str, int], Mapping[int, Envelope]] = {}
    hidden: dict[tuple[str, int], int] = {}
    folders = [known[row.source_name] for row in group if row.source_name in known]
    for folder, survey in source.each(folders, SourceConnection.survey):
        if isinstance(survey, Surveyed):
            scans[folder.name, survey.opened.uidvalidity] = {e.uid: e for e in survey.scan}
            hidden[folder.name, survey.opened.uidvalidity] = len(survey.hidden)
        elif not is_of_the_folder(survey):
            raise survey
    return [
        Due(
            source=known.get(row.source_name),
            target_name=row.target_name,
            target_uidvalidity=row.target_uidvalidity,
            recorded=[batch for batch in recorded[row.id or 0] if batch.state != BatchState.INTENDED],
            scan=scans.get((row.source_name, row.source_uidvalidity), {}),
            claimed=claimed.get((row.target_name, row.target_uidvalidity), ()),
            hidden=hidden.get((row.source_name, row.source_uidvalidity), 0),
        )
        for row in group
    ]


def verify_folders(
    source: Endpoint[SourceConnection],
    target: Endpoint[TargetConnection],
    dues: Iterable[Due],
    *,
    deep: bool = False,
    flags: bool = True,
) -> Iterator[tuple[Due, Verdict | MigrationError]]:
    """Compare batches with what the target holds, many folders in flight; a folder that cannot be read is its error.

    `flags` only right after the copy: later they are the member's own. Where a session ends, the next one goes on.
    """
    numbering = target.connection.numbering
    comparisons = [
        # UIDs that no UIDVALIDITY vouches for prove nothing by themselves.
        _Comparison(due, deep=deep, flags=flags, all_read=numbering.is_restless(encode_mailbox(due.target_name)))
        for due in dues
    ]
    claimed: dict[str, set[int]] = defaultdict(set)
    for due in (comparison.due for comparison in comparisons):
        claimed[due.target_name].update(due.claimed, (entry.target_uid for _, entry in due.entries))
    looks = [(comparison, request) for comparison in comparisons for request in comparison.requests()]

    def ask(connection: TargetConnection, left: Sequence[int]) -> Iterator[tuple[int, Fetched]]:
        answers = connection.look_back(looks[number][1] for number in left)
        # In this order, so that the answers are read to their end.
        for fetched, number in zip(answers, left, strict=False):
            # Of messages those that came count, and the others are doubtful; of a scan only all of it tells anything.
            if not fetched.cut_short or (fetched.messages and not fetched.request.scan):
                yield number, fetched

    for number, fetched in target.each(range(len(looks)), ask):
        comparison = looks[number][0]
        if not comparison.failure:
            try:
                comparison.take(fetched, target.connection)
            except ConnectionLost:
                raise
            except MigrationError as error:
                comparison.failure = error
    for comparison in comparisons:
        verdict: Verdict | MigrationError
        try:
            verdict = _concluded(comparison, source, target, claimed[comparison.due.target_name])
        except ConnectionLost:
            raise
        except MigrationError as error:
            verdict = error
        yield comparison.due, verdict


def _concluded(
    comparison: "_Comparison",
    source: Endpoint[SourceConnection],
    target: Endpoint[TargetConnection],
    claimed: Collection[int],
) -> Verdict:
    """The verdict, over as many sessions of either side as each of them, or smaller requests, get on with."""
    in_vain = -1
    """The first session has been in use."""
    while True:
        left = comparison.left
        try:
            return comparison.conclude(source.connection, target.connection, claimed)
        except ConnectionLost as lost:
            in_vain = 0 if comparison.left < left or comparison.ask_for_less() else in_vain + 1
            end: Endpoint[Any] = source if lost.side == "source" else target
            if lost.cause_id in HOST_BUSY or (in_vain > 0 and not end.may_go_on(lost, in_vain)):
                raise
        target.check_stop()
        # Answers to the other side's commands may still be under way.
        source.forget()
        target.forget()


class _Comparison:
    """What the ledger says of one folder against what its target holds."""

    def __init__(self, due: Due, *, deep: bool, flags: bool, all_read: bool = False) -> None:
        self.due = due
        self.failure: MigrationError | None = None
        self._deep = deep
        # What was verified before may have got other flags since: those are the member's own.
        self._fresh = {
            entry.target_uid
            for batch in due.recorded
            if flags and batch.state != BatchState.VERIFIED
            for entry in batch.entries
        }
        self._entries = due.entries
        self._verdict = Verdict(checked=len(self._entries))
        delivered = due.delivered or Delivered()
        self._otherwise = {*delivered.keywords_dropped, *delivered.arrivals}
        """Source UIDs of messages that went out otherwise than they are at the source."""
        chosen = [entry for _, entry in self._entries] if all_read else self._chosen()
        self._unread = {entry.target_uid: entry for entry in chosen}
        self._by_target: dict[int, list[tuple[BatchKind, Entry]]] = defaultdict(list)
        for kind, entry in self._entries:
            self._by_target[entry.target_uid].append((kind, entry))
        self._chunk_messages = CHUNK_MESSAGES
        self._doubtful: dict[int, Entry] = {}
        """To be read (once more) together with the source's bytes."""
        self._kept: set[frozenset[str]] = set()
        """Flags that messages have as they were sent."""
        self._stored: dict[int, Envelope] = {}
        self._keywords: frozenset[str] | None = None
        self._numbered_anew = False
        """The folder has another UIDVALIDITY than the ledger knows."""
        self._untold: list[int] = []
        """Target UIDs of which the first look told nothing."""
        self._digests: dict[int, bytes] = {}
        """Of what is stored, where it is not what was sent."""

    def _chosen(self) -> list[Entry]:
        """What is to be read back in any case."""
        if self._deep:
            return [entry for _, entry in self._entries]
        # What was adopted is not ours: its content was compared then, its flags belong to the member.
        ours = [entry for kind, entry in self._entries if kind == BatchKind.COPIED]
        risky = [entry for entry in ours if self._is_risky(entry)]
        chosen = {entry.source_uid for entry in risky}
        return risky + _sample([entry for entry in ours if entry.source_uid not in chosen])

    def _is_risky(self, entry: Entry) -> bool:
        """Whether neither its size nor its kind vouches for a message."""
        if self._size(entry) is None:
            return True
        delivered = self.due.delivered
        if delivered is None:
            return False
        return entry.source_uid not in delivered.sizes or entry.source_uid in delivered.hazardous

    def requests(self) -> Iterator[FetchRequest]:
        """What is asked for in any case: a scan, and the chosen messages in pieces that memory can hold."""
        raw = encode_mailbox(self.due.target_name)
        every = sorted(entry.target_uid for _, entry in self._entries)
        for start in range(0, max(len(every), 1), SCAN_UIDS):
            yield FetchRequest(raw, [], 0, every[start : start + SCAN_UIDS], anew=not start)
        uids: list[int] = []
        octets = 0
        for uid, entry in sorted(self._unread.items()):
            size = self._size(entry) or 0
            if size > distant.LARGE_BYTES:
                # Read at the end, piece by piece.
                continue
            if uids and (octets + size > CHUNK_BYTES or len(uids) >= CHUNK_MESSAGES):
                yield FetchRequest(raw, uids, octets)
                uids, octets = [], 0
            uids.append(uid)
            octets += size
        if uids:
            yield FetchRequest(raw, uids, octets)

    def take(self, fetched: Fetched, target: TargetConnection) -> None:
        """Compare what came of the first look."""
        name = self.due.target_name
        if fetched.failure:
            raise fetched.failure
        if fetched.refused:
            # Nothing may be concluded from what is missing.
            failure = target.failure(fetched.refused, "fetch", name)
            reach = FolderError if isinstance(failure, MessageError) else type(failure)
            raise failure.told_as(reach, where=name)
        if fetched.uidvalidity != self.due.target_uidvalidity:
            self._numbered_anew = True
            return
        if fetched.request.scan:
            self._take_scan(fetched)
        for message in fetched.messages:
            if message.raw is not None and message.uid in self._unread:
                entry = self._unread.pop(message.uid)
                if digest(message.raw) == entry.digest and self._size(entry) in (None, len(message.raw)):
                    self._verdict.read_back += 1
                else:
                    # Not kept: they may be many and large, and are compared in pieces at the end.
                    self._doubtful[message.uid] = entry

    def _take_scan(self, fetched: Fetched) -> None:
        self._keywords = fetched.keywords
        stored = {envelope.uid: envelope for envelope in fetched.scan}
        self._take_stored(fetched.request.scan, stored)

    def _take_stored(self, uids: Iterable[int], stored: Mapping[int, Envelope]) -> None:
        self._stored.update(stored)
        for uid in uids:
            if uid not in stored:
                self._untold.append(uid)
                continue
            for kind, entry in self._by_target[uid]:
                if kind == BatchKind.COPIED:
                    self._compare(entry, stored[uid], self._keywords)

    def _find_untold(self, target: TargetConnection) -> None:
        """What was not told is absent only if the folder shows as many messages as it counts."""
        counted = target.count(target.select(self.due.target_name))
        untold, self._untold = self._untold, []
        self._take_stored(untold, {e.uid: e for e in counted.answers.envelopes()})
        if self._untold and counted.hidden:
            raise FolderError("message_hidden", "target", counted.hidden[0].told, where=self.due.target_name)
        for uid in self._untold:
            self._verdict.lost.update(entry.source_uid for _, entry in self._by_target[uid])
            self._unread.pop(uid, None)

    def _look_again(self, target: TargetConnection) -> None:
        """Look at a folder with a new UIDVALIDITY: where that says nothing, at all of it within one session."""
        target.numbering.expect(encode_mailbox(self.due.target_name), self.due.target_uidvalidity)
        if target.select(self.due.target_name).uidvalidity != self.due.target_uidvalidity:
            raise FolderError("folder_missing", "target", "UIDVALIDITY changed", where=self.due.target_name)
        self._numbered_anew = False
        self._unread = {entry.target_uid: entry for _, entry in self._entries}
        for fetched in target.look_back(self.requests()):
            self.take(fetched, target)

    def _compare(self, entry: Entry, found: Envelope, keywords: frozenset[str] | None) -> None:
        sent = self.due.scan.get(entry.source_uid)
        if sent is not None and self._is_as_sent(entry, sent, found):
            if entry.target_uid in self._fresh and found.flags not in self._kept:
                self._note_flags(entry, sendable_flags(sent.flags, keywords), found.flags)
            return
        if sent is not None:
            if entry.target_uid in self._fresh:
                delivered = self.due.delivered
                dropped = delivered.keywords_dropped.get(entry.source_uid, frozenset()) if delivered else frozenset()
                told = sent.flags_told and found.flags_told
                # What was not told is not the same as none: nobody can say that they are equal.
                for change in _flag_changes(sent, found, keywords, dropped) if told else ["flags"]:
                    self._verdict.note(change, entry.source_uid)
                if told and sent.arrived == found.arrived:
                    # Where the moment is another, the message under this UID may be.
                    self._note_flags(
                        entry, sendable_flags(sent.flags, keywords) - (dropped or frozenset()), found.flags
                    )
            self._compare_arrival(entry, sent, found)
            if (octets := self._octets(entry)) is not None:
                self._note_cut(entry, octets)
        if self._size(entry) not in (None, found.size) and entry.target_uid not in self._unread:
            self._doubtful[entry.target_uid] = entry

    def _is_as_sent(self, entry: Entry, sent: Envelope, found: Envelope) -> bool:
        """Whether all that a scan tells is equal on both sides, as it is of nearly every message."""
        return (
            sent.size == found.size == self._octets(entry)
            and sent.flags == found.flags
            and sent.arrived == found.arrived
            and sent.flags_told
            and found.flags_told
            and entry.source_uid not in self._otherwise
        )

    def _note_cut(self, entry: Entry, octets: int) -> None:
        """Of what was read, never of what a target says: Courier's size of a message with many parts is too small."""
        sent = self.due.scan.get(entry.source_uid)
        if sent is not None and falls_short(octets, sent.size):
            # Asked for twice, and all of it at once: there is no more to be had.
            self._verdict.note("cut_at_source", entry.source_uid)

    def _note_flags(self, entry: Entry, sent: frozenset[str], stored: frozenset[str]) -> None:
        # Few sets of flags for many messages: folded at the end, and only where something is missing.
        self._kept.add(sent & stored)
        if sent <= stored:
            return
        missing = frozenset(flag for flag in sent - _DELETED if flag.lower() not in _folded(stored))
        if missing:
            self._verdict.bare[entry.target_uid] = Bare(missing, sent)

    def _bare(self) -> Iterator[tuple[int, Bare]]:
        """Only flags that the server plainly ignores: a single message may have lost one to the member.

        None that was sent with such a flag has it, and there are two at least, or none in the folder has any.
        """
        bare = self._verdict.bare
        kept = {flag.lower() for flags in self._kept for flag in flags} if bare else ()
        missed = Counter(flag.lower() for each in bare.values() for flag in each.missing)
        least = 1 if len(bare) > 1 and not kept else 2
        for uid, each in bare.items():
            missing = frozenset(
                flag
                for flag in each.missing
                if self.due.known.ignores(flag) or (flag.lower() not in kept and missed[flag.lower()] >= least)
            )
            if missing:
                yield uid, each._replace(missing=missing)

    def _compare_arrival(self, entry: Entry, sent: Envelope, found: Envelope) -> None:
        """Moments are compared, not what is written: servers keep other zones."""
        told = self.due.delivered.arrivals.get(entry.source_uid) if self.due.delivered else None
        if told:
            self._verdict.note(told.rule, entry.source_uid)
            if told.moment not in (None, found.arrived):
                self._verdict.note("date", entry.source_uid)
        elif sent.arrived != found.arrived and (is_kept_everywhere(sent.arrived) or entry.target_uid in self._fresh):
            # What was told instead of a date that is none is not known any more once it has been verified.
            self._verdict.note("date", entry.source_uid)

    def _size(self, entry: Entry) -> int | None:
        """What the message weighed; after an earlier run the source's own number is the best that is known."""
        sent = self.due.scan.get(entry.source_uid)
        known = self._octets(entry)
        return known if known is not None else sent.size if sent and sent.sized else None

    def _octets(self, entry: Entry) -> int | None:
        """What it weighed when this run read it: the only size that proves anything."""
        return self.due.delivered.sizes.get(entry.source_uid) if self.due.delivered else None

    def conclude(self, source: SourceConnection, target: TargetConnection, claimed: Collection[int]) -> Verdict:
        """Look again at what was not as expected, and (`deep`) at what nobody expected."""
        if self.failure:
            raise self.failure
        if self._numbered_anew:
            self._look_again(target)
        if self._untold:
            self._find_untold(target)
        # What was asked for and did not come is doubtful too.
        self._doubtful |= self._unread
        self._unread.clear()
        if self._doubtful or self._deep:
            target.select(self.due.target_name)
        for uid in sorted(uid for uid in self._doubtful if is_large(self._stored[uid])):
            self._read_back_large(source, target, self._doubtful[uid])
            del self._doubtful[uid]
        # In pieces, because the bytes that differ are kept until the source's are there to compare.
        rest = [self._stored[uid] for uid in sorted(self._doubtful)]
        for some in batches(rest, self._chunk_messages, CHUNK_BYTES):
            self._read_back(source, target, [self._doubtful[envelope.uid] for envelope in some])
            for envelope in some:
                self._doubtful.pop(envelope.uid, None)
        if self._deep:
            self._verdict.doubled = self._doubled(target, claimed)
        self._verdict.bare = dict(self._bare())
        return self._verdict

    @property
    def left(self) -> int:
        """How many messages are still to be looked at again."""
        return len(self._unread.keys() | self._doubtful.keys())

    def ask_for_less(self) -> bool:
        """Ask for fewer messages at once from here on; whether that is possible."""
        before, self._chunk_messages = self._chunk_messages, max(1, min(self._chunk_messages, self.left) // 2)
        return self._chunk_messages < before

    def _doubled(self, target: TargetConnection, claimed: Collection[int]) -> Counter[int]:
        """What stands for nothing and is what we delivered: it was sent twice, or copied over there.

        By source UID of what it is: the first of those that are equal. One that only changed its UID is no double; it
        does not make up for the one that is missing either.
        """
        ours = [entry.target_uid for kind, entry in self._entries if kind == BatchKind.COPIED]
        if not ours:
            return Counter()
        sizes = {envelope.size for envelope in self._stored.values()}.union(
            size for _, entry in self._entries if (size := self._size(entry))
        )
        strangers = [e for e in target.scan(min(ours)) if e.uid not in claimed and e.size in sizes]
        found = Counter(stranger.digests[0] for stranger in fingerprints(target, strangers))
        delivered = Counter(entry.digest for _, entry in self._entries)
        stored = Counter(
            self._digests.get(entry.target_uid, entry.digest)
            for _, entry in self._entries
            if entry.source_uid not in self._verdict.lost
        )
        # What a server rewrote is known by what it made of it.
        first: dict[bytes, int] = {}
        for _, entry in self._entries:
            first.setdefault(entry.digest, entry.source_uid)
            first.setdefault(self._digests.get(entry.target_uid, entry.digest), entry.source_uid)
        doubles: Counter[int] = Counter()
        for d, n in found.items():
            if d in stored or d in delivered:
                doubles[first[d]] += min(n, max(0, stored[d] + n - (delivered[d] or stored[d])))
        return +doubles

    def _read_back(self, source: SourceConnection, target: TargetConnection, entries: Sequence[Entry]) -> None:
        """Compare the bytes; only a difference needs the source's bytes once more, to be named."""
        verdict = self._verdict
        by_target = {entry.target_uid: entry for entry in entries}
        mended = {entry.source_uid for entry in entries if entry.repairs}
        different: dict[int, tuple[bytes, str]] = {}
        for message in target.read_back(list(by_target)):
            if message.raw is None:
                continue
            entry = by_target.pop(message.uid)
            if (stored := digest(message.raw)) != entry.digest:
                self._digests[message.uid] = stored
                different[entry.source_uid] = message.raw, "content"
            elif len(message.raw) != self._size(entry):
                # A size that only a scan has told may be an estimate: then the source's bytes alone can tell.
                different[entry.source_uid] = message.raw, "" if self._octets(entry) is None else "line_ends"
                self._note_cut(entry, len(message.raw))
            else:
                # Known for good, whatever becomes of the session.
                del self._doubtful[message.uid]
                verdict.read_back += 1
        if by_target:
            # Not delivered: gone meanwhile, or there and unreadable. To send the latter again would double it.
            target.refresh()
            listed = {e.uid for e in target.scan_uids(list(by_target))}
            for uid, entry in by_target.items():
                if uid in listed:
                    verdict.note("content", entry.source_uid)
                else:
                    verdict.lost.add(entry.source_uid)
        found = len(different)
        for original in self._originals(source, different):
            if original.raw is not None:
                compared = alteration_of_repaired if original.uid in mended else alteration
                if name := compared(original.raw, different.pop(original.uid)[0]):
                    verdict.note(name, original.uid)
        # What the source refuses or has no more: the digest and the size alone tell in which way it is another.
        for uid, (_, kind) in different.items():
            if kind:
                verdict.note(kind, uid)
        verdict.read_back += found

    def _read_back_large(self, source: SourceConnection, target: TargetConnection, entry: Entry) -> None:
        """The same for a message that is never held: what tells is how far its digests agree."""
        verdict = self._verdict
        try:
            with target.of_the_folder():
                stored = identified(target, entry.target_uid, self._stored[entry.target_uid].size)
        except MessageError:
            target.refresh()
            if target.scan_uids([entry.target_uid]):
                verdict.note("content", entry.source_uid)
            else:
                verdict.lost.add(entry.source_uid)
            return
        verdict.read_back += 1
        exact, tolerant, _ = stored.digests()
        if exact == entry.digest and stored.size == self._octets(entry):
            return
        if exact == entry.digest:
            self._note_cut(entry, stored.size)
        original = self._original(source, entry.source_uid)
        if exact != entry.digest:
            self._digests[entry.target_uid] = exact
            # A NUL that was replaced leaves the same digest: of the two the graver is said.
            is_header = original is not None and tolerant == original.digests()[1]
            verdict.note("header_8bit" if is_header else "content", entry.source_uid)
        elif stored.size != (original.size if original else self._octets(entry) or stored.size):
            verdict.note("line_ends", entry.source_uid)

    def _original(self, source: SourceConnection, uid: int) -> Identification | None:
        if uid not in self.due.scan or self.due.source is None:
            return None
        with contextlib.suppress(FolderError, MessageError, Refused):
            if source.selected != self.due.source.raw:
                source.examine(self.due.source)
            return identified(source, uid, self.due.scan[uid].size)
        return None

    def _originals(self, source: SourceConnection, wanted: Collection[int]) -> Iterator[Message]:
        uids = [uid for uid in wanted if uid in self.due.scan]
        if not uids or self.due.source is None:
            return
        with contextlib.suppress(Refused, FolderError):
            if source.selected != self.due.source.raw:
                source.examine(self.due.source)
            yield from source.messages(uids)


def _flag_changes(
    sent: Envelope, stored: Envelope, keywords: frozenset[str] | None, without: frozenset[str]
) -> Iterable[str]:
    if sent.flags == stored.flags and not without:
        # By far the most: whatever is stored as it was sent could be sent.
        return
    wished = frozenset(f for f in sent.flags if f.lower() != "\\recent")
    expected = sendable_flags(wished, keywords)
    if without or expected != wished:
        yield "keyword_dropped"
    if _folded(expected - without) != _folded(stored.flags):
        yield "flags"


def _sample(entries: Sequence[Entry]) -> list[Entry]:
    count = min(len(entries), max(SAMPLE_LEAST, round(len(entries) * SAMPLE_SHARE)))
    return random.sample(entries, count)


def _folded(flags: Iterable[str]) -> frozenset[str]:
    # Flags are compared without regard to case (RFC 9051 section 2.3.2).
    return frozenset(flag.lower() for flag in flags)
