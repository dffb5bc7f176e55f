"""The ledger: what was intended, confirmed, adopted or given up. The only truth about a copy.

The unit is the batch: consecutive messages of one folder that were handed over together, as UID sets in append order
with a 16-byte digest a message. `intend` is committed before the first byte goes out and `confirm` after the server's
answer, so a batch found intended is one whose outcome must be looked up at the target, never sent again blindly.
Every write checks the runner's fencing token first.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, ColumnElement, Engine, bindparam, case, delete, insert, update
from sqlmodel import Session, SQLModel, col, select

from models import steps
from models.columns import now
from models.database import reading, writing
from models.flag_sets import Flags, format_flags, parse_flags
from models.ledger_rows import (
    BENIGN,
    DIGEST_BYTES,
    MOVED,
    SEEN_ONCE,
    Altered,
    Batch,
    BatchKind,
    BatchRecord,
    BatchState,
    Doubt,
    Entry,
    Finished,
    FolderCopy,
    FolderKey,
    GivenUp,
    Heading,
    Intended,
    MessageAlteration,
    MessageIssue,
    MessageRepair,
    Settled,
)
from models.member import lease_seconds, renew_lease
from models.places import FolderPlace, replace_places
from models.uid_sets import format_uids, parse_uids

LEASE_FRESH = 0.1
"""A lease that was renewed within so much of its time need not be renewed again."""
LEASE_SAFE = 0.5
"""A lease that was renewed within so much of its time cannot have gone to another runner."""

UNLISTED = frozenset({"doubled"})
"""Alterations that are counted by second copies, of which one message may have several."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, as the lease does."""


