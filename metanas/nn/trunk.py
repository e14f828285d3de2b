"""A pretrained trunk in front of the cells: images in, the maps that the first cell works on out.

A stem and inverted residual blocks (`metanas.spec.trunk_plans`), their norms folded into the
convolutions: a trunk is convolutions and clips alone.

Notable:
- A trunk is frozen. It runs once an image, and what it returns is the supernet's input: a row of
  numbers an image, `Maps`, so that stacks, padding and mini-batches need not know of it.
- Its weights travel with the checkpoint, in half precision; it computes in single precision.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.nn.onnx_graph import Graph, Value
from metanas.spec.search_space import SearchSpace
from metanas.spec.trunk_plans import TRUNKS, BlockPlan

CHUNK = 32
"""Images that go through a trunk at once."""


@dataclass(frozen=True)
class Maps:
    """The layout of two maps in one row; the first may have twice the other's resolution.

    channels: of the first and of the second map.
    ratio: resolution of the first in relation to the second's, 1 or 2.
    reduced: by how much the second is smaller than the image, on each side.
    """

    channels: tuple[int, int]
    ratio: int
    reduced: int

    @staticmethod
    def of(space: SearchSpace) -> "Maps":
        """Return the layout of the blocks that a search space taps."""
        first, second = (TRUNKS[space.trunk][tap] for tap in space.taps)
        widths = (first.channels, second.channels)
        return Maps(widths, second.reduced // first.reduced, second.reduced)

    def side(self, size: int) -> int:
        """Return the side of the second map of an image of this side."""
        return size // self.reduced

    def length(self, size: int) -> int:
        """Count the numbers of an image of this side."""
        one, other = self.channels
        return (one * self.ratio**2 + other) * self.side(size) ** 2

    def pack(self, first: Tensor, second: Tensor) -> Tensor:
        """Write maps `(N, C, H, W)` as rows `(N, K)`."""
        return torch.cat([x.permute(0, 2, 3, 1).flatten(1) for x in (first, second)], dim=1)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Read the maps `(N, C, H, W)` from rows `(N, K)`; both are square, channels innermost."""
        one, other = self.channels
        side = isqrt(rows.shape[1] // (one * self.ratio**2 + other))
        wide = self.ratio * side
        first, second = rows.split((one * wide**2, other * side**2), dim=1)
        return (
            first.unflatten(1, (wide, wide, one)).permute(0, 3, 1, 2),
            second.unflatten(1, (side, side, other)).permute(0, 3, 1, 2),
        )


class SameConv(nn.Conv2d):
    """Convolution with bias, padded as TensorFlow pads: output side is input side / stride.

    For sides that the stride divides, which the sizes that a trunk takes see to.
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
            dilation=(1, 1),
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
    """Images `(N, 3, S, S)` to `Maps` `(N, K)`: the outputs of the two tapped blocks.

    It ends with the second tap. Its weights have no meaning until they are loaded.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.taps = space.taps
        self.maps = Maps.of(space)
        blocks = TRUNKS[space.trunk][: self.taps[1] + 1]
        self.stem = SameConv(3, blocks[0].inputs, 3, 2, 1)
        self.blocks = nn.ModuleList(Block(plan) for plan in blocks)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self._chunk(part) for part in images.split(CHUNK)])

    def _chunk(self, images: Tensor) -> Tensor:
        x = F.relu6(self.stem(images.contiguous(memory_format=torch.channels_last)))
        found = {}
        for index, block in enumerate(self.blocks):
            found[index] = x = block(x)
        return self.maps.pack(*(found[tap] for tap in self.taps))

    def emit(self, graph: Graph, images: Value) -> tuple[Value, Value]:
        """Emit the same computation as ONNX; return the two maps."""
        x = graph.clip(self.stem.emit(graph, images), 0.0, 6.0)
        found = {}
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            found[index] = x = block.emit(graph, x)
        return found[self.taps[0]], found[self.taps[1]]
