"""Ends a copying process at a step, lets another one go on, and compares what came of it.

Each run is a process of its own, forked from one without threads: what dies here dies as under `kill -9`, with
whatever the kernel had taken over by then.
"""

import gc
import itertools
import json
import os
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from imapcopy import group_pass, look_up, send
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import MigrationError
from imapcopy.send import Capacity
from models import steps
from models.database import open_database, writing
from models.ledger import Ledger
from models.ledger_rows import BatchState
from models.member import Member, release_lease, take_lease, this_runner
from models.wave import Wave
from tests.faults.scenarios import PROFILES, SCENARIOS, Scenario
from tests.faults.stage import PASSWORD, USER, Look, Seen, Servers, Stage

DIED = 100
PASSES = 5
"""So many passes that fail and are tried again are enough."""
BATCH_MESSAGES = 4
"""Small, so that a folder has several batches."""
HANGS = 600.0


Thin = Callable[[Scenario, Sequence[str]], Sequence[int]]
"""Which of the steps of a scenario to die at."""


@dataclass
class Told:
    """What the run that went on tells of itself."""

    ends: list[str] = field(default_factory=list)
    """Of each pass: the cause that ended it, or ""."""
    seen: list[Seen] = field(default_factory=list)
    """After the pass that should have completed the work, and after one more."""
    issues: Counter[str] = field(default_factory=Counter)
    """By cause."""
    left: list[tuple[str, int]] = field(default_factory=list)
    """Source folder and UID of each."""
    altered: Counter[str] = field(default_factory=Counter)
    counted: list[str] = field(default_factory=list)
    """What the ledger does not add up to."""
    messages: int = 0
    """At the source, as the ledger has it."""
    steps: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What came of one scenario under one profile."""

    scenario: str
    profile: str
    steps: int = 0
    deaths: int = 0
    losses: int = 0
    doubles: int = 0
    unexpected: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.losses or self.doubles or self.unexpected)


def _prepare(stage: Stage, scenario: str, profile: str) -> None:
    stage.new.store_late()
    stage.clear(PROFILES[profile])
    SCENARIOS[scenario].begin(stage)


def _change(stage: Stage, scenario: str, number: int) -> None:
    stage.received.clear()
    SCENARIOS[scenario].changes[number](stage)


def _expected(stage: Stage, scenario: str, left: list[tuple[str, int]]) -> tuple[Counter[Look], Counter[Look]]:
    return SCENARIOS[scenario].expected(stage, left)


ANSWERS: dict[str, Callable[..., Any]] = {
    "prepare": _prepare,
    "change": _change,
    "expected": _expected,
    "seen": lambda stage: stage.seen(),
    "quiet": lambda stage: stage.quiet(),
    "forget": lambda stage: stage.received.clear(),
}


class Sweeper:
    """Runs scenarios, one step after the other."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="faults-", dir=_fast_directory()))
        self._template = self._directory / "empty.sqlite3"
        self._member = 0
        self._servers = Servers(ANSWERS)
        self._make_template()
        shutil.copy(self._template, self._database)
        self._engine = open_database(f"sqlite:///{self._database}")
        self._warm_up()

    def __enter__(self) -> "Sweeper":
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def sweep(self, name: str, profile: str, thin: Thin) -> Result:
        """Run a scenario undisturbed, then again and again with a death at one step after the other."""
        scenario = SCENARIOS[name]
        result = Result(name, profile)
        undisturbed = self._case(scenario, profile, None)
        result.steps = len(undisturbed.steps)
        self._judge(scenario, undisturbed, result, "undisturbed")
        if result.complaints:
            return result
        for number in thin(scenario, undisturbed.steps):
            step = f"died at step {number} of {result.steps}, {undisturbed.steps[number - 1]}"
            told = self._case(scenario, profile, number)
            result.deaths += 1
            self._judge(scenario, told, result, step)
        return result

    def _case(self, scenario: Scenario, profile: str, death: int | None) -> Told:
        self._lay_out()
        self._servers.ask("prepare", scenario.name, profile)
        confirmed: Counter[bytes] = Counter()
        for chapter in range(len(scenario.changes) + 1):
            if chapter:
                self._servers.ask("change", scenario.name, chapter - 1)
            last = chapter == len(scenario.changes)
            if chapter == scenario.chapter and (death or scenario.halfway):
                if scenario.halfway:
                    self._forked(self._die, scenario, scenario.halfway)
                    self._servers.ask("quiet")
                if death:
                    self._forked(self._die, scenario, death)
                    self._servers.ask("quiet")
            if last:
                confirmed = Counter(self._confirmed())
                self._engine.dispose()
                self._servers.ask("forget")
            told: Told = self._forked(self._go_on, scenario, chapter == scenario.chapter, last)
            self._servers.ask("quiet")
            if last and not scenario.sends_again:
                total = Counter(_digest(look.raw) for look in told.seen[-1].source.elements())
                again = [d for d in told.seen[-1].received if d in confirmed and total[d] <= confirmed[d]]
                if again:
                    told.counted.append(f"{len(again)} confirmed messages were sent again")
            if chapter == scenario.chapter:
                counted = told.steps
        told.steps = counted
        return told

    def _judge(self, scenario: Scenario, told: Told, result: Result, step: str) -> None:
        complaints = []
        first, last = told.seen
        expected, optional = self._servers.ask("expected", scenario.name, told.left)
        lost = expected - last.target
        extra = last.target - expected - optional
        known = {(look.folder, look.raw) for look in expected + optional}
        doubled = sum(count for look, count in extra.items() if (look.folder, look.raw) in known and not lost)
        if lost:
            complaints.append(f"lost or other: {_few(lost)}, instead: {_few(extra)}")
        elif scenario.twice_if_said and doubled == extra.total() == told.altered["doubled"]:
            doubled = 0
        elif extra:
            complaints.append(f"too much: {_few(extra)}")
        if first.target != last.target or first.appends != last.appends:
            complaints.append(f"a further run sent {last.appends - first.appends} more")
        if last.wrote_at_source:
            complaints.append(f"the source saw {last.wrote_at_source}")
        if told.issues - Counter(scenario.issues):
            complaints.append(f"issues {dict(told.issues)}")
        if told.messages != last.source.total():
            complaints.append(f"the ledger counts {told.messages} at the source, there are {last.source.total()}")
        if unknown := set(told.ends) - {"", *scenario.causes}:
            complaints.append(f"ended with {unknown}")
        complaints += told.counted
        result.losses += lost.total()
        result.doubles += doubled
        result.unexpected += len(complaints) - bool(lost) - bool(extra and not lost and doubled)
        result.complaints += [f"{step}: {complaint}" for complaint in complaints]

    # In processes of their own

    def _forked(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Run in a child process; returns what it returns, or None when it died where it should."""
        receiving, sending = Pipe(duplex=False)
        pid = os.fork()
        if not pid:
            _live(sending, act, arguments)
        sending.close()
        answer: tuple[str, Any] = ("", None)
        try:
            if not receiving.poll(HANGS):
                os.kill(pid, 9)
                answer = (f"{act.__name__} hangs", None)
            else:
                answer = receiving.recv()
        except EOFError:
            pass
        receiving.close()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if answer[0] or status not in (0, DIED):
            raise AssertionError(f"{answer[0]} (exit {status})")
        return answer[1]

    @property
    def _database(self) -> Path:
        return self._directory / "banjia.sqlite3"

    def _warm_up(self) -> None:
        """Copy once here, so that no child has to learn what SQL is wanted and what to import."""
        scenario = next(iter(SCENARIOS.values()))
        for profile in PROFILES:
            self._lay_out()
            self._servers.ask("prepare", scenario.name, profile)
            self._copy(scenario)
            self._go_on(scenario, counting=False, last=True)
            self._confirmed()
        # No connection of a database may go over a fork.
        self._lay_out()
        gc.collect()
        gc.freeze()
        gc.disable()

    def _lay_out(self) -> None:
        self._engine.dispose()
        shutil.copy(self._template, self._database)
        for suffix in ("-wal", "-shm"):
            self._database.with_name(self._database.name + suffix).unlink(missing_ok=True)

    def _make_template(self) -> None:
        engine = open_database(f"sqlite:///{self._template}")
        with writing(engine) as session:
            wave = Wave(name="faults")
            session.add(wave)
            session.flush()
            session.add(Member(wave_id=wave.id or 0, line=2, email=USER, user_name=USER))
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        engine.dispose()

    def _copy(self, scenario: Scenario) -> None:
        """One pass, as a task runs it."""
        engine = self._engine
        token = take_lease(engine, 1)
        old, new = (Account(Server("127.0.0.1", port, "plain"), USER, PASSWORD) for port in self._servers.ports)
        try:
            copy_mailbox(
                old,
                new,
                Ledger(engine, 1, token),
                CopyOptions(capacity=Capacity(connections=2), repair=scenario.repair),
            )
        finally:
            release_lease(engine, 1, token)

    def _die(self, scenario: Scenario, number: int) -> None:
        """A run that ends at a step; it may also come to its own end before."""
        count = itertools.count(1)

        def passed(_: str) -> None:
            if next(count) == number:
                os._exit(DIED)

        _configure()
        steps.passed = passed
        with suppress(MigrationError):
            self._copy(scenario)

    def _confirmed(self) -> list[bytes]:
        ledger = Ledger(self._engine, 1, 0)
        return [
            entry.digest
            for row in ledger.folders()
            for batch in ledger.batches(row.id or 0)
            if batch.state != BatchState.INTENDED
            for entry in batch.entries
        ]

    def _go_on(self, scenario: Scenario, counting: bool, last: bool) -> Told:
        """Passes as somebody would start them again, until the work must be done; `last`, one more."""
        _configure()
        told = Told()
        if counting:
            steps.passed = told.steps.append
        good = 0
        for _ in range(PASSES):
            cause = self._attempt(scenario)
            told.ends.append(cause)
            if counting:
                steps.passed = _nothing
            good += not cause
            if good >= scenario.passes:
                break
        told.seen.append(self._servers.ask("seen"))
        if last:
            told.ends.append(self._attempt(scenario))
        told.seen.append(self._servers.ask("seen"))
        ledger = Ledger(self._engine, 1, 0)
        for row in ledger.folders():
            recorded = ledger.batches(row.id or 0)
            for uid, issue in ledger.issues(row.id or 0).items():
                told.issues[issue.cause] += 1
                told.left.append((row.source_name, uid))
            told.altered.update(json.loads(row.altered))
            told.messages += row.source_messages
            if row.copied + row.already_there + row.issues != row.source_messages:
                told.counted.append(f"the counts of {row.source_name} do not add up: {row!r}")
            targets = [entry.target_uid for batch in recorded for entry in batch.entries]
            if len(set(targets)) < len(targets):
                told.counted.append(f"a message in {row.target_name} stands for two")
            if any(batch.state != BatchState.VERIFIED for batch in recorded):
                told.counted.append(f"{row.source_name} is not verified")
        return told

    def _attempt(self, scenario: Scenario) -> str:
        try:
            self._copy(scenario)
        except MigrationError as error:
            return error.cause_id
        return ""


def _configure() -> None:
    group_pass.BATCH_MESSAGES = BATCH_MESSAGES
    send.FLEET_BATCH_MESSAGES = 3
    # The servers have stored what they store before the next run begins.
    look_up.SETTLE_SECONDS = 0


def _live(sending: Connection, act: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    status = 1
    # A process of its own has a name of its own.
    this_runner.cache_clear()
    try:
        sending.send(("", act(*arguments)))
        status = 0
    except BaseException:  # noqa: BLE001  (this process has nobody above it)
        sending.send((traceback.format_exc(), None))
    finally:
        os._exit(status)


def _nothing(_: str) -> None:
    pass


def _digest(raw: bytes) -> bytes:
    from imapcopy.identity import digest

    return digest(raw)


def _few(looks: Counter[Look]) -> str:
    shown = [f"{look.folder} {look.raw[:40]!r} {look.arrived:%d} {sorted(look.flags)}" for look in looks.elements()]
    return f"{len(shown)}: " + ", ".join(shown[:3])


def _fast_directory() -> str | None:
    memory = "/dev/shm"  # noqa: S108  (a directory of our own is made in it)
    return memory if Path(memory).is_dir() else None
