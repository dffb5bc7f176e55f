"""The command line in this process, and as a process of its own where signals or Prefect are needed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tasks.prefect_server import ensure_server
from tests.servers.prefect_api import PrefectApi
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Office, opened_office
from tests.tasks.prefect_home import end_prefect, prefect_home

PROGRAM = Path(sys.executable).with_name("banjia")
LONGEST_RUN = 300.0


@dataclass(frozen=True)
class Ended:
    """What one command left."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """All of stdout as one JSON document."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.stdout[-4000:]}\n--- stderr\n{self.stderr[-4000:]}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, a working directory without a banjia.toml, and a terminal that speaks English."""
    forget_everything()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("BANJIA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BANJIA_LANGUAGE", "en")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    yield tmp_path / "home"
    forget_everything()


@pytest.fixture
def office() -> Iterator[Office]:
    with opened_office() as found:
        yield found


class CommandLine:
    """`banjia` in this process."""

    def __call__(self, *arguments: str | Path) -> Ended:
        from console.cli import app

        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), (result.exception, result.output)
        return Ended(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def banjia(home: Path) -> CommandLine:
    return CommandLine()


class Program:
    """`banjia` as processes, with a Prefect server that the tests share."""

    def __init__(self, home: Path, directory: Path, prefect: PrefectApi) -> None:
        self.home = home
        self._directory = directory
        self._prefect = prefect
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its output goes to files, which fill no pipe."""
        number = len(self._started)
        with (
            (self._directory / f"{number}.stdout").open("w") as stdout,
            (self._directory / f"{number}.stderr").open("w") as stderr,
        ):
            process = subprocess.Popen(
                [PROGRAM, *arguments],
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **self._prefect.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                text=True,
            )
        self._started.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        """What a command has written to stderr until now."""
        return (self._directory / f"{self._started.index(process)}.stderr").read_text()

    def end(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for the end of a command."""
        number = self._started.index(process)
        try:
            process.wait(LONGEST_RUN)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # where its threads are goes to stderr
            process.wait()
        finally:
            self.close(process)
        texts = [(self._directory / f"{number}.{kind}").read_text() for kind in ("stdout", "stderr")]
        return Ended(process.returncode, *texts)

    def run(self, *arguments: str | Path, **environment: str) -> Ended:
        return self.end(self.start(*arguments, **environment))

    def flow_run(self, run_id: str) -> dict[str, Any]:
        """A run as Prefect's server knows it."""
        found: dict[str, Any] = self._prefect.ask(f"flow_runs/{run_id}")
        return found

    def close(self, *processes: subprocess.Popen[str]) -> None:
        for process in processes or self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def prefect() -> Iterator[PrefectApi]:
    # Not only looked at: a busy machine may keep it from answering at once.
    ensure_server(prefect_home())
    yield PrefectApi(prefect_home() / "prefect")
    end_prefect()


@pytest.fixture
def program(home: Path, tmp_path: Path, prefect: PrefectApi) -> Iterator[Program]:
    (tmp_path / "output").mkdir()
    program = Program(home, tmp_path / "output", prefect)
    yield program
    program.close()
