"""What the connection to the target makes of folders, and how it appends."""

import pytest

from imapcopy import responses
from imapcopy.errors import ConnectionLost, MigrationError, Refused, ServerError
from imapcopy.responses import Selected
from imapcopy.target_connection import Outgoing, TargetConnection
from tests.imapcopy.scripted import Peer, Played, done, opened

# Many folders in flight


def test_folders_are_selected_in_flight_and_each_has_its_own_error() -> None:
    def play(peer: Peer) -> None:
        a, b, c, d = peer.expect(b'SELECT "A"', b'SELECT "B"', b'SELECT "C"', b'SELECT "D"')
        peer.say(opened(a, 1) + b + b" NO [NONEXISTENT] no\r\n" + opened(c, 3) + d + b" NO System busy!\r\n")

    with Played(play) as server, TargetConnection(server.account) as connection:
        a, b, c, d = dict(connection.select_each("ABCD")).values()
        assert isinstance(a, Selected)
        assert isinstance(b, MigrationError)
        assert isinstance(c, Selected)
        assert isinstance(d, ServerError)
        assert (a.uidvalidity, b.where, c.uidvalidity, d.cause_id) == (1, "B", 3, "throttled")
        assert (connection.selected, connection.uidvalidity) == (b"", 0)
        connection.refresh()


@pytest.mark.parametrize("busy", [False, True])
def test_folders_are_made_in_flight_and_each_refusal_is_its_own(busy: bool) -> None:
    def play(peer: Peer) -> None:
        tags = peer.expect(*[b"CREATE", b"SUBSCRIBE"] * 4)
        peer.say(done(tags[0]) + tags[1] + b" NO cannot subscribe\r\n")
        peer.say(tags[2] + b" NO [ALREADYEXISTS] is there\r\n" + done(tags[3]))
        peer.say(tags[4] + b" BAD Invalid characters in atom\r\n" + done(tags[5]))
        peer.say((tags[6] + b" NO System busy!\r\n" if busy else done(tags[6])) + done(tags[7]))

    with Played(play) as server, TargetConnection(server.account) as connection:
        if busy:
            with pytest.raises(ServerError) as caught:
                connection.create(["new", "old", "odd", "last"])
            assert caught.value.cause_id == "throttled"
        else:
            refused = connection.create(["new", "old", "odd", "last"])
            assert {name: error.where for name, error in refused.items()} == {"odd": "odd"}
        connection.refresh()


# Appending


@pytest.mark.parametrize(
    ("code", "uids"),
    [
        (b"[APPENDUID 7 4:5]", [4, 5]),
        (b"[appenduid 7 4,9]", [4, 9]),
        (b"[APPENDUID 7 4]", []),
        (b"[APPENDUID 7 1:4294967295]", []),
        (b"[APPENDUID 7 ,:]", []),
        (b"[APPENDUID 7 :]", []),
        (b"", []),
    ],
)
def test_only_an_appenduid_that_fits_is_taken(code: bytes, uids: list[int]) -> None:
    assert responses.appended_uids(code.decode() + " done", 2) == (7 if uids else 0, uids)


# Appending one message a command


def letters(*sizes: int) -> list[Outgoing]:
    return [Outgoing(bytes([65 + n]) * size, frozenset(), "") for n, size in enumerate(sizes)]


def uids(outcomes: list[tuple[int, list[int]] | Refused]) -> list[object]:
    return [each.status if isinstance(each, Refused) else each for each in outcomes]


def test_the_next_message_is_announced_before_the_last_one_is_answered() -> None:
    def play(peer: Peer) -> None:
        answer = b""
        for n, size in enumerate((5, 70_000, 0)):
            [tag] = peer.expect(b'APPEND "A" {%d}' % size)
            peer.say(answer + b"+ go\r\n")
            assert peer.octets(size + 2) == bytes([65 + n]) * size + b"\r\n"
            answer = b"* %d EXISTS\r\n" % n + tag + b" OK [APPENDUID 7 %d] done\r\n" % (n + 1)
        peer.say(answer)

    with Played(play, b"IMAP4rev1 UIDPLUS") as server, TargetConnection(server.account) as connection:
        assert uids(list(connection.append_each("A", letters(5, 70_000, 0)))) == [(7, [1]), (7, [2]), (7, [3])]
        connection.refresh()


@pytest.mark.parametrize("refused", [0, 1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_message_that_is_refused_before_or_after_its_octets_costs_no_other(after: bool, refused: int) -> None:
    def play(peer: Peer) -> None:
        answer = b""
        for n in range(3):
            [tag] = peer.expect(b"APPEND")
            if n == refused and not after:
                peer.say(answer + tag + b" NO [TOOBIG] no\r\n")
                answer = b""
                continue
            peer.say(answer + b"+ go\r\n")
            assert peer.octets(7) == bytes([65 + n]) * 5 + b"\r\n"
            answer = tag + (b" NO [OVERQUOTA] no\r\n" if n == refused else b" OK [APPENDUID 7 %d] x\r\n" % n)
        peer.say(answer)

    with Played(play, b"IMAP4rev1 UIDPLUS") as server, TargetConnection(server.account) as connection:
        found = uids(list(connection.append_each("A", letters(5, 5, 5))))
        assert found == ["NO" if n == refused else (7, [n]) for n in range(3)]
        connection.refresh()


@pytest.mark.parametrize(
    ("capability", "marks"),
    [(b"LITERAL+", b"+++"), (b"LITERAL-", b"++ "), (b"LITERAL+ LITERAL-", b"+++"), (b"", b"   ")],
)
def test_a_literal_goes_unannounced_where_the_server_takes_it_so(capability: bytes, marks: bytes) -> None:
    sizes = (1, 4096, 4097)

    def play(peer: Peer) -> None:
        answer = b""
        for size, mark in zip(sizes, marks, strict=True):
            plus = b"+" if mark == ord("+") else b""
            [tag] = peer.expect(b'APPEND "A" {%d%b}' % (size, plus))
            peer.say(answer + (b"" if plus else b"+ go\r\n"))
            assert len(peer.octets(size + 2)) == size + 2
            answer = done(tag)
        peer.say(answer)

    with Played(play, b"IMAP4rev1 " + capability) as server, TargetConnection(server.account) as connection:
        assert uids(list(connection.append_each("A", letters(*sizes)))) == [(0, [])] * 3
        connection.refresh()


@pytest.mark.parametrize("where", ["announced", "sent", "answered"])
def test_a_connection_cut_while_messages_are_appended_is_lost(where: str) -> None:
    def play(peer: Peer) -> None:
        [first] = peer.expect(b"APPEND")
        peer.say(b"+ go\r\n")
        peer.octets(7)
        peer.expect(b"APPEND")
        if where != "announced":
            peer.say(done(first))
        if where == "answered":
            peer.say(b"+ go\r\n")
            peer.octets(7)
        peer.cut()

    with Played(play, b"IMAP4rev1") as server, TargetConnection(server.account) as connection:
        arriving = connection.append_each("A", letters(5, 5))
        if where != "announced":
            assert next(arriving) == (0, [])
        with pytest.raises(ConnectionLost):
            list(arriving)
