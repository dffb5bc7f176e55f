"""Copies one mailbox: pair the folders, then for a group of them scan, recover, plan, copy, verify and count.

Every step asks for all folders of the group at once, so that distance costs by the step and not by the folder. A
thread reads batches from the source while this one writes them to the target. Everything that is true afterwards is in
the ledger; running again does only what is still missing.
"""

import contextlib
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, TypeVar

from imapcopy import budget
from imapcopy.account import Account
from imapcopy.budget import Allowance
from imapcopy.connection import Listing
from imapcopy.deliver import Delivery
from imapcopy.distant import is_large
from imapcopy.endpoint import TOKENS_IN_VAIN, Endpoint, source_endpoint, target_endpoint
from imapcopy.errors import (
    HOST_BUSY,
    ConnectionLost,
    FolderError,
    LeftOff,
    MemberError,
    MessageError,
    MigrationError,
    Stopped,
    is_of_the_folder,
)
from imapcopy.folder_pass import FolderPass
from imapcopy.folders import Folder, FolderPair, FolderPlan, Place, map_folders
from imapcopy.follow import Departed, Following, find_departed
from imapcopy.grammar import encode_mailbox
from imapcopy.identity import digest
from imapcopy.pipe import BytePipe, PipeClosed
from imapcopy.plan import Envelope, Existing, batches, groups
from imapcopy.read_source import Loaded, NobodyListens, SourceReader, Wish
from imapcopy.responses import FolderStatus
from imapcopy.send import Batch, Capacity, Writer, writer
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import TargetConnection
from imapcopy.verify import Due, verify_folders
from models.ledger import Ledger
from models.ledger_rows import BatchRecord, BatchState, FolderCopy, GivenUp
from models.places import FolderPlace
from models.probe import Known
from models.rules import FolderRules, Repair

BATCH_MESSAGES = 250
BATCH_BYTES = 3 << 20
AHEAD_BYTES = 4 << 20
"""How much one mailbox may have read and not yet handed to the target's connection."""
TRANSFERS = 2
"""How often a message that was not there when read back is sent, before it is an issue."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What the roster says about how a mailbox is to be copied."""

    root: str = ""
    exclude: tuple[str, ...] = ()
    since: date | None = None
    deep: bool = False
    """Read every byte back, not only the risky ones and a sample."""
    existing: Existing = "adopt"
    folders: FolderRules = field(default_factory=FolderRules)
    repair: Repair = "never"
    capacity: Capacity = field(default_factory=Capacity)
    known: Known = field(default_factory=Known)
    """What a probe has found out about the target."""


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
    """Bring the target up to the source; raise what stopped it, after all that could be done."""
    watch = watch or Watch()
    with source_endpoint(source) as from_source, target_endpoint(target) as to_target:
        old, new = _both(
            lambda: from_source.ask(SourceConnection.listing, statuses=True),
            lambda: to_target.ask(TargetConnection.listing, statuses=True),
        )
        # What was measured holds for the server that was measured.
        options = replace(options, known=options.known.of(to_target.connection.greeting))
        rows = ledger.folders()
        before = ledger.places()
        plan = plan_folders(from_source.connection, old, new, options, known_places(rows, before))
        pairs = plan.pairs
        statuses = old.statuses
        if statuses is None:
            statuses = from_source.ask(SourceConnection.statuses, [folder.raw for folder in plan.sources])
        # How many a view contributes is known only when it has been scanned.
        counted = [pair.source.raw for pair in pairs if not pair.source.elsewhere]
        watch.found(sum(statuses[raw].messages for raw in counted if raw in statuses))
        plan, refused = _created(to_target, plan)
        pairs = plan.pairs
        places = _Places(ledger, before)
        places.note(plan, statuses)
        failures: list[MigrationError] = list(refused.values())
        unchanged = _unchanged(pairs, statuses, to_target, new.statuses, rows, options)
        seen: list[int] = list(unchanged.values())
        changed = [p for p in pairs if p.source.raw not in unchanged and p.target_name not in refused]
        _recover_elsewhere(pairs, statuses, to_target, ledger, rows)
        listed = {folder.name: folder for folder in (*old.folders, *(pair.source for pair in pairs))}
        surroundings = _Surroundings(listed, statuses)
        counts = {raw: status.messages for raw, status in statuses.items()}
        for apart in _apart(changed):
            for group in groups(apart, lambda pair: counts.get(pair.source.raw, 0)):
                for folder in _Group(group, surroundings, from_source, to_target, ledger, options, watch).run():
                    if folder.failed:
                        failures.append(folder.failed)
                    else:
                        seen.append(folder.id)
                        places.count(folder.source, folder.elsewhere)
        places.note(plan, statuses)
        if failures:
            raise _all_of(failures)
        if left := [row.source_name for row in ledger.folders() if row.id not in seen]:
            there = {folder.name for folder in old.folders if folder.selectable}
            ledger.supersede_all_but(seen, set(left) - there)


