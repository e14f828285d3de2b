"""A cell of the supernet: every candidate operation on every edge, and their mixtures.

A ReLU, or an operation without parameters, gives the same result on every edge that leaves a state.
So it runs once a state, not once an edge. One kernel computes the norms at the ends of a node's
candidates, multiplies by their shares and adds them up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from metanas.errors import Diverged
from metanas.nn.functional import Rows, mixture, normalise
from metanas.nn.ops import (
    Chain,
    Norm,
    Op,
    each_task,
    has_parameters,
    reduce_norm,
    relu_conv_norm,
)
from metanas.nn.partial_channels import Partial
from metanas.nn.stem import halves_before
from metanas.spec.search_space import SearchSpace
from metanas.supernet.alphas import Live, Mixture


@dataclass(frozen=True)
class Candidate:
    """The evaluation of an operation.

    rectified: it begins with a ReLU, which all such operations on a state share.
    shared: it has no parameters, so all edges from a state share its result.
    layers: range of the layers that remain, if it is a `Chain`.
    normed: it ends with a norm, which the mixture computes for all candidates together.
    identity: it returns its input.
    """

    rectified: bool
    shared: bool
    layers: tuple[int, int] | None
    normed: bool
    identity: bool

    @classmethod
    def of(cls, op: nn.Module) -> "Candidate":
        """Classify an operation by its layers."""
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
        """Apply a candidate to a state, without the norm at its end."""
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
        """Mix some candidates of a state; their shares are `(tasks, len(live))`."""
        state = State(x)
        outs = [self.run(op, state, rows) for op in live]
        return mixture(outs, tuple(self.candidates[op].normed for op in live), shares, rows)


class State:
    """The value of a node during a forward pass, and the results that several edges share."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.shared: dict[int, Tensor] = {}
        self._rectified: Tensor | None = None

    def rectified(self) -> Tensor:
        """Return the positive part of the value."""
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
        """Return the stride of edges from a source: 2 from the inputs of a reduction cell."""
        return 2 if self.reduction and source < 2 else 1

    def forward(
        self, before: Tensor, last: Tensor, rows: Rows, mixed: Mixture, recompute: bool = False
    ) -> Tensor:
        run = _recompute if recompute else _run
        states = [State(run(self.before, before, rows)), State(run(self.last, last, rows))]
        edge = candidate = 0
        for _ in range(self.nodes):
            live = mixed.live[edge : edge + len(states)]
            count = sum(map(len, live))
            if not count:  # no share is above the threshold: all are NaN
                raise Diverged("the mixture is not finite; lower the learning rates")
            shares = mixed.shares[:, candidate : candidate + count]
            if recompute and mixed.factors is None:
                value = self._recomputed(states, edge, live, shares, rows)
            else:
                value = self._mixed(states, edge, live, shares, rows, mixed.factors)
            edge, candidate = edge + len(states), candidate + count
            states.append(State(value))
        return torch.cat([state.x for state in states[2:]], dim=1)

    def _mixed(
        self,
        states: list[State],
        first: int,
        live: Live,
        shares: Tensor,
        rows: Rows,
        factors: Tensor | None,
    ) -> Tensor:
        """Sum these candidates of a node, whose edges begin at index `first`."""
        chosen = [(source, op) for source, ops in enumerate(live) for op in ops]
        outs = [self._edge(first + source).run(op, states[source], rows) for source, op in chosen]
        normed = [self._edge(first + source).candidates[op].normed for source, op in chosen]
        if factors is not None:
            outs = self._dropped(chosen, first, outs, factors, rows)
            normed = [False] * len(outs)
        return mixture(outs, tuple(normed), shares, rows)

    def _dropped(
        self, chosen: list[Chosen], first: int, outs: list[Tensor], factors: Tensor, rows: Rows
    ) -> list[Tensor]:
        """Apply candidates with their norms and their factors of drop path, except identities."""
        dropped = []
        for (source, op), out in zip(chosen, outs, strict=True):
            candidate = self._edge(first + source).candidates[op]
            value = normalise(out, rows) if candidate.normed else out
            dropped.append(value if candidate.identity else value * factors[first + source, op])
        return dropped

    def _recomputed(
        self, states: list[State], first: int, live: Live, shares: Tensor, rows: Rows
    ) -> Tensor:
        """Sum as `_mixed` does; keep no activations of edges and share no results."""
        parts = [
            _recompute(self._edge(first + source), states[source].x, rows, part, live[source])
            for source, part in enumerate(shares.split([len(ops) for ops in live], dim=1))
            if live[source]
        ]
        return sum(parts[1:], start=parts[0])

    def _edge(self, index: int) -> Edge:
        edge = self.edges[index]
        assert isinstance(edge, Edge)
        return edge


@dataclass(frozen=True)
class DropPath:
    """Leave an operation out with probability `rate`, and divide the others by 1 - rate.

    Drawn for each row (Larsson et al., arXiv:1605.07648, local drop path, as DARTS-like cells use
    it: never on an identity). There is one generator a task.
    """

    rate: float
    generators: tuple[torch.Generator, ...]

    def factors(self, edges: int, ops: int, x: Tensor, rows: Rows) -> Tensor:
        """Draw the factors of every operation's rows, `(edges, ops, R, 1, 1, 1)`.

        All operations get factors, also those that do not run: the draws of a task must not
        depend on the other tasks of its stack.
        """
        shape = (edges, ops, len(x) // rows.tasks)
        draws = [torch.rand(shape, generator=generator) for generator in self.generators]
        stays = (torch.cat(draws, dim=2) >= self.rate).to(x)
        return (stays / (1 - self.rate))[..., None, None, None]


def _run(module: nn.Module, *arguments: object) -> Tensor:
    out: Tensor = module(*arguments)
    return out


def _recompute(module: nn.Module, *arguments: object) -> Tensor:
    """Run a deterministic module, and evaluate it again in the backward pass."""
    # keep the present parameters: functional_call restores others before the backward pass
    params: dict[str, Tensor] = dict(module.named_parameters())
    run = partial(functional_call, module, params, tie_weights=False)
    out: Tensor = checkpoint(run, arguments, use_reentrant=False, preserve_rng_state=False)
    return out
