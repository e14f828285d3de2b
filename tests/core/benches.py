"""Helpers of the scheduler's tests: jobs, checkpoints that are slow or fail, clocks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import Scheduler
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.export.runtime import run, session
from metanas.nn.ops import OPS, Chain, Op
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig
from metanas.spec.progress import Progress
from metanas.testing import make_checkpoint
from tests.core.small import examples

OPTIONS = AdaptConfig(steps=3, tuning_steps=2)


def work_off(bench: Scheduler) -> list[Job]:
    ended = []
    while bench:
        ended += bench.advance()
    return ended


def standing() -> float:
    """A clock by which nothing takes any time."""
    return 0.0


def jobs_of(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], **settings: bool
) -> tuple[list[Job], list[tuple[str, Progress]]]:
    seen: list[tuple[str, Progress]] = []

    def job(name: str, shots: tuple[int, ...], seed: int) -> Job:
        return Job(
            checkpoint,
            examples(shots, seed=seed),
            seed=seed,
            on_progress=lambda progress: seen.append((name, progress)),
            alone=settings.get(name, False),
        )

    return [job(*item, seed) for seed, item in enumerate(shapes.items())], seen


def assert_same_model(one: AdaptedModel, other: AdaptedModel, images: list[Example]) -> None:
    assert one.genotype == other.genotype
    assert one.labels == other.labels
    queries = [np.asarray(each.image, np.uint8) for each in images]
    mine, theirs = (run(session(model.onnx), queries) for model in (one, other))
    np.testing.assert_allclose(mine, theirs, rtol=2e-2, atol=2e-2)


def pooling_checkpoint(folder: Path, before: Callable[[], nn.Module]) -> Checkpoint:
    """One with something of our own in front of every maximum."""

    def build(channels: int, stride: int) -> nn.Module:
        pool = OPS["max_pool_3x3"].build(channels, stride)
        return Chain([before(), *pool.children()])

    def emit(graph: object, module: nn.Module, value: object) -> object:
        layers = list(module.children())[1:]
        return OPS["max_pool_3x3"].emit(graph, Chain(layers), value)  # type: ignore[arg-type]

    ops = {**OPS, "max_pool_3x3": Op(build, emit)}  # type: ignore[arg-type]
    make_checkpoint(folder, size=12, ops=ops, options=OPTIONS)
    return load_checkpoint(folder, ops=ops)
