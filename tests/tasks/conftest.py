"""A BANJIA_HOME of its own for every test, opened in this process, and two mail servers."""

from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from tasks import leases, policy
from tasks.governor import dismiss_governors
from tasks.settings import settings
from tasks.store import log, store
from tests.models.conftest import company, engine
from tests.tasks.governors import governed
from tests.tasks.office import Office, opened_office

__all__ = ["company", "engine", "governed"]


def forget_everything() -> None:
    """Make this process open its settings, database and log anew."""
    dismiss_governors()
    if store.cache_info().currsize:
        store().engine.dispose()
    store.cache_clear()
    settings.cache_clear()
    for handler in [*log.handlers]:
        if isinstance(handler, RotatingFileHandler):
            log.removeHandler(handler)
            handler.close()
    log.propagate = True
    policy.STOP.clear()


@pytest.fixture(autouse=True)
def no_renewal_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that renews leases lives as long as the process, and would come between what is counted."""
    monkeypatch.setattr(leases, "renew_now", lambda: None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, and a working directory without a banjia.toml."""
    forget_everything()
    directory = tmp_path / "home"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("BANJIA_HOME", str(directory))
    yield directory
    forget_everything()


@pytest.fixture
def office() -> Iterator[Office]:
    with opened_office() as found:
        yield found
