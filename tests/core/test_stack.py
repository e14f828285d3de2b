"""Tasks adapted together: each comes out as it would alone, and as the textbook says.

In double precision: Adam's first steps have the size of the learning rate whatever the gradient's,
so that in single precision rounding decides where a gradient is nearly zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from metanas.adaptation.adaptation import Adaptation, Stage, advance, footprint
from metanas.checkpoint import Checkpoint
from metanas.errors import Diverged
from metanas.images.support_set import SupportSet
from metanas.nn.heads import HEADS
from metanas.nn.ops import OPS, Op, emit_chain
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from tests.core.small import noise
from tests.core.textbook import textbook_adapt

OPTIONS = AdaptConfig(steps=3, tuning_steps=2, weight_lr=1e-3, alpha_lr=0.05, patience=0)
Shots = tuple[int, ...]


@pytest.fixture(scope="module", autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return made(tmp_path_factory.mktemp("checkpoints") / "tiny", OPS)


def made(folder: Path, ops: Mapping[str, Op]) -> Checkpoint:
    """A checkpoint in double precision, which files do not have."""
    torch.set_default_dtype(torch.float32)
    small = make_checkpoint(folder, size=10, ops=ops)
    torch.set_default_dtype(torch.float64)
    params = {name: value.double() for name, value in small.params.items()}
    return replace(small, supernet=small.supernet.double(), params=params)


def task(shots: Shots, seed: int = 0) -> SupportSet:
    """Noise around a pattern for each class."""
    labels = torch.tensor([way for way, count in enumerate(shots) for _ in range(count)])
    images = noise(len(shots), 1, 10, 10, seed=seed)[labels]
    images = (images + 0.3 * noise(len(labels), 1, 10, 10, seed=seed + 1)).sigmoid()
    return SupportSet(images.double(), labels, tuple(map(str, range(len(shots)))))


def begin(
    checkpoint: Checkpoint, shots: Shots, seed: int = 0, options: AdaptConfig = OPTIONS
) -> Adaptation:
    generator = torch.Generator().manual_seed(seed)
    return Adaptation(checkpoint, task(shots, seed), options, generator)


def run(adaptations: list[Adaptation], memory: int = 2**30) -> None:
    while going := [each for each in adaptations if each.stage is not Stage.DONE]:
        for outcome in advance(going, memory=memory):
            assert not isinstance(outcome, Exception)


def assert_same(one: Adaptation, other: Adaptation) -> None:
    assert one.genotype == other.genotype
    assert one.taken == other.taken
    mine, theirs = one.optimizer.snapshot(), other.optimizer.snapshot()
    assert_close(mine, theirs)
    assert_close(one.soft, other.soft)


def assert_close(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name, value in mine.items():
        difference = float((value - theirs[name]).abs().max())
        assert difference <= 1e-9 * max(1.0, float(value.abs().max())), name


@given(
    shapes=st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=4), min_size=2, max_size=4),
    bilevel=st.booleans(),
    head=st.sampled_from(list(HEADS)),
)
@settings(max_examples=12)
def test_a_task_comes_out_of_a_stack_as_it_would_alone(
    checkpoint: Checkpoint, shapes: list[list[int]], bilevel: bool, head: str
) -> None:
    def all_of_them() -> list[Adaptation]:
        return [
            # different lengths, too: some are searching while others are being tuned
            begin(
                checkpoint,
                tuple(shots),
                seed,
                OPTIONS.replace(
                    {"steps": 2 + seed % 2, "bilevel": bilevel and seed == 1, "head": head}
                ),
            )
            for seed, shots in enumerate(shapes)
        ]

    together, alone = all_of_them(), all_of_them()
    run(together)
    for each in alone:
        run([each])
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_joining_and_leaving_change_nothing(checkpoint: Checkpoint) -> None:
    alone, early, late = (begin(checkpoint, (2, 2), seed) for seed in (0, 0, 1))
    run([alone])
    advance([early])
    advance([early, late])
    advance([late])
    run([early, late])
    assert_same(early, alone)


@pytest.mark.parametrize("shots", [(1, 1), (3, 2, 1), (2, 2)])
def test_the_search_takes_the_textbooks_way(checkpoint: Checkpoint, shots: Shots) -> None:
    """One pass for both parameter sets, at a temperature at which no candidate is dropped."""
    options = OPTIONS.replace({"temperature_end": 1.0, "tuning_steps": 0})
    adaptation = begin(checkpoint, shots, options=options)
    run([adaptation])
    generator = torch.Generator().manual_seed(0)
    support = adaptation.task
    expected = textbook_adapt(checkpoint, support, options, generator, alternate=False)
    assert_close(adaptation.soft, expected)


@pytest.mark.parametrize("again", [1, 2])
def test_computing_twice_instead_of_keeping_changes_nothing(
    checkpoint: Checkpoint, again: int
) -> None:
    kept, recomputed = (
        [begin(checkpoint, shots, seed) for seed, shots in enumerate([(2, 2), (1, 2, 1)])]
        for _ in range(2)
    )
    memory = {1: footprint(kept) - 1, 2: 0}[again]
    images = footprint(kept) // sum(checkpoint.activation_bytes)
    assert checkpoint.cells_to_recompute(images, memory) == again
    run(kept)
    run(recomputed, memory=memory)
    for one, other in zip(kept, recomputed, strict=True):
        assert_same(one, other)


def test_a_task_that_diverges_takes_nobody_with_it(checkpoint: Checkpoint) -> None:
    fine, alone, ill = (begin(checkpoint, (2, 2), seed) for seed in (0, 0, 1))
    with torch.no_grad():
        ill.optimizer.params["stem.0.weight"].fill_(torch.nan)
    outcomes = advance([fine, ill])
    assert isinstance(outcomes[1], Diverged)
    run([fine])
    run([alone])
    assert_same(fine, alone)


class Scale(nn.Module):
    """A layer that has never heard of stacks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor, rows: object = None) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("chained", [False, True])
def test_operations_that_know_nothing_of_stacks_run_in_them(tmp_path: Path, chained: bool) -> None:
    def build(channels: int, stride: int) -> nn.Module:
        pool = OPS["avg_pool_3x3"].build(channels, stride)
        assert isinstance(pool, nn.ModuleList)
        if chained:
            pool.append(Scale(channels))
            return pool
        return Scaled(pool, Scale(channels))

    class Scaled(nn.Module):
        def __init__(self, pool: nn.Module, scale: nn.Module) -> None:
            super().__init__()
            self.pool, self.scale = pool, scale

        def forward(self, x: Tensor, rows: object) -> Tensor:
            out: Tensor = self.scale(self.pool(x, rows))
            return out

    ops = {**OPS, "scaled": Op(build, emit_chain)}
    checkpoint = made(tmp_path / "scaled", ops)
    together, alone = ([begin(checkpoint, (2, 1), seed) for seed in (0, 1)] for _ in range(2))
    run(together)
    for one, other in zip(together, alone, strict=True):
        run([other])
        assert_same(one, other)
        moved = one.optimizer.params["cells.0.edges.0.7.scale.factor"] if not chained else None
        assert moved is None or not torch.equal(moved, torch.full_like(moved, 0.5))
