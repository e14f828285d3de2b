"""Means and paired differences with 95 % intervals, and their columns in tables."""

import math

import numpy as np
from numpy.typing import NDArray

from metanas.evaluation.compare import Comparison
from metanas_data.intervals import Mean, mean_of

Figures = NDArray[np.float64]
"""A figure of each training on each episode: (trainings, episodes)."""

MARGIN = 0.01
"""Equivalence margin: an interval within 1 point of zero excludes a larger effect."""
COMPARED = ("won/lost/tied", "outcome")
"""Column titles beside a difference."""


def over(figures: Figures) -> Mean:
    """Return the mean, with an interval that holds for other trainings and other episodes.

    Trainings and episodes are crossed: a figure is the sum of a part of its training, a part of its
    episode and a rest of both. The half width is the root of two squares: the half widths of
    Student's intervals over the means of trainings and over the means of episodes. The rest is in
    both, which makes the interval too wide rather than too narrow.
    """
    trainings, episodes = (mean_of(figures.mean(axis=axis).tolist()) for axis in (1, 0))
    return Mean(episodes.mean, math.hypot(trainings.interval, episodes.interval))


def outcome(difference: Mean) -> str:
    """Name a difference by its interval: gain, loss, equivalent within `MARGIN`, inconclusive."""
    if difference.sign:
        return "gain" if difference.sign > 0 else "loss"
    return "equivalent" if abs(difference.mean) + difference.interval <= MARGIN else "inconclusive"


def compared(comparison: Comparison) -> list[str]:
    """Write a difference, the episodes it won, lost and tied, and its outcome."""
    counts = f"{comparison.won}/{comparison.lost}/{comparison.tied}"
    return [points(comparison.difference), counts, outcome(comparison.difference)]


def percent(mean: Mean) -> str:
    """Write a mean with its interval, in percent."""
    return f"{100 * mean.mean:.2f} ± {100 * mean.interval:.2f}"


def points(difference: Mean) -> str:
    """Write a difference with its interval, in points."""
    return f"{100 * difference.mean:+.2f} ± {100 * difference.interval:.2f}"
