"""Meta-training: it learns, it follows its schedule, and nothing happens behind its back."""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from metanas.errors import DatasetError, Diverged, InvalidInput, UnknownName
from metanas.nn.ops import OPS
from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.supernet.alphas import is_alpha
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import Argmax, Softmax
from metanas.supernet.supernet import genotype_of
from metanas.training.config import RunConfig
from metanas.training.extensions import Extensions
from metanas.training.inner_loop import InnerLoop
from metanas.training.meta_learners import META_LEARNERS, Learned, MetaLearner
from metanas.training.schedule import search_at
from metanas.training.trainer import COLLAPSED, NEVER_BEGAN, MetaTrainer
from metanas_data.datasets.stacks import Classes
from tests.core.small import GENOTYPE, RUN, TINY, findings, run_config, synthetic

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
    assert run.validate(Argmax()) > 0.5  # of 10 ways, from one shot


def test_the_alphas_wait_for_the_end_of_the_warm_up() -> None:
    run = trainer(run_config(warm_up=2, settle=0))
    before = copy(run.meta)
    run.iterate()
    run.iterate()
    moved = changed(before, run.meta)
    assert not any(is_alpha(name) for name in moved)
    assert "stem.0.weight" in moved
    run.iterate()
    assert {name for name in run.meta if is_alpha(name)} <= changed(before, run.meta)


@dataclass(frozen=True)
class Steady:
    """The same meta-gradient everywhere, of whatever tasks; remembers how many it saw."""

    seen: list[int] = field(default_factory=list)
    value: float = 1.0

    def learn(self, loop: InnerLoop) -> Learned:
        self.seen.append(loop.tasks)
        loop.gradient(loop.begin(), 0)
        gradient = torch.full((loop.tasks, loop.layout.size), self.value)
        factors = torch.ones(loop.tasks, len(loop.factors))
        return Learned(gradient=gradient, factors=factors, moments=loop.moments)


def with_learner(learner: MetaLearner, **changes: Any) -> MetaTrainer:
    extensions = Extensions(meta_learners={**META_LEARNERS, "mine": learner})
    config = run_config(meta_learner="mine", warm_up=0, settle=0, validate_every=99, **changes)
    return MetaTrainer(config, TRAIN, VAL, extensions=extensions)


def test_the_outer_step_falls_to_zero_by_a_cosine() -> None:
    run = with_learner(Steady(), iterations=4, meta_lr_alphas=0.5)
    for iteration in range(3):
        before = copy(run.meta)
        seen = run.iterate()
        rate = 0.5 * (1 + math.cos(math.pi * iteration / 4))
        assert (seen.meta_lr_weights, seen.meta_lr_alphas) == pytest.approx((rate, 0.5 * rate))
        for name, scale in (("stem.0.weight", 1.0), ("alpha.normal.ops", 0.5)):
            step = before[name] - run.meta[name]
            torch.testing.assert_close(step, torch.full_like(step, rate * scale))


def test_the_outer_step_may_stay() -> None:
    run = with_learner(Steady(), iterations=4, anneal=False)
    assert [run.iterate().meta_lr_weights for _ in range(4)] == [1.0] * 4


def test_the_outer_optimizer_may_be_adam() -> None:
    """The first step of Adam has the size of the rate, for a gradient of any size."""
    for value in (1.0, 100.0):
        run = with_learner(
            Steady(value=value), outer="adam", meta_lr_weights=0.01, meta_lr_alphas=0.01
        )
        before = copy(run.meta)
        run.iterate()
        step = before["stem.0.weight"] - run.meta["stem.0.weight"]
        torch.testing.assert_close(step, torch.full_like(step, 0.01), rtol=1e-3, atol=0)


def test_adam_begins_on_the_alphas_where_the_search_begins() -> None:
    """The steps of the warm-up, in which they stand still, do not count for them."""
    settings = {"outer": "adam", "meta_lr_weights": 0.01, "meta_lr_alphas": 0.01}
    run = with_learner(Steady(), anneal=False, **settings)
    run.config = replace(run.config, search=replace(run.config.search, warm_up=3))
    for iteration in range(5):
        before = copy(run.meta)
        run.iterate()
        step = before["alpha.normal.ops"] - run.meta["alpha.normal.ops"]
        size = 0.01 if iteration >= 3 else 0.0
        torch.testing.assert_close(step, torch.full_like(step, size), rtol=1e-3, atol=0)


def test_learned_rates_move_with_their_gradient() -> None:
    run = with_learner(Steady(), learned_rates=True, meta_lr_rates=0.2)
    run.iterate()
    torch.testing.assert_close(run.factors, torch.full_like(run.factors, -0.2))
    frozen = with_learner(Steady(), learned_rates=False)
    frozen.iterate()
    assert not bool(frozen.factors.any())


