"""The scheduler: jobs that come and go, their stacks, and the effect of one job's error."""

import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import SLICE, Scheduler, StackLimits, adapt, make_all
from metanas.checkpoint import Checkpoint
from metanas.errors import Cancelled, Diverged, InvalidInput
from metanas.nn.functional import Rows
from metanas.nn.heads import HEADS
from metanas.spec.examples import Example
from metanas.spec.progress import Progress
from metanas.testing import make_checkpoint
from tests.core.benches import (
    OPTIONS,
    assert_same_model,
    jobs_of,
    pooling_checkpoint,
    standing,
    work_off,
)
from tests.core.small import examples


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return make_checkpoint(folder, size=12, options=OPTIONS)


def test_each_job_comes_out_as_it_would_alone(checkpoint: Checkpoint) -> None:
    shapes = {"a": (2, 2), "b": (1, 3, 1), "c": (2, 2, 2)}
    jobs, _ = jobs_of(checkpoint, shapes)
    bench = Scheduler()
    for job in jobs:
        bench.add(job)
    assert set(work_off(bench)) == set(jobs)
    for seed, (job, shots) in enumerate(zip(jobs, shapes.values(), strict=True)):
        given = examples(shots, seed=seed)
        assert_same_model(job.result(), adapt(checkpoint, given, seed=seed), given)


def test_a_job_is_added_once(checkpoint: Checkpoint) -> None:
    bench, job = Scheduler(), Job(checkpoint, examples((2, 2)))
    bench.add(job)
    with pytest.raises(ValueError, match="once"):
        bench.add(job)
    work_off(bench)
    with pytest.raises(ValueError, match="once"):
        bench.add(job)


def test_two_threads_may_use_one_checkpoint(checkpoint: Checkpoint) -> None:
    before = {name: value.clone() for name, value in checkpoint.supernet.named_parameters()}
    given = examples((2, 2))
    expected = [adapt(checkpoint, given, seed=seed).sha256 for seed in range(6)]

    def make(seed: int) -> str:
        return adapt(checkpoint, given, seed=seed).sha256

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(make, range(6))) == expected
    for name, value in checkpoint.supernet.named_parameters():
        assert torch.equal(before[name], value)


def test_newcomers_do_not_keep_an_old_job_from_its_turns(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = make_checkpoint(tmp_path / "other", size=10, options=OPTIONS)
    old = Job(checkpoint, examples((2, 2)))
    bench = Scheduler()
    bench.add(old)
    for turn in range(200):
        steps = {"steps": turn % 2, "tuning_steps": turn % 2}  # some have no step to take
        options = OPTIONS.replace(steps)
        bench.add(Job(other, examples((2, 2)), options=options, seed=turn))
        if old in bench.advance():
            break
    assert isinstance(old.outcome, AdaptedModel)


def test_a_caller_who_cannot_be_asked_ends_his_own_job(checkpoint: Checkpoint) -> None:
    def ask() -> bool:
        raise RuntimeError("gone")

    jobs = [Job(checkpoint, examples((2, 2)), should_stop=ask), Job(checkpoint, examples((2, 2)))]
    bench = Scheduler()
    for job in jobs:
        bench.add(job)
    work_off(bench)
    assert isinstance(jobs[0].outcome, RuntimeError)
    assert isinstance(jobs[1].outcome, AdaptedModel)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"padding": 1.5}, {"memory": -1}])
def test_limits_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        StackLimits(**wrong)


def test_small_tasks_step_together_and_newcomers_join(checkpoint: Checkpoint) -> None:
    jobs, seen = jobs_of(checkpoint, {"a": (2, 2), "b": (2, 2), "late": (2, 2)})
    bench = Scheduler(clock=standing)
    for job in jobs[:2]:
        bench.add(job)
    turns = list[set[str]]()
    while bench:
        before = len(seen)
        bench.advance()
        turns.append({name for name, progress in seen[before:] if progress.step})
        if len(turns) == 1:
            bench.add(jobs[2])
    assert turns[:2] == [{"a", "b"}, {"a", "b", "late"}]
    assert [turn for turn in turns if turn][5] == {"late"}  # the others have taken their five steps


@pytest.mark.parametrize(
    ("limits", "shapes", "settings"),
    [
        (StackLimits(images=7), {"a": (2, 2), "b": (2, 2)}, {}),
        (StackLimits(padding=0.2), {"a": (1, 1), "b": (3, 3)}, {}),
        (StackLimits(), {"a": (2, 2), "b": (2, 2)}, {"b": True}),
    ],
    ids=["too many images", "too much padding", "wants to be alone"],
)
def test_what_does_not_fit_goes_in_turns(
    tmp_path: Path,
    limits: StackLimits,
    shapes: dict[str, tuple[int, ...]],
    settings: dict[str, bool],
) -> None:
    jobs, seen = jobs_of(pooling_checkpoint(tmp_path / "tiny", Slow), shapes, **settings)
    bench = Scheduler(limits, clock=lambda: Slow.now)
    for job in jobs:
        bench.add(job)
    work_off(bench)
    assert all(isinstance(job.outcome, AdaptedModel) for job in jobs)
    order = [name for name, p in seen if p.stage == "adapt" and p.step]
    assert len(set(order[:3])) == len(set(order[3:])) == 2  # neither waits for the other to end


