"""Points this process at Prefect: the server of PREFECT_API_URL, else one of our own under BANJIA_HOME.

Never Prefect's ephemeral mode, which loses the history of its runs. Call `use_prefect` before anything imports prefect.
Our own server asks for a secret and shows its certificate (`prefect_access.py`, `prefect_doors.py`).
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from models.bilingual import Text
from models.private_files import open_private, why_not_counted, write_private
from tasks.prefect_access import HOST, SIGN_IN, Access, make_access, pages_password, read_access

PREFECT_FILES = (".env", "prefect.toml", "pyproject.toml")
"""What Prefect takes settings from in the working directory, which may be anybody's, and cannot be told to leave."""
START_SECONDS = 90.0
STOP_SECONDS = 20.0
SETTLE_SECONDS = 10.0
ANSWER_SECONDS = 5.0
BUSY_SECONDS = 30.0
"""So long a server of the admin's may take to answer: the others that use it may keep it busy."""

DOORS = "tasks.prefect_doors"
"""The module that the server's process runs."""

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
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
}
_NO_ANSWER = Text(
    "{url}（PREFECT_API_URL）上的 Prefect 服务没有应答。",
    "the Prefect server at {url} (PREFECT_API_URL) does not answer",
)
_NOT_STARTED = Text("本机的 Prefect 服务没有启动，见 {log}", "Prefect's server did not start; see {log}")
_NO_PORT = Text("127.0.0.1 上没有空闲端口。", "no free port on 127.0.0.1")
_OLD_IN_USE = Text(
    "旧版 banjia 启动的 Prefect 服务（进程 {server}）没有密码，本机任何用户都能借它运行命令；"
    "现在还有进程在用它：{users}。请先结束它们（在其终端按 Ctrl-C，或运行 kill {kill}），再运行一次本命令。",
    "the Prefect server that an older banjia started (process {server}) has no password: every user of this machine "
    "can run commands through it. Processes still use it: {users}. End them first (Ctrl-C in their terminal, or: "
    "kill {kill}), then run this again",
)
NO_TLS = Text(
    "警告：PREFECT_API_URL（{url}）不是 https：在路上或占用该端口的任何人都能下达任务并以您的身份运行命令。",
    "Warning: PREFECT_API_URL ({url}) is not https: whoever sits on the way, or on its port, can hand out work and run "
    "commands as you.",
)
NO_KEY = Text(
    "警告：连接 {url} 没有用密钥：请给 Prefect 服务设 PREFECT_SERVER_API_AUTH_STRING，"
    "并在这里设 PREFECT_API_AUTH_STRING（或 PREFECT_API_KEY），否则能连上它的任何人都能以您的身份运行命令。",
    "Warning: {url} is used without a key: give that Prefect server PREFECT_SERVER_API_AUTH_STRING and set "
    "PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) here; else whoever reaches it can run commands as you.",
)


