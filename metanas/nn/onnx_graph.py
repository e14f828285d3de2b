"""A recorder for ONNX graphs: each method appends a node and returns the value that it produces.

It depends on neither torch nor the search space: weights are numpy arrays. Opset and IR version are
fixed here, because a released runtime may not accept the defaults of the installed `onnx`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""ONNX Runtime reads it, with IR version 8, since 1.12."""
IR_VERSION = 8

Array = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A tensor in the graph under construction."""

    name: str


class Graph:
    """An ONNX graph under construction. Equal constants are stored once."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._declared: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> Value:
        """Declare a graph input; strings in `shape` are free dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return Value(name)

    def output(self, name: str, value: Value, shape: Sequence[int | str]) -> None:
        """Declare `value` a float output of the graph called `name`."""
        self._nodes.append(helper.make_node("Identity", [value.name], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def declare(self, value: Value, shape: Sequence[int | str]) -> Value:
        """Declare the shape of a float value where inference fails; strings are free dimensions.

        ONNX Runtime treats dimensions of one name as equal. With an unknown dimension it fuses no
        layers, and its reshape fails for an empty batch.
        """
        info = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape)
        self._declared.append(info)
        return value

    def constant(self, array: Array) -> Value:
        """Store a constant tensor."""
        array = np.asarray(array, order="C")  # ascontiguousarray would give scalars a dimension
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        name = "c_" + hashlib.sha256(key).hexdigest()[:16]
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(array, name)
        return Value(name)

    def node(self, kind: str, inputs: Sequence[Value | None], **attributes: Any) -> Value:
        """Append a single-output node of the standard opset; None leaves an optional input out."""
        result = Value(f"v{len(self._nodes)}")
        names = ["" if value is None else value.name for value in inputs]
        self._nodes.append(helper.make_node(kind, names, [result.name], **attributes))
        return result

    def relu(self, value: Value) -> Value:
        return self.node("Relu", [value])

    def add(self, left: Value, right: Value) -> Value:
        return self.node("Add", [left, right])

    def clip(self, value: Value, low: float, high: float) -> Value:
        """Clip a value to these bounds."""
        bounds = [self.constant(np.array(bound, np.float32)) for bound in (low, high)]
        return self.node("Clip", [value, *bounds])

    def pooled(self, value: Value) -> Value:
        """Average an (N, C, H, W) value over its pixels, to (N, C)."""
        return self.node("Flatten", [self.node("GlobalAveragePool", [value])], axis=1)

    def unit(self, value: Value) -> Value:
        """Scale every row of an (N, D) value to length one; a row of zeros stays zero."""
        norm = self.node("ReduceL2", [value], axes=[1], keepdims=1)
        least = self.constant(np.array(1e-12, np.float32))
        return self.node("Div", [value, self.node("Max", [norm, least])])

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        return self.node("Concat", values, axis=axis)

    def affine(self, value: Value, scale: Array, shift: Array) -> Value:
        """Compute `value * scale + shift` for every channel of an (N, C, H, W) value."""
        scaled = self.node("Mul", [value, self.constant(scale.reshape(-1, 1, 1))])
        return self.add(scaled, self.constant(shift.reshape(-1, 1, 1)))

    def conv(
        self,
        value: Value,
        weight: Array,
        bias: Array | None,
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
    ) -> Value:
        """Convolve with `weight` (out, in / groups, kernel height, kernel width).

        pads: zeros at top, left, bottom and right.
        """
        inputs = [value, self.constant(weight)]
        if bias is not None:
            inputs.append(self.constant(bias))
        return self.node(
            "Conv",
            inputs,
            kernel_shape=weight.shape[2:],
            strides=stride,
            dilations=dilation,
            pads=pads,
            group=groups,
        )

    def zeros(self, value: Value, stride: int) -> Value:
        """Return zeros of the shape that an operation of this stride on (N, C, H, W) returns."""
        pick = [self.constant(np.array(v, np.int64)) for v in ([0, 0], [2**31] * 2, [2, 3])]
        steps = self.constant(np.array([stride] * 2, np.int64))
        part = self.node("Slice", [value, *pick, steps])
        return self.node("Mul", [part, self.constant(np.zeros((), np.float32))])

    def max_pool(self, value: Value, size: int, stride: int, padding: int) -> Value:
        return self.node("MaxPool", [value], **_window(size, stride, padding))

    def average_pool(self, value: Value, size: int, stride: int, padding: int) -> Value:
        """Average over the pixels inside the image only."""
        window = _window(size, stride, padding)
        return self.node("AveragePool", [value], count_include_pad=0, **window)

    def build(self, name: str, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the finished model, with `metadata` as its `metadata_props` in sorted order."""
        graph = helper.make_graph(
            self._nodes,
            name,
            self._inputs,
            self._outputs,
            list(self._constants.values()),
            value_info=self._declared,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="metanas",
        )
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return model


def _window(size: int, stride: int, padding: int) -> dict[str, Sequence[int]]:
    return {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
