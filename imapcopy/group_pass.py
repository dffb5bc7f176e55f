"""One pass over some folders: scan, recover, plan, copy, verify and count.

Every step asks for all folders of the group at once, so that distance costs by the step and not by the folder. A
thread reads batches from the source while this one writes them to the target.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from imapcopy import budget
from imapcopy.budget import Allowance
from imapcopy.copy_options import CopyOptions, Watch
from imapcopy.created import Created
from imapcopy.distant import is_large
from imapcopy.endpoint import Endpoint, ask_both
from imapcopy.errors import (
    HOST_BUSY,
    ConnectionLost,
    FolderError,
    LeftOff,
    MessageError,
    MigrationError,
    Stopped,
    UnreadableAnswer,
    is_of_the_folder,
)
from imapcopy.folder_pass import FolderPass, settled_as
from imapcopy.folders import Folder, FolderPair
from imapcopy.follow import Departed, Following, find_departed, has_known
from imapcopy.letter import Letter
from imapcopy.pipe import BytePipe, PipeClosed
from imapcopy.plan import Envelope, batches
from imapcopy.read_source import BROKEN, Loaded, NobodyListens, SourceReader, Wish
from imapcopy.responses import FolderStatus, Selected
from imapcopy.send import Batch, Writer, writer
from imapcopy.set_apart import ask_each
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.target_connection import TargetConnection
from imapcopy.verify import Due, verify_folders
from models.ledger import Ledger
from models.ledger_rows import Entry, GivenUp

T = TypeVar("T")

BATCH_MESSAGES = 250
BATCH_BYTES = 3 << 20
AHEAD_BYTES = 4 << 20
"""How much one mailbox may have read and not yet handed to the target's connection."""
TRANSFERS = 2
"""How often a message that was not there when read back is sent, before it is an issue."""


