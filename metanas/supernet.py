"""The supernet: every candidate operation on every edge, mixed by relaxed architecture weights.

Search space of MetaNAS (arXiv:1911.11090): a cell has two inputs (the outputs of the two cells
before it) and `nodes` intermediate nodes; each node takes exactly one *pair* of its predecessors;
the cell's output is the concatenation of its nodes. All normal cells share one set of architecture
parameters (alphas), all reduction cells another.

Notable:
- The alphas are parameters of the module, under `alpha.`, beside the weights: one dict of tensors
  is all that a meta-learner or a task optimizer sees, and `torch.func.functional_call` runs it.
- Norms take their statistics from the support rows of the batch; of the supernet's buffers only
  the masks of operations that meta-training has pruned are state.
- Evaluation is source-stationary where it is exact: a ReLU, or an operation without parameters,
  gives the same result on every edge that leaves a state, so it runs once a state, not once an
  edge. The norms at the ends of a node's candidates, their shares and their sum are one kernel.
- All of it runs a stack of tasks at once: with several tasks in `rows`, parameters (alphas too)
  have a leading task dimension.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from metanas.droppath import DropPath
from metanas.ends import Embedding, entry, halves_before, pooled
from metanas.errors import Diverged, UnknownName
from metanas.genotype import CELL_KINDS, Genotype, derive
from metanas.kernels import Rows, mixture, normalise
from metanas.ops import (
    Chain,
    Norm,
    Op,
    each_task,
    has_parameters,
    reduce_norm,
    relu_conv_norm,
)
from metanas.partial import Partial
from metanas.relax import Relaxation
from metanas.space import SearchSpace

ALPHA_PREFIX = "alpha."
KEPT = 3
"""Tensors of a state's size that a candidate operation keeps for the backward pass, on average."""


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
        for node, (inputs, pairs) in enumerate(zip(self.inputs_of, self.pairs_of, strict=True)):
            # not part of a checkpoint: which inputs a pair consists of, (pairs, inputs)
            member = [[float(source in pair) for source in range(inputs)] for pair in pairs]
            self.register_buffer(f"member{node}", torch.tensor(member), persistent=False)

    def shares(
        self, relaxation: Relaxation, threshold: float, generator: torch.Generator | None
    ) -> Tensor:
        """Share of every candidate in its node, `(tasks, edges, ops)`; a node's shares sum to 2.

        A pair's weight goes to both its inputs, so an edge's weight is the sum over the pairs that
        contain it. Shares of `threshold` or less become zero, unless they are the node's largest,
        and the rest of the node is rescaled: the mixture keeps its magnitude while candidates leave
        it. Without a stack of tasks there is one.
        """
        ops = self.ops if self.ops.ndim == 3 else self.ops[None]
        inputs = self.inputs if self.inputs.ndim == 2 else self.inputs[None]
        weights = relaxation.weights(ops.masked_fill(~self.alive, -torch.inf), generator)
        blocks = []
        edge = 0
        for node, pairs in enumerate(inputs.split(self.pair_counts, dim=1)):
            count = self.inputs_of[node]
            chosen = relaxation.weights(pairs[:, None], generator)
            gates = (chosen @ self.get_buffer(f"member{node}").to(chosen.dtype)).transpose(1, 2)
            share = gates * weights[:, edge : edge + count]
            largest = share.amax(dim=(1, 2), keepdim=True)
            kept = torch.where((share > threshold) | (share == largest), share, 0.0)
            dropped = ((share > 0) & (kept == 0)).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
            # only then: where weights are one-hot samples, dividing by their sum would leave the
            # logits of the pair without a gradient
            blocks.append(kept * torch.where(dropped, 2.0 / kept.sum(dim=(1, 2), keepdim=True), 1))
            edge += count
        return torch.cat(blocks, dim=1)


@dataclass(frozen=True)
class Mixture:
    """Shares `(tasks, edges, ops)` of one kind of cell, and which of them any task has."""

    shares: Tensor
    live: tuple[tuple[int, ...], ...]
    factors: Tensor | None = None
    """Of drop path, `(edges, ops, R, 1, 1, 1)`, in one cell."""


@dataclass(frozen=True)
class Candidate:
    """How an operation is evaluated.

    rectified: whether it begins with a ReLU, which all such operations on a state share.
    shared: whether it has no parameters, so that all edges from a state share its result.
    layers: first and last but one of the layers that remain, if it is a `Chain`.
    normed: whether a norm comes last, which the mixture then does for all candidates together.
    identity: whether it returns its input.
    """

    rectified: bool
    shared: bool
    layers: tuple[int, int] | None
    normed: bool
    identity: bool

    @classmethod
    def of(cls, op: nn.Module) -> "Candidate":
        """Look at the layers of an operation."""
        shared = not has_parameters(op)
        if not isinstance(op, Chain):
            return cls(False, shared, None, False, False)
        layers = list(op)
        rectified = bool(layers) and isinstance(layers[0], nn.ReLU)
        normed = bool(layers) and isinstance(layers[-1], Norm)
        ends = (int(rectified), len(layers) - int(normed))
        return cls(rectified, shared, ends, normed, not layers)


