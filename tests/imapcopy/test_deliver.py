"""What the target holds is looked up before anything is sent again, also when it comes late or in a strange order."""

import json
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, Received
from imapcopy import deliver, endpoint, group_pass, look_up, pipe, send
from imapcopy.errors import MigrationError
from imapcopy.identity import digest
from imapcopy.send import Capacity
from imapcopy.target_connection import TargetConnection
from models.ledger import Ledger
from models.ledger_rows import Intended
from tests.imapcopy.world import Box, mail
from tests.servers.dovecot import DEADLINE

UIDPLUS = frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"})
POOR = frozenset({"IMAP4rev1"})


class StoresLate:
    """Loses the connection at an APPEND, and shows what it had received only at later looks, some at each."""

    def __init__(self, box: Box, steps: list[list[int]]) -> None:
        self.box = box
        self.steps = steps
        self.looks = 0
        self.fault = Fault("APPEND", Action.DROP_BEFORE)
        box.new.behaviour.faults.append(self.fault)
        box.new.behaviour.before_command = self._before

    def _before(self, entry: Received) -> None:
        if entry.verb != "NOOP" or not self.fault.met:
            return
        step = self.steps[self.looks] if self.looks < len(self.steps) else []
        self.looks += 1
        source, target = self.box.folder("INBOX"), self.box.target.folder("INBOX")
        for uid in step:
            message = source.get(uid)
            assert message
            target.deliver(message.raw, message.internal_date, message.flags)


@pytest.mark.parametrize(
    ("steps", "sent"),
    [
        ([[], [1, 2, 3, 4]], 1),
        ([[], [1], [2], [3], [4]], 1),
        ([[1, 2], [3, 4]], 1),
        ([[2], [4, 1]], 2),  # one was not received at all
        ([[1, 2, 3, 4]], 1),
    ],
)
def test_a_batch_that_is_stored_late_is_not_sent_twice(mailbox: Box, steps: list[list[int]], sent: int) -> None:
    assert mailbox.new.behaviour.capabilities == CAPABILITIES
    for number in range(4):
        mailbox.deliver(number)
    late = StoresLate(mailbox, steps)
    mailbox.copy()
    assert late.looks >= len(steps)
    mailbox.assert_equal()
    assert mailbox.sent() == sent


def test_looking_goes_on_only_while_more_of_it_appears(mailbox: Box) -> None:
    """Two looks, what did not come goes once more, and a last look at the end tells that it is not there twice."""
    for number in range(4):
        mailbox.deliver(number)
    late = StoresLate(mailbox, [[], []])
    mailbox.copy()
    assert late.looks == 3
    mailbox.assert_equal()
    assert mailbox.sent() == 1 + 4, "what failed together goes one by one"


def test_a_single_look_is_enough_when_all_is_there(mailbox: Box) -> None:
    for number in range(4):
        mailbox.deliver(number)
    late = StoresLate(mailbox, [[4, 3, 2, 1]])
    mailbox.copy()
    assert late.looks == 1
    mailbox.assert_equal()
    assert entries(mailbox) == {4: 1, 3: 2, 2: 3, 1: 4}


@pytest.mark.parametrize("capabilities", [UIDPLUS, POOR], ids=["only UIDPLUS", "nothing"])
def test_a_single_message_that_is_stored_late_is_not_sent_twice(mailbox: Box, capabilities: frozenset[str]) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    for number in range(4):
        mailbox.deliver(number)
    late = StoresLate(mailbox, [[], [1]])
    mailbox.copy(capacity=Capacity(connections=1))
    assert late.looks >= 2
    mailbox.assert_equal()
    assert mailbox.sent() == 4


def test_mail_from_elsewhere_does_not_end_the_looking(mailbox: Box) -> None:
    """A stranger comes at the second look, ours at the third."""
    for number in range(2):
        mailbox.deliver(number)
    late = StoresLate(mailbox, [[], [], [1, 2]])
    before = mailbox.new.behaviour.before_command
    assert before

    def hook(entry: Received) -> None:
        if entry.verb == "NOOP" and late.looks == 1:
            mailbox.target.folder("INBOX").deliver(mail(99))
        before(entry)

    mailbox.new.behaviour.before_command = hook
    mailbox.copy()
    assert sorted(mailbox.arrived()) == [mail(0), mail(1), mail(99)]
    assert mailbox.sent() == 1
    assert entries(mailbox) == {1: 2, 2: 3}


# A session that goes on storing when its connection has gone


