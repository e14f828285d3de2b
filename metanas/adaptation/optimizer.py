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

from metanas.errors import Diverged
from metanas.supernet.alphas import is_alpha
from metanas.supernet.flat_params import Layout, Params


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
    """Parameters as views into one flat tensor; `rates` are factors on their steps."""

    def __init__(self, params: Mapping[str, Tensor], rates: Mapping[str, float]) -> None:
        self.layout = Layout(params)
        self.flat = self.layout.flatten(params)
        self.gradient = torch.zeros_like(self.flat)
        self.views = self.layout.views(self.flat)
        self.factors: Tensor | None = None
        if rates:
            each = torch.tensor([rates.get(name, 1.0) for name in self.layout.names])
            self.factors = self.layout.spread(each).to(self.flat)

    def set_gradient(self, gradient: Tensor, norm: Tensor, clip: float) -> None:
        torch.mul(gradient, (clip / norm).clamp(max=1.0), out=self.gradient)


@dataclass(frozen=True)
class Wanted:
    """Parameters that a step moves."""

    weights: bool = True
    alphas: bool = True


@dataclass(frozen=True)
class Gradient:
    """The flat gradient of one task's loss; None for parameters that the step does not move.

    `norms` `(2,)` are the norms of both. They stay on the device, so that one copy brings the
    figures of all tasks to the host.
    """

    weights: Tensor | None
    alphas: Tensor | None
    norms: Tensor


class TaskOptimizer:
    """Hold and step the parameters of one task.

    `params` are views to run the network with; they change in place with every step. `rates` are
    learned factors on the length of a parameter's steps (Meta-SGD), by name.
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
        """The search moves the alphas."""
        return self.alphas is not None and self._config.alpha_lr > 0

    def snapshot(self) -> Params:
        """Copy the parameters."""
        return {name: value.detach().clone() for name, value in self.params.items()}

    def descend(self, gradient: Gradient, norms: Sequence[float]) -> None:
        """Take one step down a gradient with known norms.

        Raises:
            Diverged: it is not finite; nothing has changed.
        """
        flats = (gradient.weights, gradient.alphas)
        # only the norms of parameters that this task moves: others must not end it
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
    """The parameters of several tasks in two tensors.

    `weights` and `alphas` are flat: `(tasks, numbers)`, or `(numbers,)` of a single task. Those of
    several are copies: make a new stack after the optimizers have stepped.
    """

    def __init__(self, optimizers: Sequence[TaskOptimizer]) -> None:
        self._optimizers = optimizers
        first = optimizers[0]
        self.weights, self.layout = _stacked([each.weights for each in optimizers])
        self.alphas, self.alpha_layout = self.weights[..., :0], Layout({})
        if first.alphas is not None:
            alphas = [each.alphas for each in optimizers if each.alphas is not None]
            self.alphas, self.alpha_layout = _stacked(alphas)

    def asked(self, wanted: Sequence[Wanted]) -> Wanted:
        """Union of the parameters that the tasks move."""
        alphas = any(self._moves(wanted))
        return Wanted(weights=any(want.weights for want in wanted), alphas=alphas)

    def gradients(
        self, of_weights: Tensor, of_alphas: Tensor, wanted: Sequence[Wanted]
    ) -> list[Gradient]:
        """Split flat gradients into one gradient for each task."""
        rows = [flat.reshape(len(wanted), -1) for flat in (of_weights, of_alphas)]
        norms = torch.stack([torch.linalg.vector_norm(flat, dim=1) for flat in rows], dim=1)
        return [
            Gradient(
                rows[0][task] if want.weights else None,
                rows[1][task] if moves else None,
                norms[task],
            )
            for task, (want, moves) in enumerate(zip(wanted, self._moves(wanted), strict=True))
        ]

    def _moves(self, wanted: Sequence[Wanted]) -> list[bool]:
        """List for each task if its alphas move."""
        pairs = zip(wanted, self._optimizers, strict=True)
        return [want.alphas and each.searches for want, each in pairs]


def _stacked(groups: Sequence[_Group]) -> tuple[Tensor, Layout]:
    first, *others = groups
    flat = torch.stack([group.flat for group in groups]) if others else first.flat
    return flat.detach(), first.layout
