"""The program as an admin's script meets it: command line, exit codes, JSON, files. Nothing of it is imported."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.dovecot import Dovecot, wait_until
from tests.servers.prefect_api import PrefectApi
from tests.servers.secrets_scan import ArgumentWatch, find_secrets

PROGRAM = Path(sys.executable).with_name("banjia")
LONGEST_RUN = 900.0

ALL_DONE, UNEXPECTED, PARTIAL, ROSTER_REFUSED = 0, 1, 3, 4

COLUMNS = (
    *("EmailAddress", "UserName", "Password", "SourceHost", "SourcePort", "SourceSecurity"),
    *("TargetHost", "TargetPort", "TargetSecurity", "TargetUserName", "TargetPassword"),
)
Row = dict[str, str]


def roster_row(email: str, source: Dovecot, target: Dovecot, **instead: str) -> Row:
    """Make the roster's row that moves a user between two of our servers; `instead` replaces columns."""
    return {
        "EmailAddress": email,
        "UserName": email,
        "Password": source.users[email].password,
        "SourceHost": source.host,
        "SourcePort": str(source.port),
        "SourceSecurity": "plain",
        "TargetHost": target.host,
        "TargetPort": str(target.port),
        "TargetSecurity": "plain",
        "TargetUserName": email,
        "TargetPassword": target.users[email].password,
        **instead,
    }


def write_roster(path: Path, rows: Iterable[Row], *, delimiter: str = ",", encoding: str = "utf-8-sig") -> Path:
    """Write a roster as a spreadsheet program does."""
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass(frozen=True)
class Run:
    """What one call of the program left."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON document on stdout."""
        try:
            document: dict[str, Any] = json.loads(self.stdout)
        except json.JSONDecodeError as error:
            raise AssertionError(f"stdout is not one JSON document ({error}): {self}") from error
        return document

    @property
    def members(self) -> dict[str, dict[str, Any]]:
        """The result's members by address."""
        return {member["email"]: member for member in self.result["members"]}

    def report(self, kind: str) -> str:
        """The text of the report as `html`, `csv` or `json`."""
        return Path(self.result["report"][kind]).read_text(encoding="utf-8-sig")

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.stdout[-6000:]}\n--- stderr\n{self.stderr[-6000:]}"


