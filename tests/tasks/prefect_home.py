"""One real Prefect server for all tests that want one: it takes ten seconds to start."""

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
    if prefect_home.cache_info().currsize:
        settle()
        stop_server(prefect_home())
