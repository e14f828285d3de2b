"""Intervals of a mean against those of scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from metanas_data.intervals import mean_of, quantile95


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
