"""Our own Prefect server: started once, found again, ended, and started anew after a crash."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tasks import prefect_server
from tasks.prefect_server import (
    PrefectUnreachable,
    RunningServer,
    ensure_server,
    running_server,
    stop_server,
    use_prefect,
)
from tests.servers.dovecot import wait_until

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
        assert use_prefect(tmp_path) == second.url
    finally:
        stopped = stop_server(tmp_path)
    assert stopped
    assert running_server(tmp_path) is None
    assert not stop_server(tmp_path)
    assert (tmp_path / "prefect" / "prefect.db").exists(), "its history stays"


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
