"""What is fetched from many folders at once: whose answer is whose, and how much is under way."""

import gc
from collections.abc import Iterator

import pytest

from imapcopy import flight, wire
from imapcopy.errors import ConnectionLost, ServerError, UnreadableAnswer
from imapcopy.flight import Fetched, FetchRequest
from imapcopy.folders import Folder
from imapcopy.responses import Message
from imapcopy.source_connection import SourceConnection
from imapcopy.target_connection import TargetConnection
from tests.imapcopy.scripted import Peer, Played, Scripted, body, done, line, opened

INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())


def raws(fetched: Fetched) -> dict[int, bytes | None]:
    return {message.uid: message.raw for message in fetched.messages}


Side = type[SourceConnection] | type[TargetConnection]
SIDES = pytest.mark.parametrize("side", [SourceConnection, TargetConnection])


def streaming(connection: SourceConnection | TargetConnection, requests: list[FetchRequest]) -> Iterator[Fetched]:
    return connection.stream(requests) if isinstance(connection, SourceConnection) else connection.look_back(requests)


def verb_of(side: Side) -> bytes:
    return b"EXAMINE " if side is SourceConnection else b"SELECT "


@SIDES
def test_answers_of_a_later_fetch_may_come_before_the_end_of_an_earlier_one(side: Side) -> None:
    """Dovecot does so. Nothing is answered before everything is asked for."""

    def play(peer: Peer) -> None:
        fetch = b"UID FETCH "
        first, a, b, c = peer.expect(verb_of(side) + b'"A"', fetch + b"1:2 ", fetch + b"3 ", fetch + b"4 ")
        second, d = peer.expect(verb_of(side) + b'"B"', fetch + b"1 ")
        peer.say(opened(first) + body(1, b"a1") + body(3, b"a3") + body(4, b"a4") + body(2, b"a2") + done(a, b, c))
        peer.say(opened(second, 8) + body(1, b"b1") + done(d))

    wishes = [("A", [1, 2]), ("A", [3]), ("A", [4]), ("B", [1])]
    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(name.encode(), uids, 9) for name, uids in wishes]))
        assert [raws(each) for each in found] == [{1: b"a1", 2: b"a2"}, {3: b"a3"}, {4: b"a4"}, {1: b"b1"}]
        assert [each.uidvalidity for each in found] == [7, 7, 7, 8]
        assert (connection.selected, connection.uidvalidity) == (b"B", 8)
        connection.refresh()
    assert server.after == [b"NOOP", b"LOGOUT"]


def test_a_scan_and_bodies_of_one_request_are_told_apart() -> None:
    def play(peer: Peer) -> None:
        first, scan, fetch, again = peer.expect(b"SELECT", b"UID FETCH 1:2 (UID FLAGS", b"UID FETCH 2 ", b"SELECT")
        peer.say(
            opened(first, keywords=b"$a") + line(1) + body(2, b"two") + line(2) + done(scan, fetch) + opened(again)
        )

    requests = [FetchRequest(b"A", [2], 5, [1, 2], anew=True), FetchRequest(b"A", [], 0, anew=True)]
    with Played(play) as server, TargetConnection(server.account) as connection:
        first, second = connection.look_back(requests)
        assert [envelope.uid for envelope in first.scan] == [1, 2]
        assert (raws(first), first.keywords, second.keywords) == ({2: b"two"}, frozenset({"$a"}), None)
        connection.refresh()


@SIDES
@pytest.mark.parametrize("status", [b"NO [SERVERBUG] cannot", b"BAD no"])
def test_a_fetch_refused_between_others_is_its_own_requests_failure(side: Side, status: bytes) -> None:
    def play(peer: Peer) -> None:
        first, a, b, c = peer.expect(verb_of(side), b"UID FETCH 1 ", b"UID FETCH 2:3 ", b"UID FETCH 4 ")
        peer.say(opened(first) + body(1, b"one") + body(3, b"three") + body(4, b"four"))
        peer.say(done(a) + b + b" " + status + b"\r\n" + done(c))

    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(b"A", uids, 9) for uids in ([1], [2, 3], [4])]))
        assert [raws(each) for each in found] == [{1: b"one"}, {3: b"three"}, {4: b"four"}]
        assert [each.refused and each.refused.status for each in found] == [None, status.split()[0].decode(), None]
        assert not any(each.failure for each in found)
        connection.refresh()


