"""Candidate operations: pairs of `build` (a torch module) and `emit` (the same layers in ONNX).

To add an operation, add an `Op` to `OPS` at the end of this file, or pass in a mapping with it
(`examples/extending/operation.py`).

- A module takes `(x, rows)`. `rows` is the layout of the batch `x`. Normalisation statistics come
  from its support rows alone, so a query does not change the answer of another query.
- A norm with frozen statistics ignores `rows` and normalises every row alike.
- A `Chain` computes a stack of tasks in one pass. Any other module computes task after task.

The set is the search space of MetaNAS (Elsken et al., CVPR 2020, arXiv:1911.11090), which follows
DARTS (Liu et al., ICLR 2019, arXiv:1806.09055).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metanas.nn.functional import NORM_EPSILON, Geometry, Rows, convolve, even_sided, normalise
from metanas.nn.onnx_graph import Graph, Value


class Norm(nn.Module):
    """Batch normalisation without scale and shift, by the statistics of the support set alone.

    While `mean` is None each call normalises `(R, C, H, W)` by the mean and the biased variance of
    its support rows. Once frozen, the stored statistics are used for every row.
    """

    mean: Tensor | None
    variance: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("mean", None)
        self.register_buffer("variance", None)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        if self.mean is not None and self.variance is not None:
            return F.batch_norm(x, self.mean, self.variance, eps=NORM_EPSILON)
        return normalise(x, rows)

    def freeze(self, mean: Tensor, variance: Tensor) -> None:
        """Fix the statistics, each of shape `(channels,)`."""
        self.mean, self.variance = mean, variance

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the scale and shift `(channels,)` of this frozen norm."""
        if self.mean is None or self.variance is None:
            raise RuntimeError("the norm has no statistics yet; call freeze before folded")
        scale = torch.rsqrt(self.variance.double() + NORM_EPSILON)
        return scale, -self.mean.double() * scale


class Conv(nn.Conv2d):
    """Convolution without bias, padded so that stride 1 keeps the size; runs stacks of tasks."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = (dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2)
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        self.geometry = Geometry(stride, padding, (dilation, dilation), groups)

    def reset_parameters(self) -> None:
        """Draw a weight, unless the layer is on the device "meta", which has shapes only."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor, rows: Rows) -> Tensor:  # type: ignore[override]
        return convolve(x, self.weight, rows, self.geometry)


class FactorizedReduce(nn.Module):
    """Halve the resolution with two 1x1 convolutions of stride 2, the second shifted by a pixel.

    Both run as one 2x2 kernel, in torch and in the exported graph. Odd sides are padded at the end:
    a side of length s becomes ceil(s / 2).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.straight = nn.Parameter(torch.empty(outputs - outputs // 2, inputs, 1, 1))
        self.shifted = nn.Parameter(torch.empty(outputs // 2, inputs, 1, 1))
        for weight in (self.straight, self.shifted):
            if not weight.is_meta:
                nn.init.kaiming_uniform_(weight, a=5**0.5)

    def kernel(self) -> Tensor:
        """Write both convolutions as one weight of shape (outputs, inputs, 2, 2)."""
        straight, shifted = F.pad(self.straight, (0, 1, 0, 1)), F.pad(self.shifted, (1, 0, 1, 0))
        return torch.cat([straight, shifted], dim=-4)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        return convolve(even_sided(x), self.kernel(), rows, Geometry(stride=(2, 2)))


class Chain(nn.ModuleList):
    """Layers one after the other.

    Norms, convolutions and reductions get the layout of the rows. In a stack of tasks, any other
    layer with parameters computes task after task.
    """

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        return self.part(x, rows, 0, len(self))

    def part(self, x: Tensor, rows: Rows, first: int, end: int) -> Tensor:
        """Run the layers from `first` up to but not including `end`."""
        for layer in list(self)[first:end]:
            if isinstance(layer, Norm | Conv | FactorizedReduce):
                x = layer(x, rows)
            elif rows.tasks > 1 and has_parameters(layer):
                x = each_task(layer, x, rows.tasks)
            else:
                x = layer(x)
        return x


def each_task(module: nn.Module, x: Tensor, tasks: int, rows: Rows | None = None) -> Tensor:
    """Run a module without support for stacks on one task after the other.

    rows: layout of the batch; None for a module that takes `x` alone.
    """
    stacked = dict(module.named_parameters())
    outs = []
    for task, part in enumerate(x.unflatten(0, (tasks, -1))):
        params = {name: value[task] for name, value in stacked.items()}
        arguments = (part,) if rows is None else (part, rows.of(task))
        outs.append(functional_call(module, params, arguments, tie_weights=False))
    return torch.cat(outs)


class Zero(nn.Module):
    """No connection: zeros of the shape that an operation of this stride would return."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def has_parameters(module: nn.Module) -> bool:
    """Return True if the module has parameters to learn."""
    return any(True for _ in module.parameters())


def channels_last(x: Tensor) -> Tensor:
    """Move the channels innermost, where convolutions run 2 to 4 times faster.

    Call it after the first convolution: with one input channel both layouts have the same strides,
    and torch would continue in the slow one.
    """
    return x.contiguous(memory_format=torch.channels_last)


