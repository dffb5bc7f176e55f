"""What the way to a real server does to a copy: between us and two Dovecots sits a proxy that cuts, hangs and garbles.

Whatever it does, the next run converges: nothing is lost, nothing is there twice, and then there is nothing to do.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import Engine

from imapcopy import group_pass, look_up, send, wire
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import FolderError, MigrationError, ServerError
from imapcopy.limits import DEFAULT, Limits
from imapcopy.send import Capacity
from models.ledger import Ledger
from models.member import release_lease, take_lease
from tests.imapcopy.world import new_member
from tests.servers.compare import Mail, mail_of
from tests.servers.dovecot import PLAIN_CAPABILITY, Dovecot, StartDovecot, User, wait_until
from tests.servers.fault_proxy import FaultProxy, Rule
from tests.servers.mail import mailbox_messages, seed

pytestmark = pytest.mark.dovecot

SOURCE, PASSWORD = "lin@old.example", "invented-1"
TARGETS = [f"lin{number}@new.example" for number in range(400)]
MESSAGES = 10
IMPATIENT = Limits(connect_seconds=1.0, silence_seconds=0.7)
Side = str


@dataclass
class Line:
    """Two Dovecots with a proxy before each, and a fresh target mailbox for every case."""

    source: Dovecot
    target: Dovecot
    engine: Engine
    proxies: dict[Side, FaultProxy]
    users: Iterator[str]
    wanted: Counter[Mail]
    user: str = ""
    member: int = 0
    limits: Limits = DEFAULT

    def begin(self) -> None:
        self.user = next(self.users)
        self.member = new_member(self.engine, self.user)

    def copy(self) -> None:
        token = take_lease(self.engine, self.member)
        source = Account(self._server("source"), SOURCE, PASSWORD, limits=self.limits)
        target = Account(self._server("target"), self.user, PASSWORD, limits=self.limits)
        try:
            copy_mailbox(
                source, target, Ledger(self.engine, self.member, token), CopyOptions(capacity=Capacity(connections=2))
            )
        finally:
            release_lease(self.engine, self.member, token)

    def _server(self, side: Side) -> Server:
        return Server("127.0.0.1", self.proxies[side].port, "plain")

    def survives(self, side: Side, *rules: Rule) -> None:
        """Run into it, go on without it, and find all there once."""
        patient = self.limits == DEFAULT
        struck = self.runs_into(side, *rules)
        if struck < len(rules) and not patient:
            # On a busy machine it had given up before it came there. It is patient from now on.
            struck = self.runs_into(side, *rules)
        assert struck == len(rules)

    def runs_into(self, side: Side, *rules: Rule) -> int:
        """The same where a rule may not strike; how many have."""
        self.begin()
        armed = [replace(rule) for rule in rules]
        self.proxies[side].arm(*armed)
        with suppress(ServerError, FolderError):
            self.copy()
        self.converges()
        return sum(rule.struck for rule in armed)

    def converges(self) -> None:
        """Go on undisturbed, and patiently: the machine may be busy."""
        self.limits = DEFAULT
        for proxy in self.proxies.values():
            proxy.arm()
        self.copy()
        assert mail_of(self.target, self.user) == self.wanted
        rows = Ledger(self.engine, self.member, 0).folders()
        assert sum(row.copied for row in rows) == self.wanted.total()
        assert not sum(row.issues for row in rows)
        self.target.forget_commands()
        self.copy()
        assert "APPEND" not in self.target.commands(self.user)
        assert mail_of(self.target, self.user) == self.wanted


@dataclass
class Servers:
    """Started once for all tests here."""

    source: Dovecot
    targets: dict[str, Dovecot]
    wanted: Counter[Mail] = field(default_factory=Counter)
    users: Iterator[str] = field(default_factory=lambda: iter(TARGETS))


@pytest.fixture(scope="session")
def servers(start_lasting_dovecot: StartDovecot) -> Servers:
    source = start_lasting_dovecot()
    source.add_users([User(SOURCE, PASSWORD)])
    seed(source, SOURCE, PASSWORD, mailbox_messages("faults", MESSAGES))
    targets = {"full": start_lasting_dovecot(), "only UIDPLUS": start_lasting_dovecot(capability=PLAIN_CAPABILITY)}
    for target in targets.values():
        target.add_users([User(name, PASSWORD) for name in TARGETS])
    return Servers(source, targets, mail_of(source, SOURCE))


@pytest.fixture
def line(
    request: pytest.FixtureRequest, servers: Servers, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Line]:
    """Before a target with all extensions, where no other is asked for."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 2)
    monkeypatch.setattr(send, "FLEET_BATCH_MESSAGES", 2)
    monkeypatch.setattr(look_up, "SETTLE_SECONDS", 0)
    target = servers.targets[getattr(request, "param", "full")]
    before = mail_of(servers.source, SOURCE)
    with FaultProxy(servers.source.port) as source_side, FaultProxy(target.port) as target_side:
        proxies = {"source": source_side, "target": target_side}
        look = look_up.LookUp.settled_candidates

        def look_when_it_is_through(*arguments: Any) -> Any:
            """How long a server may store what a lost session has sent is no matter of seconds here."""
            wait_until(lambda: target.has_no_lost_session(target_side.port), "the lost sessions to end")
            return look(*arguments)

        monkeypatch.setattr(look_up.LookUp, "settled_candidates", look_when_it_is_through)
        yield Line(servers.source, target, engine, proxies, servers.users, servers.wanted)
    assert mail_of(servers.source, SOURCE) == before