@SIDES
@pytest.mark.parametrize("stays_open", [True, False])
def test_nothing_of_another_folder_is_given_out_for_one_that_is_refused(side: Side, stays_open: bool) -> None:
    """A server that keeps the last folder open answers the same UIDs, of other messages."""

    def play(peer: Peer) -> None:
        a, a1, b, b1, b2 = peer.expect(verb_of(side), b"UID FETCH 1 ", verb_of(side), b"UID FETCH 1 ", b"UID FETCH 2 ")
        c, c1 = peer.expect(verb_of(side), b"UID FETCH 1 ")
        peer.say(opened(a) + body(1, b"a1") + done(a1))
        peer.say(b"* OK [UIDVALIDITY 99] b\r\n* OK [PERMANENTFLAGS (\\*)] b\r\n" + b + b" NO [NONEXISTENT] no\r\n")
        if stays_open:
            peer.say(body(1, b"a1") + done(b1) + body(2, b"a2") + done(b2))
        else:
            peer.say(b1 + b" BAD nothing open\r\n" + b2 + b" BAD nothing open\r\n")
        peer.say(b"* 1 EXISTS\r\n" + done(c) + body(1, b"c1") + done(c1))

    wishes = [(b"A", 1), (b"B", 1), (b"B", 2), (b"C", 1)]
    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(raw, [uid], 9) for raw, uid in wishes]))
        assert [raws(each) for each in found] == [{1: b"a1"}, {}, {}, {1: b"c1"}]
        assert [bool(each.failure) for each in found] == [False, True, True, False]
        assert [each.failure.where for each in found if each.failure] == ["B", "B"]
        assert [each.uidvalidity for each in found] == [7, 0, 0, 0], "what was told of B is nothing that C told"
        assert found[3].keywords == frozenset()
        connection.refresh()


def test_a_folder_that_is_refused_last_leaves_none_open() -> None:
    def play(peer: Peer) -> None:
        a, a1, b, b1 = peer.expect(b"EXAMINE", b"UID FETCH", b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + body(1, b"a1") + done(a1) + b + b" NO no\r\n" + body(1, b"a1") + done(b1))
        [again] = peer.expect(b'EXAMINE "A"')
        [a1] = peer.expect(b"UID FETCH")
        peer.say(opened(again, 8) + body(1, b"new") + done(a1))

    with Played(play) as server, SourceConnection(server.account) as connection:
        list(connection.stream([FetchRequest(b"A", [1], 9), FetchRequest(b"B", [1], 9)]))
        assert (connection.selected, connection.uidvalidity) == (b"", 0)
        [found] = connection.stream([FetchRequest(b"A", [1], 9)])
        assert (raws(found), found.uidvalidity) == ({1: b"new"}, 8)


def test_a_folder_that_is_open_is_not_opened_again_unless_it_is_to_be() -> None:
    def play(peer: Peer) -> None:
        [a] = peer.expect(b"EXAMINE")
        peer.say(opened(a, 5))
        a1, again, a2 = peer.expect(b"UID FETCH 1 ", b"EXAMINE", b"UID FETCH 2 ")
        peer.say(body(1, b"one") + done(a1) + opened(again, 6) + body(2, b"two") + done(a2))

    with Played(play) as server, SourceConnection(server.account) as connection:
        connection.examine(INBOX)
        requests = [FetchRequest(b"INBOX", [1], 9), FetchRequest(b"INBOX", [2], 9, anew=True)]
        found = list(connection.stream(requests))
        assert [(raws(each), each.uidvalidity) for each in found] == [({1: b"one"}, 5), ({2: b"two"}, 6)]


@SIDES
def test_in_a_stream_too_nothing_is_believed_that_nobody_asked_for(side: Side) -> None:
    def play(peer: Peer) -> None:
        a, a1, b, b1 = peer.expect(verb_of(side), b"UID FETCH 1:2 ", verb_of(side), b"UID FETCH 3 ")
        peer.say(body(1, b"early") + opened(a) + body(9, b"wrong") + body(3, b"not of A") + line(1))
        peer.say(body(1, b"one") + body(1, b"again") + b"* 1 FETCH (FLAGS ())\r\n" + done(a1))
        peer.say(opened(b) + body(2, b"late") + b"* 3 FETCH (UID 3 BODY[] NIL)\r\n" + body(3, b"again") + done(b1))

    with Played(play) as server, side(server.account) as connection:
        found = list(streaming(connection, [FetchRequest(b"A", [1, 2], 9), FetchRequest(b"B", [3], 9)]))
        assert [each.messages for each in found] == [[Message(1, b"one")], [Message(3, None)]]
        assert not any(each.scan for each in found)
        connection.refresh()


