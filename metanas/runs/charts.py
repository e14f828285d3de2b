"""Line charts in SVG, for a page without script.

Notable: a curve of more points than a chart has pixels for is shown as means of neighbouring points
inside a band from their 10th to their 90th percentile.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from metanas.runs.log import Curve
from metanas.util.formatting import number_text

MOST = 240
"""Points of a curve that are drawn one by one."""
GROUPS = 120
"""Means that are drawn instead of more."""
WIDTH, HEIGHT = 520, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 26, 14, 38


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve of a chart."""

    name: str
    points: Curve
    colour: int = 0
    """Number of its class in the style sheet: line0, line1 ..."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn in one pair of axes."""

    title: str
    unit: str
    """Of the vertical axis; "" for a plain number."""
    lines: tuple[Line, ...]
    scale: float = 1.0
    """Factor from a curve's values to the unit."""
    mark: tuple[int, float] | None = None
    """A point to be marked, in a curve's values."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(line.points for line in self.lines)


@dataclass(frozen=True)
class Axes:
    """From numbers to places."""

    x: tuple[float, ...]
    """Ticks, from the first place of the axis to the last."""
    y: tuple[float, ...]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point."""
        across = (x - self.x[0]) / (self.x[-1] - self.x[0])
        up = (y - self.y[0]) / (self.y[-1] - self.y[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )


def draw(chart: Chart, iterations: int) -> str:
    """The SVG of a chart whose horizontal axis goes from 0 to at least `iterations`."""
    scaled = [[(x, y * chart.scale) for x, y in line.points] for line in chart.lines]
    values = [y for points in scaled for _, y in points]
    last = max([iterations, 1] + [x for points in scaled for x, _ in points])
    axes = Axes(ticks(0, last), ticks(min(values), max(values)))
    parts = [_grid(axes, chart.unit)]
    for line, points in zip(chart.lines, scaled, strict=True):
        parts.append(_curve(axes, points, line.colour))
    if chart.mark is not None:
        x, y = axes.place(chart.mark[0], chart.mark[1] * chart.scale)
        parts.append(f'<circle class="mark" cx="{x}" cy="{y}" r="5"/>')
    label = f"{chart.title}, {chart.unit}" if chart.unit else chart.title
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)} over meta-iterations">' + "".join(parts) + "</svg>"
    )


def ticks(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Round numbers, the first at most `low` and the last at least `high`."""
    if not high > low:
        room = abs(high) * 0.1 or 1.0
        low, high = (low - room if low else 0.0), high + room
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * s for s in (1, 2, 2.5, 5, 10) if power * s >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def grouped(points: Curve) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Means of neighbouring points as (x, mean), and their spread as (x, low, high)."""
    size = math.ceil(len(points) / GROUPS)
    means, spread = [], []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        x = sum(x for x, _ in group) / len(group)
        ys = sorted(y for _, y in group)
        means.append((x, sum(ys) / len(ys)))
        spread.append((x, _quantile(ys, 0.1), _quantile(ys, 0.9)))
    return means, spread


def _quantile(values: Sequence[float], share: float) -> float:
    return values[round(share * (len(values) - 1))]


def _grid(axes: Axes, unit: str) -> str:
    parts = []
    for y in axes.y:
        _, at = axes.place(0, y)
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 7}" y="{at}">{number_text(y)}</text>')
    for x in axes.x:
        at, _ = axes.place(x, axes.y[0])
        parts.append(f'<text class="x" x="{at}" y="{HEIGHT - BOTTOM + 15}">{number_text(x)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 5}">meta-iteration</text>')
    if unit:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = f'transform="translate(12 {middle}) rotate(-90)"'
        parts.append(f'<text class="axis" {turned}>{escape(unit)}</text>')
    return "".join(parts)


def _curve(axes: Axes, points: Curve, colour: int) -> str:
    if not points:
        return ""
    band = ""
    drawn: Sequence[tuple[float, float]] = points
    if len(points) > MOST:
        drawn, spread = grouped(points)
        upper = [axes.place(x, high) for x, _, high in spread]
        lower = [axes.place(x, low) for x, low, _ in reversed(spread)]
        band = f'<path class="band line{colour}" d="{_path([*upper, *lower])}Z"/>'
    places = [axes.place(x, y) for x, y in drawn]
    dots = ""
    if len(places) <= 40:
        dots = "".join(
            f'<circle class="point line{colour}" cx="{x}" cy="{y}" r="2.4"/>' for x, y in places
        )
    return band + f'<path class="curve line{colour}" d="{_path(places)}"/>' + dots


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
