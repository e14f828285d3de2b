"""Every meta-learner with every relaxation: they train, repeat, and stack."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metanas.alphas import is_alpha
from metanas.config import RunConfig
from metanas.errors import Diverged
from metanas.extensions import Extensions
from metanas.metabatch import MetaBatch, MetaState, TaskResults, generators, total
from metanas.metalearn import META_LEARNERS
from metanas.ops import OPS
from metanas.relax import RELAXATIONS
from metanas.train import MetaTrainer
from tests.core.small import GENOTYPE, run_config, synthetic

TRAIN, VAL = synthetic(8, 6), synthetic(5, 8, seed=1)
PARTIAL = pytest.mark.parametrize("partial", [1, pytest.param(2, marks=pytest.mark.slow)])
OUTER: dict[str, Any] = {"outer": "adam", "meta_lr_weights": 1e-3, "meta_lr_alphas": 1e-2}


def pair(learner: str, relaxation: str, partial: int, **changes: Any) -> RunConfig:
    settings = {
        "tasks": 2,
        "warm_up": 0,
        "settle": 0,
        "learned_rates": True,
        "iterations": 99,
        "ways": (3, 3),
        "shots": (1,),
        "images": 9,
        **({"genotype": GENOTYPE.to_json()} if relaxation == "fixed" else {}),
        **({} if learner == "reptile" else OUTER),
        **changes,
    }
    config = run_config(meta_learner=learner, relaxation=relaxation, **settings)
    return replace(config, space=replace(config.space, partial=partial))


@PARTIAL
@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("learner", META_LEARNERS)
def test_every_pair_trains(learner: str, relaxation: str, partial: int) -> None:
    run, same = (MetaTrainer(pair(learner, relaxation, partial), TRAIN, VAL) for _ in range(2))
    before = run.params.clone()
    for _ in range(2):
        seen = run.iterate()
        assert seen.loss == same.iterate().loss
        assert 0 < seen.loss < float("inf")
        assert 0 <= seen.accuracy <= 1
    assert torch.equal(run.params, same.params)
    assert bool(torch.isfinite(run.params).all())
    moved = run.params != before
    alphas = run.layout.where(is_alpha)
    assert bool(moved[~alphas].any())
    assert bool(run.factors.any())
    for name, change in run.layout.views(moved).items():
        if is_alpha(name):
            assert bool(change.any()) == (relaxation != "fixed"), name


def results(config: RunConfig, *parts: range) -> TaskResults:
    """What some parts of a range of tasks come to, in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        trainer = MetaTrainer(config, TRAIN, VAL)
        batch = Extensions().batch(config, TRAIN)
        state = MetaState(
            iteration=3,
            params=trainer.params,
            factors=trainer.factors,
            moments=trainer.moments,
            alive={k: trainer.supernet.cell_alpha(k).alive for k in ("normal", "reduce")},
        )
        before = copy.deepcopy(state)
        found = total(batch(state, part) for part in parts)
        assert torch.equal(before.params, state.params)
        return found
    finally:
        torch.set_default_dtype(torch.float32)


def assert_close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@PARTIAL
@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("learner", META_LEARNERS)
def test_a_stack_is_its_tasks_one_by_one(learner: str, relaxation: str, partial: int) -> None:
    config = pair(learner, relaxation, partial, tasks=3, drop_path=0.2)
    whole, apart = results(config, range(3)), results(config, range(1), range(1, 3))
    assert whole.tasks == apart.tasks == 3
    assert whole.loss == pytest.approx(apart.loss)
    assert whole.accuracy == pytest.approx(apart.accuracy)
    assert_close(whole.gradient, apart.gradient)
    assert_close(whole.factors, apart.factors)
    assert_close(whole.moments.second, apart.moments.second)
    assert whole.moments.steps.tolist() == apart.moments.steps.tolist()


def test_in_turn_no_image_is_shown_twice() -> None:
    config = run_config(ways=(2, 2), shots=(2,), images=40, round_robin=True)
    unlike = {name: images + index for index, (name, images) in enumerate(TRAIN.items())}
    shown = Extensions().batch(config, unlike).episode(0, range(1), 0)
    assert len(shown.images) == 2 * 6
    plain = replace(config, task=replace(config.task, round_robin=False))
    assert len(Extensions().batch(plain, unlike).episode(0, range(1), 0).images) == 40


def test_in_turn_a_stack_is_its_tasks_one_by_one() -> None:
    config = pair("reptile", "darts", 1, tasks=3, round_robin=True)
    whole, apart = results(config, range(3)), results(config, range(1), range(1, 3))
    assert whole.loss == pytest.approx(apart.loss)
    assert_close(whole.gradient, apart.gradient)
    once = results(replace(config, task=replace(config.task, round_robin=False)), range(3))
    assert once.loss != pytest.approx(whole.loss)


def test_tasks_depend_on_their_number_and_iteration_alone() -> None:
    paths = [(0, 1, 2), (0, 1, 2, 0), (0, 2, 1), (1, 1, 2), (0, 1, 3), (0, 1, 2, 0, 1)]
    drawn = [tuple(generators(*path)[0].integers(0, 2**40, 2)) for path in paths]
    noise = [float(torch.rand((), generator=generators(*path)[1])) for path in paths]
    assert len(set(drawn)) == len(set(noise)) == len(paths)
    assert drawn[0] == tuple(generators(0, 1, 2)[0].integers(0, 2**40, 2))


def test_a_unit_of_work_goes_to_another_process_and_back() -> None:
    config = run_config(tasks=2)
    trainer = MetaTrainer(config, TRAIN, VAL)
    batch = MetaBatch(config, TRAIN, ops=dict(OPS))
    state = MetaState(
        iteration=0,
        params=trainer.params,
        factors=trainer.factors,
        moments=trainer.moments,
        alive={k: trainer.supernet.cell_alpha(k).alive for k in ("normal", "reduce")},
    )
    here = batch(state, range(2))
    sent, received = pickle.loads(pickle.dumps((batch, state)))
    there = pickle.loads(pickle.dumps(sent(received, range(2))))
    assert torch.equal(here.gradient, there.gradient)
    assert torch.equal(here.moments.first, there.moments.first)


@pytest.mark.parametrize(
    ("name", "value"), [("head.log_scale", 200.0), ("alpha.normal.ops", float("nan"))]
)
def test_what_is_not_finite_diverges(name: str, value: float) -> None:
    config = run_config()
    trainer = MetaTrainer(config, TRAIN, VAL)
    trainer.meta[name].fill_(value)
    with pytest.raises(Diverged):
        trainer.iterate()


@pytest.mark.parametrize("learner", META_LEARNERS)
@pytest.mark.parametrize("order", ["first", "second"])
def test_bilevel_goes_with_every_meta_learner(learner: str, order: str) -> None:
    """The alphas learn from other images than the weights."""
    runs = [
        MetaTrainer(pair(learner, "darts", 1, order=each), TRAIN, VAL) for each in ("single", order)
    ]
    before = runs[0].params.clone()
    for run in runs:
        run.iterate()
    alphas = runs[0].layout.where(is_alpha)
    assert bool((runs[1].params != before)[alphas].any())
    assert not torch.equal(runs[0].params[alphas], runs[1].params[alphas])
