"""The kernels: convolutions and mixtures against plain torch, for one task and for stacks."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.nn.functional import Geometry, Rows, convolve, mixture, normalise
from tests.core.small import noise

TASKS, COUNT, CHANNELS = 3, 4, 6
GEOMETRIES = {
    "pointwise": ((1, 1), Geometry()),
    "dense": ((3, 3), Geometry(padding=(1, 1))),
    "strided": ((3, 3), Geometry(stride=(2, 2), padding=(1, 1))),
    "across": ((1, 5), Geometry(stride=(1, 2), padding=(0, 2))),
    "depthwise": ((3, 3), Geometry(padding=(1, 1), groups=CHANNELS)),
    "dilated": ((3, 3), Geometry(padding=(2, 2), dilation=(2, 2), groups=CHANNELS)),
    "dilated, strided": ((3, 3), Geometry((2, 2), (2, 2), (2, 2), CHANNELS)),
}


def plain(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    stride, padding, dilation = geometry.stride, geometry.padding, geometry.dilation
    return F.conv2d(x, weight, None, stride, padding, dilation, geometry.groups)


def assert_same_gradients(one: Tensor, other: Tensor, *leaves: Tensor) -> None:
    weigh = noise(*one.shape, seed=9).to(one.dtype)
    mine = torch.autograd.grad((one * weigh).sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad((other * weigh).sum(), leaves, retain_graph=True)
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (1, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_of_a_stack_is_that_of_each_task(name: str, size: tuple[int, int]) -> None:
    kernel, geometry = GEOMETRIES[name]
    inner = CHANNELS // geometry.groups
    x = noise(TASKS * COUNT, CHANNELS, *size).double().requires_grad_()
    weight = noise(TASKS, CHANNELS, inner, *kernel, seed=1).double().requires_grad_()
    parts = zip(x.split(COUNT), weight, strict=True)
    expected = torch.cat([plain(part, each, geometry) for part, each in parts])
    stacked = convolve(x, weight, Rows(2, TASKS), geometry)
    torch.testing.assert_close(stacked, expected)
    assert_same_gradients(stacked, expected, x, weight)
    alone = convolve(x[:COUNT], weight[0], Rows(2), geometry)
    torch.testing.assert_close(alone, expected[:COUNT])
    assert_same_gradients(alone, expected[:COUNT], x, weight)


def test_the_dilated_convolution_has_second_derivatives() -> None:
    geometry = GEOMETRIES["dilated"][1]
    x = noise(2, CHANNELS, 5, 5).double().requires_grad_()
    weight = noise(CHANNELS, 1, 3, 3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda image, kernel: convolve(image, kernel, Rows(1), geometry), (x, weight)
    )


def plain_mixture(
    xs: list[Tensor], normed: tuple[bool, ...], shares: Tensor, counts: Tensor
) -> Tensor:
    """One task, by definition; `counts` is what each support row counts."""
    total = torch.zeros(())
    for x, is_normed, share in zip(xs, normed, shares, strict=True):
        if is_normed:
            support, weight = x[: len(counts)], counts[:, None, None, None]
            mean = (support * weight).sum((0, 2, 3), keepdim=True) / (x.shape[2] * x.shape[3])
            spread = ((support - mean).square() * weight).sum((0, 2, 3), keepdim=True)
            x = (x - mean) / (spread / (x.shape[2] * x.shape[3]) + 1e-5).sqrt()
        total = total + share * x
    return total


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("normed", list(itertools.product([True, False], repeat=2)))
def test_a_mixture_is_what_its_definition_says(normed: tuple[bool, bool], padded: bool) -> None:
    xs = [noise(TASKS * 5, 4, 3, 2, seed=s).double().requires_grad_() for s in (0, 1)]
    shares = noise(TASKS, 2, seed=2).double().requires_grad_()
    counts = torch.full((TASKS, 3), 1 / 3, dtype=torch.float64)
    if padded:
        counts[1] = torch.tensor([0.5, 0.5, 0.0])
    rows = Rows(3, TASKS, counts if padded else None)
    found = mixture(xs, normed, shares, rows)
    tasks = zip(*(x.split(5) for x in xs), strict=True)
    expected = torch.cat(
        [
            plain_mixture(list(parts), normed, shares[task], counts[task])
            for task, parts in enumerate(tasks)
        ]
    )
    torch.testing.assert_close(found, expected)
    assert_same_gradients(found, expected, *xs, shares)


def test_norms_and_mixtures_have_second_derivatives() -> None:
    rows = Rows(3, 1, torch.tensor([[0.5, 0.5, 0.0]]))
    xs = [noise(4, 2, 2, 2, seed=s).double().requires_grad_() for s in (0, 1)]
    shares = noise(1, 2, seed=2).double().requires_grad_()

    def mixed(share: Tensor, *parts: Tensor) -> Tensor:
        return mixture(parts, (True, False), share, rows)

    assert torch.autograd.gradcheck(mixed, (shares, *xs))
    assert torch.autograd.gradgradcheck(mixed, (shares, *xs))
    assert torch.autograd.gradgradcheck(lambda x: normalise(x, Rows(3)), xs[:1])


def test_candidates_may_depend_on_one_another() -> None:
    """An identity beside a convolution of the same state, differentiated twice."""
    x, weight = noise(4, 2, 3, 3).double(), noise(2, 2, 1, 1).double()
    shares = noise(1, 2, seed=2).double()
    leaves = [each.requires_grad_() for each in (x, weight, shares)]

    def mixed(state: Tensor, kernel: Tensor, share: Tensor) -> Tensor:
        parts = [convolve(state, kernel, Rows(3), Geometry()), state]
        return mixture(parts, (True, False), share, Rows(3))

    plain_gradients = torch.autograd.grad(mixed(*leaves).square().sum(), leaves)
    others = torch.autograd.grad(mixed(*leaves).square().sum(), leaves, create_graph=True)
    torch.testing.assert_close(list(others), list(plain_gradients))
    assert torch.autograd.gradgradcheck(mixed, tuple(leaves))


def test_what_is_not_finite_stays_in_its_task() -> None:
    x = noise(TASKS * COUNT, CHANNELS, 4, 4)
    x[COUNT : 2 * COUNT] = torch.nan
    x.requires_grad_()
    out = x
    weights = []
    for index, (kernel, geometry) in enumerate(GEOMETRIES.values()):
        inner = CHANNELS // geometry.groups
        weights.append(noise(TASKS, CHANNELS, inner, *kernel, seed=index).requires_grad_())
        out = normalise(convolve(out, weights[-1], Rows(2, TASKS), geometry), Rows(2, TASKS))
    gradients = torch.autograd.grad(out.square().sum(), [*weights, x])
    for gradient in gradients:
        parts = gradient.chunk(TASKS)
        assert [bool(part.isfinite().all()) for part in parts] == [True, False, True]
