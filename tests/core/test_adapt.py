"""The inner loop: mini-batches, what moves and what does not, stopping, diverging."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metanas.adapt import Control, Step, adapt, batches_of, tune
from metanas.checkpoint import Checkpoint
from metanas.errors import Cancelled, Diverged
from metanas.network import DiscreteNetwork, from_supernet
from metanas.ops import OPS, Norm
from metanas.optimizer import Params
from metanas.options import AdaptConfig
from metanas.supernet import genotype_of, is_alpha
from metanas.support import Preprocessing, SupportSet, support_set
from metanas.testing import make_checkpoint
from tests.core.small import examples

OPTIONS = AdaptConfig(steps=4, tuning_steps=3, weight_lr=0.01, alpha_lr=0.1, batch_size=100)
QUIET = Control(lambda step: None, lambda: False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return make_checkpoint(folder, size=12)


def task(*shots: int) -> SupportSet:
    given = examples(shots, size=14)
    images = [example.image for example in given if not isinstance(example.image, bytes)]
    preprocess = Preprocessing(size=12, scale=(1.0,), shift=(0.0,))
    whole = [image.astype("uint8") for image in images]
    return support_set(whole, [example.label for example in given], preprocess)


def adapted(
    checkpoint: Checkpoint, support: SupportSet, options: AdaptConfig, seed: int = 0
) -> tuple[Params, list[Step]]:
    seen: list[Step] = []
    generator = torch.Generator().manual_seed(seed)
    control = Control(seen.append, lambda: False)
    return adapt(checkpoint, support, options, generator, control), seen


def moved(checkpoint: Checkpoint, params: Params) -> dict[str, bool]:
    return {k: not torch.equal(v, params[k]) for k, v in checkpoint.params.items()}


@given(
    shots=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    size=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_mini_batches_cover_the_support_set_evenly(shots: list[int], size: int, seed: int) -> None:
    labels = torch.tensor([way for way, count in enumerate(shots) for _ in range(count)])
    batches = batches_of(labels, size, torch.Generator().manual_seed(seed))
    if len(labels) <= size:
        assert next(batches).tolist() == list(range(len(labels)))
        assert next(batches).tolist() == list(range(len(labels)))
        return
    for _ in range(2):
        rows = [next(batches) for _ in range(-(-len(labels) // size))]
        assert sorted(torch.cat(rows).tolist()) == list(range(len(labels)))
        assert all(len(part) == size for part in rows[:-1])
        if size >= len(shots):  # the first batch then has an image of every class
            assert len(labels[rows[0]].unique()) == len(shots)


def test_steps_move_weights_and_alphas_together(checkpoint: Checkpoint) -> None:
    params, seen = adapted(checkpoint, task(2, 3, 2), OPTIONS)
    changed = moved(checkpoint, params)
    assert all(changed[name] for name in changed if is_alpha(name))
    assert changed["stem.weight"]
    assert changed["head.log_scale"]
    assert [step.step for step in seen] == [1, 2, 3, 4]
    assert seen[0].temperature == OPTIONS.temperature_start
    assert seen[-1].temperature == pytest.approx(OPTIONS.temperature_end)
    assert all(0 <= step.accuracy <= 1 and step.loss > 0 for step in seen)


def test_steps_lower_the_loss(checkpoint: Checkpoint) -> None:
    options = OPTIONS.replace({"steps": 30, "temperature_end": 1.0})
    _, seen = adapted(checkpoint, task(4, 4, 4), options)
    first, last = (sum(s.loss for s in part) for part in (seen[:5], seen[-5:]))
    assert last < 0.8 * first
    assert seen[-1].accuracy >= seen[0].accuracy


@pytest.mark.parametrize(
    ("change", "weights", "alphas"),
    [
        ({"steps": 0}, False, False),
        ({"alpha_lr": 0.0}, True, False),
        ({"weight_lr": 0.0}, False, True),
        ({"bilevel": True}, True, True),
        ({"bilevel": True, "alpha_lr": 0.0}, True, False),
        ({"batch_size": 3}, True, True),
    ],
)
def test_options_decide_what_moves(
    checkpoint: Checkpoint, change: dict[str, float], weights: bool, alphas: bool
) -> None:
    params, _ = adapted(checkpoint, task(1, 3, 2), OPTIONS.replace(change))
    changed = moved(checkpoint, params)
    assert any(changed[name] for name in changed if is_alpha(name)) == alphas
    assert any(changed[name] for name in changed if not is_alpha(name)) == weights


def test_the_alphas_descend_the_loss_of_the_live_network(checkpoint: Checkpoint) -> None:
    """Adam's first step goes against the sign of the gradient: compare with finite differences."""
    options = AdaptConfig(steps=1, weight_lr=0.0, alpha_lr=0.01, temperature_end=1.0)
    support, name = task(3, 3, 3), "alpha.normal.ops"

    def loss(index: int, change: float) -> float:
        """The first step's loss, which is taken before it steps."""
        params = {**checkpoint.params, name: checkpoint.params[name].clone()}
        params[name].view(-1)[index] += change
        return adapted(replace(checkpoint, params=params), support, options)[1][0].loss

    moves = adapted(checkpoint, support, options)[0][name] - checkpoint.params[name]
    slopes = {i: loss(i, 0.1) - loss(i, -0.1) for i in range(0, moves.numel(), 5)}
    steep = sorted(slopes, key=lambda index: abs(slopes[index]))[-5:]
    assert [moves.view(-1)[i] > 0 for i in steep] == [slopes[i] < 0 for i in steep]


