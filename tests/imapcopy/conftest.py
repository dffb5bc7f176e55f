"""A mailbox to be moved between two servers in this process."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import ImapServer
from imapcopy import deliver, sign_in
from models.database import open_database
from tests.imapcopy.world import LIN, NEW, PASSWORD, Box, new_member


@pytest.fixture(autouse=True)
def prompt_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers here have stored what they store when they drop a connection: nobody has to wait for them."""
    monkeypatch.setattr(deliver, "SETTLE_SECONDS", 0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that would wait for ever fails its test soon."""
    monkeypatch.setattr(sign_in, "SILENCE_SECONDS", 5.0)


@pytest.fixture
def old() -> Iterator[ImapServer]:
    with ImapServer("old", {LIN: PASSWORD}) as running:
        yield running


@pytest.fixture
def new() -> Iterator[ImapServer]:
    with ImapServer("new", {NEW: PASSWORD}) as running:
        yield running


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its schema: copied for each test, because making one takes a quarter of a second."""
    path = tmp_path_factory.mktemp("database") / "empty.sqlite3"
    open_database(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def engine(empty_database: Path, tmp_path: Path) -> Iterator[Engine]:
    shutil.copy(empty_database, tmp_path / "banjia.sqlite3")
    opened = open_database(f"sqlite:///{tmp_path / 'banjia.sqlite3'}")
    yield opened
    opened.dispose()


@pytest.fixture
def mailbox(engine: Engine, old: ImapServer, new: ImapServer) -> Box:
    return Box(engine, old, new, new_member(engine))


@pytest.fixture
def copy(mailbox: Box) -> Callable[..., None]:
    """Run one pass from the old server to the new one."""
    return mailbox.copy
