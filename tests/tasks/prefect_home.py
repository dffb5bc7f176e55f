"""One real Prefect server for all tests that want one: it takes ten seconds to start."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

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
