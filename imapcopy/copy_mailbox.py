"""Copies one mailbox: pair the folders, then in each folder recover, plan, copy and verify, then count.

Reading and writing overlap: a thread reads batches from the source while this one writes them to the target.
Everything that is true afterwards is in the ledger; running again does only what is still missing.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date

from imapcopy.account import Account
from imapcopy.connection import FolderStatus, Selected, SourceConnection, TargetConnection
from imapcopy.deliver import Delivery, fingerprints, match
from imapcopy.endpoint import Endpoint, source_endpoint, target_endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MigrationError, ServerError, Stopped
from imapcopy.folders import FolderPair, map_folders
from imapcopy.grammar import encode_mailbox
from imapcopy.identity import digest, is_hazardous, tolerant_digest
from imapcopy.pipe import BytePipe
from imapcopy.plan import Envelope, batches, missing, wanted
from imapcopy.read_source import Loaded, SourceReader, read_batches
from imapcopy.verify import Delivered, verify_folder
from models.ledger import BatchKind, BatchState, Entry, FolderCopy, FolderTally, GivenUp, Ledger

BATCH_MESSAGES = 250
BATCH_BYTES = 4 << 20
AHEAD_BYTES = 16 << 20
"""How much one mailbox may have read and not yet written."""
TRANSFERS = 2
"""How often a message that was not there when read back is sent, before it is an issue."""


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What the roster says about how a mailbox is to be copied."""

    root: str = ""
    exclude: tuple[str, ...] = ()
    since: date | None = None
    deep: bool = False
    """Read every byte back, not only the risky ones and a sample."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How the caller follows a copy and ends it."""

    stop: threading.Event = field(default_factory=threading.Event)
    found: Callable[[int], None] = lambda messages: None
    """Called once with the number of messages at the source."""

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped


def copy_mailbox(
    source: Account, target: Account, ledger: Ledger, options: CopyOptions, watch: Watch | None = None
) -> None:
    """Bring the target up to the source, folder by folder; raise what stopped it, after all that could be done."""
    watch = watch or Watch()
    with source_endpoint(source) as from_source, target_endpoint(target) as to_target:
        _sign_in(from_source, to_target)
        pairs = pair_folders(from_source.connection, to_target.connection, options)
        source_statuses = from_source.connection.statuses([pair.source.raw for pair in pairs])
        watch.found(sum(status.messages for status in source_statuses.values()))
        refused = to_target.connection.create([pair.target_name for pair in pairs if pair.create])
        failures: list[MigrationError] = list(refused.values())
        unchanged = _unchanged(pairs, source_statuses, to_target.connection, ledger, options)
        seen: list[int] = list(unchanged.values())
        for pair in pairs:
            watch.check()
            if pair.source.raw in unchanged or pair.target_name in refused:
                continue
            settled = _settled(source_statuses.get(pair.source.raw), options)
            try:
                seen.append(_copy_folder(pair, from_source, to_target, ledger, options, watch, settled))
            except FolderError as error:
                failures.append(error)
            except ServerError as error:
                # A folder that cannot be opened now says nothing of the others.
                if error.cause_id != "mailbox_unavailable":
                    raise
                failures.append(error)
        if failures:
            raise _all_of(failures)
        ledger.supersede_all_but(seen)


def _sign_in(source: Endpoint[SourceConnection], target: Endpoint[TargetConnection]) -> None:
    """Open both connections at once: each costs several round trips. The source's failure is told first."""
    with ThreadPoolExecutor(1) as other:
        opening = other.submit(lambda: target.connection)
        source.connection  # noqa: B018  (opens it)
        opening.result()


def _copy_folder(
    pair: FolderPair,
    source: Endpoint[SourceConnection],
    target: Endpoint[TargetConnection],
    ledger: Ledger,
    options: CopyOptions,
    watch: "Watch",
    settled: str,
) -> int:
    """Copy one folder, once more from the ledger when a connection broke; returns the folder's id in the ledger."""
    try:
        return _FolderPass(pair, source, target, ledger, options, watch).run(settled)
    except ConnectionLost as lost:
        # Either side may have ended a session that stood idle while the other was busy.
        if lost.cause_id in HOST_BUSY:
            raise
    watch.check()
    source.reopen()
    target.reopen()
    return _FolderPass(pair, source, target, ledger, options, watch).run(settled)


def _all_of(failures: Sequence[MigrationError]) -> MigrationError:
    """One error for several folders: one that waiting mends first, and the names of the others."""
    first, *others = sorted(failures, key=lambda error: not error.retryable)
    if not others:
        return first
    names = ", ".join(repr(error.where) for error in others)
    return type(first)(first.cause_id, first.side, f"{first.server_text} (also {names})", where=first.where)


