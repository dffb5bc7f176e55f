"""How batches go out: many at once, over one connection or several, and what is there at the end is there once."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, cast

import pytest

from deployments.demo.imap_server import CAPABILITIES, Action, Behaviour, Fault, ImapServer, Received
from imapcopy import group_pass
from imapcopy import pipe as pipe_module
from imapcopy import send as send_module
from imapcopy.account import Account, Server
from imapcopy.deliver import Delivery
from imapcopy.endpoint import Endpoint
from imapcopy.errors import ConnectionLost, FolderError, MemberError, Stopped
from imapcopy.letter import Letter
from imapcopy.look_up import LookUp
from imapcopy.plan import Envelope
from imapcopy.responses import Message, Selected
from imapcopy.send import FASTER, MESSAGES_TO_TELL, Batch, Capacity, Fleet, Growth
from imapcopy.target_connection import Outgoing, TargetConnection
from models.ledger import Ledger
from models.ledger_rows import BatchState, FolderCopy, Intended, Settled
from tests.imapcopy.world import NEW, Box, mail

FLEET = frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"})
PATIENCE = 120
"""Seconds after which what a test waits for is taken not to come."""


def must_come(event: threading.Event) -> None:
    assert event.wait(PATIENCE), "what the server waited for did not come"


def entries_of(box: Box, folder: str = "INBOX") -> list[tuple[int, int]]:
    """Source UID and target UID of all that the ledger knows at the target; their contents are equal."""
    found = []
    for batch in box.ledger.batches(box.row(folder).id or 0):
        if batch.state == BatchState.INTENDED:
            continue
        for entry in batch.entries:
            sent, stored = box.folder(folder).get(entry.source_uid), box.target.folder(folder).get(entry.target_uid)
            assert sent
            assert stored
            assert sent.raw == stored.raw, entry
            found.append((entry.source_uid, entry.target_uid))
    return sorted(found)


def assert_moved(box: Box, folder: str = "INBOX") -> None:
    """All of it is there once, each message under the UID that the ledger has for it."""
    box.assert_equal()
    found = entries_of(box, folder)
    assert [source for source, _ in found] == box.folder(folder).uids
    assert sorted(target for _, target in found) == box.target.folder(folder).uids


# How many connections are wanted


class Gauge:
    """A growth that is fed with messages of one duration."""

    def __init__(self, most: int) -> None:
        self.growth = Growth(most)

    def append(self, seconds: float, active: int | None = None, messages: int | None = None) -> int:
        active = self.growth.connections if active is None else active
        for _ in range(MESSAGES_TO_TELL * active if messages is None else messages):
            self.growth.appended(seconds, active)
        return self.growth.connections


def test_connections_are_doubled_while_each_message_takes_no_longer() -> None:
    gauge = Gauge(16)
    assert gauge.growth.connections == 2
    assert [gauge.append(0.1) for _ in range(5)] == [4, 8, 16, 16, 16]


@pytest.mark.parametrize(("most", "steps"), [(1, [1, 1]), (2, [2, 2]), (3, [3, 3]), (6, [4, 6, 6]), (8, [4, 8, 8])])
def test_there_are_never_more_connections_than_are_allowed(most: int, steps: list[int]) -> None:
    gauge = Gauge(most)
    assert gauge.growth.connections == min(2, most)
    assert [gauge.append(0.1) for _ in steps] == steps


def test_connections_stay_as_many_as_they_are_when_more_did_not_pay() -> None:
    """Twice the connections at twice the time a message are no faster; later messages change nothing."""
    gauge = Gauge(16)
    assert gauge.append(0.1) == 4
    assert gauge.append(0.2) == 4
    assert [gauge.append(0.001) for _ in range(3)] == [4, 4, 4]


@pytest.mark.parametrize(("gain", "after"), [(FASTER * 1.01, 8), (FASTER * 0.99, 4)])
def test_a_doubling_has_paid_when_it_is_faster_by_a_seventh(gain: float, after: int) -> None:
    gauge = Gauge(16)
    gauge.append(0.1)
    assert gauge.append(0.2 / gain) == after


def test_it_takes_some_messages_on_each_connection_to_tell() -> None:
    gauge = Gauge(8)
    assert gauge.append(0.1, messages=2 * MESSAGES_TO_TELL - 1) == 2
    assert gauge.append(0.1, messages=1) == 4
    assert gauge.append(0.1, messages=4 * MESSAGES_TO_TELL - 1) == 4, "those of before do not count again"
    assert gauge.append(0.1, messages=1) == 8


def test_messages_do_not_count_while_not_all_wanted_connections_are_active() -> None:
    gauge = Gauge(8)
    assert gauge.append(0.001, active=1, messages=1000) == 2
    assert gauge.append(0.1) == 4
    # As slow as can be: were they counted, more would not have paid.
    assert gauge.append(100.0, active=3, messages=1000) == 4
    assert gauge.append(0.1) == 8


def test_what_the_server_refused_is_never_asked_for_again() -> None:
    gauge = Gauge(16)
    gauge.append(0.1)
    gauge.growth.shrink(3)
    assert gauge.growth.connections == 3
    assert [gauge.append(0.001) for _ in range(3)] == [3, 3, 3]
    gauge.growth.shrink(8)
    assert [gauge.append(0.001) for _ in range(3)] == [3, 3, 3], "a later and weaker refusal takes nothing back"
    gauge.growth.shrink(1)
    assert [gauge.append(0.001) for _ in range(3)] == [1, 1, 1]


# Several connections


class Conductor:
    """Watches the target's sessions, and lets APPENDs go on only together: so many at once, round by round."""

    def __init__(self, server: ImapServer, rounds: Sequence[int] = ()) -> None:
        self.server = server
        self.rounds = list(rounds)
        self.appends = 0
        self.logins = 0
        self.peak = 0
        """The most sessions that were signed in at once."""
        self.sessions: set[int] = set()
        """Those that an APPEND came in."""
        self.at_append: Callable[[int], object] = lambda nth: None
        self._round = 0
        self._waiting = 0
        self._changed = threading.Condition()
        server.behaviour.before_command = self._before

    def _before(self, entry: Received) -> None:
        with self.server.lock:
            self.peak = max(self.peak, sum(session.account is not None for session in self.server.sessions))
        with self._changed:
            if entry.verb == "AUTHENTICATE":
                self.logins += 1
                self._changed.notify_all()
            if entry.verb != "APPEND":
                return
            self.appends += 1
            nth = self.appends
            self.sessions.add(threading.get_ident())
            self._meet()
        self.at_append(nth)

    def _meet(self) -> None:
        if self._round == len(self.rounds):
            return
        mine = self._round
        self._waiting += 1
        if self._waiting == self.rounds[mine]:
            self._waiting = 0
            self._round += 1
            self._changed.notify_all()
        else:
            met = self._changed.wait_for(lambda: self._round > mine, PATIENCE)
            assert met, f"only {self._waiting} of {self.rounds[mine]} connections came together"

    def until_logins(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.logins >= count, PATIENCE)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every doubling of the connections is taken to have paid, and batches are small."""
    monkeypatch.setattr(send_module, "FASTER", 0)
    monkeypatch.setattr(send_module, "MESSAGES_TO_TELL", 1)
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 5)


@pytest.fixture
def fleet(mailbox: Box, eager: None) -> Box:
    """A mailbox whose target takes one message a command."""
    mailbox.new.behaviour.capabilities = FLEET
    return mailbox


def fill(box: Box, count: int, folder: str = "INBOX", distinct: int = 0) -> None:
    for number in range(count):
        box.deliver(number % distinct if distinct else number, folder)


@pytest.mark.parametrize(("connections", "rounds"), [(2, [2] * 8), (3, [2, 2, 3, 3]), (8, [2, 2, 4, 4, 4, 8, 8])])
def test_as_many_connections_as_are_allowed_work_at_once_and_no_more(
    fleet: Box, connections: int, rounds: list[int]
) -> None:
    """The server answers no APPEND before so many connections have sent one."""
    conductor = Conductor(fleet.new, rounds)
    fill(fleet, 150)
    fleet.copy(capacity=Capacity(connections=connections))
    assert_moved(fleet)
    assert len(conductor.sessions) == conductor.peak == conductor.logins == connections
    assert conductor.appends == 150


def test_one_allowed_connection_is_one(fleet: Box) -> None:
    conductor = Conductor(fleet.new)
    fill(fleet, 20)
    fleet.copy(capacity=Capacity(connections=1))
    assert_moved(fleet)
    assert (conductor.logins, conductor.peak) == (1, 1)


def limited(server: ImapServer, most: int) -> None:
    server.behaviour.max_connections = most


def greeted_with_bye(server: ImapServer, most: int) -> None:
    text = "Too many connections"
    server.behaviour.faults.append(Fault("CONNECT", Action.BYE, nth=most + 1, text=text, times=None))


def closed_at_greeting(server: ImapServer, most: int) -> None:
    server.behaviour.faults.append(Fault("CONNECT", Action.DROP_BEFORE, nth=most + 1, times=None))


def refused_login(server: ImapServer, most: int) -> None:
    text = "[AUTHENTICATIONFAILED] Authentication failed."
    server.behaviour.faults.append(Fault("AUTHENTICATE", Action.NO, nth=most + 1, text=text, times=None))


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("refuse", [limited, greeted_with_bye, closed_at_greeting, refused_login])
def test_a_server_that_refuses_further_connections_is_filled_over_those_it_takes(
    fleet: Box, refuse: Callable[[ImapServer, int], None], most: int
) -> None:
    fill(fleet, 100)
    refuse(fleet.new, most)
    attempts = threading.Semaphore(0)
    conductor = Conductor(fleet.new, [2, 2] if most > 1 else [])
    opened = TargetConnection.__init__

    def attempted(self: TargetConnection, account: Account) -> None:
        attempts.release()
        opened(self, account)

    # The later messages wait until one connection more than is taken has been tried: then it must go on without.
    def wait_for_attempts(nth: int) -> None:
        if nth == 20:
            for _ in range(most + 1):
                assert attempts.acquire(timeout=PATIENCE)

    conductor.at_append = wait_for_attempts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TargetConnection, "__init__", attempted)
        fleet.copy(capacity=Capacity(connections=8))
    assert_moved(fleet)
    assert conductor.peak <= most
    assert len(conductor.sessions) <= most
    assert conductor.appends == 100


@pytest.mark.parametrize("places", [0, 1, 2])
def test_there_are_only_as_many_more_connections_as_there_are_places(fleet: Box, places: int) -> None:
    """Each more connection holds a place as long as it is open, and gives it back."""
    lock = threading.Lock()
    free, asked, refused = places, 0, threading.Event()

    @contextmanager
    def spare() -> Iterator[bool]:
        nonlocal free, asked
        with lock:
            asked += 1
            there_is_one = free > 0
            free -= there_is_one
        if not there_is_one:
            refused.set()
        try:
            yield there_is_one
        finally:
            with lock:
                free += there_is_one

    conductor = Conductor(fleet.new, [2, 2] if places else [])
    conductor.at_append = lambda nth: must_come(refused) if nth == 20 else None
    fill(fleet, 100)
    fleet.copy(capacity=Capacity(connections=4, spare=spare))
    assert_moved(fleet)
    assert asked > places, "one more was asked for"
    assert free == places, "and every place is free again"
    assert conductor.peak <= 1 + places
    assert conductor.logins <= 1 + places


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 6, 11, 17, 30, 40])
@pytest.mark.parametrize("action", [Action.DROP_BEFORE, Action.DROP_AFTER])
def test_a_connection_that_breaks_among_several_loses_and_doubles_nothing(fleet: Box, action: Action, nth: int) -> None:
    conductor = Conductor(fleet.new, [2])
    fault = Fault("APPEND", action, nth=nth)
    fleet.new.behaviour.faults.append(fault)
    fill(fleet, 40)
    fleet.copy(capacity=Capacity(connections=4))
    assert fault.met >= nth
    assert len(conductor.sessions) > 1
    assert_moved(fleet)
    sent = fleet.sent()
    assert sent <= 40 + (action is Action.DROP_BEFORE) + 5, "what arrived is found and not sent again"
    fleet.copy()
    assert fleet.sent() == sent


@pytest.mark.parametrize(
    ("action", "nth"), [(None, 0), *((a, n) for a in (Action.DROP_BEFORE, Action.DROP_AFTER) for n in (2, 9, 21, 35))]
)
def test_equal_messages_arrive_as_often_as_they_are_at_the_source(fleet: Box, action: Action | None, nth: int) -> None:
    """Three contents, spread over the batches of all connections."""
    Conductor(fleet.new, [2])
    if action:
        fleet.new.behaviour.faults.append(Fault("APPEND", action, nth=nth))
    for number in range(45):
        fleet.deliver(1, raw=mail(number % 3))
    fleet.copy(capacity=Capacity(connections=4))
    assert Counter(fleet.arrived()) == {mail(0): 15, mail(1): 15, mail(2): 15}
    assert_moved(fleet)
    sent = fleet.sent()
    fleet.copy()
    assert fleet.sent() == sent


def test_a_message_too_large_is_an_issue_and_nothing_is_looked_up_for_it(
    fleet: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of every other message must not be asked for again: the folder may hold a hundred thousand."""
    fleet.new.behaviour.max_message_bytes = 1000
    for number in range(30):
        fleet.deliver(number, raw=mail(number, b"x" * 2000) if number in {7, 8, 20} else b"")
    looked_up: list[int] = []
    candidates = LookUp.candidates

    def counted(self: LookUp, *args: Any) -> Any:
        looked_up.append(1)
        return candidates(self, *args)

    monkeypatch.setattr(LookUp, "candidates", counted)
    fleet.copy(capacity=Capacity(connections=2))
    assert Counter(fleet.arrived()) == Counter(mail(number) for number in range(30) if number not in {7, 8, 20})
    assert fleet.issues() == dict.fromkeys((8, 9, 21), "message_too_large")
    assert len(entries_of(fleet)) == 27
    assert not looked_up
    fleet.assert_counted()


