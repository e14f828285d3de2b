"""Meta-training: it learns, it follows its schedule, and nothing happens behind its back."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metanas.config import RunConfig
from metanas.episodes import Classes
from metanas.errors import DatasetError, Diverged, UnknownName
from metanas.genotype import CELL_KINDS
from metanas.ops import OPS
from metanas.optimizer import Params
from metanas.supernet import is_alpha
from metanas.train import DISCRETE, MetaTrainer
from tests.core.small import RUN, TINY, run_config, synthetic

TRAIN, VAL = synthetic(8, 8), synthetic(5, 8, seed=1)


def trainer(config: RunConfig = RUN, train: Classes = TRAIN, val: Classes = VAL) -> MetaTrainer:
    return MetaTrainer(config, train, val)


def copy(params: Params) -> Params:
    return {name: value.clone() for name, value in params.items()}


def changed(one: Params, other: Params) -> set[str]:
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


@pytest.mark.slow
def test_training_learns() -> None:
    settings: dict[str, Any] = {
        "iterations": 120,
        "warm_up": 20,
        "settle": 60,
        "validate_every": 1000,
        "validation_episodes": 30,
        "weight_lr": 0.01,
    }
    train, val = synthetic(30, 10), synthetic(10, 8, seed=1)
    run = trainer(run_config(**settings), train, val)
    losses = [run.iterate().loss for _ in range(120)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    assert run.validate(DISCRETE) > 0.5  # of 10 ways, from one shot


def test_the_alphas_wait_for_the_end_of_the_warm_up() -> None:
    run = trainer(run_config(warm_up=2, settle=99))
    before = copy(run.meta)
    run.iterate()
    run.iterate()
    moved = changed(before, run.meta)
    assert not any(is_alpha(name) for name in moved)
    assert "stem.weight" in moved
    run.iterate()
    assert {name for name in run.meta if is_alpha(name)} <= changed(before, run.meta)


def test_a_single_task_at_full_rate_takes_the_meta_parameters_along() -> None:
    run = trainer(run_config(warm_up=0, settle=99, meta_lr_alphas=1.0))
    run.iterate()  # the first iteration's rate is 1
    for name, value in run.optimizer.snapshot().items():
        torch.testing.assert_close(run.meta[name], value, atol=1e-6, rtol=1e-5)


def test_the_outer_step_falls_to_zero_by_a_cosine() -> None:
    def steady(meta: Params, adapted: Sequence[Params]) -> Params:
        return {name: torch.ones_like(value) for name, value in meta.items()}

    config = run_config(iterations=4, validate_every=99, settle=99, meta_lr_alphas=0.5)
    run = MetaTrainer(config, TRAIN, VAL, meta_learner=steady)
    for iteration in range(4):
        before = copy(run.meta)
        run.iterate()
        rate = 0.5 * (1 + math.cos(math.pi * iteration / 4))
        for name, scale in (("stem.weight", 1.0), ("alpha.normal.ops", 0.5)):
            step = before[name] - run.meta[name]
            torch.testing.assert_close(step, torch.full_like(step, rate * scale))


def test_noise_begins_with_the_search() -> None:
    noisy, quiet = (trainer(run_config(warm_up=1, settle=99, noise=n)) for n in (1.0, 0.0))
    assert noisy.iterate().loss == quiet.iterate().loss
    assert noisy.iterate().loss != quiet.iterate().loss


def test_the_meta_learner_is_a_value() -> None:
    def lazy(meta: Params, adapted: Sequence[Params]) -> Params:
        assert len(adapted) == 3
        return {name: torch.zeros_like(value) for name, value in meta.items()}

    config = run_config(tasks=3, settle=99)
    run = MetaTrainer(config, TRAIN, VAL, meta_learner=lazy)
    before = copy(run.meta)
    run.iterate()
    assert changed(before, run.meta) == set()


def test_settling_keeps_the_best_candidates_within_reach() -> None:
    settings: dict[str, Any] = {"keep": 2, "op_span": 0.1, "pair_span": 0.2}
    run = trainer(run_config(settle=2, warm_up=0, **settings))
    with torch.no_grad():
        for name, value in run.meta.items():
            if is_alpha(name):
                value.copy_(torch.linspace(-1, 1, value.numel()).view(value.shape))
    assert run.iterate().candidates == 2 * 5 * len(TINY.ops)
    assert run.iterate().candidates == 2 * 5 * 2
    for kind in CELL_KINDS:
        alpha = run.supernet.cell_alpha(kind)
        logits = run.meta[f"alpha.{kind}.ops"]
        assert alpha.alive.sum(1).tolist() == [2] * 5
        assert not bool(alpha.alive[:, 0].any())  # the lowest of every edge
        best = logits.max(1, keepdim=True).values
        assert bool((logits >= best - 0.1 - 1e-6).all())
        for pairs in run.meta[f"alpha.{kind}.inputs"].split(alpha.pair_counts):
            assert float(pairs.min()) >= float(pairs.max()) - 0.2 - 1e-6
    kept = [run.supernet.cell_alpha(kind).alive.clone() for kind in CELL_KINDS]
    for _ in range(3):
        run.iterate()
    for kind, alive in zip(CELL_KINDS, kept, strict=True):
        assert torch.equal(run.supernet.cell_alpha(kind).alive, alive)


def test_validating_leaves_the_run_as_it_is() -> None:
    run = trainer()
    run.iterate()
    before, state = copy(run.meta), run.generator.get_state()
    numbers = run.random.bit_generator.state
    first = run.validate(0.5)
    assert run.validate(0.5) == first
    assert 0 <= first <= 1
    assert changed(before, run.meta) == set()
    assert torch.equal(state, run.generator.get_state())
    assert numbers == run.random.bit_generator.state


def test_how_often_is_validated_changes_nothing() -> None:
    often, never = trainer(run_config(validate_every=1)), trainer(run_config(validate_every=99))
    for _ in range(3):
        assert not np.isnan(often.iterate().pruned)
        assert np.isnan(never.iterate().pruned)
    assert changed(often.meta, never.meta) == set()


def test_the_seed_decides() -> None:
    one, same, other = (trainer(run_config(seed=seed)) for seed in (0, 0, 1))
    torch.rand(2)
    for _ in range(3):
        losses = [run.iterate().loss for run in (one, same, other)]
        assert losses[0] == losses[1] != losses[2]
    assert changed(one.meta, same.meta) == set()
    assert "stem.weight" in changed(one.meta, other.meta)


def test_a_loss_that_is_not_finite_leaves_the_meta_parameters() -> None:
    run = trainer()
    run.iterate()
    run.meta["head.log_scale"].fill_(200.0)
    before = copy(run.meta)
    with pytest.raises(Diverged):
        run.iterate()
    assert changed(before, run.meta) == set()
    assert run.iteration == 1


@pytest.mark.parametrize(
    ("train", "val", "reason", "told"),
    [
        (synthetic(2, 8), VAL, "DATASET_TOO_FEW_CLASSES", "training split has 2"),
        (TRAIN, synthetic(1, 8), "DATASET_TOO_FEW_CLASSES", "validation split has 1"),
        (synthetic(8, 1), VAL, "DATASET_TOO_FEW_IMAGES", "'class 000'"),
        (TRAIN, synthetic(5, 5), "DATASET_TOO_FEW_IMAGES", "has 5 images"),
    ],
)
def test_data_that_cannot_be_trained_on(
    train: Classes, val: Classes, reason: str, told: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        trainer(RUN, train, val)
    assert caught.value.reason == reason
    assert told in str(caught.value)


def test_small_classes_limit_the_shots() -> None:
    config = replace(RUN, task=replace(RUN.task, shots=(1, 5), images=200))
    run = trainer(config, synthetic(6, 2))
    for _ in range(4):
        assert np.isfinite(run.iterate().loss)


def test_an_unknown_operation_is_named() -> None:
    config = replace(RUN, space=replace(TINY, ops=("skip_connect", "conv_9x9")))
    with pytest.raises(UnknownName) as caught:
        trainer(config)
    assert caught.value.known == tuple(OPS)
