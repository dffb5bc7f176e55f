"""A run may end at any step: the next one arrives at the same mailbox, without loss and without a double.

A step is a command that one of the servers receives, or a write to the ledger. After each of them the process dies once
(`Death`: nothing that the program could catch, and nothing it does afterwards has an effect; to die before a step is to
die after the one before). And at each command the connection breaks once while the process lives on and has to find
its way: before the command is carried out, and, where that makes a difference to anybody, after it.
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import Session

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, ImapServer, Received
from imapcopy import connection, group_pass
from imapcopy import send as send_module
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.dialogue import Dialogue
from imapcopy.errors import ServerError
from imapcopy.send import Capacity
from models import member as member_module
from models.ledger import Ledger
from models.member import take_lease
from tests.imapcopy.world import PASSWORD, WRITING, Box, account_at, everything, mail, moment, new_member
from tests.servers.databases import on_both

PROFILES = {
    "full": CAPABILITIES,
    "only UIDPLUS": frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"}),
    "nothing": frozenset({"IMAP4rev1"}),
}
DEAD_RUNNER = f"{member_module.this_runner().rpartition('/')[0].rpartition('/')[0]}/999999999/1"
"""A process of this machine that no longer lives: its lease may be taken over at once."""
LEDGER, LEASE = "ledger", "lease"
"""What a step of the ledger is: something written down, or only the lease renewed."""


class Death(BaseException):
    """The process is gone."""


@dataclass
class Clock:
    """Counts the steps of one run and ends it at one of them."""

    strike_at: tuple[str, int] = ("", 0)
    """(place, number); the places are "old", "new" and "ledger"."""
    action: Action = Action.DROP_BEFORE
    deadly: bool = True
    dead: bool = False
    steps: dict[str, list[str]] = field(default_factory=lambda: {"old": [], "new": [], "ledger": []})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tick(self, place: str, step: str) -> bool:
        """Count a step and say whether it is the one."""
        with self.lock:
            self.steps[place].append(step)
            struck = (place, len(self.steps[place])) == self.strike_at
            self.dead = self.dead or (struck and self.deadly)
            return struck

    def check(self) -> None:
        if self.dead:
            raise Death


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Clock], None]:
    """Puts a clock into everything that a run does to the world outside; the last one given counts."""
    current = [Clock()]

    def mortal(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            current[0].check()
            try:
                return method(*args)
            finally:
                current[0].check()

        return wrapped

    for place, name in ((Dialogue, "read"), (Dialogue, "write"), (connection, "sign_in")):
        monkeypatch.setattr(place, name, mortal(getattr(place, name)))
    fenced, check_lease = Ledger._fenced, Ledger.check_lease
    renewing = threading.local()

    def renewed(self: Ledger) -> None:
        renewing.now = True
        try:
            check_lease(self)
        finally:
            renewing.now = False

    @contextmanager
    def counted(self: Ledger) -> Iterator[Session]:
        now = current[0]
        now.check()
        with fenced(self) as session:
            yield session
        now.tick("ledger", LEASE if getattr(renewing, "now", False) else LEDGER)
        now.check()

    monkeypatch.setattr(Ledger, "_fenced", counted)
    monkeypatch.setattr(Ledger, "check_lease", renewed)
    return lambda new: current.__setitem__(0, new)


@dataclass
class World:
    """Two running servers and a database, used for many boxes one after the other."""

    old: ImapServer
    new: ImapServer
    engine: Engine
    use: Callable[[Clock], None]
    boxes: int = 0

    def box(self) -> Box:
        """A fresh member with its small mailbox."""
        self.boxes += 1
        user = f"user{self.boxes}@example"
        source, target = self.old.add_account(user, PASSWORD), self.new.add_account(user, PASSWORD)
        work, sent = source.create("Work"), source.create("计划")
        inbox = source.folder("INBOX")
        for number in range(5):
            inbox.deliver(mail(number), moment(number + 1), ["\\Seen"] if number % 2 else [])
        inbox.deliver(mail(1), moment(2), ["\\Seen"])  # the same once more
        inbox.deliver(b"Subject: no id\n\nbare line end\0", moment(7), ["\\Flagged"])
        for number in range(5, 8):
            work.deliver(mail(number), moment(number + 1), ["$Project"])
        work.deliver(mail(0), moment(1))  # also in INBOX
        sent.deliver(mail(9), moment(10), ["\\Answered"])
        # Mail that was at the target before: one of them a copy, the other a stranger.
        target.folder("INBOX").deliver(mail(3), moment(4), ["\\Seen"])
        target.folder("INBOX").deliver(mail(100), moment(11))
        return Box(self.engine, self.old, self.new, new_member(self.engine, user), user, user)

    def run(self, box: Box, clock: Clock) -> None:
        """One run of one process, which finds the database file and takes the lease of the one before over."""
        self.use(clock)
        for place, server in (("old", self.old), ("new", self.new)):
            server.behaviour.faults.clear()
            server.behaviour.before_command = self._hook(place, server, clock)
        token = take_lease(self.engine, box.member_id, DEAD_RUNNER)
        try:
            copy_mailbox(
                account_at(self.old, box.source_user),
                account_at(self.new, box.target_user),
                Ledger(self.engine, box.member_id, token),
                box.options,
            )
        finally:
            # No command of this run counts as one of the next.
            for server in (self.old, self.new):
                server.settle()

    @property
    def is_full(self) -> bool:
        return "MULTIAPPEND" in self.new.behaviour.capabilities

    @property
    def is_a_fleet(self) -> bool:
        return "UIDPLUS" in self.new.behaviour.capabilities and not self.is_full

    def appends(self, box: Box) -> int:
        return len(self.new.commands("APPEND", box.target_user))

    def _hook(self, place: str, server: ImapServer, clock: Clock) -> Callable[[Received], None]:
        def hook(entry: Received) -> None:
            if clock.tick(place, entry.verb):
                server.behaviour.faults.append(Fault(entry.verb.removeprefix("UID "), clock.action))

        return hook


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    old: ImapServer,
    new: ImapServer,
    engine: Engine,
    clock: Callable[[Clock], None],
) -> World:
    """Servers of one profile; batches are small, so that a folder has several."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 4)
    old.behaviour.capabilities = new.behaviour.capabilities = request.param
    return World(old, new, engine, clock)


