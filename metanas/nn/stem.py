"""The layers before and after the cells.

Without a trunk, a `Stem` comes before the cells. Behind a trunk, `Taps` gives the first cell two
maps of the trunk, and an `Embedding` joins the features of trunk and cells.
"""

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.nn.functional import Rows
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import Chain, Conv, Norm, channels_last, emit_chain
from metanas.nn.trunk import Maps, emit_pooled
from metanas.spec.search_space import SearchSpace

EMBED = "embed."
METRIC = f"{EMBED}project.weight"
"""Name of the learned metric, a linear map of a trunk's features."""


class Stem(Chain):
    """Map images `(R, C, H, W)` to both inputs of the first cell, which are the same tensor.

    It consists of 3x3 convolutions with ReLUs between them. The last one has the stride.
    """

    def __init__(self, space: SearchSpace) -> None:
        *before, last = space.stem_channels
        layers, inputs = list[nn.Module](), space.input_channels
        for width in before:
            layers += [Conv(inputs, width, (3, 3)), Norm(width), nn.ReLU()]
            inputs = width
        self.stride = space.stem_stride
        strided = Conv(inputs, last, (3, 3), (self.stride, self.stride))
        super().__init__([*layers, strided, Norm(last)])
        self.widths = (last, last)
        self.before = sum(before)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        first = channels_last(self[0](x, rows))
        out = self.part(first, rows, 1, len(self))
        return out, out

    def activations(self, size: int) -> int:
        """Count the numbers that an image of this side keeps for the backward pass."""
        return 2 * self.before * size**2 + 2 * self.widths[0] * (-(-size // self.stride)) ** 2

    def emit(self, graph: Graph, images: Value) -> tuple[Value, Value]:
        """Emit the same computation as ONNX."""
        out = emit_chain(graph, self, images)
        return out, out


class Taps(nn.Module):
    """Map the output of a trunk, `(R, K)`, to both inputs of the first cell."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.maps = Maps(space)
        self.widths = self.maps.channels

    def forward(self, x: Tensor, _rows: Rows) -> tuple[Tensor, Tensor]:
        return self.maps.unpack(x)

    def activations(self, size: int) -> int:
        """Count the numbers that an image of this side keeps for the backward pass."""
        return self.maps.length(size)


def halves_before(space: SearchSpace, index: int) -> bool:
    """Return True if the first input of a cell has twice the resolution of the second."""
    if index == 0 and space.trunk:
        return Maps(space).ratio == 2
    return index - 1 in space.reductions


def entry(space: SearchSpace) -> Stem | Taps:
    """Build the first module of a network of this search space."""
    return Taps(space) if space.trunk else Stem(space)


class Embedding(nn.Module):
    """Join the features of the trunk and of the cells into one vector.

    Each part of the trunk's features is scaled to length one; a linear map follows, and its result
    is again scaled to length one. The cells' features, if any, are appended with length
    `exp(log_mix)`. With the identity as linear map and a mix of zero, the result is the features of
    the frozen trunk: the baseline.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.maps = Maps(space)
        self.project = Conv(sum(self.maps.parts), sum(self.maps.parts))
        self.log_mix = nn.Parameter(torch.tensor(0.0)) if space.cells else None
        self.start()

    @property
    def identity(self) -> bool:
        """True if the linear map changes nothing: the metric of the frozen trunk."""
        matrix = self.project.weight.flatten(1)
        return torch.equal(matrix, torch.eye(len(matrix)).to(matrix))

    @torch.no_grad()
    def start(self) -> None:
        """Start near the baseline: the cells have a small weight."""
        if not self.project.weight.is_meta:
            self.project.weight.copy_(torch.eye(len(self.project.weight))[..., None, None])
        if self.log_mix is not None:
            self.log_mix.fill_(log(0.1))

    def forward(self, x: Tensor, features: Tensor | None, rows: Rows) -> Tensor:
        """Compute features `(R, D)` of a trunk's output `(R, K)` and of the cells' features."""
        parts = torch.cat([F.normalize(each, dim=1) for each in self.maps.features(x)], dim=1)
        projected = F.normalize(self.project(parts[..., None, None], rows).flatten(1), dim=1)
        if features is None or self.log_mix is None:
            return projected
        mix = self.log_mix.exp().reshape(-1, 1, 1)
        cells = F.normalize(features, dim=1).unflatten(0, (rows.tasks, -1)) * mix
        return torch.cat([projected, cells.flatten(0, 1)], dim=1)

    def emit(
        self, graph: Graph, outputs: Sequence[Value], features: Value | None, size: int
    ) -> Value:
        """Emit the same as ONNX from the outputs of the trunk's blocks for images of this side."""
        space = self.maps.space
        sides = [size // plan.reduced for plan in space.trunk_blocks]
        parts = [
            graph.unit(emit_pooled(graph, outputs[block], grid, sides[block]))
            for block, grid in space.trunk_pools
        ]
        joined = parts[0] if len(parts) == 1 else graph.concat(parts, axis=1)
        if not self.identity:
            matrix = graph.constant(self.project.weight.flatten(1).numpy(force=True))
            joined = graph.node("Gemm", [joined, matrix], transB=1)
        projected = graph.unit(joined)
        if features is None or self.log_mix is None:
            return projected
        mix = graph.constant(self.log_mix.exp().numpy(force=True))
        return graph.concat([projected, graph.node("Mul", [graph.unit(features), mix])], axis=1)


def interpolated(params: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Interpolate the linear map of the `Embedding` between its weights and the identity.

    keep: 0 is its weights, 1 the identity. Networks between a pretrained and a fine-tuned one are
    better than both on new data (WiSE-FT, arXiv:2109.01903).
    """
    if METRIC not in params or keep == 0:
        return dict(params)
    metric = params[METRIC]
    identity = torch.eye(len(metric)).to(metric)[..., None, None]
    return {**params, METRIC: torch.lerp(metric, identity, keep)}
