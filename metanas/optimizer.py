"""The task optimizer: weights and alphas of one task, or of a stack, from one backward pass.

Notable:
- All weights lie in one flat tensor and all alphas in another; the parameters that the network sees
  are views into them. A step of Adam is then a dozen kernels instead of a dozen for each of several
  hundred small tensors, and a task is loaded or read with one copy.
- Gradients are taken from the live network (the published code took them from a stale copy), and
  parameters that a step did not use get a gradient of zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from metanas.alphas import is_alpha
from metanas.errors import Diverged

Params = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TaskOptimizerConfig:
    """Adam (Kingma & Ba, arXiv:1412.6980) or plain gradient steps, on weights and alphas."""

    weight_lr: float
    """Step size on the weights."""
    alpha_lr: float
    """Step size on the alphas; 0 leaves the architecture alone."""
    alpha_decay: float = 0.0
    """L2 penalty on the alphas."""
    beta1: float = 0.9
    """Decay of the mean gradient; REPTILE's authors use 0."""
    beta2: float = 0.999
    """Decay of the mean squared gradient."""
    gradient_clip: float = 10.0
    """Largest norm of the gradient of the weights, and likewise of the alphas."""
    plain: bool = False
    """Plain gradient steps, as MAML takes them, instead of Adam."""


class _Group:
    """Some parameters as views into one flat leaf tensor; `rates` are factors on their steps."""

    def __init__(self, params: Mapping[str, Tensor], rates: Mapping[str, float]) -> None:
        self.flat = torch.cat([p.detach().reshape(-1) for p in params.values()]).clone()
        self.gradient = torch.zeros_like(self.flat)
        pieces = self.flat.split([p.numel() for p in params.values()])
        self.views = {
            name: piece.view(p.shape).requires_grad_()
            for (name, p), piece in zip(params.items(), pieces, strict=True)
        }

        self.factors: Tensor | None = None
        if rates:
            each = [torch.full((p.numel(),), rates.get(name, 1.0)) for name, p in params.items()]
            self.factors = torch.cat(each).to(self.flat)

    def set_gradient(self, gradient: Tensor, norm: Tensor, clip: float) -> None:
        torch.mul(gradient, (clip / norm).clamp(max=1.0), out=self.gradient)


@dataclass(frozen=True)
class Wanted:
    """What is to be stepped."""

    weights: bool = True
    alphas: bool = True


@dataclass(frozen=True)
class Gradient:
    """The gradient of one task's loss, flat; None of what is not to be stepped.

    `norms` `(2,)` are those of both; that of None means nothing. They stay on the device: whoever
    steps several tasks asks for all their figures at once.
    """

    weights: Tensor | None
    alphas: Tensor | None
    norms: Tensor