def undisturbed(world: World) -> dict[str, list[str]]:
    """Run once without a fault; returns the steps by place."""
    box, clock = world.box(), Clock()
    world.run(box, clock)
    assert_arrived(world, box)
    appends = world.appends(box)
    world.run(box, Clock())
    assert world.appends(box) == appends
    assert min(map(len, clock.steps.values())) > 7
    return clock.steps


def end_and_go_on(world: World, clock: Clock) -> None:
    """End a run at a step; the next one must arrive, and the one after it has nothing to do."""
    box = world.box()
    before = everything(world.old, box.source_user)
    place, number = clock.strike_at
    with suppress(Death, ServerError):
        world.run(box, clock)
    # Over several connections a run does not always need as many commands as the one that was counted.
    reached = len(clock.steps[place]) >= number
    assert reached or world.is_a_fleet, "the step must have been reached"
    step = f"{clock.action.value} step {number} of {place}: {clock.steps[place][number - 1 if reached else -1]}"
    world.run(box, Clock())
    try:
        assert_arrived(world, box)
        assert everything(world.old, box.source_user) == before
        if number % 8 == 0:
            appends = world.appends(box)
            world.run(box, Clock())
            assert world.appends(box) == appends
    except AssertionError as wrong:
        raise AssertionError(f"ended {step}") from wrong


def assert_arrived(world: World, box: Box) -> None:
    """The target holds the source's mail once, and its own; the ledger knows all of it."""
    expected = everything(world.old, box.source_user)
    expected["INBOX", mail(100), moment(11), frozenset()] += 1
    assert everything(world.new, box.target_user) == expected
    rows = box.ledger.folders()
    assert sorted(row.source_name for row in rows) == ["INBOX", "Work", "计划"]
    assert sum(row.source_messages for row in rows) == 12
    assert not sum(row.issues for row in rows)
    box.assert_counted()


@pytest.mark.parametrize("world", list(PROFILES.values()), ids=list(PROFILES), indirect=True)
def test_a_process_that_died_after_any_step_is_followed_by_one_that_completes_its_work(world: World) -> None:
    """Every step in turn but the goodbye, which nobody waits for; for the lesser servers those that change the target
    or the ledger, for what a process that died leaves behind is the same after a step that only reads as before it.
    """
    steps = undisturbed(world)
    swept = [
        (place, number)
        for place, found in steps.items()
        for number, step in enumerate(found, start=1)
        if (world.is_full and step != "LOGOUT") or step in {*WRITING, LEDGER}
    ]
    for at in swept:
        clock = Clock(at, Action.DROP_AFTER, deadly=True)
        end_and_go_on(world, clock)
        assert clock.dead or world.is_a_fleet
    Box(world.engine, world.old, world.new, 0).assert_untouched()


@pytest.mark.parametrize("world", list(PROFILES.values()), ids=list(PROFILES), indirect=True)
def test_a_connection_that_broke_at_any_command_loses_and_doubles_nothing(world: World) -> None:
    """Every command in turn, and those that change something also with only the answer lost; for the lesser servers
    what follows an APPEND, where alone they are different.
    """
    steps = undisturbed(world)
    first = steps["new"].index("APPEND")
    swept = [
        (place, number, action)
        for place in ("old", "new")
        for number, verb in enumerate(steps[place], start=1)
        if (world.is_full or (place == "new" and number > first)) and verb != "LOGOUT"
        for action in (Action.DROP_BEFORE, Action.DROP_AFTER)
        if action is Action.DROP_BEFORE or verb in WRITING
    ]
    for place, number, action in swept:
        end_and_go_on(world, Clock((place, number), action, deadly=False))
    Box(world.engine, world.old, world.new, 0).assert_untouched()


