"""A cell as a picture: a wiring diagram in SVG.

Every input and node has a rail, a horizontal line in a colour of its own. A node is a column: where
it takes an input there is a dot on that input's rail and the operation below it; what both
operations give is summed up where the node's own rail begins. Rails that end at the right are
concatenated. Lines that cross without a dot have nothing to do with one another, as in circuits.

Notable: places depend on the indices alone, so that two cells can be compared at a glance.
"""

from collections.abc import Sequence
from html import escape

from metanas.spec.genotype import Node

INPUTS = ("c(k−2)", "c(k−1)")
FAMILIES = ("conv", "pool", "skip")
RAILS = 7
"""Colours of rails, after which they begin again: the classes rail0 to rail6 of a style sheet."""
LEFT, COLUMN, ROW, TOP = 84, 176, 62, 26
PILL, PILL_HEIGHT, DROP = 108, 24, 27
END = 66


def cell_picture(nodes: Sequence[Node], title: str, before: Sequence[Node] = ()) -> str:
    """The SVG of a cell; operations that `before`, an earlier cell, had not are outlined.

    It is drawn with classes alone: rail0 .. rail6, op with conv, pool, skip or other, new, sum.
    """
    rows = len(nodes) + 2
    width = LEFT + COLUMN * len(nodes) + END
    height = TOP + ROW * (rows - 1) + 26
    parts = [_rail(nodes, row, width) for row in range(rows)]
    parts.append(_output(nodes, width))
    for index, node in enumerate(nodes):
        old = set(before[index]) if index < len(before) else set(node)
        parts.append(_node(index, node, old))
    said = "; ".join(
        f"node {index} sums " + " and ".join(f"{op} of {_name(source)}" for source, op in node)
        for index, node in enumerate(nodes)
    )
    return (
        f'<svg class="cell" style="max-width:{width}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}: {escape(said)}">' + "".join(parts) + "</svg>"
    )


def _name(source: int) -> str:
    return INPUTS[source] if source < 2 else f"node {source - 2}"


def _y(row: int) -> int:
    return TOP + ROW * row


def _x(node: int) -> int:
    """Left end of the operations of a node."""
    return LEFT + COLUMN * node + 18


def _start(row: int) -> int:
    """Where a rail begins: an input's beside its name, a node's where its sum is."""
    return LEFT if row < 2 else _x(row - 2) + PILL + 26


def _rail(nodes: Sequence[Node], row: int, width: int) -> str:
    uses = [_x(n) for n, node in enumerate(nodes) for source, _ in node if source == row]
    end = max(uses, default=LEFT + 12) if row < 2 else width - END
    y = _y(row)
    line = f'<path class="rail rail{row % RAILS}" d="M{_start(row)} {y}H{end}"/>'
    if row < 2:
        return line + f'<text class="name" x="{LEFT - 8}" y="{y}">{INPUTS[row]}</text>'
    return line


def _output(nodes: Sequence[Node], width: int) -> str:
    top, bottom = _y(2) - 14, _y(len(nodes) + 1) + 14
    middle, x = (top + bottom) / 2, width - END
    return (
        f'<rect class="concat" x="{x}" y="{top}" width="26" height="{bottom - top}" rx="6"/>'
        f'<text class="turned" transform="translate({x + 13} {middle}) rotate(-90)">concat</text>'
        f'<path class="out" d="M{x + 26} {middle}h22m-7 -5l7 5l-7 5"/>'
    )


def _node(index: int, node: Node, old: set[tuple[int, str]]) -> str:
    x, row = _x(index), index + 2
    bar = x + PILL + 14
    parts = []
    for source, op in node:
        y = _y(source) + DROP
        kind = next((family for family in FAMILIES if family in op), "other")
        new = "" if (source, op) in old else " new"
        # the width of a long name is squeezed into the box instead of leaving it
        fit = f' textLength="{PILL - 12}" lengthAdjust="spacingAndGlyphs"' if len(op) > 14 else ""
        parts.append(
            f'<path class="rail rail{source % RAILS}" d="M{x} {_y(source)}v{DROP}h10"/>'
            f'<circle class="dot rail{source % RAILS}" cx="{x}" cy="{_y(source)}" r="4"/>'
            f'<path class="join" d="M{x + 8 + PILL} {y}H{bar + 12}"/>'
            f'<rect class="op {kind}{new}" x="{x + 8}" y="{y - PILL_HEIGHT / 2}" '
            f'width="{PILL}" height="{PILL_HEIGHT}" rx="7"/>'
            f'<text class="opname" x="{x + 8 + PILL / 2}" y="{y}"{fit}>{escape(op)}</text>'
        )
    first = _y(min(source for source, _ in node)) + DROP
    parts.append(f'<path class="join" d="M{bar + 12} {first}V{_y(row)}"/>')
    parts.append(
        f'<circle class="sum rail{row % RAILS}" cx="{bar + 12}" cy="{_y(row)}" r="12"/>'
        f'<text class="index" x="{bar + 12}" y="{_y(row)}">{index}</text>'
    )
    return "".join(parts)
