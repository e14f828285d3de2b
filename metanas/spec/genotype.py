"""The genotype: the discrete architecture of an adapted model, and its JSON form."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from metanas.errors import InvalidInput
from metanas.util.dataclass_json import build

CELL_KINDS = ("normal", "reduce")

Edge = tuple[int, str]
Node = tuple[Edge, Edge]


@dataclass(frozen=True)
class Genotype:
    """The two kinds of cell, with two edges (input index, operation) for each node.

    Inputs 0 and 1 are the outputs of the cell before the last and of the last cell; input 2 + i is
    node i of the same cell. The cell's output is the concatenation of all its nodes.
    """

    normal: tuple[Node, ...]
    reduce: tuple[Node, ...]

    def __post_init__(self) -> None:
        for kind in CELL_KINDS:
            for index, ((left, _), (right, _)) in enumerate(self.cell(kind)):
                if not 0 <= left < right < index + 2:
                    message = f"inputs {left} and {right} must be different, ascending and below "
                    message += f"{index + 2}"
                    field = f"genotype.{kind}[{index}]"
                    raise InvalidInput.single(field, "GENOTYPE_MALFORMED", message)

    def cell(self, kind: str) -> tuple[Node, ...]:
        """Return the nodes of the cell of this kind: "normal" or "reduce"."""
        return {"normal": self.normal, "reduce": self.reduce}[kind]

    def distance(self, other: "Genotype") -> int:
        """Count the edges of this genotype that the other does not have."""
        return sum(
            len(set(mine) - set(theirs))
            for kind in CELL_KINDS
            for mine, theirs in zip(self.cell(kind), other.cell(kind), strict=True)
        )

    def to_json(self) -> str:
        """Return JSON: `{"normal": [[[0, "skip_connect"], [1, "conv_3x3"]]], "reduce": [...]}`."""
        return json.dumps({kind: self.cell(kind) for kind in CELL_KINDS}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Genotype":
        """Read the JSON of a genotype.

        Raises:
            InvalidInput: the text is no genotype (reason GENOTYPE_MALFORMED).
        """
        try:
            return build(Genotype, json.loads(text))
        except (ValueError, InvalidInput) as error:
            message = f"this is no genotype in JSON: {error}"
            raise InvalidInput.single("genotype", "GENOTYPE_MALFORMED", message) from error


def derive(
    op_logits: Sequence[Sequence[float]], pair_logits: Sequence[float], ops: Sequence[str]
) -> tuple[Node, ...]:
    """Return the nodes of the largest logits: the best pair, with the best operation on each edge.

    `op_logits` has one row an edge (by node, then by input) and one column an operation;
    `pair_logits` holds the unordered pairs of inputs of node after node. Ties go to the first.
    """
    nodes: list[Node] = []
    edge = pair = 0
    while edge < len(op_logits):
        inputs = len(nodes) + 2
        pairs = list(combinations(range(inputs), 2))
        left, right = pairs[_argmax(pair_logits[pair : pair + len(pairs)])]
        chosen = [(i, ops[_argmax(op_logits[edge + i])]) for i in (left, right)]
        nodes.append((chosen[0], chosen[1]))
        edge, pair = edge + inputs, pair + len(pairs)
    return tuple(nodes)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
