"""Output `known` of the exported file: near 0 for an image that is of none of the classes.

The score of an image is its largest cosine to the mean of the support images of a class. It needs
one vector a class.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from metanas.nn.onnx_graph import Graph, Value


@dataclass(frozen=True)
class Known:
    """Scores of images, and the score below which an image is of none of the classes."""

    means: Tensor
    """Direction of the mean feature of each class, `(ways, D)`."""
    threshold: float
    """Score whose output is 0.5."""
    width: float
    """Change of the score that takes the output from 0.5 to 0.73."""

    def __call__(self, features: Tensor) -> Tensor:
        """Return 0 to 1 for each of the features `(N, D)`: below 0.5, none of the classes."""
        scores = (F.normalize(features, dim=1) @ self.means.T).amax(1)
        return ((scores - self.threshold) / self.width).sigmoid()

    def emit(self, graph: Graph, features: Value) -> Value:
        """Emit the same as ONNX."""
        means = (self.means.T / self.width).float().numpy(force=True)
        scaled = graph.node("MatMul", [graph.unit(features), graph.constant(means)])
        largest = graph.node("ReduceMax", [scaled], axes=[1], keepdims=0)
        shift = graph.constant(np.array(-self.threshold / self.width, np.float32))
        return graph.node("Sigmoid", [graph.add(largest, shift)])