@pytest.mark.parametrize("world", list(PROFILES.values()), ids=list(PROFILES), indirect=True)
@pytest.mark.parametrize("nth", [1, 2, 3])
@on_both
def test_a_run_recovers_by_itself_from_a_lost_answer_to_append(world: World, nth: int) -> None:
    steps = undisturbed(world)["new"]
    number = [at for at, verb in enumerate(steps, start=1) if verb == "APPEND"][nth - 1]
    box = world.box()
    world.run(box, Clock(("new", number), Action.DROP_AFTER, deadly=False))
    assert_arrived(world, box)
    # What was under way behind it, on the same connection, goes once more; assert_arrived has seen that nothing is
    # there twice.
    assert world.appends(box) < 2 * steps.count("APPEND")


MIXED = [*PROFILES.values(), CAPABILITIES - {"MULTIAPPEND"}, CAPABILITIES - {"LITERAL+"}, CAPABILITIES - {"UIDPLUS"}]


def random_box(world: World, dice: random.Random) -> Box:
    """Folders of any size, with messages that are there several times, some of them odd, and a few at the target."""
    world.boxes += 1
    user = f"user{world.boxes}@example"
    source, target = world.old.add_account(user, PASSWORD), world.new.add_account(user, PASSWORD)
    for name in ["INBOX", "Work", "Work/Old", "计划"][: dice.randint(1, 4)]:
        folder = source.find(name) or source.create(name)
        for _ in range(dice.choice([0, 1, 3, 12, 25])):
            number = dice.randint(1, 20)
            raw = mail(number, b"x" * dice.choice([0, 0, 0, 5000]))
            raw = dice.choice([raw] * 8 + [raw + b"no end", b"Subject: no id\n\n%d" % number])
            folder.deliver(raw, moment(number), ["\\Seen"] if number % 2 else [])
        # Of what is there before, nothing is more often there than at the source.
        if name == "INBOX" and folder.messages and dice.random() < 0.3:
            known = dice.choice(folder.messages)
            target.folder(name).deliver(known.raw, known.internal_date, known.flags)
        folder.expunge(uid for uid in folder.uids[1:] if dice.random() < 0.1 and not target.folder("INBOX").messages)
    options = CopyOptions(capacity=Capacity(connections=dice.choice([1, 2, 4])))
    return Box(world.engine, world.old, world.new, new_member(world.engine, user), user, user, options)


def broken_at(world: World, dice: random.Random) -> list[Fault]:
    """Up to three commands, of either side, at which a connection breaks."""
    faults = []
    for _ in range(dice.randint(0, 3)):
        server, verb = dice.choice(
            [(world.new, "APPEND")] * 4 + [(world.new, "FETCH"), (world.old, "FETCH"), (world.old, "EXAMINE")]
        )
        action = dice.choice([Action.DROP_BEFORE, Action.DROP_AFTER])
        fault = Fault(verb, action, nth=dice.randint(1, 12))
        server.behaviour.faults.append(fault)
        faults.append(fault)
    return faults


@pytest.mark.parametrize("world", [CAPABILITIES], ids=["any"], indirect=True)
@pytest.mark.parametrize("part", range(4))
def test_any_mailbox_arrives_once_whatever_breaks(world: World, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers a run draws are told when it fails: `random.Random(seed)` draws them again."""
    # Nothing is left to the clock: whether more connections pay is not asked.
    monkeypatch.setattr(send_module, "FASTER", 0)
    monkeypatch.setattr(send_module, "MESSAGES_TO_TELL", 1)
    world.old.behaviour.before_command = world.new.behaviour.before_command = None
    struck = 0
    for seed in range(part * 15, part * 15 + 15):
        dice = random.Random(seed)
        world.old.behaviour.capabilities = dice.choice(MIXED)
        world.new.behaviour.capabilities = dice.choice(MIXED)
        batch_messages, unanswered = dice.randint(1, 5), dice.randint(1, 4)
        monkeypatch.setattr(group_pass, "BATCH_MESSAGES", batch_messages)
        monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", unanswered)
        box = random_box(world, dice)
        before = everything(world.old, box.source_user)
        faults = broken_at(world, dice)
        with suppress(ServerError):
            box.copy()
        struck += sum(fault.met >= fault.nth for fault in faults)
        world.old.behaviour.faults.clear()
        world.new.behaviour.faults.clear()
        try:
            box.copy()
            box.assert_equal()
            assert everything(world.old, box.source_user) == before
            assert sum(row.source_messages for row in box.ledger.folders()) == before.total()
            appends = world.appends(box)
            box.copy()
            assert world.appends(box) == appends
        except Exception as wrong:
            raise AssertionError(f"seed {seed}: {batch_messages} a batch, {unanswered} under way, {faults}") from wrong
    assert struck > 8, "connections must have been broken"