class PrefectUnreachable(Exception):
    """The Prefect server does not answer, or ours did not start; `told` says what to do."""

    def __init__(self, told: Text) -> None:
        self.told = told
        super().__init__(told.en)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A Prefect server of our own: the API for programs, and where its pages are."""

    pid: int
    url: str
    ui: str

    @property
    def is_open(self) -> bool:
        """Whether an older version started it, which asked nobody for a password."""
        return self.url.startswith("http://")


def use_prefect(home: Path) -> str:
    """Set this process's environment so that Prefect is reachable; returns the API's URL."""
    for file in map(Path, PREFECT_FILES):
        if (told := why_not_counted(file)) and _is_for_prefect(file):
            raise PrefectUnreachable(told)
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if url := os.environ.get("PREFECT_API_URL"):
        if not _answers(url, _admins_context(), BUSY_SECONDS):
            raise PrefectUnreachable(_NO_ANSWER.format(url=url))
        return url
    os.environ.setdefault("PREFECT_HOME", str(_directory(home)))
    server = ensure_server(home)
    os.environ.update(own_environment(home, server))
    return server.url


def _is_for_prefect(file: Path) -> bool:
    """Whether Prefect would take anything from it."""
    try:
        return file.suffix != ".toml" or file.stem == "prefect" or "prefect" in _tools(file)
    except (OSError, ValueError):
        return True


def _tools(file: Path) -> dict[str, object]:
    found = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    return found if isinstance(found, dict) else {}


def own_environment(home: Path, server: RunningServer) -> dict[str, str]:
    """What a program of ours needs to speak to our own server, and to nobody else in its place."""
    access = read_access(_directory(home))
    return {
        "PREFECT_API_URL": server.url,
        "PREFECT_API_AUTH_STRING": access.secret,
        "PREFECT_API_SSL_CERT_FILE": str(access.certificate),
        # Set elsewhere, it would let in everybody.
        "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "false",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        **{name: _and_loopback(os.environ.get(name, "")) for name in ("NO_PROXY", "no_proxy")},
    }


def _and_loopback(names: str) -> str:
    """What is not asked for through a proxy, and this machine."""
    return names if HOST in names.split(",") else ",".join(filter(None, (names, HOST)))


def dangers() -> list[Text]:
    """What is wrong with the way to the server of PREFECT_API_URL, none for our own; for after `use_prefect`."""
    url = os.environ.get("PREFECT_API_URL", "")
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    found = [] if url.startswith("https://") and not api.tls_insecure_skip_verify else [NO_TLS]
    if not (api.key or api.auth_string):
        found.append(NO_KEY)
    return [told.format(url=url) for told in found]


def ensure_server(home: Path) -> RunningServer:
    """Our own server, started when it does not run; of two processes that ask at once, one starts it."""
    directory = _directory(home)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(directory / "server.lock"):
        _end_open_server(home)
        access = make_access(directory)
        return running_server(home) or _late_server(home) or _start(directory, access)


def running_server(home: Path) -> RunningServer | None:
    """Our own server if it answers; not one of an older version, which asks for no password."""
    server = _noted_server(home)
    return server if server and not server.is_open and _serves(server, _directory(home)) else None


def open_server(home: Path) -> RunningServer | None:
    """The server of an older version that still runs."""
    server = _noted_server(home)
    return server if server and server.is_open and _is_prefect_server(server.pid) else None


def is_up(home: Path) -> bool:
    """Whether the process of our own server is there; asks nobody, so that nobody else can answer."""
    server = _noted_server(home)
    return server is not None and not server.is_open and _is_prefect_server(server.pid)


def has_children(pid: int) -> bool:
    """Whether a process has others that it started: what a worker carries out runs in a process each."""
    return any(_stat(each)[1:2] == [str(pid).encode()] for each in _processes())


def sign_in_link(home: Path, server: RunningServer) -> str:
    """The address that signs a browser in to the pages of our own server, as long as that runs."""
    return f"{server.ui}{SIGN_IN}#{pages_password(_directory(home))}"


def _end_open_server(home: Path) -> None:
    """End what an older version left running; PrefectUnreachable while somebody still uses it."""
    server = open_server(home)
    if server is None:
        return
    if users := _users_of(server):
        told = ", ".join(f"{pid} ({line})" for pid, line in users.items())
        kill = " ".join(map(str, users))
        raise PrefectUnreachable(_OLD_IN_USE.format(server=server.pid, users=told, kill=kill))
    _end(server.pid)
    (_directory(home) / "server.json").unlink(missing_ok=True)


def _late_server(home: Path) -> RunningServer | None:
    """Our own server when it only answers late: started beside it, a second would write to the same database."""
    server = _noted_server(home)
    if server:
        _wait_until(partial(_answers_or_ended, server, _directory(home)), START_SECONDS)
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
        _end(server.pid)
        return True


def _end(pid: int) -> None:
    for way in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, way)
        if _wait_until(lambda: not _lives(pid), STOP_SECONDS):
            break


def _noted_server(home: Path) -> RunningServer | None:
    """The server that was started last, whether it lives or not."""
    try:
        noted = json.loads((_directory(home) / "server.json").read_text())
        url = str(noted["url"])
        return RunningServer(int(noted["pid"]), url, str(noted.get("ui") or url.removesuffix("/api")))
    except (OSError, ValueError, KeyError):
        return None


def _is_prefect_server(pid: int) -> bool:
    """Whether that process is what we, or an older version, started: a pid may have gone to another program since."""
    words = _read(pid, "cmdline").split(b"\0")
    return _lives(pid) and (DOORS.encode() in words or (b"prefect" in words and b"server" in words))


def _start(directory: Path, access: Access) -> RunningServer:
    for port, pages_port in (_last_ports(directory), (0, 0), (0, 0)):
        server = _start_on(_free_port(port), _free_port(pages_port), directory, access)
        if server:
            return server
    raise PrefectUnreachable(_NOT_STARTED.format(log=directory / "server.log"))


def _start_on(port: int, pages_port: int, directory: Path, access: Access) -> RunningServer | None:
    """Start on these ports; None when the server ends instead, for example because one was taken meanwhile."""
    url, ui = f"https://{HOST}:{port}/api", f"http://{HOST}:{pages_port}"
    environment = {
        **os.environ,
        **CLIENT_ENVIRONMENT,
        **SERVER_ENVIRONMENT,
        "PREFECT_HOME": str(directory),
        "PREFECT_API_URL": url,
        "PREFECT_API_SSL_CERT_FILE": str(access.certificate),
        "PREFECT_SERVER_UI_API_URL": f"{ui}/api",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ui,
    }
    command = [sys.executable, "-m", DOORS, str(directory), str(port), str(pages_port)]
    with open(directory / "server.log", "ab", opener=_only_for_us) as log:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = RunningServer(process.pid, url, ui)
    write_private(directory / "server.json", json.dumps({"pid": server.pid, "url": url, "ui": ui}).encode())
    write_private(directory / "last_port", f"{port} {pages_port}".encode())
    _wait_until(lambda: _serves(server, directory) or process.poll() is not None, START_SECONDS)
    if process.poll() is None and _serves(server, directory):
        # The server outlives this process on purpose: it is reused, and ended by `banjia prefect stop`.
        process.returncode = 0
        return server
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def _serves(server: RunningServer, directory: Path) -> bool:
    """Whether that very process answers: on its port there may be the server of another BANJIA_HOME."""
    return _is_there(server) and _proves_itself(server, directory)


def _answers_or_ended(server: RunningServer, directory: Path) -> bool:
    return not _is_there(server) or _proves_itself(server, directory)


def _proves_itself(server: RunningServer, directory: Path) -> bool:
    """Whether who answers has the key of our certificate; no secret is sent for it."""
    try:
        return _answers(server.url, read_access(directory).context())
    except FileNotFoundError:
        return False


def _is_there(server: RunningServer) -> bool:
    return _lives(server.pid) and _listens(server)


def _listens(server: RunningServer) -> bool:
    """Whether a process of the server's session holds the listening socket (proc(5): net/tcp, PID/fd)."""
    sockets = _sockets("0A", local=_port(server))
    return any(_session(pid) == server.pid and sockets & _open_sockets(pid) for pid in _processes())