def test_a_full_mailbox_stops_several_connections_and_the_ledger_has_what_arrived(fleet: Box) -> None:
    size = len(mail(10))
    fleet.new.behaviour.quota_bytes = 17 * size + size // 2
    Conductor(fleet.new, [2, 2])
    for number in range(10, 60):
        fleet.deliver(number)
    with pytest.raises(MemberError) as caught:
        fleet.copy(capacity=Capacity(connections=4))
    assert caught.value.cause_id == "over_quota"
    assert len(fleet.arrived()) == 17
    assert sorted(target for _, target in entries_of(fleet)) == fleet.target.folder("INBOX").uids
    fleet.new.behaviour.before_command = None
    fleet.new.behaviour.quota_bytes = None
    fleet.copy(capacity=Capacity(connections=4))
    assert_moved(fleet)


def test_a_folder_that_is_deleted_fails_alone_while_several_connections_write(fleet: Box) -> None:
    for name in ("A", "B", "C"):
        fill(fleet, 15, name)
    met = count(1)

    def hook(entry: Received) -> None:
        if entry.verb == "APPEND" and entry.rest.startswith(("B ", '"B" ')) and next(met) == 7:
            fleet.target.delete(fleet.target.folder("B"))

    fleet.new.behaviour.before_command = hook
    with pytest.raises(FolderError) as caught:
        fleet.copy(capacity=Capacity(connections=4))
    assert next(met) > 7
    assert caught.value.where == "B"
    for name in ("A", "C"):
        assert sorted(fleet.arrived(name)) == sorted(map(mail, range(15)))
    fleet.new.behaviour.before_command = None
    fleet.copy()
    fleet.assert_equal()


