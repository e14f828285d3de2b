"""Figures as SVG, PNG or PDF: the cells of a model, and the results of an evaluation.

Needs the extra "plot". Figures are made without pyplot, which would need a window system and global
state.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from metanas_client.errors import ModelFileError, NotWritable
from metanas_client.model import write_atomically
from metanas_client.onnx.cell_layout import INPUTS, Layout, Line, lay_out
from metanas_client.onnx.cells import Cell

FORMATS = {".svg": "svg", ".png": "png", ".pdf": "pdf"}
TITLES = {"normal": "normal cell", "reduce": "reduction cell"}
INK = "#333333"
INPUT_FILL, NODE_FILL, OUTPUT_FILL = "#dbe9f6", "#fff3d6", "#e4e4e4"
FAMILIES = {"conv": "#cfe3f5", "pool": "#d5ecd0", "skip": "#eeeeee"}
OTHER_FAMILY = "#ead9f0"
LINE_COLOURS = ("#1f77b4", "#d1495b", "#2a9d5c", "#b07500", "#7b52ab", "#008b8b", "#8c564b")

COLUMN = 3.0  # between the middles of two columns
OPERATION_WIDTH, OPERATION_HEIGHT = 1.25, 0.36
CIRCLE = 0.44  # width and height of the box of a node or an input
CARD = OPERATION_WIDTH + 0.22 + CIRCLE  # the operations of a node and the node itself

Point = tuple[float, float]


def draw_cells(cells: Sequence[Cell], path: Path) -> None:
    """Draw cells as graphs: inputs on the left, the concatenated output on the right.

    Raises:
        NotWritable: PICTURE_FORMAT for an ending other than .svg, .png and .pdf; NOT_WRITABLE.
        ModelFileError: NO_CELLS, there is nothing to draw.
    """
    save(_cells_figure(cells), path)


def cells_svg(cells: Sequence[Cell]) -> bytes:
    """Return the picture of `draw_cells` as an SVG file."""
    return _rendered(_cells_figure(cells), "svg")


def _cells_figure(cells: Sequence[Cell]) -> Figure:
    if not cells:
        raise ModelFileError("NO_CELLS", "the network of this model has no cells to draw")
    layouts = [lay_out(cell) for cell in cells]
    width = max(COLUMN * layout.columns[-1] for layout in layouts) + 0.4
    heights = [2 * layout.spread + 0.4 for layout in layouts]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    axes = figure.subplots(len(cells), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, cell, layout, height in zip(axes, cells, layouts, heights, strict=True):
        _draw_cell(axis, layout)
        axis.set(xlim=(-0.5, width - 0.5), ylim=(-height / 2, height / 2), title=TITLES[cell.kind])
        axis.axis("off")
    return figure


def draw_evaluation(episodes: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the distributions of accuracy and latency over the episodes.

    Raises:
        NotWritable: PICTURE_FORMAT for an ending other than .svg, .png and .pdf; NOT_WRITABLE.
    """
    accuracy = [100 * float(row["accuracy"]) for row in episodes]
    latency = sorted(float(row["latency"]) for row in episodes)
    mean = sum(accuracy) / len(accuracy)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    left.hist(accuracy, bins=min(30, max(5, len(accuracy) // 10)), color="#7aa6d1")
    left.axvline(mean, color=INK, linestyle="--", label=f"mean {mean:.2f} %")
    left.set(xlabel="query accuracy of an episode in %", ylabel="episodes")
    left.legend()
    shares = [100 * (index + 1) / len(latency) for index in range(len(latency))]
    right.step(latency, shares, where="post", color="#c77f3b")
    right.set(xlabel="adaptation latency in s", ylabel="episodes that took no longer, in %")
    right.set_xlim(left=0)
    right.grid(alpha=0.3)
    save(figure, path)


def check_format(path: Path) -> None:
    """Check that the ending of a name is a picture format."""
    if path.suffix.lower() not in FORMATS:
        raise NotWritable(
            "PICTURE_FORMAT", f"the name of a picture ends in {', '.join(FORMATS)}, unlike {path}"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a whole. The same figure gives the same bytes."""
    check_format(path)
    write_atomically(path, _rendered(figure, FORMATS[path.suffix.lower()]))


def _rendered(figure: Figure, kind: str) -> bytes:
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}[kind]
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "metanas"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=undated)
    return buffer.getvalue()


def _draw_cell(axis: Axes, layout: Layout) -> None:
    for index in range(layout.output):
        place = _place(layout, index)
        if index < INPUTS:
            _box(axis, place, (CIRCLE, CIRCLE), (r"$c_{k-2}$", r"$c_{k-1}$")[index], INPUT_FILL)
        else:
            _box(axis, place, (CIRCLE, CIRCLE), str(index - INPUTS), NODE_FILL)
            _draw_operations(axis, layout, index)
    output = (COLUMN * layout.columns[-1] - OPERATION_WIDTH / 2, 0.0)
    _box(axis, output, (0.8, CIRCLE), "concat", OUTPUT_FILL)
    for line in layout.lines:
        if line.operation is None:
            _draw_line(axis, layout, line, (output[0] - 0.4, 0.0))


def _draw_operations(axis: Axes, layout: Layout, node: int) -> None:
    x, y = _place(layout, node)
    incoming = [line for line in layout.lines if line.target == node]
    # sort by the height of their sources, so that the lines do not cross here
    incoming.sort(key=lambda line: -layout.heights[line.spots[-1]])
    middle = x - CIRCLE / 2 - 0.22 - OPERATION_WIDTH / 2
    for line, offset in zip(incoming, (0.24, -0.24), strict=True):
        place = (middle, y + offset)
        _draw_line(axis, layout, line, (middle - OPERATION_WIDTH / 2, y + offset))
        operation = line.operation or ""
        _box(axis, place, (OPERATION_WIDTH, OPERATION_HEIGHT), operation, _family(operation))
        _curve(
            axis, [(middle + OPERATION_WIDTH / 2, y + offset), (x - CIRCLE / 2, y)], INK, "solid"
        )


def _draw_line(axis: Axes, layout: Layout, line: Line, end: Point) -> None:
    source, _ = line.spots[0]
    x, y = _place(layout, source)
    points = [(x + CIRCLE / 2, y)]
    for spot in line.spots[1:]:
        # straight through the column, beside its boxes
        right = COLUMN * spot[1] + CIRCLE / 2
        points += [(right - CARD, layout.heights[spot]), (right, layout.heights[spot])]
    colour = LINE_COLOURS[source % len(LINE_COLOURS)]
    _curve(axis, [*points, end], colour, "solid" if line.operation else "dashed")


def _place(layout: Layout, index: int) -> Point:
    column = layout.columns[index]
    return COLUMN * column, layout.heights[index, column]


def _curve(axis: Axes, points: Sequence[Point], colour: str, style: str) -> None:
    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    patch = PathPatch(
        Curve(vertices, codes), fill=False, edgecolor=colour, linewidth=1.3, linestyle=style
    )
    patch.set_zorder(1)
    axis.add_patch(patch)


def _box(axis: Axes, place: Point, size: Point, text: str, fill: str) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (place[0] - size[0] / 2, place[1] - size[1] / 2),
            *size,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=fill,
            edgecolor=INK,
            linewidth=0.9,
            zorder=3,
        )
    )
    axis.text(*place, text, ha="center", va="center", fontsize=9, color=INK, zorder=4)


def _family(operation: str) -> str:
    fills = [fill for family, fill in FAMILIES.items() if family in operation]
    return fills[0] if fills else OTHER_FAMILY
