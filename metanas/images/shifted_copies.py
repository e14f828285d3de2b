"""Several looks at an image: itself and four copies of it that are shifted along the diagonals.

What a strided layer makes of a stroke depends on where its grid falls on it. The mean of the
features of an image and of its copies depends on that less.

Notable:
- Shifts are by whole pixels of the network's input: parts of a framed image, the same in torch and
  in ONNX to the last bit.
- Pixels from outside an image are 0, as in the affine views of the meta-training
  (`metanas.images.augment`) and in the padding of convolutions. A repeated border would draw
  strokes that the image does not have.
- Copies are further rows of a batch, after all images. So norms that are not frozen still have
  their statistics from the support images alone.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.nn.onnx_graph import Graph, Value

LOOKS = 5
"""An image and its copies."""


def looks(pixels: int) -> int:
    """Return the number of looks at an image whose copies are shifted by so many pixels."""
    return LOOKS if pixels else 1


def with_copies(images: Tensor, pixels: int) -> Tensor:
    """Images `(N, C, S, S)` and then their copies, `(5 N, C, S, S)`; for 0 pixels the images."""
    if pixels == 0:
        return images
    height, width = images.shape[2:]
    framed = F.pad(images, [pixels] * 4)
    copies = [framed[:, :, y : y + height, x : x + width] for y, x in _corners(pixels)]
    return torch.cat([images, *copies])


def averaged(features: Tensor, pixels: int) -> Tensor:
    """The means `(N, D)` over the looks, of features of what `with_copies` returned."""
    return features.unflatten(0, (LOOKS, -1)).mean(0) if pixels else features


def emit_copies(graph: Graph, images: Value, shape: tuple[int, int], pixels: int) -> Value:
    """`with_copies` in ONNX, of images of so many channels and this side."""
    if pixels == 0:
        return images
    frame = np.array([0, 0, pixels, pixels] * 2, np.int64)
    framed = graph.node("Pad", [images, graph.constant(frame)])
    channels, size = shape
    axes = graph.constant(np.array([2, 3], np.int64))
    copies = []
    for corner in _corners(pixels):
        start = np.array(corner, np.int64)
        bounds = [graph.constant(start), graph.constant(start + size)]
        copies.append(graph.node("Slice", [framed, *bounds, axes]))
    rows = graph.concat([images, *copies], axis=0)
    return graph.declare(rows, ["looks", channels, size, size])


def emit_averaged(graph: Graph, features: Value, width: int, pixels: int) -> Value:
    """`averaged` in ONNX, of features of this width."""
    if pixels == 0:
        return features
    shape = graph.constant(np.array([LOOKS, -1, width], np.int64))
    apart = graph.node("Reshape", [features, shape])
    return graph.node("ReduceMean", [apart], axes=[0], keepdims=0)


def _corners(pixels: int) -> list[tuple[int, int]]:
    """Return the origins of the copies in a framed image: top and left."""
    far = 2 * pixels
    return [(0, 0), (0, far), (far, 0), (far, far)]
