"""Threshold of the output `known`, from support images that are left out."""

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.export.known import Known
from metanas.nn.prototypes import membership, prototypes

BELOW = 1.64
"""Standard deviations by which the threshold lies below the mean score: 5 % of new images of the
classes are taken for foreign ones."""
BELOW_FOREIGN = 0.5
"""The same for one image a class, below the mean score of foreign images: 10 to 15 %."""
LEAST_WIDTH = 0.01
"""Least standard deviation of scores, for support sets of identical images."""


def known_of(features: Tensor, labels: Tensor, ways: int) -> Known:
    """Choose the threshold from the features `(N, D)` of the support images.

    The score of an image that is left out is its mean cosine to the other images of a class, as in
    `Known`. With one image a class, each image is scored without its class, as a foreign one.
    """
    units, members = F.normalize(features, dim=1), membership(labels, ways)
    sums, counts = prototypes(units, members)
    means = sums / counts[:, None]
    cosines = units @ means.T
    others = (members @ counts)[:, None] - 1
    own = (cosines * (others + 1) - 1) / others.clamp(min=1)
    left_out = torch.where(members > 0, own, cosines).amax(1)[others[:, 0] > 0]
    foreign = cosines.masked_fill(members > 0, -1).amax(1)
    scores, below = (left_out, BELOW) if len(left_out) > 1 else (foreign, BELOW_FOREIGN)
    spread = max(float(scores.std()), LEAST_WIDTH)
    return Known(means, float(scores.mean()) - below * spread, spread / 2)
