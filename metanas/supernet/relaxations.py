"""Relaxations: from architecture logits to mixture weights.

A relaxation is a frozen value with two methods. `weights(logits, generator)` maps logits `(..., K)`
to non-negative weights of the same shape that sum to one over the last dimension; `at(temperature)`
is the same relaxation at another temperature. It depends on neither operations nor images: one call
computes the weights of all edges, and the supernet evaluates the mixture in the fastest order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, Self

import torch
from torch import Tensor

from metanas.nn.devices import upload


class Relaxation(Protocol):
    """The contract of a relaxation for the supernet, adaptation and meta-training."""

    def at(self, temperature: float) -> Self:
        """Return the same relaxation at another temperature."""
        ...

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return mixture weights of the shape of `logits`; entries at -inf get exactly zero."""
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
class Gumbel:
    """One-hot at a sample from the softmax of the logits, with the gradient of soft weights.

    The supernet then runs the sampled operations alone (GDAS, Dong & Yang, CVPR 2019,
    arXiv:1910.04465, eq. 6 and 7).
    """

    temperature: float = 1.0

    def at(self, temperature: float) -> Self:
        return replace(self, temperature=temperature)

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noisy = logits + gumbel_like(logits, generator)
        soft = torch.softmax(noisy / self.temperature, dim=-1)
        # soft - soft.detach() is exactly zero: operations that are not sampled have weight zero
        return Argmax().weights(soft) + (soft - soft.detach())


@dataclass(frozen=True)
class Noisy:
    """Another relaxation, of logits with Gumbel noise of this scale.

    A softmax with noise of scale 1 is the concrete distribution (arXiv:1611.00712, eq. 10).
    Meta-training adds a little noise. So it trains the weights for every architecture that
    adaptation may choose, not for the present best one alone.
    """

    relaxation: Relaxation
    scale: float

    def at(self, temperature: float) -> Self:
        return replace(self, relaxation=self.relaxation.at(temperature))

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noisy = logits + self.scale * gumbel_like(logits, generator)
        return self.relaxation.weights(noisy, generator)


def gumbel_like(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard Gumbel noise of the shape of `logits`, on the generator's device.

    Raises:
        ValueError: there is no generator; torch's global one is never used.
    """
    if generator is None:
        raise ValueError("a relaxation with noise needs a generator; pass one")
    uniform = torch.rand(logits.shape, generator=generator, device=generator.device)
    if uniform.device != logits.device:
        (uniform,) = upload([uniform], logits.device)
    return -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))


@dataclass(frozen=True)
class Argmax:
    """One-hot at the largest logit: the limit of every relaxation at temperature zero."""

    def at(self, temperature: float) -> Self:
        return self

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        chosen = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, chosen, 1.0)


@dataclass(frozen=True)
class PerTask:
    """A relaxation and a generator for each task of a stack, whose logits are `(tasks, ..., K)`.

    Each task draws from its generator alone, so its noise does not depend on the stack.
    """

    relaxations: tuple[Relaxation, ...]
    generators: tuple[torch.Generator, ...]

    def at(self, temperature: float) -> Self:
        return replace(self, relaxations=tuple(each.at(temperature) for each in self.relaxations))

    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        first = self.relaxations[0]
        # softmax and argmax draw nothing: tasks at the same temperature share one call
        draws = not isinstance(first, Softmax | Argmax)
        if not draws and all(each == first for each in self.relaxations):
            return first.weights(logits)
        if len(self.relaxations) == 1:  # logits of a single task may lack the task dimension
            return first.weights(logits, self.generators[0])
        parts = zip(self.relaxations, logits.split(1), self.generators, strict=True)
        return torch.cat([each.weights(part, generator) for each, part, generator in parts])


def annealed(start: float, end: float, step: int, steps: int) -> float:
    """Temperature of `step` (0-based) of `steps`, falling geometrically from `start` to `end`.

    A single step runs at `end`: it is the only one before pruning. MetaNAS anneals linearly. Here
    every step divides the temperature by the same factor, so a few steps reach a one-hot mixture
    without a jump.
    """
    if steps <= 1:
        return end
    share = min(step, steps - 1) / (steps - 1)
    return float(start * (end / start) ** share)


RELAXATIONS: Mapping[str, Relaxation] = MappingProxyType(
    {"darts": Softmax(), "gdas": Gumbel(), "fixed": Argmax()}
)
"""The relaxations of published searches; `fixed` learns no architecture.

PC-DARTS is each of them in a search space of partial channels (`SearchSpace.partial`).
"""
