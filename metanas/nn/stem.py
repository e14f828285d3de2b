"""Both ends of a network: the inputs of the first cell, and the features of the last.

Without a trunk these are a stem and nothing; with one, the trunk's two maps and an
`Embedding`.
"""

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.nn.functional import Rows
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import Chain, Conv, Norm, channels_last, emit_chain
from metanas.nn.trunk import Maps
from metanas.spec.search_space import SearchSpace

EMBED = "embed."


class Stem(Chain):
    """Map images `(R, C, H, W)` to both inputs of the first cell, which are the same tensor.

    Convolutions of 3x3 with a ReLU between them, of which the last one strides.
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

    def kept(self, size: int) -> int:
        """Count the numbers that an image of this side keeps for the backward pass."""
        return 2 * self.before * size**2 + 2 * self.widths[0] * (-(-size // self.stride)) ** 2

    def emit(self, graph: Graph, images: Value) -> tuple[Value, Value]:
        """Emit the same computation as ONNX."""
        out = emit_chain(graph, self, images)
        return out, out


class Taps(nn.Module):
    """Map the features of a trunk, `(R, K)`, to both inputs of the first cell."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.maps = Maps.of(space)
        self.widths = self.maps.channels

    def forward(self, x: Tensor, _rows: Rows) -> tuple[Tensor, Tensor]:
        return self.maps.unpack(x)

    def kept(self, size: int) -> int:
        """Count the numbers that an image of this side keeps for the backward pass."""
        return self.maps.length(size)


def pooled(maps: Tensor, space: SearchSpace) -> Tensor:
    """Pool the last cell's maps `(R, C, H, W)` to features `(R, D)`, a mean for each grid field.

    Fields of an odd side overlap in its middle.
    """
    return F.adaptive_avg_pool2d(maps, space.grid).flatten(1)


def emit_pooled(graph: Graph, maps: Value, space: SearchSpace, size: int) -> Value:
    """Emit the pooling as ONNX, for images of this side."""
    if space.grid == 1:
        return graph.pooled(maps)
    side = space.sides(size)[-1]
    length, step = -(-side // space.grid), side // space.grid
    return graph.node("Flatten", [graph.average_pool(maps, length, step, 0)], axis=1)


def halves_before(space: SearchSpace, index: int) -> bool:
    """Return True if the first input of a cell has twice the resolution of the second."""
    if index == 0 and space.trunk:
        return Maps.of(space).ratio == 2
    return index - 1 in space.reductions


def entry(space: SearchSpace) -> Stem | Taps:
    """Build the module that a network of this search space begins with."""
    return Taps(space) if space.trunk else Stem(space)


class Embedding(nn.Module):
    """Join the features of the trunk and of the cells into one vector.

    The trunk's last map, pooled, of length one, through a linear map, and again of length one;
    beside it the cells' features, of length `exp(log_mix)`. With the identity for the linear map
    and a mix of zero, prototypes of these are the frozen trunk's by cosine similarity: the baseline
    that it starts from.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        width = Maps.of(space).channels[1]
        self.project = Conv(width, width)
        self.log_mix = nn.Parameter(torch.tensor(0.0))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Start near the baseline: the cells have a small weight."""
        if not self.project.weight.is_meta:
            self.project.weight.copy_(torch.eye(len(self.project.weight))[..., None, None])
        self.log_mix.fill_(log(0.1))

    def forward(self, last: Tensor, features: Tensor, rows: Rows) -> Tensor:
        """Compute features `(R, D)` of maps `(R, C, H, W)` and of the cells' features."""
        pooled = F.normalize(last.mean(dim=(2, 3)), dim=1)
        own = F.normalize(self.project(pooled[..., None, None], rows).flatten(1), dim=1)
        mix = self.log_mix.exp().reshape(-1, 1, 1)
        found = F.normalize(features, dim=1).unflatten(0, (rows.tasks, -1)) * mix
        return torch.cat([own, found.flatten(0, 1)], dim=1)

    def emit(self, graph: Graph, last: Value, features: Value) -> Value:
        """Emit the same as ONNX; `features` are pooled already, `(N, D)`."""
        pooled = graph.unit(graph.pooled(last))
        matrix = graph.constant(self.project.weight.flatten(1).numpy(force=True))
        own = graph.unit(graph.node("Gemm", [pooled, matrix], transB=1))
        mix = graph.constant(self.log_mix.exp().numpy(force=True))
        return graph.concat([own, graph.node("Mul", [graph.unit(features), mix])], axis=1)


def tempered(params: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Move the linear map of the `Embedding` part of the way back to the identity.

    keep: 0 leaves it as it is, 1 is the identity. Between a pretrained and a fine-tuned network lie
    networks better than both on what the tuning has not seen (WiSE-FT, arXiv:2109.01903).
    """
    name = f"{EMBED}project.weight"
    if name not in params or keep == 0:
        return dict(params)
    identity = torch.eye(len(params[name])).to(params[name])[..., None, None]
    return {**params, name: torch.lerp(params[name], identity, keep)}
