"""What the connection to the source asks of a server, and what it never does."""

import pytest

from imapcopy.errors import ConnectionLost, FolderError, MigrationError
from imapcopy.folders import Folder
from imapcopy.source_connection import SourceConnection, Surveyed
from tests.imapcopy.scripted import Peer, Played, Scripted, done, line, opened

INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())


def named(name: str) -> Folder:
    return Folder(name.encode(), name, "/", frozenset())


def test_the_source_has_no_command_that_changes_anything() -> None:
    for verb in ("append", "create", "select"):
        assert not hasattr(SourceConnection, verb)


# Many folders in flight


def test_a_survey_goes_on_where_a_folder_cannot_be_opened_scanned_or_named() -> None:
    def play(peer: Peer) -> None:
        tags = peer.expect(*[b"EXAMINE", b"UID FETCH 1:* "] * 4)
        peer.say(opened(tags[0], 1, exists=2) + line(2) + line(1) + done(tags[1]))
        peer.say(tags[2] + b" NO [NONEXISTENT] no\r\n" + line(1) + line(2) + done(tags[3]))
        peer.say(opened(tags[4], 3) + line(1) + tags[5] + b" NO Some messages could not be FETCHed\r\n")
        peer.say(opened(tags[6], 4, exists=1) + line(9) + done(tags[7]))
        # What does not come is asked for once more, then in halves: not one of them comes.
        peer.say(opened(*peer.expect(b'EXAMINE "torn"'), 3))
        peer.say(done(*peer.expect(b"NOOP")))
        for numbers in (b"1:3 ", b"1 ", b"2:3 ", b"2 ", b"3 "):
            [tag] = peer.expect(b"FETCH " + numbers)
            peer.say(tag + b" NO Some messages could not be FETCHed\r\n")

    names = ["good", "closed", "a\r\nb", "torn", "last"]
    with Played(play) as server, SourceConnection(server.account) as connection:
        found = {folder.name: survey for folder, survey in connection.survey(map(named, names))}
        assert sorted(found) == sorted(names)
        good, last = found["good"], found["last"]
        assert isinstance(good, Surveyed)
        assert isinstance(last, Surveyed)
        assert ([e.uid for e in good.scan], good.opened.uidvalidity) == ([1, 2], 1)
        assert ([e.uid for e in last.scan], last.opened.uidvalidity) == ([9], 4)
        for name in ("closed", "torn", "a\r\nb"):
            error = found[name]
            assert isinstance(error, MigrationError)
            assert error.where == name
        assert isinstance(found["torn"], FolderError)
        assert isinstance(found["a\r\nb"], FolderError)
        assert (connection.selected, connection.uidvalidity) == (b"torn", 3)
        connection.refresh()


def test_a_survey_that_is_cut_off_is_a_lost_connection() -> None:
    def play(peer: Peer) -> None:
        a, _, _, _ = peer.expect(b"EXAMINE", b"UID FETCH", b"EXAMINE", b"UID FETCH")
        peer.say(opened(a) + line(1) + b"* BYE [THROTTLED] slow down\r\n")

    with Played(play) as server, SourceConnection(server.account) as connection:
        with pytest.raises(ConnectionLost) as caught:
            list(connection.survey([named("A"), named("B")]))
        assert caught.value.cause_id == "throttled"


# A server without EXAMINE


def refusing(answer: bytes) -> Scripted:
    return Scripted({"EXAMINE": lambda rest: b"TAG " + answer + b"\r\n"})


def test_a_server_that_knows_no_examine_is_opened_with_select() -> None:
    with refusing(b"BAD invalid command or parameters") as server, SourceConnection(server.account) as connection:
        assert connection.examine(INBOX).uidvalidity == 7
        assert connection.examine(named("A")).uidvalidity == 7
        assert server.verbs().count("EXAMINE") == 1


def test_a_folder_that_is_refused_with_no_is_not_opened_in_another_way() -> None:
    with refusing(b"NO [NOPERM] not yours") as server, SourceConnection(server.account) as connection:
        with pytest.raises(MigrationError):
            connection.examine(INBOX)
        [(_, error)] = connection.survey([named("A")])
        assert isinstance(error, MigrationError)
        assert "SELECT" not in server.verbs()


def test_a_bad_name_does_not_make_a_server_that_knows_examine_be_opened_otherwise() -> None:
    def examine(rest: bytes) -> bytes:
        good = b"* 0 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\nTAG OK open\r\n"
        return b"TAG BAD Invalid characters in atom\r\n" if b"odd" in rest else good

    with Scripted({"EXAMINE": examine}) as server, SourceConnection(server.account) as connection:
        found = dict(connection.survey([named("odd"), named("A")]))
        assert {folder.name: isinstance(survey, Surveyed) for folder, survey in found.items()} == {
            "A": True,
            "odd": False,
        }
        assert "SELECT" not in server.verbs()


def test_a_folder_that_neither_command_opens_fails_with_what_examine_was_told() -> None:
    refuse = lambda rest: b"TAG BAD Invalid characters in atom\r\n"  # noqa: E731
    with Scripted({"EXAMINE": refuse, "SELECT": refuse}) as server, SourceConnection(server.account) as connection:
        [(_, error)] = connection.survey([named("odd")])
        assert isinstance(error, MigrationError)
        assert (error.where, connection.opens_with) == ("odd", b"EXAMINE")
