"""Measures the engine beside other tools: `.venv/bin/python -m benchmarks.run --help`.

The tools take turns, each run writes into a fresh account, and what arrived is counted on the target's disk. Compare
ratios: seconds belong to one machine at one moment.
"""

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.delay import Distance
from benchmarks.job import PASSWORD, Job, Pass
from benchmarks.peers import MBSYNC_MISSING, PEERS
from benchmarks.servers import CAPABILITIES, forget_mail, two_servers
from benchmarks.shapes import SHAPES, Seeded, fill
from tests.servers.dovecot import Dovecot

OURS = "banjia"
MEMORY = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())  # noqa: S108


@dataclass(frozen=True)
class Case:
    """What is measured: one shape at one distance."""

    shape: str
    latency: float
    target: str
    mailboxes: int
    scale: float


@dataclass(frozen=True)
class Outcome:
    """All runs of one tool over one case; `first[i]` and another tool's `first[i]` ran one after the other."""

    case: Case
    tool: str
    holds: Seeded
    first: list[Pass]
    second: list[Pass]


def main(
    shape: Annotated[str, typer.Option(help="Comma separated: " + ", ".join(SHAPES))] = "small",
    latency: Annotated[str, typer.Option(help="Round trips in milliseconds, comma separated.")] = "0,20",
    target: Annotated[str, typer.Option(help="What the target offers: " + ", ".join(CAPABILITIES))] = "full",
    mailboxes: Annotated[int, typer.Option(help="Mailboxes copied at once, each of the whole shape.")] = 1,
    runs: Annotated[int, typer.Option(help="Runs of each tool.")] = 5,
    peers: Annotated[str, typer.Option(help="Comma separated, or nothing: " + ", ".join(PEERS))] = "mbsync",
    scale: Annotated[float, typer.Option(help="Below 1: fewer messages or folders.")] = 1.0,
    second: Annotated[bool, typer.Option(help="Also a second pass, with nothing to do.")] = True,
    mail: Annotated[Path, typer.Option(help="Where the servers keep mail; in memory no disk is measured.")] = MEMORY,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every single run there.")] = None,
    profile: Annotated[bool, typer.Option(help="Afterwards, one run of the engine under cProfile.")] = False,
) -> None:
    """Copy mailboxes between two local servers at a given distance, with the engine and with its peers in turn."""
    tools = [OURS, *_words(peers)]
    if "mbsync" in tools and shutil.which("mbsync") is None:
        raise SystemExit(MBSYNC_MISSING)
    for names, known in ((_words(shape), SHAPES), (_words(peers), PEERS), ([target], CAPABILITIES)):
        if unknown := set(names) - set(known):
            raise SystemExit(f"unknown: {', '.join(unknown)}; there is {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped as after Ctrl-C
    console = Console(width=132)
    console.print(f"{platform.python_version()} on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    outcomes: list[Outcome] = []
    for name in _words(shape):
        cases = [Case(name, float(ms), target, mailboxes, scale) for ms in _words(latency)]
        for found in _measure(cases, tools, mail, runs, second, profile):
            outcomes += found
            console.print(_table(found))
    if json_file:
        json_file.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _measure(
    cases: list[Case], tools: list[str], mail: Path, runs: int, second: bool, profile: bool
) -> Iterator[list[Outcome]]:
    """Seed one source, then run case after case on it."""
    shape, mailboxes = cases[0].shape, cases[0].mailboxes
    sources = [f"source{number}" for number in range(mailboxes)]
    fresh = [f"target{number}" for number in range(mailboxes * len(cases) * (runs * len(tools) + profile))]
    with two_servers(cases[0].target, mail, sources, fresh) as (source, target):
        holds = [fill(source, user, PASSWORD, SHAPES[shape], cases[0].scale) for user in sources]
        total = Seeded(sum(each.messages for each in holds), sum(each.octets for each in holds))
        for case in cases:
            bench = _Bench(source, target, dict(zip(sources, holds, strict=True)), fresh)
            first: dict[str, list[Pass]] = {tool: [] for tool in tools}
            again: dict[str, list[Pass]] = {tool: [] for tool in tools}
            with bench.at_distance(case.latency):
                for _ in range(runs):
                    for tool in tools:
                        passes = bench.run(tool, 2 if second and tool != "naive" else 1)
                        first[tool].append(passes[0])
                        again[tool] += passes[1:]
                if profile:
                    bench.run(OURS, 1, profile=True)
            yield [Outcome(case, tool, total, first[tool], again[tool]) for tool in tools]


class _Bench:
    """Two filled servers and what is left of the fresh target accounts."""

    def __init__(self, source: Dovecot, target: Dovecot, holds: dict[str, Seeded], fresh: list[str]) -> None:
        self._source = source
        self._target = target
        self._holds = holds
        self._fresh = fresh
        self._distance: Distance | None = None

    @contextmanager
    def at_distance(self, milliseconds: float) -> Iterator[None]:
        """Keep the servers that far away; at 0 nothing stands between."""
        ports = [self._source.port, self._target.port]
        with Distance(milliseconds, ports) if milliseconds else nullcontext() as self._distance:
            yield

    def run(self, tool: str, passes: int, *, profile: bool = False) -> list[Pass]:
        """Run a tool in a process of its own and check what has arrived after each pass."""
        users = [self._fresh.pop() for _ in self._holds]
        from_port, to_port = self._distance.ports if self._distance else [self._source.port, self._target.port]
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            job = Job(tool, from_port, to_port, list(zip(self._holds, users, strict=True)), scratch, profile)
            module = "benchmarks.engine" if tool == OURS else "benchmarks.peers"
            with subprocess.Popen(
                [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                try:
                    found = [
                        self._pass(process, line, users)
                        for line in [json.dumps(asdict(job)) + "\n\n"] + ["\n"] * (passes - 1)
                    ]
                except BaseException:
                    process.kill()
                    raise
        for user in users:
            forget_mail(self._target, user)
        return found

    def _pass(self, process: "subprocess.Popen[str]", line: str, users: list[str]) -> Pass:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("started with pipes")
        before = self._round_trips()
        process.stdin.write(line)
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"the tool ended without an answer: {process.args!r}")
        found = Pass(**json.loads(answer))
        expected = [each.messages for each in self._holds.values()]
        arrived = [self._target.message_count(user) for user in users]
        if arrived != expected or found.messages not in (0, sum(expected)):
            raise SystemExit(
                f"{expected} messages at the source, {arrived} arrived, {found.messages} counted by the tool"
            )
        return replace(found, round_trips=self._round_trips() - before)

    def _round_trips(self) -> int:
        return sum(each.round_trips for each in self._distance.traffic()) if self._distance else 0


def median_ratio(ours: list[Pass], theirs: list[Pass]) -> float:
    """How many times as long the peer takes, run by run; above 1 the engine is faster."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))


def _table(outcomes: list[Outcome]) -> Table:
    case, holds, ours = outcomes[0].case, outcomes[0].holds, outcomes[0]
    table = Table(
        title=f"{case.shape}: {case.mailboxes} x, together {holds.messages:,} messages, {holds.octets / 1e6:.0f} MB; "
        f"{case.latency:g} ms, {case.target} target; medians of {len(ours.first)}",
        title_justify="left",
    )
    for column in ("", "first s", "range", "peer/ours", "mails/s", "MB/s", "CPU s", "peak MB", "trips"):
        table.add_column(column, justify="right")
    for column in ("ledger B", "second s", "peer/ours", "trips"):
        table.add_column(column, justify="right")
    for each in outcomes:
        seconds = [one.seconds for one in each.first]
        middle = statistics.median(seconds)
        ledger = each.first[-1].ledger_bytes
        table.add_row(
            each.tool,
            f"{middle:.2f}",
            f"{min(seconds):.2f}-{max(seconds):.2f}",
            "" if each is ours else f"{median_ratio(ours.first, each.first):.2f}",
            f"{holds.messages / middle:,.0f}",
            f"{holds.octets / middle / 1e6:.1f}",
            f"{statistics.median(one.cpu_seconds for one in each.first):.2f}",
            f"{statistics.median(one.peak_bytes for one in each.first) / 1e6:.0f}",
            _count(each.first),
            f"{ledger / holds.messages:.0f}" if ledger else "",
            f"{statistics.median(one.seconds for one in each.second):.2f}" if each.second else "",
            "" if each is ours or not each.second else f"{median_ratio(ours.second, each.second):.2f}",
            _count(each.second),
        )
    return table


def _count(passes: list[Pass]) -> str:
    trips = statistics.median(one.round_trips for one in passes) if passes else 0
    return f"{trips:,.0f}" if trips else ""


if __name__ == "__main__":
    typer.run(main)