def relu_conv_norm(inputs: int, outputs: int) -> Chain:
    """Build the 1x1 convolution that brings a cell input to the width of the cell."""
    return Chain([nn.ReLU(), Conv(inputs, outputs), Norm(outputs)])


def reduce_norm(inputs: int, outputs: int) -> Chain:
    """Build the convolution for an input of twice the resolution."""
    return Chain([nn.ReLU(), FactorizedReduce(inputs, outputs), Norm(outputs)])


def _separable(channels: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    depthwise = Conv(channels, channels, (3, 3), (stride, stride), dilation, groups=channels)
    return [nn.ReLU(), depthwise, Conv(channels, channels), Norm(channels)]


def _max_pool_3x3(channels: int, stride: int) -> nn.Module:
    return Chain([nn.MaxPool2d(3, stride, padding=1), Norm(channels)])


def _avg_pool_3x3(channels: int, stride: int) -> nn.Module:
    pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return Chain([pool, Norm(channels)])


def _skip_connect(channels: int, stride: int) -> nn.Module:
    return Chain([]) if stride == 1 else reduce_norm(channels, channels)


def _conv_1x5_5x1(channels: int, stride: int) -> nn.Module:
    across = Conv(channels, channels, (1, 5), (1, stride))
    down = Conv(channels, channels, (5, 1), (stride, 1))
    return Chain([nn.ReLU(), across, down, Norm(channels)])


def _conv_3x3(channels: int, stride: int) -> nn.Module:
    return Chain(_separable(channels, stride))


def _sep_conv_3x3(channels: int, stride: int) -> nn.Module:
    return Chain(_separable(channels, stride) + _separable(channels, 1))


def _dil_conv_3x3(channels: int, stride: int) -> nn.Module:
    return Chain(_separable(channels, stride, dilation=2))


def _zero(_channels: int, stride: int) -> nn.Module:
    return Chain([Zero(stride)])


@dataclass(frozen=True)
class Op:
    """A candidate operation.

    `build(channels, stride)` returns a module called as `module(x, rows)`: `(R, channels, H, W)`
    in, `(R, channels, ceil(H / stride), ceil(W / stride))` out. `emit(graph, module, value)`
    records the same computation, with every norm frozen, in an ONNX graph and returns its output.
    """

    build: Callable[[int, int], nn.Module]
    emit: Callable[[Graph, nn.Module, Value], Value]


def emit_chain(graph: Graph, module: nn.Module, value: Value) -> Value:
    """Record a `Chain`; norms are folded into the convolution before them or become affine maps."""
    layers = list(module.children())
    while layers:
        layer = layers.pop(0)
        norm = layers.pop(0) if layers and isinstance(layers[0], Norm) else None
        folded = norm.folded() if isinstance(norm, Norm) else None
        if isinstance(layer, nn.Conv2d | FactorizedReduce):
            value = _emit_convolution(graph, layer, folded, value)
            continue
        value = _emit_plain(graph, layer, value)
        if folded is not None:
            scale, shift = (part.float().numpy(force=True) for part in folded)
            value = graph.affine(value, scale, shift)
    return value


def _emit_convolution(
    graph: Graph,
    layer: nn.Conv2d | FactorizedReduce,
    folded: tuple[Tensor, Tensor] | None,
    value: Value,
) -> Value:
    weight = layer.kernel() if isinstance(layer, FactorizedReduce) else layer.weight
    bias = None
    if folded is not None:
        scale, shift = folded
        weight = (weight.double() * scale.view(-1, 1, 1, 1)).float()
        bias = shift.float().numpy(force=True)
    kernel = weight.numpy(force=True)
    if isinstance(layer, FactorizedReduce):
        return graph.conv(value, kernel, bias, stride=(2, 2), pads=(0, 0, 1, 1))
    top, left = (int(side) for side in layer.padding)
    return graph.conv(
        value,
        kernel,
        bias,
        stride=(layer.stride[0], layer.stride[1]),
        dilation=(layer.dilation[0], layer.dilation[1]),
        pads=(top, left, top, left),
        groups=layer.groups,
    )


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]


def _emit_plain(graph: Graph, layer: nn.Module, value: Value) -> Value:
    match layer:
        case nn.ReLU():
            return graph.relu(value)
        case nn.MaxPool2d():
            return graph.max_pool(value, 3, _side(layer.stride), 1)
        case nn.AvgPool2d():
            return graph.average_pool(value, 3, _side(layer.stride), 1)
        case Zero():
            return graph.zeros(value, layer.stride)
    message = f"emit_chain has no ONNX form of {type(layer).__name__}; write an emit for the Op"
    raise TypeError(message)


OPS: Mapping[str, Op] = MappingProxyType(
    {
        "max_pool_3x3": Op(_max_pool_3x3, emit_chain),
        "avg_pool_3x3": Op(_avg_pool_3x3, emit_chain),
        "skip_connect": Op(_skip_connect, emit_chain),
        "conv_1x5_5x1": Op(_conv_1x5_5x1, emit_chain),
        "conv_3x3": Op(_conv_3x3, emit_chain),
        "sep_conv_3x3": Op(_sep_conv_3x3, emit_chain),
        "dil_conv_3x3": Op(_dil_conv_3x3, emit_chain),
        "zero": Op(_zero, emit_chain),
    }
)
"""The candidate operations of MetaNAS, and `zero`."""