class Edge(nn.ModuleList):
    """The candidate operations of one edge."""

    def __init__(self, ops: Iterable[nn.Module]) -> None:
        super().__init__(ops)
        self.candidates = [Candidate.of(op) for op in self]

    def run(self, op: int, state: "State", rows: Rows) -> Tensor:
        """What a candidate makes of a state, less the norm at its end."""
        candidate = self.candidates[op]
        if not candidate.shared:
            return self._run(op, state, rows)
        if op not in state.shared:
            state.shared[op] = self._run(op, state, rows)
        return state.shared[op]

    def _run(self, op: int, state: "State", rows: Rows) -> Tensor:
        candidate, module = self.candidates[op], self[op]
        if isinstance(module, Chain) and candidate.layers is not None:
            x = state.rectified() if candidate.rectified else state.x
            return module.part(x, rows, *candidate.layers)
        if rows.tasks > 1 and not isinstance(module, Partial):
            return each_task(module, state.x, rows.tasks, rows)
        out: Tensor = module(state.x, rows)
        return out

    def forward(self, x: Tensor, rows: Rows, shares: Tensor, live: tuple[int, ...]) -> Tensor:
        """The mixture of some candidates, whose shares are `(tasks, len(live))`, of a state."""
        state = State(x)
        outs = [self.run(op, state, rows) for op in live]
        return mixture(outs, tuple(self.candidates[op].normed for op in live), shares, rows)


class State:
    """A node's value during a forward pass, with what several edges share of its evaluation."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.shared: dict[int, Tensor] = {}
        self._rectified: Tensor | None = None

    def rectified(self) -> Tensor:
        """Its positive part."""
        if self._rectified is None:
            self._rectified = torch.relu(self.x)
        return self._rectified


Chosen = tuple[int, int]
"""Input of a node, and operation on the edge from there."""


class Cell(nn.Module):
    """One cell of the supernet: `nodes` mixtures over all earlier states."""

    def __init__(
        self, space: SearchSpace, index: int, inputs: tuple[int, int], ops: Mapping[str, Op]
    ) -> None:
        super().__init__()
        width = space.channels[index]
        self.reduction = index in space.reductions
        halving = halves_before(space, index)
        self.before = (reduce_norm if halving else relu_conv_norm)(inputs[0], width)
        self.last = relu_conv_norm(inputs[1], width)
        self.edges = nn.ModuleList(
            Edge(ops[name].build(width, self.stride(source)) for name in space.ops)
            for node in range(space.nodes)
            for source in range(node + 2)
        )
        self.nodes = space.nodes

    def stride(self, source: int) -> int:
        """Reduction cells halve the resolution on the edges that leave the cell's inputs."""
        return 2 if self.reduction and source < 2 else 1

    def forward(
        self, before: Tensor, last: Tensor, rows: Rows, mixed: Mixture, recompute: bool = False
    ) -> Tensor:
        run = _again if recompute else _once
        states = [State(run(self.before, before, rows)), State(run(self.last, last, rows))]
        edge = 0
        for _ in range(self.nodes):
            chosen = [(i, op) for i in range(len(states)) for op in mixed.live[edge + i]]
            if not chosen:  # no share is above anything: they are NaN
                raise Diverged("the mixture is not finite; lower the learning rates")
            if recompute and mixed.factors is None:
                value = self._recomputed(states, edge, chosen, mixed, rows)
            else:
                value = self._mixed(states, edge, chosen, mixed, rows)
            edge += len(states)
            states.append(State(value))
        return torch.cat([state.x for state in states[2:]], dim=1)

    def _mixed(
        self, states: list[State], first: int, chosen: list[Chosen], mixed: Mixture, rows: Rows
    ) -> Tensor:
        """The sum of these candidates of a node, whose edges are those from `first` on."""
        outs, normed, index = [], [], []
        for source, op in chosen:
            edge = self._edge(first + source)
            outs.append(edge.run(op, states[source], rows))
            normed.append(edge.candidates[op].normed)
            index.append((first + source) * len(edge) + op)
        if mixed.factors is not None:
            outs = self._dropped(chosen, first, outs, mixed.factors, rows)
            normed = [False] * len(outs)
        shares = mixed.shares.flatten(1)
        own = shares.index_select(1, torch.tensor(index, device=shares.device))
        return mixture(outs, tuple(normed), own, rows)

    def _dropped(
        self, chosen: list[Chosen], first: int, outs: list[Tensor], factors: Tensor, rows: Rows
    ) -> list[Tensor]:
        """What candidates return, norms included, with some rows zero unless it is an identity."""
        dropped = []
        for (source, op), out in zip(chosen, outs, strict=True):
            candidate = self._edge(first + source).candidates[op]
            value = normalise(out, rows) if candidate.normed else out
            dropped.append(value if candidate.identity else value * factors[first + source, op])
        return dropped

    def _recomputed(
        self, states: list[State], first: int, chosen: list[Chosen], mixed: Mixture, rows: Rows
    ) -> Tensor:
        """The same, keeping nothing of what happens on edges; states then share nothing either."""
        parts = []
        for source, state in enumerate(states):
            if live := tuple(op for i, op in chosen if i == source):
                shares = mixed.shares[:, first + source, list(live)]
                parts.append(_again(self._edge(first + source), state.x, rows, shares, live))
        return sum(parts[1:], start=parts[0])

    def _edge(self, index: int) -> Edge:
        edge = self.edges[index]
        assert isinstance(edge, Edge)
        return edge


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
        self.stem = entry(space)
        self.embed = Embedding(space) if space.trunk else None
        self.cells = nn.ModuleList()
        widths = self.stem.widths
        for index in range(space.cells):
            self.cells.append(Cell(space, index, widths, ops))
            widths = (widths[1], space.nodes * space.channels[index])
        self.head = nn.ParameterDict({"log_scale": nn.Parameter(torch.tensor(0.0))})

    def cell_alpha(self, kind: str) -> CellAlpha:
        """The architecture parameters of the cells of this kind: "normal" or "reduce"."""
        alpha = self.alpha[kind]
        assert isinstance(alpha, CellAlpha)
        return alpha

    def is_live(self, name: str) -> bool:
        """Whether a parameter of this name takes part; those of pruned operations do not."""
        parts = name.split(".")
        if len(parts) < 5 or parts[2] != "edges":
            return True
        kind = "reduce" if int(parts[1]) in self.space.reductions else "normal"
        return bool(self.cell_alpha(kind).alive[int(parts[3]), int(parts[4])])

    def activation_bytes(self, images: int, size: int) -> int:
        """About how much a forward pass keeps for the backward pass of images of this side."""
        elements = self.stem.kept(size)
        for index, side in enumerate(self.space.sides(size)[1:]):
            width = self.space.channels[index]
            alive = self.cell_alpha("reduce" if index in self.space.reductions else "normal").alive
            elements += int(alive.sum()) * KEPT * width * side**2
        return 4 * images * elements

    @torch.no_grad()
    def entropy(self, params: Mapping[str, Tensor], relaxation: Relaxation) -> Tensor:
        """Mean entropy of the weights over an edge's candidates, in nats: `(tasks,)`, or `()`."""
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
        generator: torch.Generator | None = None,
        *,
        recompute: bool = False,
        drop: DropPath | None = None,
    ) -> Tensor:
        """Features `(R, features)` of images `(R, C, H, W)`.

        Candidates whose share of their node is at most `threshold` in every task are not run. With
        `recompute` the backward pass evaluates every edge once more instead of keeping what is in
        it: a third more time for a fraction of the memory.
        """
        shares = [self.cell_alpha(k).shares(relaxation, threshold, generator) for k in CELL_KINDS]
        mixtures = dict(zip(CELL_KINDS, _mixtures(shares), strict=True))
        before, last = inputs = self.stem(x, rows)
        for cell in self.cells:
            mixed = mixtures["reduce" if cell.reduction else "normal"]
            if drop is not None:
                edges, ops = mixed.shares.shape[1:]
                mixed = replace(mixed, factors=drop.factors(edges, ops, last, rows))
            before, last = last, cell(before, last, rows, mixed, recompute)
        features = pooled(last, self.space)
        return features if self.embed is None else self.embed(inputs[1], features, rows)