class LyingOnSome(Behaviour):
    """Tells wrong UIDs in some of its sessions, as one of several machines behind a name might."""

    def lie_in(self, liars: Callable[[int], bool]) -> None:
        self._numbers: dict[int, int] = defaultdict(count().__next__)
        self._liars = liars

    def __getattribute__(self, name: str) -> Any:
        if name == "appenduid" and "_liars" in self.__dict__:
            return "lying" if self._liars(self._numbers[threading.get_ident()]) else "right"
        return super().__getattribute__(name)


@pytest.mark.parametrize("liar", [0, 1])
def test_a_lying_appenduid_on_one_connection_doubles_nothing(fleet: Box, liar: int) -> None:
    behaviour = LyingOnSome(capabilities=FLEET)
    behaviour.lie_in(lambda number: number == liar)
    fleet.new.behaviour = behaviour
    Conductor(fleet.new, [2] * 12)
    for number in range(10, 70):
        fleet.deliver(number)
    fleet.copy(capacity=Capacity(connections=2))
    assert Counter(fleet.arrived()) == Counter(map(mail, range(10, 70)))
    assert_moved(fleet)


# How much is held


class Memory:
    """A connection and a ledger in one: takes messages, slowly, and counts what is settled."""

    def __init__(self, may_go_on: threading.Event) -> None:
        self.stored: dict[int, bytes] = {}
        self.settled = 0
        self.batches = 0
        self._may_go_on = may_go_on

    def append_each(self, name: str, messages: Iterable[Outgoing]) -> Iterator[tuple[int, list[int]]]:
        for message in messages:
            must_come(self._may_go_on)
            uid = len(self.stored) + 1
            self.stored[uid] = message.raw
            yield 7, [uid]

    def select(self, name: str) -> None:
        pass

    def read_back(self, uids: Iterable[int]) -> Iterator[Message]:
        return (Message(uid, self.stored[uid]) for uid in uids)

    def close(self) -> None:
        pass

    def keep_lease(self) -> None:
        pass

    def advance(self, settled: Sequence[Settled], intended: Sequence[Intended] = ()) -> list[int]:
        self.settled += sum(each.size for each in settled)
        self.batches += len(intended)
        return list(range(self.batches - len(intended) + 1, self.batches + 1))


