"""Delivers batches into one target folder so that each message arrives exactly once.

The ledger knows a batch before its first byte goes out. Whatever then happens - a refusal, a lost reply, a broken
connection, a killed process - what the target really holds is looked up before anything is sent again: among the UIDs
from the recorded UIDNEXT up, by digest, as a multiset.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from imapcopy.connection import Outgoing, Selected, TargetConnection, sendable_flags
from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MessageError, MigrationError, Refused, Side
from imapcopy.grammar import format_date_time
from imapcopy.identity import core_digest, digest, tolerant_digest
from imapcopy.plan import Envelope
from models.ledger import BatchRecord, BatchState, Entry, FolderCopy, GivenUp, Ledger

TRIES = 3
"""A message that breaks this many connections alone is left behind."""
FAILURES_IN_A_ROW = 3
"""So many messages one after the other that break every connection are the server's fault, not theirs."""

SourceBodies = Callable[[Sequence[int]], Iterable[tuple[int, bytes]]]

_TARGET: Side = "target"
_OF_THE_MESSAGE = {"client_bug", "protocol_unsupported", "unclassified"}
"""How servers answer to one odd message: Courier says `Error in IMAP command` to nearly everything."""
_MAY_BE_A_KEYWORD = _OF_THE_MESSAGE | {"flags_refused", "permission_denied"}


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
    def source_uids(self) -> set[int]:
        return {entry.source_uid for entry in self.arrived}

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
        self._broken_in_a_row = 0
        self.keywords_dropped: set[int] = set()
        """Source UIDs whose keywords the target refused."""

    @property
    def claimed(self) -> set[int]:
        """Target UIDs that stand for a source message."""
        return self._claimed

    def recover(self, source_bodies: SourceBodies) -> None:
        """Settle the batches whose outcome an earlier run did not learn."""
        for batch in self._ledger.batches(self._folder_id):
            if batch.state == BatchState.INTENDED:
                arrived, size = self._found(batch, source_bodies)
                self._ledger.confirm(batch.id, arrived, size=size)
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
            outcome.uncertain = True
            try:
                uids = self._target.connection.append(self._folder.target_name, [_outgoing(m) for m in letters])
                rest = self._arrived(letters, uids, outcome)
            except (Refused, ConnectionLost) as failure:
                # With unannounced literals a refusal leaves the stream out of step: always a new connection.
                self._reopen(failure)
                rest = self._look_up(letters, outcome)
        for letter in rest:
            self._deliver_one(letter, outcome)

    def _deliver_one(self, letter: Letter, outcome: _Outcome) -> None:
        failure: MigrationError | None = None
        for _ in range(TRIES):
            # Another runner may have taken over within this batch, and look for what we are about to send.
            self._ledger.check_lease()
            outcome.uncertain = True
            try:
                uids = self._target.connection.append(self._folder.target_name, [_outgoing(letter)])
                if not self._arrived([letter], uids, outcome):
                    return
                again = failure is None or failure.cause_id != "lost_at_target"
                failure = MessageError("lost_at_target", _TARGET, "", where=self._folder.target_name)
                if not again:
                    break
            except Refused as refused:
                failure = self._target.connection.failure(refused, "append", self._folder.target_name)
                if refused.status == "BAD":
                    # The octets of the message may still be read as commands.
                    self._reopen(refused)
                if failure.cause_id == "append_ambiguous" and not self._look_up([letter], outcome):
                    return
                outcome.uncertain = False
                if failure.cause_id in _MAY_BE_A_KEYWORD and letter.flags != _system_only(letter.flags):
                    letter = replace(letter, flags=_system_only(letter.flags))
                    self.keywords_dropped.add(letter.uid)
                    continue
                if isinstance(failure, MessageError) or failure.cause_id in _OF_THE_MESSAGE:
                    break
                raise failure from None
            except ConnectionLost as lost:
                failure = lost
                self._reopen(lost)
                if not self._look_up([letter], outcome):
                    return
        if failure is None:
            raise AssertionError("a delivery ends in arrival or in a failure")
        if isinstance(failure, ConnectionLost):
            self._broken_in_a_row += 1
            if self._broken_in_a_row >= FAILURES_IN_A_ROW:
                raise failure
        outcome.given_up.append(
            GivenUp(letter.uid, failure.cause_id, failure.server_text, len(letter.raw), letter.envelope.arrived)
        )

    def _arrived(self, letters: Sequence[Letter], uids: Sequence[int], outcome: _Outcome) -> list[Letter]:
        """Note what an OK means; returns the letters that are not there all the same."""
        taken = self._claimed | outcome.target_uids
        # APPENDUID is believed where it says what must be; otherwise mail came from elsewhere too, or it lies.
        first = max(self._uidnext, max(outcome.target_uids, default=0) + 1)
        if list(uids) != list(range(first, first + len(letters))) or taken.intersection(uids):
            self._target.connection.refresh()
            scan = {e.uid: e.size for e in self._target.connection.scan(self._uidnext) if e.uid not in taken}
            uids = uids or sorted(scan)
            if [scan.get(uid) for uid in uids] != [len(letter.raw) for letter in letters]:
                return self._sorted_out(letters, scan, outcome)
        self._note([Entry(m.uid, uid, m.digest) for m, uid in zip(letters, uids, strict=True)], outcome)
        return []

    def _sorted_out(self, letters: Sequence[Letter], new: Collection[int], outcome: _Outcome) -> list[Letter]:
        """Tell by the content which of the new messages are ours; returns the letters that are not there."""
        rest = self._look_up(letters, outcome)
        strangers = sorted(set(new) - outcome.target_uids)
        if not rest:
            return []
        if len(strangers) == len(rest):
            # It took them and rewrote them beyond recognition: exactly as many came as were sent.
            self._note([Entry(m.uid, uid, m.digest) for m, uid in zip(rest, strangers, strict=True)], outcome)
            return []
        # Some servers show a session what it stored only when the folder is opened anew.
        outcome.uncertain = True
        self._reopen()
        return self._look_up(rest, outcome)

    def _look_up(self, letters: Sequence[Letter], outcome: _Outcome) -> list[Letter]:
        """Find at the target what an uncertain APPEND left; returns the letters that are not there."""
        outcome.uncertain = True
        # An earlier look-up may have found some before the connection broke again.
        sought = [letter for letter in letters if letter.uid not in outcome.source_uids]
        wanted = [Entry(letter.uid, 0, letter.digest) for letter in sought]
        looser = {letter.uid: looser_digests(letter.raw) for letter in sought}
        self._note(match(wanted, looser, self._candidates(outcome.target_uids, self._uidnext)), outcome)
        return [letter for letter in sought if letter.uid not in outcome.source_uids]

    def _note(self, entries: Sequence[Entry], outcome: _Outcome) -> None:
        """From here on it is known what became of everything that was sent."""
        outcome.arrived.extend(entries)
        outcome.uncertain = False
        if entries:
            self._broken_in_a_row = 0

    def _found(self, batch: BatchRecord, source_bodies: SourceBodies) -> tuple[list[Entry], int]:
        candidates = self._candidates(set(), batch.target_uidnext_before)
        found = match(batch.entries, {}, candidates)
        there = {entry.source_uid for entry in found}
        left = [entry.source_uid for entry in batch.entries if entry.source_uid not in there]
        if left and len(found) < len(candidates):
            # The server may have altered what it stored: compare with the source's bytes, alteration by alteration.
            looser = {uid: looser_digests(raw) for uid, raw in source_bodies(left)}
            found = match(batch.entries, looser, candidates)
        sizes = {candidate.uid: candidate.size for candidate in candidates}
        return sorted(found, key=lambda entry: entry.target_uid), sum(sizes[entry.target_uid] for entry in found)

    def _candidates(self, arrived: Collection[int], uidnext: int) -> list["Fingerprint"]:
        connection = self._target.connection
        connection.refresh()
        uids = [e.uid for e in connection.scan(uidnext) if e.uid not in self._claimed and e.uid not in arrived]
        return fingerprints(connection, uids)

    def _reopen(self, reason: Exception | None = None) -> None:
        if isinstance(reason, ConnectionLost) and reason.cause_id in HOST_BUSY:
            raise reason
        opened = self._target.reopen().select(self._folder.target_name)
        if opened.uidvalidity != self._folder.target_uidvalidity:
            raise FolderError("folder_missing", _TARGET, "UIDVALIDITY changed", where=self._folder.target_name)


