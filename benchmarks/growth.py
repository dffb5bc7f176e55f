"""Measures how the engine's cost grows with size: `.venv/bin/python -m benchmarks.growth --help`.

More messages in one folder, and more mailboxes through one process; nothing stands between the servers. Where cost is
linear, the price of one message or mailbox stays as the size grows tenfold: `x before` is about 1.
"""

import json
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bench import MEMORY, OURS, Bench
from benchmarks.job import Pass
from benchmarks.servers import two_servers
from benchmarks.shapes import SHAPES, fill

SHAPE = SHAPES["tiny"]
MESSAGES_EACH = 5
"""Messages in each mailbox when mailboxes are counted."""
MESSAGE, MAILBOX = "message", "mailbox"
MANY = {MESSAGE: "messages", MAILBOX: "mailboxes"}


@dataclass(frozen=True)
class Point:
    """One size of one series, and what a first and a second pass over it cost."""

    unit: str
    """What is counted: a message in one folder, or a mailbox."""
    size: int
    """How many of them."""
    messages: int
    """How many messages that is in all."""
    at_once: int
    first: list[Pass]
    second: list[Pass]


def main(
    messages: Annotated[str, typer.Option(help="Messages in one folder, comma separated.")] = "1000,10000,100000",
    mailboxes: Annotated[str, typer.Option(help="Mailboxes of 5 messages, comma separated.")] = "10,100,1000",
    at_once: Annotated[int, typer.Option(help="Mailboxes copied at the same time.")] = 16,
    runs: Annotated[int, typer.Option(help="Runs of each size; the table shows medians.")] = 1,
    mail: Annotated[Path, typer.Option(help="Where the servers keep mail; in memory no disk is measured.")] = MEMORY,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every single run there.")] = None,
    profile: Annotated[bool, typer.Option(help="After each size, one run under cProfile.")] = False,
) -> None:
    """Copy ever larger folders, then ever more mailboxes, and show what a message or a mailbox costs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped as after Ctrl-C
    console = Console(width=140)
    points: list[Point] = []
    for unit, sizes in ((MESSAGE, _numbers(messages)), (MAILBOX, _numbers(mailboxes))):
        series = [_measure(unit, size, at_once, runs, mail, profile) for size in sizes]
        points += series
        if series:
            console.print(_table(series))
    if json_file:
        json_file.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word.strip()]


def _measure(unit: str, size: int, at_once: int, runs: int, mail: Path, profile: bool) -> Point:
    """Fill two servers of their own for this size, so that no size uses the memory of another."""
    mailboxes, each = (1, size) if unit == MESSAGE else (size, MESSAGES_EACH)
    sources = [f"source{number}" for number in range(mailboxes)]
    fresh = [f"target{number}" for number in range(mailboxes * (runs + profile))]
    with two_servers("full", mail, sources, fresh) as (source, target):
        holds = {user: fill(source.maildir(user), user, SHAPE, each / SHAPE.messages) for user in sources}
        source.index()
        bench = Bench(source, target, holds, fresh)
        passes = [bench.run(OURS, 2, at_once=at_once) for _ in range(runs)]
        if profile:
            bench.run(OURS, 1, at_once=at_once, profile=True)
    return Point(unit, size, mailboxes * each, min(at_once, mailboxes), [p[0] for p in passes], [p[1] for p in passes])


def _table(series: Sequence[Point]) -> Table:
    """One line a size; `x before` compares what one unit costs with the size before."""
    unit, most = series[0].unit, series[-1].at_once
    title = "messages of 1 KB in one folder"
    if unit == MAILBOX:
        title = f"mailboxes of {MESSAGES_EACH} messages in one process, up to {most} at once"
    table = Table(title=f"{title}; 0 ms; medians of {len(series[0].first)}", title_justify="left")
    columns = (
        *(MANY[unit], "wall s", "CPU s", f"wall ms/{unit}", "x before", f"CPU ms/{unit}", "x before"),
        *("peak MB", "ledger B/message", "second pass s", "CPU s"),
    )
    for column in columns:
        table.add_column(column, justify="right")
    before: tuple[float, float] | None = None
    for point in series:
        wall, cpu = _middle(point.first, lambda one: one.seconds), _middle(point.first, lambda one: one.cpu_seconds)
        ledger = _middle(point.first, lambda one: one.ledger_bytes)
        each = (wall * 1000 / point.size, cpu * 1000 / point.size)
        table.add_row(
            f"{point.size:,}",
            f"{wall:.2f}",
            f"{cpu:.2f}",
            f"{each[0]:.3f}",
            f"{each[0] / before[0]:.2f}" if before else "",
            f"{each[1]:.3f}",
            f"{each[1] / before[1]:.2f}" if before else "",
            f"{_middle(point.first, lambda one: one.peak_bytes) / 1e6:.0f}",
            f"{ledger / point.messages:.1f}" if ledger else "",  # small ledgers fit into the empty file's pages
            f"{_middle(point.second, lambda one: one.seconds):.2f}",
            f"{_middle(point.second, lambda one: one.cpu_seconds):.2f}",
        )
        before = each
    return table


def _middle(passes: Sequence[Pass], value: Callable[[Pass], float]) -> float:
    return statistics.median(value(one) for one in passes)


if __name__ == "__main__":
    typer.run(main)