def test_no_more_is_held_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection takes nothing until the fleet lets its giver wait: by then it must hold as much as it may."""
    monkeypatch.setattr(send_module, "FLEET_BYTES", 10_000)
    giver_waits = threading.Event()
    giver = threading.get_ident()

    class Watched(threading.Condition):
        def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
            if threading.get_ident() == giver and not predicate():
                giver_waits.set()
            return super().wait_for(predicate, timeout)

    memory = Memory(giver_waits)
    ledger = cast(Ledger, memory)
    account = Account(Server("127.0.0.1", 1, "plain"), NEW, "")
    target = Endpoint(account, lambda _: cast(TargetConnection, memory))
    fleet = Fleet(target, ledger, 1, lambda octets: None, Capacity(connections=1))
    fleet._changed = Watched()
    folder = FolderCopy(id=1, member_id=1, source_name="A", source_uidvalidity=7, target_name="A", target_uidvalidity=7)
    delivery = Delivery(target, ledger, folder, Selected(7, 1, 0, None))
    given, held = 0, []
    for uid in range(1, 51):
        letter = Letter(Envelope(uid, frozenset(), "", None, 1000), b"%04d" % uid + b"x" * 996)
        letter.identify()
        fleet.send([Batch(delivery, [letter])])
        given += 1000
        held.append(given - memory.settled)
    fleet.finish()
    assert held[:10] == [1000 * number for number in range(1, 11)], "nothing was taken before all room was used"
    assert max(held) == 10_000
    assert (memory.settled, len(memory.stored)) == (50_000, 50)


# One connection, many batches


class Flow:
    """What the copier has sent over one connection and not yet been answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[bytes, int] = {}
        self.started = 0
        self.levels: list[tuple[int, int]] = []
        """How many batches and octets were under way after each that was sent."""
        self._reached: dict[int, threading.Event] = {}
        start, answered, forget = TargetConnection.start_append, TargetConnection.appended, Endpoint.forget

        def start_append(
            connection: TargetConnection, name: str, messages: Sequence[Outgoing], *, announced: bool = False
        ) -> bytes:
            tag = start(connection, name, messages, announced=announced)
            self.sizes[tag] = sum(len(message.raw) for message in messages)
            self.levels.append((len(self.sizes), sum(self.sizes.values())))
            self.started += 1
            self.after(self.started).set()
            return tag

        def appended(connection: TargetConnection, tag: bytes, count: int) -> tuple[int, list[int]]:
            try:
                return answered(connection, tag, count)
            finally:
                self.sizes.pop(tag, None)

        def forgotten(endpoint: Endpoint[Any]) -> None:
            self.sizes.clear()
            forget(endpoint)

        monkeypatch.setattr(TargetConnection, "start_append", start_append)
        monkeypatch.setattr(TargetConnection, "appended", appended)
        monkeypatch.setattr(Endpoint, "forget", forgotten)

    def after(self, started: int) -> threading.Event:
        return self._reached.setdefault(started, threading.Event())


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> Flow:
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 3)
    # However long the reader takes, no answer is waited for before all is sent that may be.
    monkeypatch.setattr(pipe_module, "EMPTY_SECONDS", PATIENCE)
    return Flow(monkeypatch)


