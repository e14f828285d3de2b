"""Inner loops: orders of the search, Adam, and every gradient of second order, in doubles."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metanas.supernet.adam import Moments
from metanas.supernet.alphas import is_alpha
from metanas.supernet.flat_params import Layout
from metanas.training.inner_loop import InnerLoop, Loss, Order
from metanas.training.meta_learners import Maml, Reptile
from tests.core.small import noise

SIZES = {"weight": (2, 2), "alpha.normal.ops": (3,), "head.log_scale": ()}
TASKS, STEPS = 2, 2


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def smooth(theta: Tensor, number: int) -> Tensor:
    """A loss with third derivatives, other in each episode and each task."""
    mixed = theta @ noise(theta.shape[1], 5, seed=number).double()
    own = noise(TASKS, 5, seed=number + 50).double()[: len(theta)]
    return torch.tanh(mixed + own).square().sum(1) + 0.1 * theta.pow(4).sum(1)


def loop_of(loss: Loss = smooth, order: Order = Order.SINGLE, tasks: int = TASKS) -> InnerLoop:
    layout = Layout({name: noise(*shape, seed=1).double() for name, shape in SIZES.items()})
    start = 0.5 * noise(layout.size, seed=2).double()
    alphas = layout.where(is_alpha)
    return InnerLoop(
        tasks=tasks,
        steps=STEPS,
        layout=layout,
        start=start,
        rates=torch.where(alphas, 0.3, 0.05),
        factors=0.2 * noise(len(layout.names), seed=3).double(),
        loss=loss,
        order=order,
        alpha_decay=0.1,
        moments=Moments.zero(start, (2,)),
    )


def adapted_loss(loop: InnerLoop, start: Tensor, factors: Tensor) -> Tensor:
    """Loss of every task after plain gradient steps: what MAML differentiates."""
    theta = start.repeat(loop.tasks, 1)
    for step in range(loop.steps):
        theta = theta - loop.scaled(loop.rates, factors) * loop.gradient(theta, step)
    return loop.loss(theta, loop.steps)


@pytest.mark.parametrize("order", Order)
def test_maml_is_the_slope_of_the_adapted_loss(order: Order) -> None:
    # how far the finite difference of second order reaches counts as a constant
    bound = 1e-3 if order is Order.SECOND else 1e-6
    loop = loop_of(order=order)
    learned = Maml().learn(loop)
    changes: list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] = [
        (loop.start, learned.gradient, lambda x: adapted_loss(loop, x, loop.factors)),
        (loop.factors, learned.factors, lambda x: adapted_loss(loop, loop.start, x)),
    ]
    for value, gradient, change in changes:
        for index in range(len(value)):
            step = torch.zeros_like(value)
            step[index] = 1e-6
            slope = (change(value + step) - change(value - step)) / 2e-6
            torch.testing.assert_close(gradient[:, index], slope, rtol=bound, atol=bound)


def test_anil_leaves_the_body_alone_in_the_inner_loop() -> None:
    seen: list[Tensor] = []

    def watched(theta: Tensor, number: int) -> Tensor:
        seen.append(theta.detach())
        return smooth(theta, number)

    loop = loop_of(watched)
    learned = Maml(body=False).learn(loop)
    body = loop.layout.where(lambda name: name == "weight")
    assert torch.equal(seen[-1][:, body], loop.begin()[:, body])
    assert bool((seen[-1][:, ~body] != loop.begin()[:, ~body]).all())
    assert bool((learned.gradient[:, body] != 0).all())


def test_fomaml_forgets_the_second_derivatives_alone() -> None:
    loop = loop_of()
    exact, first = Maml().learn(loop).gradient, Maml(first_order=True).learn(loop).gradient
    assert not torch.allclose(exact, first)
    theta = loop.begin()
    for step in range(STEPS):
        theta = theta - loop.scaled(loop.rates, loop.factors) * loop.gradient(theta, step)
    torch.testing.assert_close(first, loop.outer_gradient(theta))


def linear(theta: Tensor, number: int) -> Tensor:
    """Without curvature first order is exact."""
    return theta @ noise(theta.shape[1], seed=number).double()


def test_without_curvature_first_order_is_exact() -> None:
    loop = replace(loop_of(linear), alpha_decay=0.0)
    exact, first = Maml().learn(loop), Maml(first_order=True).learn(loop)
    torch.testing.assert_close(first.gradient, exact.gradient)
    torch.testing.assert_close(first.factors, exact.factors)


def test_reptile_follows_adam_and_goes_where_the_tasks_went() -> None:
    loop = replace(loop_of(tasks=1), factors=torch.zeros(3), alpha_decay=0.0)
    learned = Reptile().learn(loop)
    weights = loop.start[~loop.alphas].clone().requires_grad_()
    alphas = loop.start[loop.alphas].clone().requires_grad_()
    adam = torch.optim.Adam([{"params": [weights], "lr": 0.05}, {"params": [alphas], "lr": 0.3}])
    theta = torch.empty(loop.layout.size)
    for step in range(STEPS):
        theta = torch.zeros(loop.layout.size)
        theta[~loop.alphas], theta[loop.alphas] = weights, alphas
        adam.zero_grad()
        smooth(theta[None], step).sum().backward()
        adam.step()
    theta = torch.zeros(loop.layout.size)
    theta[~loop.alphas], theta[loop.alphas] = weights.detach(), alphas.detach()
    torch.testing.assert_close(learned.gradient[0], loop.start - theta, rtol=1e-6, atol=1e-9)


def test_reptile_learns_rates_by_the_hypergradient_of_the_next_step() -> None:
    """The derivative of the second step's loss by the length of the first step."""
    loop = replace(loop_of(), alpha_decay=0.0)
    learned = Reptile().learn(loop)
    for index in range(len(loop.factors)):
        losses = []
        for change in (1e-6, -1e-6):
            factors = loop.factors.clone()
            factors[index] += change
            once = replace(loop, steps=1, factors=factors)
            losses.append(smooth(once.start - Reptile().learn(once).gradient, 1))
        slope = (losses[0] - losses[1]) / 2e-6
        torch.testing.assert_close(learned.factors[:, index], slope, rtol=1e-5, atol=1e-8)


