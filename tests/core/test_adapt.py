"""The inner loop: mini-batches, what moves and what does not, stopping, diverging."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, pairwise, repeat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metanas.adaptation.adaptation import Adaptation, Figures, Stage, advance
from metanas.checkpoint import Checkpoint
from metanas.errors import Diverged
from metanas.images.batches import batches_of
from metanas.images.support_set import Preprocessing, SupportSet, support_set
from metanas.nn.functional import Rows
from metanas.nn.ops import Norm
from metanas.spec.options import AdaptConfig
from metanas.spec.progress import Progress
from metanas.supernet.alphas import is_alpha
from metanas.supernet.flat_params import Params
from metanas.testing import make_checkpoint
from metanas.util.work import whole
from tests.core.small import examples

OPTIONS = AdaptConfig(steps=4, tuning_steps=3, weight_lr=0.01, alpha_lr=0.1, batch_size=100)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return make_checkpoint(folder, size=12)


def task(*shots: int) -> SupportSet:
    given = examples(shots, size=14)
    images = [example.image for example in given if not isinstance(example.image, bytes)]
    preprocess = Preprocessing(size=12, scale=(1.0,), shift=(0.0,))
    pixels = [image.astype("uint8") for image in images]
    return support_set(pixels, [example.label for example in given], preprocess)


def begin(
    checkpoint: Checkpoint, support: SupportSet, options: AdaptConfig, seed: int = 0
) -> Adaptation:
    return Adaptation(checkpoint, support, options, torch.Generator().manual_seed(seed))


def run(*adaptations: Adaptation, until: Stage = Stage.DONE, memory: int = 2**30) -> list[Progress]:
    """Take them all to this stage; the steps of the first, or what ended it."""
    seen = list[Progress]()
    while going := [each for each in adaptations if each.stage not in (until, Stage.DONE)]:
        for each, outcome in zip(going, advance(going, memory=memory), strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            if each is adaptations[0] and outcome is not None:
                seen.append(outcome)
    return seen


def adapted(
    checkpoint: Checkpoint, support: SupportSet, options: AdaptConfig, seed: int = 0
) -> tuple[Params, list[Progress]]:
    """The supernet's parameters at the end of the search, and its steps."""
    adaptation = begin(checkpoint, support, options, seed)
    steps = run(adaptation, until=Stage.TUNE)
    return adaptation.soft, steps


def moved(checkpoint: Checkpoint, params: Params) -> dict[str, bool]:
    return {k: not torch.equal(v, params[k]) for k, v in checkpoint.params.items()}


@given(
    shots=st.lists(st.integers(1, 5), min_size=2, max_size=6),
    size=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
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
        lengths = [len(part) for part in rows]
        assert max(lengths) <= size
        assert max(lengths) - min(lengths) <= 1
        if lengths[0] >= len(shots):  # the first batch then has an image of every class
            assert len(labels[rows[0]].unique()) == len(shots)


def test_steps_move_weights_and_alphas_together(checkpoint: Checkpoint) -> None:
    params, seen = adapted(checkpoint, task(2, 3, 2), OPTIONS)
    changed = moved(checkpoint, params)
    assert all(changed[name] for name in changed if is_alpha(name))
    assert changed["stem.0.weight"]
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
    assert not torch.equal(one["stem.0.weight"], two["stem.0.weight"])


def test_the_seed_decides(checkpoint: Checkpoint) -> None:
    support = task(2, 2)
    one, same, other = (adapted(checkpoint, support, OPTIONS, seed)[0] for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])


def test_the_checkpoint_stays_as_it_is(checkpoint: Checkpoint) -> None:
    before = {name: value.clone() for name, value in checkpoint.params.items()}
    run(begin(checkpoint, task(2, 2), OPTIONS))
    assert all(torch.equal(before[name], value) for name, value in checkpoint.params.items())


