"""Buckets: steps of changing make-up come again; what they then find is in `test_stack`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metanas.adaptation.buckets import LEAST, bucket
from metanas.adaptation.engine import Engine
from metanas.adaptation.job import AdaptedModel, Job, Progress
from metanas.adaptation.recording import Plainly, Recordings, Repeat, Work
from metanas.adaptation.scheduler import StackLimits, Workbench
from metanas.checkpoint import Checkpoint
from metanas.nn.ops import OPS
from metanas.spec.options import AdaptConfig
from metanas.supernet.alphas import running
from metanas.testing import make_checkpoint
from tests.core.benches import standing
from tests.core.small import examples

OPTIONS = AdaptConfig(steps=3, tuning_steps=3, weight_lr=1e-3, alpha_lr=0.05)
Shots = tuple[int, ...]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    ops = {name: OPS[name] for name in ("max_pool_3x3", "skip_connect", "dil_conv_3x3")}
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return make_checkpoint(folder, size=10, ops=ops, options=OPTIONS)


class Counting(Plainly):
    """Counts what is recorded and how often any of it is repeated."""

    def __init__(self) -> None:
        self.recorded = self.repeated = 0

    def record(self, work: Work, inputs: Sequence[Tensor]) -> Repeat:
        self.recorded += 1
        own = super().record(work, inputs)

        def repeat() -> tuple[Tensor, ...]:
            self.repeated += 1
            return own()

        return repeat


@given(tasks=st.integers(1, 64), images=st.integers(1, 1000))
def test_a_bucket_has_room_and_little_more(tasks: int, images: int) -> None:
    whole, rows = bucket(tasks, images)
    assert tasks <= whole < 2 * tasks
    assert images <= rows
    assert rows == LEAST or rows < 1.5 * images
    assert bucket(whole, rows) == (whole, rows)


def test_buckets_are_few() -> None:
    assert len({bucket(tasks, 1) for tasks in range(1, 65)}) == 7
    assert sorted({bucket(1, images)[1] for images in range(1, 101)}) == [
        *(4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    ]


def test_half_of_the_candidates_bring_the_others_along() -> None:
    alive = torch.tensor([[True, True, False], [True, True, True]])  # five
    few = torch.tensor([[[2.0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 2.0, 0]]])
    half = torch.tensor([[[1.0, 0, 0], [0, 0, 1.0]], [[0, 0, 0], [0, 2.0, 0]]])
    assert running([few], alive)[0] == running([few])[0] == (((0,), (1,)),)
    lives, shares = running([half], alive)
    assert lives == (((0, 1), (0, 1, 2)),)
    assert shares.tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 2, 0]]


def made(checkpoint: Checkpoint, shapes: Sequence[Shots], bench: Workbench) -> tuple[int, int]:
    """Jobs that come and go, three and four of them at a time: models made, and steps taken."""
    left = [Job(checkpoint, examples(shots), seed=seed) for seed, shots in enumerate(shapes)]
    models = steps = 0
    while left or bench:
        if left and len(bench) < 4:
            bench.add(left.pop())
        ended = bench.advance()
        models += sum(isinstance(job.outcome, AdaptedModel) for job in ended)
        steps += not ended
    return models, steps


@pytest.mark.parametrize(
    ("padding", "recordings", "share"),
    [(0.5, 4, 0.7), (StackLimits().padding, 12, 0.5)],
    ids=["sizes mixed", "as it comes"],
)
def test_stacks_of_changing_make_up_share_recordings(
    checkpoint: Checkpoint, padding: float, recordings: int, share: float
) -> None:
    """Who is in a stack depends on the time that each has had, so time is counted here."""
    shapes = [(2, 1), (3, 2), (1, 1, 1), (2, 2, 3), (1, 3, 1, 2), (2, 2), (4, 1), (1, 1, 2, 1)]
    recorder = Counting()
    engine = Engine(recordings=Recordings(recorder, 32))
    ticks = partial(next, count(step=0.001))
    bench = Workbench(StackLimits(padding=padding), engine, clock=ticks)
    models, steps = made(checkpoint, 3 * shapes, bench)
    assert models == 24
    assert recorder.recorded <= recordings
    assert recorder.repeated >= share * steps


def test_a_task_on_its_own_is_repeated_whatever_its_size(checkpoint: Checkpoint) -> None:
    recorder = Counting()
    engine = Engine(recordings=Recordings(recorder, 32))
    options = OPTIONS.replace({"alpha_lr": 0.0})  # the same candidates in all of them
    for shots in ((2, 3), (3, 3), (1, 2, 2), (2, 2, 2)):
        bench, job = Workbench(engine=engine), Job(checkpoint, examples(shots), options=options)
        bench.add(job)
        while bench:
            bench.advance()
        assert job.result().report.steps == 3
    assert recorder.recorded <= 4  # of three temperatures, and of the tuning
    assert recorder.repeated >= 4 * 6 - 2 * 4


@pytest.mark.parametrize(
    "limits",
    [StackLimits(images=12), StackLimits(padding=0.0, images=15)],
    ids=["bucket too large", "padding of buckets is no difference in size"],
)
def test_what_buckets_add_counts_towards_the_limits(
    checkpoint: Checkpoint, limits: StackLimits
) -> None:
    """Three tasks of four images take the room of four."""

    def first_turn(engine: Engine) -> int:
        seen = list[Progress]()
        bench = Workbench(limits, engine, clock=standing)
        for seed in range(3):
            bench.add(Job(checkpoint, examples((2, 2)), seed=seed, on_progress=seen.append))
        bench.advance()
        return sum(progress.step > 0 for progress in seen)

    assert first_turn(Engine()) == 3
    assert first_turn(Engine(recordings=Recordings(Plainly(), 4))) == 2


def test_memory_counts_the_bucket(checkpoint: Checkpoint) -> None:
    per_image = 2 * sum(checkpoint.kept)
    limits = replace(StackLimits(), memory=12 * per_image)
    seen = list[Progress]()
    bench = Workbench(limits, Engine(recordings=Recordings(Plainly(), 4)), clock=standing)
    for seed in range(3):
        bench.add(Job(checkpoint, examples((2, 2)), seed=seed, on_progress=seen.append))
    bench.advance()
    assert sum(progress.step > 0 for progress in seen) == 2