class Clock:
    """Time that passes only where somebody sleeps; `at` moments something happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.at: dict[float, Callable[[], object]] = {}
        for module in (deliver, endpoint, look_up, send):
            monkeypatch.setattr(module, "time", self)
        monkeypatch.setattr(look_up, "SETTLE_SECONDS", 1.0)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def breaks_and_stores_late(box: Box, looks: int | None = None) -> Fault:
    """The connection ends at the second APPEND; the session stores what it has got when others have looked."""
    fault = Fault("APPEND", Action.STORE_LATE, nth=2, looks=looks)
    box.new.behaviour.faults.append(fault)
    return fault


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
def test_a_session_that_is_still_storing_is_waited_for(
    mailbox: Box, clock: Clock, capabilities: frozenset[str], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 2)
    for number in range(8):
        mailbox.deliver(number)
    fault = breaks_and_stores_late(mailbox)
    clock.at[clock.now + seconds] = mailbox.new.store_late
    mailbox.copy(capacity=Capacity(connections=1))
    assert fault.met
    assert not clock.at
    mailbox.assert_equal()
    assert mailbox.altered() == "{}"


def test_a_server_that_took_long_before_is_waited_for_as_long(mailbox: Box, clock: Clock) -> None:
    for number in range(300):
        mailbox.deliver(number)
    breaks_and_stores_late(mailbox)
    clock.at[clock.now + 9 + 8] = mailbox.new.store_late
    mailbox.later(mailbox.new, "APPEND", lambda: clock.sleep(9))
    mailbox.copy()
    assert not clock.at
    mailbox.assert_equal()


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
def test_what_arrived_twice_because_it_was_stored_too_late_is_said(
    mailbox: Box, capabilities: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the pass the old session stores what it had; nothing is deleted at the target, so it is named."""
    mailbox.new.behaviour.capabilities = capabilities
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 2)
    for number in range(6):
        mailbox.deliver(number)
    breaks_and_stores_late(mailbox)
    mailbox.copy(capacity=Capacity(connections=1))
    assert sorted(mailbox.arrived()) == sorted(map(mail, range(6)))
    assert mailbox.altered() == "{}"
    mailbox.new.store_late()
    doubles = len(mailbox.arrived()) - 6
    assert doubles > 0
    sent = mailbox.sent()
    for _ in range(3):
        mailbox.copy()
        assert mailbox.sent() == sent
        assert json.loads(mailbox.altered()) == {"doubled": doubles}
        mailbox.assert_counted()


def test_what_is_stored_late_within_the_pass_is_said_by_it_and_counted_once(mailbox: Box) -> None:
    for number in range(4):
        mailbox.deliver(number)
    fault = Fault("APPEND", Action.STORE_LATE, looks=3)
    mailbox.new.behaviour.faults.append(fault)
    mailbox.copy()
    assert len(mailbox.arrived()) == 8
    for _ in range(3):
        assert json.loads(mailbox.altered()) == {"doubled": 4}
        mailbox.copy()


def test_a_run_that_died_leaves_its_doubt_to_the_next(mailbox: Box) -> None:
    """What it had sent again is confirmed; that it may be there twice must not be forgotten."""
    for number in range(4):
        mailbox.deliver(number)
    mailbox.new.behaviour.faults += [
        Fault("APPEND", Action.STORE_LATE),
        Fault("FETCH", Action.NO, nth=4, text="[UNAVAILABLE] later", times=None),
    ]
    with pytest.raises(MigrationError):
        mailbox.copy()
    assert len(mailbox.arrived()) == 4
    mailbox.new.behaviour.faults.clear()
    mailbox.new.store_late()
    mailbox.copy()
    assert json.loads(mailbox.altered()) == {"doubled": 4}


def test_after_a_refusal_all_answers_are_read_before_another_connection_looks(
    mailbox: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way behind it is being stored until it is answered."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 1)
    for number in range(12):
        mailbox.deliver(number)
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.NO, nth=2, text="[SERVERBUG] Internal error"))
    everything_sent = threading.Event()
    start, started = TargetConnection.start_append, count(1)

    def starts(*args: Any, **more: Any) -> bytes:
        tag = start(*args, **more)
        if next(started) == 12:
            everything_sent.set()
        return tag

    monkeypatch.setattr(TargetConnection, "start_append", starts)
    # However long the reader takes, no answer is waited for before all is sent.
    monkeypatch.setattr(pipe, "EMPTY_SECONDS", DEADLINE)

    def wait_for_all() -> None:
        assert everything_sent.wait(DEADLINE)

    mailbox.later(mailbox.new, "APPEND", wait_for_all)
    mailbox.new.behaviour.latency = 0.02  # a server slower than we are
    seen: list[int] = []
    forget = endpoint.Endpoint.forget

    def forgets(self: endpoint.Endpoint[TargetConnection]) -> None:
        seen.append(len(mailbox.arrived()))
        forget(self)

    monkeypatch.setattr(endpoint.Endpoint, "forget", forgets)
    mailbox.copy()
    mailbox.assert_equal()
    assert seen[0] == 11
    assert mailbox.sent() == 13


