"""Intervals of a mean and of a proportion against those of scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from metanas_data.intervals import mean_of, proportion, quantile95


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 100, 599, 600, 1999])
def test_quantile_is_that_of_student(freedom: int) -> None:
    assert quantile95(freedom) == pytest.approx(float(stats.t.ppf(0.975, freedom)), rel=1e-9)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_interval_of_a_mean(count: int) -> None:
    values = np.random.default_rng(count).random(count).tolist()
    low, high = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    assert mean_of(values).interval == pytest.approx((high - low) / 2)


def test_interval_of_equal_values_is_zero_and_of_one_value_missing() -> None:
    assert mean_of([0.5, 0.5]).interval == 0
    assert math.isnan(mean_of([0.5]).interval)
    assert math.isfinite(quantile95(1))


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 9), (9, 9), (38, 40), (1, 1000)])
def test_interval_of_a_proportion(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    found = proportion(hits, count)
    assert found.share == hits / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.share <= found.high <= 1


def test_nothing_counted_says_nothing() -> None:
    nothing = proportion(0, 0)
    assert (nothing.share, nothing.low, nothing.high) == (None, 0, 1)
