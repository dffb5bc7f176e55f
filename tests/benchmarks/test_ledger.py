"""A message takes little room in the ledger, whatever the database and however scattered the UIDs."""

from pathlib import Path

import pytest

from benchmarks import ledger
from benchmarks.ledger import GOAL, ON_BOTH_SIDES, UIDS, Size, in_postgresql, in_sqlite, table_of
from tests.servers.postgres import Postgres

MESSAGES = 20_000


@pytest.fixture(params=UIDS)
def uids(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_small(size: Size) -> None:
    """A digest alone has 16. What the other tables have is the same for any number of messages."""
    assert 16 < size.tables["batch"] / size.messages < GOAL
    assert size.octets < 1.2 * size.tables["batch"]


def test_sqlite_stays_within_the_goal(tmp_path: Path, uids: str) -> None:
    assert_small(in_sqlite(tmp_path, uids, MESSAGES))


def test_postgresql_stays_within_the_goal(postgres: Postgres, uids: str) -> None:
    """And the database that is made for it is gone afterwards."""
    assert_small(in_postgresql(postgres.url("postgres"), uids, MESSAGES))
    with postgres.connection() as admin:
        assert not admin.execute("SELECT 1 FROM pg_database WHERE datname = 'banjia_benchmark'").fetchone()


def test_the_table_shows_the_room_of_a_message(capsys: pytest.CaptureFixture[str], postgres: Postgres) -> None:
    ledger.main(messages=1000, postgresql=postgres.url("postgres"))
    shown = capsys.readouterr().out
    assert "1,000 messages" in shown
    assert shown.count(ON_BOTH_SIDES) == 2
    assert table_of([Size("SQLite", "consecutive", 10, 164)]).row_count == 1