def test_tasks_are_stacked_as_configured() -> None:
    whole, parts = Steady(), Steady()
    with_learner(whole, tasks=5).iterate()
    with_learner(parts, tasks=5, stack=2).iterate()
    assert whole.seen == [5]
    assert parts.seen == [2, 2, 1]


def test_noise_begins_with_the_search() -> None:
    noisy, quiet = (trainer(run_config(warm_up=1, settle=0, noise=n)) for n in (1.0, 0.0))
    assert noisy.iterate().loss == quiet.iterate().loss
    assert noisy.iterate().loss != quiet.iterate().loss


def test_what_is_trained_sharpens_towards_the_pruned_network() -> None:
    config = run_config(iterations=8, temperature_end=0.2, noise=0.4, sharpen=True)
    settings = [search_at(config, iteration) for iteration in range(9)]
    assert settings[0] == config.search
    assert settings[4].noise == pytest.approx(0.2)
    assert settings[4].temperature_end == pytest.approx(0.11)
    assert settings[8].noise == 0
    assert settings[8].temperature_end == pytest.approx(0.02)
    for before, after in pairwise(settings):
        assert after.noise < before.noise
        assert after.temperature_end < before.temperature_end
    constant = run_config(iterations=8)
    assert all(search_at(constant, iteration) == constant.search for iteration in range(9))


def test_sharpening_changes_what_is_trained() -> None:
    sharp, blunt = (
        trainer(run_config(iterations=4, warm_up=0, settle=0, noise=0.0, sharpen=sharpen))
        for sharpen in (True, False)
    )
    first = [run.iterate() for run in (sharp, blunt)]
    assert first[0].loss == first[1].loss  # nothing has passed yet
    last = [[run.iterate() for _ in range(3)][-1] for run in (sharp, blunt)]
    assert last[0].temperature < last[1].temperature
    assert last[0].entropy < last[1].entropy
    assert last[0].loss != last[1].loss


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


def test_validating_is_repeatable_and_leaves_the_run_as_it_is() -> None:
    run = trainer()
    run.iterate()
    before = copy(run.meta)
    first = run.validate(Softmax(temperature=0.5))
    assert run.validate(Softmax(temperature=0.5)) == first
    assert 0 <= first <= 1
    assert changed(before, run.meta) == set()


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
    assert "stem.0.weight" in changed(one.meta, other.meta)


def test_a_loss_that_is_not_finite_leaves_the_meta_parameters() -> None:
    run = trainer()
    run.iterate()
    run.meta["head.log_scale"].fill_(200.0)
    before = copy(run.meta)
    with pytest.raises(Diverged):
        run.iterate()
    assert changed(before, run.meta) == set()
    assert run.iteration == 1


def until_it_diverges(run: MetaTrainer) -> str:
    with pytest.raises(Diverged) as caught:  # noqa: PT012 (in which iteration is asked elsewhere)
        while run.iteration < run.config.train.iterations:
            run.iterate()
    return str(caught.value)


BLACK = {name: np.zeros_like(images) for name, images in TRAIN.items()}
LASTING: dict[str, Any] = {"ways": (3, 3), "images": 9, "steps": 1, "validate_every": 999}


def test_a_network_that_collapsed_has_diverged() -> None:
    """Its loss is finite: that of guessing."""
    run = trainer(run_config(iterations=300, meta_lr_weights=1e4, anneal=False, **LASTING))
    assert f"{COLLAPSED} iterations did no better than guessing, in a row" in until_it_diverges(run)
    assert COLLAPSED <= run.iteration < COLLAPSED + 9


@pytest.mark.parametrize(
    ("iterations", "noticed"), [(300, NEVER_BEGAN), (70, 70), (COLLAPSED, COLLAPSED)]
)
def test_a_network_that_never_learned_has_diverged(iterations: int, noticed: int) -> None:
    run = trainer(run_config(iterations=iterations, **LASTING), BLACK)
    assert "from the start on; check the images" in until_it_diverges(run)
    assert run.iteration == noticed - 1