def _once(module: nn.Module, *arguments: object) -> Tensor:
    out: Tensor = module(*arguments)
    return out


def _again(module: nn.Module, *arguments: object) -> Tensor:
    """What a module returns, evaluated again in the backward pass; nothing random is in it."""
    # its parameters of now: the backward pass comes after functional_call has restored others
    params: dict[str, Tensor] = dict(module.named_parameters())
    run = partial(functional_call, module, params, tie_weights=False)
    out: Tensor = checkpoint(run, arguments, use_reentrant=False, preserve_rng_state=False)
    return out


def _mixtures(shares: Sequence[Tensor]) -> list[Mixture]:
    """With the candidates that are to run, for which a device is waited for once."""
    rows = iter(torch.cat([(part.detach() > 0).any(0) for part in shares]).tolist())
    return [
        Mixture(part, tuple(tuple(k for k, live in enumerate(next(rows)) if live) for _ in part[0]))
        for part in shares
    ]


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
        if supernet.embed is None:
            supernet.head["log_scale"].fill_(math.log(20.0 / supernet.space.features))
        else:  # features of length one
            supernet.head["log_scale"].fill_(math.log(8.0))
            supernet.embed.start()


def genotype_of(supernet: Supernet, params: Mapping[str, Tensor]) -> Genotype:
    """The discrete architecture at the maximum of the alphas in `params`."""
    cells = {}
    for kind in CELL_KINDS:
        alive = supernet.cell_alpha(kind).alive
        logits = params[f"{ALPHA_PREFIX}{kind}.ops"].masked_fill(~alive, -torch.inf)
        pairs = params[f"{ALPHA_PREFIX}{kind}.inputs"]
        cells[kind] = derive(logits.tolist(), pairs.tolist(), supernet.space.ops)
    return Genotype(**cells)
