"""Measures what a wave costs beside its copying: `.venv/bin/python -m benchmarks.wave --help`.

The same mailboxes are copied twice: by the engine alone, in one process, and by `banjia migrate`, with a roster, a home
and a Prefect server of its own. What the second takes longer is the price of roster, vault, states, Prefect, display
and report. Prefect's server is started before, and its start is shown but not counted: it stays up. With one large
mailbox it shows what all processes take of memory.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlmodel import col, func, select

from benchmarks.bench import MEMORY, OURS, Bench
from benchmarks.job import Pass
from benchmarks.processes import Ended, run_command, session_cpu_seconds, session_peak_bytes
from benchmarks.servers import LeanDovecot, two_servers
from benchmarks.shapes import SHAPES, Seeded, fill
from models.database import open_database, reading
from models.member import Member
from tests.acceptance.command_line import PROGRAM, roster_row, write_roster

GOAL_MS = 60
"""Wall time that a member may cost beside its copying, on two cores."""


@dataclass(frozen=True)
class Moved:
    """One wave by the command, and the same mailboxes by the engine alone. Times are in wall seconds unless told."""

    members: int
    at_once: int
    """Members at the same time, in the wave as in the engine."""
    server_start: float
    """`banjia prefect start`; not part of the wave."""
    wave: float
    """`banjia migrate`, from its start to its end."""
    wave_cpu: float
    """Processor seconds of that process."""
    wave_peak_bytes: int
    before: float
    """From the command's start until the first member was begun: Python, roster, vault, flow."""
    moving: float
    """From there until the last member was through."""
    after: float
    """From there to the command's end: report, Prefect's last words."""
    report: float
    """`banjia wave report` as a command of its own, Python's start included."""
    server_cpu: float
    """Processor seconds of Prefect's server during the wave."""
    server_peak_bytes: int
    copying: float
    """The engine alone over the same mailboxes."""
    copying_cpu: float
    """Processor seconds of the engine's process."""
    copying_peak_bytes: int

    @property
    def beside_ms(self) -> float:
        """Milliseconds a member that the wave takes longer than the copying itself."""
        return (self.wave - self.copying) * 1000 / self.members

    @property
    def beside_cpu_ms(self) -> float:
        """Processor milliseconds a member beside the copying, of the command and of Prefect's server."""
        return (self.wave_cpu + self.server_cpu - self.copying_cpu) * 1000 / self.members