Survey = Surveyed | MigrationError


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The whole mailbox at the source, of which a group is a part."""

    listed: Mapping[str, Folder]
    """By name."""
    statuses: dict[bytes, FolderStatus]
    """As they were told last."""
    created: Created


class GroupPass:
    """One pass over some folders."""

    def __init__(
        self,
        pairs: Sequence[FolderPair],
        surroundings: Surroundings,
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
        self._known: set[str] = set()
        """Source folders, of this group or others, of which the ledger knows messages."""
        self._left_out: list[FolderPass] = []
        """Folders in which a server said what cannot be read."""
        self._departed: Departed | None = None
        """Looked for when there is something to copy that may have come from there."""

    def run(self) -> list[FolderPass]:
        """Recover, plan, copy and verify; once more from the ledger, as long as broken connections let it get on."""
        arrived = -1
        in_vain = 0
        while True:
            self._watch.check()
            try:
                return self._run()
            except ConnectionLost as lost:
                if self._leave_out(lost):
                    self._source.reopen()
                    self._target.reopen()
                    continue
                # Either side may have ended a session that stood idle while the other was busy.
                done = sum(folder.arrived for folder in self._folders)
                end: Endpoint[Any] = self._source if lost.side == "source" else self._target
                in_vain = in_vain + 1 if done <= arrived else 0
                if lost.cause_id in HOST_BUSY or (in_vain and not end.may_go_on(lost, in_vain)):
                    raise
                arrived = max(arrived, done)
            self._watch.check()
            self._source.reopen()
            self._target.reopen()

    def _leave_out(self, lost: ConnectionLost) -> bool:
        """Go on without the folder in which something could not be read: asked again it would be the same."""
        if not isinstance(lost, UnreadableAnswer):
            return False
        for pair in self._pairs:
            if lost.where == (pair.source.name if lost.side == "source" else pair.target_name):
                self._left_out.append(self._pass_over(pair))
                self._left_out[-1].failed = lost.told_as(FolderError, where=pair.source.name)
                self._pairs = [other for other in self._pairs if other is not pair]
                return True
        return False

    def _run(self) -> list[FolderPass]:
        self._folders = self._opened()
        self._departed = None
        self._recover()
        left_off: LeftOff | None = None
        for transfer in range(1, TRANSFERS + 1):
            self._watch.check()
            # Before a second transfer too: what is not under its UID may be there under another.
            self._adopt()
            to_be_sent = True
            while to_be_sent and not left_off:
                try:
                    self._copy()
                except LeftOff as limit:
                    # What has arrived is verified now: a later pass would have to read all of it back.
                    left_off = limit
                # Again where there are more equal messages than such as have moved.
                to_be_sent = self._follow()
            self._each(lambda folder: folder.take_back())
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
        self._each(lambda folder: folder.count_gone(self._source))
        self._each(lambda folder: folder.tell(self._source))
        self._ledger.finish_folders([folder.finished() for folder in self._going])
        if left_off:
            raise left_off
        return [*self._folders, *self._left_out]

    @property
    def _going(self) -> list[FolderPass]:
        return [folder for folder in self._folders if not folder.failed]

    def _each(self, act: Callable[[FolderPass], object]) -> None:
        """Do something folder by folder; one that fails does not stop the others."""
        for folder in self._going:
            with _of(folder):
                self._once_more(partial(act, folder))

    def _once_more(self, act: Callable[[], T]) -> T:
        """Do what can be done again; where a session ends with it, over sessions that nothing else has used up."""
        try:
            return act()
        except ConnectionLost as lost:
            if lost.cause_id in HOST_BUSY:
                raise
        self._watch.check()
        self._source.forget()
        self._target.forget()
        return act()

    def _opened(self) -> list[FolderPass]:
        """Open all folders on both sides, scan the source's, and find their rows in the ledger."""
        before = {folder.source.raw: folder for folder in self._folders}
        created = self._surroundings.created
        self._pairs = created.now(self._pairs)
        pairs = {pair.source.raw: pair for pair in self._pairs}
        surveyed, landed = ask_both(self._surveyed, self._landed)
        if not before:
            landed |= created.found(self._pairs, landed)
            self._pairs = created.now(self._pairs)
            pairs = {pair.source.raw: pair for pair in self._pairs}
        folders = []
        for listed, survey in surveyed.items():
            pair = pairs[listed.raw]
            found = self._pass_over(pair)
            folders.append(found)
            with _of(found):
                found.open(survey, landed[pair.target_name], self._target)
                if listed.raw in before:
                    found.recall(before[listed.raw])
        going = [folder for folder in folders if not folder.failed]
        rows = self._ledger.open_folders([folder.key for folder in going])
        recorded = self._ledger.batches_of([row.id or 0 for row in rows])
        claimed = self._ledger.claimed_target_uids([row.target_name for row in rows])
        every = self._ledger.folders(superseded=True)
        used = {row.target_name for row in every if row.superseded}
        self._known = {row.source_name for row in every if has_known(row)}
        for folder, row in zip(going, rows, strict=True):
            claims = claimed.get((row.target_name, row.target_uidvalidity), ())
            first = row.target_name not in used
            folder.enter(self._target, self._ledger, row, recorded[row.id or 0], claims, first=first)
        return folders

    def _pass_over(self, pair: FolderPair) -> FolderPass:
        options = self._options
        return FolderPass(
            pair,
            settled_as(self._surroundings.statuses.get(pair.source.raw), options.since, pair.source),
            options.since,
            deep=options.deep,
            existing=options.existing,
            repair=options.repair,
            known=options.known,
        )

    def _surveyed(self) -> dict[Folder, Survey]:
        def ask(connection: SourceConnection, some: Sequence[Folder]) -> Iterator[tuple[Folder, Survey]]:
            return connection.survey(some, self._surroundings.statuses)

        return dict(ask_each(self._source, [p.source for p in self._pairs], ask, lambda folder: folder.name))

    def _landed(self) -> dict[str, Selected | MigrationError]:
        names = list(dict.fromkeys(pair.target_name for pair in self._pairs))
        return dict(ask_each(self._target, names, TargetConnection.select_each, lambda name: name))

    def _recover(self) -> None:
        """Settle what an earlier run left open, among it copies that it was moving."""
        arrived = [entry for folder in self._going for entry in folder.unverified]
        self._each(lambda folder: arrived.extend(folder.recover(self._source)))
        if arrived and self._target.connection.can_move:
            self._following(self._find_departed()).tidy(arrived)

    def _adopt(self) -> None:
        """Recognise mail that was at the target before, among it copies that the member has moved as at the source."""
        adopted: list[Entry] = []
        self._each(lambda folder: adopted.extend(folder.adopt(self._source, self._target)))
        if adopted and self._known:
            self._following(self._look_for_departed()).tidy(adopted)

    def _look_for_departed(self) -> Departed:
        if self._departed is None:
            self._ask_anew()
            self._departed = self._find_departed()
        return self._departed

    def _ask_anew(self) -> None:
        """Learn what has left its folder since that was surveyed: it may stand in the survey of a later one, too."""
        surroundings = self._surroundings
        going = {folder.source.raw: folder for folder in self._going if folder.left}
        others = {surroundings.listed[name].raw for name in self._known if name in surroundings.listed}
        # What refused to tell, or fell silent, would do so again.
        names = (others | going.keys()) & surroundings.statuses.keys()
        if len(names) < 2:
            return
        if self._source.connection.selected != self._pairs[-1].source.raw:
            # What has left the folder that was surveyed last is in no later survey.
            self._source.again(SourceConnection.refresh)
        surroundings.statuses.update(now := self._statuses_now(names))
        doubtful = [folder for raw, folder in going.items() if raw in now and folder.may_have_lost(now[raw])]
        sources = [folder.source for folder in doubtful]
        for listed, survey in self._source.each(sources, lambda source, folders: source.survey(folders, now)):
            folder = going[listed.raw]
            # One that cannot be opened any more fails when it is read; of what is not told nothing is concluded.
            if isinstance(survey, MigrationError) or survey.hidden:
                continue
            if survey.opened.uidvalidity == folder.key.source_uidvalidity:
                folder.keep_only({envelope.uid for envelope in survey.scan})

    def _statuses_now(self, names: Collection[bytes]) -> Mapping[bytes, FolderStatus]:
        if self._source.connection.has("LIST-STATUS"):
            return self._source.again(SourceConnection.statuses_now, names)
        told = self._source.each(names, SourceConnection.each_status)
        return {name: status for name, status in told if status}

    def _find_departed(self) -> Departed:
        return self._once_more(self._departed_now)

    def _departed_now(self) -> Departed:
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

    def _follow(self) -> bool:
        """Let the copies of messages that were moved at the source follow them; whether some have to be sent."""
        returned = {folder.id: folder.returned for folder in self._going if folder.returned}
        if not returned or self._departed is None:
            return False
        following = self._following(self._departed)
        stays = following.follow(returned)
        for folder in self._going:
            folder.stay_behind(stays.get(folder.id, ()))
            folder.followed(following.moved[folder.id])
        return following.left_over

    def _copy(self) -> None:
        """Read in one thread, write in this one."""
        if not any(folder.todo() for folder in self._going):
            return
        self._look_for_departed()
        todo = {folder.source.raw: folder.sendable() for folder in self._going}
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
        for letter in loaded.letters:
            with contextlib.closing(letter):
                if self._is_sent(folder, letter):
                    continue
                # What came was not what had come before: it is gone, or comes whole.
                reread = folder.load_large(self._source, envelope, letter)
                folder.reread(reread)
                if reread.letters and not self._is_sent(folder, letter):
                    folder.stay_behind([GivenUp(letter.uid, "source_unreadable", "", envelope.size, envelope.arrived)])

    def _is_sent(self, folder: FolderPass, letter: Letter) -> bool:
        """Send a large message; whether the source still gave what it had given."""
        try:
            folder.delivery.send([letter])
        except MigrationError as error:
            if not (error.side == "source" and (isinstance(error, MessageError) or error.cause_id in BROKEN)):
                raise
            return False
        return True

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

        def rest() -> None:
            self._watch.check()
            out.rest()

        try:
            # What is settled meanwhile makes room for what the reader may be waiting to ask for.
            for parcel in pipe.together(_fits, while_empty=rest):
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
        session = self._target.connection
        verdicts = verify_folders(self._source, self._target, dues, deep=self._options.deep)
        for folder, (due, verdict) in zip(folders, verdicts, strict=True):
            with _of(folder):
                if isinstance(verdict, MigrationError):
                    if verdict.cause_id == "folder_missing" and self._target.connection is not session:
                        # The session ended because the folder is another one: what is known of it is worth nothing.
                        raise verdict.told_as(ConnectionLost)
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
