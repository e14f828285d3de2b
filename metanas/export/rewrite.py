"""Rewritten graphs of an exported model: a fixed input, another opset, half precision."""

import os
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter

from metanas.export.runtime import session_options
from metanas.nn.onnx_graph import OPSET

LEAST_HALVED = 128
"""Fewest numbers of a constant that is stored in half precision. Smaller ones save nothing."""
HALF = "_half"
UNCONVERTIBLE = (onnx.checker.ValidationError, version_converter.ConvertError)
"""Errors of `with_opset`."""


def with_fixed_input(model: onnx.ModelProto, size: tuple[int, int]) -> onnx.ModelProto:
    """Return the graph for one image of this height and width, with all shapes known.

    ONNX Runtime folds what depends on the size of the image alone, such as the weights of resizing.
    """
    shaped = _copy(model)
    for dimension, value in zip(_shape(shaped.graph.input[0]), (1, *size), strict=False):
        dimension.dim_value = value
    for output in shaped.graph.output:
        _shape(output)[0].dim_value = 1
    del shaped.graph.value_info[:]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        options = session_options()
        options.optimized_model_filepath = path
        # this level uses standard operators only
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        ort.InferenceSession(
            shaped.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(path)
    del folded.opset_import[:]
    folded.opset_import.extend(model.opset_import)
    folded.producer_name = model.producer_name
    return onnx.shape_inference.infer_shapes(folded, strict_mode=True)


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the graph with another version of the standard operators.

    Below the opset of the project only the number changes: the operators of its graphs mean the
    same since opset 13, which the checker and the comparison of outputs confirm.

    Raises:
        onnx.checker.ValidationError, ConvertError: an operator has no form in this opset.
    """
    if opset > OPSET:
        return version_converter.convert_version(model, opset)
    changed = _copy(model)
    changed.opset_import[0].version = opset
    onnx.checker.check_model(changed)
    return changed


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large constants in half precision, cast to single precision.

    A runtime casts them once, when it loads the file, and computes in single precision: not all
    runtimes on CPUs compute in half precision. Numbers beyond its range become infinite.
    """
    changed, casts = _copy(model), list[onnx.NodeProto]()
    for constant in changed.graph.initializer:
        if constant.data_type != TensorProto.FLOAT or np.prod(constant.dims) < LEAST_HALVED:
            continue
        name, values = constant.name, numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + HALF))
        casts.append(helper.make_node("Cast", [name + HALF], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _shape(value: onnx.ValueInfoProto) -> "list[onnx.TensorShapeProto.Dimension]":
    return list(value.type.tensor_type.shape.dim)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
