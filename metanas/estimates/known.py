"""Threshold of the output `known`, from support images without their own image or class."""

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.export.known import Known
from metanas.nn.prototypes import membership, prototypes

BELOW = 1.64
"""Standard deviations below the mean score of left-out images: 5 % of new images of the classes are
then taken for foreign ones."""
ABOVE = 0.07
"""Part of the way from the mean score of foreign images to 1, the score of identical images."""
WIDTH = 0.65
"""Width of the output in standard deviations of scores. Logistic regression over tasks of twelve
kinds of images gives 0.6 to 0.7."""
LEAST_SPREAD = 0.01
"""Least standard deviation of scores, for support sets of identical images."""


def known_of(features: Tensor, labels: Tensor, ways: int) -> Known:
    """Choose the threshold from the features `(N, D)` of the support images.

    The score of an image is its largest cosine to the mean of a class, as in `Known`. Each support
    image is scored twice: without itself, like a new image of its class, and without its class,
    like a foreign image. The second threshold counts as much as one image of each class.
    """
    units, members = F.normalize(features, dim=1), membership(labels, ways)
    sums, counts = prototypes(units, members)
    means = F.normalize(sums, dim=1)
    cosines = units @ means.T
    foreign = cosines.masked_fill(members > 0, -1).amax(1)
    threshold = _above(foreign)
    spread = float(foreign.std())
    several = (members @ counts) > 1
    if int(several.sum()) > 1:
        without = F.normalize(members @ sums - units, dim=1)
        own = (units * without).sum(1, keepdim=True)
        left_out = torch.where(members > 0, own, cosines).amax(1)[several]
        spread = float(left_out.std())
        below = float(left_out.mean()) - BELOW * spread
        threshold = below + (threshold - below) / float(counts.mean())
    return Known(means, min(threshold, 1 - LEAST_SPREAD), WIDTH * max(spread, LEAST_SPREAD))


def _above(foreign: Tensor) -> float:
    mean = float(foreign.mean())
    return mean + ABOVE * (1 - mean)