class Banjia:
    """The installed program with a home of its own; with a `neighbour`, at the Prefect server of that one."""

    def __init__(self, directory: Path, authority: bytes, neighbour: "Banjia | None" = None) -> None:
        if not PROGRAM.exists():
            pytest.fail(f"{PROGRAM} is not installed: run make setup", pytrace=False)
        self.directory = directory
        self.home = directory / "home"
        self.reports = directory / "reports"
        for folder in (self.home, self.reports, directory / "user", directory / "output"):
            folder.mkdir(parents=True, exist_ok=True)
        (directory / "authority.pem").write_bytes(authority)
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory / "user"),
            "LANG": "C.UTF-8",
            "COLUMNS": "400",  # so that no table folds its words
            "BANJIA_HOME": str(self.home),
            "BANJIA_CA_FILE": str(directory / "authority.pem"),
        }
        if neighbour:
            self._environment |= neighbour.prefect.environment
        self._neighbour = neighbour
        self._secrets: set[str] = set()
        self._runs = 0

    @property
    def prefect(self) -> PrefectApi:
        """The server of its own, once it runs."""
        return PrefectApi(self.home / "prefect")

    def migrate(self, roster: Path, *, as_json: bool = True) -> Run:
        """Move a roster's members and wait for the end."""
        return self.start_migrate(roster, as_json=as_json).wait()

    def start_migrate(self, roster: Path, *, as_json: bool = True, **environment: str) -> "Started":
        arguments = ["migrate", str(roster), "--wave", "first", "--report", str(self.reports)]
        return self.start([*arguments, "--json"] if as_json else arguments, **environment)

    def start(self, arguments: Sequence[str], **environment: str) -> "Started":
        """Start the program; its output goes to files, which fill no pipe."""
        self._runs += 1
        environment = self._environment | environment
        return Started(arguments, environment, self.directory / "output" / f"{self._runs}", self._secrets)

    def keep_secret(self, *servers: Dovecot) -> None:
        """Name the servers whose users' passwords may appear nowhere."""
        self._secrets |= {user.password for server in servers for user in server.users.values()}

    def keep_secret_too(self, *passwords: str) -> None:
        self._secrets |= set(passwords)

    def close(self) -> None:
        """Stop what the program left running; fail when something stays that `prefect stop` should have ended."""
        run = self.start(["prefect", "stop"]).wait()
        try:
            wait_until(lambda: not self._left_running(), "banjia prefect stop to take effect")
        except TimeoutError as error:
            left = self._left_running()
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            raise AssertionError(f"{error}; still there: {left}\n{run}") from error
        assert run.code == 0, f"banjia prefect stop: {run}"

    def assert_nothing_runs(self) -> None:
        """No process works for this home any more: none of the runs has left one that goes on."""
        try:
            wait_until(lambda: not self._left_running(), "the runs' processes to be gone")
        except TimeoutError as error:
            raise AssertionError(f"{error}; still there: {self._left_running()}") from error
        finally:
            self.kill_everything()

    def kill_everything(self) -> None:
        """`kill -9` every process that works for this home, Prefect's server among them."""
        while left := self._left_running():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def assert_no_secret_was_written(self) -> None:
        """Search all that the program wrote: home with its databases and logs, reports, output, the user's home."""
        assert self._secrets, "no secret to look for"
        places = [self.home, self.reports, self.directory / "output", self.directory / "user"]
        if self._neighbour:
            places.append(self._neighbour.home)
        hits = find_secrets(self._secrets, places)
        assert not hits, "\n".join(f"{hit.needle!r} as {hit.form} in {hit.where}" for hit in hits[:20])

    def _left_running(self) -> dict[int, str]:
        """Processes that still work for this home."""
        mark = f"BANJIA_HOME={self.home}\0".encode()
        return {process: line for process, line in _processes().items() if mark in _read(process, "environ")}


class Started:
    """The running program, watched for secrets in the arguments of any process."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: Path, secrets: Iterable[str]
    ) -> None:
        self._output = output
        self._watch = ArgumentWatch(secrets)
        self._watch.__enter__()
        with output.with_suffix(".stdout").open("wb") as stdout, output.with_suffix(".stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [PROGRAM, *arguments],
                env=environment,
                cwd=output.parent,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> Run:
        """Wait for the end; a run that does not end is killed and fails."""
        try:
            self.process.wait(LONGEST_RUN)
        except subprocess.TimeoutExpired:
            self.kill(everything=True)
            raise AssertionError(f"no end after {LONGEST_RUN:g} s: {self._run()}") from None
        return self._finish()

    def kill(self, *, everything: bool) -> Run:
        """`kill -9` the program and its process group; with `everything` also children that left the group."""
        children = _descendants(self.process.pid) if everything else []
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.wait()
        return self._finish()

    def _finish(self) -> Run:
        self._watch.__exit__(None, None, None)
        assert not self._watch.hits, f"secrets in process arguments: {self._watch.hits}"
        return self._run()

    def _run(self) -> Run:
        texts = [self._output.with_suffix(suffix).read_text(errors="replace") for suffix in (".stdout", ".stderr")]
        return Run(self.process.returncode, *texts)


def _read(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return b""


def _processes() -> dict[int, str]:
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {number: _read(number, "cmdline").replace(b"\0", b" ").decode(errors="replace") for number in numbers}


def _descendants(process: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for number in _processes():
        # The second field is the name in brackets, which may hold anything; the parent is the second after it.
        fields = _read(number, "stat").rpartition(b")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(number)
    found = list(children.get(process, []))
    for child in found:
        found += children.get(child, [])
    return found
