"""A new operation, in torch and in ONNX: squeeze and excitation (arXiv:1709.01507)."""

import numpy as np
from torch import Tensor, nn

from examples.extending.common import digits, small_config, train
from metanas.nn.functional import Rows
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import OPS, Conv, Op
from metanas.testing import check_op
from metanas.training.extensions import Extensions


class Squeeze(nn.Module):
    """Multiply each channel by a gate, and take every `stride`-th pixel."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.gate = stride, Conv(channels, channels)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        gates: Tensor = self.gate(x.mean((2, 3), keepdim=True), rows)
        return (x * gates.sigmoid())[:, :, :: self.stride, :: self.stride]


def emit(graph: Graph, module: nn.Module, value: Value) -> Value:
    assert isinstance(module, Squeeze)
    kernel = graph.constant(module.gate.weight.numpy(force=True))
    gates = graph.node("Conv", [graph.node("GlobalAveragePool", [value]), kernel])
    scaled = graph.node("Mul", [value, graph.node("Sigmoid", [gates])])
    where = ([0, 0], [2**31] * 2, [2, 3], [module.stride] * 2)
    return graph.node("Slice", [scaled, *(graph.constant(np.array(v, np.int64)) for v in where)])


if __name__ == "__main__":
    ops = {**OPS, "squeeze": Op(Squeeze, emit)}
    check_op(ops["squeeze"])
    train(small_config('space.ops = ["squeeze", "conv_3x3"]'), Extensions(ops=ops), digits())