@pytest.mark.parametrize(
    "cut", [b"", b"* BYE [UNAVAILABLE] off\r\n", b"* 2 FETCH (UID 2 BODY[] {50}\r\nhalf", b"* 2 FE"]
)
def test_a_connection_that_ends_in_the_middle_of_a_stream_is_lost(cut: bytes) -> None:
    def play(peer: Peer) -> None:
        a, a1, _ = peer.expect(b"EXAMINE", b"UID FETCH", b"UID FETCH")
        peer.say(opened(a) + body(1, b"one") + done(a1) + cut)
        peer.cut()

    with Played(play) as server, SourceConnection(server.account) as connection:
        stream = connection.stream([FetchRequest(b"A", [1], 9), FetchRequest(b"A", [2], 9)])
        assert raws(next(stream)) == {1: b"one"}
        with pytest.raises(ConnectionLost):
            next(stream)


@pytest.mark.parametrize("garbled", [b"?OK x", b"?NO x", b"B999 OK x", b"* 1 FETCH (UID\r\nx", b'* 1 FETCH ("'])
def test_a_garbled_answer_in_a_stream_ends_the_connection(garbled: bytes) -> None:
    """Mail is on the way: what comes next may be a stranger's words."""

    def play(peer: Peer) -> None:
        a, a1 = peer.expect(b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + garbled + b"\r\n" + done(a1))

    with Played(play) as server, SourceConnection(server.account) as connection:
        with pytest.raises(UnreadableAnswer) as caught:
            list(connection.stream([FetchRequest(b"A", [1], 9)]))
        assert (caught.value.cause_id, caught.value.where) == ("unreadable_answer", "A")


@pytest.mark.parametrize("status", [b"PERHAPS", b"ERR no such thing"])
def test_a_status_that_imap_does_not_know_is_a_refusal(status: bytes) -> None:
    def play(peer: Peer) -> None:
        a, a1 = peer.expect(b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + a1.lower() + b" " + status + b"\r\n")

    with Played(play) as server, SourceConnection(server.account) as connection:
        [fetched] = connection.stream([FetchRequest(b"A", [1], 9)])
        assert fetched.refused is not None
        assert connection.failure(fetched.refused, "fetch").cause_id == "unreadable_answer"
        connection.refresh()


def test_words_of_haste_end_a_stream_at_once_whatever_the_status() -> None:
    def play(peer: Peer) -> None:
        a, a1 = peer.expect(b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + a1 + b" ERR Fetch frequency limited!\r\n")

    with Played(play) as server, SourceConnection(server.account) as connection:
        with pytest.raises(ServerError) as caught:
            list(connection.stream([FetchRequest(b"A", [1], 9)]))
        assert caught.value.cause_id == "throttled"
    assert server.after == [b"LOGOUT"]


def test_an_answer_that_is_whole_and_means_nothing_costs_its_message() -> None:
    def play(peer: Peer) -> None:
        a, a1 = peer.expect(b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + b"* 7 FETCH (UID 4294967296 BODY[] {2}\r\nhi)\r\n" + body(2, b"two") + done(a1))

    with Played(play) as server, SourceConnection(server.account) as connection:
        [fetched] = connection.stream([FetchRequest(b"A", [1, 2], 9)])
        assert raws(fetched) == {2: b"two"}
        assert [each.sequence for each in connection.unread] == [7]


