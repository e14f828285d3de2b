"""The inner loops of a stack of tasks, as a meta-learner sees them: vectors and their gradients.

Notes:
- Parameters are flat vectors `(tasks, size)` (`metanas.supernet.flat_params`), so a meta-learner
  is arithmetic.
- A loss takes the number of an episode: 0 to `steps` - 1 are the episodes of the steps, `steps` is
  the outer one. The same number gives the same images, views and noise every time.
- `Order` is the same for every meta-learner: weights and alphas from one backward pass, or the
  alphas from a second episode (bilevel; DARTS, arXiv:1806.09055, section 2.3), of first or second
  order.
- The unrolled step of second order is a plain gradient step of the task optimizer's size, also if
  the task optimizer is Adam.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from metanas.supernet.adam import Moments, direction
from metanas.supernet.flat_params import Layout

Loss = Callable[[Tensor, int], Tensor]
"""Parameters `(tasks, size)` and the number of an episode -> loss of each task, `(tasks,)`."""

UNROLL = 0.01
"""Length of the finite difference's step (DARTS, below eq. 8)."""


class Order(StrEnum):
    """The source of the gradient of the alphas in an inner step."""

    SINGLE = "single"
    """The same backward pass as for the weights."""
    FIRST = "first"
    """A second episode, at the present weights."""
    SECOND = "second"
    """A second episode, at the weights one step further."""


@dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """The inner loops of a stack of tasks."""

    tasks: int
    steps: int
    """Steps of each task."""
    layout: Layout
    start: Tensor
    """The meta-parameters, `(size,)`."""
    rates: Tensor
    """Length of a step along each element, `(size,)`; 0 for elements that do not move."""
    factors: Tensor
    """Logarithms of learned factors on the rates, one a parameter; zeros if they are not learned
    (Meta-SGD, Li et al., arXiv:1707.09835, with one rate a tensor)."""
    loss: Loss
    order: Order = Order.SINGLE
    alpha_decay: float = 0.0
    """L2 penalty on the alphas."""
    clip: float = float("inf")
    """Largest norm of a task's gradient of the weights, and likewise of the alphas."""
    beta1: float = 0.9
    """Decay of the mean gradient, for meta-learners whose task optimizer is Adam."""
    moments: Moments
    """State of Adam at the start of every task."""

    @cached_property
    def alphas(self) -> Tensor:
        """Mask of the elements that are alphas, `(size,)`."""
        weights, _ = self.layout.groups
        return torch.arange(self.layout.size, device=self.start.device) >= weights

    def begin(self) -> Tensor:
        """Copy the start for every task, `(tasks, size)`."""
        return self.start.repeat(self.tasks, 1)

    def scaled(self, rates: Tensor, factors: Tensor) -> Tensor:
        """Multiply rates with the learned factors `(..., parameters)`."""
        return rates * self.layout.spread(factors.exp())

    def adam(self, moments: Moments, gradient: Tensor) -> tuple[Moments, Tensor]:
        """Return the state of Adam after a step along `(tasks, size)`, and the step of length 1."""
        moving = [bool(part.any()) for part in self.layout.split(self.rates)]
        return direction(moments, gradient, self.layout.groups, moving, self.beta1)

    def gradient(self, theta: Tensor, step: int, *, differentiable: bool = False) -> Tensor:
        """Compute the gradient of a step's loss at `(tasks, size)`, decayed and clipped.

        differentiable: keep the graph of `theta` in the result. The factor of the clipping counts
            as a constant.
        """
        if not differentiable:
            theta = theta.detach().requires_grad_()
        slope = self._slope(theta, step, differentiable)
        if self.order is not Order.SINGLE and bool((self.rates * self.alphas).any()):
            slope = torch.where(
                self.alphas, self._of_alphas(theta, slope, step, differentiable), slope
            )
        slope = slope + self.alpha_decay * torch.where(self.alphas, theta, 0.0)
        slope = torch.where(self.rates > 0, slope, 0.0)
        for group in (self.alphas, ~self.alphas):
            norm = torch.where(group, slope.detach(), 0.0).norm(dim=1, keepdim=True)
            slope = torch.where(group, slope * (self.clip / norm).clamp(max=1.0), slope)
        return slope if differentiable else slope.detach()

    def outer_gradient(self, theta: Tensor) -> Tensor:
        """Compute the gradient `(tasks, size)` of the outer loss at adapted parameters."""
        return self._slope(theta.detach().requires_grad_(), self.steps, False)

    def _slope(self, theta: Tensor, episode: int, graph: bool) -> Tensor:
        loss = self.loss(theta, episode).sum()
        slope: Tensor = torch.autograd.grad(loss, theta, create_graph=graph)[0]
        return slope

    def _of_alphas(self, theta: Tensor, of_train: Tensor, step: int, graph: bool) -> Tensor:
        """Compute the gradient of the loss of the step's second episode, for the alphas.

        Second order: DARTS, eq. 7 and 8. The product of the mixed second derivative with a vector v
        is a difference of two gradients over *twice* the step along v.
        """
        held_out = self.steps + 1 + step
        if self.order is Order.FIRST:
            return self._slope(theta, held_out, graph)
        rates = self.scaled(torch.where(self.alphas, 0.0, self.rates), self.factors)
        of_held_out = self._slope(_leaf(theta - rates * of_train, graph), held_out, graph)
        vector = rates * of_held_out
        epsilon = UNROLL / vector.detach().norm(dim=1, keepdim=True).clamp(min=1e-12)
        ahead = self._slope(_leaf(theta + epsilon * vector, graph), step, graph)
        behind = self._slope(_leaf(theta - epsilon * vector, graph), step, graph)
        product: Tensor = (ahead - behind) / (2 * epsilon)
        return of_held_out - product


def _leaf(theta: Tensor, graph: bool) -> Tensor:
    return theta if graph else theta.detach().requires_grad_()
