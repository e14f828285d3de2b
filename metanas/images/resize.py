"""Antialiased resizing as two matrix products, the same formula in torch and in ONNX.

Each output pixel is a triangle-weighted mean of the input pixels around its centre. The triangle is
widened by the factor of reduction, as in Pillow and
`torch.nn.functional.interpolate(antialias=True)`. The operator `Resize` of ONNX is not used: with
antialiasing, ONNX Runtime differs from these two by up to 0.05 (of 1) when it reduces. Matrix
products run in every runtime.
"""

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from metanas.nn.onnx_graph import Graph, Value


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images (N, C, H, W) to (N, C, size, size)."""
    height, width = images.shape[2:]
    return _weights(height, size) @ images @ _weights(width, size).T


def _weights(length: int, size: int) -> Tensor:
    """Return the weights (size, length) of input pixels in output pixels along one axis."""
    scale = torch.tensor(float(length)) / size
    centres = (torch.arange(size)[:, None] + 0.5) * scale
    distance = (torch.arange(length) + 0.5 - centres).abs() / scale.clamp(min=1.0)
    weights = torch.relu(1.0 - distance)
    return weights / weights.sum(1, keepdim=True)


def emit_resize(graph: Graph, images: Value, size: int) -> Value:
    """Record `resize` for images of any size.

    images: (N, W, C, H), because ONNX Runtime multiplies an empty batch only from the right.

    Returns:
        (N, C, size, size).
    """
    shape = graph.node("Shape", [images])
    flattened = graph.node("MatMul", [images, _emit_weights(graph, shape, 3, size)])
    planes = graph.node("Transpose", [flattened], perm=[0, 2, 3, 1])
    return graph.node("MatMul", [planes, _emit_weights(graph, shape, 1, size)])


def _emit_weights(graph: Graph, shape: Value, axis: int, size: int) -> Value:
    """Record `_weights` of an axis, transposed."""

    def number(value: float) -> Value:
        return graph.constant(np.array(value, np.float32))

    def integers(*values: int) -> Value:
        return graph.constant(np.array(values, np.int64))

    length = graph.node("Gather", [shape, graph.constant(np.array(axis, np.int64))], axis=0)
    pixels = graph.node("Cast", [length], to=TensorProto.FLOAT)
    scale = graph.node("Div", [pixels, number(size)])
    offsets = graph.constant((np.arange(size) + 0.5).astype(np.float32))
    centres = graph.node("Mul", [offsets, scale])
    positions = graph.add(graph.node("Range", [number(0), pixels, number(1)]), number(0.5))
    column = graph.node("Unsqueeze", [positions, integers(1)])
    distance = graph.node("Abs", [graph.node("Sub", [column, centres])])
    reach = graph.node("Max", [scale, number(1)])
    weights = graph.relu(graph.node("Sub", [number(1), graph.node("Div", [distance, reach])]))
    total = graph.node("ReduceSum", [weights, integers(0)], keepdims=1)
    return graph.node("Div", [weights, total])
