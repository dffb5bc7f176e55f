"""A mailbox to be moved between two servers in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import ImapServer
from imapcopy import look_up
from tests.imapcopy.world import LIN, NEW, PASSWORD, Box, new_member
from tests.servers.databases import Databases


@pytest.fixture(autouse=True)
def prompt_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers here have stored what they store when they drop a connection: nobody has to wait for them."""
    monkeypatch.setattr(look_up, "SETTLE_SECONDS", 0)


@pytest.fixture
def old() -> Iterator[ImapServer]:
    with ImapServer("old", {LIN: PASSWORD}) as running:
        yield running


@pytest.fixture
def new() -> Iterator[ImapServer]:
    with ImapServer("new", {NEW: PASSWORD}) as running:
        yield running


@pytest.fixture
def engine(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Engine]:
    """A file of SQLite, unless a test asks for the other too (`on_both`)."""
    with databases.fresh(getattr(request, "param", "sqlite"), tmp_path) as engine:
        yield engine


@pytest.fixture
def mailbox(engine: Engine, old: ImapServer, new: ImapServer) -> Box:
    return Box(engine, old, new, new_member(engine))


@pytest.fixture
def copy(mailbox: Box) -> Callable[..., None]:
    """Run one pass from the old server to the new one."""
    return mailbox.copy