class Ledger:
    """The ledger of one member, written by its one runner.

    Where it `keeps_subjects`, messages that need somebody's eye are written down with subject and sender; else nobody
    can make it do so.
    """

    def __init__(self, engine: Engine, member_id: int, token: int, *, keeps_subjects: bool = True) -> None:
        self._engine = engine
        self._member_id = member_id
        self._token = token
        self.keeps_subjects = keeps_subjects
        self._renewed = float("-inf")

    @contextmanager
    def _fenced(self) -> Iterator[Session]:
        """A writing transaction that LeaseLost ends when another runner has taken over."""
        moment = time.clock_gettime(_CLOCK)
        with writing(self._engine, alone=False) as session:
            renew_lease(session, self._member_id, self._token)
            yield session
            steps.passed(steps.COMMITTING)
        steps.passed(steps.COMMITTED)
        self._renewed = moment

    def check_lease(self) -> None:
        """Raise LeaseLost when another runner has taken over; renew the lease otherwise."""
        with self._fenced():
            pass

    def keep_lease(self) -> None:
        """check_lease(), unless it was renewed so recently that nobody else can have it: cheap before each message."""
        if self._lease_age() <= LEASE_FRESH:
            return
        self.check_lease()
        # This process may have been stopped between that transaction and here.
        while self._lease_age() > LEASE_SAFE:
            self.check_lease()

    def _lease_age(self) -> float:
        """How long ago the lease was renewed, in parts of its time."""
        return (time.clock_gettime(_CLOCK) - self._renewed) / lease_seconds()

    def open_folder(
        self, source_name: str, source_uidvalidity: int, target_name: str, target_uidvalidity: int
    ) -> FolderCopy:
        """`open_folders` for one."""
        return self.open_folders([FolderKey(source_name, source_uidvalidity, target_name, target_uidvalidity)])[0]

    def open_folders(self, keys: Sequence[FolderKey]) -> list[FolderCopy]:
        """The row of each folder pair; rows of the same source folder under other UIDVALIDITYs are superseded."""
        wanted = {key.source_name: key for key in keys}
        with self._fenced() as session:
            found: dict[FolderKey, FolderCopy] = {}
            for row in session.exec(select(FolderCopy).where(FolderCopy.member_id == self._member_id)):
                if row.source_name in wanted:
                    key = _key(row)
                    row.superseded = key != wanted[row.source_name]
                    if row.superseded:
                        row.gone = row.strayed = ""
                    session.add(row)
                    if not row.superseded:
                        found[key] = row
            session.flush()
            if fresh := [{"member_id": self._member_id, **key._asdict()} for key in keys if key not in found]:
                # By the table, and read back: to make an object takes several times as long as to load it.
                ids = session.connection().execute(_OPEN, fresh).scalars().all()
                for some in _chunks(list(ids), 1000):
                    for row in session.exec(select(FolderCopy).where(col(FolderCopy.id).in_(some))):
                        found[_key(row)] = row
            return [found[key] for key in keys]

    def folders(self, *, superseded: bool = False) -> list[FolderCopy]:
        """Every current folder of the member; with `superseded` those that were before them, too."""
        query = select(FolderCopy).where(FolderCopy.member_id == self._member_id).order_by(col(FolderCopy.id))
        with reading(self._engine) as session:
            return list(session.exec(query if superseded else query.where(col(FolderCopy.superseded).is_(False))))

    def supersede_all_but(self, folder_ids: Sequence[int], deleted: Collection[str] = ()) -> None:
        """Stop counting folders that are no longer to be moved; of those `deleted` at the source all mail is gone."""
        with self._fenced() as session:
            for row in session.exec(select(FolderCopy).where(FolderCopy.member_id == self._member_id)):
                if row.id not in folder_ids and not row.superseded:
                    row.superseded = True
                    row.gone = _all_uids(session, _id(row.id)) if row.source_name in deleted else ""
                    row.strayed = row.strayed if row.gone else ""
                    session.add(row)

    def places(self) -> dict[str, FolderPlace]:
        """What was written down about folders that have another place than their name says, by source name."""
        with reading(self._engine) as session:
            rows = session.exec(select(FolderPlace).where(FolderPlace.member_id == self._member_id))
            return {row.source_name: row for row in rows}

    def note_places(self, places: Sequence[FolderPlace]) -> None:
        """Commit these as all there is to say about the places of the member's folders."""
        with self._fenced() as session:
            replace_places(session, self._member_id, places)

    def place(self, source_name: str, target_name: str, why: str, messages: int = 0) -> FolderPlace:
        """A row to be noted."""
        return FolderPlace(
            member_id=self._member_id, source_name=source_name, target_name=target_name, why=why, messages=messages
        )

    def batches(self, folder_id: int) -> list[BatchRecord]:
        """Every batch of a folder, oldest first."""
        return self.batches_of([folder_id])[folder_id]

    def batches_of(self, folder_ids: Collection[int]) -> dict[int, list[BatchRecord]]:
        """Every batch of each folder, oldest first."""
        found: dict[int, list[BatchRecord]] = {folder_id: [] for folder_id in folder_ids}
        if not found:
            return found
        with reading(self._engine) as session:
            rows = session.exec(select(Batch).where(col(Batch.folder_copy_id).in_(folder_ids)).order_by(col(Batch.id)))
            for row in rows:
                found[row.folder_copy_id].append(_record(row))
            mended = session.exec(select(MessageRepair).where(col(MessageRepair.folder_copy_id).in_(folder_ids))).all()
        for repair in mended:
            # Few if any: repairs are for what a target refuses.
            found[repair.folder_copy_id] = [_with_repair(batch, repair) for batch in found[repair.folder_copy_id]]
        return found

    def claimed_target_uids(self, target_names: Collection[str]) -> dict[tuple[str, int], set[int]]:
        """Target UIDs that stand for a source message of a current folder, by target folder and its UIDVALIDITY."""
        found: dict[tuple[str, int], set[int]] = defaultdict(set)
        with reading(self._engine) as session:
            rows = session.exec(
                select(FolderCopy.target_name, FolderCopy.target_uidvalidity, Batch.target_uids)
                .join(Batch, col(FolderCopy.id) == col(Batch.folder_copy_id))
                .where(
                    FolderCopy.member_id == self._member_id,
                    col(FolderCopy.target_name).in_(target_names),
                    col(FolderCopy.superseded).is_(False),
                )
            )
            for name, uidvalidity, uids in rows:
                found[name, uidvalidity].update(parse_uids(uids))
        return found

    def issues(self, folder_id: int) -> dict[int, MessageIssue]:
        """Messages of a folder that were given up, by source UID."""
        with reading(self._engine) as session:
            rows = session.exec(select(MessageIssue).where(MessageIssue.folder_copy_id == folder_id))
            return {row.source_uid: row for row in rows}

    def moved_issues(self, folder_ids: Collection[int]) -> list[tuple[int, int, bytes]]:
        """Folder, source UID and digest of each message that stays behind because it was moved at the source."""
        if not folder_ids:
            return []
        with reading(self._engine) as session:
            rows = session.exec(
                select(MessageIssue.folder_copy_id, MessageIssue.source_uid, MessageIssue.digest).where(
                    col(MessageIssue.folder_copy_id).in_(folder_ids), MessageIssue.cause == MOVED
                )
            )
            return [(folder_id, uid, digest) for folder_id, uid, digest in rows if digest]

    def depart(self, source_uids: Mapping[int, Collection[int]]) -> None:
        """Note what has left folders, by their ids, since they were finished."""
        if not source_uids:
            return
        with self._fenced() as session:
            for folder_id, uids in source_uids.items():
                folder = session.get_one(FolderCopy, folder_id)
                gone = set(parse_uids(folder.gone))
                if not folder.superseded and (fresh := set(uids) - gone):
                    for batch in session.exec(select(Batch).where(Batch.folder_copy_id == folder_id)):
                        departed = len(fresh.intersection(parse_uids(batch.source_uids)))
                        folder.source_messages -= departed
                        if batch.kind == BatchKind.COPIED:
                            folder.copied -= departed
                        else:
                            folder.already_there -= departed
                    _note_gone(folder, gone | fresh)
                    session.add(folder)

    def note_strayed(self, source_uids: Mapping[int, Collection[int]]) -> None:
        """Commit which of the messages that have left folders, by their ids, were moved without their copies."""
        if source_uids:
            with self._fenced() as session:
                for folder_id, uids in source_uids.items():
                    strayed = format_uids(sorted(uids))
                    session.exec(update(FolderCopy).where(col(FolderCopy.id) == folder_id).values(strayed=strayed))

    def intend(
        self, folder_id: int, source_uids: Sequence[int], digests: Sequence[bytes], size: int, uidnext: int
    ) -> int:
        """`advance` for one batch that is about to be sent; returns its id."""
        return self.advance([], [Intended(folder_id, source_uids, digests, size, uidnext)])[0]

    def confirm(
        self, batch_id: int, arrived: Sequence[Entry], given_up: Sequence[GivenUp] = (), size: int | None = None
    ) -> None:
        """`advance` for one batch whose end is known; `size` is None where the octets are not known any more."""
        with reading(self._engine) as session:
            batch = session.get_one(Batch, batch_id)
        if size is None:
            size = _share(batch.bytes, len(arrived), len(parse_uids(batch.source_uids)))
        self.advance([Settled(batch_id, batch.folder_copy_id, arrived, size, given_up)])

    def advance(self, settled: Sequence[Settled], intended: Sequence[Intended] = ()) -> list[int]:
        """Commit what became of batches, and what is to be sent next; returns the ids of the latter, in order."""
        with self._fenced() as session:
            return _advance(session, settled, intended, keeps_subjects=self.keeps_subjects)

    def adopt(self, folder_id: int, entries: Sequence[Entry]) -> int:
        """Commit that these source messages were at the target before us; returns the batch's id, 0 for none."""
        if not entries:
            return 0
        with self._fenced() as session:
            return _adopt(session, folder_id, entries)

    def follow(
        self,
        settled: Sequence[Settled],
        rebound: Mapping[int, Sequence[Entry]],
        left: Mapping[int, Collection[int]],
    ) -> dict[int, int]:
        """Commit that messages which were moved at the source stand for the copies that were made of them before.

        `settled` are batches whose copies were moved after them, `rebound` entries of folders where the copies lie
        already; `left` are the source UIDs, by folder, under which they were known. All in one transaction, because
        a copy that stands for two messages would hide a missing one. Returns the ids of new batches by folder.
        """
        with self._fenced() as session:
            _advance(session, settled, (), keeps_subjects=self.keeps_subjects)
            arrived = [(each.folder_id, each.arrived) for each in settled]
            _let_alterations_follow(session, left, [*arrived, *rebound.items()], keeps_subjects=self.keeps_subjects)
            for folder_id, source_uids in left.items():
                _take_out(session, folder_id, source_uids)
            return {folder_id: _adopt(session, folder_id, entries) for folder_id, entries in rebound.items()}

    def note_flags(self, flags: Mapping[int, Sequence[Flags]]) -> None:
        """Commit the flags that the messages of batches have at the source, once they were carried over."""
        if flags:
            with self._fenced() as session:
                values = [{"batch_id": batch_id, "flags": format_flags(each)} for batch_id, each in flags.items()]
                session.connection().execute(_NOTE_FLAGS, values)

    def give_up(self, folder_id: int, messages: Sequence[GivenUp]) -> None:
        """Commit messages that stay behind, each with its reason."""
        if messages:
            with self._fenced() as session:
                folder = session.get_one(FolderCopy, folder_id)
                folder.issues += len(messages)
                session.add(folder)
                session.add_all(_issue(folder_id, each, keeps_subjects=self.keeps_subjects) for each in messages)

    def withdraw(self, folder_id: int, source_uids: Collection[int]) -> None:
        """Take back that messages stay behind: not they were to blame. The next plan sends them again."""
        if not source_uids:
            return
        with self._fenced() as session:
            of_the_folder = delete(MessageIssue).where(col(MessageIssue.folder_copy_id) == folder_id)
            gone = session.exec(of_the_folder.where(col(MessageIssue.source_uid).in_(source_uids)))
            folder = session.get_one(FolderCopy, folder_id)
            folder.issues -= gone.rowcount
            folder.settled = ""
            session.add(folder)

    def unnamed_issues(self, folder_id: int) -> dict[int, str]:
        """Causes of the messages of a folder that stay behind and whose subjects nobody has looked for, by UID."""
        with reading(self._engine) as session:
            rows = session.exec(
                select(MessageIssue.source_uid, MessageIssue.cause)
                .where(MessageIssue.folder_copy_id == folder_id, col(MessageIssue.subject).is_(None))
                .order_by(col(MessageIssue.source_uid))
            )
            return dict(iter(rows))

    def name_issues(self, folder_id: int, headings: Mapping[int, Heading]) -> None:
        """Commit subjects and senders of messages that stay behind."""
        if headings and self.keeps_subjects:
            with self._fenced() as session:
                session.connection().execute(
                    _NAME_ISSUE,
                    [
                        {"folder": folder_id, "uid": uid, "its_subject": subject, "its_sender": sender}
                        for uid, (subject, sender) in headings.items()
                    ],
                )

    def note_altered(self, folder_id: int, messages: Sequence[Altered]) -> None:
        """Commit what became of messages at the target; what is known of one already is neither lost nor told twice."""
        if messages:
            with self._fenced() as session:
                _note_altered(session, folder_id, messages, keeps_subjects=self.keeps_subjects)

    def take_back(self, folder_id: int, name: str, source_uids: Collection[int]) -> None:
        """Commit that the target's server has not altered these messages so after all."""
        if not source_uids:
            return
        with self._fenced() as session:
            folder = session.get_one(FolderCopy, folder_id)
            rows = [row for row in _altered_rows(session, folder_id, source_uids).values() if name in _names(row)]
            for row in rows:
                if rest := _names(row) - {name}:
                    _rename(row, rest)
                    session.add(row)
                else:
                    session.delete(row)
            _count_altered(folder, {name: -len(rows)})
            session.add(folder)

    def altered(self, folder_id: int) -> dict[int, MessageAlteration]:
        """Messages of a folder that arrived otherwise than they were, by source UID."""
        with reading(self._engine) as session:
            rows = session.exec(select(MessageAlteration).where(MessageAlteration.folder_copy_id == folder_id))
            return {row.source_uid: row for row in rows}

    def reopen_issues(self) -> int:
        """Forget every given-up message of the member, so that the next pass tries it again; returns how many."""
        with self._fenced() as session:
            reopened = 0
            for folder in session.exec(select(FolderCopy).where(FolderCopy.member_id == self._member_id)):
                gone = session.exec(delete(MessageIssue).where(col(MessageIssue.folder_copy_id) == folder.id))
                if gone.rowcount:
                    folder.issues = 0
                    folder.settled = ""
                    session.add(folder)
                    reopened += gone.rowcount
            return reopened

    def doubt(self, folder_id: int, doubt: Doubt) -> None:
        """Commit a doubt, before anything is sent again; `finish_folders` ends it or lets it stand."""
        with self._fenced() as session:
            session.exec(
                update(FolderCopy).where(col(FolderCopy.id) == folder_id).values(settled="", doubt=doubt.written())
            )

    def disown(self, folder_id: int, source_uids: Collection[int]) -> None:
        """Take messages out of their batches that are not at the target after all; the next plan sends them again."""
        with self._fenced() as session:
            _take_out(session, folder_id, source_uids, to_be_sent=True)

    def finish_folders(self, finished: Sequence[Finished]) -> None:
        """Commit folders after a pass: what was re-read from the target, and their numbers."""
        if not finished:
            return
        with self._fenced() as session:
            verified = [batch_id for each in finished for batch_id in each.verified]
            for some in _chunks(verified, 1000):
                session.exec(update(Batch).where(col(Batch.id).in_(some)).values(state=BatchState.VERIFIED))
            by_id = {each.folder_id: each for each in finished}
            for some in _chunks(list(by_id), 1000):
                for folder in session.exec(select(FolderCopy).where(col(FolderCopy.id).in_(some))):
                    _finish(session, folder, by_id[_id(folder.id)])
                    session.add(folder)
            for each in finished:
                _forget_issues(session, each)


