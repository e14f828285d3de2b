"""The ONNX model of a pruned network, built directly in milliseconds.

- The graph takes uint8 images and contains all steps: scaling, antialiased resize, normalisation,
  shifted copies where the options have them, the network with its norms folded into the
  convolutions, the head, and a softmax.
- `metanas.export.verify` checks each model.
- The bytes depend on the model and its metadata alone. They contain no time.
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
from metanas.nn.stem import Stem
from metanas.nn.trunk import Trunk, emit_pooled
from metanas.supernet.discrete import DiscreteCell, DiscreteNetwork, edge_name


@dataclass(frozen=True)
class Classifier:
    """Preprocessing, trunk if there is one, pruned network with frozen norms, and linear head.

    `weight` has shape (ways, D) and `bias` (ways,).
    """

    preprocess: Preprocessing
    network: DiscreteNetwork
    weight: Tensor
    bias: Tensor
    scale: Tensor
    """Scale of the logits, which `weight` and `bias` already contain."""
    trunk: Trunk | None = None
    shift_pixels: int = 0
    """Pixels by which copies of an image are shifted (`metanas.images.shifted_copies`), or 0."""

    def inputs(self, image: Image) -> Tensor:
        """Return the input of the network for an image (H, W, C), after the trunk if any."""
        pixels = self.preprocess(image)
        return pixels if self.trunk is None else self.trunk(pixels)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits (N, ways) of inputs (N, C, S, S), or (N, K) behind a trunk."""
        features: Tensor = self.network(with_copies(inputs, self.shift_pixels))
        return averaged(features, self.shift_pixels) @ self.weight.T + self.bias


def to_onnx(
    classifier: Classifier, ops: Mapping[str, Op], metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Build the model: `images` uint8 (N, H, W, C) to `logits` and `probabilities` (N, ways)."""
    graph = Graph()
    channels = classifier.network.space.input_channels
    images = graph.input("images", TensorProto.UINT8, ["N", "H", "W", channels])
    size, shift = classifier.preprocess.size, classifier.shift_pixels
    x = _preprocess(graph, images, classifier.preprocess)
    x = emit_copies(graph, x, (channels, size), shift)
    features = _emit_features(graph, classifier, x, ops)
    features = emit_averaged(graph, features, classifier.weight.shape[1], shift)
    parts = (classifier.weight, classifier.bias)
    head = [graph.constant(part.float().numpy(force=True)) for part in parts]
    logits = graph.node("Gemm", [features, *head], transB=1)
    ways = classifier.bias.numel()
    graph.output("logits", logits, ["N", ways])
    graph.output("probabilities", graph.node("Softmax", [logits], axis=1), ["N", ways])
    return graph.build("metanas", metadata)


def _emit_features(graph: Graph, classifier: Classifier, x: Value, ops: Mapping[str, Op]) -> Value:
    network, trunk, size = classifier.network, classifier.trunk, classifier.preprocess.size
    if trunk is None or network.embed is None:
        assert isinstance(network.stem, Stem)
        return _emit_cells(graph, network, network.stem.emit(graph, x), ops, size)
    outputs, cells = trunk.emit(graph, x), None
    if network.cells:
        first, second = (outputs[tap] for tap in network.space.taps)
        cells = _emit_cells(graph, network, (first, second), ops, size)
    return network.embed.emit(graph, outputs, cells, size)


def _emit_cells(
    graph: Graph,
    network: DiscreteNetwork,
    inputs: tuple[Value, Value],
    ops: Mapping[str, Op],
    size: int,
) -> Value:
    before, last = inputs
    for cell in network.cells:
        assert isinstance(cell, DiscreteCell)
        before, last = last, _emit_cell(graph, cell, before, last, ops)
    features = emit_pooled(graph, last, network.space.grid, network.space.sides(size)[-1])
    return graph.unit(features) if network.space.unit else features


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
