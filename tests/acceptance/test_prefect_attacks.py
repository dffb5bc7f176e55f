"""Our Prefect server and who else is on the machine: other users, and pages in the admin's browser."""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets import ConnectionClosed, InvalidStatus, Subprotocol
from websockets.sync.client import connect

from tests.acceptance.attackers import NOBODY, PAGE, intrude, squat
from tests.acceptance.command_line import ALL_DONE, Banjia, Started
from tests.servers.certificates import Authority, self_signed
from tests.servers.chromium import Chromium
from tests.servers.dovecot import wait_until
from tests.servers.prefect_api import PrefectApi
from tests.servers.secrets_scan import find_secrets

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user"),
]
UNREACHABLE = 5


@dataclass
class Installation:
    """A home whose way is open to other users of the machine, with a worker at its Prefect server."""

    banjia: Banjia
    worker: Started
    spoils: Path
    """A folder that anybody can write to; a command that is run leaves a file there."""

    @property
    def prefect(self) -> PrefectApi:
        return self.banjia.prefect

    @property
    def command(self) -> str:
        return f"touch {self.spoils / 'executed'}"

    def assert_nothing_was_started(self) -> None:
        for kind in ("flows", "flow_runs", "deployments"):
            found = self.prefect.ask(f"{kind}/filter", {})
            assert found == [], found
        assert not (self.spoils / "executed").exists()


@pytest.fixture(scope="module")
def installation(authority: Authority) -> Iterator[Installation]:
    """A pool as an older version left it, which let a run bring a command along; then the worker."""
    directory = Path(tempfile.mkdtemp(prefix="banjia-attacked-"))
    spoils = directory / "spoils"
    spoils.mkdir()
    for folder, mode in ((directory, 0o755), (spoils, 0o777)):
        folder.chmod(mode)
    banjia = Banjia(directory / "banjia", authority.root)
    started = banjia.start(["prefect", "start", "--json"]).wait()
    assert started.code == ALL_DONE, started
    prefect = banjia.prefect
    template = {
        "job_configuration": {"command": "{{ command }}", "env": "{{ env }}"},
        "variables": {"type": "object", "properties": {"command": {"type": "string"}, "env": {"type": "object"}}},
    }
    prefect.ask("work_pools/", {"name": "banjia", "type": "process", "base_job_template": template})
    worker = banjia.start(["worker"], PREFECT_WORKER_QUERY_SECONDS="1")
    try:
        wait_until(lambda: bool(prefect.ask("work_pools/banjia/workers/filter", {})), "the worker", 300)
        yield Installation(banjia, worker, spoils)
    finally:
        if worker.running:
            worker.kill(everything=True)
        banjia.close()
        shutil.rmtree(directory)


def test_another_user_of_the_machine_gets_nothing_done_and_learns_no_secret(installation: Installation) -> None:
    folder = installation.banjia.home / "prefect"
    pages = f"{installation.prefect.noted['ui']}/api"
    done, seen = intrude(installation.command, [installation.prefect.url, pages], sorted(folder.iterdir()))
    assert len(done) >= 14
    assert set(done.values()) <= {401, 403}, done
    assert not [name for name in seen if name.startswith(str(folder))]
    assert f"/proc/{os.getpid()}/cmdline" in seen, "what everybody may read was read"
    secrets = [installation.prefect.secret.partition(":")[2], (folder / "pages_password").read_text()]
    assert not [name for name, text in seen.items() if any(secret in text for secret in secrets)]
    installation.assert_nothing_was_started()


def test_a_run_that_brings_a_command_along_is_refused(installation: Installation) -> None:
    """Even from somebody who has the secret; and the pool of an older version was put right by the worker."""
    pool = installation.prefect.ask("work_pools/banjia")
    assert pool["base_job_template"]["variables"]["properties"] == {}
    assert set(pool["base_job_template"]["job_configuration"]) == {"stream_output"}
    flow = installation.prefect.ask("flows/", {"name": "insider"})["id"]
    job = {"command": installation.command}
    wanted = {"name": "insider", "flow_id": flow, "work_pool_name": "banjia"}
    with pytest.raises(urllib.error.HTTPError, match=r"422|409|400"):
        installation.prefect.ask("deployments/", {**wanted, "job_variables": job})
    made = installation.prefect.ask("deployments/", wanted)["id"]
    run = {"state": {"type": "SCHEDULED"}, "job_variables": job}
    with pytest.raises(urllib.error.HTTPError, match=r"422|409|400"):
        installation.prefect.ask(f"deployments/{made}/create_flow_run", run)
    installation.prefect.ask(f"flows/{flow}", {}, "DELETE")
    installation.assert_nothing_was_started()


