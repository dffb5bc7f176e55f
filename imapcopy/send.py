"""How batches go out to a target: streamed, over several connections, or one after the other.

What the target offers decides. `Stream` keeps many batches under way on one connection and waits for nothing
(MULTIAPPEND, LITERAL+, UIDPLUS). `Fleet` has several connections append one message at a time, as many as make it
faster (UIDPLUS alone: Feishu). `OneByOne` waits for each batch and looks where it arrived. As soon as something is not
as it should be, a batch is `Delivery`'s: it looks up what the target holds before it sends anything again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from imapcopy.deliver import Delivery, reopen_target
from imapcopy.endpoint import Endpoint
from imapcopy.errors import ConnectionLost, MessageError, MigrationError, Refused, is_of_the_folder
from imapcopy.identity import digest
from imapcopy.letter import Letter, Sent
from imapcopy.target_connection import Outgoing, TargetConnection
from imapcopy.wire import LinkSpeed
from models.ledger import Ledger
from models.ledger_rows import Entry, Settled
from models.probe import Known

UNANSWERED_BYTES = 6 << 20
"""How much may have been sent to the target without an answer."""
UNANSWERED_BATCHES = 40
"""Servers read the next command only after the last: keep what waits for them countable."""
FLEET_BYTES = 8 << 20
"""How much a fleet may hold that is not settled."""
FLEET_BATCH_MESSAGES = 25
FASTER = 1.15
"""More connections have paid when they made it faster by this factor."""
MESSAGES_TO_TELL = 4
"""So many messages on each connection tell how fast that many are."""

T = TypeVar("T")


class Batch(NamedTuple):
    """Letters of one folder."""

    delivery: Delivery
    letters: Sequence[Letter]
    held: int = 0
    """Octets to be given back when it is settled."""


Parcel = Sequence[Batch]
"""Batches that are written down together: the letters of one folder, then those of the next."""
Released = Callable[[int], None]
"""Takes back so many octets of the allowance."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much one mailbox may ask of the target's server."""

    connections: int = 8
    """At most, for one mailbox."""
    spare: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True)
    """Holds a place at the server for one more connection, or says that there is none."""
    start: int = 2
    """Connections to begin with."""

    def within(self, known: Known) -> "Capacity":
        """As much of it as a probe has found to be of use."""
        most = min(self.connections, known.most_connections or self.connections)
        return replace(self, connections=most, start=known.connections or self.start)