class Meter:
    """Counts the commands that were sent and not yet answered when the client reads."""

    def __init__(self, connection: SourceConnection | TargetConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = 0
        send, read = connection._dialogue._wire.send, connection._dialogue._wire.read

        def sending(data: bytes) -> None:
            self._now += 1
            self.most = max(self.most, self._now)
            send(data)

        def reading(deadline: wire.Deadline) -> wire.Response:
            response = read(deadline)
            self._now -= response.segments[0].startswith(b"B")
            return response

        monkeypatch.setattr(wire.Wire, "send", lambda _, data, fence: sending(data))
        monkeypatch.setattr(wire.Wire, "read", lambda _, deadline, sink: reading(deadline))


SCATTERED = range(1_000_000, 1_020_000, 2)
"""So many UIDs with gaps that one request for them takes more commands than may be in flight."""


@pytest.mark.parametrize("uids", [[range(n, n + 1) for n in range(1, 200)], [SCATTERED, SCATTERED, range(1, 2)]])
def test_no_more_commands_are_in_flight_than_a_server_holds(monkeypatch: pytest.MonkeyPatch, uids: list[range]) -> None:
    """Some servers read the next command only after the last answer; whoever goes on sending waits for ever."""
    with Scripted() as server, TargetConnection(server.account) as connection:
        meter = Meter(connection, monkeypatch)
        requests = [FetchRequest(b"%d" % n, [], 0, list(some)) for n, some in enumerate(uids)]
        assert len(list(connection.look_back(requests))) == len(requests)
        assert 30 <= meter.most <= flight.COMMANDS_IN_FLIGHT
        connection.refresh()
        asked = [line.split(b" ")[3] for line in server.received if b" UID FETCH " in line]
        assert sum(1 + octets.count(b",") for octets in asked) == sum(
            1 if len(some) == 1 else len(some) for some in uids
        )


def test_commands_are_really_sent_ahead_and_then_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers nothing gets as many as may be in flight beside the one that is waited for."""
    monkeypatch.setattr(flight, "COMMANDS_IN_FLIGHT", 6)
    names = [b"%d" % n for n in range(12)]

    def play(peer: Peer) -> None:
        tags = peer.expect(*(b'STATUS "%b"' % name for name in names[:7]))
        for name, due in zip(names, [*names[7:], *[None] * 7], strict=True):
            peer.say(b"* STATUS %b (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3)\r\n" % name + done(tags.pop(0)))
            if due:
                tags += peer.expect(b'STATUS "%b"' % due)

    with Played(play) as server, SourceConnection(server.account) as connection:
        in_flight = connection._dialogue.in_flight
        monkeypatch.setattr(connection._dialogue, "in_flight", lambda items, send: in_flight(items, send, at_once=6))
        assert list(connection.statuses(names)) == names


def test_content_is_asked_for_ahead_only_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "FETCH_AHEAD_BYTES", 100)

    def play(peer: Peer) -> None:
        a, one, two = peer.expect(b"EXAMINE", b"UID FETCH 1 ", b"UID FETCH 2 ")
        peer.say(opened(a) + body(1, b"one") + done(one))
        [three] = peer.expect(b"UID FETCH 3 ")
        peer.say(body(2, b"two") + done(two) + body(3, b"three") + done(three))

    with Played(play) as server, SourceConnection(server.account) as connection:
        before = connection._dialogue.sent
        stream = connection.stream([FetchRequest(b"A", [uid], 50) for uid in (1, 2, 3)])
        found = [next(stream)]
        assert connection._dialogue.sent - before == 3, "the third may be asked for only when the first is taken"
        found += stream
        assert [raws(each) for each in found] == [{1: b"one"}, {2: b"two"}, {3: b"three"}]
        connection.refresh()


def test_a_batch_that_is_not_complete_is_let_go_of() -> None:
    """A folder where of each batch one message is gone would be held in memory as a whole."""

    def play(peer: Peer) -> None:
        [a] = peer.expect(b"EXAMINE")
        peer.say(opened(a))
        for n in range(100):
            [tag] = peer.expect(b"UID FETCH ")
            peer.say(body(2 * n + 1, b"x") + done(tag))

    gc.collect()
    others = {id(each) for each in gc.get_objects() if isinstance(each, Fetched)}
    with Played(play) as server, SourceConnection(server.account) as connection:
        most = 0
        for n, _ in enumerate(connection.stream([FetchRequest(b"A", [2 * n + 1, 2 * n + 2], 1) for n in range(100)])):
            if n % 33:
                continue
            alive = sum(isinstance(each, Fetched) and id(each) not in others for each in gc.get_objects())
            most = max(most, alive)
        assert 1 <= most <= flight.COMMANDS_IN_FLIGHT // 3 + 3