@pytest.mark.parametrize(
    ("train", "val", "reason", "told"),
    [
        (synthetic(4, 8), VAL, "DATASET_TOO_FEW_CLASSES", "training split has 4"),
        (TRAIN, synthetic(1, 8), "DATASET_TOO_FEW_CLASSES", "validation split has 1 class;"),
        (
            synthetic(8, 2),
            VAL,
            "DATASET_TOO_FEW_IMAGES",
            "8 of 8 classes of the training split have fewer than 3 images, such as "
            "'class 000' (2), 'class 001' (2), 'class 002' (2); lower task.shots",
        ),
        (
            {**TRAIN, "lone": TRAIN["class 000"][:2]},
            VAL,
            "DATASET_TOO_FEW_IMAGES",
            "1 of 9 classes of the training split has fewer than 3 images, such as 'lone' (2)",
        ),
        (TRAIN, synthetic(5, 5), "DATASET_TOO_FEW_IMAGES", "fewer than 6 images"),
    ],
)
def test_data_that_cannot_be_trained_on(
    train: Classes, val: Classes, reason: str, told: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        trainer(RUN, train, val)
    assert caught.value.reason == reason
    assert told in str(caught.value)


def test_small_classes_repeat_queries() -> None:
    config = replace(RUN, task=replace(RUN.task, shots=(1, 2), images=60))
    assert np.isfinite(trainer(config, synthetic(6, 3)).iterate().loss)


def test_in_turn_small_classes_are_refused() -> None:
    config = run_config(images=60, round_robin=True)
    with pytest.raises(DatasetError, match=r"fewer than 12 images, .* lower task\.images"):
        trainer(config, {**synthetic(6, 12), "lone": TRAIN["class 000"]})
    assert np.isfinite(trainer(config, synthetic(6, 12)).iterate().loss)


def test_candidates_leave_below_the_threshold() -> None:
    settings: dict[str, Any] = {"prune_threshold": 0.1, "prune_every": 2, "temperature_end": 0.5}
    run = trainer(run_config(warm_up=0, settle=0, meta_lr_alphas=0.0, **settings))
    logits = run.meta["alpha.normal.ops"]
    logits.zero_()
    logits[:, 0] = -5.0
    logits[1, :] = torch.tensor([-9.0, 9.0, -9.0])
    assert run.iterate().candidates == 2 * 5 * len(TINY.ops)
    assert run.iterate().candidates == 5 * len(TINY.ops) + 4 * 2 + 1
    assert run.supernet.cell_alpha("normal").alive[1].tolist() == [False, True, False]


@pytest.mark.parametrize("learner", META_LEARNERS)
def test_a_fixed_genotype_stays(learner: str) -> None:
    settings = {"relaxation": "fixed", "genotype": GENOTYPE.to_json(), "warm_up": 0}
    run = trainer(run_config(meta_learner=learner, meta_lr_weights=1e-3, **settings))
    assert genotype_of(run.supernet, run.meta) == GENOTYPE
    before = copy(run.meta)
    run.iterate()
    moved = changed(before, run.meta)
    assert not any(is_alpha(name) for name in moved)
    assert "cells.0.edges.1.2.1.weight" in moved  # conv_3x3 of the reduction cell
    assert genotype_of(run.supernet, run.meta) == GENOTYPE


@pytest.mark.parametrize(
    "wrong",
    [
        Genotype(normal=GENOTYPE.normal[:1], reduce=GENOTYPE.reduce),
        Genotype(normal=GENOTYPE.normal, reduce=(((0, "conv_9x9"), (1, "conv_3x3")),) * 2),
    ],
)
def test_a_genotype_of_another_space_is_refused(wrong: Genotype) -> None:
    with pytest.raises(InvalidInput) as caught:
        trainer(run_config(relaxation="fixed", genotype=wrong.to_json()))
    assert caught.value.reason == "GENOTYPE_MALFORMED"


def test_drop_path_acts_in_training_alone() -> None:
    dropped, whole = trainer(run_config(drop_path=0.5)), trainer(run_config(drop_path=0.0))
    assert dropped.validate(Argmax()) == whole.validate(Argmax())
    assert dropped.iterate().loss != whole.iterate().loss


@pytest.mark.parametrize(
    ("setting", "kind"), [("meta_learner", "meta-learner"), ("relaxation", "relaxation")]
)
def test_an_unknown_name_is_named(setting: str, kind: str) -> None:
    with pytest.raises(UnknownName) as caught:
        trainer(run_config(**{setting: "nonsense"}))
    assert (caught.value.kind, caught.value.name) == (kind, "nonsense")


def test_steps_that_fit_into_no_memory_are_refused() -> None:
    with pytest.raises(InvalidInput, match="GiB are allowed: lower task") as caught:
        trainer(run_config(images=100_000_000))
    assert findings(caught) == {("task.images", "OPTION_OUT_OF_RANGE")}


def test_an_unknown_operation_is_named() -> None:
    config = replace(RUN, space=replace(TINY, ops=("skip_connect", "conv_9x9")))
    with pytest.raises(UnknownName) as caught:
        trainer(config)
    assert caught.value.known == tuple(OPS)