class Fingerprint(NamedTuple):
    """A message at the target as it is compared: its digests, the strictest first."""

    uid: int
    digests: tuple[bytes, ...]
    size: int


def looser_digests(raw: bytes) -> tuple[bytes, ...]:
    """What still says that a message is the one that was sent, after a server has rewritten it."""
    return tolerant_digest(raw), core_digest(raw)


def fingerprints(connection: TargetConnection, uids: Sequence[int]) -> list[Fingerprint]:
    """Fingerprints of messages of the opened folder, one body in memory at a time."""
    return [
        Fingerprint(message.uid, (digest(message.raw), *looser_digests(message.raw)), len(message.raw))
        for message in connection.read_back(uids)
        if message.raw is not None
    ]


def match(
    wanted: Iterable[Entry], looser: Mapping[int, Sequence[bytes]], candidates: Iterable[Fingerprint]
) -> list[Entry]:
    """Pair source messages with target UIDs as a multiset: exact digests first, then what a server makes of them.

    `looser` has the digests that may be compared besides, by source UID.
    """
    found: list[Entry] = []
    rest = list(wanted)
    free = sorted(candidates, reverse=True)
    for level in range(1 + max(map(len, looser.values()), default=0)):
        uids: dict[bytes, list[int]] = defaultdict(list)
        for candidate in free:
            uids[candidate.digests[level]].append(candidate.uid)
        unmatched: list[Entry] = []
        for entry in rest:
            digests = (entry.digest, *looser.get(entry.source_uid, ()))
            if level < len(digests) and (there := uids.get(digests[level])):
                found.append(replace(entry, target_uid=there.pop()))
            else:
                unmatched.append(entry)
        rest = unmatched
        used = {entry.target_uid for entry in found}
        free = [candidate for candidate in free if candidate.uid not in used]
    return found


def _outgoing(letter: Letter) -> Outgoing:
    # Spelled anew, because some servers write one digit for a day below ten and others refuse it. A date that is no
    # date would be refused or replaced; without one the server takes the moment of arrival.
    arrived = letter.envelope.arrived
    return Outgoing(letter.raw, letter.flags, format_date_time(arrived) if arrived else "")


def _system_only(flags: frozenset[str]) -> frozenset[str]:
    return frozenset(flag for flag in flags if flag.startswith("\\"))
