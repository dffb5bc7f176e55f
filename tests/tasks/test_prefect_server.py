"""Our own Prefect server: started once, found again, ended, and started anew after a crash."""

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from models.private_files import NotPrivate
from tasks import prefect_access, prefect_server
from tasks.prefect_access import make_access, read_access
from tasks.prefect_server import (
    PrefectUnreachable,
    RunningServer,
    dangers,
    ensure_server,
    is_up,
    open_server,
    running_server,
    sign_in_link,
    stop_server,
    use_prefect,
)
from tests.servers.dovecot import wait_until
from tests.servers.secrets_scan import find_secrets
from tests.tasks.prefect_home import fresh_settings

SET_BY_US = (
    *prefect_server.CLIENT_ENVIRONMENT,
    *("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_SSL_CERT_FILE"),
    *("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED", "NO_PROXY", "no_proxy"),
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What use_prefect sets is undone afterwards."""
    for name in SET_BY_US:
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)


@pytest.mark.prefect
def test_a_server_is_used_again_replaced_after_a_crash_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, because a start costs seconds."""
    try:
        first = ensure_server(tmp_path)
        link = sign_in_link(tmp_path, first)
        # It may be slow to answer while it goes about its first work.
        wait_until(lambda: running_server(tmp_path) == first, "the server to answer")
        assert ensure_server(tmp_path) == first
        assert use_prefect(tmp_path) == first.url == os.environ["PREFECT_API_URL"]

        os.killpg(first.pid, signal.SIGKILL)
        os.waitpid(first.pid, 0)
        assert running_server(tmp_path) is None
        monkeypatch.delenv("PREFECT_API_URL")
        second = ensure_server(tmp_path)
        assert second.pid != first.pid
        assert sign_in_link(tmp_path, second).partition("#")[2] != link.partition("#")[2], "the old link is void"
        assert use_prefect(tmp_path) == second.url
    finally:
        stopped = stop_server(tmp_path)
    assert stopped
    assert running_server(tmp_path) is None
    assert not stop_server(tmp_path)
    assert (tmp_path / "prefect" / "prefect.db").exists(), "its history stays"
    folder = tmp_path / "prefect"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("server_secret", "server_key.pem", "server_certificate.pem", "pages_password", "server.log"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert not find_secrets([read_access(folder).secret], [folder / "server.log", folder / "prefect.db"])


def test_a_server_of_the_admin_s_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none of our own is started instead."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with pytest.raises(PrefectUnreachable, match=r"127\.0\.0\.1:1/api \(PREFECT_API_URL\) does not answer"):
        use_prefect(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_of_the_admin_s_that_is_busy_is_waited_for_longer_than_one_of_ours_that_may_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def answer_late(_opener: object, _url: str, timeout: float) -> object:
        waited.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", answer_late)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with pytest.raises(PrefectUnreachable):
        use_prefect(tmp_path)
    assert waited == [prefect_server.BUSY_SECONDS]


def test_a_server_that_does_not_start_points_to_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PrefectUnreachable, match=r"server\.log"):
        ensure_server(tmp_path)
    assert running_server(tmp_path) is None


@pytest.mark.parametrize("noted", ["", "{}", "no JSON", '{"pid": "x", "url": "y"}', '{"pid": 1}'])
def test_a_note_that_cannot_be_read_is_no_server(tmp_path: Path, noted: str) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "server.json").write_text(noted)
    assert running_server(tmp_path) is None
    assert not stop_server(tmp_path)


def test_another_program_that_got_the_number_of_our_server_is_not_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True) as stranger:
        (tmp_path / "prefect").mkdir()
        note = f'{{"pid": {stranger.pid}, "url": "http://127.0.0.1:1/api"}}'
        (tmp_path / "prefect" / "server.json").write_text(note)
        assert running_server(tmp_path) is None
        assert not stop_server(tmp_path)
        assert stranger.poll() is None