SAYS_WITHOUT_THE_SECRET = {("GET", "/health"), ("GET", "/ready")}
"""What docs/security.md lists; everything else of the API asks for the secret."""


def test_every_route_of_the_api_asks_for_the_secret_but_those_that_say_that_it_is_there(
    installation: Installation,
) -> None:
    paths: dict[str, dict[str, Any]] = installation.prefect.ask("openapi.json")["paths"]
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert len(routes) > 150
    assert set(routes) > SAYS_WITHOUT_THE_SECRET
    routes += [
        (method, path) for method in ("GET", "POST") for path in ("/docs", "/redoc", "/openapi.json", "/static/x")
    ]
    for door in _doors(installation):
        with closing(door):
            said = {(method, path) for method, path in routes if _status(door, method, f"/api{path}") not in (401, 403)}
        assert said == SAYS_WITHOUT_THE_SECRET


def test_outside_the_api_programs_get_nothing_and_browsers_get_pages_without_data(installation: Installation) -> None:
    programs, browsers = _doors(installation)
    shown, closed = ("/", "/v2/", "/ui-settings", "/sign-in"), ("/docs", "/docs/x", "/redoc", "/openapi.json")
    other_names = [("Host", "evil.example"), ("Host", "localhost:1")]
    other_origins = [
        ("Origin", "null"),
        ("Origin", f"http://127.0.0.1:{programs.port}"),
        ("Origin", "http://evil.example"),
    ]
    with closing(programs), closing(browsers):
        assert {_status(programs, "GET", path) for path in (*shown, *closed, "/..%2fapi")} == {404}
        assert {_status(browsers, "GET", path) for path in closed} == {404}
        assert {_status(browsers, "GET", path) for path in shown} == {200}
        for name, value in (*other_names, *other_origins):
            for door in (programs, browsers):
                assert _status(door, "GET", "/api/health", **{name: value}) == 403, value


def test_no_socket_of_the_api_opens_without_the_secret(installation: Installation) -> None:
    routers = Path(str(find_spec("prefect.server.api").submodule_search_locations[0]))
    sockets = [
        prefix + path
        for file in routers.glob("*.py")
        for prefix in re.findall(r'= PrefectRouter\(\s*prefix="([^"]*)"', file.read_text())[:1]
        for path in re.findall(r'@router\.websocket\("([^"]*)"', file.read_text())
    ]
    assert "/events/in" in sockets
    assert len(sockets) >= 5
    context = ssl.create_default_context(cafile=installation.prefect.environment["PREFECT_API_SSL_CERT_FILE"])
    for path in sockets:
        url = f"{installation.prefect.url.replace('http', 'ws')}{path}".format(work_pool_name="banjia")
        for words in ({"type": "auth", "token": "guessed"}, {"type": "auth"}, {"type": "subscribe", "keys": ["x"]}):
            with connect(url, ssl=context, subprotocols=[Subprotocol("prefect")], proxy=None) as socket:
                socket.send(json.dumps(words))
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=60)
        with pytest.raises(InvalidStatus):
            connect(url, ssl=context, proxy=None)
        with pytest.raises(InvalidStatus):
            connect(f"{installation.prefect.noted['ui'].replace('http', 'ws')}/api{path}", proxy=None)


def _doors(installation: Installation) -> tuple[HTTPConnection, HTTPConnection]:
    """The doors of programs and of browsers."""
    context = ssl.create_default_context(cafile=installation.prefect.environment["PREFECT_API_SSL_CERT_FILE"])
    programs, browsers = (urlsplit(installation.prefect.noted[name]).netloc for name in ("url", "ui"))
    return HTTPSConnection(programs, context=context, timeout=60), HTTPConnection(browsers, timeout=60)


def _status(door: HTTPConnection, method: str, path: str, **headers: str) -> int:
    """What a caller without a secret is answered; the names in a path are filled with what might exist."""
    filled = re.sub(r"\{[^}]*\}", str(uuid.UUID(int=1)), path)
    body = None if method == "GET" else b"{}"
    door.request(method, filled, body, {"Content-Type": "application/json", **headers})
    with door.getresponse() as answer:
        answer.read()
        return answer.status


