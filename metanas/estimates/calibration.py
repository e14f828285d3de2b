"""Temperature of the probabilities, from images that are left out.

The softmax of logits / T is calibrated where T minimises the cross-entropy of images that had no
part in the head (Guo et al., ICML 2017, arXiv:1706.04599). A support set has few of them, so a
prior holds T near the scale that meta-training has learned.
"""

import torch
from torch import Tensor

from metanas.estimates.left_out import LeftOut

LARGEST, TRIALS = 8.0, 49
"""Largest temperature, the inverse of the smallest, and the number of trials between them."""
PRIOR = 8.0
"""Weight of the prior: the inverse variance of log T, in nats."""


def trials() -> Tensor:
    """Return the temperatures to try, `(K,)`."""
    return LARGEST ** torch.linspace(-1, 1, TRIALS)


def losses_of(left: LeftOut) -> Tensor:
    """Return the cross-entropy of each image that is left out alone, at each trial: `(K, n)`."""
    truth = left.labels[left.alone.rows][:, None]
    losses = [
        -(left.alone.logits / each).log_softmax(-1).gather(1, truth)[:, 0] for each in trials()
    ]
    return torch.stack(losses)


def penalties() -> Tensor:
    """Return the negative logarithm of the prior at each trial, up to a constant: `(K, 1)`."""
    return PRIOR / 2 * trials().log().square()[:, None]


def temperature_of(left: LeftOut) -> float:
    """Choose the temperature of the probabilities; 1 is the scale of meta-training."""
    total = losses_of(left).sum(1, keepdim=True) + penalties()
    return float(trials()[total.argmin()])
