"""Points this process at Prefect: the server of PREFECT_API_URL, else one of our own under BANJIA_HOME.

Never Prefect's ephemeral mode, which loses the history of its runs. Call `use_prefect` before anything imports prefect.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

START_SECONDS = 90.0
STOP_SECONDS = 20.0
SETTLE_SECONDS = 10.0
ANSWER_SECONDS = 5.0
BUSY_SECONDS = 30.0
"""So long a server of the admin's may take to answer: the others that use it may keep it busy."""

# For every process of ours that speaks to Prefect: no telemetry, no temporary server, a quiet terminal.
CLIENT_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # Everything still reaches Prefect's own pages; here the terminal belongs to our own table.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
# Batches instead of single rows: four times as many task runs a second. Leases on disk: the default, in memory, leaks
# every slot when the server restarts.
SERVER_ENVIRONMENT = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


class PrefectUnreachable(Exception):
    """The Prefect server does not answer, or ours did not start."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A Prefect server of our own."""

    pid: int
    url: str

    @property
    def ui(self) -> str:
        return self.url.removesuffix("/api")


def use_prefect(home: Path) -> str:
    """Set this process's environment so that Prefect is reachable; returns the API's URL."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if url := os.environ.get("PREFECT_API_URL"):
        if not _answers(url, BUSY_SECONDS):
            raise PrefectUnreachable(f"the Prefect server at {url} (PREFECT_API_URL) does not answer")
        return url
    os.environ.setdefault("PREFECT_HOME", str(_directory(home)))
    url = ensure_server(home).url
    os.environ["PREFECT_API_URL"] = url
    return url


def ensure_server(home: Path) -> RunningServer:
    """Our own server, started when it does not run; of two processes that ask at once, one starts it."""
    directory = _directory(home)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(directory / "server.lock"):
        return running_server(home) or _late_server(home) or _start(directory)


def running_server(home: Path) -> RunningServer | None:
    """Our own server if it answers."""
    server = _noted_server(home)
    return server if server and _serves(server) else None


def _late_server(home: Path) -> RunningServer | None:
    """Our own server when it only answers late: started beside it, a second would write to the same database."""
    server = _noted_server(home)
    if server:
        _wait_until(partial(_answers_or_ended, server), START_SECONDS)
    return running_server(home)


def stop_server(home: Path) -> bool:
    """End our own server, also one that hangs; False when none runs. Its history stays under BANJIA_HOME."""
    directory = _directory(home)
    if not directory.exists():
        return False
    with _locked(directory / "server.lock"):
        server = _noted_server(home)
        (directory / "server.json").unlink(missing_ok=True)
        if server is None or not _is_prefect_server(server.pid):
            return False
        for way in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, way)
            if _wait_until(lambda: not _lives(server.pid), STOP_SECONDS):
                break
        return True


def _noted_server(home: Path) -> RunningServer | None:
    """The server that was started last, whether it lives or not."""
    try:
        noted = json.loads((_directory(home) / "server.json").read_text())
        return RunningServer(int(noted["pid"]), str(noted["url"]))
    except (OSError, ValueError, KeyError):
        return None


def _is_prefect_server(pid: int) -> bool:
    """Whether that process is what we started: a pid may have gone to another program since."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return _lives(pid) and b"prefect" in words and b"server" in words


def _start(directory: Path) -> RunningServer:
    for port in (_last_port(directory), 0, 0):
        server = _start_on(_free_port(port), directory)
        if server:
            return server
    raise PrefectUnreachable(f"Prefect's server did not start; see {directory / 'server.log'}")


def _start_on(port: int, directory: Path) -> RunningServer | None:
    """Start on that port; None when the server ends instead, for example because the port was taken meanwhile."""
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        **CLIENT_ENVIRONMENT,
        **SERVER_ENVIRONMENT,
        "PREFECT_HOME": str(directory),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = RunningServer(process.pid, url)
    (directory / "server.json").write_text(json.dumps({"pid": server.pid, "url": url}))
    (directory / "last_port").write_text(str(port))
    _wait_until(lambda: _serves(server) or process.poll() is not None, START_SECONDS)
    if process.poll() is None and _serves(server):
        # The server outlives this process on purpose: it is reused, and ended by `banjia prefect stop`.
        process.returncode = 0
        return server
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def _serves(server: RunningServer) -> bool:
    """Whether that very process answers: on its port there may be the server of another BANJIA_HOME."""
    return _is_there(server) and _answers(server.url)


def _answers_or_ended(server: RunningServer) -> bool:
    return not _is_there(server) or _answers(server.url)


def _is_there(server: RunningServer) -> bool:
    return _lives(server.pid) and _listens(server)


def _listens(server: RunningServer) -> bool:
    """Whether a process of the server's session holds the listening socket (proc(5): net/tcp, PID/fd)."""
    port = f"{urllib.parse.urlsplit(server.url).port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or _session(entry) != server.pid:
            continue
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) in sockets for handle in (entry / "fd").iterdir()):
                return True
    return False


def _session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, ValueError):
        return 0


def _directory(home: Path) -> Path:
    return home / "prefect"


def _last_port(directory: Path) -> int:
    try:
        return int((directory / "last_port").read_text())
    except (OSError, ValueError):
        return 0


def _free_port(wished: int) -> int:
    for port in (wished, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
    raise PrefectUnreachable("no free port on 127.0.0.1")


def _answers(url: str, seconds: float = ANSWER_SECONDS) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=seconds) as answer:  # noqa: S310  (http, ours or the admin's)
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, urllib.error.URLError, OSError, ValueError) as error:
        # 401 is an answer too: Prefect asks for PREFECT_API_AUTH_STRING itself.
        return isinstance(error, urllib.error.HTTPError) and error.code == 401


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def settle() -> None:
    """Hand over what this process still has to tell Prefect: otherwise its end waits a minute for a stopped server."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=SETTLE_SECONDS)
