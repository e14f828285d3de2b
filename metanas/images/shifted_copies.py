"""Shifted copies of an image: the features of an image and of four diagonal shifts are averaged.

The features of a strided layer depend on the position of a stroke relative to its grid. The mean
depends on it less.

- Shifts are by whole pixels of the network's input, so torch and ONNX agree to the last bit.
- Pixels from outside an image are 0, as in the affine views of meta-training
  (`metanas.images.augment`) and in the padding of convolutions. A repeated border would add strokes
  to the image.
- Copies are rows of the batch after all images. So norms that are not frozen still take their
  statistics from the support images alone.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.nn.onnx_graph import Graph, Value

LOOKS = 5
"""Number of rows of an image: the image and its copies."""


def looks(pixels: int) -> int:
    """Return the number of rows of an image, for copies shifted by `pixels` (0: no copies)."""
    return LOOKS if pixels else 1


def with_copies(images: Tensor, pixels: int) -> Tensor:
    """Append copies to images `(N, C, S, S)`, to `(5 N, C, S, S)`; with 0 pixels, do nothing."""
    if pixels == 0:
        return images
    height, width = images.shape[2:]
    framed = F.pad(images, [pixels] * 4)
    copies = [framed[:, :, y : y + height, x : x + width] for y, x in _corners(pixels)]
    return torch.cat([images, *copies])


def averaged(features: Tensor, pixels: int) -> Tensor:
    """Average the features `(5 N, D)` of images and their copies to `(N, D)`."""
    return features.unflatten(0, (LOOKS, -1)).mean(0) if pixels else features


def emit_copies(graph: Graph, images: Value, shape: tuple[int, int], pixels: int) -> Value:
    """Record `with_copies`; shape: channels and side of the images."""
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
    """Record `averaged` for features of this width."""
    if pixels == 0:
        return features
    shape = graph.constant(np.array([LOOKS, -1, width], np.int64))
    apart = graph.node("Reshape", [features, shape])
    return graph.node("ReduceMean", [apart], axes=[0], keepdims=0)


def _corners(pixels: int) -> list[tuple[int, int]]:
    """Return the top left corners of the copies in a padded image, as (y, x)."""
    far = 2 * pixels
    return [(0, 0), (0, far), (far, 0), (far, far)]
