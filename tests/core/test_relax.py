"""Temperatures, and the noise of the gumbel relaxation; the contract is in test_contracts."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metanas.relax import Gumbel, Softmax, annealed

TEMPERATURES = st.floats(1e-3, 10)


def test_softmax_is_that_of_logits_over_temperature() -> None:
    logits = torch.tensor([1.0, 2.0, 4.0])
    expected = (logits / 0.5).exp() / (logits / 0.5).exp().sum()
    torch.testing.assert_close(Softmax(temperature=0.5).weights(logits), expected)


def test_without_noise_gumbel_is_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.3, -torch.inf]])
    gumbel = Gumbel(temperature=0.5, noise=0.0)
    expected = Softmax(temperature=0.5).weights(logits)
    torch.testing.assert_close(gumbel.weights(logits, torch.Generator()), expected)


def test_cold_and_at_full_noise_the_best_is_a_sample_from_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    generator = torch.Generator().manual_seed(0)
    drawn = Gumbel(temperature=1e-3).weights(logits, generator).round().mean(0)
    torch.testing.assert_close(drawn, torch.softmax(logits[0], 0), atol=0.02, rtol=0)


@given(start=TEMPERATURES, end=TEMPERATURES, steps=st.integers(2, 100))
def test_temperatures_fall_from_start_to_end(start: float, end: float, steps: int) -> None:
    start, end = max(start, end), min(start, end)
    schedule = [annealed(start, end, step, steps) for step in range(steps)]
    assert schedule[0] == pytest.approx(start)
    assert schedule[-1] == pytest.approx(end)
    assert all(a >= b * (1 - 1e-12) for a, b in pairwise(schedule))
    ratios = [b / a for a, b in pairwise(schedule)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert annealed(start, end, steps + 3, steps) == pytest.approx(end)


@pytest.mark.parametrize("steps", [0, 1])
def test_a_single_step_runs_at_the_end(steps: int) -> None:
    assert annealed(1.0, 0.1, 0, steps) == 0.1