def _advance(
    session: Session, settled: Sequence[Settled], intended: Sequence[Intended], *, keeps_subjects: bool
) -> list[int]:
    changed: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in settled:
        numbers = changed[each.folder_id]
        numbers[0] += len(each.arrived)
        numbers[1] += each.size if each.arrived else 0
        numbers[2] += len(each.given_up)
        session.add_all(_issue(each.folder_id, some, keeps_subjects=keeps_subjects) for some in each.given_up)
        _note_repairs(session, each.folder_id, each.arrived)
    # By the table and not by its class: this runs for every batch, and objects are four times as dear.
    connection = session.connection()
    if confirmed := [_confirmed(each) for each in settled if each.arrived]:
        connection.execute(_CONFIRM, confirmed)
    if refused := [{"batch_id": each.batch_id} for each in settled if not each.arrived]:
        connection.execute(_FORGET, refused)
    if changed:
        connection.execute(
            _COUNT,
            [
                {"folder_id": folder_id, "more_copied": copied, "more_bytes": size, "more_issues": issues}
                for folder_id, (copied, size, issues) in changed.items()
            ],
        )
    if not intended:
        return []
    return list(connection.scalars(_INTEND, [_intended(each) for each in intended]))


def _adopt(session: Session, folder_id: int, entries: Sequence[Entry]) -> int:
    folder = session.get_one(FolderCopy, folder_id)
    batch = Batch(folder_copy_id=folder_id, kind=BatchKind.ADOPTED, state=BatchState.CONFIRMED, **_columns(entries))
    session.add(batch)
    folder.already_there += len(entries)
    session.add(folder)
    _note_repairs(session, folder_id, entries)
    _unclaim(session, folder, {entry.target_uid for entry in entries})
    session.flush()
    return _id(batch.id)


