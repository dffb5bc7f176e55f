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
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bench import MEMORY, OURS, Bench
from benchmarks.earlier import checked_out
from benchmarks.job import Pass, Wire
from benchmarks.peers import MBSYNC_MISSING, PEERS
from benchmarks.servers import CAPABILITIES, NO_CAP, two_servers
from benchmarks.shapes import SHAPES, Seeded, fill

WIDTH = 160


@dataclass(frozen=True)
class Case:
    """What is measured: one shape at one distance."""

    shape: str
    latency: float
    """A round trip in milliseconds."""
    target: str
    cap: int
    """Connections that either server allows one account at the same time; 0 is any number."""
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
    cap: Annotated[int, typer.Option(help="Connections an account may have at once on either side; 0: any.")] = NO_CAP,
    mailboxes: Annotated[int, typer.Option(help="Mailboxes copied at once, each of the whole shape.")] = 1,
    runs: Annotated[int, typer.Option(help="Runs of each tool.")] = 5,
    peers: Annotated[str, typer.Option(help="Comma separated, or nothing: " + ", ".join(PEERS))] = "mbsync",
    against: Annotated[str, typer.Option(help="A commit of ours that takes turns with what lies here.")] = "",
    scale: Annotated[float, typer.Option(help="Below 1: fewer messages or folders.")] = 1.0,
    messages: Annotated[int | None, typer.Option(help="In each mailbox, instead of --scale.")] = None,
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
    console = Console(width=WIDTH)
    console.print(f"{platform.python_version()} on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    outcomes: list[Outcome] = []
    with checked_out(against) if against else nullcontext() as other:
        # Next to each other, because a machine is never the same for long.
        earlier = dict([other] if other else [])
        tools[1:1] = earlier
        for name in _words(shape):
            part = messages / SHAPES[name].messages if messages else scale
            cases = [Case(name, float(ms), target, cap, mailboxes, part) for ms in _words(latency)]
            for found in _measure(cases, tools, earlier, mail, runs, second, profile):
                outcomes += found
                console.print(_table(found))
                for line in _compared(found, earlier):
                    console.print(line)
    if json_file:
        json_file.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _measure(
    cases: list[Case],
    tools: list[str],
    earlier: Mapping[str, Path],
    mail: Path,
    runs: int,
    second: bool,
    profile: bool,
) -> Iterator[list[Outcome]]:
    """Seed one source, then run case after case on it."""
    one = cases[0]
    sources = [f"source{number}" for number in range(one.mailboxes)]
    fresh = [f"target{number}" for number in range(one.mailboxes * len(cases) * (runs * len(tools) + profile))]
    with two_servers(one.target, mail, sources, fresh, one.cap) as (source, target):
        holds = {user: fill(source.maildir(user), user, SHAPES[one.shape], one.scale) for user in sources}
        source.index()
        total = Seeded(sum(each.messages for each in holds.values()), sum(each.octets for each in holds.values()))
        bench = Bench(source, target, holds, fresh, earlier)
        for case in cases:
            first: dict[str, list[Pass]] = {tool: [] for tool in tools}
            again: dict[str, list[Pass]] = {tool: [] for tool in tools}
            with bench.at_distance(case.latency):
                for _ in range(runs):
                    for tool in tools:
                        passes = bench.run(tool, 2 if second and tool != "naive" else 1)
                        first[tool].append(passes[0])
                        again[tool] += passes[1:]
                yield [Outcome(case, tool, total, first[tool], again[tool]) for tool in tools]
                if profile:
                    bench.run(OURS, 1, profile=True)


def median_ratio(ours: list[Pass], theirs: list[Pass]) -> float:
    """How many times as long the peer takes, run by run; above 1 the engine is faster."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True))


def _compared(outcomes: list[Outcome], earlier: Collection[str]) -> Iterator[str]:
    """One sentence for each pass and each other commit of ours: what part of its time we take, run by run."""
    ours = outcomes[0]
    for each in outcomes:
        if each.tool in earlier:
            for name, now, then in (("first", ours.first, each.first), ("second", ours.second, each.second)):
                if now:
                    wall = _parts([a.seconds / b.seconds for a, b in zip(now, then, strict=True)])
                    cpu = _parts([a.cpu_seconds / b.cpu_seconds for a, b in zip(now, then, strict=True)])
                    yield f"{name} pass: {wall} of the time of {each.tool}, {cpu} of its processor time"


def _parts(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def _table(outcomes: list[Outcome]) -> Table:
    """A line for each tool and pass. Trips: both sides (source + target); in a row: what waited for each other."""
    case, holds, ours = outcomes[0].case, outcomes[0].holds, outcomes[0]
    cap = f"at most {case.cap} connections an account" if case.cap else "any number of connections"
    table = Table(
        title=f"{case.shape}: {case.mailboxes} x {holds.messages // case.mailboxes:,} messages, "
        f"together {holds.octets / 1e6:.0f} MB; {case.latency:g} ms, {case.target} target, {cap}; "
        f"medians of {len(ours.first)}",
        title_justify="left",
    )
    table.add_column("pass", no_wrap=True)
    for column in ("seconds", "range", "peer/ours", "messages/s", "CPU ms/message", "peak MB", "ledger B"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("round trips", "longer side", "in a row", "wire MB") if case.latency else ():
        table.add_column(column, justify="right", no_wrap=True)
    for each in outcomes:
        table.add_row(*_row(f"{each.tool} first", each.first, None if each is ours else ours.first, holds))
    for each in outcomes:
        if each.second:
            second = None if each is ours else ours.second
            table.add_row(*_row(f"{each.tool} second", each.second, second, holds))
    return table


def _row(name: str, passes: list[Pass], ours: list[Pass] | None, holds: Seeded) -> list[str]:
    """The cells of one tool's pass; `ours` are the engine's passes that it is compared with."""
    seconds = [one.seconds for one in passes]
    middle = statistics.median(seconds)
    ledger = passes[-1].ledger_bytes
    cells = [
        name,
        f"{middle:.2f}",
        f"{min(seconds):.2f}-{max(seconds):.2f}",
        f"{median_ratio(ours, passes):.2f}" if ours else "",
        f"{holds.messages / middle:,.0f}",
        f"{statistics.median(one.cpu_seconds for one in passes) * 1000 / holds.messages:.3f}",
        f"{statistics.median(one.peak_bytes for one in passes) / 1e6:.0f}",
        f"{ledger / holds.messages:.0f}" if ledger else "",
    ]
    return [*cells, *_traffic([one.wire for one in passes if one.wire])]


def _traffic(wires: list[Wire]) -> list[str]:
    if not wires:
        return []

    def middle(value: Callable[[Wire], int]) -> float:
        return statistics.median(value(wire) for wire in wires)

    both = middle(lambda wire: wire.round_trips)
    source, target = middle(lambda wire: wire.source.round_trips), middle(lambda wire: wire.target.round_trips)
    return [
        f"{both:,.0f} ({source:,.0f} + {target:,.0f})",
        f"{middle(lambda wire: wire.longer_side):,.0f}",
        f"{middle(lambda wire: wire.in_a_row):,.0f}",
        f"{middle(lambda wire: wire.octets) / 1e6:.2f}",
    ]


if __name__ == "__main__":
    typer.run(main)
