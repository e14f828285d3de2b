"""Every meta-learner with every relaxation: they train, repeat, and stack."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.errors import Diverged
from metanas.nn.functional import Rows
from metanas.nn.ops import OPS
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.spec.options import AffineRange
from metanas.supernet.alphas import is_alpha
from metanas.supernet.relaxations import RELAXATIONS, Softmax
from metanas.training.config import RunConfig
from metanas.training.extensions import Extensions
from metanas.training.meta_learners import META_LEARNERS
from metanas.training.schedule import search_at
from metanas.training.task_batch import MetaBatch, MetaState, TaskResults, generators, total
from metanas.training.trainer import MetaTrainer
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
    """The sum over some parts of a range of tasks, in double precision."""
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


UNLIKE = {
    f"class {way}": np.full((images, 1, 12, 12), 20 * way, np.uint8)
    + np.arange(images, dtype=np.uint8)[:, None, None, None]
    for way, images in enumerate((6, 9, 12))
}
"""Classes of unequal size, whose images are flat and all differ."""


def shown(**changes: Any) -> tuple[int, int]:
    """The number of images in an episode of three classes, and the number of different ones."""
    config = run_config(ways=(3, 3), images=36, **changes)
    still = replace(config, augment=AffineRange(rotation=0.0, shift=0.0, scale=0.0, shear=0.0))
    images = Extensions().batch(still, UNLIKE).episode(0, range(1), 0).images
    return len(images), len({round(float(image.mean()), 4) for image in images})


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_in_turn_no_image_is_shown_twice(shots: int) -> None:
    assert shown(shots=(shots,), round_robin=True) == (18, 18)
    assert shown(shots=(shots,)) == (36, 27)


def test_in_turn_shots_leave_as_many_queries() -> None:
    config = run_config(ways=(3, 3), images=36, shots=(3, 4), round_robin=True)
    batch = Extensions().batch(config, UNLIKE)
    assert {batch.episode(iteration, range(1), 0).shots for iteration in range(8)} == {3}


@pytest.mark.parametrize("round_robin", [False, True])
@pytest.mark.parametrize("images", [9, 11])
def test_the_loss_is_that_of_prototype_episodes(images: int, round_robin: bool) -> None:
    """In turn, what every turn would say is pooled: of each image as often as it is a query."""
    config = run_config(ways=(2, 2), shots=(2,), images=images, round_robin=round_robin, noise=0.0)
    trainer = MetaTrainer(config, TRAIN, VAL)
    batch = Extensions().batch(config, TRAIN)
    episode = batch.episode(0, range(1), 0)
    shown = len(episode.images) // 2
    warm = Softmax(temperature=search_at(config, 0).temperature_start)
    features = trainer.supernet(episode.images, Rows(4), warm)
    support, queries = features[:4].unflatten(0, (2, 2)), features[4:].unflatten(0, (2, -1))
    classes = torch.cat([support, queries], dim=1)
    logits, labels = [], []
    for turn in range(shown // 2 if round_robin else 1):
        taken = torch.arange(shown) // 2 == turn
        members = membership(torch.arange(2).repeat_interleave(2), 2)
        others = classes[:, ~taken].flatten(0, 1)
        scale = trainer.meta["head.log_scale"].exp()
        logits.append(
            PrototypeHead().logits(classes[:, taken].flatten(0, 1), members, others, scale)
        )
        labels.append(torch.arange(2).repeat_interleave(len(others) // 2))
    every, right = torch.cat(logits), torch.cat(labels)
    loss, accuracy = batch.evaluate(episode, trainer.params[None])
    torch.testing.assert_close(loss, F.cross_entropy(every, right)[None])
    torch.testing.assert_close(accuracy, (every.argmax(1) == right).float().mean()[None])


@pytest.mark.parametrize("learner", ["reptile", "maml"])
def test_in_turn_a_stack_is_its_tasks_one_by_one(learner: str) -> None:
    config = pair(learner, "darts", 1, tasks=3, round_robin=True, drop_path=0.2, images=13)
    whole, apart = results(config, range(3)), results(config, range(1), range(1, 3))
    assert whole.loss == pytest.approx(apart.loss)
    assert whole.accuracy == pytest.approx(apart.accuracy)
    assert_close(whole.gradient, apart.gradient)


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
