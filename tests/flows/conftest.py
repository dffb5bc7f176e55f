"""Real flows against a local Prefect server, each test with a BANJIA_HOME and mail servers of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.prefect_server import ensure_server
from tests.servers.prefect_api import PrefectApi
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Office, opened_office
from tests.tasks.prefect_home import end_prefect, prefect_home


@pytest.fixture(scope="session")
def prefect_database() -> Iterator[Path]:
    """Prefect's own files, while this process speaks to its server."""
    from prefect import settings
    from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

    home = prefect_home()
    # Not only looked at: a busy machine may keep it from answering at once.
    ensure_server(home)
    way = {getattr(settings, name): value for name, value in PrefectApi(home / "prefect").environment.items()}
    with temporary_settings({**way, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield home / "prefect"
    end_prefect()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_database: Path) -> Iterator[Path]:
    """An empty home, and a working directory without a banjia.toml."""
    forget_everything()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANJIA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[0, 0]")
    yield tmp_path / "home"
    forget_everything()


@pytest.fixture
def office() -> Iterator[Office]:
    with opened_office() as found:
        yield found