class OneByOne:
    """Waits for each batch. What any writer has taken is settled at the latest when `finish` returns."""

    def __init__(
        self, target: Endpoint[TargetConnection], ledger: Ledger, batch_messages: int, released: Released
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._released = released
        self.batch_messages = batch_messages

    def send(self, parcel: Parcel) -> None:
        """Take batches; a folder that fails is marked so (`Delivery.failed`), any other failure is raised."""
        for delivery, letters, held in parcel:
            if not delivery.failed:
                _mark(delivery, delivery.send, letters)
            self._released(held)

    def rest(self) -> None:
        """There is nothing to send just now: settle what can be settled without sending."""

    def finish(self) -> None:
        """Settle what has been taken."""

    def abandon(self) -> None:
        """End without settling anything: what is under way stays intended, and the next pass looks it up."""


Writer = OneByOne


def writer(
    target: Endpoint[TargetConnection], ledger: Ledger, capacity: Capacity, batch_messages: int, released: Released
) -> Writer:
    """The fastest way in which this target can be written."""
    connection = target.connection
    if target.is_careful:
        return OneByOne(target, ledger, min(batch_messages, FLEET_BATCH_MESSAGES), released)
    if connection.can_stream:
        return Stream(target, ledger, batch_messages, released)
    if connection.has("UIDPLUS") and capacity.connections > 1:
        return Fleet(target, ledger, min(batch_messages, FLEET_BATCH_MESSAGES), released, capacity)
    return OneByOne(target, ledger, batch_messages, released)


def _mark(delivery: Delivery, act: Callable[[Sequence[T]], None], what: Sequence[T]) -> None:
    """Act; a failure of this folder alone is noted, and the others go on."""
    try:
        act(what)
    except MigrationError as error:
        if not is_of_the_folder(error):
            raise
        delivery.failed = error


class Stream(OneByOne):
    """Keeps many batches under way: their answers come in the order in which they were sent."""

    def __init__(
        self, target: Endpoint[TargetConnection], ledger: Ledger, batch_messages: int, released: Released
    ) -> None:
        super().__init__(target, ledger, batch_messages, released)
        self._under_way: deque[tuple[Delivery, Sent]] = deque()
        self._octets = 0
        self._speed = LinkSpeed()
        self._settled: list[Settled] = []
        """Arrived as expected, and not yet committed."""

    def send(self, parcel: Parcel) -> None:
        wanted = [batch for batch in parcel if not batch.delivery.failed]
        self._released(sum(batch.held for batch in parcel if batch.delivery.failed))
        intended = [batch.delivery.intended(batch.letters) for batch in wanted]
        settled, self._settled = self._settled, []
        ids = self._ledger.advance(settled, intended)
        for (delivery, letters, held), batch, batch_id in zip(wanted, intended, ids, strict=True):
            while self._under_way and (
                self._octets + batch.size > UNANSWERED_BYTES or len(self._under_way) >= UNANSWERED_BATCHES
            ):
                self._take_answer()
            if delivery.failed:
                self._settled.append(delivery.note(batch_id, [], 0))
                self._released(held)
                continue
            sent = Sent(batch_id, letters, batch.size, held)
            if self._speed.is_slow and self._target.connection.can_compress:
                self.rest()
                self._target.connection.compress()
            # Another runner may have taken over while we waited for room, and look for what we are about to send.
            self._ledger.keep_lease()
            self._under_way.append((delivery, sent))
            self._octets += sent.octets
            try:
                outgoing = [delivery.outgoing(letter) for letter in letters]
                sent.begun = time.monotonic()
                begun = time.perf_counter()
                self._target.connection.fence = self._ledger.keep_lease
                sent.tag = self._target.connection.start_append(delivery.name, outgoing)
                self._speed.waited(batch.size, time.perf_counter() - begun)
            except (ConnectionLost, Refused) as failure:
                self._settle_all(failure)

    def rest(self) -> None:
        while self._under_way:
            self._take_answer()

    def finish(self) -> None:
        self.rest()
        settled, self._settled = self._settled, []
        if settled:
            self._ledger.advance(settled)

    def _take_answer(self) -> None:
        delivery, sent = self._under_way[0]
        try:
            self._read_answer(delivery, sent)
        except (ConnectionLost, Refused) as failure:
            self._settle_all(failure)
            return
        if delivery.expects(sent.uids, len(sent.letters)):
            self._settled.append(delivery.note_expected(sent))
            self._under_way.popleft()
            self._octets -= sent.octets
            self._released(sent.held)
        else:
            self._sort_out_all()

    def _read_answer(self, delivery: Delivery, sent: Sent) -> None:
        try:
            connection = self._target.connection
            uidvalidity, uids = connection.appended(sent.tag, len(sent.letters))
        except Refused:
            sent.heard = True
            raise
        sent.heard = True
        self._target.waited(sent.begun)
        if uids and not delivery.is_here(connection, uidvalidity):
            raise ConnectionLost("connection_dropped", "target", "UIDVALIDITY changed", where=delivery.name)
        sent.uids = uids

    def _sort_out_all(self) -> None:
        """Read every answer that is due, then find out under which UIDs each folder's batches arrived."""
        _, *others = self._under_way
        for delivery, sent in others:
            try:
                self._read_answer(delivery, sent)
            except (ConnectionLost, Refused) as failure:
                self._settle_all(failure)
                return
        for delivery, batches in self._taken():
            _mark(delivery, delivery.settle_answered, batches)
            self._released(sum(sent.held for sent in batches))

    def _settle_all(self, failure: Exception) -> None:
        """Nothing is known of what is under way: ask the target, on a new connection, folder by folder."""
        if isinstance(failure, Refused):
            self._hear_out()
        # Taken first: when there is no new connection, nobody may wait there for answers to what went out on the old.
        taken = self._taken()
        self._target.forget()
        settled, self._settled = self._settled, []
        if settled:
            self._ledger.advance(settled)
        reopen_target(self._target, failure)
        for delivery, batches in taken:
            _mark(delivery, delivery.settle, batches)
            self._released(sum(sent.held for sent in batches))

    def _hear_out(self) -> None:
        """Read the answers to all that went out behind a refusal: the server may be storing it until then."""
        for delivery, sent in self._under_way:
            if sent.tag and not sent.heard:
                try:
                    self._read_answer(delivery, sent)
                except Refused:
                    continue
                except ConnectionLost:
                    return

    def _taken(self) -> list[tuple[Delivery, list[Sent]]]:
        """What is under way, by folder, in the order of sending."""
        taken = _by_folder(self._under_way)
        self._under_way.clear()
        self._octets = 0
        return taken


class Fleet(OneByOne):
    """Several connections, each with one batch at a time and one message after the other.

    Begins with two connections, or with as many as a probe has found to pay, and doubles them as long as that makes it
    faster. What one of them cannot settle waits until all are idle, because a look-up must not meet messages that
    another connection is just storing.
    """

    def __init__(
        self,
        target: Endpoint[TargetConnection],
        ledger: Ledger,
        batch_messages: int,
        released: Released,
        capacity: Capacity,
    ) -> None:
        super().__init__(target, ledger, batch_messages, released)
        self._spare = capacity.spare
        self._most = capacity.connections
        self._growth = Growth(capacity.connections, capacity.start)
        self._trusted: set[TargetConnection] = set()
        """Connections that have been seen to tell the right UIDs: behind one name there may be several servers."""
        self._changed = threading.Condition()
        # All below is read and written with the lock.
        self._orders: deque[Batch] = deque()
        self._troubled: list[tuple[Delivery, Sent]] = []
        self._held_bytes = 0
        self._busy = 0
        self._halted = False
        """Nothing more is to go out before what is troubled has been settled."""
        self._ending = False
        self._failure: BaseException | None = None
        self._crew: dict[threading.Thread, Endpoint[TargetConnection]] = {}

    def send(self, parcel: Parcel) -> None:
        for batch in parcel:
            size = _octets(batch.letters)
            self._wait_for_room(size)
            with self._changed:
                self._orders.append(batch)
                self._held_bytes += size
                self._hire()
                self._changed.notify_all()

    def rest(self) -> None:
        with self._changed:
            waits_for_us = self._troubled and self._is_idle
        if waits_for_us:
            self._settle_troubled()

    def _wait_for_room(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._is_idle or self._held_bytes + size <= FLEET_BYTES)
            self._raise_failure()
            crowded = self._troubled and self._held_bytes + size > FLEET_BYTES
        if crowded or self._halted:
            self._settle_troubled()

    def finish(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._failure or self._is_idle)
                self._raise_failure()
                done = not self._orders and not self._troubled
            if done:
                break
            self._settle_troubled()
        self._dismiss()

    def abandon(self) -> None:
        with self._changed:
            self._orders.clear()
            crew = list(self._crew.values())
        for endpoint in crew:
            endpoint.interrupt()
        self._dismiss()
        self._target.forget()

    @property
    def _is_idle(self) -> bool:
        return not self._busy and (not self._orders or self._halted)

    def _raise_failure(self) -> None:
        if self._failure:
            raise self._failure

    def _hire(self) -> None:
        """Have as many connections as are wanted; called with the lock."""
        while len(self._crew) < min(self._growth.connections, self._most):
            first = not any(endpoint is self._target for endpoint in self._crew.values())
            endpoint = self._target if first else self._target.another()
            thread = threading.Thread(target=self._work, args=(endpoint,), name="append", daemon=True)
            self._crew[thread] = endpoint
            thread.start()

    def _dismiss(self) -> None:
        with self._changed:
            self._ending = True
            crew = list(self._crew)
            self._changed.notify_all()
        for thread in crew:
            thread.join()
        self._ending = False

    def _work(self, endpoint: Endpoint[TargetConnection]) -> None:
        try:
            if endpoint is self._target:
                self._take_orders(endpoint)
            else:
                with self._spare() as there_is_room, endpoint:
                    if not there_is_room:
                        self._shrink()
                    elif self._connected(endpoint):
                        self._take_orders(endpoint)
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that gives the orders)
            with self._changed:
                self._failure = self._failure or error
        finally:
            with self._changed:
                del self._crew[threading.current_thread()]
                self._changed.notify_all()

    def _connected(self, endpoint: Endpoint[TargetConnection]) -> bool:
        """Open one more connection; where the server will not have it, go on with fewer."""
        try:
            endpoint.connection  # noqa: B018  (opens it)
        except MigrationError:
            self._shrink()
            return False
        return True

    def _shrink(self) -> None:
        with self._changed:
            self._most = max(1, min(self._most, len(self._crew)) - 1)
            self._growth.shrink(self._most)

    def _take_orders(self, endpoint: Endpoint[TargetConnection]) -> None:
        while order := self._next_order(endpoint):
            try:
                self._append(endpoint, order)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _next_order(self, endpoint: Endpoint[TargetConnection]) -> Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: (self._orders and not self._halted) or self._ending or self._failure)
            too_many = len(self._crew) > self._most and endpoint is not self._target
            if not self._orders or self._failure or too_many:
                return None
            self._busy += 1
            return self._orders.popleft()

    def _append(self, endpoint: Endpoint[TargetConnection], order: Batch) -> None:
        delivery, letters, held = order
        octets = _octets(letters)
        if delivery.failed:
            self._release(octets, held)
            return
        [batch_id] = self._ledger.advance([], [delivery.intended(letters)])
        sent = Sent(batch_id, letters, octets, held)
        try:
            entries = self._arrived(endpoint.connection, delivery, sent)
        except (MigrationError, Refused) as failure:
            endpoint.forget()
            entries = []
            if isinstance(failure, ConnectionLost):
                self._shrink()
        with self._changed:
            sent.arrived = [entry for entry in entries if entry.target_uid not in delivery.claimed]
            sent.certain = sent.certain and len(sent.arrived) == len(entries)
            delivery.claimed.update(entry.target_uid for entry in sent.arrived)
            if len(sent.arrived) < len(letters):
                self._troubled.append((delivery, sent))
                return
            settled = delivery.note(batch_id, sent.arrived, octets, others_write=True)
        self._ledger.advance([settled])
        self._release(octets, held)

    def _release(self, octets: int, held: int) -> None:
        with self._changed:
            self._held_bytes -= octets
        self._released(held)

    def _arrived(self, connection: TargetConnection, delivery: Delivery, sent: Sent) -> list[Entry]:
        """Append each and see that it lies under the UID that was told; what is not so is not among the entries."""

        def outgoing() -> Iterator[Outgoing]:
            for letter in sent.letters:
                # Another runner may have taken over within this batch, and look for what we are about to send.
                self._ledger.keep_lease()
                yield delivery.outgoing(letter)

        connection.fence = self._ledger.keep_lease
        told: dict[int, Letter] = {}
        refused = 0
        begun = time.monotonic()
        for letter, answer in zip(sent.letters, connection.append_each(delivery.name, outgoing()), strict=False):
            ended = time.monotonic()
            self._grow(ended - begun)
            self._target.waited(begun)
            begun = ended
            if not isinstance(answer, Refused):
                if answer[1] and delivery.is_here(connection, answer[0]):
                    told[answer[1][0]] = letter
                continue
            refused += 1
            if answer.status == "BAD":
                raise answer
            if not isinstance(connection.failure(answer, "append", delivery.name), MessageError):
                # What goes out now would fare no better: first find out what it means.
                with self._changed:
                    self._halted = True
                raise answer
        there = told if connection in self._trusted else self._as_told(connection, delivery, told)
        found = [letter.entry(uid) for uid, letter in told.items() if uid in there]
        sent.certain = len(found) + refused == len(sent.letters)
        return found

    def _as_told(
        self, connection: TargetConnection, delivery: Delivery, told: Mapping[int, Letter]
    ) -> Mapping[int, Letter]:
        """Those of the UIDs under which the right message lies; a connection that tells a batch right is trusted.

        Later batches are looked at by the verification alone, like all that was ever copied.
        """
        connection.select(delivery.name)
        read = {message.uid: message.raw for message in connection.read_back(told)}
        there = {uid: letter for uid, letter in told.items() if digest(read.get(uid) or b"") == letter.digest}
        if told and len(there) == len(told):
            self._trusted.add(connection)
        return there

    def _grow(self, seconds: float) -> None:
        with self._changed:
            self._growth.appended(seconds, self._busy)
            if self._orders:
                self._hire()

    def _settle_troubled(self) -> None:
        """Settle alone what the connections could not, then let them go on."""
        with self._changed:
            # Nobody takes another order meanwhile, over this very connection least of all.
            self._halted = True
            self._changed.wait_for(lambda: not self._busy)
            troubled, self._troubled = self._troubled, []
            self._held_bytes -= sum(sent.octets for _, sent in troubled)
        # A folder's batches together: what is settled is taken for all there is up to its UIDs.
        for delivery, batches in _by_folder(troubled):
            _mark(delivery, delivery.settle, batches)
            self._released(sum(sent.held for sent in batches))
        with self._changed:
            self._halted = False
            self._changed.notify_all()