def plan_folders(
    source: SourceConnection,
    old: Listing,
    new: Listing,
    options: CopyOptions,
    known: Mapping[str, Place] | None = None,
) -> FolderPlan:
    """Decide which folder goes where, from what both sides list and where folders went before."""
    if not any(folder.selectable for folder in old.folders):
        # There is always an INBOX (RFC 9051 section 5.1): this is no empty mailbox, but one that is not shown.
        raise MemberError("no_folders", "source", "", where=source.server.host)
    plan = map_folders(
        old.folders,
        new.folders,
        source_prefix=old.prefix,
        target_prefix=new.prefix,
        target_separator=new.separator,
        root=options.root,
        exclude=options.exclude,
        rules=options.folders,
        traits=source.provider.traits,
        known=known,
    )
    while foreseen := {p.target_name for p in plan.pairs if p.create and options.known.refuses(p.target_name)}:
        other = plan.renamed(foreseen)
        if other == plan:
            break
        plan = other
    return plan


def known_places(rows: Iterable[FolderCopy], places: Mapping[str, FolderPlace]) -> dict[str, Place]:
    """Where folders went before. Of a folder that a run made before it died, only the place may tell."""
    known = {name: Place(place.target_name, place.why) for name, place in places.items() if place.target_name}
    for row in rows:
        why = known[row.source_name].why if row.source_name in known else ""
        known[row.source_name] = Place(row.target_name, why)
    return known


def _created(target: Endpoint[TargetConnection], plan: FolderPlan) -> tuple[FolderPlan, dict[str, FolderError]]:
    """Create what the target lacks, under other names where it refuses the first; returns what it refuses for good."""
    refused: dict[str, FolderError] = {}
    first: dict[str, FolderError] = {}
    """By source folder: the answer to the name that it should have had."""
    asked: set[str] = set()
    while True:
        names = dict.fromkeys(p.target_name for p in plan.pairs if p.create and p.target_name not in asked)
        uses = {pair.target_name: pair.special_use for pair in plan.pairs if pair.special_use}
        subscribe = {pair.target_name for pair in plan.pairs if pair.subscribe} - asked
        asked.update(names, subscribe)
        if names or subscribe:
            # What was created before a session ended exists now, which is no failure.
            refused.update(target.ask(TargetConnection.create, names, uses, sorted(subscribe)))
        for pair in plan.pairs:
            if pair.target_name in refused:
                first.setdefault(pair.source.name, refused[pair.target_name])
        again = plan.renamed(refused) if refused else plan
        if again == plan:
            return plan, {p.target_name: first[p.source.name] for p in plan.pairs if p.target_name in refused}
        plan = again


class _Places:
    """What the report says about the places of folders; written down when it has changed."""

    def __init__(self, ledger: Ledger, before: Mapping[str, FolderPlace]) -> None:
        self._ledger = ledger
        self._before = {name: (row.target_name, row.why, row.messages) for name, row in before.items()}
        self._elsewhere = {name: row.messages for name, row in before.items() if row.target_name}

    def count(self, folder: Folder, elsewhere: int) -> None:
        """So many messages of a view are in other folders."""
        if folder.elsewhere:
            self._elsewhere[folder.name] = elsewhere

    def note(self, plan: FolderPlan, statuses: Mapping[bytes, FolderStatus]) -> None:
        now = {
            pair.source.name: (pair.target_name, pair.why, self._elsewhere.get(pair.source.name, 0))
            for pair in plan.pairs
            if pair.why
        }
        for each in plan.left_out:
            status = statuses.get(each.source.raw)
            now[each.source.name] = "", each.why, status.messages if status else 0
        if now != self._before:
            self._ledger.note_places([self._ledger.place(name, *place) for name, place in now.items()])
            self._before = now


