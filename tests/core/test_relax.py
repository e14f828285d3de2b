"""Temperatures, samples and noise; the contract is in test_contracts."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metanas.supernet.relaxations import Gumbel, Noisy, PerTask, Softmax, annealed

TEMPERATURES = st.floats(1e-3, 10)


def test_softmax_is_that_of_logits_over_temperature() -> None:
    logits = torch.tensor([1.0, 2.0, 4.0])
    expected = (logits / 0.5).exp() / (logits / 0.5).exp().sum()
    torch.testing.assert_close(Softmax(temperature=0.5).weights(logits), expected)


def test_without_noise_gumbel_is_softmax() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.3, -torch.inf]])
    gumbel = Noisy(Softmax(temperature=0.5), 0.0)
    expected = Softmax(temperature=0.5).weights(logits)
    torch.testing.assert_close(gumbel.weights(logits, torch.Generator()), expected)


def test_cold_and_at_full_noise_the_best_is_a_sample_from_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    generator = torch.Generator().manual_seed(0)
    drawn = Noisy(Softmax(temperature=1e-3), 1.0).weights(logits, generator).round().mean(0)
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


def test_gumbel_runs_one_operation_and_every_logit_learns() -> None:
    """GDAS: exactly one-hot, so that the others are not evaluated; the gradient is that of soft."""
    logits = torch.tensor([[0.1, -0.2, 0.3]] * 50).requires_grad_()
    weights = Gumbel(temperature=0.5).weights(logits, torch.Generator().manual_seed(0))
    assert sorted(set(weights.flatten().tolist())) == [0.0, 1.0]
    assert len(set(weights.argmax(1).tolist())) == 3
    (gradient,) = torch.autograd.grad(weights[:, 0].sum(), logits)
    assert bool((gradient != 0).all())


def test_each_task_of_a_stack_draws_from_its_own_generator() -> None:
    logits = torch.zeros(2, 4, 3)
    both = (Gumbel(), Gumbel())
    seeded = [
        tuple(torch.Generator().manual_seed(seed) for seed in seeds) for seeds in ((1, 2), (2, 1))
    ]
    one, other = (PerTask(both, generators).weights(logits) for generators in seeded)
    assert torch.equal(one.flip(0), other)
    assert not torch.equal(one[0], one[1])


def test_noise_never_comes_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    for relaxation in (Gumbel(), Noisy(Softmax(), 1.0)):
        with pytest.raises(ValueError, match="generator"):
            relaxation.weights(torch.zeros(2, 3))
    own = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
    PerTask((Gumbel(), Gumbel()), own).weights(torch.zeros(2, 4, 3))
    assert torch.equal(torch.get_rng_state(), before)