def test_no_process_of_ours_calls_home_or_runs_a_server_that_forgets() -> None:
    assert prefect_server.CLIENT_ENVIRONMENT["DO_NOT_TRACK"] == "1"
    assert prefect_server.CLIENT_ENVIRONMENT["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert prefect_server.CLIENT_ENVIRONMENT["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"


def test_a_server_that_answers_late_is_waited_for_and_not_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = iter([False, False, True, True])
    monkeypatch.setattr(prefect_server, "_noted_server", lambda home: RunningServer(1, "https://127.0.0.1:1/api", ""))
    monkeypatch.setattr(prefect_server, "_is_there", lambda server: True)
    monkeypatch.setattr(prefect_server, "_answers", lambda url, context: next(late))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert ensure_server(tmp_path).pid == 1


@pytest.fixture
def older(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process as an older version started Prefect's server, without a password, and its note."""
    listening = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "kept = []\nwhile True: kept.append(s.accept())"
    )
    command = [sys.executable, "-c", listening, "prefect", "server", "start"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        url = f"http://127.0.0.1:{int(process.stdout.readline())}/api"
        (tmp_path / "prefect").mkdir()
        (tmp_path / "prefect" / "server.json").write_text(json.dumps({"pid": process.pid, "url": url}))
        yield process
        process.kill()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """What would be started in its place."""
    anew = RunningServer(1, "https://127.0.0.1:1/api", "http://127.0.0.1:2")
    monkeypatch.setattr(prefect_server, "_start", lambda directory, access: anew)
    return anew


def test_the_server_of_an_older_version_that_has_no_password_is_ended_and_replaced(
    tmp_path: Path, older: "subprocess.Popen[str]", started: RunningServer
) -> None:
    assert running_server(tmp_path) is None
    assert not is_up(tmp_path)
    found = open_server(tmp_path)
    assert found
    assert found.pid == older.pid
    assert ensure_server(tmp_path) == started
    assert older.wait() != 0
    assert open_server(tmp_path) is None


def test_an_older_server_without_a_password_is_not_ended_under_who_uses_it(
    tmp_path: Path, older: "subprocess.Popen[str]", started: RunningServer
) -> None:
    """A worker has the address in its environment; a run of the same process has a connection."""
    url = json.loads((tmp_path / "prefect" / "server.json").read_text())["url"]
    speaking = f"import socket; s = socket.create_connection(('127.0.0.1', {urlsplit(url).port})); input()"
    told_and_speaking = (
        (["/bin/cat"], {**os.environ, "PREFECT_API_URL": url}),
        ([sys.executable, "-c", speaking], dict(os.environ)),
    )
    for command, environment in told_and_speaking:
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as user:
            wait_until(lambda: _is_named(tmp_path, user.pid), "the process to be found")
            user.kill()
        assert older.poll() is None
    assert ensure_server(tmp_path) == started


def _is_named(home: Path, pid: int) -> bool:
    server = open_server(home)
    assert server
    if pid not in prefect_server._users_of(server):
        return False
    with pytest.raises(PrefectUnreachable, match=rf"no password.*kill {pid}"):
        ensure_server(home)
    return True


def test_an_older_server_can_be_stopped(tmp_path: Path, older: "subprocess.Popen[str]") -> None:
    assert stop_server(tmp_path)
    assert older.wait() != 0


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path, started: RunningServer) -> None:
    make_access(tmp_path / "prefect")
    (tmp_path / "prefect" / "server_secret").chmod(0o644)
    with pytest.raises(NotPrivate, match="chmod 600"):
        ensure_server(tmp_path)


def test_secret_and_certificate_stay_and_the_certificate_is_made_anew_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_access(tmp_path)
    certificate = first.certificate.read_bytes()
    assert make_access(tmp_path) == first
    assert first.certificate.read_bytes() == certificate
    assert first.secret not in repr(first)
    monkeypatch.setattr(prefect_access, "_RENEWED_BEFORE", timedelta(days=366 * 10))
    assert make_access(tmp_path).secret == first.secret
    assert first.certificate.read_bytes() != certificate


def test_our_certificate_stands_before_the_strictest_reading(tmp_path: Path) -> None:
    """Python 3.13 reads certificates strictly; whoever has another certificate is not believed."""
    access = make_access(tmp_path)
    for shown, believed in ((access.certificate, True), (make_access(tmp_path / "other").certificate, False)):
        context = access.context()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(shown, shown.with_name("server_key.pem"))
        assert _shake_hands(context, server) is believed


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    """Both sides in memory: whether the client is content with who the server is."""
    ways = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(ways[0], ways[1], server_hostname="127.0.0.1")
    answering = server.wrap_bio(ways[1], ways[0], server_side=True)
    for _ in range(4):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


@pytest.mark.parametrize(
    ("url", "way", "told"),
    [
        ("http://prefect.example/api", {}, ["NO_TLS", "NO_KEY"]),
        ("http://prefect.example/api", {"PREFECT_API_KEY": "pnu_canary"}, ["NO_TLS"]),
        ("https://prefect.example/api", {}, ["NO_KEY"]),
        ("https://prefect.example/api", {"PREFECT_API_AUTH_STRING": "login:canary"}, []),
        ("https://prefect.example/api", {"PREFECT_API_KEY": "pnu_canary"}, []),
        (
            "https://prefect.example/api",
            {"PREFECT_API_KEY": "pnu_canary", "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true"},
            ["NO_TLS"],
        ),
    ],
)
def test_a_server_of_the_admin_s_without_https_or_without_a_key_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, url: str, way: dict[str, str], told: list[str]
) -> None:
    with fresh_settings(monkeypatch, {"PREFECT_API_URL": url} | way):
        assert dangers() == [getattr(prefect_server, name).format(url=url) for name in told]
    assert "canary" not in str(dangers())


@pytest.mark.parametrize(
    ("name", "content", "refused"),
    [
        ("prefect.toml", "[logging]\nconfig_path = '/tmp/x.yml'\n", True),
        (".env", "PREFECT_LOGGING_SETTINGS_PATH=/tmp/x.yml\n", True),
        ("pyproject.toml", "[tool.prefect.logging]\nconfig_path = '/tmp/x.yml'\n", True),
        ("pyproject.toml", "[tool.ruff]\n", False),
    ],
)
def test_settings_for_prefect_that_another_user_may_have_left_here_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: RunningServer, name: str, content: str, refused: bool
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / name).write_text(content)
    make_access(tmp_path / "prefect")
    assert use_prefect(tmp_path) == started.url, "what is ours counts"
    monkeypatch.delenv("PREFECT_API_URL")
    here.chmod(0o777)
    if refused:
        with pytest.raises(PrefectUnreachable, match=rf"{name} does not count"):
            use_prefect(tmp_path)
    else:
        assert use_prefect(tmp_path) == started.url
