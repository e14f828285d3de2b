"""Discrete cells of a model, read from JSON and written as text tables."""

import json
from dataclasses import dataclass
from typing import TypeAlias

from metanas_client.errors import ModelFileError

Edge: TypeAlias = tuple[int, str]
"""Index of the input (0 and 1: inputs of the cell, 2 + i: node i), and operation of the edge."""

KINDS = ("normal", "reduce")


@dataclass(frozen=True)
class Cell:
    """One kind of cell. Its output is the concatenation of all its nodes."""

    kind: str
    """"normal" or "reduce"."""
    nodes: tuple[tuple[Edge, Edge], ...]
    """For each node the two edges that are added up in it."""


def read_cells(genotype_json: str) -> tuple[Cell, ...]:
    """Read both kinds of cell; a network without cells has none.

    Raises:
        ModelFileError: GENOTYPE_MALFORMED.
    """
    try:
        raw = json.loads(genotype_json)
        made = [
            Cell(kind, tuple(_node(index, node) for index, node in enumerate(raw[kind])))
            for kind in KINDS
        ]
        return tuple(cell for cell in made if cell.nodes)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(
            "GENOTYPE_MALFORMED", f"the genotype cannot be read ({error!r}): {genotype_json[:200]}"
        ) from error


def input_name(index: int) -> str:
    """Return the name of an input of a node."""
    return ("c_{k-2}", "c_{k-1}")[index] if index < 2 else f"node {index - 2}"


def table(cell: Cell) -> list[tuple[str, str, str]]:
    """Return the rows (node, first edge, second edge) of a table."""
    return [
        (f"node {index}", _edge_text(left), _edge_text(right))
        for index, (left, right) in enumerate(cell.nodes)
    ]


def depths(cell: Cell) -> list[int]:
    """Return the depth of each node: its longest path from the cell's inputs, at least 1."""
    lengths = [0, 0]
    for edges in cell.nodes:
        lengths.append(1 + max(lengths[index] for index, _ in edges))
    return lengths[2:]


def _node(index: int, raw: list[list[object]]) -> tuple[Edge, Edge]:
    (left, left_op), (right, right_op) = raw
    if not (isinstance(left, int) and isinstance(right, int)):
        raise TypeError("an input is a whole number")
    if not (0 <= left < index + 2 and 0 <= right < index + 2):
        raise ValueError(f"node {index} has an input that does not come before it")
    return (left, str(left_op)), (right, str(right_op))


def _edge_text(edge: Edge) -> str:
    return f"{edge[1]}({input_name(edge[0])})"
