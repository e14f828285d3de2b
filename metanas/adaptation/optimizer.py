"""The task optimizer: steps on the weights and alphas of one task.

All parameters of a task lie in one flat vector, weights before alphas; the network sees views into
it. A task is loaded or read with one copy, and a step is one kernel for the weights and one for the
alphas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from metanas.errors import Diverged
from metanas.spec.options import AdaptConfig
from metanas.supernet.adam import Moments, descend
from metanas.supernet.flat_params import Layout, Params


@dataclass(frozen=True)
class Moves:
    """Parameters that an update moves."""

    weights: bool = True
    alphas: bool = True


class TaskOptimizer:
    """Hold and step the parameters of one task.

    `theta` is the flat vector `(size,)`. `params` are views of it to run the network with. Both
    change in place with every step.

    options: step sizes and the largest norm of a gradient.
    plain: plain gradient steps, as MAML takes them, instead of Adam.
    rates: learned factors on the length of a parameter's steps (Meta-SGD), by name.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        options: AdaptConfig,
        *,
        plain: bool = False,
        rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.layout = Layout(params)
        self.theta = self.layout.flatten(params)
        self.params = self.layout.views(self.theta)
        self._lengths = options.weight_lr, options.alpha_lr
        self._clip, self._plain = options.gradient_clip, plain
        self._parts = self.layout.split(self.theta)
        self._moments = [Moments.zero(part) for part in self._parts]
        self._factors: tuple[Tensor, ...] = ()
        if rates:
            each = torch.tensor([rates.get(name, 1.0) for name in self.layout.names])
            self._factors = self.layout.split(self.layout.spread(each).to(self.theta))

    def snapshot(self) -> Params:
        """Copy the parameters."""
        return self.layout.views(self.theta.clone())

    def descend(self, gradient: Tensor, norms: Sequence[float], moves: Moves = Moves()) -> None:
        """Take one step down a gradient `(size,)`.

        norms: of the gradients of weights and alphas.

        Raises:
            Diverged: a gradient that is to be descended is not finite; nothing has changed.
        """
        moving = moves.weights, moves.alphas and self._lengths[1] > 0
        if not all(norm < float("inf") for norm, each in zip(norms, moving, strict=True) if each):
            raise Diverged("a gradient became infinite or NaN; lower the learning rates")
        for index, part in enumerate(self.layout.split(gradient)):
            if moving[index] and len(part):
                scale = (self._clip / torch.tensor(norms[index])).clamp(max=1.0)
                self._step(index, part * float(scale))

    def _step(self, index: int, gradient: Tensor) -> None:
        values, length = self._parts[index], self._lengths[index]
        before = values.clone() if self._factors else values
        if self._plain:
            values.sub_(gradient, alpha=length)
        else:
            descend(values, gradient, self._moments[index], length)
        if self._factors:
            torch.lerp(before, values, self._factors[index], out=values)
