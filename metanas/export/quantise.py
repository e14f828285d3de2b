"""Graph of an exported model with 8-bit weights and activations, by ONNX Runtime's quantiser."""

import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from metanas.export.runtime import Image

LAYERS = ("Conv", "Gemm")
"""Operators with nearly all weights and multiply-adds."""


class _Reader:
    """Feed images to the calibration, one at a time."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images: Iterator[Image] = iter(images)

    def get_next(self) -> "dict[str, NDArray[np.uint8]] | None":
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def quantised(model: onnx.ModelProto, images: Sequence[Image]) -> onnx.ModelProto:
    """Return the graph with the large layers in 8 bits, but not the head.

    Weights have a scale for each channel. The ranges of activations are those on the images. Signed
    activations are the quantiser's recommendation: products of unsigned ones saturate on
    processors with AVX2 and no VNNI.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for number, node in enumerate(named.graph.node):
        node.name = f"n{number}"
    layers = [node for node in named.graph.node if node.op_type in LAYERS]
    # the quantiser warns of files without this entry, which its own optimiser writes
    onnx.helper.set_model_props(named, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        quantize_static(
            named,
            path,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in layers[:-1]],
        )
        return onnx.load(path)
