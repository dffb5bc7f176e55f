"""Delivers batches into one target folder so that each message arrives exactly once.

The ledger knows a batch before its first byte goes out. Whatever then happens - a refusal, a lost reply, a broken
connection, a killed process - what the target really holds is looked up before anything is sent again: among the UIDs
from the recorded UIDNEXT up, by digest, as a multiset. `send.py` says in which way batches go out when all is well.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imapcopy.arrival import Arrival, is_kept_everywhere
from imapcopy.distant import Distant
from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, MessageError, MigrationError, Refused, Side
from imapcopy.grammar import encode_mailbox, format_date_time
from imapcopy.letter import Letter, Sent, Terms
from imapcopy.look_up import LookUp, SentAgain, Wanted, forms, mark_of, match
from imapcopy.plan import Envelope
from imapcopy.repair import Repaired, repaired
from imapcopy.responses import Selected, sendable_flags
from imapcopy.target_connection import Outgoing, TargetConnection
from imapcopy.twins import Mark
from models.ledger import Ledger
from models.ledger_rows import (
    BatchKind,
    BatchRecord,
    BatchState,
    Entry,
    FolderCopy,
    GivenUp,
    Intended,
    Settled,
)
from models.probe import Known
from models.rules import Repair

TRIES = 3
"""A message that breaks this many connections alone is left behind."""
FAILURES_IN_A_ROW = 3
"""So many messages one after the other that break every connection are the server's fault, not theirs."""

SourceBodies = Callable[[Sequence[int]], Iterable[tuple[int, bytes | Distant]]]

_TARGET: Side = "target"
_OF_THE_MESSAGE = {"client_bug", "protocol_unsupported", "unclassified"}
"""How servers answer to one odd message: Courier says `Error in IMAP command` to nearly everything."""
_MAY_BE_A_KEYWORD = _OF_THE_MESSAGE | {"flags_refused", "permission_denied"}
_CONCESSIONS = {
    "once more": _OF_THE_MESSAGE,
    "odd keywords": _MAY_BE_A_KEYWORD,
    "keywords": _MAY_BE_A_KEYWORD,
    "date": _OF_THE_MESSAGE | {"date_refused"},
    "repair": _OF_THE_MESSAGE | {"invalid_message"},
}
"""What may be left out or changed in this order, each once, and the causes of a refusal for which it may be.

Nothing at first, where the words say nothing: what was only temporary shall cost no flag.
"""
_USUAL_KEYWORD = re.compile(r"[A-Za-z0-9$_.-]{1,50}")
"""Dovecot takes none that is longer; what else is in an atom is not taken everywhere."""


@dataclass(slots=True)
class _Outcome:
    arrived: list[Entry] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    uncertain: bool = False
    """Something was sent and not yet looked up: nothing may be concluded from what is missing here."""
    source_uids: set[int] = field(default_factory=set)
    """Of what has arrived."""
    target_uids: set[int] = field(default_factory=set)
    sent: dict[int, Wanted] = field(default_factory=dict)
    """What has gone out before and may still be stored: it is looked for beside what is sent now, by source UID."""

    def note(self, entries: Sequence[Entry]) -> None:
        """These are there."""
        self.arrived.extend(entries)
        self.source_uids.update(entry.source_uid for entry in entries)
        self.target_uids.update(entry.target_uid for entry in entries)