@pytest.mark.parametrize(("frozen", "idle", "used"), [("weight_lr", 0, 1), ("alpha_lr", 1, 0)])
def test_bilevel_learns_the_alphas_from_one_half_and_the_weights_from_the_other(
    checkpoint: Checkpoint, frozen: str, idle: int, used: int
) -> None:
    """Images 0, 2 of a class train the weights and image 1 the alphas; the other is frozen."""
    options = OPTIONS.replace({"bilevel": True, "steps": 1, frozen: 0.0})
    support = task(3, 3)

    def after_touching(index: int) -> Params:
        images = support.images.clone()
        images[index] = 1 - images[index]
        return adapted(checkpoint, replace(support, images=images), options)[0]

    untouched = adapted(checkpoint, support, options)[0]
    assert all(torch.equal(v, untouched[k]) for k, v in after_touching(idle).items())
    assert not all(torch.equal(v, untouched[k]) for k, v in after_touching(used).items())


def test_bilevel_takes_another_way(checkpoint: Checkpoint) -> None:
    one, _ = adapted(checkpoint, task(2, 2), OPTIONS)
    two, _ = adapted(checkpoint, task(2, 2), OPTIONS.replace({"bilevel": True}))
    assert not torch.equal(one["stem.weight"], two["stem.weight"])


def test_the_seed_decides(checkpoint: Checkpoint) -> None:
    support = task(2, 2)
    one, same, other = (adapted(checkpoint, support, OPTIONS, seed)[0] for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["stem.weight"], other["stem.weight"])


@pytest.mark.parametrize("bilevel", [False, True])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_stopping_takes_no_further_step_and_leaves_the_checkpoint(
    checkpoint: Checkpoint, after: int, bilevel: bool
) -> None:
    before = {name: value.clone() for name, value in checkpoint.params.items()}
    seen: list[Step] = []
    control = Control(seen.append, lambda: len(seen) >= after)
    options = OPTIONS.replace({"bilevel": bilevel})
    with pytest.raises(Cancelled):
        adapt(checkpoint, task(2, 2), options, torch.Generator().manual_seed(0), control)
    assert len(seen) == after
    assert all(torch.equal(before[name], value) for name, value in checkpoint.params.items())


def test_dead_candidates_are_not_turned_to(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny", size=12)
    for kind in ("normal", "reduce"):
        alive = checkpoint.supernet.cell_alpha(kind).alive
        alive[:] = False
        alive[:, 5] = True
    params, _ = adapted(checkpoint, task(2, 2), OPTIONS)
    genotype = genotype_of(checkpoint.supernet, params)
    chosen = {op for cell in (genotype.normal, genotype.reduce) for n in cell for _, op in n}
    assert chosen == {checkpoint.card.ops[5]}


def pruned(checkpoint: Checkpoint) -> DiscreteNetwork:
    return from_supernet(checkpoint.card.space, checkpoint.params, checkpoint.meta_genotype, OPS)


def test_tuning_moves_the_weights_and_freezes_the_norms(checkpoint: Checkpoint) -> None:
    network, support, seen = pruned(checkpoint), task(2, 3), list[Step]()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    control = Control(seen.append, lambda: False)
    tune(network, checkpoint, support, OPTIONS, torch.Generator().manual_seed(0), control)
    assert [step.step for step in seen] == [1, 2, 3]
    assert any(not torch.equal(before[k], v) for k, v in network.named_parameters())
    norms = [module for module in network.modules() if isinstance(module, Norm)]
    assert all(norm.mean is not None for norm in norms)
    together = network(support.images, 0)
    alone = network(support.images[2:3], 0)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


def test_without_tuning_steps_only_the_norms_are_frozen(checkpoint: Checkpoint) -> None:
    network, support = pruned(checkpoint), task(2, 3)
    options = OPTIONS.replace({"tuning_steps": 0})
    expected = network(support.images, len(support.images))
    tune(network, checkpoint, support, options, torch.Generator().manual_seed(0), QUIET)
    torch.testing.assert_close(network(support.images, 0), expected, atol=1e-5, rtol=1e-4)


def test_statistics_are_never_of_fewer_images_than_classes(checkpoint: Checkpoint) -> None:
    network, support = pruned(checkpoint), task(1, 1, 1, 1)
    options = OPTIONS.replace({"tuning_steps": 0, "batch_size": 1})
    expected = network(support.images, 4)
    tune(network, checkpoint, support, options, torch.Generator().manual_seed(0), QUIET)
    torch.testing.assert_close(network(support.images, 0), expected, atol=1e-5, rtol=1e-4)


def test_tuning_stops_too(checkpoint: Checkpoint) -> None:
    seen: list[Step] = []
    control = Control(seen.append, lambda: len(seen) >= 2)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(Cancelled):
        tune(pruned(checkpoint), checkpoint, task(2, 2), OPTIONS, generator, control)
    assert len(seen) == 2


def test_what_is_not_finite_diverges(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny", size=12)
    checkpoint.params["head.log_scale"].fill_(200.0)
    with pytest.raises(Diverged):
        adapted(checkpoint, task(2, 2), OPTIONS)