def _apart(pairs: Iterable[FolderPair]) -> list[list[FolderPair]]:
    """Folders that share a target, one after the other: each has to know what the one before has brought there."""
    rounds: list[list[FolderPair]] = []
    met: Counter[str] = Counter()
    for pair in pairs:
        if met[pair.target_name] == len(rounds):
            rounds.append([])
        rounds[met[pair.target_name]].append(pair)
        met[pair.target_name] += 1
    return rounds


def _both(at_source: Callable[[], A], at_target: Callable[[], B]) -> tuple[A, B]:
    """Ask both servers at once; a failure at the source is told first."""
    with ThreadPoolExecutor(1) as other:
        asking = other.submit(at_target)
        told = at_source()
        return told, asking.result()


def _unchanged(
    pairs: Sequence[FolderPair],
    statuses: Mapping[bytes, FolderStatus],
    target: Endpoint[TargetConnection],
    told: Mapping[bytes, FolderStatus] | None,
    rows: Iterable[FolderCopy],
    options: CopyOptions,
) -> dict[bytes, int]:
    """Ledger ids of the folders in which nothing has happened since a pass left nothing to do, by raw name."""
    if options.deep:
        return {}
    known = {(folder.source_name, folder.target_name): folder for folder in rows}
    candidates: list[tuple[FolderPair, FolderCopy]] = []
    for pair in pairs:
        folder = known.get((pair.source.name, pair.target_name))
        status = statuses.get(pair.source.raw)
        # Without CONDSTORE nothing tells whether flags have changed but the flags.
        tells_flags = status is not None and status.highestmodseq
        if folder and folder.settled and tells_flags and folder.settled == _settled(status, options, pair.source):
            candidates.append((pair, folder))
    names = [encode_mailbox(pair.target_name) for pair, _ in candidates]
    targets = target.ask(TargetConnection.statuses, names) if told is None else told
    found = {}
    for (pair, folder), name in zip(candidates, names, strict=True):
        status = targets.get(name)
        if status and status.uidvalidity == folder.target_uidvalidity:
            found[pair.source.raw] = folder.id or 0
    return found


def _recover_elsewhere(
    pairs: Sequence[FolderPair],
    statuses: Mapping[bytes, FolderStatus],
    target: Endpoint[TargetConnection],
    ledger: Ledger,
    known: Iterable[FolderCopy],
) -> None:
    """Settle what an earlier run left open in folders that this pass does not meet under their names and UIDs again:
    otherwise nobody would know the copies when their messages turn up elsewhere.
    """
    met = {(pair.source.name, pair.target_name): statuses.get(pair.source.raw) for pair in pairs}
    rows = {}
    for row in known:
        status = met.get((row.source_name, row.target_name))
        if status is None or status.uidvalidity != row.source_uidvalidity:
            rows[row.id or 0] = row
    for folder_id, recorded in ledger.batches_of(rows).items():
        if not any(batch.state == BatchState.INTENDED for batch in recorded):
            continue
        try:
            target.ask(_recovered, target, ledger, rows[folder_id], recorded)
        except MigrationError as error:
            if not is_of_the_folder(error):
                raise


def _recovered(
    connection: TargetConnection,
    target: Endpoint[TargetConnection],
    ledger: Ledger,
    row: FolderCopy,
    recorded: Sequence[BatchRecord],
) -> None:
    """Look up what is open in a folder of the target, if it is still the same."""
    landed = connection.select(row.target_name)
    if landed.uidvalidity == row.target_uidvalidity:
        claimed = ledger.claimed_target_uids([row.target_name])[row.target_name, row.target_uidvalidity]
        Delivery(target, ledger, row, landed, recorded, claimed).recover(lambda uids: ())


def _settled(status: FolderStatus | None, options: CopyOptions, folder: Folder) -> str:
    """What must stay equal for a folder to need no second look."""
    if status is None:
        return ""
    told = asdict(status) | {"since": str(options.since)}
    if folder.elsewhere:
        # A folder that is not listed any more leaves its messages to the view.
        told["elsewhere"] = digest(b"\n".join(sorted(folder.elsewhere))).hex()
    return json.dumps(told, sort_keys=True)


