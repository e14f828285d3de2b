"""The task optimizer: weights and alphas of one task, stepped together from one backward pass.

Notable:
- All weights lie in one flat tensor and all alphas in another; the parameters that the network sees
  are views into them. A step of Adam is then a dozen kernels instead of a dozen for each of several
  hundred small tensors, and a task is loaded or read with one copy.
- Gradients are taken from the live network (the published code took them from a stale copy), and
  parameters that a step did not use get a gradient of zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metanas.errors import Diverged
from metanas.supernet import is_alpha

Params = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TaskOptimizerConfig:
    """Adam on weights and alphas (Kingma & Ba, arXiv:1412.6980)."""

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


class _Group:
    """Some parameters as views into one flat leaf tensor."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self.flat = torch.cat([p.detach().reshape(-1) for p in params.values()]).clone()
        self.gradient = torch.zeros_like(self.flat)
        pieces = self.flat.split([p.numel() for p in params.values()])
        self.views = {
            name: piece.view(p.shape).requires_grad_()
            for (name, p), piece in zip(params.items(), pieces, strict=True)
        }

    def load(self, params: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            torch.cat([params[name].detach().reshape(-1) for name in self.views], out=self.flat)

    def set_gradient(self, gradients: Iterable[Tensor], clip: float) -> None:
        torch.cat([g.reshape(-1) for g in gradients], out=self.gradient)
        norm = float(self.gradient.norm())
        if not norm < float("inf"):
            raise Diverged("a gradient became infinite or NaN; lower the learning rates")
        if norm > clip:
            self.gradient.mul_(clip / norm)


class TaskOptimizer:
    """Holds the parameters of one task and steps them.

    `params` are leaf tensors to run the network with; they change in place with every `step`.
    """

    def __init__(self, params: Mapping[str, Tensor], config: TaskOptimizerConfig) -> None:
        self._config = config
        self._weights = _Group({k: v for k, v in params.items() if not is_alpha(k)})
        alphas = {k: v for k, v in params.items() if is_alpha(k)}
        self._alphas = _Group(alphas) if alphas else None
        self.params: Params = {
            **self._weights.views,
            **(self._alphas.views if self._alphas else {}),
        }
        groups = [{"params": [self._weights.flat], "lr": config.weight_lr}]
        if self._alphas is not None:
            decay = config.alpha_decay
            groups.append(
                {"params": [self._alphas.flat], "lr": config.alpha_lr, "weight_decay": decay}
            )
        self.adam = torch.optim.Adam(groups, betas=(config.beta1, config.beta2))

    def load(self, params: Mapping[str, Tensor]) -> None:
        """Start from these parameters; the state of Adam stays."""
        self._weights.load(params)
        if self._alphas is not None:
            self._alphas.load(params)

    def snapshot(self) -> Params:
        """A copy of the parameters."""
        return {name: value.detach().clone() for name, value in self.params.items()}

    def step(self, loss: Tensor, *, weights: bool = True, alphas: bool = True) -> None:
        """One step down the gradient of `loss` on the weights, the alphas, or both.

        What is left out keeps its parameters and its state of Adam.

        Raises:
            Diverged: the loss or a gradient is not finite.
        """
        alphas = alphas and self._alphas is not None and self._config.alpha_lr > 0
        groups = [self._weights] if weights else []
        if alphas and self._alphas is not None:
            groups.append(self._alphas)
        if not groups:
            return
        leaves = [view for group in groups for view in group.views.values()]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        start = 0
        for group in groups:
            end = start + len(group.views)
            group.set_gradient(gradients[start:end], self._config.gradient_clip)
            start = end
        self._apply(groups)

    def _apply(self, groups: Sequence[_Group]) -> None:
        for group in (self._weights, self._alphas):
            if group is not None:  # Adam passes over what has no gradient
                group.flat.grad = group.gradient if group in groups else None
        self.adam.step()
