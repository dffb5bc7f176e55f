"""Governors for tests, each as another process would have one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from imapcopy.account import Account, Server
from tasks import slots as module
from tasks.governor import Governor
from tasks.settings import Settings

OLD, NEW = Server("old.example", 993), Server("new.example", 993)


@pytest.fixture
def governed(engine: Engine, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Governor]]:
    """Make governors, each as another process would have one, that look only when they are told."""
    monkeypatch.setattr(module, "POLL_SECONDS", 3600)
    home.mkdir()
    made: list[Governor] = []

    def make(name: str = "elsewhere/boot/1/1", at_source: int = 3, at_target: int = 4) -> Governor:
        settings = Settings(host_connections=at_source, target_connections=at_target)
        made.append(Governor(engine, settings, runner=name))
        return made[-1]

    yield make
    for each in made:
        each.slots.dismiss()


def reserve(governor: Governor, *members: int) -> list[int]:
    return [member for member in members if governor.slots.reserve(member, OLD, NEW)]


def accounts() -> tuple[Account, Account]:
    return Account(OLD, "li"), Account(NEW, "li")
