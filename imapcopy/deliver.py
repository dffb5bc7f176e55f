"""Delivers batches into one target folder so that each message arrives exactly once.

The ledger knows a batch before its first byte goes out. Whatever then happens - a refusal, a lost reply, a broken
connection, a killed process - what the target really holds is looked up before anything is sent again: among the UIDs
from the recorded UIDNEXT up, by digest, as a multiset.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from imapcopy.connection import Outgoing, Selected, TargetConnection, sendable_flags
from imapcopy.endpoint import Endpoint
from imapcopy.errors import ConnectionLost, FolderError, MessageError, MigrationError, Refused, Side
from imapcopy.identity import digest, tolerant_digest
from imapcopy.plan import Envelope
from models.ledger import BatchRecord, BatchState, Entry, FolderCopy, GivenUp, Ledger

TRIES = 3
"""A message that breaks this many connections alone is left behind."""

_TARGET: Side = "target"


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way."""

    envelope: Envelope
    raw: bytes
    digest: bytes
    flags: frozenset[str]

    @property
    def uid(self) -> int:
        return self.envelope.uid


@dataclass(slots=True)
class _Outcome:
    arrived: list[Entry] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    uncertain: bool = False
    """Something was sent and not yet looked up: nothing may be concluded from what is missing here."""

    @property
    def target_uids(self) -> set[int]:
        return {entry.target_uid for entry in self.arrived}