def _unclaim(session: Session, folder: FolderCopy, target_uids: Collection[int]) -> None:
    """Let folders that are not counted any more know nothing of copies that stand for another message now."""
    before = select(FolderCopy).where(
        FolderCopy.member_id == folder.member_id,
        FolderCopy.target_name == folder.target_name,
        FolderCopy.target_uidvalidity == folder.target_uidvalidity,
        col(FolderCopy.superseded).is_(True),
    )
    for row in session.exec(before).all():
        for batch in session.exec(select(Batch).where(Batch.folder_copy_id == row.id)).all():
            entries = _record(batch).entries
            if taken := {entry.source_uid for entry in entries if entry.target_uid in target_uids}:
                _take_out(session, _id(row.id), taken)


def _take_out(session: Session, folder_id: int, source_uids: Collection[int], *, to_be_sent: bool = False) -> None:
    """Take messages out of their batches: they are at the source and `to_be_sent` again, or have left it.

    What has left was counted as gone by the pass that noticed it, and before that among what is at the source.
    """
    folder = session.get_one(FolderCopy, folder_id)
    gone = set(parse_uids(folder.gone))
    _forget_repairs(session, folder_id, source_uids)
    _forget_altered(session, folder, source_uids)
    for batch in session.exec(select(Batch).where(Batch.folder_copy_id == folder_id)):
        record = _record(batch)
        kept = [entry for entry in record.entries if entry.source_uid not in source_uids]
        taken = len(record.entries) - len(kept)
        if not taken:
            continue
        rest = _share(batch.bytes, len(kept), len(record.entries))
        present = sum(e.source_uid in source_uids and e.source_uid not in gone for e in record.entries)
        if batch.kind == BatchKind.COPIED:
            folder.copied -= present
            folder.bytes -= batch.bytes - rest if to_be_sent else 0
        else:
            folder.already_there -= present
        if not to_be_sent and not folder.superseded:
            folder.source_messages = max(0, folder.source_messages - present)
        session.add(folder)
        if kept:
            batch.bytes = rest
            for name, value in _columns(kept).items():
                setattr(batch, name, value)
            session.add(batch)
        else:
            session.delete(batch)
    _note_gone(folder, gone.difference(source_uids))
    session.add(folder)