def test_adam_leaves_alone_what_does_not_move() -> None:
    loop = loop_of()
    resting = replace(loop, rates=torch.where(loop.alphas, 0.0, loop.rates))
    moments = Reptile().learn(resting).moments
    assert moments.steps.tolist() == [STEPS, 0]
    assert not bool(moments.first[:, loop.alphas].any())
    again = Reptile().learn(
        replace(loop, moments=replace(moments, first=moments.first[0], second=moments.second[0]))
    )
    assert again.moments.steps.tolist() == [2 * STEPS, STEPS]


def exact_second_order(loop: InnerLoop, theta: Tensor) -> Tensor:
    """DARTS, eq. 6: the slope of the held-out loss, through a gradient step of the weights."""
    theta = theta.clone().requires_grad_()
    (train,) = torch.autograd.grad(loop.loss(theta, 0).sum(), theta, create_graph=True)
    rates = loop.scaled(torch.where(loop.alphas, 0.0, loop.rates), loop.factors)
    held_out = loop.loss(theta - rates * train, loop.steps + 1).sum()
    return torch.autograd.grad(held_out, theta)[0]


def under_way(loop: InnerLoop) -> Tensor:
    """Parameters of tasks that have moved, each its own way: stale ones would be others."""
    start = loop.begin()
    return start + 0.3 * noise(*start.shape)


def test_second_order_is_the_slope_through_the_weights_step() -> None:
    """The finite difference divides by twice its step (and multiplies nothing)."""
    loop = replace(loop_of(order=Order.SECOND), alpha_decay=0.0)
    theta = under_way(loop)
    found, expected = loop.gradient(theta, 0), exact_second_order(loop, theta)
    torch.testing.assert_close(
        found[:, loop.alphas], expected[:, loop.alphas], rtol=1e-3, atol=1e-4
    )
    first = replace(loop, order=Order.FIRST).gradient(theta, 0)
    assert not torch.allclose(first[:, loop.alphas], expected[:, loop.alphas], rtol=1e-3)


def test_first_order_takes_the_alphas_from_the_held_out_episode() -> None:
    loop = replace(loop_of(order=Order.FIRST), alpha_decay=0.0)
    theta = under_way(loop).requires_grad_()
    found = loop.gradient(theta, 1)
    (train,) = torch.autograd.grad(smooth(theta, 1).sum(), theta)
    (held_out,) = torch.autograd.grad(smooth(theta, STEPS + 2).sum(), theta)
    torch.testing.assert_close(found, torch.where(loop.alphas, held_out, train))


def test_each_task_is_clipped_on_its_own() -> None:
    loop = replace(loop_of(), alpha_decay=0.0, clip=0.1)
    found = loop.gradient(loop.begin(), 0)
    free = replace(loop, clip=float("inf")).gradient(loop.begin(), 0)
    for group in (loop.alphas, ~loop.alphas):
        norms = found[:, group].norm(dim=1)
        torch.testing.assert_close(norms, free[:, group].norm(dim=1).clamp(max=0.1))
        torch.testing.assert_close(
            found[:, group] / norms[:, None], free[:, group] / free[:, group].norm(dim=1)[:, None]
        )
