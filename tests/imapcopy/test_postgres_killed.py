"""PostgreSQL is killed in mid-copy and comes back: the next pass goes on from the ledger, without loss and a double."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from deployments.demo.imap_server import CAPABILITIES, ImapServer, Received
from imapcopy import group_pass
from models.database import open_database, trouble
from models.ledger import Ledger
from tests.imapcopy.world import LIN, NEW, Box, contents, new_member
from tests.servers.postgres import Postgres

LESSER = frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"})


@pytest.fixture
def box(mortal_postgres: Postgres, old: ImapServer, new: ImapServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A mailbox of several batches, some of whose messages look alike; the database is the one that will be killed."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 4)
    engine = open_database(mortal_postgres.url(mortal_postgres.create_database()))
    box = Box(engine, old, new, new_member(engine))
    for number in range(18):
        box.deliver(number % 15)
    box.deliver(3, "Work")
    box.deliver(20, "Work", flags=["$Project"])
    yield box
    engine.dispose()


class Blow:
    """Strikes once, the nth time that it is asked."""

    def __init__(self, strike: Callable[[], None], nth: int) -> None:
        self.strike = strike
        self.nth = nth
        self.has_struck = False
        self._asked = count(1)
        """Never the same number twice, in however many threads."""

    def __call__(self, *_: object) -> None:
        if next(self._asked) == self.nth:
            self.has_struck = True
            self.strike()


@contextmanager
def blow_in_the_ledger(monkeypatch: pytest.MonkeyPatch, place: str, blow: Blow) -> Iterator[None]:
    """Strike before a transaction, in it before its commit, or right after it."""
    fenced = Ledger._fenced

    @contextmanager
    def struck(self: Ledger) -> Iterator[Session]:
        if place == "before":
            blow()
        with fenced(self) as session:
            yield session
            if place == "in":
                blow()
        if place == "after":
            blow()

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "_fenced", struck)
        yield


def struck_pass(box: Box) -> None:
    """Run a pass that ends with words of the database which mean that it cannot be used."""
    with pytest.raises(SQLAlchemyError) as caught:
        box.copy()
    assert trouble(caught.value)


def assert_goes_on(box: Box) -> None:
    """The next pass completes it, and the one after it has nothing to do."""
    box.new.behaviour.before_command = None
    # A runner that could not give its lease back has died with its process.
    with box.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE member SET lease_owner = ''")
    box.copy()
    box.assert_equal()
    box.assert_untouched()
    sent = box.sent()
    box.copy()
    assert box.sent() == sent


@pytest.mark.parametrize("place", ["before", "in", "after"])
@pytest.mark.parametrize("nth", [2, 4, 7])
def test_a_kill_around_a_write_to_the_ledger(
    box: Box, mortal_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, place: str, nth: int
) -> None:
    blow = Blow(mortal_postgres.kill, nth)
    with blow_in_the_ledger(monkeypatch, place, blow):
        struck_pass(box)
    assert blow.has_struck
    # What is there was intended before; nothing came after.
    before = box.sent()
    mortal_postgres.restart()
    assert box.sent() == before
    assert not contents(box.new, NEW) - contents(box.old, LIN)
    assert_goes_on(box)


@pytest.mark.parametrize("capabilities", [CAPABILITIES, LESSER], ids=["full", "only UIDPLUS"])
def test_a_kill_between_the_intent_and_what_became_of_it(
    box: Box, mortal_postgres: Postgres, capabilities: frozenset[str]
) -> None:
    box.new.behaviour.capabilities = capabilities
    blow = Blow(mortal_postgres.kill, 2)

    def hook(command: Received) -> None:
        if command.verb == "APPEND":
            blow()

    box.new.behaviour.before_command = hook
    struck_pass(box)
    assert sum(contents(box.new, NEW).values()) > 0
    mortal_postgres.restart()
    assert_goes_on(box)


def test_a_session_of_it_that_is_killed_is_no_more_than_a_restart(
    box: Box, mortal_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL then ends all sessions, recovers and goes on by itself; a transaction that was open is gone."""
    database = str(box.engine.url.database)
    with blow_in_the_ledger(monkeypatch, "in", Blow(lambda: mortal_postgres.kill_session(database), 4)):
        struck_pass(box)
    mortal_postgres.wait_until_it_answers()
    assert_goes_on(box)


def test_a_database_that_is_away_between_two_passes_is_not_noticed(box: Box, mortal_postgres: Postgres) -> None:
    """What stood in the pool is dead, and the first transaction finds a new connection."""
    box.copy()
    box.deliver(40)
    mortal_postgres.kill()
    mortal_postgres.restart()
    box.copy()
    box.assert_equal()
