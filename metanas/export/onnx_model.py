"""ONNX, built directly from the pruned network in milliseconds: uint8 images in, logits out.

Notable:
- The graph holds the whole of a query's way: scaling, antialiased resize, normalisation, the
  network with its norms folded into the convolutions, the head, and a softmax. If it looks at
  shifted copies of an image as well, it makes them itself.
- No model leaves unchecked (`metanas.export.verify`).
- The bytes are a function of the model and its metadata alone; there is no time in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto
from torch import Tensor

from metanas.images.resize import emit_resize
from metanas.images.shifted_copies import averaged, emit_averaged, emit_copies, with_copies
from metanas.images.support_set import Image, Preprocessing
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import Op, emit_chain
from metanas.nn.stem import Stem, emit_pooled
from metanas.nn.trunk import Trunk
from metanas.supernet.discrete import DiscreteCell, DiscreteNetwork, edge_name


@dataclass(frozen=True)
class Classifier:
    """All that a model consists of: preprocessing, pruned network with frozen norms, linear head.

    Between the first two is the trunk, if there is one. `weight` has shape (ways, D) and `bias`
    (ways,).
    """

    preprocess: Preprocessing
    network: DiscreteNetwork
    weight: Tensor
    bias: Tensor
    scale: Tensor
    """Of the prototype logits; already part of `weight` and `bias`."""
    trunk: Trunk | None = None
    shift_pixels: int = 0
    """Pixels by which copies of an image are shifted (`metanas.images.shifted_copies`), or 0."""

    def inputs(self, image: Image) -> Tensor:
        """The network's input of an image (H, W, C): preprocessed, and behind the trunk."""
        pixels = self.preprocess(image)
        return pixels if self.trunk is None else self.trunk(pixels)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (N, ways) of inputs (N, C, S, S), or (N, K) behind a trunk."""
        seen: Tensor = self.network(with_copies(inputs, self.shift_pixels))
        features = averaged(seen, self.shift_pixels)
        return features @ self.weight.T + self.bias


def to_onnx(
    classifier: Classifier, ops: Mapping[str, Op], metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """The classifier in ONNX: `images` uint8 (N, H, W, C) to `logits` and `probabilities`."""
    graph = Graph()
    network, space = classifier.network, classifier.network.space
    images = graph.input("images", TensorProto.UINT8, ["N", "H", "W", space.input_channels])
    size, shift = classifier.preprocess.size, classifier.shift_pixels
    x = _preprocess(graph, images, classifier.preprocess)
    x = emit_copies(graph, x, (space.input_channels, size), shift)
    before, last = inputs = _emit_entry(graph, classifier, x)
    for cell in network.cells:
        assert isinstance(cell, DiscreteCell)
        before, last = last, _emit_cell(graph, cell, before, last, ops)
    features = emit_pooled(graph, last, space, size)
    if network.embed is not None:
        features = network.embed.emit(graph, inputs[1], features)
    features = emit_averaged(graph, features, classifier.weight.shape[1], shift)
    parts = (classifier.weight, classifier.bias)
    head = [graph.constant(part.float().numpy(force=True)) for part in parts]
    logits = graph.node("Gemm", [features, *head], transB=1)
    ways = classifier.bias.numel()
    graph.output("logits", logits, ["N", ways])
    graph.output("probabilities", graph.node("Softmax", [logits], axis=1), ["N", ways])
    return graph.build("metanas", metadata)


def _emit_entry(graph: Graph, classifier: Classifier, x: Value) -> tuple[Value, Value]:
    """Return the source of the first cell's inputs: the trunk, or the stem."""
    if classifier.trunk is not None:
        return classifier.trunk.emit(graph, x)
    assert isinstance(classifier.network.stem, Stem)
    return classifier.network.stem.emit(graph, x)


def _preprocess(graph: Graph, images: Value, preprocess: Preprocessing) -> Value:
    turned = graph.node("Transpose", [images], perm=[0, 2, 3, 1])
    pixels = graph.node("Cast", [turned], to=TensorProto.FLOAT)
    unit = graph.node("Div", [pixels, graph.constant(np.array(255, np.float32))])
    resized = emit_resize(graph, unit, preprocess.size)
    scale = np.array(preprocess.scale, np.float32)
    return graph.affine(resized, scale, np.array(preprocess.shift, np.float32))


def _emit_cell(
    graph: Graph, cell: DiscreteCell, before: Value, last: Value, ops: Mapping[str, Op]
) -> Value:
    states = [emit_chain(graph, cell.before, before), emit_chain(graph, cell.last, last)]
    for node, edges in enumerate(cell.nodes):
        left, right = (
            ops[name].emit(graph, cell.edges[edge_name(node, source)], states[source])
            for source, name in edges
        )
        states.append(graph.add(left, right))
    return graph.concat(states[2:], axis=1)
