"""On a GPU: the model that a CPU makes, however it is computed. Runs wherever there is one.

What of it can be tested without one is in `test_waiting`, `test_recording` and `test_precision`.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.adaptation.adaptation import advance
from metanas.adaptation.engine import Engine, engine_for
from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import make_all
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import OutOfMemory
from metanas.export.verify import run, session
from metanas.spec.options import AdaptConfig
from metanas.spec.precision import Precision
from metanas.testing import make_checkpoint
from tests.core.small import examples

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

GPU = torch.device("cuda")
SHAPES = [(2, 2), (1, 3, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_checkpoint(made, size=12, options=AdaptConfig(steps=3, tuning_steps=2))
    return made


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, device=GPU)


def made(checkpoint: Checkpoint, engine: Engine | None = None) -> list[AdaptedModel]:
    """A stack of tasks of different sizes."""
    jobs = [Job(checkpoint, examples(shots), seed=1) for shots in SHAPES]
    make_all(jobs, engine=engine or Engine())
    return [job.result() for job in jobs]


def assert_close(one: list[AdaptedModel], other: list[AdaptedModel], part: float) -> None:
    """The same genotypes, and logits that differ by at most this part of them."""
    for left, right, shots in zip(one, other, SHAPES, strict=True):
        assert left.genotype == right.genotype
        queries = [np.asarray(each.image, np.uint8) for each in examples(shots)]
        mine, theirs = (run(session(model.onnx), queries) for model in (left, right))
        assert np.linalg.norm(mine - theirs) <= part * np.linalg.norm(mine)


@pytest.mark.parametrize(
    ("precision", "part"),
    [(Precision.FLOAT32, 2e-2), (Precision.TF32, 5e-2), (Precision.BF16, 2e-1)],
)
@pytest.mark.parametrize("graphs", [0, 16])
def test_a_gpu_makes_the_model_that_a_cpu_makes(
    folder: Path,
    checkpoint: Checkpoint,
    precision: Precision,
    part: float,
    graphs: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = made(load_checkpoint(folder))
    engine = engine_for(GPU, precision, graphs)
    with caplog.at_level(logging.WARNING):
        for _ in range(4 if graphs else 1):  # met, recorded, compared, repeated
            assert_close(expected, made(checkpoint, engine), part)
    assert not caplog.records  # every step could be recorded, and was believed
    assert engine.recordings is None or len(engine.recordings) > 0


def test_a_step_waits_twice(checkpoint: Checkpoint) -> None:
    jobs = [Job(checkpoint, examples(shots), seed=1) for shots in SHAPES]
    for job in jobs:
        job.decode()
    adaptations = [job.adaptation for job in jobs if job.adaptation is not None]
    advance(adaptations)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            advance(adaptations)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 2, [str(wait.message) for wait in waits]


def test_a_gpu_without_memory_says_so_and_goes_on_when_it_has_some(checkpoint: Checkpoint) -> None:
    expected = made(checkpoint)
    jobs = [Job(checkpoint, examples(shots), seed=1) for shots in SHAPES]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-9)
    try:
        make_all(jobs)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(isinstance(job.outcome, OutOfMemory) for job in jobs)
    assert_close(expected, made(checkpoint), 2e-2)