def _note_gone(folder: FolderCopy, gone: Collection[int]) -> None:
    folder.gone = format_uids(sorted(gone))
    folder.strayed = format_uids(uid for uid in parse_uids(folder.strayed) if uid in gone)


def _all_uids(session: Session, folder_id: int) -> str:
    """The source UIDs of everything that was brought over from a folder."""
    of_the_folder = select(Batch.source_uids).where(Batch.folder_copy_id == folder_id)
    arrived = session.exec(of_the_folder.where(Batch.state != BatchState.INTENDED))
    return format_uids(sorted(uid for uids in arrived for uid in parse_uids(uids)))


def _columns(entries: Sequence[Entry]) -> dict[str, Any]:
    """What a batch's row says of its messages."""
    return {
        "source_uids": format_uids(entry.source_uid for entry in entries),
        "target_uids": format_uids(entry.target_uid for entry in entries),
        "digests": b"".join(entry.digest for entry in entries),
        "flags": format_flags(entry.flags for entry in entries),
    }


def _finish(session: Session, folder: FolderCopy, finished: Finished) -> None:
    afresh = finished.afresh is not None
    if finished.afresh is not None and folder.altered != "{}":
        _forget_earlier(session, folder, finished.afresh)
    _count_altered(folder, finished.altered)
    folder.read_back = finished.read_back + (0 if afresh else folder.read_back)
    _note_gone(folder, set(finished.tally.gone))
    if finished.moved or finished.flags_changed:
        folder.moved += finished.moved
        folder.flags_changed += finished.flags_changed
    for name in ("source_messages", "copied", "already_there", "issues", "oldest", "newest", "settled", "doubt"):
        # Most are what they were; to set one takes as long as to load the row.
        if getattr(folder, name) != getattr(finished.tally, name):
            setattr(folder, name, getattr(finished.tally, name))
    folder.updated_at = now()


