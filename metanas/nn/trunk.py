"""A pretrained trunk in front of the cells: images in, maps for the first cell and features out.

A trunk is a stem and inverted residual blocks (`metanas.spec.trunk_plans`). Their norms are folded
into the convolutions, so it consists of convolutions and clips.

Notes:
- A trunk is frozen and runs once an image. Its output, one row of numbers for each image (`Maps`),
  is the supernet's input. So stacks, padding and mini-batches treat it like an image.
- A checkpoint contains its weights in half precision; it computes in single precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.nn.onnx_graph import Graph, Value
from metanas.spec.search_space import SearchSpace
from metanas.spec.trunk_plans import TRUNKS, BlockPlan

CHUNK = 32
"""Images of one pass of a trunk."""


@dataclass(frozen=True)
class Maps:
    """The layout of a trunk's output for an image, one row of numbers.

    First come the two maps that the cells work on, if there are cells, then the pooled features of
    the trunk. The first map may have twice the other's resolution.
    """

    space: SearchSpace

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of the first and of the second map."""
        first, second = self._tapped
        return first.channels, second.channels

    @property
    def ratio(self) -> int:
        """Resolution of the first map in relation to the second's, 1 or 2."""
        first, second = self._tapped
        return second.reduced // first.reduced

    @property
    def parts(self) -> list[int]:
        """Lengths of the parts of the pooled features."""
        blocks = TRUNKS[self.space.trunk]
        return [blocks[block].channels * grid**2 for block, grid in self.space.trunk_pools]

    @property
    def _tapped(self) -> tuple[BlockPlan, BlockPlan]:
        first, second = (TRUNKS[self.space.trunk][tap] for tap in self.space.taps)
        return first, second

    def length(self, size: int) -> int:
        """Count the numbers of an image of this side."""
        side = size // self._tapped[1].reduced
        one, other = self.channels
        maps = (one * self.ratio**2 + other) * side**2 if self.space.cells else 0
        return maps + sum(self.parts)

    def pack(self, outputs: Sequence[Tensor]) -> Tensor:
        """Write the outputs of all blocks `(N, C, H, W)` as rows `(N, K)`."""
        maps = [outputs[tap] for tap in self.space.taps] if self.space.cells else []
        rows = [each.permute(0, 2, 3, 1).flatten(1) for each in maps]
        rows += [pooled(outputs[block], grid) for block, grid in self.space.trunk_pools]
        return torch.cat(rows, dim=1)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Read the maps `(N, C, H, W)` from rows `(N, K)`; both are square, channels innermost."""
        one, other = self.channels
        side = isqrt((rows.shape[1] - sum(self.parts)) // (one * self.ratio**2 + other))
        wide = self.ratio * side
        first, second, _ = rows.split((one * wide**2, other * side**2, sum(self.parts)), dim=1)
        return (
            first.unflatten(1, (wide, wide, one)).permute(0, 3, 1, 2),
            second.unflatten(1, (side, side, other)).permute(0, 3, 1, 2),
        )

    def features(self, rows: Tensor) -> list[Tensor]:
        """Read the parts of the pooled features, `(N, D)` each, from rows `(N, K)`."""
        return list(rows[:, -sum(self.parts) :].split(self.parts, dim=1))


def pooled(maps: Tensor, grid: int) -> Tensor:
    """Average maps `(N, C, H, W)` over each of `grid` x `grid` fields: `(N, C * grid^2)`.

    Fields of an odd side overlap in its middle.
    """
    return F.adaptive_avg_pool2d(maps, grid).flatten(1)


def emit_pooled(graph: Graph, maps: Value, grid: int, side: int) -> Value:
    """Emit the pooling of maps of this side as ONNX."""
    if grid == 1:
        return graph.pooled(maps)
    length, step = -(-side // grid), side // grid
    return graph.node("Flatten", [graph.average_pool(maps, length, step, 0)], axis=1)


class SameConv(nn.Conv2d):
    """Convolution with bias, padded as in TensorFlow: output side is input side / stride.

    The input side must be a multiple of the stride; the configuration of a trunk ensures it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        before = (kernel - stride) // 2
        self.pads = (before, kernel - stride - before)

    def reset_parameters(self) -> None:
        """Draw nothing: the weights are about to be loaded."""

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, self.pads * 2) if any(self.pads) else x
        out: Tensor = self._conv_forward(padded, self.weight, self.bias)
        return out

    def emit(self, graph: Graph, value: Value) -> Value:
        """Emit the same computation as ONNX."""
        before, after = self.pads
        return graph.conv(
            value,
            self.weight.numpy(force=True),
            None if self.bias is None else self.bias.numpy(force=True),
            stride=(self.stride[0], self.stride[1]),
            pads=(before, before, after, after),
            groups=self.groups,
        )


class Block(nn.Module):
    """An inverted residual block: expand, depthwise, project; ReLU6 after the first two."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        width = plan.inputs * plan.expansion
        self.layers = nn.ModuleList()
        if plan.expansion > 1:
            self.layers.append(SameConv(plan.inputs, width, 1, 1, 1))
        self.layers.append(SameConv(width, width, plan.kernel, plan.stride, width))
        self.layers.append(SameConv(width, plan.channels, 1, 1, 1))
        self.residual = plan.stride == 1 and plan.inputs == plan.channels

    def forward(self, x: Tensor) -> Tensor:
        *first, project = self.layers
        out = x
        for layer in first:
            out = F.relu6(layer(out))
        projected: Tensor = project(out)
        return x + projected if self.residual else projected

    def emit(self, graph: Graph, value: Value) -> Value:
        """Emit the same computation as ONNX."""
        *first, project = (layer for layer in self.layers if isinstance(layer, SameConv))
        out = value
        for layer in first:
            out = graph.clip(layer.emit(graph, out), 0.0, 6.0)
        out = project.emit(graph, out)
        return graph.add(value, out) if self.residual else out


class Trunk(nn.Module):
    """Map images `(N, 3, S, S)` to rows `(N, K)` of the layout `Maps`.

    It ends with the last block in use. A new trunk has no weights: load them.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.maps = Maps(space)
        blocks = space.trunk_blocks
        self.stem = SameConv(3, blocks[0].inputs, 3, 2, 1)
        self.blocks = nn.ModuleList(Block(plan) for plan in blocks)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self._chunk(part) for part in images.split(CHUNK)])

    def _chunk(self, images: Tensor) -> Tensor:
        x = F.relu6(self.stem(images.contiguous(memory_format=torch.channels_last)))
        outputs = list[Tensor]()
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.maps.pack(outputs)

    def emit(self, graph: Graph, images: Value) -> list[Value]:
        """Emit the same computation as ONNX; return the outputs of all blocks."""
        x = graph.clip(self.stem.emit(graph, images), 0.0, 6.0)
        outputs = list[Value]()
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block.emit(graph, x)
            outputs.append(x)
        return outputs