LONGEST_AHEAD = 2 * DEFAULT.silence_seconds


class Clock:
    """In place of the module `time`: goes ahead of it by half a second a tick, until two silences have passed."""

    ahead = 0.0
    process_time = staticmethod(time.process_time)

    def tick(self) -> None:
        self.ahead = min(self.ahead + 0.5, LONGEST_AHEAD)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


both_targets = pytest.mark.parametrize("line", ["full", "only UIDPLUS"], indirect=True)
APPENDED = b"[APPENDUID"
BREAKS = [
    Rule("c2s", "reset", b"APPEND ", 1000),
    Rule("c2s", "fin", b"APPEND ", 1000),
    Rule("s2c", "reset", APPENDED),
    Rule("s2c", "fin", APPENDED),
    Rule("s2c", "swallow", APPENDED, then="reset"),
    Rule("s2c", "repeat", APPENDED),
]


@both_targets
@pytest.mark.parametrize("rule", BREAKS, ids=lambda rule: f"{rule.direction} {rule.act} {rule.then or ''}")
def test_a_target_whose_line_breaks_at_append(line: Line, rule: Rule) -> None:
    line.survives("target", rule)


@pytest.mark.parametrize(("act", "at"), [("reset", 0), ("fin", 1), ("reset", 300), ("fin", 2000)])
def test_a_literal_of_the_source_that_ends_too_early(line: Line, act: str, at: int) -> None:
    line.survives("source", Rule("s2c", act, b"BODY[] {", at))  # type: ignore[arg-type]


HANGS_AT_THE_SOURCE = [
    Rule("s2c", "hang"),  # no greeting
    Rule("c2s", "hang", b"EXAMINE"),
    Rule("s2c", "hang", b"BODY[] {", 700),
]
HANGS_AT_THE_TARGET = [
    Rule("s2c", "hang"),
    Rule("c2s", "hang", b"APPEND ", 700),
    Rule("s2c", "hang", APPENDED),
    Rule("s2c", "swallow", APPENDED, then="hang"),
]


@pytest.fixture
def impatient(line: Line) -> None:
    line.limits = IMPATIENT


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("rule", HANGS_AT_THE_SOURCE, ids=["greeting", "EXAMINE", "FETCH"])
def test_a_source_that_is_silent_and_stays_open(line: Line, rule: Rule) -> None:
    line.survives("source", rule)


@pytest.mark.usefixtures("impatient")
@both_targets
@pytest.mark.parametrize("rule", HANGS_AT_THE_TARGET, ids=["greeting", "APPEND", "answer", "no answer"])
def test_a_target_that_is_silent_and_stays_open(line: Line, rule: Rule) -> None:
    line.survives("target", rule)


@pytest.mark.parametrize(
    ("side", "rule"),
    [("source", Rule("s2c", "drip", b"BODY[] {", step=10)), ("target", Rule("c2s", "drip", b"APPEND ", step=10))],
    ids=["source", "target"],
)
def test_a_slow_line_that_lives_is_not_given_up(
    line: Line, side: Side, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer of one message takes longer than a server may be silent, by the clock that limits a command."""
    clock = Clock()
    monkeypatch.setattr(wire, "time", clock)
    line.begin()
    line.proxies[side].arm(rule := replace(rule, tick=clock.tick))
    line.copy()
    assert rule.struck == 1
    assert clock.ahead == LONGEST_AHEAD
    # A Fleet has a second one from the beginning.
    assert line.proxies[side].connections <= (1 if side == "source" else 2)
    line.converges()


def test_lines_without_end(line: Line) -> None:
    line.limits = Limits(held_octets=1 << 20, answers=20_000)
    for side, after in (("source", b"READ-ONLY]"), ("target", b"READ-WRITE]")):
        line.survives(side, Rule("s2c", "endless", after, octets=b"* OK still here\r\n" * 100))


def test_a_literal_of_ten_gigabytes_is_not_waited_for(line: Line) -> None:
    announced = b"* 1 FETCH (UID 1 BODY[] {10737418240}\r\n"
    for side, after in (("source", b"READ-ONLY]"), ("target", b"READ-WRITE]")):
        line.survives(side, Rule("s2c", "insert", after, octets=announced))


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_refuses_connections_for_a_while(line: Line, side: Side) -> None:
    line.begin()
    line.proxies[side].refuse()
    with pytest.raises(ServerError):
        line.copy()
    line.proxies[side].accept()
    after = b"BODY[] {" if side == "source" else APPENDED
    line.proxies[side].arm(Rule("s2c", "down", after, 100))
    with pytest.raises(MigrationError):
        line.copy()
    line.proxies[side].accept()
    line.converges()


def cuts(line: Line, every: int, first: int) -> int:
    """Cut the first connection of each side in each direction after so many octets, and every so many more."""
    line.begin()
    line.copy()
    passed = {side: dict(proxy.passed) for side, proxy in line.proxies.items()}
    struck = 0
    acts = itertools.cycle(["reset", "fin"])
    for side, direction in itertools.product(["source", "target"], ["c2s", "s2c"]):
        for at in range(first, passed[side][direction], every):  # type: ignore[index]
            # A Fleet shares its messages among its connections otherwise every time.
            struck += line.runs_into(side, Rule(direction, next(acts), at=at))  # type: ignore[arg-type]
    return struck


@both_targets
def test_a_session_that_is_cut_anywhere(line: Line, request: pytest.FixtureRequest) -> None:
    """`make faults` cuts it every 1,024 octets."""
    every = request.config.getoption("--cut-every")
    assert cuts(line, every, first=every // 3) > 1