class TaskOptimizer:
    """Holds the parameters of one task and steps them.

    `params` are leaf tensors to run the network with; they change in place with every step. `rates`
    are learned factors on the length of a parameter's steps (Meta-SGD), by name.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        config: TaskOptimizerConfig,
        rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._config = config
        self.weights = _Group({k: v for k, v in params.items() if not is_alpha(k)}, rates)
        alphas = {k: v for k, v in params.items() if is_alpha(k)}
        self.alphas = _Group(alphas, rates) if alphas else None
        self.params: Params = {
            **self.weights.views,
            **(self.alphas.views if self.alphas else {}),
        }
        groups = [{"params": [self.weights.flat], "lr": config.weight_lr}]
        if self.alphas is not None:
            decay = config.alpha_decay
            groups.append(
                {"params": [self.alphas.flat], "lr": config.alpha_lr, "weight_decay": decay}
            )
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(groups, fused=True)
            if config.plain
            else torch.optim.Adam(groups, betas=(config.beta1, config.beta2), fused=True)
        )

    @property
    def searches(self) -> bool:
        """Whether the architecture is to move at all."""
        return self.alphas is not None and self._config.alpha_lr > 0

    def snapshot(self) -> Params:
        """A copy of the parameters."""
        return {name: value.detach().clone() for name, value in self.params.items()}

    def descend(self, gradient: Gradient, norms: Sequence[float]) -> None:
        """One step down this gradient, whose norms are known by now.

        Raises:
            Diverged: it is not finite; nothing has changed.
        """
        flats = (gradient.weights, gradient.alphas)
        # of the task's own: what only others in its stack are to step must not end it
        own = [norm for norm, flat in zip(norms, flats, strict=True) if flat is not None]
        if not all(norm < float("inf") for norm in own):
            raise Diverged("a gradient became infinite or NaN; lower the learning rates")
        groups = []
        parts = zip((self.weights, self.alphas), flats, gradient.norms, strict=True)
        for group, flat, norm in parts:
            if group is not None and flat is not None:
                group.set_gradient(flat, norm, self._config.gradient_clip)
                groups.append(group)
        if groups:
            self._apply(groups)

    def _apply(self, groups: Sequence[_Group]) -> None:
        for group in (self.weights, self.alphas):
            if group is not None:  # Adam passes over what has no gradient
                group.flat.grad = group.gradient if group in groups else None
        before = [None if g.factors is None else g.flat.clone() for g in groups]
        self._optimizer.step()
        for group, old in zip(groups, before, strict=True):
            if old is not None and group.factors is not None:
                torch.lerp(old, group.flat, group.factors, out=group.flat)


class Stack:
    """The parameters of several tasks as the network sees them, and the way of gradients back.

    `params` are leaf tensors with a leading task dimension; those of a single task have none. They
    are copies: make a new stack after the optimizers have stepped.
    """

    def __init__(self, optimizers: Sequence[TaskOptimizer]) -> None:
        self._optimizers = optimizers
        first = optimizers[0]
        self._weights = first.weights.views
        self._alphas = first.alphas.views if first.alphas else {}
        if len(optimizers) > 1:
            self._weights = _stacked([each.weights for each in optimizers])
            alphas = [each.alphas for each in optimizers if each.alphas is not None]
            self._alphas = _stacked(alphas) if alphas else {}
        self.params: Params = {**self._weights, **self._alphas}

    def gradients(self, loss: Tensor, wanted: Sequence[Wanted]) -> list[Gradient]:
        """For each task the gradient of the sum of their losses; zeros for what it does not use."""
        alphas = [
            want.alphas and each.searches
            for want, each in zip(wanted, self._optimizers, strict=True)
        ]
        leaves = list(self._weights.values()) if any(want.weights for want in wanted) else []
        split = len(leaves)
        leaves += self._alphas.values() if any(alphas) else []
        found: tuple[Tensor, ...] = ()
        if leaves:
            found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        of_weights, of_alphas = self._rows(found[:split], loss), self._rows(found[split:], loss)
        norms = torch.stack([of_weights.norm(dim=1), of_alphas.norm(dim=1)], dim=1)
        return [
            Gradient(
                of_weights[task] if want.weights else None,
                of_alphas[task] if moves else None,
                norms[task],
            )
            for task, (want, moves) in enumerate(zip(wanted, alphas, strict=True))
        ]

    def _rows(self, gradients: Sequence[Tensor], like: Tensor) -> Tensor:
        """One flat gradient a task, `(tasks, numbers)`; without numbers if nothing is wanted."""
        tasks = len(self._optimizers)
        rows = [gradient.reshape(tasks, -1) for gradient in gradients]
        return torch.cat(rows, dim=1) if rows else like.new_zeros(tasks, 0)


def _stacked(groups: Sequence[_Group]) -> Params:
    """Leaf tensors with a leading task dimension, views of one flat copy."""
    views = groups[0].views
    flat = torch.stack([group.flat for group in groups])
    pieces = flat.split([view.numel() for view in views.values()], dim=1)
    return {
        name: piece.view(len(groups), *view.shape).requires_grad_()
        for (name, view), piece in zip(views.items(), pieces, strict=True)
    }