def test_jobs_of_different_checkpoints_go_in_turns(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", size=10, seed=1, options=OPTIONS)
    jobs = [Job(each, examples((2, 2))) for each in (checkpoint, other)]
    bench = Scheduler()
    for job in jobs:
        bench.add(job)
    work_off(bench)
    assert [job.result().report.checkpoint for job in jobs] == ["tiny", "other"]


def test_jobs_of_different_heads_come_out_as_they_would_alone(checkpoint: Checkpoint) -> None:
    def jobs() -> list[Job]:
        options = (OPTIONS.replace({"head": head}) for head in HEADS)
        return [Job(checkpoint, examples((2, 2)), options=each) for each in options]

    bench, together, alone = Scheduler(), jobs(), jobs()
    for job in together:
        bench.add(job)
    work_off(bench)
    for job in alone:
        bench.add(job)
        work_off(bench)
    files = [job.result().onnx for job in together]
    assert files == [job.result().onnx for job in alone]
    assert len(set(files)) == len(HEADS)


def test_a_job_that_is_stopped_or_wrong_touches_no_other(checkpoint: Checkpoint) -> None:
    given = examples((2, 2))
    stopped = list[Progress]()
    fine = Job(checkpoint, given)
    cancelled = Job(
        checkpoint,
        given,
        on_progress=stopped.append,
        should_stop=lambda: any(p.stage == "adapt" and p.step == 2 for p in stopped),
    )
    wrong = Job(checkpoint, [*given, Example("broken", b"no image")])
    bench = Scheduler()
    for job in (wrong, cancelled, fine):
        bench.add(job)
    work_off(bench)
    assert isinstance(wrong.outcome, InvalidInput)
    assert isinstance(cancelled.outcome, Cancelled)
    assert max(p.step for p in stopped if p.stage == "adapt") == 2
    with pytest.raises(Cancelled):
        cancelled.result()
    assert_same_model(fine.result(), adapt(checkpoint, given), given)


class Slow(nn.Module):
    """Takes a second a row, by a clock of its own."""

    now = 0.0

    def forward(self, x: Tensor) -> Tensor:
        Slow.now += len(x)
        return x


def test_a_small_task_waits_for_one_step_of_a_large_one(tmp_path: Path) -> None:
    """They share time, not turns."""
    checkpoint = pooling_checkpoint(tmp_path / "tiny", Slow)
    seen = list[tuple[str, Progress]]()

    def job(name: str, shots: tuple[int, ...]) -> Job:
        options = OPTIONS.replace({"steps": 9, "batch_size": 100})
        note = partial(lambda name, progress: seen.append((name, progress)), name)
        return Job(checkpoint, examples(shots), options=options, on_progress=note)

    bench = Scheduler(StackLimits(padding=0.0), clock=lambda: Slow.now)
    large, small = job("large", (50, 50)), job("small", (1, 1))
    bench.add(large)
    while not any(progress.step == 2 for _, progress in seen):
        bench.advance()
        assert large.outcome is None
    bench.add(small)
    work_off(bench)
    assert isinstance(large.outcome, AdaptedModel)
    steps = [name for name, progress in seen if progress.step]
    arrived = steps.index("small")
    assert steps[arrived : arrived + 12].count("large") <= 1


def test_a_small_task_does_not_wait_for_a_large_one_to_be_checked(tmp_path: Path) -> None:
    checkpoint = pooling_checkpoint(tmp_path / "tiny", Slow)
    still = OPTIONS.replace({"steps": 0, "tuning_steps": 0, "batch_size": 10})

    def durations(bench: Scheduler, until: Job) -> list[float]:
        """The seconds of each turn until a job has ended."""
        seconds = list[float]()
        while until.outcome is None:
            begun = Slow.now
            bench.advance()
            seconds.append(Slow.now - begun)
        return seconds

    def bench_with(job: Job) -> Scheduler:
        bench = Scheduler(clock=lambda: Slow.now)
        bench.add(job)
        return bench

    small, large = (
        partial(Job, checkpoint, examples(shots), options=options)
        for shots, options in (((1, 1), OPTIONS), ((50, 50), still))
    )
    alone, whole = (sum(durations(bench_with(job), job)) for job in (small(), large()))
    busy, late = bench_with(large()), small()
    busy.advance()
    busy.add(late)
    beside = durations(busy, late)
    assert sum(beside) < alone + 0.5 * whole
    assert len(busy) == 1


def test_a_machine_that_stalls_still_gets_on(checkpoint: Checkpoint) -> None:
    """Every look at the clock finds a slice gone by: a turn does one part of the work at least."""
    bench = Scheduler(clock=partial(next, count(step=2 * SLICE)))
    job = Job(checkpoint, examples((2, 2)))
    bench.add(job)
    for _ in range(100):
        bench.advance()
    assert isinstance(job.outcome, AdaptedModel)


def test_a_job_that_diverged_holds_no_memory_of_its_step(checkpoint: Checkpoint) -> None:
    params = {**checkpoint.params, "head.log_scale": torch.tensor(200.0)}
    job = Job(replace(checkpoint, params=params), examples((2, 2)))
    make_all([job])
    assert isinstance(job.outcome, Diverged)
    frames = [frame for frame, _ in traceback.walk_tb(job.outcome.__traceback__)]
    assert not any("gradients" in frame.f_locals for frame in frames)


def test_rows_of_one_task_of_a_stack() -> None:
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    one = Rows(2, 2, weights).of(1)
    assert (one.support, one.tasks) == (2, 1)
    assert one.weights is not None
    assert one.weights.tolist() == [[1.0, 0.0]]
