"""Draws a picture as plain SVG: shapes, lines, dots and words, on a background of its own for pages of any colour."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
PAPER = "#ffffff"
INK = "#1f2933"
FAINT = "#616e7c"
GRID = "#e4e7eb"
MARGIN = 28.0

Anchor = Literal["start", "middle", "end"]


class Picture:
    """A picture of a given size in pixels; things drawn later lie above."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._width = width
        self._height = height
        self._title = title
        self._parts: list[str] = []

    def rectangle(self, x: float, y: float, width: float, height: float, fill: str, radius: float = 2) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" fill="{fill}"/>'
        )

    def line(self, points: Sequence[tuple[float, float]], stroke: str, width: float = 1, dashes: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width:g}"'
            f' stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
        )

    def dot(self, x: float, y: float, fill: str, radius: float = 4.5) -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" stroke="{PAPER}" stroke-width="1.5"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        fill: str = INK,
        anchor: Anchor = "start",
        bold: bool = False,
    ) -> None:
        """Write words on the baseline `y`."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def svg(self) -> str:
        """The whole document."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width:g} {self._height:g}" '
            f'width="{self._width:g}" height="{self._height:g}" font-family="{FONT}" role="img">\n'
            f"<title>{escape(self._title)}</title>\n"
            f'<rect width="{self._width:g}" height="{self._height:g}" rx="8" fill="{PAPER}"/>\n'
        )
        return head + "\n".join(self._parts) + "\n</svg>\n"


@dataclass(frozen=True)
class LogScale:
    """Places values from `low` to `high` between two positions in pixels, each tenfold as far as the last."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, *, between: bool) -> "LogScale":
        """A scale for all these values, whose ends are ticks."""
        ticks = _ticks(min(values) / 10, max(values) * 10, between=between)
        low = max(tick for tick in ticks if tick <= min(values))
        high = min(tick for tick in ticks if tick >= max(values))
        return cls(low, high if high > low else low * 10, start, end)

    def place(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, *, between: bool) -> list[float]:
        """Powers of ten, with `between` also 2 and 5 times them."""
        return [tick for tick in _ticks(self.low, self.high, between=between) if self.low <= tick <= self.high]


def _ticks(low: float, high: float, *, between: bool) -> list[float]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    # Written and read, so that 0.1 is the same number as everywhere.
    return [float(f"{factor}e{decade}") for decade in decades for factor in ((1, 2, 5) if between else (1,))]