class Growth:
    """How many connections are wanted: twice as many as long as the last doubling made it faster."""

    def __init__(self, most: int, start: int = 2) -> None:
        self._most = most
        self.connections = min(start, most)
        self._seconds = 0.0
        self._messages = 0
        self._best = 0.0

    def appended(self, seconds: float, active: int) -> None:
        """A message took so long on its connection, while so many were active."""
        if active < self.connections or self.connections >= self._most:
            return
        self._seconds += seconds
        self._messages += 1
        if self._messages < MESSAGES_TO_TELL * active:
            return
        rate = active * self._messages / max(self._seconds, 1e-9)
        if rate < FASTER * self._best:
            self._most = self.connections
            return
        self._best = rate
        self.connections = min(2 * self.connections, self._most)
        self._seconds, self._messages = 0.0, 0

    def shrink(self, most: int) -> None:
        """The server will not have more than these."""
        self._most = min(self._most, most)
        self.connections = min(self.connections, self._most)


def _by_folder(batches: Iterable[tuple[Delivery, Sent]]) -> list[tuple[Delivery, list[Sent]]]:
    found: dict[int, tuple[Delivery, list[Sent]]] = {}
    for delivery, sent in batches:
        found.setdefault(delivery.folder_id, (delivery, []))[1].append(sent)
    return list(found.values())


def _octets(letters: Sequence[Letter]) -> int:
    return sum(len(letter.raw) for letter in letters)