@pytest.fixture
def stream(mailbox: Box, flow: Flow) -> Box:
    """A mailbox whose target takes whole batches, one after the other without waiting."""
    assert mailbox.new.behaviour.capabilities == CAPABILITIES
    return mailbox


class Ended:
    """Holds every new session of a server until those whose client has left have ended: nothing is stored late."""

    def __init__(self, server: ImapServer) -> None:
        self.server = server
        self.at_append: Callable[[int], object] = lambda nth: None
        self.appends = 0
        server.behaviour.before_command = self._before

    def _before(self, entry: Received) -> None:
        if entry.verb == "AUTHENTICATE":
            with self.server.lock:
                others = [session for session in self.server.sessions if session.account is not None]
            for session in others:
                must_come(session.ended)
        if entry.verb == "APPEND":
            self.appends += 1
            self.at_append(self.appends)


def test_batches_are_sent_before_the_first_is_answered_and_no_more_than_may_be(
    stream: Box, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", 4)
    fill(stream, 60)
    Ended(stream.new).at_append = lambda nth: must_come(flow.after(4)) if nth == 1 else None
    stream.copy()
    assert_moved(stream)
    assert flow.started == 20
    assert max(batches for batches, _ in flow.levels) == 4


def test_no_more_octets_are_under_way_than_may_be(stream: Box, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 1)
    size = len(mail(10, b"x" * 1000))
    monkeypatch.setattr(send_module, "UNANSWERED_BYTES", 5 * size)
    for number in range(10, 40):
        stream.deliver(number, raw=mail(number, b"x" * 1000))
    stream.deliver(1, raw=mail(1, b"x" * 20_000))
    Ended(stream.new).at_append = lambda nth: must_come(flow.after(5)) if nth == 1 else None
    stream.copy()
    assert_moved(stream)
    large = len(mail(1, b"x" * 20_000))
    assert max(octets for batches, octets in flow.levels if batches > 1) == 5 * size
    assert (1, large) in flow.levels, "one that is larger than may be goes alone"


@pytest.mark.parametrize("refused", [0, 4, 11, 29])
def test_a_message_refused_in_the_middle_is_the_only_issue(stream: Box, flow: Flow, refused: int) -> None:
    """Eight batches are under way by then; those behind the refused one have arrived and are found."""
    stream.new.behaviour.refuse_message = lambda raw: "[CANNOT] Virus found" if raw == mail(refused) else None
    fill(stream, 30)
    Ended(stream.new).at_append = lambda nth: must_come(flow.after(8)) if nth == 1 else None
    stream.copy()
    assert Counter(stream.arrived()) == Counter(mail(number) for number in range(30) if number != refused)
    assert list(stream.issues()) == [refused + 1]
    assert len(entries_of(stream)) == 29
    stream.assert_counted()
    sent = stream.sent()
    stream.copy()
    assert stream.sent() == sent


@pytest.mark.parametrize("nth", [1, 2, 4, 8, 9, 10])
@pytest.mark.parametrize("action", [Action.DROP_BEFORE, Action.DROP_AFTER, Action.NO, Action.BAD])
def test_a_failure_among_many_batches_loses_and_doubles_nothing(
    stream: Box, flow: Flow, action: Action, nth: int
) -> None:
    fault = Fault("APPEND", action, nth=nth, text="[SERVERBUG] try again" if action is Action.NO else "what?")
    stream.new.behaviour.faults.append(fault)
    fill(stream, 30, distinct=20)
    Ended(stream.new).at_append = lambda nth: must_come(flow.after(8)) if nth == 1 else None
    stream.copy()
    assert fault.met >= nth
    assert_moved(stream)


def test_mail_that_comes_in_between_does_not_mix_up_what_is_under_way(stream: Box, flow: Flow) -> None:
    """Of the same size as ours: only the content tells them apart. Once it came, all UIDs are others than expected."""
    inbox = stream.target.folder("INBOX")

    def interfere(nth: int) -> None:
        if nth == 1:
            must_come(flow.after(8))
        if nth in (3, 6):
            inbox.deliver(mail(90 + nth))

    Ended(stream.new).at_append = interfere
    for number in range(10, 40):
        stream.deliver(number)
    stream.copy()
    assert Counter(stream.arrived()) == Counter(map(mail, [*range(10, 40), 93, 96]))
    assert [source for source, _ in entries_of(stream)] == list(range(1, 31))
    assert stream.altered() == "{}"
    assert stream.sent() == 10


@pytest.mark.parametrize("doomed", ["A", "B", "C"])
def test_a_folder_that_is_deleted_in_mid_stream_fails_alone(stream: Box, flow: Flow, doomed: str) -> None:
    for name in ("A", "B", "C"):
        fill(stream, 12, name)
    met = count(1)

    def hook(entry: Received) -> None:
        if entry.verb == "APPEND" and entry.rest.strip('"').startswith(doomed) and next(met) == 2:
            stream.target.delete(stream.target.folder(doomed))

    stream.new.behaviour.before_command = hook
    with pytest.raises(FolderError) as caught:
        stream.copy()
    assert next(met) > 2
    assert caught.value.where == doomed
    for name in {"A", "B", "C"} - {doomed}:
        assert Counter(stream.arrived(name)) == Counter(map(mail, range(12)))
    stream.new.behaviour.before_command = None
    stream.copy()
    stream.assert_equal()


def test_a_stop_settles_what_is_under_way(stream: Box, flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", 4)
    stop = threading.Event()

    def stop_then(nth: int) -> None:
        if nth == 1:
            must_come(flow.after(4))
            stop.set()

    fill(stream, 60)
    Ended(stream.new).at_append = stop_then
    with pytest.raises(Stopped):
        stream.copy(stop)
    recorded = stream.ledger.batches(stream.row().id or 0)
    assert {batch.state for batch in recorded} == {BatchState.CONFIRMED}
    assert 12 <= len(stream.arrived()) < 60
    assert len(entries_of(stream)) == len(stream.arrived()) == stream.row().copied
    stream.copy()
    assert_moved(stream)
    assert stream.sent() == 20


@pytest.mark.parametrize("nth", [1, 2, 3, 6])
def test_a_server_that_asks_to_wait_in_mid_stream_is_left_alone(
    stream: Box, flow: Flow, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", 2)
    stream.new.behaviour.faults.append(Fault("APPEND", Action.BYE, nth=nth, text="[THROTTLED] slow down"))
    fill(stream, 30)
    with pytest.raises(ConnectionLost) as caught:
        stream.copy()
    assert caught.value.cause_id == "throttled"
    assert len(stream.new.commands("AUTHENTICATE")) == 1
    stream.copy()
    assert_moved(stream)
