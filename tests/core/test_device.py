"""Test that a GPU makes the model that a CPU makes. Skipped on a machine without a GPU.

`test_waiting` tests on a simulated device whatever does not need a GPU.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.adaptation.adaptation import advance
from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import make_all
from metanas.adaptation.universal import load_universal
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.errors import OutOfMemory
from metanas.export.runtime import run, session
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from tests.core.small import examples
from tests.core.test_universal import examples_of, photos, with_shares, write_space

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

GPU = torch.device("cuda")
SHAPES = [(2, 2), (1, 3, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_checkpoint(made, size=12, options=AdaptConfig(steps=3, tuning_steps=2))
    return made


@pytest.fixture(scope="module")
def space_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_space(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, device=GPU)


def made(checkpoint: Checkpoint) -> list[AdaptedModel]:
    """A stack of tasks of different sizes."""
    jobs = [Job(checkpoint, examples(shots), seed=1) for shots in SHAPES]
    make_all(jobs)
    return [job.result() for job in jobs]


def assert_close(one: list[AdaptedModel], other: list[AdaptedModel], part: float) -> None:
    """The same genotypes, and logits that differ by at most this part of them."""
    for left, right, shots in zip(one, other, SHAPES, strict=True):
        assert left.genotype == right.genotype
        queries = [np.asarray(each.image, np.uint8) for each in examples(shots)]
        mine, theirs = (run(session(model.onnx), queries) for model in (left, right))
        assert np.linalg.norm(mine - theirs) <= part * np.linalg.norm(mine)


def test_a_gpu_makes_the_model_that_a_cpu_makes(folder: Path, checkpoint: Checkpoint) -> None:
    assert_close(made(load_checkpoint(folder)), made(checkpoint), 2e-2)


def test_joined_networks_on_a_gpu_are_those_of_a_cpu(space_folder: Path) -> None:
    models = []
    for device in ("cpu", GPU):
        shares = {"small": 0.3, "large": 0.3, "frozen": 0.2, "grey": 0.2}
        space = with_shares(load_universal(space_folder, device=device), shares)
        jobs = [Job(space, examples_of(photos(8)), seed=1)]
        make_all(jobs)
        models.append(jobs[0].result())
    one, other = models
    assert one.report.macs == other.report.macs
    assert abs(one.report.onnx_bytes - other.report.onnx_bytes) < 1000
    mine, theirs = (run(session(each.onnx), photos(5)) for each in models)
    assert np.linalg.norm(mine - theirs) <= 2e-2 * np.linalg.norm(mine)


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
