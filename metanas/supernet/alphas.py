"""The alphas of a kind of cell, and the shares that candidate operations have in its nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

import torch
from torch import Tensor, nn

from metanas.nn.devices import upload
from metanas.supernet.relaxations import Relaxation

ALPHA_PREFIX = "alpha."
Live = tuple[tuple[int, ...], ...]
"""The candidates of each edge that run: those with a share in any task."""


def is_alpha(name: str) -> bool:
    """Return True if a parameter of this name belongs to the architecture."""
    return name.startswith(ALPHA_PREFIX)


class CellAlpha(nn.Module):
    """Architecture logits of one kind of cell, and the operations that are still candidates.

    `ops` has shape (edges, ops), edges ordered by node and then by input; `inputs` has shape
    (pairs,), the unordered pairs of inputs of node after node; `alive` marks the candidates.
    """

    alive: Tensor

    def __init__(self, nodes: int, ops: int) -> None:
        super().__init__()
        self.inputs_of = [node + 2 for node in range(nodes)]
        self.pairs_of = [list(combinations(range(count), 2)) for count in self.inputs_of]
        self.pair_counts = [len(pairs) for pairs in self.pairs_of]
        edges = sum(self.inputs_of)
        self.ops = nn.Parameter(torch.zeros(edges, ops))
        self.inputs = nn.Parameter(torch.zeros(sum(self.pair_counts)))
        self.register_buffer("alive", torch.ones(edges, ops, dtype=torch.bool))
        for node, (inputs, pairs) in enumerate(zip(self.inputs_of, self.pairs_of, strict=True)):
            # not part of a checkpoint: the inputs of each pair, (pairs, inputs)
            member = [[float(source in pair) for source in range(inputs)] for pair in pairs]
            self.register_buffer(f"member{node}", torch.tensor(member), persistent=False)

    def forward(self, relaxation: Relaxation, threshold: float) -> Tensor:
        """Compute the share of every candidate in its node, `(tasks, edges, ops)`.

        A pair's weight goes to both its inputs, so an edge's weight is the sum over the pairs that
        contain it, and the shares of a node sum to 2. Shares of `threshold` or less become zero,
        unless they are the node's largest. The rest of the node is rescaled: the mixture keeps its
        magnitude while candidates leave it. Without a stack there is one task.
        """
        ops = self.ops if self.ops.ndim == 3 else self.ops[None]
        inputs = self.inputs if self.inputs.ndim == 2 else self.inputs[None]
        weights = relaxation.weights(ops.masked_fill(~self.alive, -torch.inf))
        blocks = [weights[:, :0]]
        edge = 0
        for node, pairs in enumerate(inputs.split(self.pair_counts, dim=1)):
            count = self.inputs_of[node]
            chosen = relaxation.weights(pairs[:, None])
            gates = (chosen @ self.get_buffer(f"member{node}").to(chosen.dtype)).transpose(1, 2)
            share = gates * weights[:, edge : edge + count]
            largest = share.amax(dim=(1, 2), keepdim=True)
            left = torch.where((share > threshold) | (share == largest), share, 0.0)
            dropped = ((share > 0) & (left == 0)).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
            # rescale only then: dividing one-hot samples by their sum would leave the logits of
            # the pair without a gradient
            blocks.append(left * torch.where(dropped, 2.0 / left.sum(dim=(1, 2), keepdim=True), 1))
            edge += count
        return torch.cat(blocks, dim=1)


@dataclass(frozen=True)
class Mixture:
    """The candidates that run on each edge of one kind of cell, and their shares."""

    live: Live
    shares: Tensor
    """`(tasks, candidates)`, in the order of edges."""
    factors: Tensor | None = None
    """Factors of drop path in one cell, `(edges, ops, R, 1, 1, 1)`."""


def mixtures(shares: Sequence[Tensor]) -> tuple[Mixture, ...]:
    """Drop the candidates without a share in any task, for each kind of cell.

    `shares` of each kind are `(tasks, edges, ops)`. The host waits for a device once, for the
    candidates that run.
    """
    every = torch.cat(list(shares), dim=1)
    runs = (every.detach() > 0).any(0)
    live = [tuple(op for op, alive in enumerate(row) if alive) for row in runs.tolist()]
    ops = every.shape[2]
    index = [edge * ops + op for edge, some in enumerate(live) for op in some]
    (chosen,) = upload([torch.tensor(index, dtype=torch.long)], every.device)  # none if all are NaN
    ends = list(accumulate((part.shape[1] for part in shares), initial=0))
    lives = [tuple(live[start:end]) for start, end in pairwise(ends)]
    parts = (
        every.flatten(1)
        .index_select(1, chosen)
        .split([sum(map(len, each)) for each in lives], dim=1)
    )
    return tuple(Mixture(each, part) for each, part in zip(lives, parts, strict=True))
