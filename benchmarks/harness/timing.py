"""Time several candidates in turns; sum their runs up as spreads and ratios of medians.

Candidates run in one process, one after the other, in an order that reverses from round to round.
Other work on the machine then disturbs all of them alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from time import perf_counter
from typing import TypeVar

import numpy as np

T = TypeVar("T")

RESAMPLES = 2000
LEAST_ROUNDS = 3
"""Rounds that run whatever they cost."""


def in_turns(
    candidates: Mapping[str, Callable[[int], T]], runs: int, budget: float = inf
) -> dict[str, list[T]]:
    """Call each candidate with the number of each of `runs` rounds; return all its results.

    An uncounted round warms up. After `budget` seconds no round begins except the first
    `LEAST_ROUNDS`.
    """
    results: dict[str, list[T]] = {name: [] for name in candidates}
    for call in candidates.values():
        call(0)
    start = perf_counter()
    for index in range(runs):
        if index >= LEAST_ROUNDS and perf_counter() - start > budget:
            break
        for name in list(candidates)[:: -1 if index % 2 else 1]:
            results[name].append(candidates[name](index))
    return results


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of a call."""
    start = perf_counter()
    work()
    return perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Summary of some measured values."""

    median: float
    quartiles: tuple[float, float]
    most: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Return the median, the quartiles and the largest of some values."""
    low, high = map(float, np.quantile(values, (0.25, 0.75)))
    return Spread(median=median(values), quartiles=(low, high), most=max(values), runs=len(values))


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """Return the ratio of two medians; its interval is a bootstrap."""
    random = np.random.default_rng(0)
    medians = [
        np.median(random.choice(np.asarray(values), (RESAMPLES, len(values))), axis=1)
        for values in (slow, fast)
    ]
    low, high = np.quantile(medians[0] / medians[1], (0.025, 0.975))
    return Interval(median(slow) / median(fast), float(low), float(high))
