"""What processes cost that are not our own: a command from its start to its end, and a server's session meanwhile."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.job import peak_bytes

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """A command that has ended well."""

    began: datetime
    ended: datetime
    seconds: float
    """Wall time from its start to its end, Python's own start included."""
    cpu_seconds: float
    """Processor time of the process and of those children that it waited for."""
    peak_bytes: int
    """The largest resident set of the process."""
    stdout: str


def run_command(command: Sequence[str | Path], environment: Mapping[str, str], directory: Path) -> Ended:
    """Run a command to its end in a directory; SystemExit with its last words when it fails."""
    # Files fill no pipe, and leave nothing to do while the command runs.
    out, err = directory / "stdout", directory / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        began, before = datetime.now(UTC), time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds, ended = time.perf_counter() - before, datetime.now(UTC)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = (out.read_text(errors="replace") + err.read_text(errors="replace"))[-3000:]
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}\n{said}")
    # Begins with the memory of this process, which is much smaller than any command that is measured here.
    peak = usage.ru_maxrss * 1024
    return Ended(began, ended, seconds, usage.ru_utime + usage.ru_stime, peak, out.read_text(errors="replace"))


def session_cpu_seconds(leader: int) -> float:
    """Processor seconds so far of all processes of a session, and of those that have ended, if the leader waited."""
    # Fields from the state on (proc(5)): 11 and 12 are a process' own time, 13 and 14 that of its ended children.
    ticks = 0
    for process in _session(leader):
        fields = _fields(process)
        ticks += sum(map(int, fields[11:15] if process == leader else fields[11:13]))
    return ticks / _TICKS


def session_peak_bytes(leader: int) -> int:
    """The largest resident sets of all processes of a session, added up."""
    total = 0
    for process in _session(leader):
        with suppress(FileNotFoundError, ProcessLookupError):
            total += peak_bytes(process)
    return total


def _session(leader: int) -> list[int]:
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [number for number in numbers if _fields(number)[3:4] == [str(leader)]]


def _fields(process: int) -> list[str]:
    """The numbers of /proc/PID/stat after the name, which may hold anything; none when the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