def main(
    members: Annotated[int, typer.Option(help="Mailboxes in the wave.")] = 1000,
    messages: Annotated[int, typer.Option(help="Messages in each.")] = 5,
    shape: Annotated[str, typer.Option(help=f"Kind of mailbox: {', '.join(SHAPES)}.")] = "tiny",
    at_once: Annotated[int, typer.Option(help="Members moved at the same time.")] = 8,
    runs: Annotated[int, typer.Option(help="Waves, each into fresh mailboxes.")] = 1,
    mail: Annotated[Path, typer.Option(help="Where the servers keep mail; in memory no disk is measured.")] = MEMORY,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every single run there.")] = None,
) -> None:
    """Move a wave of tiny mailboxes with the command line, and the same mailboxes with the engine alone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped as after Ctrl-C
    users = [f"member{number:04d}@example.com" for number in range(members)]
    alone = [f"alone{number}" for number in range(members * runs)]
    console = Console(width=100)
    kind = SHAPES[shape]
    found = []
    with two_servers("full", mail, users, [*users, *alone]) as (source, target):
        # In another process: what this one takes of memory would be counted as the command's.
        with ProcessPoolExecutor(1) as pool:
            filled = [pool.submit(fill, source.maildir(user), user, kind, messages / kind.messages) for user in users]
            holds = {user: each.result() for user, each in zip(users, filled, strict=True)}
        source.index()
        bench = Bench(source, target, holds, alone)
        for _ in range(runs):
            copying = bench.run(OURS, 1, at_once=at_once)[0]
            found.append(_move(source, target, holds, at_once, copying))
            for user in users:
                target.forget_mail(user)
    console.print(_table(found, messages))
    if json_file:
        json_file.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


def _move(source: LeanDovecot, target: LeanDovecot, holds: Mapping[str, Seeded], at_once: int, copying: Pass) -> Moved:
    with _home(at_once) as (directory, environment):
        roster = write_roster(directory / "roster.csv", [roster_row(user, source, target) for user in holds])

        def banjia(*arguments: str | Path) -> Ended:
            return run_command([PROGRAM, *arguments, "--json"], environment, directory)

        started = banjia("prefect", "start")
        server = int(json.loads(started.stdout)["pid"])
        before = session_cpu_seconds(server)
        wave = banjia("migrate", roster, "--wave", "first")
        server_cpu, server_peak = session_cpu_seconds(server) - before, session_peak_bytes(server)
        first, last = _first_and_last(Path(environment["BANJIA_HOME"]) / "banjia.sqlite")
        report = banjia("wave", "report", "first")
    expected = sum(each.messages for each in holds.values())
    if (arrived := target.message_count(*holds)) != expected:
        raise SystemExit(f"{expected} messages at the source, {arrived} arrived")
    return Moved(
        members=len(holds),
        at_once=at_once,
        server_start=started.seconds,
        wave=wave.seconds,
        wave_cpu=wave.cpu_seconds,
        wave_peak_bytes=wave.peak_bytes,
        before=(first - wave.began).total_seconds(),
        moving=(last - first).total_seconds(),
        after=(wave.ended - last).total_seconds(),
        report=report.seconds,
        server_cpu=server_cpu,
        server_peak_bytes=server_peak,
        copying=copying.seconds,
        copying_cpu=copying.cpu_seconds,
        copying_peak_bytes=copying.peak_bytes,
    )


@contextmanager
def _home(at_once: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """A fresh home for the program; the Prefect server that it leaves running is stopped."""
    with tempfile.TemporaryDirectory(prefix="bench-wave-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": name,
            "LANG": "C.UTF-8",
            "BANJIA_HOME": str(directory / "home"),
            "BANJIA_MEMBERS_AT_ONCE": str(at_once),
            "BANJIA_HOST_CONNECTIONS": str(at_once),
            "BANJIA_TARGET_CONNECTIONS": str(at_once),
        }
        try:
            yield directory, environment
        finally:
            run_command([PROGRAM, "prefect", "stop"], environment, directory)


def _first_and_last(database: Path) -> tuple[datetime, datetime]:
    """When the first member was begun, and when the last one was through."""
    engine = open_database(f"sqlite:///{database}")
    with reading(engine) as session:
        first, last = session.exec(select(func.min(col(Member.started_at)), func.max(col(Member.finished_at)))).one()
    engine.dispose()
    if first is None or last is None:
        raise SystemExit("no member was moved")
    return first, last


def _table(found: list[Moved], messages: int) -> Table:
    """One line a measure, one column a run; with several runs, the medians too."""
    one = found[0]
    table = Table(
        title=f"{one.members:,} members of {messages} messages, {one.at_once} at once; 0 ms; {os.cpu_count()} cores",
        title_justify="left",
    )
    table.add_column("")
    names = [f"run {number}" for number in range(1, len(found) + 1)] if len(found) > 1 else ["run"]
    for name in [*names, "median"] if len(found) > 1 else names:
        table.add_column(name, justify="right")

    def line(name: str, value: Callable[[Moved], float], digits: int) -> None:
        values = [value(each) for each in found]
        if len(found) > 1:
            values.append(statistics.median(values))
        table.add_row(name, *(f"{value:,.{digits}f}" for value in values))

    line("wave, wall ms a member", lambda each: each.wave * 1000 / each.members, 1)
    line("copying alone, wall ms a member", lambda each: each.copying * 1000 / each.members, 1)
    line(f"difference, wall ms a member (goal: {GOAL_MS})", lambda each: each.beside_ms, 1)
    line("difference, processor ms a member, with Prefect's server", lambda each: each.beside_cpu_ms, 1)
    table.add_section()
    line("wave, wall s", lambda each: each.wave, 1)
    line("  until the first member", lambda each: each.before, 1)
    line("  members", lambda each: each.moving, 1)
    line("  after the last member, with the report", lambda each: each.after, 1)
    line("copying alone, wall s", lambda each: each.copying, 1)
    line("report as a command of its own, wall s", lambda each: each.report, 1)
    line("start of Prefect's server, wall s (not in the wave)", lambda each: each.server_start, 1)
    table.add_section()
    line("processor s: wave", lambda each: each.wave_cpu, 1)
    line("processor s: Prefect's server meanwhile", lambda each: each.server_cpu, 1)
    line("processor s: copying alone", lambda each: each.copying_cpu, 1)
    line("peak MB: wave", lambda each: each.wave_peak_bytes / 1e6, 0)
    line("peak MB: Prefect's server", lambda each: each.server_peak_bytes / 1e6, 0)
    line("peak MB: copying alone", lambda each: each.copying_peak_bytes / 1e6, 0)
    return table


if __name__ == "__main__":
    typer.run(main)
