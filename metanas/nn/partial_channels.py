"""Partial channels: an operation on a part of its channels, the rest passing by (PC-DARTS).

Xu et al., ICLR 2020, arXiv:1907.05737, section 3.1. It wraps any operation, with any relaxation: as
the weights of an edge sum to one, a mixture of wrapped operations is the wrapped mixture. Edge
normalisation (section 3.2) is not needed: pairs of inputs have weights in this search space.

Notes:
- The discrete network runs the same wrapped operations, so that meta-trained weights carry over and
  nothing is retrained.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.nn.functional import Rows
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import Chain, Op, channels_last, each_task
from metanas.spec.search_space import SearchSpace


def candidates(space: SearchSpace, ops: Mapping[str, Op]) -> Mapping[str, Op]:
    """Return the operations of a search space: on all channels, or on a part."""
    if space.partial == 1:
        return ops
    return {name: on_a_part(op, space.partial) for name, op in ops.items()}


def on_a_part(op: Op, parts: int) -> Op:
    """Return an operation on the first of `parts` equal parts of the channels."""
    return Op(partial(_build, op, parts), partial(_emit, op))


class Partial(nn.Module):
    """An operation on the first channels; the rest is unchanged, or max-pooled by the stride.

    Afterwards the channels are shuffled, so the next operation works on other channels.
    """

    def __init__(self, op: nn.Module, channels: int, parts: int, stride: int) -> None:
        super().__init__()
        self.op, self.channels, self.parts, self.stride = op, channels, parts, stride

    @property
    def order(self) -> list[int]:
        """Order the channels so that those of all parts come in turn."""
        size = self.channels // self.parts
        return [part * size + index for index in range(size) for part in range(self.parts)]

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        count = self.channels // self.parts
        first, rest = x[:, :count], x[:, count:]
        if rows.tasks == 1 or isinstance(self.op, Chain):
            first = self.op(first, rows)
        else:
            first = each_task(self.op, first, rows.tasks, rows)
        if self.stride > 1:
            rest = F.max_pool2d(rest, self.stride, ceil_mode=True)
        both = torch.cat([first, rest], dim=1)
        return channels_last(both.unflatten(1, (self.parts, -1)).transpose(1, 2).flatten(1, 2))


def _build(op: Op, parts: int, channels: int, stride: int) -> nn.Module:
    return Partial(op.build(channels // parts, stride), channels, parts, stride)


def _emit(op: Op, graph: Graph, module: nn.Module, value: Value) -> Value:
    assert isinstance(module, Partial)
    count = module.channels // module.parts

    def channels(indices: list[int] | range, of: Value) -> Value:
        return graph.node("Gather", [of, graph.constant(np.array(indices, np.int64))], axis=1)

    first = op.emit(graph, module.op, channels(range(count), value))
    rest = channels(range(count, module.channels), value)
    if module.stride > 1:
        window = [module.stride] * 2
        rest = graph.node("MaxPool", [rest], kernel_shape=window, strides=window, ceil_mode=1)
    return channels(module.order, graph.concat([first, rest], axis=1))