# What an earlier run left open


def entries(box: Box) -> dict[int, int]:
    """Target UID by source UID, as the ledger has it."""
    recorded = box.ledger.batches(box.row().id or 0)
    return {entry.source_uid: entry.target_uid for batch in recorded for entry in batch.entries}


def left_open(box: Box, batches: list[list[int]], uidnexts: list[int]) -> list[int]:
    """Let an earlier run have intended these batches of source UIDs; returns their ids."""
    source, target = box.folder("INBOX"), box.target.folder("INBOX")
    ledger = Ledger(box.engine, box.member_id, box.lease())
    folder = ledger.open_folder("INBOX", source.uidvalidity, "INBOX", target.uidvalidity)
    intended = []
    for uids, uidnext in zip(batches, uidnexts, strict=True):
        raws = [message.raw for message in source.messages if message.uid in uids]
        intended.append(Intended(folder.id or 0, uids, list(map(digest, raws)), sum(map(len, raws)), uidnext))
    ids = ledger.advance([], intended)
    with box.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql("UPDATE member SET lease_owner = ''")
    return ids


def stored(box: Box, uids: list[int]) -> None:
    source, target = box.folder("INBOX"), box.target.folder("INBOX")
    for uid in uids:
        message = source.get(uid)
        assert message
        target.deliver(message.raw, message.internal_date, message.flags)


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        # The second batch lies around the first, and of each something is missing.
        ([4, 1, 5, 2], {4: 2, 1: 3, 5: 4, 2: 5}),
        ([6, 5, 4, 3, 2, 1], {6: 2, 5: 3, 4: 4, 3: 5, 2: 6, 1: 7}),
        # Nothing of the first, all of the second; and the other way round.
        ([4, 5, 6], {4: 2, 5: 3, 6: 4}),
        ([3, 1, 2], {3: 2, 1: 3, 2: 4}),
        ([], {}),
    ],
)
@pytest.mark.parametrize("uidnexts", [[2, 2], [1, 2], [2, 1]])
@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
def test_batches_left_open_are_settled_together(
    mailbox: Box, capabilities: frozenset[str], arrived: list[int], expected: dict[int, int], uidnexts: list[int]
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    for number in range(6):
        mailbox.deliver(number)
    mailbox.target.folder("INBOX").deliver(mail(99))
    left_open(mailbox, [[1, 2, 3], [4, 5, 6]], uidnexts)
    stored(mailbox, arrived)
    mailbox.copy()
    assert sorted(mailbox.arrived()) == sorted(map(mail, [*range(6), 99]))
    found = entries(mailbox)
    assert {source: found[source] for source in expected} == expected
    assert sorted(found.values()) == list(range(2, 8))
    sizes = sum(len(mail(number)) for number in range(6))
    assert (mailbox.row().copied, mailbox.row().bytes) == (6, sizes)
    mailbox.assert_counted()
    sent = mailbox.sent()
    assert sent <= 6 - len(arrived)
    mailbox.copy()
    assert mailbox.sent() == sent


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_equal_messages_in_several_open_batches_are_found_as_often_as_they_are_there(mailbox: Box, there: int) -> None:
    for _ in range(3):
        mailbox.deliver(1)
    left_open(mailbox, [[1], [2], [3]], [1, 1, 1])
    stored(mailbox, [1] * there)
    mailbox.copy()
    mailbox.assert_equal()
    assert mailbox.arrived() == [mail(1)] * 3
    assert sorted(entries(mailbox).values()) == [1, 2, 3]
    assert mailbox.sent() == (there < 3)


def test_what_stands_for_a_message_already_is_not_taken_for_one_of_an_open_batch(mailbox: Box) -> None:
    """The first of two equal messages is verified at the target; the second was on its way and did not arrive."""
    mailbox.deliver(1)
    mailbox.copy()
    mailbox.deliver(1)
    left_open(mailbox, [[2]], [1])
    mailbox.copy()
    mailbox.assert_equal()
    assert entries(mailbox) == {1: 1, 2: 2}
    assert mailbox.sent() == 2
