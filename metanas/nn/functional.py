"""Convolutions and normalised mixtures over the rows of one task, or of a stack of several.

Notes:
- A batch contains task after task, and in each the support set first (`Rows`). With one task,
  parameters have their usual shapes; with several, every parameter has a leading task dimension.
- Activations stay in channels_last, where a pointwise convolution is one matrix product for all
  tasks. Other convolutions treat the tasks as groups of channels, side by side.
- A mixture normalises, weighs and adds up its candidates in one pass each and never stores a
  normalised tensor. Its backward pass is written by hand; for derivatives of second order,
  autograd differentiates the plain expression.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Rows:
    """The layout of a batch's rows: task after task, the support set first in each.

    support: number of rows of each task that set its normalisation statistics.
    tasks: number of tasks; each has the same number of rows.
    weights: `(tasks, support)`, weights of the rows in the statistics of their task, with sum 1 and
        0 for padding; None for equal weights.
    """

    support: int
    tasks: int = 1
    weights: Tensor | None = None

    def of(self, task: int) -> "Rows":
        """Return the rows of one task."""
        weights = None if self.weights is None else self.weights[task : task + 1]
        return Rows(self.support, 1, weights)


@dataclass(frozen=True)
class Geometry:
    """Stride, padding and dilation (height, width) of a convolution, and its groups."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def convolve(x: Tensor, weight: Tensor, rows: Rows, geometry: Geometry) -> Tensor:
    """Convolve `(R, I, H, W)` with `(O, I / groups, h, w)`, or with one weight for each task."""
    tasks = rows.tasks
    if weight.shape[-2:] == (1, 1) and geometry == Geometry():
        return _pointwise(x, weight, tasks)
    if tasks == 1:
        return _convolve(x, weight, geometry)
    wide = replace(geometry, groups=geometry.groups * tasks)
    return _apart(_convolve(_side_by_side(x, tasks), weight.flatten(0, 1), wide), tasks)


def _pointwise(x: Tensor, weight: Tensor, tasks: int) -> Tensor:
    count, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(tasks, -1, channels)
    matrix = weight.flatten(-3).transpose(-2, -1)
    out = pixels[0] @ matrix if tasks == 1 else torch.bmm(pixels, matrix)
    return out.view(count, height, width, -1).permute(0, 3, 1, 2)


