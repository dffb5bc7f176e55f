"""Random histories of a mailbox end equal: both sides are used between the passes, connections break, runs die.

Hypothesis draws what happens (`Histories`), a record of each message (`Known`) says what a pass must make of it.

What is promised after a pass that ended, whatever came before it:

- No message is lost: each at the source is copied, already there, or an issue; the numbers add up. Nothing is there
  twice, nothing at the target has disappeared or been altered, and the source is as it was.
- A message of which there was never more than one stands at the target in its folder, with its bytes, its date and its
  flags. Of each flag, a change at the source since the last pass wins; otherwise it is what it was at the target.
- Its copy follows it into another folder, unless the member touched the copy or the server cannot move: then it stays
  where it is, the message is an issue. What the member deleted does not come back.
- A further pass sends nothing.

Less is promised where something was lost. After a pass that failed: of a message that either side changed between it
and the next pass, only that it is not lost and not there twice, and the member's deletion or move of a copy that no
pass had verified yet may be undone. When UIDVALIDITY changes on either side: the content once, but not flags that
changed at the source since the last pass; when it changes at the target, what the member deleted or moved there, or
what was moved at the source meanwhile, is brought there again.

`pytest tests/imapcopy/test_histories.py --hypothesis-profile=thorough` draws other histories each time, longer ones,
for half an hour and more; what it finds it prints as steps and as a blob for `@reproduce_failure`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Engine

from deployments.demo.imap_server import CAPABILITIES, Action, ImapServer
from deployments.demo.imap_server import Account as Mailbox
from deployments.demo.imap_store import Folder, Message
from imapcopy import group_pass
from imapcopy import send as send_module
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import ServerError
from imapcopy.plan import Grouping
from imapcopy.send import Capacity
from tests.imapcopy.test_faults import Clock, Death, World, clock
from tests.imapcopy.world import PASSWORD, Box, mail, moment, new_member

__all__ = ["clock"]

BRIEF = settings(
    max_examples=110,
    stateful_step_count=20,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
PROFILES = {
    "full": CAPABILITIES,
    "only UIDPLUS": frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"}),
    "nothing": frozenset({"IMAP4rev1"}),
    "without MOVE": CAPABILITIES - {"MOVE"},
    "without CONDSTORE": CAPABILITIES - {"CONDSTORE"},
    "without UIDPLUS": CAPABILITIES - {"UIDPLUS"},
    "UIDPLUS and MOVE": frozenset({"IMAP4rev1", "UIDPLUS", "MOVE", "AUTH=PLAIN"}),
}
NAMES = ["INBOX", "Work", "Work/Old", "计划", "Play"]
FLAGS = ["\\Seen", "\\Flagged", "\\Answered", "$Project", "\\Deleted"]
MARK = frozenset({"\\Deleted"})

Flags = frozenset[str]
some_flags = st.frozensets(st.sampled_from(FLAGS), max_size=3)
which = st.integers(0, 99)
"""Chooses among what there is, by turns."""
folder_names = st.sampled_from(NAMES)


class Place(NamedTuple):
    folder: str
    uidvalidity: int
    uid: int


Look = dict[bytes, dict[Place, Flags]]
"""What an account holds: places and flags, by octets."""


def look(account: Mailbox) -> Look:
    found: Look = defaultdict(dict)
    for folder in account.folders:
        for message in folder.messages:
            found[message.raw][Place(folder.name, folder.uidvalidity, message.uid)] = message.flags
    return found


@dataclass
class Known:
    """What was true of a message when it was last seen at the source by a pass that ended."""

    source: Place
    flags: Flags
    copy: Place
    """Where the copy of it is that the ledger knows, or was."""


@dataclass
class Fate(Clock):
    """Strikes at the nth command of a verb (any: ""), or write of the ledger; never at the goodbye, which nobody waits
    for.
    """

    place: str = ""
    verb: str = ""
    nth: int = 0
    met: int = 0
    struck: bool = False

    def tick(self, place: str, step: str) -> bool:
        with self.lock:
            fits = place == self.place and self.verb in ("", step.removeprefix("UID ")) and step != "LOGOUT"
            self.met += fits
            struck = fits and self.met == self.nth
            self.struck = self.struck or struck
            self.dead = self.dead or (struck and self.deadly)
            return struck


@dataclass
class Meanwhile(Clock):
    """Does something before the source carries out the nth command of a verb."""

    verb: str = ""
    nth: int = 0
    act: Callable[[], object] = lambda: None
    met: int = 0

    def tick(self, place: str, step: str) -> bool:
        with self.lock:
            fits = place == "old" and self.verb == step.removeprefix("UID ")
            self.met += fits
            now = fits and self.met == self.nth
        if now:
            self.act()
        return False


class Blow(NamedTuple):
    """Where a run is struck, and how."""

    place: str
    verb: str
    nth: int
    action: Action
    deadly: bool


def blows_at(place: str, verbs: list[str]) -> st.SearchStrategy[Blow]:
    return st.builds(
        Blow,
        st.just(place),
        st.sampled_from(verbs),
        st.integers(1, 8),
        st.sampled_from([Action.DROP_AFTER, Action.DROP_BEFORE]),
        st.just(True) if place == "ledger" else st.booleans(),
    )


blows = st.one_of(
    blows_at("new", ["APPEND", "MOVE", "STORE", "", "FETCH", "SELECT", "CREATE"]),
    blows_at("new", ["APPEND", "MOVE", "STORE"]),
    blows_at("old", ["FETCH", "", "EXAMINE"]),
    blows_at("ledger", ["ledger"]),
)


def odd(number: int, kind: int) -> bytes:
    """A message that differs from every other one, in one of the ways in which messages are odd."""
    plain = mail(number)
    return [
        plain,
        mail(number, b"x" * 5000),
        plain.removesuffix(b"\r\n"),
        b"Subject: no id\n\nbare line ends %d\n" % number,
        b"Subject: \xff\xfe %d\r\n\r\nNUL \0\r\n" % number,
        b"no header at all %d" % number,
    ][kind]


class Histories(RuleBasedStateMachine):
    """One mailbox between two servers, from its first message to a last pass."""

    def __init__(self, world: World, change: Callable[[Any, str, Any], None]) -> None:
        super().__init__()
        self.world = world
        self.change = change
        world.boxes += 1
        user = f"user{world.boxes}@example"
        self.source = world.old.add_account(user, PASSWORD)
        self.target = world.new.add_account(user, PASSWORD)
        self.box = Box(world.engine, world.old, world.new, new_member(world.engine, user), user, user)
        self.numbers = count(1)
        self.known: dict[bytes, Known] = {}
        self.common: set[bytes] = set()
        """Was somewhere more than once: nobody can say which of them is whose."""
        self.loose: set[bytes] = set()
        """Was changed when it was not known what a failed pass had done to it."""
        self.unsure: set[bytes] = set()
        """A UIDVALIDITY changed: what happened to its flags is forgotten."""
        self.lost_track: set[bytes] = set()
        """The target numbered its copy anew: it is found where it belongs, and nowhere else."""
        self.half: set[bytes] = set()
        """Flags of it that changed at the source may have been carried over by a pass that failed."""
        self.arrivals = Counter[bytes]()
        """How often a message came into being, on either side."""
        self.touches = Counter[bytes]()
        """How often the member did something to copies."""
        self.failed = False
        """The last pass did not end."""

    @initialize(
        old=st.sampled_from(list(PROFILES)),
        new=st.sampled_from(list(PROFILES)),
        keywords=st.sampled_from([True, True, True, False]),
        batch=st.integers(1, 5),
        unanswered=st.integers(1, 4),
        group=st.sampled_from([1, 2, 200]),
        connections=st.integers(1, 4),
        mail=st.lists(st.tuples(folder_names, st.integers(0, 5), some_flags), max_size=8),
        equal=st.lists(st.tuples(folder_names, st.integers(901, 903)), max_size=4),
        first=st.booleans(),
    )
    def begin(
        self,
        old: str,
        new: str,
        keywords: bool,
        batch: int,
        unanswered: int,
        group: int,
        connections: int,
        mail: list[tuple[str, int, Flags]],
        equal: list[tuple[str, int]],
        first: bool,
    ) -> None:
        self.world.old.behaviour.capabilities = PROFILES[old]
        self.world.new.behaviour.capabilities = PROFILES[new]
        self.world.new.behaviour.keywords_allowed = keywords
        self.keywords = keywords
        self.can_move = {"MOVE", "UIDPLUS"} <= PROFILES[new]
        self.change(group_pass, "BATCH_MESSAGES", batch)
        self.change(send_module, "UNANSWERED_BATCHES", unanswered)
        self.box.options = CopyOptions(capacity=Capacity(connections=connections), grouping=Grouping(folders=group))
        self.world.old.log.clear()
        for name, kind, flags in mail:
            self.mail_arrives(name, kind, flags, 1)
        for name, number in equal:
            self.equal_mail_arrives(name, number, frozenset(), 1)
        if first:
            self.a_pass(again=False)

    # The source

    @rule(name=folder_names, kind=st.integers(0, 5), flags=some_flags, times=st.integers(1, 4))
    def mail_arrives(self, name: str, kind: int, flags: Flags, times: int) -> None:
        for _ in range(times):
            number = next(self.numbers)
            self.arrive(name, odd(number, kind), flags)

    @rule(name=folder_names, number=st.integers(901, 903), flags=some_flags, times=st.integers(1, 3))
    def equal_mail_arrives(self, name: str, number: int, flags: Flags, times: int) -> None:
        self.common.add(mail(number))
        for _ in range(times):
            self.arrive(name, mail(number), flags)

    def arrive(self, name: str, raw: bytes, flags: Flags) -> None:
        folder = self.source.find(name)
        if folder is None or not folder.selectable:
            folder = self.source.create(name)
        folder.deliver(raw, moment(5), flags)
        self.arrivals[raw] += 1

    @rule(one=which)
    def mail_is_deleted_at_the_source(self, one: int) -> None:
        for folder, message in self.chosen(self.source, one):
            self.changes_at_source(message.raw)
            folder.expunge([message.uid])

    @rule(one=which, into=folder_names, times=st.integers(1, 3))
    def mail_is_moved_at_the_source(self, one: int, into: str, times: int) -> None:
        for each in range(one, one + times):
            for folder, message in self.chosen(self.source, each):
                target = self.opened(self.source, into)
                self.changes_at_source(message.raw)
                target.deliver(message.raw, message.internal_date, message.flags)
                folder.expunge([message.uid])

    @rule(
        one=which,
        into=folder_names,
        times=st.integers(1, 3),
        verb=st.sampled_from(["EXAMINE", "FETCH", "LIST", "STATUS"]),
        nth=st.integers(1, 6),
    )
    def mail_is_moved_while_a_pass_runs(self, one: int, into: str, times: int, verb: str, nth: int) -> None:
        """What that pass has not seen is for the next one."""
        before = look(self.target)
        moving = Meanwhile(verb=verb, nth=nth, act=lambda: self.mail_is_moved_at_the_source(one, into, times))
        self.world.run(self.box, moving)
        for server in (self.world.old, self.world.new):
            server.behaviour.before_command = None
        self.run(Clock())
        self.judge(before)

    @rule(one=which, into=folder_names)
    def mail_is_copied_at_the_source(self, one: int, into: str) -> None:
        for _, message in self.chosen(self.source, one):
            self.common.add(message.raw)
            self.arrive(into, message.raw, message.flags)

    @rule(one=which, flags=some_flags, times=st.integers(1, 3))
    def flags_change_at_the_source(self, one: int, flags: Flags, times: int) -> None:
        for each in range(one, one + times):
            for folder, message in self.chosen(self.source, each):
                self.changes_at_source(message.raw)
                folder.set_flags(message.uid, flags)

    @rule(one=which, name=folder_names)
    def a_folder_is_renamed(self, one: int, name: str) -> None:
        folders = [folder for folder in self.source.folders if folder.name != "INBOX"]
        if folders and self.source.find(name) is None:
            folder = folders[one % len(folders)]
            if not name.startswith(folder.name + "/"):
                for each in [folder, *self.source.children(folder)]:
                    for message in each.messages:
                        self.changes_at_source(message.raw)
                self.source.rename(folder, name)

    @rule(one=which)
    def a_folder_is_deleted(self, one: int) -> None:
        folders = [folder for folder in self.source.folders if folder.name != "INBOX" and folder.selectable]
        if folders:
            folder = folders[one % len(folders)]
            for message in folder.messages:
                self.changes_at_source(message.raw)
            self.source.delete(folder)

    @rule(one=which)
    def the_source_numbers_a_folder_anew(self, one: int) -> None:
        folders = [folder for folder in self.source.folders if folder.selectable]
        folder = folders[one % len(folders)]
        for message in folder.messages:
            self.changes_at_source(message.raw)
        # Also what has left it: the row that knows it is superseded.
        self.unsure.update(raw for raw, known in self.known.items() if known.source.folder == folder.name)
        folder.change_uidvalidity()

    def changes_at_source(self, raw: bytes) -> None:
        if self.failed and raw in self.half:
            self.loose.add(raw)

    # The target

    @rule(one=which, flags=some_flags)
    def the_member_changes_flags(self, one: int, flags: Flags) -> None:
        if not self.keywords:
            flags = frozenset(flag for flag in flags if flag.startswith("\\"))
        for folder, message in self.chosen(self.target, one):
            self.touch(message.raw)
            folder.set_flags(message.uid, flags)

    @rule(one=which)
    def the_member_deletes(self, one: int) -> None:
        for folder, message in self.chosen(self.target, one):
            self.touch(message.raw)
            folder.expunge([message.uid])

    @rule(one=which, into=st.sampled_from([*NAMES, "Mine"]))
    def the_member_moves(self, one: int, into: str) -> None:
        for folder, message in self.chosen(self.target, one):
            self.touch(message.raw)
            self.opened(self.target, into).deliver(message.raw, message.internal_date, message.flags)
            folder.expunge([message.uid])

    @rule(one=which, into=st.sampled_from([*NAMES, "Mine"]))
    def the_member_copies(self, one: int, into: str) -> None:
        for _, message in self.chosen(self.target, one):
            self.touch(message.raw)
            self.common.add(message.raw)
            self.arrivals[message.raw] += 1
            self.opened(self.target, into).deliver(message.raw, message.internal_date, message.flags)

    @rule(name=folder_names, flags=some_flags, equal=st.one_of(st.none(), which, st.integers(901, 903)))
    def the_member_gets_mail(self, name: str, flags: Flags, equal: int | None) -> None:
        raw = mail(next(self.numbers))
        if equal is not None and equal > 900:
            raw = mail(equal)
            self.common.add(raw)
        elif equal is not None:
            for _, message in self.chosen(self.source, equal):
                raw = message.raw
                self.common.add(raw)
        self.touch(raw)
        self.arrivals[raw] += 1
        if not self.keywords:
            flags = frozenset(flag for flag in flags if flag.startswith("\\"))
        self.opened(self.target, name).deliver(raw, moment(5), flags)

    @rule(one=which)
    def the_target_numbers_a_folder_anew(self, one: int) -> None:
        folder = self.target.folders[one % len(self.target.folders)]
        for raw, known in self.known.items():
            if known.copy.folder == folder.name:
                self.unsure.add(raw)
                if folder.get(known.copy.uid) is None or known.copy.uidvalidity != folder.uidvalidity:
                    self.loose.add(raw)
                self.lost_track.add(raw)
        for raw in self.common:
            self.arrivals[raw] += max(len(look(side)[raw]) for side in (self.source, self.target))
        if self.failed:
            self.loose.update(message.raw for message in folder.messages)
        folder.change_uidvalidity()

    def touch(self, raw: bytes) -> None:
        self.touches[raw] += 1
        if self.failed:
            self.loose.add(raw)
            self.arrivals[raw] += 1

    # Passes

    @rule(again=st.booleans())
    def a_pass(self, again: bool) -> None:
        before = look(self.target)
        self.run(Clock())
        self.judge(before)
        if again:
            self.world.new.log.clear()
            self.run(Clock())
            sent = [entry for entry in self.world.new.log if entry.verb in {"APPEND", "UID MOVE", "UID STORE"}]
            assert not sent, f"sent once more: {sent}"

    @rule(blow=blows)
    def a_pass_is_disturbed(self, blow: Blow) -> None:
        fate = Fate(place=blow.place, verb=blow.verb, nth=blow.nth, action=blow.action, deadly=blow.deadly)
        before = look(self.target)
        try:
            self.run(fate)
        except (Death, ServerError):
            assert fate.struck
            self.failed = True
            for raw, places in look(self.source).items():
                known = self.known.get(raw)
                if known is None or any(flags != known.flags for flags in places.values()):
                    self.half.add(raw)
        else:
            if not fate.dead:
                self.judge(before)

    def run(self, clock: Clock) -> None:
        source, target = look(self.source), look(self.target)
        try:
            self.world.run(self.box, clock)
        finally:
            for server in (self.world.old, self.world.new):
                server.behaviour.before_command = None
                server.behaviour.faults.clear()
            assert look(self.source) == source, "the source was changed"
            after = look(self.target)
            for raw, places in target.items():
                if raw not in source:
                    assert after[raw] == places, f"not the source's, and changed: {raw!r}"
                assert len(after[raw]) >= len(places), f"gone from the target: {raw!r}"
            for raw in after:
                assert after[raw] == target.get(raw, after[raw]) or raw in source
                assert self.arrivals[raw], f"octets that nobody wrote: {raw!r}"
            for folder in self.target.folders:
                assert {message.internal_date for message in folder.messages} <= {moment(5)}

    def teardown(self) -> None:
        self.a_pass(again=True)
        self.box.assert_untouched()

    # What must be

    def judge(self, before: Look) -> None:
        """Compare the target with what a pass that ended had to make of it."""
        self.failed = False
        self.half.clear()
        source, after = look(self.source), look(self.target)
        issues = self.counted(source)
        for raw, places in source.items():
            if not places:
                continue
            found = after.get(raw, {})
            if raw in self.lost_track and len(found) > len(before[raw]):
                self.arrivals[raw] += 1
                self.loose.add(raw)
            assert len(found) <= self.arrivals[raw], f"doubled: {found} of {raw!r}"
            given_up = sum(issues[place] for place in places)
            if self.can_move:
                assert given_up <= self.touches[raw] or raw in self.loose | self.unsure, f"given up: {raw!r}"
            if not self.touches[raw] and not given_up:
                assert found, f"lost: {raw!r}"
            if raw in self.common or raw in self.loose:
                continue
            [(place, flags)] = places.items()
            self.judge_single(raw, place, flags, before.get(raw, {}), found, issues[place])
        self.unsure.clear()
        self.lost_track.clear()

    def judge_single(
        self, raw: bytes, place: Place, now: Flags, before: dict[Place, Flags], found: dict[Place, Flags], issue: int
    ) -> None:
        """One message at the source, of which the target has one copy at most."""
        known = self.known.get(raw)
        told = f"{raw!r} at {place} {set(now)}, known {known}, was {before}, is {found}, issue {issue}"
        if known is None:
            [(copy, flags)] = found.items()
            assert copy.folder == place.folder, told
            wanted = self.stored(now)
            assert flags == wanted or (before and flags in (wanted, wanted - MARK)), told
            assert not issue, told
            self.known[raw] = Known(place, now, copy)
            return
        [copy, *_] = [*before, None]
        in_place = copy is not None and copy == known.copy
        if raw in self.unsure:
            # It is recognised by its content where it is, or brought again.
            if copy and copy.folder == place.folder:
                assert found.keys() == before.keys(), told
                assert not issue, told
                self.known[raw] = Known(place, now, copy)
            else:
                self.loose.add(raw)
            return
        carried = before and (before[copy] | self.stored(now - known.flags - MARK)) - (known.flags - now - MARK)
        if place == known.source:
            assert found.keys() == before.keys(), told
            assert not copy or found[copy] == (carried if in_place and not issue else before[copy]), told
            if not issue:
                self.known[raw] = Known(place, now, known.copy)
        elif in_place and copy.folder == place.folder:
            assert found == {copy: carried}, told
            assert not issue, told
            self.known[raw] = Known(place, now, copy)
        elif (
            in_place
            and self.can_move
            and before[copy] in (self.stored(known.flags), self.stored(known.flags - MARK), self.stored(now))
        ):
            [(copy, flags)] = found.items()
            assert copy.folder == place.folder, told
            assert flags == carried, told
            assert not issue, told
            self.known[raw] = Known(place, now, copy)
        elif copy and not in_place and copy.folder == place.folder:
            # The member was there before.
            assert found == before, told
            assert not issue, told
            self.known[raw] = Known(place, now, copy)
        else:
            assert found == before, told
            assert issue, told

    def stored(self, flags: Flags) -> Flags:
        return frozenset(flag for flag in flags if self.keywords or flag.startswith("\\"))

    def counted(self, source: Look) -> Counter[Place]:
        """The numbers of the ledger add up; returns what it calls an issue."""
        self.box.assert_counted()
        rows = self.box.ledger.folders()
        assert sorted(row.source_name for row in rows) == sorted(
            folder.name for folder in self.source.folders if folder.selectable
        )
        assert sum(row.source_messages for row in rows) == sum(map(len, source.values()))
        claimed = Counter(
            (row.target_name, row.target_uidvalidity, entry.target_uid)
            for row in rows
            for batch in self.box.ledger.batches(row.id or 0)
            for entry in batch.entries
        )
        assert not +(claimed - Counter(dict.fromkeys(claimed, 1))), "a copy stands for two messages"
        return Counter(
            Place(row.source_name, row.source_uidvalidity, uid)
            for row in rows
            for uid in self.box.ledger.issues(row.id or 0)
        )

    # What there is

    def chosen(self, account: Mailbox, one: int) -> list[tuple[Folder, Message]]:
        """One message of an account, or none where there is none."""
        every = [(folder, message) for folder in account.folders for message in folder.messages]
        return [every[one % len(every)]] if every else []

    def opened(self, account: Mailbox, name: str) -> Folder:
        folder = account.find(name)
        return folder if folder and folder.selectable else account.create(name)


@pytest.fixture
def world(
    monkeypatch: pytest.MonkeyPatch, old: ImapServer, new: ImapServer, engine: Engine, clock: Callable[[Clock], None]
) -> World:
    # Nothing is left to the clock: whether more connections pay is not asked.
    monkeypatch.setattr(send_module, "FASTER", 0)
    monkeypatch.setattr(send_module, "MESSAGES_TO_TELL", 1)
    return World(old, new, engine, clock)


def test_every_history_ends_equal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    thorough = settings.get_current_profile_name() == "thorough"
    run_state_machine_as_test(lambda: Histories(world, monkeypatch.setattr), settings=settings() if thorough else BRIEF)
