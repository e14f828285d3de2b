"""The ONNX model of a pruned network, built directly in milliseconds.

- The graph takes uint8 images and contains all steps: scaling, antialiased resize, normalisation,
  shifted copies where the options have them, the network with its norms folded into the
  convolutions, the head, and a softmax.
- `metanas.export.verify` checks each model.
- The bytes depend on the model and its metadata alone. They contain no time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from metanas.export.known import Known
from metanas.images.resize import emit_resize
from metanas.images.shifted_copies import averaged, emit_averaged, emit_copies, with_copies
from metanas.images.support_set import Image, Preprocessing
from metanas.nn.onnx_graph import Graph, Value
from metanas.nn.ops import Op, emit_chain
from metanas.nn.stem import Stem
from metanas.nn.trunk import Trunk, emit_pooled
from metanas.supernet.discrete import DiscreteCell, DiscreteNetwork, edge_name
from metanas_data.arrays import LUMA, with_channels


@dataclass(frozen=True)
class Encoder:
    """Preprocessing, trunk if there is one, and pruned network with frozen norms."""

    preprocess: Preprocessing
    network: DiscreteNetwork
    trunk: Trunk | None = None
    shift_pixels: int = 0
    """Pixels by which copies of an image are shifted (`metanas.images.shifted_copies`), or 0."""
    unit: bool = False
    """The features are scaled to length one, which the network does not do."""

    def inputs(self, image: Image) -> Tensor:
        """Return the input of the network for an image (H, W, C), after the trunk if any."""
        pixels = self.preprocess(with_channels(image, self.network.space.input_channels))
        return pixels if self.trunk is None else self.trunk(pixels)

    def features(self, inputs: Tensor) -> Tensor:
        """Return features (N, D) of inputs (N, C, S, S), or (N, K) behind a trunk."""
        copies: Tensor = self.network(with_copies(inputs, self.shift_pixels))
        features = averaged(copies, self.shift_pixels)
        return F.normalize(features, dim=1) if self.unit else features


@dataclass(frozen=True)
class Classifier:
    """One or several encoders, whose features are joined, and a linear head.

    `weight` has shape (ways, D) and `bias` (ways,).
    """

    encoders: tuple[Encoder, ...]
    weight: Tensor
    bias: Tensor
    scale: Tensor
    """Scale of the logits, which `weight` and `bias` already contain."""
    known: Known | None = None
    """Output `known`; None leaves it out."""

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return max(each.network.space.input_channels for each in self.encoders)

    @property
    def size(self) -> int:
        """Largest side in pixels to which an encoder resizes images."""
        return max(each.preprocess.size for each in self.encoders)

    @property
    def shift_pixels(self) -> int:
        """Largest shift of copies."""
        return max(each.shift_pixels for each in self.encoders)

    def inputs(self, image: Image) -> list[Tensor]:
        """Return the input of each network for an image (H, W, C)."""
        return [each.inputs(image) for each in self.encoders]

    def features(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return features (N, D) of the inputs of each network."""
        parts = [each.features(x) for each, x in zip(self.encoders, inputs, strict=True)]
        return torch.cat(parts, dim=1)

    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return logits (N, ways) of the inputs of each network."""
        return self.features(inputs) @ self.weight.T + self.bias


def to_onnx(
    classifier: Classifier, ops: Mapping[str, Op], metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Build the model of images uint8 (N, H, W, C).

    Its outputs are `logits` and `probabilities` (N, ways), and `known` (N,).
    """
    graph = Graph()
    images = graph.input("images", TensorProto.UINT8, ["N", "H", "W", classifier.channels])
    turned = graph.node("Transpose", [images], perm=[0, 2, 3, 1])
    pixels = graph.node("Cast", [turned], to=TensorProto.FLOAT)
    trunks: Trunks = {}
    parts = list[Value]()
    for encoder in classifier.encoders:
        grey = encoder.network.space.input_channels < classifier.channels
        levels = _emit_grey(graph, pixels) if grey else pixels
        parts.append(_emit_encoder(graph, levels, encoder, ops, trunks))
    features = parts[0] if len(parts) == 1 else graph.concat(parts, axis=1)
    weights = (classifier.weight, classifier.bias)
    head = [graph.constant(part.float().numpy(force=True)) for part in weights]
    logits = graph.node("Gemm", [features, *head], transB=1)
    ways = classifier.bias.numel()
    graph.output("logits", logits, ["N", ways])
    graph.output("probabilities", graph.node("Softmax", [logits], axis=1), ["N", ways])
    if classifier.known is not None:
        graph.output("known", classifier.known.emit(graph, features), ["N"])
    return graph.build("metanas", metadata)


Trunks = dict[tuple[int, Preprocessing], list[Value]]
"""Trunk and preprocessing of an encoder -> outputs of the trunk's blocks, which encoders share."""


def _emit_encoder(
    graph: Graph, pixels: Value, encoder: Encoder, ops: Mapping[str, Op], trunks: Trunks
) -> Value:
    """Emit the features of images (N, W, C, H) from 0 to 255."""
    network, trunk, preprocess = encoder.network, encoder.trunk, encoder.preprocess
    key = (id(trunk), preprocess)
    if trunk is not None and key in trunks:
        return _emit_features(graph, network, trunks[key], ops, preprocess.size)
    x = _preprocess(graph, pixels, preprocess)
    if trunk is not None:
        trunks[key] = trunk.emit(graph, x)
        return _emit_features(graph, network, trunks[key], ops, preprocess.size)
    size, shift = preprocess.size, encoder.shift_pixels
    x = emit_copies(graph, x, (network.space.input_channels, size), shift)
    assert isinstance(network.stem, Stem)
    features = _emit_cells(graph, network, network.stem.emit(graph, x), ops, size)
    features = emit_averaged(graph, features, network.space.features, shift)
    return graph.unit(features) if encoder.unit else features


def _emit_features(
    graph: Graph,
    network: DiscreteNetwork,
    outputs: Sequence[Value],
    ops: Mapping[str, Op],
    size: int,
) -> Value:
    """Emit the features behind a trunk."""
    cells = None
    if network.cells:
        first, second = (outputs[tap] for tap in network.space.taps)
        cells = _emit_cells(graph, network, (first, second), ops, size)
    assert network.embed is not None
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


def _emit_grey(graph: Graph, pixels: Value) -> Value:
    """Emit the brightness of colours (N, W, 3, H), in the integer arithmetic of `with_channels`.

    The sums are below 2^24 and so exact in single precision.
    """
    weights = graph.constant(np.array(LUMA, np.float32).reshape(1, 1, 3, 1))
    weighted = graph.node("Mul", [pixels, weights])
    axis = graph.constant(np.array([2], np.int64))
    total = graph.node("ReduceSum", [weighted, axis], keepdims=1)
    shifted = graph.node("Mul", [total, graph.constant(np.array(2.0**-16, np.float32))])
    half = graph.constant(np.array(0.5, np.float32))
    return graph.node("Floor", [graph.add(shifted, half)])


def _preprocess(graph: Graph, pixels: Value, preprocess: Preprocessing) -> Value:
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
