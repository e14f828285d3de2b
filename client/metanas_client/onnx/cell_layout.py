"""Layered layout of a cell for a picture. No line crosses a box.

The depth of a node is its column. A line that passes a column gets a spot there, so that it runs
beside the boxes and not behind them (the dummy vertices of Sugiyama, Tagawa and Toda, 1981). Lines
from one source share their spots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from metanas_client.onnx.cells import Cell, depths

INPUTS = 2
NODE_HEIGHT, PASSING_HEIGHT, GAP = 1.0, 0.25, 0.3
SWEEPS = 4

Spot = tuple[int, int]
"""(source, column): a node or an input in its column, or a line from it in a later column."""


@dataclass(frozen=True)
class Line:
    """Edge of the picture: the spots on its way, and the node or output where it ends."""

    spots: tuple[Spot, ...]
    target: int
    """Index of the node, counted with the inputs; the output comes after the last one."""
    operation: str | None
    """None on the way to the output."""


@dataclass(frozen=True)
class Layout:
    """Places of all parts of a cell."""

    columns: tuple[int, ...]
    """For every input and node, and last for the output."""
    heights: dict[Spot, float]
    """Height of the middle of every spot; the output is at 0."""
    lines: tuple[Line, ...]

    @property
    def output(self) -> int:
        """Index of the output."""
        return len(self.columns) - 1

    @property
    def spread(self) -> float:
        """Largest height, up or down, that anything reaches."""
        return max(abs(height) for height in self.heights.values()) + NODE_HEIGHT / 2


def lay_out(cell: Cell) -> Layout:
    """Place all parts of a cell."""
    inner = [0] * INPUTS + depths(cell)
    columns = (*inner, max(inner) + 1)
    lines = _lines(cell, columns)
    order = [_spots_of(lines, columns, column) for column in range(columns[-1])]
    heights = _stack(order, columns)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for column in range(1, columns[-1]) if forward else range(columns[-1] - 2, 0, -1):
            pulls = {spot: _pull(spot, lines, heights, forward) for spot in order[column]}
            order[column] = sorted(order[column], key=lambda spot: -pulls[spot])
            heights = _stack(order, columns)
    return Layout(columns, heights, lines)


def _lines(cell: Cell, columns: Sequence[int]) -> tuple[Line, ...]:
    output = len(columns) - 1
    inner = [
        (source, node + INPUTS, operation)
        for node, edges in enumerate(cell.nodes)
        for source, operation in edges
    ]
    outer = [(node, output, None) for node in range(INPUTS, output)]
    return tuple(
        Line(tuple((source, c) for c in range(columns[source], columns[target])), target, operation)
        for source, target, operation in [*inner, *outer]
    )


def _spots_of(lines: Sequence[Line], columns: Sequence[int], column: int) -> list[Spot]:
    boxes = [(index, column) for index in range(len(columns) - 1) if columns[index] == column]
    passing = {spot for line in lines for spot in line.spots if spot[1] == column}
    return boxes + sorted(passing - set(boxes))


def _stack(order: Sequence[Sequence[Spot]], columns: Sequence[int]) -> dict[Spot, float]:
    heights: dict[Spot, float] = {}
    for column, spots in enumerate(order):
        sizes = [
            NODE_HEIGHT if columns[source] == column else PASSING_HEIGHT for source, _ in spots
        ]
        top = (sum(sizes) + GAP * (len(sizes) - 1)) / 2
        for spot, size in zip(spots, sizes, strict=True):
            heights[spot] = top - size / 2
            top -= size + GAP
    return heights


def _pull(spot: Spot, lines: Sequence[Line], heights: dict[Spot, float], forward: bool) -> float:
    """Return the mean height of the neighbours in the column before (or after) the spot."""
    pulls: list[float] = []
    for line in lines:
        way = [*line.spots, (line.target, -1)]
        for one, other in pairwise(way):
            # the end of a line has no column in it: find its spot by its index
            end = other if other[1] >= 0 else _box_spot(other[0], heights)
            if forward and end == spot:
                pulls.append(heights[one])
            elif not forward and one == spot:
                pulls.append(heights.get(end, 0.0))
    return sum(pulls) / len(pulls) if pulls else heights[spot]


def _box_spot(index: int, heights: dict[Spot, float]) -> Spot:
    return min((spot for spot in heights if spot[0] == index), default=(index, -1))