class Delivery:
    """Writes one folder of one member."""

    def __init__(
        self, target: Endpoint[TargetConnection], ledger: Ledger, folder: FolderCopy, opened: Selected
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._folder = folder
        self._folder_id = folder.id or 0
        self._opened = opened
        self._uidnext = opened.uidnext
        self._claimed = ledger.claimed_target_uids(folder.target_name, folder.target_uidvalidity)
        self.keywords_dropped: set[int] = set()
        """Source UIDs whose keywords the target refused."""

    @property
    def claimed(self) -> set[int]:
        """Target UIDs that stand for a source message."""
        return self._claimed

    def recover(self, source_bodies: Callable[[Sequence[int]], Iterable[tuple[int, bytes]]]) -> None:
        """Settle the batches whose outcome an earlier run did not learn."""
        for batch in self._ledger.batches(self._folder_id):
            if batch.state == BatchState.INTENDED:
                arrived = self._found(batch, source_bodies)
                self._ledger.confirm(batch.id, arrived)
                self._claim(arrived)

    def send(self, messages: Sequence[tuple[Envelope, bytes]]) -> None:
        """Deliver a batch and commit what became of each message."""
        letters = [
            Letter(envelope, raw, digest(raw), sendable_flags(envelope.flags, self._opened.keywords))
            for envelope, raw in messages
        ]
        batch_id = self._ledger.intend(
            self._folder_id,
            [letter.uid for letter in letters],
            [letter.digest for letter in letters],
            sum(len(letter.raw) for letter in letters),
            self._uidnext,
        )
        outcome = _Outcome()
        try:
            self._deliver(letters, outcome)
        except MigrationError:
            # Otherwise the batch stays intended and the next run looks it up.
            if not outcome.uncertain:
                self._commit(batch_id, letters, outcome)
            raise
        self._commit(batch_id, letters, outcome)

    def _commit(self, batch_id: int, letters: Sequence[Letter], outcome: _Outcome) -> None:
        sizes = {letter.uid: len(letter.raw) for letter in letters}
        arrived = sorted(outcome.arrived, key=lambda entry: entry.target_uid)
        size = sum(sizes[entry.source_uid] for entry in arrived)
        self._ledger.confirm(batch_id, arrived, outcome.given_up, size)
        self._claim(arrived)

    def _claim(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._claimed.add(entry.target_uid)
            self._uidnext = max(self._uidnext, entry.target_uid + 1)

    def _deliver(self, letters: Sequence[Letter], outcome: _Outcome) -> None:
        """Send together where the server can; what is not there afterwards goes one by one."""
        rest: Sequence[Letter] = letters
        if len(letters) > 1 and self._target.connection.has("MULTIAPPEND"):
            try:
                uids = self._target.connection.append(self._folder.target_name, [_outgoing(m) for m in letters])
                self._arrived(letters, uids, outcome)
                return
            except (Refused, ConnectionLost):
                # With unannounced literals a refusal leaves the stream out of step: always a new connection.
                outcome.uncertain = True
                self._reopen()
                rest = self._look_up(letters, outcome)
        for letter in rest:
            self._deliver_one(letter, outcome)

    def _deliver_one(self, letter: Letter, outcome: _Outcome) -> None:
        failure: MigrationError | None = None
        for _ in range(TRIES):
            try:
                uids = self._target.connection.append(self._folder.target_name, [_outgoing(letter)])
                self._arrived([letter], uids, outcome)
                return
            except Refused as refused:
                connection = self._target.connection
                failure = connection.failure(refused, "append", self._folder.target_name)
                if refused.status == "BAD":
                    # The octets of the message may still be read as commands.
                    self._reopen()
                if failure.cause_id == "flags_refused" and letter.flags != _system_only(letter.flags):
                    letter = replace(letter, flags=_system_only(letter.flags))
                    self.keywords_dropped.add(letter.uid)
                    continue
                if isinstance(failure, MessageError) or failure.cause_id == "unclassified":
                    break
                raise failure from None
            except ConnectionLost as lost:
                failure = lost
                outcome.uncertain = True
                self._reopen()
                if not self._look_up([letter], outcome):
                    return
        if failure is None:
            raise AssertionError("a delivery ends in arrival or in a failure")
        outcome.given_up.append(
            GivenUp(letter.uid, failure.cause_id, failure.server_text, len(letter.raw), letter.envelope.arrived)
        )

    def _arrived(self, letters: Sequence[Letter], uids: Sequence[int], outcome: _Outcome) -> None:
        """Note what an OK means. Without APPENDUID the new UIDs are read from the folder."""
        taken = self._claimed | outcome.target_uids
        if not uids or len(set(uids)) != len(uids) or taken & set(uids):
            outcome.uncertain = True
            new = [e.uid for e in self._target.connection.scan(self._uidnext) if e.uid not in taken]
            if len(new) != len(letters):
                # Somebody else delivered here meanwhile: only the content tells which are ours.
                if missing := self._look_up(letters, outcome):
                    raise FolderError("lost_at_target", _TARGET, f"{len(missing)}", where=self._folder.target_name)
                return
            uids = new
        outcome.uncertain = False
        entries = [Entry(m.uid, uid, m.digest) for m, uid in zip(letters, uids, strict=True)]
        outcome.arrived.extend(entries)
        self._uidnext = max(self._uidnext, *(uid + 1 for uid in uids))

    def _look_up(self, letters: Sequence[Letter], outcome: _Outcome) -> list[Letter]:
        """Find at the target what an uncertain APPEND left; returns the letters that are not there."""
        wanted = [Entry(letter.uid, 0, letter.digest) for letter in letters]
        tolerant = {letter.uid: tolerant_digest(letter.raw) for letter in letters}
        candidates = self._candidates(outcome.target_uids, self._uidnext)
        found = match(wanted, tolerant, candidates)
        outcome.arrived.extend(found)
        outcome.uncertain = False
        there = {entry.source_uid for entry in found}
        return [letter for letter in letters if letter.uid not in there]

    def _found(
        self, batch: BatchRecord, source_bodies: Callable[[Sequence[int]], Iterable[tuple[int, bytes]]]
    ) -> list[Entry]:
        candidates = self._candidates(set(), batch.target_uidnext_before)
        if not candidates:
            return []
        exact = match(batch.entries, {}, candidates)
        there = {entry.source_uid for entry in exact}
        left = [entry.source_uid for entry in batch.entries if entry.source_uid not in there]
        if not left or len(exact) == len(candidates):
            return sorted(exact, key=lambda entry: entry.target_uid)
        # The server may have altered what it stored: compare with the source's bytes, alteration by alteration.
        tolerant = {uid: tolerant_digest(raw) for uid, raw in source_bodies(left)}
        return sorted(match(batch.entries, tolerant, candidates), key=lambda entry: entry.target_uid)

    def _candidates(self, arrived: Collection[int], uidnext: int) -> list[tuple[int, bytes, bytes]]:
        connection = self._target.connection
        uids = [e.uid for e in connection.scan(uidnext) if e.uid not in self._claimed and e.uid not in arrived]
        return fingerprints(connection, uids)

    def _reopen(self) -> None:
        opened = self._target.reopen().select(self._folder.target_name)
        if opened.uidvalidity != self._folder.target_uidvalidity:
            raise FolderError("folder_missing", _TARGET, "UIDVALIDITY changed", where=self._folder.target_name)


def fingerprints(connection: TargetConnection, uids: Sequence[int]) -> list[tuple[int, bytes, bytes]]:
    """UID, digest and tolerant digest of messages of the opened folder, one body in memory at a time."""
    return [
        (message.uid, digest(message.raw), tolerant_digest(message.raw))
        for message in connection.messages(uids)
        if message.raw is not None
    ]


def match(
    wanted: Iterable[Entry], tolerant: dict[int, bytes], candidates: Iterable[tuple[int, bytes, bytes]]
) -> list[Entry]:
    """Pair source messages with target UIDs as a multiset: exact digests first, then what a server makes of them."""
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    by_tolerant: dict[bytes, list[int]] = defaultdict(list)
    for uid, exact, loose in sorted(candidates, reverse=True):
        by_digest[exact].append(uid)
        by_tolerant[loose].append(uid)
    found: list[Entry] = []
    used: set[int] = set()
    rest: list[Entry] = []
    for entry in wanted:
        if uids := by_digest.get(entry.digest):
            uid = uids.pop()
            used.add(uid)
            found.append(replace(entry, target_uid=uid))
        else:
            rest.append(entry)
    for entry in rest:
        uids = by_tolerant.get(tolerant.get(entry.source_uid, b""), [])
        while uids and uids[-1] in used:
            uids.pop()
        if uids:
            uid = uids.pop()
            used.add(uid)
            found.append(replace(entry, target_uid=uid))
    return found


def _outgoing(letter: Letter) -> Outgoing:
    # A date that is no date would be refused or replaced; without one the server takes the moment of arrival.
    date = letter.envelope.internal_date if letter.envelope.arrived else ""
    return Outgoing(letter.raw, letter.flags, date)


def _system_only(flags: frozenset[str]) -> frozenset[str]:
    return frozenset(flag for flag in flags if flag.startswith("\\"))