def _count_altered(folder: FolderCopy, more: Mapping[str, int]) -> None:
    """Add to what is counted of a folder, or take from it."""
    if more:
        total = Counter(json.loads(folder.altered))
        total.update(more)
        folder.altered = json.dumps(dict(+total), sort_keys=True)


def _altered_rows(session: Session, folder_id: int, uids: Collection[int]) -> dict[int, MessageAlteration]:
    of_the_folder = select(MessageAlteration).where(MessageAlteration.folder_copy_id == folder_id)
    return {
        row.source_uid: row
        for some in _chunks(list(uids), 1000)
        for row in session.exec(of_the_folder.where(col(MessageAlteration.source_uid).in_(some)))
    }


def _note_altered(session: Session, folder_id: int, messages: Sequence[Altered], *, keeps_subjects: bool) -> None:
    known = _altered_rows(session, folder_id, [message.source_uid for message in messages])
    fresh: Counter[str] = Counter()
    added: list[dict[str, Any]] = []
    for each in messages:
        row = known.get(each.source_uid)
        before = _names(row) if row else set()
        names = before.union(each.alterations)
        fresh.update(names - before - UNLISTED)
        subject, sender = each.heading if each.heading and keeps_subjects else (None, None)
        told = {
            "target_uid": each.target_uid,
            "alterations": ",".join(sorted(names)),
            "benign": BENIGN.issuperset(names),
            "size": each.size,
            "arrived": each.arrived,
        }
        if subject is not None or row is None:
            told |= {"subject": subject, "sender": sender}
        if row is None:
            # By the table: a server may alter every message of a mailbox.
            added.append({"folder_copy_id": folder_id, "source_uid": each.source_uid, "at": now(), **told})
        else:
            row.sqlmodel_update(told)
            session.add(row)
    if added:
        session.connection().execute(insert(_ALTERED), added)
    folder = session.get_one(FolderCopy, folder_id)
    _count_altered(folder, fresh)
    session.add(folder)


