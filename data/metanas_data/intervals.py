"""95 % intervals: of means by Student's t distribution, of proportions by Wilson's score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean and half the width of its 95 % interval by Student's t; NaN for one value."""

    mean: float
    interval: float

    @property
    def sign(self) -> int:
        """1 if the interval lies above zero, -1 if below, 0 if it contains zero."""
        return (self.mean > self.interval) - (self.mean < -self.interval)


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of at least one value with its interval."""
    mean, count = fmean(values), len(values)
    if count < 2:
        return Mean(mean, math.nan)
    deviation = stdev(values)
    return Mean(mean, quantile95(count - 1) * deviation / math.sqrt(count))


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """Share of `hits` in `count` with its 95 % interval by Wilson's score."""

    hits: int
    count: int
    share: float | None
    """None if `count` is 0."""
    low: float
    high: float


def proportion(hits: int, count: int) -> Proportion:
    """Return a share with its interval, which goes from 0 to 1 if `count` is 0."""
    if not count:
        return Proportion(hits=hits, count=count, share=None, low=0.0, high=1.0)
    share = hits / count
    low, high = wilson(share, count)
    return Proportion(hits=hits, count=count, share=share, low=low, high=high)


def wilson(share: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` observations, which may be a fraction.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + side * half) / (1 + z**2 / count) for side in (-1, 1))
    # rounding would leave a trace of the other side at 0 and 1
    return low if share > 0 else 0.0, high if share < 1 else 1.0


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
