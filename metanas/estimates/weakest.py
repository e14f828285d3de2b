"""Class to which more images should go first.

It has clearly the fewest images or, among classes of equally few, the lowest recall of left-out
images. Learning curves of the classes chose no better than chance ("The class that needs more
images" in docs/experiments.md).
"""

import torch

from metanas.estimates.left_out import LeftOut
from metanas_data.metrics import Metrics

ABOUT = 1.25
"""Classes of up to so many times the fewest images have about as few."""
ERRORS = 1.0
"""Standard errors that a recall must be below the mean recall."""


def weakest_of(left: LeftOut, metrics: Metrics) -> str:
    """Name the class that probably needs more images most; empty if none is clearly weaker.

    metrics: those of the images that are left out alone.
    """
    shots = left.shots.tolist()
    few = [way for way, number in enumerate(shots) if number <= ABOUT * min(shots)]
    if len(few) == 1:
        return left.classes[few[0]]
    recalls = {way: each.recall.share for way, each in enumerate(metrics.classes)}
    known = {way: share for way, share in recalls.items() if share is not None}
    margins = _margins(left)
    found = min(few, key=lambda way: (known.get(way, 1.0), margins[way]))
    below = sum(known.values()) / len(known) - known.get(found, 1.0)
    likely = (metrics.accuracy.hits + 1) / (metrics.accuracy.count + 2)
    error = (likely * (1 - likely) / shots[found]) ** 0.5
    return left.classes[found] if below >= ERRORS * error else ""


def _margins(left: LeftOut) -> list[float]:
    """Return the mean margin of each class: the logit of the class less the largest other one."""
    logits, labels = left.alone.logits, left.labels[left.alone.rows][:, None]
    others = logits.scatter(1, labels, -torch.inf).amax(1, keepdim=True)
    sums = torch.zeros(len(left.classes), 1).to(logits)
    sums.scatter_add_(0, labels, logits.gather(1, labels) - others)
    margins: list[float] = (sums[:, 0] / left.shots).tolist()
    return margins
