"""The supernet: every candidate operation on every edge, mixed by relaxed architecture weights.

Search space of MetaNAS (arXiv:1911.11090): a cell has two inputs (the outputs of the two cells
before it) and `nodes` intermediate nodes; each node takes exactly one *pair* of its predecessors;
the cell's output is the concatenation of its nodes. All normal cells share one set of architecture
parameters (alphas), all reduction cells another.

Notable:
- The alphas are parameters of the module, under `alpha.`, beside the weights: one dict of tensors
  is all that a meta-learner or a task optimizer sees, and `torch.func.functional_call` runs it.
- Norms take their statistics from the support rows of the batch; the supernet has no buffers but
  the masks of operations that meta-training has pruned.
- Evaluation is source-stationary where it is exact: an operation without parameters gives the same
  result on every edge that leaves a state, so it runs once a state, not once an edge.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from metanas.errors import UnknownName
from metanas.genotype import CELL_KINDS, Genotype, derive
from metanas.ops import Norm, Op, channels_last, conv, reduce_norm, relu_conv_norm
from metanas.relax import Relaxation
from metanas.space import SearchSpace

ALPHA_PREFIX = "alpha."


def is_alpha(name: str) -> bool:
    """Whether a parameter of this name belongs to the architecture."""
    return name.startswith(ALPHA_PREFIX)


class CellAlpha(nn.Module):
    """Architecture logits of one kind of cell, and which operations are still candidates.

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

    def shares(
        self, relaxation: Relaxation, threshold: float, generator: torch.Generator | None
    ) -> Tensor:
        """Share of every candidate in its node, of shape (edges, ops); a node's shares sum to 2.

        A pair's weight goes to both its inputs, so an edge's weight is the sum over the pairs that
        contain it. Shares of `threshold` or less become zero, unless they are the node's largest,
        and the rest of the node is rescaled: the mixture keeps its magnitude while candidates leave
        it.
        """
        logits = self.ops.masked_fill(~self.alive, -torch.inf)
        weights = relaxation.weights(logits, generator)
        blocks = []
        pair = edge = 0
        for inputs, pairs in zip(self.inputs_of, self.pairs_of, strict=True):
            chosen = relaxation.weights(self.inputs[pair : pair + len(pairs)], generator)
            left, right = zip(*pairs, strict=True)
            empty = chosen.new_zeros(inputs)
            gates = empty.index_add(0, _index(left, chosen), chosen)
            gates = gates.index_add(0, _index(right, chosen), chosen)
            share = gates[:, None] * weights[edge : edge + inputs]
            kept = torch.where((share > threshold) | (share == share.max()), share, 0.0)
            blocks.append(kept * (2.0 / kept.sum()))
            pair, edge = pair + len(pairs), edge + inputs
        return torch.cat(blocks)


def _index(values: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)


@dataclass(frozen=True)
class Mixture:
    """Shares `(edges, ops)` of one kind of cell, with the indices of those that are not zero."""

    shares: Tensor
    live: tuple[tuple[int, ...], ...]


class Cell(nn.Module):
    """One cell of the supernet: `nodes` mixtures over all earlier states."""

    def __init__(
        self, space: SearchSpace, index: int, inputs: tuple[int, int], ops: Mapping[str, Op]
    ) -> None:
        super().__init__()
        width = space.channels[index]
        self.reduction = index in space.reductions
        narrower = index - 1 in space.reductions
        self.before = (reduce_norm if narrower else relu_conv_norm)(inputs[0], width)
        self.last = relu_conv_norm(inputs[1], width)
        self.edges = nn.ModuleList(
            nn.ModuleList(ops[name].build(width, self.stride(source)) for name in space.ops)
            for node in range(space.nodes)
            for source in range(node + 2)
        )
        self.nodes = space.nodes
        self.parameterless = [
            [not any(True for _ in op.parameters()) for op in edge.children()]
            for edge in self.edges
        ]

    def stride(self, source: int) -> int:
        """Reduction cells halve the resolution on the edges that leave the cell's inputs."""
        return 2 if self.reduction and source < 2 else 1

    def forward(self, before: Tensor, last: Tensor, support: int, mixture: Mixture) -> Tensor:
        states = [self.before(before, support), self.last(last, support)]
        shared: dict[tuple[int, int], Tensor] = {}
        edge = 0
        for node in range(self.nodes):
            total: Tensor | None = None
            for source in range(node + 2):
                for op in mixture.live[edge]:
                    out = self._run(edge, source, op, states[source], support, shared)
                    share = mixture.shares[edge, op]
                    total = out * share if total is None else torch.addcmul(total, out, share)
                edge += 1
            assert total is not None
            states.append(total)
        return torch.cat(states[2:], dim=1)

    def _run(
        self,
        edge: int,
        source: int,
        op: int,
        state: Tensor,
        support: int,
        shared: dict[tuple[int, int], Tensor],
    ) -> Tensor:
        if not self.parameterless[edge][op]:
            return self._op(edge, op, state, support)
        if (source, op) not in shared:
            shared[source, op] = self._op(edge, op, state, support)
        return shared[source, op]

    def _op(self, edge: int, op: int, state: Tensor, support: int) -> Tensor:
        candidates = self.edges[edge]
        assert isinstance(candidates, nn.ModuleList)
        out: Tensor = candidates[op](state, support)
        return out


