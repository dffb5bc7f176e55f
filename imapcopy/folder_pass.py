"""One pass over one folder: what is known of it on both sides and in the ledger, from the scan to the tally."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date, datetime

from imapcopy import fates
from imapcopy.arrival import is_kept_everywhere
from imapcopy.budget import Allowance, ByteBudget
from imapcopy.census import Hidden
from imapcopy.deliver import Delivery
from imapcopy.distant import Distant, is_large
from imapcopy.doings import Marked, by_the_member
from imapcopy.endpoint import Endpoint
from imapcopy.errors import FolderError, MigrationError
from imapcopy.fates import Copy, Fate, Situation, Source, fate, known_as
from imapcopy.folders import Folder, FolderPair
from imapcopy.follow import Departed, Returned, carry_flags, flag_changes, has_lost, restore_flags
from imapcopy.grammar import encode_mailbox
from imapcopy.identity import digest
from imapcopy.letter import Letter
from imapcopy.look_up import Wanted, fingerprints, forms, mark_of, match
from imapcopy.numbering import Looks
from imapcopy.plan import Envelope, Existing, batches, is_too_large, wanted
from imapcopy.read_source import Loaded, SourceReader, Wish
from imapcopy.repair import repaired
from imapcopy.responses import FolderStatus, Selected, sendable_flags
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.target_connection import TargetConnection
from imapcopy.tell import Names, name_issues, tell_altered
from imapcopy.verify import Delivered, Due, Verdict
from models.ledger import Ledger
from models.ledger_rows import (
    BatchKind,
    BatchRecord,
    BatchState,
    Entry,
    Finished,
    FolderCopy,
    FolderKey,
    FolderTally,
    GivenUp,
)
from models.probe import Known
from models.rules import Repair
from models.uid_sets import parse_uids

LOAD_MESSAGES = 250
LOAD_BYTES = 4 << 20
WITNESSES = 200
"""With so many others a message that has a flag too much is compared."""
HIDDEN_ISSUES = 100
"""So many messages of a folder that the source counts and does not show are issues, one by one."""


class FolderPass:
    """Filled step by step: `open` with what the servers tell, `enter` with what the ledger knows."""

    delivery: Delivery
    key: FolderKey

    def __init__(
        self,
        pair: FolderPair,
        settled: str,
        since: date | None,
        *,
        deep: bool,
        existing: Existing = "adopt",
        repair: Repair = "never",
        known: Known | None = None,
    ) -> None:
        self._pair = pair
        self._known = known or Known()
        self._settled = settled
        self._since = since
        self._deep = deep
        self._existing = existing
        self._repair = repair
        self._failed: MigrationError | None = None
        self._everything: dict[int, Envelope] = {}
        self.scan: dict[int, Envelope] = {}
        """The messages that are to be moved, by source UID."""
        self.elsewhere = 0
        """Messages that are shown here and moved from other folders."""
        self._hidden: tuple[Hidden, ...] = ()
        """Messages that the source counts here and does not show."""
        self.issues: set[int] = set()
        """Source UIDs that stay behind."""
        self._gone: set[int] = set()
        self._sizes: dict[int, int] = {}
        self._hazardous: set[int] = set()
        self._verified: set[int] = set()
        self._altered: dict[str, set[int]] = defaultdict(set)
        """Source UIDs by what was altered."""
        self._doubled = 0
        self._read_back = 0
        self.returned: list[Returned] = []
        """Read, and not sent: their copies are elsewhere at the target."""
        self._moved = 0
        self._flags_changed = 0
        self._digests: set[bytes] = set()
        """What is at the target or on its way, where only one of equals is kept there."""
        self._equals: dict[int, bytes] = {}
        """Digests of messages that are not sent because an equal one is, by source UID."""

    @property
    def source(self) -> Folder:
        return self._pair.source

    @property
    def id(self) -> int:
        """In the ledger."""
        return self.delivery.folder_id

    @property
    def failed(self) -> MigrationError | None:
        """Why this folder is not gone on with."""
        return self._failed or (self.delivery.failed if hasattr(self, "delivery") else None)

    @failed.setter
    def failed(self, error: MigrationError) -> None:
        self._failed = self._failed or error

    @property
    def arrived(self) -> int:
        """How many messages the ledger knows at the target."""
        if not hasattr(self, "delivery"):
            return 0
        return sum(len(b.entries) for b in self.delivery.recorded if b.state != BatchState.INTENDED)

    def open(
        self, survey: Surveyed | MigrationError, landed: Selected | MigrationError, target: Endpoint[TargetConnection]
    ) -> None:
        """Take over what both servers told; raises what one of them refused."""
        if isinstance(survey, MigrationError):
            raise survey
        if isinstance(landed, MigrationError):
            raise landed
        self._landed = landed if landed.uidnext else target.connection.select(self._pair.target_name)
        self._limit = self._landed.append_limit
        self._limit_of = "APPENDLIMIT"
        if self._limit is None and self._known.size_limit is not None:
            self._limit, self._limit_of = self._known.size_limit, "banjia probe:"
        self._everything = {envelope.uid: envelope for envelope in survey.scan}
        # What came between EXAMINE and the scan is in the scan; what EXISTS counts may not be.
        self._stood = (
            max(survey.opened.messages, len(survey.scan) + survey.elsewhere),
            max(survey.opened.uidnext, max(self._everything, default=0) + 1),
        )
        self.elsewhere, self._hidden = survey.elsewhere, survey.hidden
        self.scan = self._everything
        if self._since:
            self.scan = {envelope.uid: envelope for envelope in wanted(survey.scan, self._since)}
        self.key = FolderKey(
            self.source.name, survey.opened.uidvalidity, self._pair.target_name, self._landed.uidvalidity
        )

    def recall(self, before: "FolderPass") -> None:
        """Keep what was learned of the messages before a connection broke: nobody has to read them back for that."""
        if hasattr(before, "key") and before.key == self.key:
            self._sizes, self._hazardous = before._sizes, before._hazardous

    def enter(
        self,
        target: Endpoint[TargetConnection],
        ledger: Ledger,
        row: FolderCopy,
        recorded: Sequence[BatchRecord],
        claimed: Iterable[int],
        *,
        first: bool = True,
    ) -> None:
        """Take over what the ledger knows; `first` if nothing else was ever brought into the target's folder."""
        self._ledger = ledger
        self._first = first
        self._told_flags = "flags" in json.loads(row.altered)
        self.delivery = Delivery(target, ledger, row, self._landed, recorded, claimed, self._repair, self._known)
        self.issues = set(ledger.issues(self.id)) if row.issues else set()
        if self._contradicts(target.connection.numbering.looks(encode_mailbox(row.target_name)), recorded):
            self.failed = FolderError("folder_missing", "target", "UIDVALIDITY changed", where=row.target_name)
        self._gone_before = set(parse_uids(row.gone))
        self.stay_behind([each for each in self._named_hidden() if each.source_uid not in self.issues])

    def _contradicts(self, looks: Looks, recorded: Iterable[BatchRecord]) -> bool:
        """Whether what lies under the recorded UIDs, for which no UIDVALIDITY vouches, is other mail."""
        return any(
            found[1] != sent.arrived
            for batch in recorded
            for entry in batch.entries
            if (found := looks.get(entry.target_uid))
            and (sent := self._everything.get(entry.source_uid))
            and is_kept_everywhere(sent.arrived)
        )

    def _named_hidden(self) -> list[GivenUp]:
        """What the source counts and does not show, as issues; beyond HIDDEN_ISSUES the counts alone tell."""
        return [
            GivenUp(-each.number, each.cause, each.told, known_by=each.known_by)
            for each in self._hidden[:HIDDEN_ISSUES]
        ]

    @property
    def unverified(self) -> list[Entry]:
        """What an earlier run wrote down as arrived and did not come to verify."""
        return [
            entry
            for batch in self.delivery.recorded
            if batch.kind == BatchKind.COPIED and batch.state == BatchState.CONFIRMED
            for entry in batch.entries
        ]

    def recover(self, source: Endpoint[SourceConnection]) -> list[Entry]:
        """Settle what an earlier run left open; returns what had arrived."""

        def bodies(uids: Sequence[int]) -> Iterator[tuple[int, bytes | Distant]]:
            envelopes = [self._everything[uid] for uid in uids if uid in self._everything]
            return ((letter.uid, letter.raw) for letter in self._letters(source, envelopes))

        return self.delivery.recover(bodies, self._everything)

    def may_have_lost(self, now: FolderStatus) -> bool:
        """Whether something may have left the folder since it was surveyed."""
        return bool(self._everything) and has_lost(*self._stood, now)

    def keep_only(self, there: Collection[int]) -> None:
        """Know no more of what has left the folder since it was surveyed; what has come is for the next pass."""
        self._everything = {uid: envelope for uid, envelope in self._everything.items() if uid in there}
        self.scan = {uid: envelope for uid, envelope in self.scan.items() if uid in there}

    def _in_ledger(self) -> dict[int, fates.Known]:
        """What the ledger knows, by source UID."""
        known = dict.fromkeys(self.issues | self.delivery.given_up, fates.Known.ISSUE)
        for batch in self.delivery.recorded:
            at = known_as(batch, read_back=batch.id in self._verified)
            known.update((entry.source_uid, at) for entry in batch.entries)
        return known

    def _at_source(self, uid: int) -> Source:
        """What the source shows of a message that the ledger knows."""
        if uid in self._everything and uid not in self._gone:
            return Source.TOLD
        return Source.UNASKED if uid in self._doubtful else Source.LEFT

    def todo(self) -> list[Envelope]:
        """What is not known yet, by ascending UID: to be looked for at the target, and sent if it is not there."""
        known = self._in_ledger()
        new = [e for uid, e in self._everything.items() if uid not in known and uid not in self._gone]
        by_wish = {wish: fate(Situation(Source.TOLD, wanted=wish)) for wish in (True, False)}
        todo = [envelope for envelope in new if by_wish[envelope.uid in self.scan] == Fate.LOOK_UP]
        return sorted(todo, key=lambda envelope: envelope.uid)

    def sendable(self) -> list[Envelope]:
        """`todo` without what the target takes in no case; that is committed as issues, and its content never read."""
        by_fate: dict[Fate, list[Envelope]] = {Fate.SEND: [], Fate.GIVE_UP: []}
        by_room = {fits: fate(Situation(Source.TOLD, copy=Copy.ABSENT, fits=fits)) for fits in (True, False)}
        for envelope in self.todo():
            by_fate[by_room[not is_too_large(envelope.size, self._limit)]].append(envelope)
        self.stay_behind([self._too_large(envelope, envelope.size) for envelope in by_fate[Fate.GIVE_UP]])
        return by_fate[Fate.SEND]

    def _too_large(self, envelope: Envelope, size: int, letter: Letter | None = None) -> GivenUp:
        told = f"{self._limit_of} {self._limit}"
        given_up = GivenUp(envelope.uid, "message_too_large", told, size, envelope.arrived)
        return replace(given_up, digest=letter.digest, heading=letter.heading()) if letter else given_up

    def _letters(self, source: Endpoint[SourceConnection], envelopes: Sequence[Envelope]) -> Iterator[Letter]:
        # One batch at a time, and nothing is kept of it: no allowance is needed.
        reader = SourceReader(source, Allowance(ByteBudget()))
        for batch in batches(envelopes, LOAD_MESSAGES, LOAD_BYTES):
            if is_large(batch[0]):
                yield from self.load_large(source, batch[0]).letters
                continue
            yield from reader.load(Wish(self.source, self.key.source_uidvalidity, batch)).identified().letters

    def load_large(self, source: Endpoint[SourceConnection], envelope: Envelope, again: Letter | None = None) -> Loaded:
        """Identify a message that will be read in pieces whenever it is sent."""
        reader = SourceReader(source, Allowance(ByteBudget()))
        return reader.load_large(Wish(self.source, self.key.source_uidvalidity, [envelope]), again)

    def adopt(self, source: Endpoint[SourceConnection], target: Endpoint[TargetConnection]) -> list[Entry]:
        """Recognise mail that was at the target before us, so that nothing arrives twice; returns it."""
        claimed = self.delivery.claimed
        if not self._landed.messages and not claimed:
            return []
        todo = self.todo()
        if not todo:
            return []
        connection = target.connection
        connection.select(self._pair.target_name)
        strangers = [e for e in connection.scan(self._first_uid_of_interest) if e.uid not in claimed]
        if not strangers:
            return []
        # The content is compared only where the Message-ID or both size and moment of arrival are the same: servers
        # disagree about the header of a broken message.
        there = connection.message_ids([e.uid for e in strangers])
        here = self._examined(source).message_ids([e.uid for e in todo])
        names = set(there.values()) & set(here.values())
        sized = all(e.sized for e in (*strangers, *todo))

        def look(envelope: Envelope) -> tuple[int, datetime | None]:
            return envelope.size if sized else 0, envelope.arrived

        looks = set(map(look, strangers)) & set(map(look, todo))

        def is_alike(envelope: Envelope, message_ids: Mapping[int, str]) -> bool:
            return message_ids.get(envelope.uid) in names or look(envelope) in looks

        candidates = fingerprints(connection, [e for e in strangers if is_alike(e, there)])
        letters = self._letters(source, [e for e in todo if is_alike(e, here)]) if candidates else ()
        wanted = []
        for letter in letters:
            some = [form.at_most(1) for form in forms(letter.raw)]
            entry = Entry(letter.uid, 0, some[0].digests[0], self.scan[letter.uid].flags)
            wanted.append(Wanted(entry, mark_of(letter.envelope, self._landed.keywords), some))
        found = sorted(match(wanted, candidates), key=lambda entry: entry.source_uid)
        self.delivery.adopt(found)
        return found

    @property
    def _first_uid_of_interest(self) -> int:
        """Below it lies what was there before us, where that is to stay apart."""
        if self._existing == "adopt":
            return 1
        ours = [b.target_uidnext_before for b in self.delivery.recorded if b.kind == BatchKind.COPIED]
        # After a change of UIDVALIDITY nothing tells which mail is ours: better none of it twice.
        return min(ours, default=self._landed.uidnext if self._first else 1)

    def _examined(self, source: Endpoint[SourceConnection]) -> SourceConnection:
        connection = source.connection
        if connection.selected != self.source.raw:
            connection.examine(self.source)
        return connection

    def take(self, loaded: Loaded, departed: Departed) -> None:
        """Note what was read of this folder, and keep back what has only moved, before the rest goes out."""
        if loaded.failure:
            self.failed = loaded.failure
        self._gone.update(loaded.gone)
        self.stay_behind(loaded.unreadable)
        letters, loaded.letters = loaded.letters, []
        if self._known.one_of_equals and not self._equals:
            self._digests |= self._recorded_digests
        for letter in letters:
            if self._limit is not None and len(letter.raw) > self._limit:
                self.stay_behind([self._too_large(letter.envelope, len(letter.raw), letter)])
                continue
            if self._known.one_of_equals:
                if letter.digest in self._digests:
                    self._equals[letter.uid] = letter.digest
                    continue
                self._digests.add(letter.digest)
            self._sizes[letter.uid] = len(letter.raw)
            if self._repair == "refused":
                self._mend(letter)
            if departed.free(letter.digest):
                self.returned.append(Returned(letter.envelope, letter.digest))
            else:
                loaded.letters.append(letter)
            if letter.hazardous:
                self._hazardous.add(letter.uid)

    @property
    def _recorded_digests(self) -> set[bytes]:
        return {entry.digest for batch in self.delivery.recorded for entry in batch.entries}

    def settle_equals(self) -> set[int]:
        """Commit what was not sent because its equal is there; returns the source UIDs of which none is there."""
        there = self._recorded_digests
        kept = [uid for uid, digest in self._equals.items() if digest in there]
        left = self._equals.keys() - set(kept)
        self.stay_behind(
            [
                GivenUp(uid, "equal_kept", "", self.scan[uid].size, self.scan[uid].arrived, self._equals[uid])
                for uid in kept
            ]
        )
        self._equals.clear()
        self._digests.clear()
        return left

    def _mend(self, letter: Letter) -> None:
        """Send a message repaired at once that would be refused otherwise."""
        raw = letter.raw
        if not isinstance(raw, bytes) or not (letter.hazardous or b"\r\n\r\n" not in raw):
            return
        for defect, words in self._known.refused_defects.items():
            mended = repaired(raw, words)
            if mended and defect in mended.repairs:
                letter.terms = replace(letter.terms, mended=mended, refusal=words)
                return

    def reread(self, loaded: Loaded) -> None:
        """Note what became of a message that was read once more because it could not be sent as it had been read."""
        self._gone.update(loaded.gone)
        self.stay_behind(loaded.unreadable)
        self._sizes.update((letter.uid, len(letter.raw)) for letter in loaded.letters)

    def stay_behind(self, messages: Sequence[GivenUp]) -> None:
        """Commit messages as issues."""
        self._ledger.give_up(self.id, messages)
        self.issues.update(message.source_uid for message in messages)

    def followed(self, copies: int) -> None:
        """So many copies were moved here."""
        self._moved += copies
        self.returned.clear()

    @property
    def left(self) -> Collection[int]:
        """UIDs of what is at the source now, also of what is not to be moved, or may be there."""
        return self._everything.keys() | self._doubtful if self._hidden else self._everything.keys()

    @property
    def _doubtful(self) -> set[int]:
        """What was brought over and is not told of, while the source hides messages: it may be one of these."""
        known = {entry.source_uid for batch in self.delivery.recorded for entry in batch.entries}
        return known - self._everything.keys() - self._gone_before if self._hidden else set()

    def carry_flags(self, target: Endpoint[TargetConnection]) -> None:
        """Bring over what changed in the flags at the source since the last pass, and no other flag."""
        changes = flag_changes(self.delivery.recorded, self._everything, self._landed.keywords)
        if changes:
            refused = carry_flags(target.connection, self._ledger, self.delivery, changes)
            self._flags_changed += sum(len(entries) for change, entries in changes.items() if change)
            self._altered["flags"] |= refused

    def take_back(self) -> None:
        """Tell no more of flags as altered by the server that the member is seen to have changed."""
        if not self._told_flags:
            return
        rows = self._ledger.altered(self.id)
        sent = {e.source_uid: e for batch in self.delivery.recorded for e in batch.entries if e.target_uid}
        told = {uid for uid, row in rows.items() if "flags" in row.alterations.split(",")} & sent.keys()
        others = [uid for uid in sent if uid not in told][:WITNESSES]
        found = self.delivery.look_up.opened().scan_uids(sent[uid].target_uid for uid in (*told, *others))
        there = {e.uid: e.flags for e in found if e.flags_told}

        def marked(uids: Iterable[int]) -> dict[int, Marked]:
            return {
                uid: Marked(sendable_flags(sent[uid].flags, self._landed.keywords), there.get(sent[uid].target_uid))
                for uid in uids
            }

        self._ledger.take_back(self.id, "flags", by_the_member(marked(told), marked(others)))

    def due(self) -> Due | None:
        """What has to be re-read from the target."""
        recorded = [
            batch
            for batch in self.delivery.recorded
            if batch.state != BatchState.INTENDED
            and (self._deep or (batch.state == BatchState.CONFIRMED and batch.id not in self._verified))
        ]
        if not recorded:
            return None
        delivered = Delivered(self._sizes, self._hazardous, self.delivery.keywords_dropped, self.delivery.arrivals)
        return Due(
            self.source,
            self.key.target_name,
            self.key.target_uidvalidity,
            recorded,
            self._everything,
            delivered,
            self.delivery.claimed,
            self._known,
        )

    def judged(self, due: Due, verdict: Verdict) -> set[int]:
        """Note what re-reading found; returns the source UIDs that have to be sent again."""
        known = self._in_ledger() if verdict.lost else {}
        ends = {
            uid: fate(Situation(self._at_source(uid), known[uid], uid in self.scan, Copy.ABSENT))
            for uid in verdict.lost
        }
        lost = {uid for uid, end in ends.items() if end in (Fate.SEND_AGAIN, Fate.FORGET)}
        if lost:
            self.delivery.disown(lost)
        if self._deep:
            self._altered.clear()
            self._doubled = self._read_back = 0
        for name, uids in verdict.alterations.items():
            self._altered[name] |= uids
        self._altered["doubled"].update(verdict.doubled)
        self._doubled += verdict.doubled.total()
        self._read_back += verdict.read_back
        self._verified.update(
            batch.id for batch in due.recorded if any(e.source_uid not in lost for e in batch.entries)
        )
        return {uid for uid in lost if ends[uid] == Fate.SEND_AGAIN}

    def restore_flags(self, target: Endpoint[TargetConnection], verdict: Verdict) -> None:
        """Set the flags that the target's server ignored when it stored the messages."""
        if verdict.bare:
            restored = restore_flags(target.connection, self._ledger, self.delivery, verdict.bare)
            sources = {e.target_uid: e.source_uid for batch in self.delivery.recorded for e in batch.entries}
            self._altered["flags"] -= {sources[uid] for uid in restored}

    def count_doubles(self) -> None:
        """Look whether something that had to be sent again has arrived both times: then it is said."""
        told = 0 if self._deep else self.delivery.sent_again.told
        twice = self.delivery.sent_again.stored_twice()
        if len(twice) > told:
            self._altered["doubled"] |= twice
            self._doubled += len(twice) - told

    def count_gone(self, source: Endpoint[SourceConnection]) -> None:
        """Believe that messages which did not come are gone only if the source does not count them any more."""
        if not self._gone:
            return
        connection = source.connection
        opened = connection.examine(self.source)
        if opened.uidvalidity != self.key.source_uidvalidity:
            return
        counted = connection.count(opened)
        # Listed again: not copied, and the counts say so.
        self._gone -= counted.answers.uids
        doubtful = sorted(self._gone)[: max(0, len(counted.hidden) - len(self._hidden))]
        self._gone.difference_update(doubtful)
        self.stay_behind(
            [
                GivenUp(uid, "message_hidden", "", self._everything[uid].size, self._everything[uid].arrived)
                for uid in doubtful
            ]
        )

    def tell(self, source: Endpoint[SourceConnection]) -> None:
        """Write down which messages were altered, and what people call these and those that stay behind."""
        names = Names(source, self.source, self.key.source_uidvalidity, wanted=self._ledger.keeps_subjects)
        if any(self._altered.values()):
            targets = {e.source_uid: e.target_uid for batch in self.delivery.recorded for e in batch.entries}
            tell_altered(self._ledger, self.id, self._altered, targets, self._everything, names)
        if self.issues or self.delivery.given_up:
            name_issues(self._ledger, self.id, names)

    def finished(self) -> Finished:
        """The folder's numbers after the pass."""
        present = {uid: e for uid, e in self.scan.items() if uid not in self._gone}
        counted: Counter[BatchKind] = Counter()
        for batch in self.delivery.recorded:
            counted[batch.kind] += sum(entry.source_uid in present for entry in batch.entries)
        known = self._in_ledger()
        gone = [
            uid
            for uid in known.keys() - self._everything.keys()
            if fate(Situation(self._at_source(uid), known[uid], copy=Copy.EQUAL)) == Fate.GONE
        ]
        issues = self.issues | self.delivery.given_up
        outdated = issues - present.keys() - {-each.number for each in self._hidden}
        remaining = len(issues) - len(outdated)
        moments = [e.arrived for e in present.values() if e.arrived]
        copied, adopted = counted[BatchKind.COPIED], counted[BatchKind.ADOPTED]
        doubt = self.delivery.sent_again.lasting
        # What is hidden may show itself without a change of STATUS.
        # Whether flags are the server's doing or the member's is told by another look.
        done = copied + adopted + remaining == len(present) and not self._hidden and not self._altered["flags"]
        tally = FolderTally(
            source_messages=len(present) + len(self._hidden),
            copied=copied,
            already_there=adopted,
            issues=remaining,
            oldest=min(moments, default=None),
            newest=max(moments, default=None),
            settled=self._settled if done and not doubt else "",
            doubt=doubt,
            gone=gone,
        )
        return Finished(
            self.id,
            tally,
            self._verified,
            {"doubled": self._doubled} if self._doubled else {},
            self._read_back,
            self._moved,
            self._flags_changed,
            outdated,
            afresh=self._altered if self._deep else None,
        )


def settled_as(status: FolderStatus | None, since: date | None, folder: Folder) -> str:
    """What must stay equal for a folder to need no second look."""
    if status is None:
        return ""
    told = asdict(status) | {"since": str(since)}
    # It stays as long as UIDVALIDITY does.
    del told["mailbox_id"]
    if folder.elsewhere:
        # A folder that is not listed any more leaves its messages to the view.
        told["elsewhere"] = digest(b"\n".join(sorted(folder.elsewhere))).hex()
    return json.dumps(told, sort_keys=True)