def _forget_altered(session: Session, folder: FolderCopy, source_uids: Collection[int]) -> None:
    """Messages are not there, or stand in another folder now: neither are their alterations."""
    if folder.altered == "{}":
        return
    fewer: Counter[str] = Counter()
    for row in _altered_rows(session, _id(folder.id), source_uids).values():
        fewer.subtract(_names(row) - UNLISTED)
        session.delete(row)
    _count_altered(folder, fewer)
    session.add(folder)


def _let_alterations_follow(
    session: Session,
    left: Mapping[int, Collection[int]],
    arrived: Iterable[tuple[int, Sequence[Entry]]],
    *,
    keeps_subjects: bool,
) -> None:
    """A copy that follows its message into another folder is there what it was: altered. `left` as in `follow`."""
    rows = [row for folder_id, uids in left.items() for row in _altered_rows(session, folder_id, uids).values()]
    if not rows:
        return
    digests = {
        (batch.folder_copy_id, entry.source_uid): entry.digest
        for batch in session.exec(
            select(Batch).where(col(Batch.folder_copy_id).in_({row.folder_copy_id for row in rows}))
        )
        for entry in _record(batch).entries
    }
    places = [(folder_id, entry) for folder_id, entries in arrived for entry in entries]
    for row in rows:
        digest = digests.get((row.folder_copy_id, row.source_uid))
        place = next((place for place in places if place[1].digest == digest), None)
        if place is None:
            continue
        places.remove(place)
        folder_id, entry = place
        moved = Altered(entry.source_uid, entry.target_uid, _names(row), row.size, row.arrived, _heading(row))
        _note_altered(session, folder_id, [moved], keeps_subjects=keeps_subjects)


def _forget_earlier(session: Session, folder: FolderCopy, found: Mapping[str, Collection[int]]) -> None:
    """All of the folder was read again: what was found before and not now is not so any more."""
    total = {name: count for name, count in json.loads(folder.altered).items() if name in SEEN_ONCE}
    counted: Counter[str] = Counter()
    for row in session.exec(select(MessageAlteration).where(MessageAlteration.folder_copy_id == folder.id)):
        names = {name for name in _names(row) if name in SEEN_ONCE or row.source_uid in found.get(name, ())}
        counted.update(names - SEEN_ONCE - UNLISTED)
        if not names:
            session.delete(row)
        elif names != _names(row):
            _rename(row, names)
            session.add(row)
    folder.altered = json.dumps(total | counted, sort_keys=True)


def _names(row: MessageAlteration) -> set[str]:
    return set(row.alterations.split(",")) - {""}


def _rename(row: MessageAlteration, names: Collection[str]) -> None:
    row.alterations, row.benign = ",".join(sorted(names)), BENIGN.issuperset(names)


def _heading(row: MessageAlteration) -> Heading | None:
    return None if row.subject is None else Heading(row.subject, row.sender or "")


def _note_repairs(session: Session, folder_id: int, arrived: Sequence[Entry]) -> None:
    mended = [entry for entry in arrived if entry.repairs]
    if mended:
        _forget_repairs(session, folder_id, [entry.source_uid for entry in mended])
        session.add_all(
            MessageRepair(
                folder_copy_id=folder_id, source_uid=each.source_uid, repairs=each.repairs, server_text=each.refusal
            )
            for each in mended
        )


def _forget_repairs(session: Session, folder_id: int, source_uids: Collection[int]) -> None:
    of_the_folder = delete(MessageRepair).where(col(MessageRepair.folder_copy_id) == folder_id)
    for some in _chunks(list(source_uids), 1000):
        session.exec(of_the_folder.where(col(MessageRepair.source_uid).in_(some)))


def _forget_issues(session: Session, finished: Finished) -> None:
    of_the_folder = delete(MessageIssue).where(col(MessageIssue.folder_copy_id) == finished.folder_id)
    for some in _chunks(list(finished.outdated), 1000):
        session.exec(of_the_folder.where(col(MessageIssue.source_uid).in_(some)))


def _intended(batch: Intended) -> dict[str, object]:
    return {
        "folder_copy_id": batch.folder_id,
        "kind": BatchKind.COPIED,
        "state": BatchState.INTENDED,
        "source_uids": format_uids(batch.source_uids),
        "target_uids": "",
        "digests": b"".join(batch.digests),
        "flags": format_flags(batch.flags),
        "bytes": batch.size,
        "target_uidnext_before": batch.uidnext,
    }


