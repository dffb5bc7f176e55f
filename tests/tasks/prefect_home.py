"""One real Prefect server for all tests that want one: it takes ten seconds to start."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tasks.prefect_server import ensure_server, settle, stop_server


@cache
def prefect_home() -> Path:
    """The home of the server, which is started with the first call."""
    home = Path(tempfile.mkdtemp(prefix="banjia-prefect-"))
    ensure_server(home)
    return home


def end_prefect() -> None:
    """Stop the server; the first to call does it for all."""
    home = prefect_home()
    if not (home / "prefect" / "server.json").exists():
        return
    settle()
    assert stop_server(home)
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def fresh_settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Iterator[None]:
    """Prefect's settings in this process as a new one would read them from its environment."""
    # First, because what is imported under that environment would keep its settings.
    from prefect.context import SettingsContext
    from prefect.settings import Profile, Settings

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with SettingsContext(profile=Profile(name="test", settings={}), settings=Settings()):
        yield
