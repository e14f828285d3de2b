"""How every benchmark measures: candidates in turns, every run kept, spread and ratio of medians.

Candidates run in one process, one after the other, in an order that reverses from round to round,
so that whatever else happens on the machine happens to all of them.
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
LEAST = 3
"""Rounds that are run whatever they cost."""


def in_turns(
    candidates: Mapping[str, Callable[[int], T]], runs: int, budget: float = inf
) -> dict[str, list[T]]:
    """What each candidate returned in each of `runs` rounds; it is called with the round's number.

    One round more goes before, for warming up, and is not kept. No round begins after `budget`
    seconds, unless it is one of the first `LEAST`.
    """
    found: dict[str, list[T]] = {name: [] for name in candidates}
    for call in candidates.values():
        call(0)
    start = perf_counter()
    for index in range(runs):
        if index >= LEAST and perf_counter() - start > budget:
            break
        for name in list(candidates)[:: -1 if index % 2 else 1]:
            found[name].append(candidates[name](index))
    return found


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Some measured values, summed up."""

    median: float
    least: float
    quartiles: tuple[float, float]
    most: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Median, extremes and quartiles."""
    low, high = np.quantile(values, (0.25, 0.75))
    return Spread(
        median=median(values),
        least=min(values),
        quartiles=(float(low), float(high)),
        most=max(values),
        runs=len(values),
    )


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds it with 95 %."""

    value: float
    low: float
    high: float


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Interval:
    """How many times the median of one is that of the other; the interval by bootstrap."""
    random = np.random.default_rng(0)
    medians = [
        np.median(random.choice(np.asarray(values), (RESAMPLES, len(values))), axis=1)
        for values in (slow, fast)
    ]
    low, high = np.quantile(medians[0] / medians[1], (0.025, 0.975))
    return Interval(median(slow) / median(fast), float(low), float(high))
