"""Support images that are probably mislabelled.

A head without an image gives its label a probability. The temperature leaves the image out too:
else one wrong label would make all probabilities vaguer. The image is suspicious if its label is
much less probable than images of a correctly labelled support set let expect.
"""

import torch

from metanas.estimates.calibration import losses_of, penalties
from metanas.estimates.left_out import LeftOut
from metanas_data.report import SuspiciousImage

ALARMS = 0.2
"""Expected number of false alarms in a support set without a wrong label."""
MOST = 10
"""Most images that a report names."""


def suspicious_of(left: LeftOut) -> tuple[SuspiciousImage, ...]:
    """Name the images that look like another class than their own, the most suspicious first.

    Those whose label has a probability below `ALARMS / n` are likely mislabelled. In n calibrated
    probabilities, at most `ALARMS` are expected to be that small.
    """
    losses, count = losses_of(left), len(left.alone.rows)
    total = losses.sum(1, keepdim=True) + penalties()
    best = (total - losses).argmin(0)
    probabilities = (-losses[best, torch.arange(count)]).exp()
    guesses = left.alone.logits.argmax(-1)
    labels = left.labels[left.alone.rows]
    return tuple(
        SuspiciousImage(
            index=int(left.alone.rows[place]),
            label=left.classes[int(labels[place])],
            looks_like=left.classes[int(guesses[place])],
            probability=float(probabilities[place]),
            likely=float(probabilities[place]) < ALARMS / count,
        )
        for place in probabilities.argsort()[:MOST].tolist()
        if guesses[place] != labels[place]
    )