def _confirmed(batch: Settled) -> dict[str, object]:
    return {
        "batch_id": batch.batch_id,
        "state": BatchState.CONFIRMED,
        "bytes": batch.size,
        **_columns(batch.arrived),
    }


def _kept_if_equal(column: Column[Any]) -> ColumnElement[Any]:
    return case((column == bindparam(column.name), column), else_=bindparam(column.name))


_BATCHES = SQLModel.metadata.tables["batch"]
_FOLDERS = SQLModel.metadata.tables["foldercopy"]
_OPEN = insert(SQLModel.metadata.tables["foldercopy"]).returning(SQLModel.metadata.tables["foldercopy"].c.id)
_INTEND = insert(_BATCHES).returning(_BATCHES.c.id, sort_by_parameter_order=True)
_CONFIRM = (
    update(_BATCHES)
    .where(_BATCHES.c.id == bindparam("batch_id"))
    .values({name: bindparam(name) for name in ("state", "target_uids", "bytes")})
    # PostgreSQL keeps these beside the row, and would keep them twice until it vacuums, if they were only set again.
    .values({name: _kept_if_equal(_BATCHES.c[name]) for name in ("source_uids", "digests", "flags")})
)
_NOTE_FLAGS = update(_BATCHES).where(_BATCHES.c.id == bindparam("batch_id")).values(flags=bindparam("flags"))
_ALTERED = SQLModel.metadata.tables["messagealteration"]
_ISSUES = SQLModel.metadata.tables["messageissue"]
_NAME_ISSUE = (
    update(_ISSUES)
    .where(_ISSUES.c.folder_copy_id == bindparam("folder"), _ISSUES.c.source_uid == bindparam("uid"))
    .values(subject=bindparam("its_subject"), sender=bindparam("its_sender"))
)
_FORGET = delete(_BATCHES).where(_BATCHES.c.id == bindparam("batch_id"))
_COUNT = (
    update(_FOLDERS)
    .where(_FOLDERS.c.id == bindparam("folder_id"))
    .values(
        copied=_FOLDERS.c.copied + bindparam("more_copied"),
        bytes=_FOLDERS.c.bytes + bindparam("more_bytes"),
        issues=_FOLDERS.c.issues + bindparam("more_issues"),
    )
)


def _issue(folder_id: int, message: GivenUp, *, keeps_subjects: bool) -> MessageIssue:
    subject, sender = message.heading if message.heading and keeps_subjects else (None, None)
    return MessageIssue(
        folder_copy_id=folder_id,
        source_uid=message.source_uid,
        cause=message.cause,
        server_text=message.server_text,
        size=message.size,
        arrived=message.arrived,
        digest=message.digest,
        known_by=message.known_by,
        subject=subject,
        sender=sender,
    )


def _key(row: FolderCopy) -> FolderKey:
    return FolderKey(row.source_name, row.source_uidvalidity, row.target_name, row.target_uidvalidity)


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    # SQLite takes 32,766 values in one statement, some builds fewer.
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _share(size: int, part: int, whole: int) -> int:
    """The octets of some of a batch's messages: an estimate, because only the batch's sum is kept."""
    return size * part // whole


def _record(row: Batch) -> BatchRecord:
    sources = parse_uids(row.source_uids)
    targets = parse_uids(row.target_uids) or [0] * len(sources)
    digests = [row.digests[i : i + DIGEST_BYTES] for i in range(0, len(row.digests), DIGEST_BYTES)]
    flags = parse_flags(row.flags, len(sources))
    entries = tuple(Entry(*values) for values in zip(sources, targets, digests, flags, strict=True))
    return BatchRecord(_id(row.id), row.kind, row.state, entries, row.target_uidnext_before)


def _with_repair(batch: BatchRecord, repair: MessageRepair) -> BatchRecord:
    if all(entry.source_uid != repair.source_uid for entry in batch.entries):
        return batch
    entries = (replace(e, repairs=repair.repairs) if e.source_uid == repair.source_uid else e for e in batch.entries)
    return replace(batch, entries=tuple(entries))


def _id(value: int | None) -> int:
    if value is None:
        raise ValueError("a row that was never flushed has no id")
    return value
