"""Meta-learners: from the inner loops of a stack of tasks to a gradient of the meta-parameters.

A meta-learner is a frozen value with one method, `learn`. It runs the inner loops and returns the
meta-gradient of each task. `InnerLoop` computes gradients and step sizes. Weights and alphas are
one vector. Each meta-learner can learn the rates too (Meta-SGD).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from metanas.supernet.adam import Moments
from metanas.training.inner_loop import InnerLoop


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The results of the tasks of a stack."""

    gradient: Tensor
    """Meta-gradient of each task, `(tasks, size)`, to be *subtracted*."""
    factors: Tensor
    """Gradient of each task with respect to the logarithms of the rates' factors,
    `(tasks, parameters)`."""
    moments: Moments
    """State of the task optimizer at the end, with a row for each task or one for all."""


class MetaLearner(Protocol):
    """The contract of a meta-learner."""

    def learn(self, loop: InnerLoop) -> Learned:
        """Run the inner loops of a stack of tasks."""
        ...


@dataclass(frozen=True)
class Reptile:
    """REPTILE (Nichol et al., arXiv:1803.02999, algorithm 2): start minus adapted parameters.

    Its task optimizer is Adam. All tasks of a batch start from one state of Adam, and the mean of
    their states is the next one; REPTILE's authors carry it from task to task. There is no outer
    loss, so learned rates follow the hypergradient of the next step's loss (Baydin et al.,
    arXiv:1703.04782, eq. 5), which needs two steps or more.
    """

    def learn(self, loop: InnerLoop) -> Learned:
        theta, moments = loop.begin(), loop.moments
        rates = loop.scaled(loop.rates, loop.factors)
        factors = theta.new_zeros(loop.tasks, len(loop.factors))
        change = torch.zeros_like(theta)
        for step in range(loop.steps):
            gradient = loop.gradient(theta, step)
            factors -= loop.layout.gather(gradient * change)
            moments, direction = loop.adam(moments, gradient)
            change = rates * direction
            theta = theta - change
        return Learned(gradient=loop.start - theta, factors=factors, moments=moments)


@dataclass(frozen=True, kw_only=True)
class Maml:
    """MAML (Finn et al., arXiv:1703.03400, algorithm 1): the gradient of the adapted loss.

    Inner steps are plain gradient steps. The outer loss is that of one more episode of the task.

    first_order: FOMAML (section 5.2 there): the outer gradient at the adapted parameters. The
        gradient of learned rates is the product of outer and inner gradients.
    body: the inner loop steps the weights of stem and cells. Without them it is ANIL (Raghu et al.,
        arXiv:1909.09157): the head adapts, and here the architecture too. The head is computed in
        closed form from the features; its one parameter is the scale of the logits.
    """

    first_order: bool = False
    body: bool = True

    def learn(self, loop: InnerLoop) -> Learned:
        if not self.body:
            head = loop.layout.where(lambda name: name.startswith("head.")).to(loop.alphas.device)
            loop = replace(loop, rates=torch.where(head | loop.alphas, loop.rates, 0.0))
        return _first_order(loop) if self.first_order else _exact(loop)


def _exact(loop: InnerLoop) -> Learned:
    start = loop.begin().requires_grad_()
    factors = loop.factors.repeat(loop.tasks, 1).requires_grad_()
    rates, theta = loop.scaled(loop.rates, factors), start
    for step in range(loop.steps):
        theta = theta - rates * loop.gradient(theta, step, differentiable=True)
    loss = loop.loss(theta, loop.steps).sum()
    gradient, of_factors = torch.autograd.grad(loss, (start, factors))
    return Learned(gradient=gradient, factors=of_factors, moments=loop.moments)


def _first_order(loop: InnerLoop) -> Learned:
    theta, rates = loop.begin(), loop.scaled(loop.rates, loop.factors)
    for step in range(loop.steps):
        theta = theta - rates * loop.gradient(theta, step)
    gradient = loop.outer_gradient(theta)
    # to first order, the outer loss changes by the gradient times the sum of the steps
    factors = -loop.layout.gather(gradient * (loop.start - theta))
    return Learned(gradient=gradient, factors=factors, moments=loop.moments)


META_LEARNERS: Mapping[str, MetaLearner] = MappingProxyType(
    {
        "reptile": Reptile(),
        "fomaml": Maml(first_order=True),
        "maml": Maml(),
        "anil": Maml(body=False),
    }
)
"""Meta-learners by name."""