def _users_of(server: RunningServer) -> dict[int, str]:
    """Processes of ours that speak to that server or were told to, with their command lines."""
    told = f"PREFECT_API_URL={server.url}".encode()
    sockets = _sockets("01", remote=_port(server))
    return {
        pid: _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
        for pid in _processes()
        if _session(pid) != server.pid
        and pid != os.getpid()
        and (sockets & _open_sockets(pid) or told in _read(pid, "environ").split(b"\0"))
    }


def _port(server: RunningServer) -> int:
    return urllib.parse.urlsplit(server.url).port or 0


def _sockets(state: str, *, local: int | None = None, remote: int | None = None) -> set[str]:
    """TCP sockets of this machine in that state, by one of their ports, as PID/fd names them."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == state
        and all(port is None or row[column].endswith(f":{port:04X}") for column, port in ((1, local), (2, remote)))
    }


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _open_sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(handle.readlink()))
    return found


def _session(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    """What follows the name of a process: its state, parent, group, session (proc(5): PID/stat)."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _directory(home: Path) -> Path:
    return home / "prefect"


def _last_ports(directory: Path) -> tuple[int, int]:
    try:
        noted = [int(word) for word in (directory / "last_port").read_text().split()]
    except (OSError, ValueError):
        noted = []
    port, pages_port = (*noted, 0, 0)[:2]
    return port, pages_port


def _free_port(wished: int) -> int:
    for port in (wished, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found: int = probe.getsockname()[1]
            return found
    raise PrefectUnreachable(_NO_PORT)


def _only_for_us(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _admins_context() -> ssl.SSLContext:
    """Trusts what Prefect's own client trusts."""
    return ssl.create_default_context(cafile=os.environ.get("PREFECT_API_SSL_CERT_FILE") or None)


def _answers(url: str, context: ssl.SSLContext, seconds: float = ANSWER_SECONDS) -> bool:
    own_machine = urllib.parse.urlsplit(url).hostname == HOST
    ways = [urllib.request.HTTPSHandler(context=context), *([urllib.request.ProxyHandler({})] if own_machine else [])]
    try:
        with urllib.request.build_opener(*ways).open(f"{url}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, urllib.error.URLError, OSError, ValueError) as error:
        # 401 is an answer too: Prefect asks for PREFECT_API_AUTH_STRING itself.
        return isinstance(error, urllib.error.HTTPError) and error.code == 401


def _lives(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], [b"Z"])


def _wait_until(done: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w", opener=open_private) as lock:
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