def pair_folders(source: SourceConnection, target: TargetConnection, options: CopyOptions) -> list[FolderPair]:
    """List both sides and decide which folder goes where."""
    old, new = source.listing(), target.listing()
    return map_folders(
        old.folders,
        new.folders,
        source_prefix=old.prefix,
        target_prefix=new.prefix,
        target_separator=new.separator,
        root=options.root,
        exclude=options.exclude,
    )


def _unchanged(
    pairs: Sequence[FolderPair],
    statuses: Mapping[bytes, FolderStatus],
    target: TargetConnection,
    ledger: Ledger,
    options: CopyOptions,
) -> dict[bytes, int]:
    """Ledger ids of the folders in which nothing has happened since a pass left nothing to do, by raw name."""
    if options.deep:
        return {}
    known = {(folder.source_name, folder.target_name): folder for folder in ledger.folders()}
    candidates: list[tuple[FolderPair, FolderCopy]] = []
    for pair in pairs:
        folder = known.get((pair.source.name, pair.target_name))
        if folder and folder.settled and folder.settled == _settled(statuses.get(pair.source.raw), options):
            candidates.append((pair, folder))
    targets = target.statuses([encode_mailbox(pair.target_name) for pair, _ in candidates])
    found = {}
    for pair, folder in candidates:
        status = targets.get(encode_mailbox(pair.target_name))
        if status and status.uidvalidity == folder.target_uidvalidity:
            found[pair.source.raw] = folder.id or 0
    return found


def _settled(status: FolderStatus | None, options: CopyOptions) -> str:
    """What must stay equal for a folder to need no second look."""
    if status is None:
        return ""
    return json.dumps(asdict(status) | {"since": str(options.since)}, sort_keys=True)