class Delivery:
    """Writes one folder of one member."""

    def __init__(
        self,
        target: Endpoint[TargetConnection],
        ledger: Ledger,
        folder: FolderCopy,
        landed: Selected,
        recorded: Sequence[BatchRecord] = (),
        claimed: Iterable[int] = (),
        repair: Repair = "never",
        known: Known | None = None,
    ) -> None:
        self._target = target
        self._ledger = ledger
        self.folder_id = folder.id or 0
        self.name = folder.target_name
        self.uidvalidity = folder.target_uidvalidity
        self.landed = landed
        self._uidnext = landed.uidnext
        self.claimed = set(claimed)
        """Target UIDs that stand for a source message."""
        self._batches = {batch.id: batch for batch in recorded}
        self._broken_in_a_row: list[GivenUp] = []
        self.failed: MigrationError | None = None
        """What this folder cannot be written for, while others can."""
        self.given_up: set[int] = set()
        """Source UIDs of what this run could not bring here."""
        self.keywords_dropped: dict[int, frozenset[str]] = {}
        """Keywords that the target refused, by source UID."""
        self._refused_keywords: frozenset[str] = frozenset()
        """Those of them that are not even tried again in this folder."""
        self.arrivals: dict[int, Arrival] = {}
        """What was told of messages whose moment of arrival was not the source's, by source UID."""
        self._repair = repair
        self._known = known or Known()
        self.look_up = LookUp(target, self.name, self.uidvalidity, self.claimed)
        self.sent_again = SentAgain(self.look_up, ledger, folder, recorded)

    @property
    def recorded(self) -> list[BatchRecord]:
        """The folder's batches as the ledger has them."""
        return list(self._batches.values())

    def is_here(self, connection: TargetConnection, uidvalidity: int) -> bool:
        """Whether UIDs that the server has told over a connection are of this folder as it is known."""
        if uidvalidity == self.uidvalidity:
            return True
        return connection.numbering.of(encode_mailbox(self.name), uidvalidity) == self.uidvalidity

    def recover(self, source_bodies: SourceBodies, scan: Mapping[int, Envelope]) -> list[Entry]:
        """Settle the batches whose outcome an earlier run did not learn; returns what arrived of them.

        `scan` is what the source's folder holds now, by UID.
        """
        open_batches = [batch for batch in self.recorded if batch.state == BatchState.INTENDED]
        if not open_batches:
            return []
        uidnext = min(batch.target_uidnext_before for batch in open_batches)
        wanted = [
            Wanted(entry, self._mark(scan[entry.source_uid]) if entry.source_uid in scan else Mark())
            for batch in open_batches
            for entry in batch.entries
        ]
        candidates = self.look_up.settled_candidates(wanted, uidnext)
        found = match(wanted, candidates)
        there = {entry.source_uid for entry in found}
        left = [each.uid for each in wanted if each.uid not in there]
        if left and len(found) < len(candidates):
            # The server may have altered what it stored: compare with the source's bytes, alteration by alteration.
            known = {uid: forms(raw) for uid, raw in source_bodies(left)}
            found = match((each._replace(forms=known.get(each.uid, ())) for each in wanted), candidates)
        self.sent_again.note_missing(wanted, found, uidnext)
        sizes = {candidate.uid: candidate.mark.size for candidate in candidates}
        by_source = {entry.source_uid: entry for entry in found}
        settled = []
        for batch in open_batches:
            arrived = [by_source[e.source_uid] for e in batch.entries if e.source_uid in by_source]
            arrived.sort(key=lambda entry: entry.target_uid)
            size = sum(sizes[entry.target_uid] for entry in arrived)
            settled.append(self.note(batch.id, arrived, size))
        self._ledger.advance(settled)
        return found

    def _mark(self, envelope: Envelope, uid: int = 0) -> Mark:
        return mark_of(envelope, self.landed.keywords, uid)

    def _wanted(self, letter: Letter, told: int = 0) -> Wanted:
        """To be looked for, in every form that it may have at the target; `told` is the UID that its server gave."""
        mark = self._mark(letter.envelope, told)
        if isinstance(letter.raw, bytes):
            mark = mark._replace(arrived=letter.arrival().moment)
        return Wanted(letter.entry(), mark, forms(letter.raw))

    def outgoing(self, letter: Letter) -> Outgoing:
        """The message on the terms on which the target takes it, as far as they are known."""
        terms = letter.terms
        # Spelled anew, because some servers write one digit for a day below ten and others refuse it. A date that is
        # no date would be refused or replaced; without one the server takes the moment of arrival.
        arrival = letter.arrival() if terms.dated else Arrival(None, "date_unknown")
        if arrival.rule:
            self.arrivals[letter.uid] = arrival
        date = format_date_time(arrival.moment) if arrival.moment else ""
        flags = sendable_flags(letter.envelope.flags, self.landed.keywords)
        dropped = flags & (terms.without | self._refused_keywords)
        if self._known.keywords == "dropped":
            dropped |= _keywords(flags)
        if dropped:
            self.keywords_dropped[letter.uid] = dropped
            flags -= dropped
        return Outgoing(letter.content, flags, date)

    def intended(self, letters: Sequence[Letter]) -> Intended:
        """What the ledger has to know before these go out."""
        return Intended(
            self.folder_id,
            [letter.uid for letter in letters],
            [letter.digest for letter in letters],
            sum(len(letter.raw) for letter in letters),
            self._uidnext,
            [letter.envelope.flags for letter in letters],
        )

    def expects(self, uids: Sequence[int], count: int) -> bool:
        """Whether these are the UIDs that so many messages must have got when nobody else wrote to the folder."""
        first = self._uidnext
        return len(uids) == count and list(uids) == list(range(first, first + count))

    def note(
        self,
        batch_id: int,
        arrived: Sequence[Entry],
        size: int,
        given_up: Sequence[GivenUp] = (),
        *,
        others_write: bool = False,
    ) -> Settled:
        """Take over what became of a batch; it is for the caller to commit what this returns.

        While `others_write` too, their messages may get lower UIDs and not be known yet.
        """
        if arrived:
            self._batches[batch_id] = BatchRecord(
                batch_id, BatchKind.COPIED, BatchState.CONFIRMED, tuple(arrived), self._uidnext
            )
        else:
            self._batches.pop(batch_id, None)
        self.claimed.update(entry.target_uid for entry in arrived)
        self.given_up.update(message.source_uid for message in given_up)
        if not others_write:
            self._uidnext = max(self._uidnext, max((entry.target_uid + 1 for entry in arrived), default=0))
        return Settled(batch_id, self.folder_id, arrived, size, given_up)

    def note_expected(self, sent: Sent) -> Settled:
        """`note` for a batch that got the UIDs it was expected to get."""
        entries = [letter.entry(uid) for letter, uid in zip(sent.letters, sent.uids, strict=True)]
        return self.note(sent.id, entries, sent.octets)

    def adopt(self, found: Sequence[Entry]) -> None:
        """Commit that these messages were at the target before us."""
        batch_id = self._ledger.adopt(self.folder_id, found)
        if batch_id:
            self.note_adopted(batch_id, found)

    def note_adopted(self, batch_id: int, found: Sequence[Entry]) -> None:
        """Take over what the ledger knows as adopted."""
        self._batches[batch_id] = BatchRecord(
            batch_id, BatchKind.ADOPTED, BatchState.CONFIRMED, tuple(found), self._uidnext
        )
        self.claimed.update(entry.target_uid for entry in found)

    def note_flags(self, flags: Mapping[int, frozenset[str]]) -> None:
        """Commit that these flags, by source UID, have been carried over."""
        changed: dict[int, list[frozenset[str]]] = {}
        for batch in self.recorded:
            if any(entry.source_uid in flags for entry in batch.entries):
                entries = tuple(replace(e, flags=flags.get(e.source_uid, e.flags)) for e in batch.entries)
                self._batches[batch.id] = replace(batch, entries=entries)
                changed[batch.id] = [entry.flags for entry in entries]
        self._ledger.note_flags(changed)

    def move_here(self, uids: Mapping[int, Entry], scan: Mapping[int, Envelope]) -> Settled:
        """Move copies into this folder from the one that is open, by their UIDs there; what was moved is settled.

        Intended before, like a batch that is sent: an earlier run's move is found by `recover`. `scan` has their
        messages by source UID.
        """
        size = sum(scan[entry.source_uid].size for entry in uids.values())
        wanted = [replace(entry, target_uid=0) for entry in uids.values()]
        sources, digests, flags = ([getattr(e, name) for e in wanted] for name in ("source_uid", "digest", "flags"))
        [batch_id] = self._ledger.advance([], [Intended(self.folder_id, sources, digests, size, self._uidnext, flags)])
        self._ledger.keep_lease()
        try:
            uidvalidity, moved = self._target.connection.move(uids, self.name)
        except Refused as refused:
            failure = self._target.connection.failure(refused, "append", self.name)
            if failure.cause_id in HOST_BUSY:
                raise failure from None
            uidvalidity, moved = 0, {}
        if self.is_here(self._target.connection, uidvalidity) and moved.keys() == uids.keys():
            entries = [replace(entry, target_uid=moved[uid]) for uid, entry in uids.items()]
        else:
            marked = (Wanted(entry, self._mark(scan[entry.source_uid])) for entry in wanted)
            entries = match(marked, self.look_up.candidates(self._uidnext, ()))
        return self.note(batch_id, sorted(entries, key=lambda entry: entry.target_uid), size if entries else 0)

    def disown(self, source_uids: set[int]) -> None:
        """Commit that these are not at the target after all; they are to be sent again."""
        self._ledger.disown(self.folder_id, source_uids)
        self.forget(source_uids)

    def forget(self, source_uids: Collection[int]) -> None:
        """Know no more of these messages, as the ledger does."""
        for batch in self.recorded:
            kept = tuple(entry for entry in batch.entries if entry.source_uid not in source_uids)
            self.claimed.difference_update(e.target_uid for e in batch.entries if e.source_uid in source_uids)
            if kept:
                self._batches[batch.id] = replace(batch, entries=kept)
            else:
                del self._batches[batch.id]

    def send(self, letters: Sequence[Letter]) -> None:
        """Deliver a batch and commit what became of each message, waiting for each answer."""
        [batch_id] = self._ledger.advance([], [self.intended(letters)])
        sent = Sent(batch_id, letters, sum(len(letter.raw) for letter in letters))
        self._settle([sent], lambda outcome: self._deliver(letters, outcome))

    def settle(self, batches: Sequence[Sent]) -> None:
        """Find out what became of batches whose answers are missing, bring there what is not, and commit.

        The first of them is the one that failed: its messages go alone, so that one that is refused, or breaks every
        connection, is found.
        """

        def bring(outcome: _Outcome) -> None:
            self._note([entry for sent in batches for entry in sent.arrived], outcome)
            there = outcome.source_uids
            missing = [m for sent in batches for m in sent.letters if m.uid not in there]
            if not all(sent.certain for sent in batches):
                # Of the batches behind a refused one the server has told the UIDs: none of their copies is another's.
                told = {m.uid: uid for sent in batches for m, uid in zip(sent.letters, sent.uids, strict=False)}
                outcome.sent = {m.uid: self._wanted(m, told.get(m.uid, 0)) for m in missing}
                missing = self._look_up(missing, outcome, may_be_late=not all(sent.heard for sent in batches))
            left = {letter.uid for letter in missing}
            for number, sent in enumerate(batches):
                rest = [letter for letter in sent.letters if letter.uid in left]
                if number:
                    self._deliver(rest, outcome)
                else:
                    self._deliver_each(rest, outcome)

        self._settle(batches, bring)

    def settle_answered(self, batches: Sequence[Sent]) -> None:
        """Sort out batches that were taken under UIDs nobody expected, or without any being told, and commit."""

        def bring(outcome: _Outcome) -> None:
            letters = [letter for sent in batches for letter in sent.letters]
            uids = [uid for sent in batches for uid in sent.uids]
            self._deliver_each(self._arrived(letters, uids if len(uids) == len(letters) else [], outcome), outcome)

        self._settle(batches, bring)

    def _settle(self, batches: Sequence[Sent], bring: Callable[[_Outcome], None]) -> None:
        outcome = _Outcome()
        try:
            bring(outcome)
        except MigrationError as error:
            if error.side != _TARGET:
                # The source failed within the literal of a message that is read as it goes out: the target waits for
                # the rest of it, and stores nothing when it is left.
                self._target.forget()
                outcome.uncertain = False
            # Otherwise the batches stay intended and the next run looks them up.
            if not outcome.uncertain:
                self._commit(batches, outcome)
            raise
        self._commit(batches, outcome)

    def _commit(self, batches: Sequence[Sent], outcome: _Outcome) -> None:
        settled = []
        for sent in batches:
            sizes = {letter.uid: len(letter.raw) for letter in sent.letters}
            arrived = sorted(
                (entry for entry in outcome.arrived if entry.source_uid in sizes), key=lambda entry: entry.target_uid
            )
            given_up = [message for message in outcome.given_up if message.source_uid in sizes]
            size = sum(sizes[entry.source_uid] for entry in arrived)
            settled.append(self.note(sent.id, arrived, size, given_up))
        self._ledger.advance(settled)

    def _deliver(self, letters: Sequence[Letter], outcome: _Outcome) -> None:
        """Send together where the server can; what is not there afterwards goes one by one."""
        letters = [letter for letter in letters if letter.uid not in outcome.source_uids]
        rest: Sequence[Letter] = letters
        if len(letters) > 1 and self._target.connection.has("MULTIAPPEND"):
            # Another runner may have taken over meanwhile, and look for what we are about to send.
            self._ledger.keep_lease()
            outcome.uncertain = True
            try:
                uids = self._append(letters)
                rest = self._arrived(letters, uids, outcome)
            except (Refused, ConnectionLost) as failure:
                # With unannounced literals a refusal leaves the stream out of step: always a new connection.
                self._reopen(failure)
                rest = self._look_up(letters, outcome, may_be_late=isinstance(failure, ConnectionLost))
        self._deliver_each(rest, outcome)

    def _deliver_each(self, letters: Sequence[Letter], outcome: _Outcome) -> None:
        for letter in letters:
            # It may have been found when another one was looked for.
            if letter.uid not in outcome.source_uids:
                self._deliver_one(letter, outcome)

    def _deliver_one(self, letter: Letter, outcome: _Outcome) -> None:
        """Bring one message there; where it is refused, without what may be meant, one thing after the other."""
        left = list(_CONCESSIONS)
        failure = first = self._attempt(letter, outcome)
        while failure and (step := next((s for s in left if self._may_help(s, letter, failure)), None)):
            left.remove(step)
            before, cause = letter.terms, failure.cause_id
            letter.terms = self._conceded(step, letter, failure)
            failure = self._attempt(letter, outcome)
            if failure and failure.cause_id == cause:
                # It was something else: what was left out for nothing goes out again.
                letter.terms = before
                self.keywords_dropped.pop(letter.uid, None)
                self.arrivals.pop(letter.uid, None)
            elif step == "odd keywords":
                self._refused_keywords |= letter.terms.without
        if failure is None or first is None:
            return
        broken = isinstance(failure, ConnectionLost)
        told = failure if broken else first
        given_up = GivenUp(
            letter.uid,
            told.cause_id,
            told.server_text,
            len(letter.raw),
            letter.envelope.arrived,
            letter.digest,
            known_by=told.known_by,
            heading=letter.heading(),
        )
        if broken:
            self._broken_in_a_row.append(given_up)
            if len(self._broken_in_a_row) >= FAILURES_IN_A_ROW:
                # Then those before it are not to blame either, whether they are written down already or not.
                open_still = [message for message in outcome.given_up if message not in self._broken_in_a_row]
                uncommitted = {message.source_uid for message in outcome.given_up} | {letter.uid}
                outcome.given_up = open_still
                committed = {message.source_uid for message in self._broken_in_a_row} - uncommitted
                self._ledger.withdraw(self.folder_id, committed)
                self.given_up -= committed
                # Alone, and each over several sessions: no way is more careful than that.
                self._target.is_careful = True
                raise failure
        outcome.given_up.append(given_up)
        outcome.sent.pop(letter.uid, None)

    def _attempt(self, letter: Letter, outcome: _Outcome) -> MigrationError | None:
        """Send one message until it is there (None), is refused, or has broken too many connections."""
        failure: MigrationError | None = None
        for _ in range(TRIES):
            self._ledger.keep_lease()
            outcome.uncertain = True
            try:
                # A server that has hung up may have said why, and we did not hear it while we were sending.
                uids = self._append([letter], announced=isinstance(failure, ConnectionLost))
                if not self._arrived([letter], uids, outcome):
                    return None
                again = failure is None or failure.cause_id != "lost_at_target"
                failure = MessageError("lost_at_target", _TARGET, "", where=self.name)
                if not again:
                    break
            except Refused as refused:
                failure = self._target.connection.failure(refused, "append", self.name)
                if refused.status == "BAD":
                    # The octets of the message may still be read as commands.
                    self._reopen(refused)
                if failure.cause_id == "append_ambiguous":
                    if not self._look_up([letter], outcome):
                        return None
                    # Now it is clear: it was refused, and the words do not say why (Zimbra).
                    failure = MessageError(
                        "unclassified", _TARGET, failure.server_text, where=self.name, known_by=failure.known_by
                    )
                outcome.uncertain = False
                is_of_the_message = isinstance(failure, MessageError) or failure.cause_id in _OF_THE_MESSAGE
                if is_of_the_message or any(self._may_help(step, letter, failure) for step in _CONCESSIONS):
                    return failure
                raise failure from None
            except ConnectionLost as lost:
                failure = lost
                self._reopen(lost)
                if not self._look_up([letter], outcome):
                    return None
        return failure

    def _may_help(self, step: str, letter: Letter, failure: MigrationError) -> bool:
        """Whether there is something to be left out or changed, and the refusal may mean it."""
        if failure.cause_id not in _CONCESSIONS[step]:
            return False
        if step == "once more":
            return True
        if step == "repair":
            return self._repair == "refused" and _mended(letter, failure) is not None
        if step == "date":
            moment = letter.arrival().moment if letter.terms.dated else None
            # An arrival date cannot be mended later: one that every server takes goes only where the words name it.
            return moment is not None and (failure.cause_id == "date_refused" or not is_kept_everywhere(moment))
        keywords = _keywords(self.outgoing(letter).flags)
        return bool(_odd(keywords) if step == "odd keywords" else keywords)

    def _conceded(self, step: str, letter: Letter, failure: MigrationError) -> Terms:
        terms = letter.terms
        if step == "once more":
            return terms
        if step == "repair":
            return replace(terms, mended=_mended(letter, failure), refusal=failure.server_text)
        if step == "date":
            return replace(terms, dated=False)
        keywords = _keywords(self.outgoing(letter).flags)
        return replace(terms, without=terms.without | (_odd(keywords) if step == "odd keywords" else keywords))

    def _append(self, letters: Sequence[Letter], *, announced: bool = False) -> list[int]:
        # Opened before, so that a look-up right afterwards knows what is new.
        connection = self.look_up.opened()
        connection.fence = self._ledger.keep_lease
        begun = time.monotonic()
        uidvalidity, uids = connection.append(
            self.name, [self.outgoing(letter) for letter in letters], announced=announced
        )
        self._target.waited(begun)
        if uids and not self.is_here(connection, uidvalidity):
            # Into another folder of that name: where it went must be looked up.
            raise ConnectionLost("connection_dropped", _TARGET, "UIDVALIDITY changed", where=self.name)
        return uids

    def _arrived(self, letters: Sequence[Letter], uids: Sequence[int], outcome: _Outcome) -> list[Letter]:
        """Note what an OK means; returns the letters that are not there all the same."""
        taken = self.claimed | outcome.target_uids
        # APPENDUID is believed where it says what must be; otherwise mail came from elsewhere too, or it lies.
        first = max(self._uidnext, max(outcome.target_uids, default=0) + 1)
        if list(uids) != list(range(first, first + len(letters))) or taken.intersection(uids):
            connection = self.look_up.opened()
            connection.refresh()
            scan = {e.uid: e.size for e in connection.scan(self._uidnext) if e.uid not in taken}
            told, uids = uids, uids or sorted(scan)
            if [scan.get(uid) for uid in uids] != [len(letter.content) for letter in letters]:
                return self._sorted_out(letters, scan, outcome, told)
        self._note([letter.entry(uid) for letter, uid in zip(letters, uids, strict=True)], outcome)
        return []

    def _sorted_out(
        self, letters: Sequence[Letter], new: Collection[int], outcome: _Outcome, told: Sequence[int]
    ) -> list[Letter]:
        """Tell by the content which of the new messages are ours; returns the letters that are not there.

        `told` are the UIDs that the server gave, or none: where no letter was found under another one, what has a UID
        that it did not give is the member's, though it came just when one of ours was taken away.
        """
        rest = self._look_up(letters, outcome, may_be_late=False)
        strangers = sorted(set(new) - outcome.target_uids)
        if not rest:
            return []
        given = {letter.uid: uid for letter, uid in zip(letters, told, strict=False)}
        found = [entry for entry in outcome.arrived if entry.source_uid in given]
        if given and all(given[entry.source_uid] == entry.target_uid for entry in found):
            left = {given[letter.uid] for letter in rest}
            strangers = [uid for uid in strangers if uid in left]
        if len(strangers) == len(rest):
            # It took them and rewrote them beyond recognition: exactly as many came as were sent.
            self._note([letter.entry(uid) for letter, uid in zip(rest, strangers, strict=True)], outcome)
            return []
        # Some servers show a session what it stored only when the folder is opened anew.
        outcome.uncertain = True
        self._reopen()
        return self._look_up(rest, outcome)

    def _look_up(self, letters: Sequence[Letter], outcome: _Outcome, *, may_be_late: bool = True) -> list[Letter]:
        """Find at the target what an uncertain APPEND left; returns the letters that are not there."""
        outcome.uncertain = True
        # An earlier look-up may have found some before the connection broke again.
        sought = [letter for letter in letters if letter.uid not in outcome.source_uids]
        wanted = [
            outcome.sent[letter.uid]._replace(entry=letter.entry())
            if letter.uid in outcome.sent
            else self._wanted(letter)
            for letter in sought
        ]
        # The copy of one of these may be the twin of what is sought, and must not stand for it.
        uids = {each.uid for each in wanted}
        others = [each for uid, each in outcome.sent.items() if uid not in uids and uid not in outcome.source_uids]
        if may_be_late:
            candidates = self.look_up.settled_candidates(wanted, self._uidnext, outcome.target_uids, others)
        else:
            candidates = self.look_up.candidates(self._uidnext, outcome.target_uids)
        # What became of a message that this run has not repaired is the server's doing, whatever it looks like.
        ours = {each.uid: each.entry.repairs for each in (*wanted, *others)}
        found = match([*wanted, *others], candidates)
        self._note([replace(entry, repairs=ours[entry.source_uid]) for entry in found], outcome)
        if may_be_late:
            self.sent_again.note_missing(wanted, outcome.arrived, self._uidnext)
        return [letter for letter in sought if letter.uid not in outcome.source_uids]

    def _note(self, entries: Sequence[Entry], outcome: _Outcome) -> None:
        """From here on it is known what became of everything that was sent."""
        outcome.note(entries)
        outcome.uncertain = False
        if entries:
            self._broken_in_a_row.clear()

    def _reopen(self, reason: Exception | None = None) -> None:
        reopen_target(self._target, reason)
        self.look_up.opened()


def reopen_target(target: Endpoint[TargetConnection], reason: Exception | None) -> None:
    """A new connection, unless the server has asked to be left alone."""
    if isinstance(reason, ConnectionLost) and reason.cause_id in HOST_BUSY:
        raise reason
    target.reopen()


def _mended(letter: Letter, failure: MigrationError) -> Repaired | None:
    # What is too large to be held is not repaired either.
    return repaired(letter.raw, failure.server_text) if isinstance(letter.raw, bytes) else None


def _keywords(flags: frozenset[str]) -> frozenset[str]:
    return frozenset(flag for flag in flags if not flag.startswith("\\"))


def _odd(keywords: frozenset[str]) -> frozenset[str]:
    return frozenset(keyword for keyword in keywords if not _USUAL_KEYWORD.fullmatch(keyword))
