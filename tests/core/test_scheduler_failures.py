"""The scheduler when steps fail: stacks that do not fit, and jobs that make a stack fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metanas.adaptation.job import AdaptedModel, out_of_memory
from metanas.adaptation.scheduler import Scheduler, adapt, make_all
from metanas.checkpoint import Checkpoint
from metanas.errors import OutOfMemory
from metanas.supernet.relaxations import RELAXATIONS
from tests.core.benches import assert_same_model, jobs_of, pooling_checkpoint, standing, work_off
from tests.core.small import examples


class Picky(nn.Module):
    """Fails where a batch has too many rows, as a small device would; or on a bright image."""

    def __init__(self, rows: int, error: type[Exception]) -> None:
        super().__init__()
        self.rows, self.error, self.failed = rows, error, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.rows:
            self.failed += 1
            raise self.error
        return x


def picky_checkpoint(folder: Path, rows: int, error: type[Exception]) -> Checkpoint:
    return pooling_checkpoint(folder, lambda: Picky(rows, error))


def test_a_stack_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    checkpoint = picky_checkpoint(tmp_path / "tiny", 16, torch.OutOfMemoryError)
    shapes = {"a": (2, 2), "b": (2, 2), "c": (2, 2), "large": (6, 6)}
    jobs, _ = jobs_of(checkpoint, shapes)
    bench = Scheduler()
    for job in jobs:
        bench.add(job)
    work_off(bench)
    assert isinstance(jobs[3].outcome, OutOfMemory)
    assert "fewer images" in str(jobs[3].outcome)
    assert all(isinstance(job.outcome, AdaptedModel) for job in jobs[:3])
    alone = adapt(checkpoint, examples((2, 2)), seed=0)
    assert_same_model(jobs[0].result(), alone, examples((2, 2)))


def test_what_did_not_fit_is_not_tried_again_at_every_step(tmp_path: Path) -> None:
    checkpoint = picky_checkpoint(tmp_path / "tiny", 16, torch.OutOfMemoryError)
    jobs, _ = jobs_of(checkpoint, dict.fromkeys("abcd", (2, 2)))
    bench = Scheduler(clock=standing)  # or what is stacked would depend on the machine
    for job in jobs:
        bench.add(job)
    work_off(bench)
    assert all(isinstance(job.outcome, AdaptedModel) for job in jobs)
    # the four, and perhaps a half of them; not once more in the steps that follow
    failed = sum(each.failed for each in checkpoint.supernet.modules() if isinstance(each, Picky))
    assert 1 <= failed <= 3


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_memory_that_libraries_lack_is_memory_that_lacks(error: Exception) -> None:
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_sampled_relaxations_draw_the_same_after_a_failure(tmp_path: Path) -> None:
    """The parts of a stack that did not fit draw the same numbers again."""
    checkpoint = picky_checkpoint(tmp_path / "tiny", 16, torch.OutOfMemoryError)
    sampled = replace(checkpoint, relaxation=RELAXATIONS["gdas"])
    whole, _ = jobs_of(sampled, dict.fromkeys("abc", (2, 2)))
    alone, _ = jobs_of(sampled, dict.fromkeys("abc", (2, 2)))
    make_all(whole)
    for job in alone:
        make_all([job])
    for one, other in zip(whole, alone, strict=True):
        assert one.result().genotype == other.result().genotype
        assert one.adaptation is not None
        assert other.adaptation is not None
        for name, value in one.adaptation.soft.items():
            assert torch.allclose(value, other.adaptation.soft[name], atol=1e-4), name


def test_a_defect_hits_the_job_that_causes_it_alone(tmp_path: Path) -> None:
    checkpoint = picky_checkpoint(tmp_path / "tiny", 20, ZeroDivisionError)
    jobs, _ = jobs_of(checkpoint, {"a": (2, 2), "b": (2, 2), "large": (6, 6)})
    bench = Scheduler()
    for job in jobs:
        bench.add(job)
    work_off(bench)
    assert isinstance(jobs[2].outcome, ZeroDivisionError)
    assert all(isinstance(job.outcome, AdaptedModel) for job in jobs[:2])
