"""How sure a figure is that several trainings gave, each on the same episodes."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from metanas_data.intervals import Mean, mean_of

Figures = NDArray[np.float64]
"""A figure of each training on each episode: (trainings, episodes)."""


def over(figures: Figures) -> Mean:
    """The mean with a 95 % interval that holds for other trainings and for other episodes.

    Trainings and episodes are drawn independently and meet each other all, so a figure is the sum
    of a part of its training, a part of its episode and a rest of both. The half width is the root
    of two squares: that of Student's interval of the means of trainings, with one degree of freedom
    less than there are trainings, and that of the normal interval of the means of episodes. The
    rest is in both, which makes it too wide rather than too narrow.
    """
    trainings = len(figures)
    deviation = float(figures.mean(axis=1).std(ddof=1))
    of_trainings = float(stdtrit(trainings - 1, 0.975)) * deviation / math.sqrt(trainings)
    of_episodes = mean_of(figures.mean(axis=0).tolist())
    return Mean(of_episodes.mean, math.hypot(of_trainings, of_episodes.interval))
