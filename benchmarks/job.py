"""What a benchmark asks of a tool, and what the tool's process answers.

A tool runs in a process of its own, so that its memory and processor time are its own too. It reads the job as the
first line of its input; every further line starts one pass, and one line comes out when the pass has ended.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

PASSWORD = "benchmark"  # noqa: S105  (of throw-away accounts on loopback)
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Job:
    """Mailboxes to copy: pairs of a source and a target user."""

    tool: str
    source_port: int
    target_port: int
    pairs: list[tuple[str, str]]
    at_once: int
    """How many mailboxes are copied at the same time."""
    scratch: str
    """A fresh directory for what the tool remembers between passes."""
    profile: bool = False


@dataclass
class Traffic:
    """What has gone through to one side."""

    connections: int = 0
    round_trips: int = 0
    """How often a connection spoke after it had heard something."""
    up: int = 0
    """Octets from the client to the server."""
    down: int = 0

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(
            self.connections - before.connections,
            self.round_trips - before.round_trips,
            self.up - before.up,
            self.down - before.down,
        )


@dataclass(frozen=True)
class Wire:
    """What has gone through to both sides, as the proxy between has counted it."""

    source: Traffic
    target: Traffic
    in_a_row: int = 0
    """Round trips that had to wait for each other, whichever connection they were on: the least time that the pass can
    take, in units of the distance. Opening a connection counts as the two that it takes until the greeting."""

    def __sub__(self, before: "Wire") -> "Wire":
        return Wire(self.source - before.source, self.target - before.target, self.in_a_row - before.in_a_row)

    @property
    def round_trips(self) -> int:
        """The round trips of both sides together."""
        return self.source.round_trips + self.target.round_trips

    @property
    def longer_side(self) -> int:
        """The round trips of the side that has more of them: the sides may work at the same time."""
        return max(self.source.round_trips, self.target.round_trips)

    @property
    def octets(self) -> int:
        """Octets in both directions of both sides."""
        return sum(side.up + side.down for side in (self.source, self.target))


@dataclass(frozen=True)
class Pass:
    """One pass over all mailboxes of a job."""

    seconds: float
    cpu_seconds: float
    """Processor time of the client: the tool's process, without the servers."""
    peak_bytes: int
    """The largest resident set of the process so far."""
    messages: int = 0
    """Messages that the tool itself says it has moved; 0 when it does not count."""
    octets: int = 0
    ledger_bytes: int = 0
    wire: Wire | None = None
    """None when nothing stood between to count."""


def answer(run_pass: Callable[[], Pass]) -> None:
    """Run a pass for every line of input until the input ends."""
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(asdict(run_pass())) + "\n")
        sys.stdout.flush()


def read_job() -> Job:
    """Read the job from the first line of input."""
    values = json.loads(sys.stdin.readline())
    values["pairs"] = [(source, target) for source, target in values["pairs"]]
    return Job(**values)


@contextmanager
def stopwatch(who: int = resource.RUSAGE_SELF) -> Iterator[Callable[[], tuple[float, float]]]:
    """Measure wall and processor seconds of the body: `with stopwatch() as spent: ...`, then `spent()`."""
    cpu_before, before = _cpu(who), time.perf_counter()
    measured: list[tuple[float, float]] = []
    yield lambda: measured[0]
    measured.append((time.perf_counter() - before, _cpu(who) - cpu_before))


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def peak_bytes(process: int | None = None) -> int:
    """Largest resident set of a process (default: this one); ru_maxrss would begin with that of its parent."""
    status = Path(f"/proc/{process or 'self'}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024