class Supernet(nn.Module):
    """Stem, cells and global average pooling: images to features.

    `head.log_scale` is the logarithm of the scale of prototype logits, meta-learned with the rest.

    Raises:
        UnknownName: the space has an operation that `ops` has not.
    """

    def __init__(self, space: SearchSpace, ops: Mapping[str, Op]) -> None:
        super().__init__()
        for name in space.ops:
            if name not in ops:
                raise UnknownName("op", name, tuple(ops))
        self.space = space
        self.alpha = nn.ModuleDict(
            {kind: CellAlpha(space.nodes, len(space.ops)) for kind in CELL_KINDS}
        )
        stem = space.stem_channels
        stride = (space.stem_stride, space.stem_stride)
        self.stem = conv(space.input_channels, stem, (3, 3), stride)
        self.stem_norm = Norm(stem)
        self.cells = nn.ModuleList()
        widths = (stem, stem)
        for index in range(space.cells):
            self.cells.append(Cell(space, index, widths, ops))
            widths = (widths[1], space.nodes * space.channels[index])
        self.head = nn.ParameterDict({"log_scale": nn.Parameter(torch.tensor(0.0))})

    def cell_alpha(self, kind: str) -> CellAlpha:
        """The architecture parameters of the cells of this kind: "normal" or "reduce"."""
        alpha = self.alpha[kind]
        assert isinstance(alpha, CellAlpha)
        return alpha

    @torch.no_grad()
    def entropy(self, params: Mapping[str, Tensor], relaxation: Relaxation) -> float:
        """Mean entropy of the mixture weights over an edge's candidates, in nats."""
        rows = [
            relaxation.weights(
                params[f"{ALPHA_PREFIX}{kind}.ops"].masked_fill(
                    ~self.cell_alpha(kind).alive, -torch.inf
                )
            )
            for kind in CELL_KINDS
        ]
        return float(torch.special.entr(torch.cat(rows)).sum(1).mean())

    def forward(
        self,
        x: Tensor,
        support: int,
        relaxation: Relaxation,
        threshold: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Features `(N, features)` of images `(N, C, H, W)`.

        The first `support` images set the normalisation statistics. Candidates whose share of their
        node is at most `threshold` are not run.
        """
        mixtures = {
            kind: _mixture(self.cell_alpha(kind), relaxation, threshold, generator)
            for kind in CELL_KINDS
        }
        stem = channels_last(self.stem(x))
        before = last = self.stem_norm(stem, support)
        for cell in self.cells:
            kind = "reduce" if cell.reduction else "normal"
            before, last = last, cell(before, last, support, mixtures[kind])
        features: Tensor = last.mean(dim=(2, 3))
        return features


def _mixture(
    alpha: CellAlpha,
    relaxation: Relaxation,
    threshold: float,
    generator: torch.Generator | None,
) -> Mixture:
    shares = alpha.shares(relaxation, threshold, generator)
    rows = shares.detach().tolist()
    return Mixture(shares, tuple(tuple(k for k, v in enumerate(row) if v > 0.0) for row in rows))


def initialise(supernet: Supernet, generator: torch.Generator) -> None:
    """Fresh parameters, from this generator alone.

    Convolutions are uniform within 1 / sqrt(fan in); alphas are nearly equal (normal, 1e-3, as in
    the published code); the scale of the logits is such that a fresh network's loss is moderate.
    """
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if is_alpha(name):
                parameter.normal_(0.0, 1e-3, generator=generator)
            elif parameter.ndim == 4:
                bound = parameter[0].numel() ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
        supernet.head["log_scale"].fill_(math.log(20.0 / supernet.space.features))


def genotype_of(supernet: Supernet, params: Mapping[str, Tensor]) -> Genotype:
    """The discrete architecture at the maximum of the alphas in `params`."""
    cells = {}
    for kind in CELL_KINDS:
        alive = supernet.cell_alpha(kind).alive
        logits = params[f"{ALPHA_PREFIX}{kind}.ops"].masked_fill(~alive, -torch.inf)
        pairs = params[f"{ALPHA_PREFIX}{kind}.inputs"]
        cells[kind] = derive(logits.tolist(), pairs.tolist(), supernet.space.ops)
    return Genotype(**cells)
