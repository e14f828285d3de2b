"""Relaxations: how architecture logits become mixture weights.

A relaxation is a frozen value with one method, `weights(logits, generator)`, that maps logits
`(..., K)` to non-negative weights of the same shape summing to one over the last dimension. It
knows neither ops nor images, so one call serves a whole table of edges and the supernet is free to
evaluate the mixture in whatever order is fastest.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor


class Mixer(Protocol):
    """What the supernet needs to mix its candidates."""

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mixture weights of the shape of `logits`; entries at -inf get exactly zero."""
        ...


class Relaxation(Mixer, Protocol):
    """What adaptation and meta-training need of a relaxation."""

    @property
    def temperature(self) -> float: ...

    def at(self, temperature: float) -> Self:
        """The same relaxation at another temperature."""
        ...


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Softmax of logits over temperature: DARTS (arXiv:1806.09055, eq. 2), annealed by MetaNAS."""

    temperature: float = 1.0

    def at(self, temperature: float) -> Self:
        return replace(self, temperature=temperature)

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.softmax(logits / self.temperature, dim=-1)


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """Softmax of logits plus Gumbel noise: the concrete distribution (arXiv:1611.00712, eq. 10).

    `noise` scales the Gumbel noise; at 1 and a low temperature the argmax is a sample from the
    softmax of the logits. Meta-training uses it so that the weights have met every architecture to
    which adaptation may turn, not only the current favourite.
    """

    temperature: float = 1.0
    noise: float = 1.0

    def at(self, temperature: float) -> Self:
        return replace(self, temperature=temperature)

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return torch.softmax((logits + self.noise * gumbel) / self.temperature, dim=-1)


@dataclass(frozen=True)
class Decided:
    """One-hot at the largest logit: the limit of every relaxation at temperature zero."""

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        chosen = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, chosen, 1.0)


@dataclass(frozen=True)
class Stacked:
    """A mixer for each task of a stack, whose logits are `(tasks, ..., K)`."""

    mixers: tuple[Mixer, ...]

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        first = self.mixers[0]
        if all(mixer == first for mixer in self.mixers):
            return first.weights(logits, generator)
        parts = zip(self.mixers, logits.split(1), strict=True)
        return torch.cat([mixer.weights(part, generator) for mixer, part in parts])


def annealed(start: float, end: float, step: int, steps: int) -> float:
    """Temperature of `step` (0-based) of `steps`, falling geometrically from `start` to `end`.

    A single step runs at `end`: it is the only one before pruning. (MetaNAS anneals linearly; the
    geometric form spends equal numbers of steps on every factor of sharpness, so that a handful of
    steps reaches a one-hot mixture without a jump.)
    """
    if steps <= 1:
        return end
    share = min(step, steps - 1) / (steps - 1)
    return float(start * (end / start) ** share)