def test_dead_candidates_are_not_turned_to(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny", size=12)
    for kind in ("normal", "reduce"):
        alive = checkpoint.supernet.cell_alpha(kind).alive
        alive[:] = False
        alive[:, 5] = True
    adaptation = begin(checkpoint, task(2, 2), OPTIONS)
    run(adaptation)
    assert adaptation.genotype is not None
    cells = (adaptation.genotype.normal, adaptation.genotype.reduce)
    chosen = {op for cell in cells for node in cell for _, op in node}
    assert chosen == {checkpoint.card.ops[5]}


def test_tuning_moves_the_weights_of_what_was_chosen_and_no_alphas(checkpoint: Checkpoint) -> None:
    adaptation = begin(checkpoint, task(2, 3, 1), OPTIONS)
    run(adaptation, until=Stage.TUNE)
    before = adaptation.soft
    chosen = set(dict(whole(adaptation.network())[0].named_parameters()))
    steps = run(adaptation)
    assert [step.step for step in steps] == [1, 2, 3]
    after = adaptation.optimizer.snapshot()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert "stem.0.weight" in moved
    assert not any(is_alpha(name) for name in moved)
    # an edge's candidates have an index of their own in the supernet, the network has one each
    edges = {name.split(".")[3] for name in chosen if ".edges." in name}
    assert {name.split(".")[3] for name in moved if ".edges." in name} <= edges


def test_the_network_that_leaves_is_frozen(checkpoint: Checkpoint) -> None:
    adaptation = begin(checkpoint, task(2, 3), OPTIONS)
    run(adaptation)
    (network, features), images = whole(adaptation.network()), adaptation.task.images
    norms = [module for module in network.modules() if isinstance(module, Norm)]
    assert all(norm.mean is not None for norm in norms)
    together, alone = network(images), network(images[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features, together, atol=1e-5, rtol=1e-4)


def test_without_any_step_it_is_the_meta_network(checkpoint: Checkpoint) -> None:
    adaptation = begin(checkpoint, task(2, 3), OPTIONS.replace({"steps": 0, "tuning_steps": 0}))
    assert adaptation.stage is Stage.DONE
    assert adaptation.genotype == checkpoint.meta_genotype
    images = adaptation.task.images
    expected = unfrozen(adaptation, len(images))
    torch.testing.assert_close(
        whole(adaptation.network())[0](images), expected, atol=1e-5, rtol=1e-4
    )


def test_statistics_are_never_of_fewer_images_than_classes(checkpoint: Checkpoint) -> None:
    options = OPTIONS.replace({"steps": 0, "tuning_steps": 0, "batch_size": 1})
    adaptation = begin(checkpoint, task(1, 1, 1, 1), options)
    expected = unfrozen(adaptation, 4)
    found = whole(adaptation.network())[0](adaptation.task.images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def unfrozen(adaptation: Adaptation, support: int) -> torch.Tensor:
    """The features of the support set in one batch, with the statistics of that batch."""
    network, _ = whole(adaptation.network())
    for module in network.modules():
        if isinstance(module, Norm):
            module.mean = module.variance = None
    out: torch.Tensor = network(adaptation.task.images, Rows(support))
    return out


STILL = {"weight_lr": 0.0, "alpha_lr": 0.0, "steps": 0, "tuning_steps": 0, "patience": 3}
COLD = {"temperature_start": 0.001, "temperature_end": 0.001}


def decided(checkpoint: Checkpoint) -> Checkpoint:
    """With alphas so far apart that a cold mixture is one-hot."""
    params = {k: 10_000 * v if is_alpha(k) else v for k, v in checkpoint.params.items()}
    return replace(checkpoint, params=params)


@pytest.mark.parametrize("stage", ["steps", "tuning_steps"])
def test_a_stage_whose_loss_has_converged_ends_early(checkpoint: Checkpoint, stage: str) -> None:
    options = OPTIONS.replace({**STILL, **COLD, stage: 200})
    adaptation = begin(decided(checkpoint), task(3, 3), options)
    run(adaptation)
    assert 6 <= sum(adaptation.taken.values()) < 200
    assert adaptation.saved == 200 - sum(adaptation.taken.values())


@pytest.mark.parametrize("change", [{"patience": 0}, {"patience": 21}, COLD | {"steps": 5}])
def test_no_stage_ends_early_that_must_not(
    checkpoint: Checkpoint, change: dict[str, float]
) -> None:
    options = OPTIONS.replace({**STILL, **COLD, "steps": 40, **change})
    patient = begin(decided(checkpoint), task(3, 3), options)
    run(patient)
    assert patient.saved == 0
    assert patient.taken[Stage.ADAPT] == options.steps


def told(adaptation: Adaptation, losses: Iterable[float]) -> list[Progress]:
    """Have an adaptation that moves nothing see these losses, as long as it goes on."""
    seen = list[Progress]()
    for loss in losses:
        if adaptation.stage is Stage.DONE:
            break
        adaptation.update()
        step = adaptation.learn(
            torch.zeros_like(adaptation.optimizer.theta), Figures(loss, 1.0, 0.5, 0.0, 0.0)
        )
        assert step is not None
        seen.append(step)
    return seen


def test_a_search_that_has_settled_still_cools_to_its_end(checkpoint: Checkpoint) -> None:
    """However little it has decided: nothing is pruned while it is warm."""
    ends = {"temperature_start": 1.0, "temperature_end": 0.01}
    adaptation = begin(checkpoint, task(3, 3), OPTIONS.replace({**STILL, **ends, "steps": 101}))
    steps = told(adaptation, repeat(0.5))
    assert len(steps) == 9  # twice its patience of three, and the last three
    assert adaptation.saved == 101 - 9
    falls = [after.temperature / before.temperature for before, after in pairwise(steps)]
    one = 0.01 ** (1 / 100)
    assert falls == pytest.approx([one] * 5 + [one**93] + [one] * 2)
    assert steps[-1].temperature == pytest.approx(0.01)


def test_noise_around_nothing_has_converged(checkpoint: Checkpoint) -> None:
    """Compared with a loss of 1e-7 all noise is large."""
    noise = [1e-7 * factor for factor in (1, 5, 30) * 40]
    for losses, saves in ((noise, True), ([1e6 * loss for loss in noise], False)):
        adaptation = begin(checkpoint, task(3, 3), OPTIONS.replace({**STILL, "tuning_steps": 40}))
        told(adaptation, accumulate(losses))
        assert (adaptation.saved > 0) is saves


def test_what_is_not_finite_diverges(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny", size=12)
    checkpoint.params["head.log_scale"].fill_(200.0)
    with pytest.raises(Diverged):
        adapted(checkpoint, task(2, 2), OPTIONS)