@dataclass
class Elsewhere:
    """Another origin on this machine: it serves the page of an attacker, and notes what browsers send."""

    pages: dict[str, str] = field(default_factory=dict)
    received: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    def body(self, path: str) -> Any:
        return next((json.loads(body) for at, body in self.received if at == path), None)


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    found = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(found.pages.get(self.path, "").encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            found.received.append((self.path, body))
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found.port = server.server_address[1]
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def test_a_page_of_another_origin_in_the_admins_browser_starts_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    """The admin is signed in to Prefect's pages in that browser, by the link; then opens somebody else's page."""
    browser = Chromium(tmp_path / "profile")
    link = installation.banjia.start(["prefect", "link", "--json"]).wait().result["link"]
    shown = browser.text_of(link, tmp_path / "dashboard.png")
    assert "Logout" in shown, shown
    assert "Dashboard" in shown
    assert (tmp_path / "dashboard.png").stat().st_size > 20_000

    ui = installation.prefect.noted["ui"]
    with elsewhere() as page, elsewhere() as recorder:
        recorders = f"http://127.0.0.1:{recorder.port}"
        addresses = [
            [f"{ui}/api", f"{ui}/"],
            [installation.prefect.url, installation.prefect.url],
            [f"{recorders}/api", f"{recorders}/"],
        ]
        page.pages["/"] = PAGE.replace("JOB", json.dumps([addresses, installation.command]))
        with browser.open(f"http://127.0.0.1:{page.port}/") as visiting:
            try:
                wait_until(lambda: page.body("/got") is not None, "the page to have tried everything", 240)
            finally:
                os.killpg(visiting.pid, signal.SIGKILL)
        got = page.body("/got")

    ways = {(path, way) for path, body in recorder.received for way in ("flow_id",) if way in body}
    assert {path for path, _ in ways} == {"/api/flows/", "/api/flow_runs/", "/api/deployments/"}, "the browser did send"
    assert len(recorder.received) >= 9, recorder.received
    for what, came in got:
        kind, address = what.split()
        if address.startswith(recorders):
            continue
        # A request may leave; its answer is not read, no socket opens, and no page of ours shows inside another.
        if kind in ("chain", "read"):
            assert "TypeError" in came, (what, came)
        elif kind in ("socket", "frame"):
            assert came in ("refused", "shown"), (what, came)
    installation.assert_nothing_was_started()


def test_whoever_takes_the_port_of_a_stopped_server_gets_no_secret_and_hands_out_no_work(
    installation: Installation,
) -> None:
    """The last of this module: the server ends, at once another user's listens on its port, and all ask there."""
    way, port = installation.prefect.environment, int(installation.prefect.url.rsplit(":", 1)[1].removesuffix("/api"))
    stranger = self_signed()
    chain, key, heard = (installation.spoils / name for name in ("chain.pem", "key.pem", "heard"))
    for file, content in ((chain, stranger.chain), (key, stranger.key), (heard, b"")):
        file.write_bytes(content)
        os.chown(file, NOBODY, NOBODY)
    os.killpg(installation.prefect.noted["pid"], signal.SIGKILL)
    with squat(port, chain, key, heard):
        ended = installation.worker.wait()
        assert ended.code == UNREACHABLE, ended
        assert "banjia worker" in ended.stderr

        # Prefect's own client, over HTTP and over a WebSocket, as our workers and flow runs use it.
        environment = {"PATH": os.environ["PATH"], "HOME": str(installation.banjia.home), **way}
        for words in (["work-pool", "inspect", "banjia"], ["event", "emit", "hello", "--resource-id", "x"]):
            command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        doctor = installation.banjia.start(["doctor", "--json"], **way).wait()
        assert not doctor.result["prefect"]["ok"], doctor
        told = [json.loads(line) for line in heard.read_text().splitlines()]
    assert len(told) >= 3, told
    assert {kind for kind, _ in told} == {"broken"}, told
    assert not (installation.spoils / "executed").exists()
    secrets = [installation.prefect.secret.partition(":")[2]]
    logs = [installation.banjia.home / "prefect" / "server.log", installation.banjia.directory / "output"]
    assert not find_secrets(secrets, [*logs, installation.banjia.home / "prefect" / "prefect.db"])
