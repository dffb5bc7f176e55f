"""Draws what the benchmarks have measured, as SVG: `python -m benchmarks.chart first.json growth.json --out DIRECTORY`.

The files are those that `benchmarks.run --json` and `benchmarks.growth --json` write; either kind may be left out.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.bench import OURS
from benchmarks.growth import MANY, MESSAGE
from benchmarks.svg import FAINT, GRID, INK, MARGIN, Anchor, LogScale, Picture

OURS_COLOUR, CPU_COLOUR, FASTER, SLOWER = "#0b6e99", "#e07a1f", "#1a7f4b", "#9a5b00"
PEER_COLOURS = ("#a9b4c0", "#cfd6de")
WIDTH = 880.0

BAR, HEADING = 15.0, 34.0
LABELS, RATIOS = 96.0, 118.0
"""How much room is left for the names on the left and the ratios on the right."""

Document = list[dict[str, Any]]


def main(
    files: Annotated[list[Path], typer.Argument(help="JSON of benchmarks.run or benchmarks.growth.")],
    out: Annotated[Path, typer.Option(help="Where to write first_pass.svg and growth.svg.")] = Path("docs/images"),
) -> None:
    """Draw the first passes beside those of the peers, and the growth of cost with size."""
    for file in files:
        document: Document = json.loads(file.read_text())
        if not document:
            raise SystemExit(f"{file}: nothing was measured")
        name, picture = ("growth", growth(document)) if "unit" in document[0] else ("first_pass", first_pass(document))
        (out / f"{name}.svg").write_text(picture)
        typer.echo(out / f"{name}.svg")


@dataclass(frozen=True)
class _Group:
    """One case: the seconds of every run of each tool, ours first."""

    shape: str
    label: str
    seconds: dict[str, list[float]]

    def middle(self, tool: str) -> float:
        return statistics.median(self.seconds[tool])

    def ratio(self, peer: str) -> float:
        """How many times as long the peer takes, run by run; above 1 we are faster."""
        return statistics.median(b / a for a, b in zip(self.seconds[OURS], self.seconds[peer], strict=True))


def first_pass(document: Document) -> str:
    """Horizontal bars: for every shape and distance one for each tool, on a logarithmic axis of seconds."""
    groups = _groups(document)
    tools = list(dict.fromkeys(tool for group in groups for tool in group.seconds))
    peer = next((tool for tool in tools if tool != OURS), None)
    shapes = list(dict.fromkeys(group.shape for group in groups))
    heights = {id(group): len(group.seconds) * (BAR + 1) + 12 for group in groups}
    top = 108.0
    bottom = top + sum(heights.values()) + len(shapes) * HEADING
    picture = Picture(WIDTH, bottom + 56, "First pass: seconds of each tool, by mailbox and distance")
    picture.text(MARGIN, 38, "First pass: seconds until all mail has arrived", size=19, bold=True)
    runs = max(len(outcome["first"]) for outcome in document)
    note = f"Median of {runs} runs, logarithmic. " if runs > 1 else "One run, logarithmic. "
    picture.text(MARGIN, 58, note + "Banjia's time includes reading the copy back; its peers do not.", fill=FAINT)
    _legend(picture, {_shown(tool): _colour(tool, tools) for tool in tools}, 82)
    left, right = MARGIN + LABELS, WIDTH - MARGIN - RATIOS
    scale = LogScale.around(
        [group.middle(tool) for group in groups for tool in group.seconds], left, right, between=True
    )
    for tick in scale.ticks(between=True):
        picture.text(scale.place(tick), bottom + 16, f"{tick:g}", size=12, fill=FAINT, anchor="middle")
    picture.text((left + right) / 2, bottom + 38, "seconds", size=12, fill=FAINT, anchor="middle")
    if peer:
        picture.text(
            WIDTH - MARGIN, 82, f"{_shown(peer)} / Banjia; above 1 Banjia is faster", size=12, fill=FAINT, anchor="end"
        )
    y = top
    for shape in shapes:
        picture.text(MARGIN, y + 21, shape, size=14, bold=True)
        y += HEADING
        members = [group for group in groups if group.shape == shape]
        for x in map(scale.place, scale.ticks(between=True)):
            picture.line([(x, y - 5), (x, y + sum(heights[id(group)] for group in members) - 7)], GRID)
        for group in members:
            _bars(picture, group, y, scale, tools, peer)
            y += heights[id(group)]
    return picture.svg()


def _bars(picture: Picture, group: _Group, y: float, scale: LogScale, tools: list[str], peer: str | None) -> None:
    middle = y + len(group.seconds) * (BAR + 1) / 2 + 4
    picture.text(scale.start - 10, middle, group.label, anchor="end")
    for place, tool in enumerate(group.seconds):
        seconds = group.middle(tool)
        bar_top = y + place * (BAR + 1)
        end = scale.place(seconds)
        picture.rectangle(scale.start, bar_top, max(end - scale.start, 1.5), BAR, _colour(tool, tools))
        # Inside its end where there is room, so that no number leaves the axis.
        inside = end - scale.start > 60
        ink = ("#ffffff" if tool == OURS else INK) if inside else INK
        where = end - 6 if inside else end + 6
        words = f"{_seconds(seconds)} s"
        picture.text(where, bar_top + 11.5, words, size=11.5, fill=ink, anchor="end" if inside else "start")
    if peer and {peer, OURS} <= set(group.seconds):
        ratio = group.ratio(peer)
        picture.text(
            WIDTH - MARGIN, middle, f"{ratio:.2f}", fill=FASTER if ratio >= 1 else SLOWER, anchor="end", bold=True
        )


def _groups(document: Document) -> list[_Group]:
    found: dict[tuple[str, str], _Group] = {}
    for outcome in document:
        case, holds = outcome["case"], outcome["holds"]
        many = case["mailboxes"]
        size = f"{holds['messages'] // many:,} messages, {holds['octets'] / many / 1e6:,.0f} MB"
        shape = f"{case['shape']}: {f'{many} mailboxes of ' if many > 1 else ''}{size}"
        if case["target"] != "full":
            shape += f", {case['target']} target"
        label = f"{case['latency']:g} ms"
        group = found.setdefault((shape, label), _Group(shape, label, {}))
        group.seconds[outcome["tool"]] = [one["seconds"] for one in outcome["first"]]
    return list(found.values())


def growth(document: Document) -> str:
    """Two diagrams, both axes logarithmic: cost against messages in one folder, and against mailboxes."""
    units = list(dict.fromkeys(point["unit"] for point in document))
    height = 460.0
    picture = Picture(WIDTH, height, "Cost of a first pass against messages in one folder and against mailboxes")
    picture.text(MARGIN, 38, "Growth: what a first pass costs as the work grows", size=19, bold=True)
    picture.text(MARGIN, 58, "Both axes logarithmic; what runs beside the dashed line is linear.", fill=FAINT)
    _legend(picture, {"wall time": OURS_COLOUR, "processor time of the client": CPU_COLOUR}, 82)
    room = (WIDTH - 2 * MARGIN) / len(units)
    for place, unit in enumerate(units):
        left = MARGIN + place * room
        points = [point for point in document if point["unit"] == unit]
        _diagram(picture, unit, points, left + 44, left + room - 24, 128, height - 66)
    return picture.svg()


def _diagram(
    picture: Picture, unit: str, points: Document, left: float, right: float, top: float, bottom: float
) -> None:
    sizes = [float(point["size"]) for point in points]
    wall = [statistics.median(one["seconds"] for one in point["first"]) for point in points]
    cpu = [statistics.median(one["cpu_seconds"] for one in point["first"]) for point in points]
    # As much on either side as the price needs that is written beside a point.
    across = LogScale(min(sizes) / 3, max(sizes) * 3, left, right)
    up = LogScale.around([*wall, *cpu], bottom, top, between=False)
    for tick in up.ticks(between=False):
        y = up.place(tick)
        picture.line([(left, y), (right, y)], GRID)
        picture.text(left - 8, y + 4, f"{tick:g} s", size=12, fill=FAINT, anchor="end")
    for size in sizes:
        picture.line([(across.place(size), top), (across.place(size), bottom)], GRID)
        picture.text(across.place(size), bottom + 20, f"{size:,.0f}", size=12, fill=FAINT, anchor="middle")
    where = (
        "messages in one folder"
        if unit == MESSAGE
        else f"{MANY[unit]} of {points[0]['messages'] // points[0]['size']} messages"
    )
    picture.text((left + right) / 2, bottom + 42, where, anchor="middle")
    _linear(picture, sizes, wall[-1], across, up)
    for values, colour, below in ((cpu, CPU_COLOUR, True), (wall, OURS_COLOUR, False)):
        line = [(across.place(size), up.place(value)) for size, value in zip(sizes, values, strict=True)]
        picture.line(line, colour, 2.5)
        anchor: Anchor = "start" if below else "end"
        for (x, y), size, value in zip(line, sizes, values, strict=True):
            picture.dot(x, y, colour)
            price = f"{_seconds(value * 1000 / size)} ms"
            # Beside the rising line, where nothing else is.
            place = (x + 8, y + 16) if below else (x - 8, y - 6)
            picture.text(*place, price, size=11.5, fill=colour, anchor=anchor, bold=True)
    each = "message" if unit == MESSAGE else unit
    picture.text(left, top - 12, f"At each point: milliseconds per {each}", size=12, fill=FAINT)


def _linear(picture: Picture, sizes: list[float], last: float, across: LogScale, up: LogScale) -> None:
    """A dashed line through the last point along which cost is proportional to size, as far as the diagram goes."""
    first = max(last * sizes[0] / sizes[-1], up.low)
    begin = sizes[-1] * first / last
    picture.line([(across.place(begin), up.place(first)), (across.place(sizes[-1]), up.place(last))], FAINT, 1.2, "5 5")


def _legend(picture: Picture, colours: dict[str, str], y: float) -> None:
    x = MARGIN
    for name, colour in colours.items():
        picture.rectangle(x, y - 11, 13, 13, colour)
        picture.text(x + 19, y, name)
        x += 19 + 7.2 * len(name) + 26


def _shown(tool: str) -> str:
    return "Banjia" if tool == OURS else tool


def _colour(tool: str, tools: list[str]) -> str:
    others = [other for other in tools if other != OURS]
    return OURS_COLOUR if tool == OURS else PEER_COLOURS[others.index(tool) % len(PEER_COLOURS)]


def _seconds(value: float) -> str:
    """A number with about two digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    typer.run(main)
