"""Adam on flat vectors (Kingma & Ba, arXiv:1412.6980), computed by torch's fused kernel.

Elements that take their steps together are a group: the weights, or the alphas. Groups follow one
another in a vector. Each group has its count of steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The state of Adam for vectors `(..., size)`."""

    first: Tensor
    """Mean gradient."""
    second: Tensor
    """Mean squared gradient."""
    steps: Tensor
    """Steps of each group, `(groups,)`; `()` of a single one."""

    @staticmethod
    def zero(like: Tensor, groups: Sequence[int] = ()) -> "Moments":
        """Return the state before the first step of vectors like this one.

        groups: shape of the counts of steps.
        """
        first, second = torch.zeros_like(like), torch.zeros_like(like)
        steps = torch.zeros(tuple(groups), dtype=torch.float32, device=like.device)
        return Moments(first=first, second=second, steps=steps)

    def to(self, device: torch.device) -> "Moments":
        """Return the same state on a device."""
        first, second = self.first.to(device), self.second.to(device)
        return Moments(first=first, second=second, steps=self.steps.to(device))

    def __add__(self, other: "Moments") -> "Moments":
        """Add the moments of other tasks, which have taken the same steps."""
        first, second = self.first + other.first, self.second + other.second
        return Moments(first=first, second=second, steps=self.steps)


def descend(
    values: Tensor, gradient: Tensor, moments: Moments, length: float, beta1: float = 0.9
) -> None:
    """Take a step of a single group; values and moments change in place.

    length: step size.
    beta1: decay of the mean gradient; REPTILE's authors use 0.
    """
    adam(
        [values],
        [gradient],
        [moments.first],
        [moments.second],
        [],
        [moments.steps],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=0.999,
        lr=length,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )


def direction(
    moments: Moments,
    gradient: Tensor,
    sizes: Sequence[int],
    moving: Sequence[bool],
    beta1: float = 0.9,
) -> tuple[Moments, Tensor]:
    """Return the state after a step against a gradient `(..., size)`, and the step to subtract.

    The step has length 1.

    sizes: elements of each group.
    moving: groups that take the step. Others keep their moments and get a step of zero.
    """
    taken = torch.zeros_like(gradient)
    first, second = (x.expand_as(gradient).clone() for x in (moments.first, moments.second))
    steps = moments.steps.clone()
    parts = (x.split(list(sizes), dim=-1) for x in (taken, gradient, first, second))
    for group, (values, slope, mean, square) in enumerate(zip(*parts, strict=True)):
        if moving[group]:
            vectors = values.clone(), mean.clone(), square.clone()
            state = Moments(first=vectors[1], second=vectors[2], steps=steps[group])
            descend(vectors[0], slope.contiguous(), state, -1.0, beta1)
            for place, value in zip((values, mean, square), vectors, strict=True):
                place.copy_(value)
    return Moments(first=first, second=second, steps=steps), taken
