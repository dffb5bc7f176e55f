"""What the target really holds of what was sent: looked up by digest, as a multiset, before anything is sent again."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from imapcopy.distant import Distant, identified, is_large
from imapcopy.endpoint import Endpoint
from imapcopy.errors import FolderError, MessageError
from imapcopy.grammar import encode_mailbox
from imapcopy.identity import core_digest, digest, tolerant_digest
from imapcopy.plan import Envelope
from imapcopy.repair import repaired_forms
from imapcopy.responses import sendable_flags
from imapcopy.target_connection import TargetConnection
from imapcopy.twins import Mark, folded, pair
from models.ledger import Ledger
from models.ledger_rows import BatchRecord, Doubt, Entry, FolderCopy

SETTLE_SECONDS = 1.0
"""How long to wait between two looks at what a server makes of what a broken connection had handed to it."""
SETTLE_QUIET = 3
"""So many of these after the loss, and after the last message that appeared, it gets at least."""
SETTLE_TRIES = 20
DOUBT_SECONDS = 3600.0
"""How long passes look whether what was sent again was stored both times: no server keeps a session for so long."""


class Fingerprint(NamedTuple):
    """A message at the target as it is compared: its digests, the strictest first, and what tells it from its twins."""

    uid: int
    digests: tuple[bytes, ...]
    mark: Mark


class Form(NamedTuple):
    """How a target may hold a message: its digests, the strictest first, and how it was repaired for that."""

    digests: tuple[bytes, ...]
    size: int = 0
    """In octets, 0 where that is not known."""
    repairs: str = ""

    def at_most(self, looseness: int) -> "Form":
        """Without the digests that are looser."""
        return self._replace(digests=self.digests[: looseness + 1])


class Wanted(NamedTuple):
    """A message of the source that is looked for; without `forms` only for its exact digest."""

    entry: Entry
    mark: Mark = Mark()
    forms: Sequence[Form] = ()
    """In the order of preference: as the source has it, then as it may have been repaired."""

    @property
    def uid(self) -> int:
        return self.entry.source_uid


def mark_of(envelope: Envelope, keywords: frozenset[str] | None, uid: int = 0) -> Mark:
    """What tells a message, as its folder at the target can hold it, from its twins."""
    flags = folded(sendable_flags(envelope.flags, keywords)) if envelope.flags_told else None
    return Mark(envelope.arrived, flags, envelope.size, uid)


def forms(raw: bytes | Distant) -> tuple[Form, ...]:
    """All ways in which a message may be found. Whether repairs are allowed now does not count: an earlier run's are
    recognised in any case.
    """
    if not isinstance(raw, bytes):
        return (Form(raw.identify(), len(raw)),)
    repaired = (Form(_digests(form.raw), len(form.raw), ",".join(form.repairs)) for form in repaired_forms(raw))
    original = Form(_digests(raw), len(raw))
    # What only ends its lines otherwise has the same digest.
    return original, *(form for form in repaired if form.digests[0] != original.digests[0])


def _digests(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """The strict one, then what still says that a message is the one that was sent, after a server has rewritten it."""
    return digest(raw), tolerant_digest(raw), core_digest(raw)


def fingerprints(connection: TargetConnection, envelopes: Iterable[Envelope]) -> list[Fingerprint]:
    """Fingerprints of messages of the opened folder, one body in memory at a time, of a large one a piece."""
    large: list[Envelope] = []
    small: dict[int, Envelope] = {}
    for envelope in envelopes:
        if is_large(envelope):
            large.append(envelope)
        else:
            small[envelope.uid] = envelope
    found = [
        _fingerprint(small[message.uid], _digests(message.raw), len(message.raw))
        for message in connection.read_back(list(small))
        if message.raw is not None
    ]
    for envelope in large:
        # One that is gone meanwhile is no candidate.
        with suppress(MessageError), connection.of_the_folder():
            read = identified(connection, envelope.uid, envelope.size)
            found.append(_fingerprint(envelope, read.digests(), read.size))
    return found


def _fingerprint(envelope: Envelope, digests: tuple[bytes, ...], size: int) -> Fingerprint:
    flags = folded(envelope.flags) if envelope.flags_told else None
    return Fingerprint(envelope.uid, digests, Mark(envelope.arrived, flags, size, envelope.uid))


def match(wanted: Iterable[Wanted], candidates: Iterable[Fingerprint]) -> list[Entry]:
    """Pair source messages with target UIDs as a multiset: exact digests first, then what a server makes of them.

    On each level all messages are paired before the next, and twins by what tells them apart (`twins.pair`), so that
    none takes a copy that fits another one better.
    """
    found: list[Entry] = []
    rest = list(wanted)
    free = sorted(candidates, key=lambda candidate: candidate.uid)
    known = {each.uid: each.forms or (Form((each.entry.digest,), each.mark.size),) for each in rest}
    for level in range(max((len(form.digests) for some in known.values() for form in some), default=0)):
        for rank in range(max(map(len, known.values()))):
            there: dict[bytes, list[Fingerprint]] = defaultdict(list)
            for candidate in free:
                there[candidate.digests[level]].append(candidate)
            alike: dict[bytes, list[tuple[Wanted, Form]]] = defaultdict(list)
            for each in rest:
                some = known[each.uid]
                if rank < len(some) and level < len(some[rank].digests) and some[rank].digests[level] in there:
                    alike[some[rank].digests[level]].append((each, some[rank]))
            for key, twins in alike.items():
                marks = [each.mark._replace(size=form.size or each.mark.size) for each, form in twins]
                for one, other in pair(marks, [candidate.mark for candidate in there[key]]):
                    (each, form), copy = twins[one], there[key][other]
                    repairs = form.repairs or each.entry.repairs
                    found.append(replace(each.entry, target_uid=copy.uid, repairs=repairs))
            if alike:
                sources, targets = {e.source_uid for e in found}, {e.target_uid for e in found}
                rest = [each for each in rest if each.uid not in sources]
                free = [candidate for candidate in free if candidate.uid not in targets]
    return found


class LookUp:
    """Looks into one folder of the target. `claimed` are the UIDs there that stand for a message of the ledger."""

    def __init__(
        self, target: Endpoint[TargetConnection], name: str, uidvalidity: int, claimed: Collection[int]
    ) -> None:
        self._target = target
        self._name = name
        self._uidvalidity = uidvalidity
        self._claimed = claimed

    def opened(self) -> TargetConnection:
        """The connection, with this folder open in it."""
        connection = self._target.connection
        if connection.selected != encode_mailbox(self._name):
            opened = connection.select(self._name)
            if opened.uidvalidity != self._uidvalidity:
                raise FolderError("folder_missing", "target", "UIDVALIDITY changed", where=self._name)
        return connection

    def candidates(self, uidnext: int, arrived: Collection[int]) -> list[Fingerprint]:
        """What lies from a UID on and stands for no message of the ledger, and is not known to have arrived."""
        connection = self.opened()
        connection.refresh()
        new = [e for e in connection.scan(uidnext) if e.uid not in self._claimed and e.uid not in arrived]
        return fingerprints(connection, new)

    def settled_candidates(
        self,
        wanted: Sequence[Wanted],
        uidnext: int,
        arrived: Collection[int] = (),
        others: Sequence[Wanted] = (),
    ) -> list[Fingerprint]:
        """Candidates when no more of them appear, or all that is wanted is there; `others` may be there too.

        The session of a broken connection may still be storing what it had received; what is sent again before it is
        through arrives twice. So it gets as long as it has ever taken for an answer, and longer while more appears.
        Nothing cuts this wait short: a pass that is asked to stop settles what it has sent all the same.
        """
        patience = max(SETTLE_QUIET * SETTLE_SECONDS, self._target.longest_wait if SETTLE_SECONDS else 0)
        until = self._target.dropped_at + patience
        candidates = self.candidates(uidnext, arrived)
        sought = {each.uid for each in wanted}
        for _ in range(SETTLE_TRIES):
            if sought <= {entry.source_uid for entry in match([*wanted, *others], candidates)}:
                break
            early = time.monotonic() < until
            if early:
                time.sleep(SETTLE_SECONDS)
            seen = {candidate.uid for candidate in candidates}
            later = self.candidates(uidnext, seen.union(arrived))
            if later:
                until = max(until, time.monotonic() + SETTLE_QUIET * SETTLE_SECONDS)
            elif not early:
                self._must_show(uidnext, len(wanted) + len(others) + len(arrived))
                break
            candidates += later
        return candidates

    def _must_show(self, uidnext: int, most: int) -> None:
        """Raise where the folder counts messages from a UID on that it does not show: what is sought may be there."""
        connection = self._target.connection
        last = connection.last_uids(connection.select(self._name), most)
        below = max((number for number, uid in last.items() if uid is not None and uid < uidnext), default=0)
        if hidden := [number for number, uid in last.items() if uid is None and number > below]:
            raise FolderError("message_hidden", "target", f"message {hidden[0]}", where=self._name)


class SentAgain:
    """What was sent again while its first sending might still be stored: it may be there twice one day."""

    def __init__(self, look_up: LookUp, ledger: Ledger, folder: FolderCopy, recorded: Iterable[BatchRecord]) -> None:
        self._look_up = look_up
        self._ledger = ledger
        self._folder_id = folder.id or 0
        self._again: dict[int, Wanted] = {}
        """By source UID."""
        self._doubt = Doubt.read(folder.doubt)
        if self._doubt:
            entries = (entry for batch in recorded for entry in batch.entries)
            self._again = {e.source_uid: Wanted(e) for e in entries if e.target_uid >= self._doubt.uid}

    def note_missing(self, wanted: Iterable[Wanted], found: Iterable[Entry], uidnext: int) -> None:
        """Commit that what is not there will be sent again, and may yet be stored a first time."""
        there = {entry.source_uid for entry in found}
        missing = {each.uid: each for each in wanted if each.uid not in there}
        if missing:
            self._again.update(missing)
            first = min(uidnext, self._doubt.uid) if self._doubt else uidnext
            self._doubt = Doubt(first, self.told, time.time())
            self._ledger.doubt(self._folder_id, self._doubt)

    @property
    def told(self) -> int:
        """How many of the messages that may be there twice an earlier pass has counted so."""
        return self._doubt.told if self._doubt else 0

    def stored_twice(self) -> set[int]:
        """Source UIDs of the messages that were sent again and have arrived both times."""
        if not self._doubt:
            return set()
        found = {
            entry.source_uid for entry in match(self._again.values(), self._look_up.candidates(self._doubt.uid, ()))
        }
        self._doubt = self._doubt._replace(told=max(len(found), self._doubt.told))
        return found

    @property
    def lasting(self) -> str:
        """What the next pass has to look into; "" when it need not look once more."""
        lasts = self._doubt is not None and abs(time.time() - self._doubt.since) < DOUBT_SECONDS
        return self._doubt.written() if self._doubt and lasts else ""