class _FolderPass:
    """One pass over one folder."""

    def __init__(
        self,
        pair: FolderPair,
        source: Endpoint[SourceConnection],
        target: Endpoint[TargetConnection],
        ledger: Ledger,
        options: CopyOptions,
        watch: Watch,
    ) -> None:
        self._pair = pair
        self._source = source
        self._target = target
        self._ledger = ledger
        self._options = options
        self._watch = watch
        self._opened: Selected = source.connection.examine(pair.source)
        self._landed: Selected = target.connection.select(pair.target_name)
        self._folder = ledger.open_folder(
            pair.source.name, self._opened.uidvalidity, pair.target_name, self._landed.uidvalidity
        )
        self._folder_id = self._folder.id or 0
        self._delivery = Delivery(target, ledger, self._folder, self._landed)
        self._reader = SourceReader(source, pair.source, self._opened.uidvalidity)
        self._gone: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._hazardous: set[int] = set()

    def run(self, settled: str) -> int:
        """Recover, plan, copy and verify; returns the folder's id in the ledger."""
        everything = {e.uid: e for e in self._source.connection.scan()}
        self._delivery.recover(lambda uids: self._source_bodies([everything[uid] for uid in uids if uid in everything]))
        scan = {e.uid: e for e in wanted(everything.values(), self._options.since)}
        for transfer in range(1, TRANSFERS + 1):
            # Before a second transfer too: what is not under its UID may be there under another.
            todo = self._missing(scan)
            adopted = self._adopt(todo)
            self._copy([envelope for envelope in todo if envelope.uid not in adopted])
            lost = self._verify(scan)
            if not lost:
                break
            if transfer == TRANSFERS:
                self._ledger.give_up(
                    self._folder_id,
                    [GivenUp(uid, "lost_at_target", "", scan[uid].size, scan[uid].arrived) for uid in lost],
                )
        self._tally(scan, settled)
        return self._folder_id

    def _missing(self, scan: Mapping[int, Envelope]) -> list[Envelope]:
        accounted = set(self._ledger.issues(self._folder_id)) | self._gone
        for batch in self._ledger.batches(self._folder_id):
            accounted.update(entry.source_uid for entry in batch.entries)
        return missing(scan.values(), accounted)

    def _source_bodies(self, envelopes: Sequence[Envelope]) -> Iterator[tuple[int, bytes]]:
        for batch in batches(envelopes, BATCH_MESSAGES, BATCH_BYTES):
            for envelope, raw in self._reader.load(batch).letters:
                yield envelope.uid, raw

    def _adopt(self, todo: Sequence[Envelope]) -> set[int]:
        """Recognise mail that was at the target before us, so that nothing arrives twice; returns its source UIDs."""
        if not todo:
            return set()
        if not self._landed.messages and not self._delivery.claimed:
            return set()
        target = self._target.connection
        strangers = [e for e in target.scan() if e.uid not in self._delivery.claimed]
        if not strangers:
            return set()
        # The content is compared only where the Message-ID or both size and moment of arrival are the same: servers
        # disagree about the header of a broken message.
        there = target.message_ids([e.uid for e in strangers])
        here = self._source.connection.message_ids([e.uid for e in todo])
        names = set(there.values()) & set(here.values())
        looks = {(e.size, e.arrived) for e in strangers} & {(e.size, e.arrived) for e in todo}

        def is_alike(envelope: Envelope, message_ids: Mapping[int, str]) -> bool:
            return message_ids.get(envelope.uid) in names or (envelope.size, envelope.arrived) in looks

        candidates = fingerprints(target, [e.uid for e in strangers if is_alike(e, there)])
        bodies = self._source_bodies([e for e in todo if is_alike(e, here)]) if candidates else ()
        prints = {uid: (digest(raw), (tolerant_digest(raw),)) for uid, raw in bodies}
        wishes = [Entry(uid, 0, exact) for uid, (exact, _) in prints.items()]
        found = match(wishes, {uid: loose for uid, (_, loose) in prints.items()}, candidates)
        found.sort(key=lambda entry: entry.source_uid)
        self._ledger.adopt(self._folder_id, found)
        self._delivery.claimed.update(entry.target_uid for entry in found)
        return {entry.source_uid for entry in found}

    def _copy(self, todo: Sequence[Envelope]) -> None:
        """Read in one thread, write in this one."""
        if not todo:
            return
        pipe: BytePipe[Loaded] = BytePipe(AHEAD_BYTES)
        reader = threading.Thread(
            target=read_batches,
            args=(self._reader, batches(todo, BATCH_MESSAGES, BATCH_BYTES), pipe, self._watch.stop),
            name=f"read {self._folder_id}",
            daemon=True,
        )
        reader.start()
        unfinished = False
        try:
            for loaded in pipe:
                self._write(loaded)
                self._watch.check()
        finally:
            # The reader may be waiting for a slow server: nobody wants that answer any more.
            unfinished = not pipe.ended
            pipe.end()
            if unfinished:
                self._source.interrupt()
            reader.join()
            if unfinished:
                self._source.forget()
        self._watch.check()

    def _write(self, loaded: Loaded) -> None:
        self._gone.update(loaded.gone)
        self._ledger.give_up(self._folder_id, loaded.unreadable)
        if loaded.letters:
            for envelope, raw in loaded.letters:
                self._sizes[envelope.uid] = len(raw)
                if is_hazardous(raw):
                    self._hazardous.add(envelope.uid)
            self._delivery.send(loaded.letters)

    def _verify(self, scan: Mapping[int, Envelope]) -> set[int]:
        """Re-read what has not been verified yet; what is not there loses its entry. Returns those source UIDs."""
        recorded = self._ledger.batches(self._folder_id)
        due = [b for b in recorded if b.state == BatchState.CONFIRMED or self._options.deep]
        if not due:
            return set()
        verdict = verify_folder(
            self._source.connection,
            self._target.connection,
            due,
            scan,
            self._landed.keywords,
            Delivered(self._sizes, self._hazardous, self._delivery.keywords_dropped),
            deep=self._options.deep,
        )
        fresh = {e.source_uid for b in due if b.state == BatchState.CONFIRMED for e in b.entries}
        # A message that had been verified before and is gone now was removed by the member: that is not ours to undo.
        lost = verdict.lost & fresh
        if lost:
            self._ledger.disown(self._folder_id, lost)
        kept = [b.id for b in due if any(entry.source_uid not in lost for entry in b.entries)]
        self._ledger.mark_verified(self._folder_id, kept, verdict.altered, verdict.read_back, afresh=self._options.deep)
        return lost & set(scan)

    def _tally(self, scan: Mapping[int, Envelope], settled: str) -> None:
        present = {uid: e for uid, e in scan.items() if uid not in self._gone}
        copied = adopted = 0
        for batch in self._ledger.batches(self._folder_id):
            count = sum(entry.source_uid in present for entry in batch.entries)
            if batch.kind == BatchKind.COPIED:
                copied += count
            else:
                adopted += count
        issues = sum(uid in present for uid in self._ledger.issues(self._folder_id))
        moments = [e.arrived for e in present.values() if e.arrived]
        complete = copied + adopted + issues == len(present)
        self._ledger.finish_folder(
            self._folder_id,
            FolderTally(
                source_messages=len(present),
                copied=copied,
                already_there=adopted,
                issues=issues,
                oldest=min(moments, default=None),
                newest=max(moments, default=None),
                settled=settled if complete else "",
            ),
        )
