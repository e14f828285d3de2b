"""Confidence intervals of a mean, by Student's t distribution."""

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95


def half_width95(values: Sequence[float]) -> float | None:
    """Return half the width of the 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    deviation = float(np.std(values, ddof=1))
    return quantile95(len(values) - 1) * deviation / math.sqrt(len(values))


def quantile95(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t with `freedom` >= 1 degrees of freedom."""
    low, high = 0.0, math.pi / 2  # of the angle atan(t / sqrt(freedom))
    while high - low > 1e-15:
        middle = (low + high) / 2
        if _probability_within(middle, freedom) < LEVEL:
            low = middle
        else:
            high = middle
        if middle in (0.0, math.pi / 2):
            break
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _probability_within(angle: float, freedom: int) -> float:
    """Return P(|t| < tan(angle) * sqrt(freedom)).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    square, odd = math.cos(angle) ** 2, freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    inner = math.sin(angle) * total
    return 2 / math.pi * (angle + inner) if odd else inner
