"""The task optimizer against torch's Adam on separate parameters."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from metanas.adaptation.optimizer import Moves, TaskOptimizer
from metanas.errors import Diverged
from metanas.spec.options import AdaptConfig
from metanas.supernet.flat_params import Params
from tests.core.small import noise

OPTIONS = AdaptConfig(weight_lr=0.03, alpha_lr=0.2, gradient_clip=3.0)


def start() -> Params:
    return {
        "stem": noise(3, 4),
        "alpha.normal.ops": noise(2, 3, seed=1),
        "scale": torch.tensor(0.5),
        "alpha.normal.inputs": noise(4, seed=2),
        "unused": noise(2, 2, seed=3),
    }


def loss_of(params: Params, step: int) -> Tensor:
    """Steep enough for the clip to act, and different at every step."""
    x = noise(4, seed=10 + step)
    mixed = (params["stem"] @ x) * params["scale"]
    return 4 * mixed.square().sum() + (params["alpha.normal.ops"] * mixed).sum().square()


Loss = Callable[[Params], Tensor]


def gradient_of(optimizer: TaskOptimizer, loss: Loss) -> Tensor:
    theta = optimizer.theta.clone().requires_grad_()
    return torch.autograd.grad(loss(optimizer.layout.views(theta)), theta)[0]


def take_step(
    optimizer: TaskOptimizer, loss: Loss, *, weights: bool = True, alphas: bool = True
) -> None:
    gradient = gradient_of(optimizer, loss)
    norms = [float(part.norm()) for part in optimizer.layout.split(gradient)]
    optimizer.descend(gradient, norms, Moves(weights, alphas))


class Reference:
    """Two Adams on separate tensors."""

    def __init__(self, params: Params) -> None:
        self.params = {k: v.clone().requires_grad_() for k, v in params.items()}
        self.clip = OPTIONS.gradient_clip
        self.weights = [v for k, v in self.params.items() if not k.startswith("alpha.")]
        self.alphas = [v for k, v in self.params.items() if k.startswith("alpha.")]
        self.adams = {
            "weights": torch.optim.Adam(self.weights, lr=OPTIONS.weight_lr),
            "alphas": torch.optim.Adam(self.alphas, lr=OPTIONS.alpha_lr),
        }

    def step(self, loss: Tensor, *which: str) -> None:
        for name in which:
            leaves = self.weights if name == "weights" else self.alphas
            gradients = torch.autograd.grad(
                loss, leaves, allow_unused=True, materialize_grads=True, retain_graph=True
            )
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient * min(1.0, self.clip / norm) if norm else gradient
        for name in which:
            self.adams[name].step()


def assert_same(optimizer: TaskOptimizer, reference: Reference) -> None:
    for name, value in optimizer.snapshot().items():
        torch.testing.assert_close(value, reference.params[name].detach(), atol=1e-6, rtol=1e-5)


def test_both_from_one_backward_pass() -> None:
    optimizer, reference = TaskOptimizer(start(), OPTIONS), Reference(start())
    for step in range(6):
        take_step(optimizer, partial(loss_of, step=step))
        reference.step(loss_of(reference.params, step), "weights", "alphas")
        assert_same(optimizer, reference)


def test_in_turn() -> None:
    """A step on the alphas leaves no trace in the weights' state of Adam, and vice versa."""
    optimizer, reference = TaskOptimizer(start(), OPTIONS), Reference(start())
    for step in range(6):
        take_step(optimizer, partial(loss_of, step=step), weights=False)
        reference.step(loss_of(reference.params, step), "alphas")
        assert_same(optimizer, reference)
        take_step(optimizer, partial(loss_of, step=step + 9), alphas=False)
        reference.step(loss_of(reference.params, step + 9), "weights")
        assert_same(optimizer, reference)


def test_an_alpha_rate_of_zero_leaves_the_architecture_alone() -> None:
    optimizer = TaskOptimizer(start(), AdaptConfig(weight_lr=0.1, alpha_lr=0.0))
    for step in range(3):
        take_step(optimizer, partial(loss_of, step=step))
    after = optimizer.snapshot()
    for name, value in start().items():
        moved = not torch.equal(after[name], value)
        assert moved == (name in ("stem", "scale")), name


def test_plain_steps_go_down_the_clipped_gradient() -> None:
    options = replace(OPTIONS, gradient_clip=1e6)
    optimizer = TaskOptimizer(start(), options, plain=True)
    leaves = {name: value.requires_grad_() for name, value in start().items()}
    loss_of(leaves, 0).backward()
    take_step(optimizer, partial(loss_of, step=0))
    for name, value in optimizer.snapshot().items():
        rate = options.alpha_lr if name.startswith("alpha.") else options.weight_lr
        gradient = leaves[name].grad
        step = torch.zeros(()) if gradient is None else rate * gradient
        torch.testing.assert_close(value, leaves[name].detach() - step, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
def test_learned_rates_scale_the_steps_of_their_parameters(plain: bool) -> None:
    rates = {"stem": 0.5, "alpha.normal.ops": 3.0}
    ordinary = TaskOptimizer(start(), OPTIONS, plain=plain)
    scaled = TaskOptimizer(start(), OPTIONS, plain=plain, rates=rates)
    for optimizer in (ordinary, scaled):
        take_step(optimizer, partial(loss_of, step=0))
    for name, value in start().items():
        step, other = (each.snapshot()[name] - value for each in (ordinary, scaled))
        torch.testing.assert_close(other, rates.get(name, 1.0) * step, atol=1e-6, rtol=1e-4)


def test_unused_parameters_get_a_gradient_of_zero() -> None:
    optimizer = TaskOptimizer(start(), OPTIONS)
    take_step(optimizer, partial(loss_of, step=0))
    assert torch.equal(optimizer.snapshot()["unused"], start()["unused"])


def test_a_snapshot_does_not_move_and_what_came_in_is_not_written_to() -> None:
    given = start()
    optimizer = TaskOptimizer(given, OPTIONS)
    snapshot = optimizer.snapshot()
    take_step(optimizer, partial(loss_of, step=0))
    for name, value in start().items():
        assert torch.equal(snapshot[name], value)
        assert torch.equal(given[name], value)


def test_without_alphas_there_are_just_weights() -> None:
    params = {k: v for k, v in start().items() if not k.startswith("alpha.")}
    optimizer = TaskOptimizer(params, OPTIONS)
    take_step(optimizer, lambda own: (own["stem"] * own["scale"]).sum())
    assert not torch.equal(optimizer.snapshot()["stem"], params["stem"])


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_what_is_not_finite_diverges_and_changes_nothing(factor: float) -> None:
    optimizer = TaskOptimizer(start(), OPTIONS)
    with pytest.raises(Diverged) as caught:
        take_step(optimizer, lambda own: loss_of(own, 0) * factor)
    assert caught.value.reason == "DIVERGED"
    for name, value in optimizer.snapshot().items():
        assert torch.equal(value, start()[name])


def test_what_only_others_of_a_stack_step_does_not_end_a_task() -> None:
    optimizer, before = TaskOptimizer(start(), OPTIONS), start()
    gradient = gradient_of(optimizer, partial(loss_of, step=0))
    optimizer.descend(gradient, (1.0, math.inf), Moves(alphas=False))
    after = optimizer.snapshot()
    assert torch.equal(after["alpha.normal.ops"], before["alpha.normal.ops"])
    assert not torch.equal(after["stem"], before["stem"])
