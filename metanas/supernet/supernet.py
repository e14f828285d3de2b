"""The supernet: every candidate operation on every edge, mixed by relaxed architecture weights.

Search space of MetaNAS (arXiv:1911.11090): a cell has two inputs (the outputs of the two cells
before it) and `nodes` intermediate nodes; each node takes exactly one *pair* of its predecessors;
the cell's output is the concatenation of its nodes. All normal cells share one set of architecture
parameters (alphas), all reduction cells another.

Notes:
- The alphas are parameters of the module, under `alpha.`, beside the weights. Meta-learners and
  task optimizers work on one dict of tensors, and `torch.func.functional_call` runs it.
- Norms take their statistics from the support rows of the batch. The only buffers with state are
  the masks of candidates.
- One forward pass evaluates a stack of tasks: with several tasks in `rows`, all parameters (alphas
  too) have a leading task dimension.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.errors import UnknownName
from metanas.nn.functional import Rows
from metanas.nn.ops import Op
from metanas.nn.stem import Embedding, entry
from metanas.nn.trunk import pooled
from metanas.spec.genotype import CELL_KINDS, Genotype, derive
from metanas.spec.search_space import SearchSpace
from metanas.supernet.alphas import ALPHA_PREFIX, CellAlpha, is_alpha, mixtures
from metanas.supernet.cell import Cell, DropPath
from metanas.supernet.relaxations import Relaxation

ACTIVATIONS = 2
"""Tensors of a state's size that a candidate operation keeps for the backward pass, on average."""


class Supernet(nn.Module):
    """Stem, cells and global average pooling: images to features.

    `head.log_scale` is the logarithm of the scale of prototype logits, meta-learned with the rest.

    Raises:
        UnknownName: `ops` lacks an operation of the space.
    """

    def __init__(self, space: SearchSpace, ops: Mapping[str, Op]) -> None:
        super().__init__()
        for name in space.ops:
            if name not in ops:
                raise UnknownName("op", name, tuple(ops))
        self.space = space
        nodes = space.nodes if space.cells else 0
        self.alpha = nn.ModuleDict({kind: CellAlpha(nodes, len(space.ops)) for kind in CELL_KINDS})
        self.stem = entry(space)
        self.embed = Embedding(space) if space.trunk else None
        self.cells = nn.ModuleList()
        widths = self.stem.widths
        for index in range(space.cells):
            self.cells.append(Cell(space, index, widths, ops))
            widths = (widths[1], space.nodes * space.channels[index])
        self.head = nn.ParameterDict({"log_scale": nn.Parameter(torch.tensor(0.0))})

    def cell_alpha(self, kind: str) -> CellAlpha:
        """Return the architecture parameters of the cells of this kind: "normal" or "reduce"."""
        alpha = self.alpha[kind]
        assert isinstance(alpha, CellAlpha)
        return alpha

    def live(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters without those of pruned operations."""
        alive = {kind: self.cell_alpha(kind).alive.tolist() for kind in CELL_KINDS}

        def takes_part(name: str) -> bool:
            parts = name.split(".")
            if len(parts) < 5 or parts[2] != "edges":
                return True
            kind = "reduce" if int(parts[1]) in self.space.reductions else "normal"
            return bool(alive[kind][int(parts[3])][int(parts[4])])

        return {name: value for name, value in params.items() if takes_part(name)}

    def activation_bytes(self, size: int) -> tuple[int, ...]:
        """Estimate the bytes of an image that the stem and each cell keep for the backward pass."""
        elements = [self.stem.activations(size)]
        for index, side in enumerate(self.space.sides(size)[1:]):
            width = self.space.channels[index]
            alive = self.cell_alpha("reduce" if index in self.space.reductions else "normal").alive
            elements.append(int(alive.sum()) * ACTIVATIONS * width * side**2)
        return tuple(4 * count for count in elements)

    @torch.no_grad()
    def entropy(self, params: Mapping[str, Tensor], relaxation: Relaxation) -> Tensor:
        """Compute the mean entropy over an edge's candidates, in nats: `(tasks,)`, or `()`."""
        weights = [
            relaxation.weights(
                params[f"{ALPHA_PREFIX}{kind}.ops"].masked_fill(
                    ~self.cell_alpha(kind).alive, -torch.inf
                )
            )
            for kind in CELL_KINDS
        ]
        of_edges: Tensor = torch.special.entr(torch.cat(weights, dim=-2)).sum(-1)
        return of_edges.mean(-1)

    def forward(
        self,
        x: Tensor,
        rows: Rows,
        relaxation: Relaxation,
        threshold: float = 0.0,
        *,
        recompute: int = 0,
        drop: DropPath | None = None,
    ) -> Tensor:
        """Compute features `(R, features)` of images `(R, C, H, W)`.

        threshold: candidates with at most this share of their node, in every task, do not run.
        recompute: number of the first cells whose edges the backward pass evaluates again instead
            of keeping their activations. For all cells, this takes a third more time and a
            fraction of the memory.
        """
        shares = [self.cell_alpha(kind)(relaxation, threshold) for kind in CELL_KINDS]
        mixture_of = dict(zip(CELL_KINDS, mixtures(shares), strict=True))
        if self.embed is not None and not self.cells:
            embedded: Tensor = self.embed(x, None, rows)
            return embedded
        before, last = self.stem(x, rows)
        for index, cell in enumerate(self.cells):
            mixture = mixture_of["reduce" if cell.reduction else "normal"]
            if drop is not None:
                factors = drop.factors(len(mixture.live), len(self.space.ops), last, rows)
                mixture = replace(mixture, factors=factors)
            before, last = last, cell(before, last, rows, mixture, index < recompute)
        features = pooled(last, self.space.grid)
        if self.space.unit:
            features = F.normalize(features, dim=1)
        return features if self.embed is None else self.embed(x, features, rows)


def initialise(supernet: Supernet, generator: torch.Generator) -> None:
    """Draw fresh parameters, from this generator alone.

    Convolutions are uniform within 1 / sqrt(fan in). Alphas are nearly equal (normal, 1e-3, as in
    the published code). The scale of the logits gives a fresh network a moderate loss.
    """
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if is_alpha(name):
                parameter.normal_(0.0, 1e-3, generator=generator)
            elif parameter.ndim == 4:
                bound = parameter[0].numel() ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
        unit = supernet.space.unit or supernet.embed is not None
        scale = 8.0 if unit else 20.0 / supernet.space.features
        supernet.head["log_scale"].fill_(math.log(scale))
        if supernet.embed is not None:
            supernet.embed.start()


def genotype_of(supernet: Supernet, params: Mapping[str, Tensor]) -> Genotype:
    """Return the discrete architecture at the maximum of the alphas in `params`."""
    cells = {}
    for kind in CELL_KINDS:
        alive = supernet.cell_alpha(kind).alive
        logits = params[f"{ALPHA_PREFIX}{kind}.ops"].masked_fill(~alive, -torch.inf)
        pairs = params[f"{ALPHA_PREFIX}{kind}.inputs"]
        cells[kind] = derive(logits.tolist(), pairs.tolist(), supernet.space.ops)
    return Genotype(**cells)