def _side_by_side(x: Tensor, tasks: int) -> Tensor:
    """Turn `(tasks * N, C, H, W)` into `(N, tasks * C, H, W)`."""
    count, channels, height, width = x.shape
    parts = x.permute(0, 2, 3, 1).view(tasks, count // tasks, height, width, channels)
    return parts.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def _apart(x: Tensor, tasks: int) -> Tensor:
    """Undo `_side_by_side`."""
    count, channels, height, width = x.shape
    parts = x.permute(0, 2, 3, 1).view(count, height, width, tasks, channels // tasks)
    return parts.permute(3, 0, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def _convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    depthwise = weight.shape[1] == 1 and geometry.groups == x.shape[1]
    if not (depthwise and weight.shape[2:] == (3, 3) and geometry.dilation == (2, 2)):
        stride, padding = geometry.stride, geometry.padding
        return F.conv2d(x, weight, None, stride, padding, geometry.dilation, geometry.groups)
    if geometry.stride == (2, 2):
        # every tap falls on an even pixel: an undilated convolution of the even pixels
        return F.conv2d(x[:, :, ::2, ::2], weight, padding=1, groups=x.shape[1])
    out: Tensor = _DilatedDepthwise.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


class _DilatedDepthwise(torch.autograd.Function):
    """Depthwise 3x3 convolution of dilation 2, with gradients that are convolutions again.

    torch's gradient took 8.7 ms for the input at 84x84 pixels against 0.8 (ten rows, 28 channels,
    one core), and 99 against 38 us at 7x7. The gradient of the input is the same convolution with
    the kernel rotated by 180 degrees. For the gradient of the kernel, each of the four lattices of
    even and odd pixels is one image of an undilated convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=2, dilation=2, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_x: Tensor = _DilatedDepthwise.apply(  # type: ignore[no-untyped-call]
            gradient, weight.flip(2, 3)
        )
        of_weight = conv2d_weight(
            _lattices(x), list(weight.shape), _lattices(gradient), padding=1, groups=x.shape[1]
        )
        return of_x, of_weight


def even_sided(x: Tensor) -> Tensor:
    """Pad odd sides of `(N, C, H, W)` with a row or a column of zeros."""
    odd = (x.shape[2] % 2, x.shape[3] % 2)
    # F.pad copies even without padding
    return F.pad(x, (0, odd[1], 0, odd[0])) if any(odd) else x


def _lattices(x: Tensor) -> Tensor:
    """Split `(N, C, H, W)` into four lattices `(4 N, C, H / 2, W / 2)` of every second pixel."""
    x = even_sided(x)
    count, channels, height, width = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(count, height // 2, 2, width // 2, 2, channels)
    return cells.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def normalise(x: Tensor, rows: Rows) -> Tensor:
    """Normalise the rows `(R, C, H, W)` of each task by the statistics of its support set."""
    return mixture([x], (True,), None, rows)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance `(C,)` over rows and pixels of `(R, C, H, W)`."""
    pixels = _pixels(x, 1)
    counts = _counts(Rows(len(x)), pixels, len(x))
    mean = torch.bmm(counts, pixels)
    return mean.flatten(), torch.bmm(counts, (pixels - mean).square_()).flatten()


def mixture(
    xs: Sequence[Tensor], normed: tuple[bool, ...], shares: Tensor | None, rows: Rows
) -> Tensor:
    """Sum tensors `(R, C, H, W)` times their shares, normalised where `normed` is true.

    `shares` has shape (tasks, len(xs)); None means 1.
    """
    out: Tensor = _Mixture.apply(rows, normed, shares, *xs)  # type: ignore[no-untyped-call]
    return out


class _Mixture(torch.autograd.Function):
    """`mixture` and its gradient.

    A candidate x has share a, mean m and reciprocal deviation r, and adds a r (x - m). With the
    gradient g of the sum, its gradient is a r g. On support rows of weight w, subtract from it
    w a r (A + r (x - m) B), where A is the sum of g and B that of r (x - m) g over all rows.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Rows, normed: tuple[bool, ...], shares: Tensor | None, *xs: Tensor
    ) -> Tensor:
        pixels = [_pixels(x, rows.tasks) for x in xs]
        counts = _counts(rows, pixels[0], len(xs[0]))
        mean, reciprocal = _statistics(pixels, normed, counts)
        scale = _scale(reciprocal, shares)
        total = torch.addcmul(-(mean * scale).sum(0), pixels[0], scale[0])
        for part, factor in zip(pixels[1:], scale[1:], strict=True):
            total.addcmul_(part, factor)
        ctx.rows, ctx.normed = rows, normed
        ctx.save_for_backward(shares, counts, mean, reciprocal, *xs)
        return _images(total, xs[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        shares, counts, mean, reciprocal, *xs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *_gradients(gradients[0], xs, ctx.normed, shares, ctx.rows)
        scale = _scale(reciprocal, shares)
        gradient = _pixels(gradients[0], ctx.rows.tasks)
        pixels = [_pixels(x, ctx.rows.tasks) for x in xs]
        ones = torch.ones_like(gradient[:, None, :, 0])
        total = torch.bmm(ones, gradient)
        along = torch.stack([torch.bmm(ones, gradient * part) for part in pixels])
        along = (along - mean * total) * reciprocal
        slope = -scale * reciprocal * along
        offset = -scale * total - mean * slope
        support = counts.shape[2]
        of_xs = []
        for k, part in enumerate(pixels):
            of_x = gradient * scale[k]
            if ctx.normed[k]:
                change = torch.addcmul(offset[k], part[:, :support], slope[k])
                of_x[:, :support].addcmul_(change, counts.transpose(1, 2))
            of_xs.append(_images(of_x, xs[k]))
        of_shares = None if shares is None else along.sum((2, 3)).T
        return None, None, of_shares, *of_xs


def _pixels(x: Tensor, tasks: int) -> Tensor:
    """Turn `(R, C, H, W)` into `(tasks, rows * H * W, C)`."""
    return x.permute(0, 2, 3, 1).reshape(tasks, -1, x.shape[1])


def _images(pixels: Tensor, like: Tensor) -> Tensor:
    """Undo `_pixels`."""
    count, channels, height, width = like.shape
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)


def _counts(rows: Rows, pixels: Tensor, count: int) -> Tensor:
    """Weigh each pixel of the support rows in its task's statistics, `(tasks, 1, pixels)`."""
    area = pixels.shape[1] * rows.tasks // count
    if rows.weights is None:
        size = rows.support * area
        return torch.full((rows.tasks, 1, size), 1 / size, dtype=pixels.dtype, device=pixels.device)
    weights = rows.weights.to(pixels.dtype) / area
    return weights.repeat_interleave(area, dim=1)[:, None]


def _statistics(
    pixels: Sequence[Tensor], normed: tuple[bool, ...], counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute means and reciprocal deviations `(K, tasks, 1, C)`; 0 and 1 without a norm."""
    means, reciprocals = [], []
    for part, is_normed in zip(pixels, normed, strict=True):
        if not is_normed:
            shape = (len(part), 1, part.shape[2])
            means.append(part.new_zeros(shape))
            reciprocals.append(part.new_ones(shape))
            continue
        support = part[:, : counts.shape[2]]
        means.append(torch.bmm(counts, support))
        variance = torch.bmm(counts, (support - means[-1]).square_())
        reciprocals.append(variance.add_(NORM_EPSILON).rsqrt_())
    return torch.stack(means), torch.stack(reciprocals)


def _scale(reciprocal: Tensor, shares: Tensor | None) -> Tensor:
    """Compute the factors `(K, tasks, 1, C)` of the candidates."""
    return reciprocal if shares is None else reciprocal * shares.T[:, :, None, None]


def _gradients(
    gradient: Tensor,
    xs: Sequence[Tensor],
    normed: tuple[bool, ...],
    shares: Tensor | None,
    rows: Rows,
) -> tuple[Tensor | None, ...]:
    """Compute gradients of shares and candidates that can be differentiated again."""
    # differentiate by views: one candidate may be computed from another, whose path must not count
    xs = [x.view_as(x) for x in xs]
    shares = None if shares is None else shares.view_as(shares)
    total = torch.zeros(())
    for k, x in enumerate(xs):
        part = _pixels(x, rows.tasks)
        if normed[k]:
            counts = _counts(rows, part, len(x)).transpose(1, 2)
            support = part[:, : counts.shape[1]]
            mean = (support * counts).sum(1, keepdim=True)
            variance = ((support - mean).square() * counts).sum(1, keepdim=True)
            part = (part - mean) * torch.rsqrt(variance + NORM_EPSILON)
        total = total + (part if shares is None else part * shares[:, k, None, None])
    every = (shares, *xs)
    leaves = [each for each in every if each is not None and each.requires_grad]
    out = _images(total, xs[0])
    slopes = iter(torch.autograd.grad(out, leaves, gradient, create_graph=True))
    return tuple(next(slopes) if x is not None and x.requires_grad else None for x in every)