def _all_of(failures: Sequence[MigrationError]) -> MigrationError:
    """One error for several folders: one that waiting mends first, and the names of the others."""
    first, *others = sorted(failures, key=lambda error: not error.retryable)
    if not others:
        return first
    names = ", ".join(repr(error.where) for error in others)
    return first.told_as(type(first), server_text=f"{first.server_text} (also {names})")


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """The whole mailbox at the source, of which a group is a part."""

    listed: Mapping[str, Folder]
    """By name."""
    statuses: Mapping[bytes, FolderStatus]


class _Group:
    """One pass over some folders."""

    def __init__(
        self,
        pairs: Sequence[FolderPair],
        surroundings: _Surroundings,
        source: Endpoint[SourceConnection],
        target: Endpoint[TargetConnection],
        ledger: Ledger,
        options: CopyOptions,
        watch: Watch,
    ) -> None:
        self._pairs = pairs
        self._surroundings = surroundings
        self._source = source
        self._target = target
        self._ledger = ledger
        self._options = options
        self._watch = watch
        self._folders: list[FolderPass] = []
        self._departed: Departed | None = None
        """Looked for when there is something to copy that may have come from there."""

    def run(self) -> list[FolderPass]:
        """Recover, plan, copy and verify; once more from the ledger, as long as broken connections let it get on."""
        arrived = -1
        tokens_ended = 0
        while True:
            self._watch.check()
            try:
                return self._run()
            except ConnectionLost as lost:
                # Either side may have ended a session that stood idle while the other was busy.
                done = sum(folder.arrived for folder in self._folders)
                end: Endpoint[Any] = self._source if lost.side == "source" else self._target
                tokens_ended = tokens_ended + 1 if end.may_be_the_token(lost) and done <= arrived else 0
                if lost.cause_id in HOST_BUSY or (done <= arrived and not 0 < tokens_ended <= TOKENS_IN_VAIN):
                    raise
                arrived = max(arrived, done)
            self._watch.check()
            self._source.reopen()
            self._target.reopen()

    def _run(self) -> list[FolderPass]:
        self._folders = self._opened()
        self._departed = None
        self._recover()
        left_off: LeftOff | None = None
        for transfer in range(1, TRANSFERS + 1):
            self._watch.check()
            # Before a second transfer too: what is not under its UID may be there under another.
            self._each(lambda folder: folder.adopt(self._source, self._target))
            try:
                self._copy()
            except LeftOff as limit:
                # What has arrived is verified now: a later pass would have to read all of it back.
                left_off = limit
            self._follow()
            self._each(lambda folder: folder.carry_flags(self._target))
            lost = self._verify()
            for folder in self._going:
                if alone := folder.settle_equals():
                    lost.setdefault(folder.id, set()).update(alone)
            if not lost or left_off:
                break
            if transfer == TRANSFERS:
                self._give_up(lost)
        self._each(lambda folder: folder.count_doubles())
        self._ledger.finish_folders([folder.finished() for folder in self._going])
        if left_off:
            raise left_off
        return self._folders

    @property
    def _going(self) -> list[FolderPass]:
        return [folder for folder in self._folders if not folder.failed]

    def _each(self, act: Callable[[FolderPass], object]) -> None:
        """Do something folder by folder; one that fails does not stop the others."""
        for folder in self._going:
            with _of(folder):
                act(folder)

    def _opened(self) -> list[FolderPass]:
        """Open all folders on both sides, scan the source's, and find their rows in the ledger."""
        before = {folder.source.raw: folder for folder in self._folders}
        pairs = {pair.source.raw: pair for pair in self._pairs}
        surveyed, landed = _both(
            lambda: dict(self._source.connection.survey(pair.source for pair in self._pairs)),
            lambda: dict(self._target.connection.select_each(pair.target_name for pair in self._pairs)),
        )
        folders = []
        for listed, survey in surveyed.items():
            pair = pairs[listed.raw]
            found = FolderPass(
                pair,
                _settled(self._surroundings.statuses.get(listed.raw), self._options, listed),
                self._options.since,
                deep=self._options.deep,
                existing=self._options.existing,
                repair=self._options.repair,
                known=self._options.known,
            )
            folders.append(found)
            with _of(found):
                found.open(survey, landed[pair.target_name], self._target)
                if listed.raw in before:
                    found.recall(before[listed.raw])
        going = [folder for folder in folders if not folder.failed]
        rows = self._ledger.open_folders([folder.key for folder in going])
        recorded = self._ledger.batches_of([row.id or 0 for row in rows])
        claimed = self._ledger.claimed_target_uids([row.target_name for row in rows])
        used = {row.target_name for row in self._ledger.folders(superseded=True) if row.superseded}
        for folder, row in zip(going, rows, strict=True):
            claims = claimed.get((row.target_name, row.target_uidvalidity), ())
            first = row.target_name not in used
            folder.enter(self._target, self._ledger, row, recorded[row.id or 0], claims, first=first)
        return folders

    def _recover(self) -> None:
        """Settle what an earlier run left open, among it copies that it was moving."""
        arrived = [entry for folder in self._going for entry in folder.unverified]
        self._each(lambda folder: arrived.extend(folder.recover(self._source)))
        if arrived and self._target.connection.can_move:
            self._following(self._find_departed()).tidy(arrived)

    def _find_departed(self) -> Departed:
        surroundings = self._surroundings
        scanned = {folder.id: folder.left for folder in self._going}
        return find_departed(
            self._source.connection,
            self._target.connection,
            surroundings.listed,
            surroundings.statuses,
            self._ledger,
            scanned,
        )

    def _following(self, departed: Departed) -> Following:
        return Following(self._target.connection, self._ledger, departed, [folder.delivery for folder in self._going])

    def _follow(self) -> None:
        """Let the copies of messages that were moved at the source follow them."""
        returned = {folder.id: folder.returned for folder in self._going if folder.returned}
        if not returned or self._departed is None:
            return
        following = self._following(self._departed)
        stays = following.follow(returned)
        for folder in self._going:
            folder.stay_behind(stays.get(folder.id, ()))
            folder.followed(following.moved[folder.id])

    def _copy(self) -> None:
        """Read in one thread, write in this one."""
        todo = {folder.source.raw: folder.sendable() for folder in self._going}
        if not any(todo.values()):
            return
        if self._departed is None:
            self._departed = self._find_departed()
        large = [(folder, e) for folder in self._going for e in todo[folder.source.raw] if is_large(e)]
        todo = {raw: [e for e in envelopes if not is_large(e)] for raw, envelopes in todo.items()}
        with Allowance(budget.PROCESS) as allowance:
            self._transfer(todo, allowance)
        for folder, envelope in large:
            self._watch.check()
            with _of(folder):
                self._copy_large(folder, envelope)

    def _copy_large(self, folder: FolderPass, envelope: Envelope) -> None:
        """Copy a message that is too large to be held, from piece to piece."""
        if folder.failed:
            return
        loaded = folder.load_large(self._source, envelope)
        folder.take(loaded, self._departed or Departed())
        try:
            if loaded.letters:
                folder.delivery.send(loaded.letters)
        except MigrationError as error:
            if error.side == "source":
                # The target waits for the rest of the octets, and stores nothing of them when it is left.
                self._target.forget()
            if not (error.side == "source" and isinstance(error, MessageError)):
                raise
            folder.note_gone(envelope.uid)

    def _transfer(self, todo: Mapping[bytes, Sequence[Envelope]], allowance: Allowance) -> None:
        capacity = self._options.capacity.within(self._options.known)
        out = writer(self._target, self._ledger, capacity, BATCH_MESSAGES, allowance.give)
        wishes = [
            Wish(folder.source, folder.key.source_uidvalidity, batch)
            for folder in self._going
            for batch in batches(todo[folder.source.raw], out.batch_messages, BATCH_BYTES)
        ]
        pipe: BytePipe[Loaded] = BytePipe(AHEAD_BYTES)
        reader = SourceReader(self._source, allowance, lambda: pipe.ended or self._watch.stop.is_set())
        reading = threading.Thread(target=self._read, args=(reader, wishes, pipe), name="read", daemon=True)
        reading.start()
        unfinished = True
        try:
            self._write(pipe, out, allowance)
            unfinished = False
        finally:
            # The reader may be waiting for a slow server: nobody wants that answer any more.
            unfinished = unfinished or not pipe.ended
            pipe.end()
            if unfinished:
                out.abandon()
                self._source.interrupt()
            reading.join()
            if unfinished:
                self._source.forget()
        self._watch.check()

    def _read(self, reader: SourceReader, wishes: Iterable[Wish], pipe: BytePipe[Loaded]) -> None:
        """Fill the pipe until the wishes end, the taker goes, or a stop is asked for. Runs in a thread of its own."""

        def wanted() -> Iterator[Wish]:
            for wish in wishes:
                if self._watch.stop.is_set():
                    return
                yield wish

        try:
            with ThreadPoolExecutor(1, "identify") as other:
                # Identified while the next batch is being read, and handed on as soon as that is done.
                under_way: deque[Future[None]] = deque()
                for loaded in reader.read(wanted()):
                    if len(under_way) > 1:
                        under_way.popleft().result()
                    under_way.append(other.submit(_hand_over, loaded, pipe))
                    if self._watch.stop.is_set():
                        break
                for handing_over in under_way:
                    handing_over.result()
        except (PipeClosed, NobodyListens):
            pipe.end()
        except BaseException as error:  # noqa: BLE001  (handed to the writing thread, which raises it)
            pipe.end(error)
        else:
            pipe.end()

    def _write(self, pipe: BytePipe[Loaded], out: Writer, allowance: Allowance) -> None:
        by_name = {folder.source.raw: folder for folder in self._folders}
        departed = self._departed or Departed()
        try:
            # What is settled meanwhile makes room for what the reader may be waiting to ask for.
            for parcel in pipe.together(_fits, while_empty=out.rest):
                taken = [(by_name[loaded.folder.raw], loaded) for loaded in parcel]
                for folder, loaded in taken:
                    folder.take(loaded, departed)
                allowance.give(sum(loaded.held for _, loaded in taken if not loaded.letters))
                out.send(
                    [Batch(folder.delivery, loaded.letters, loaded.held) for folder, loaded in taken if loaded.letters]
                )
                self._watch.check()
        except (MigrationError, Stopped):
            # What is under way is known best now; a second failure has nothing to add.
            with contextlib.suppress(MigrationError):
                out.finish()
            raise
        out.finish()

    def _verify(self) -> dict[int, set[int]]:
        """Re-read what has not been verified yet; what is not there loses its entry. Lost source UIDs by folder id."""
        dues: list[Due] = []
        folders: list[FolderPass] = []
        for folder in self._going:
            if due := folder.due():
                dues.append(due)
                folders.append(folder)
        lost: dict[int, set[int]] = {}
        if not dues:
            return lost
        source, target = self._source.connection, self._target.connection
        for folder, (due, verdict) in zip(
            folders, verify_folders(source, target, dues, deep=self._options.deep), strict=True
        ):
            with _of(folder):
                if isinstance(verdict, MigrationError):
                    raise verdict
                if gone := folder.judged(due, verdict):
                    lost[folder.id] = gone
                folder.restore_flags(self._target, verdict)
        return lost

    def _give_up(self, lost: Mapping[int, set[int]]) -> None:
        for folder in self._going:
            left_behind = [
                GivenUp(uid, "lost_at_target", "", folder.scan[uid].size, folder.scan[uid].arrived)
                for uid in sorted(lost.get(folder.id, ()))
            ]
            folder.stay_behind(left_behind)


@contextlib.contextmanager
def _of(folder: FolderPass) -> Iterator[None]:
    """A failure in here that reaches no further than the folder is noted; the others go on."""
    try:
        yield
    except MigrationError as error:
        if not is_of_the_folder(error):
            raise
        folder.failed = error


def _hand_over(loaded: Loaded, pipe: BytePipe[Loaded]) -> None:
    pipe.put(loaded.identified(), loaded.size)


def _fits(batches: Sequence[Loaded], loaded: Loaded) -> bool:
    """Whether a batch can still be handed over and written down with these: small folders go together."""
    messages = sum(len(batch.letters) for batch in (*batches, loaded))
    return messages <= BATCH_MESSAGES and sum(batch.size for batch in (*batches, loaded)) <= BATCH_BYTES
