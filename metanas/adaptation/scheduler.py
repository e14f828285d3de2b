"""The scheduler of one device: it runs jobs turn by turn and stacks their steps.

Notes:
- A step of one small task does not use a whole processor. Jobs of one checkpoint therefore step
  together, in one evaluation of the supernet (`metanas.adaptation.adaptation.advance`).
- No job waits for others. A new job joins the next step, and a finished job leaves at once. A job
  without others steps alone.
- Jobs get equal time, not equal numbers of turns. The job with the least time so far is next, and
  jobs that fit join its step. So a small task takes many steps for one long step of a large task.
- The work of a job beside its steps (decoding, checking the file) may take long. It is done in
  parts, for at most `SLICE` seconds between two steps.
- Everything runs in one thread. Threads for decoding and checking gained nothing on two cores,
  because both are mostly Python. A step also needs the checkpoint's only supernet for itself.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from metanas.adaptation.adaptation import Adaptation, advance, footprint
from metanas.adaptation.job import (
    AdaptedModel,
    Job,
    OnProgress,
    Options,
    out_of_memory,
    too_large,
)
from metanas.adaptation.universal import Source
from metanas.spec.examples import Example, Limits
from metanas.spec.progress import Progress
from metanas.util.fields import Count, Fraction, Natural, check

LARGE = 85 * 2**20
"""Bytes of activations of a task from which its steps use all threads. Smaller steps use one:
more threads gained nothing, and many small operations would wait for busy cores."""
SLICE = 0.25
"""Most seconds of a job's work beside steps in a turn."""
GROWTH = 1.02
"""Factor on the reduced memory limit after each step since a stack was too large."""


@dataclass(frozen=True, kw_only=True)
class StackLimits:
    """Limits on the size of a stack."""

    images: Count = 512
    """Most support images of a step in all its tasks, padding included; one task may have more."""
    padding: Fraction = 0.2
    """Largest part of a stack that may be padding: tasks of very different sizes step apart."""
    memory: Natural = 3 * 2**29
    """Bytes of activations up to which a stack may grow. A single task that needs more evaluates
    its first cells again in the backward pass."""

    def __post_init__(self) -> None:
        check(self)


class Scheduler:
    """Run jobs on one device.

    threads: torch threads for the steps of large tasks; None keeps the present number. It may
        change between two turns.
    clock: seconds that jobs share.
    """

    def __init__(
        self,
        limits: StackLimits = StackLimits(),
        threads: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self.threads = threads or torch.get_num_threads()
        self._limits = limits
        self._memory = float(limits.memory)
        """Present limit on the bytes of activations of a stack."""
        self._spent = dict[Job, float]()
        """Seconds of each job; a new job begins with the smallest number."""
        self._postponed = False
        """True if the last turn postponed its step; no step is postponed twice in a row."""

    def __len__(self) -> int:
        return len(self._spent)

    def add(self, job: Job) -> None:
        """Add a job; it joins with the next turn.

        Raises:
            ValueError: the job was added before, or has ended.
        """
        if job in self._spent or job.outcome is not None:
            raise ValueError("a job can be added once, before it has ended")
        self._spent[job] = min(self._spent.values(), default=0.0)

    def advance(self) -> list[Job]:
        """Take one turn: first the work of jobs beside their steps, then a step of a stack.

        Returns the jobs that ended. Finished jobs do not wait for a step of others. An error of a
        job becomes its outcome and ends no other job.
        """
        queue = sorted(self._spent, key=self._spent.__getitem__)
        active = [job for job in queue if job.check()]
        self._work(active)
        # check again: the work may have taken long
        ready = [job for job in active if job.ready and job.check()]
        self._postponed = bool(self._ended()) and not self._postponed
        if ready and not self._postponed:
            self._step(self._stack(ready))
        ended = self._ended()
        for job in ended:
            del self._spent[job]
        if not self._spent:  # the device's memory may be free again
            self._memory = float(self._limits.memory)
        return ended

    def _ended(self) -> list[Job]:
        return [job for job in self._spent if job.outcome is not None]

    def _work(self, queue: Sequence[Job]) -> None:
        """Do the work of jobs beside their steps, each for a slice, unless a job is a slice ahead.

        Small jobs then finish together and their callers return together. A stack whose tasks are
        at the same step runs the fewest operations.
        """
        least = min((self._spent[job] for job in queue), default=0.0)
        for job in (job for job in queue if self._spent[job] <= least + SLICE):
            begun = now = self._clock()
            while not job.ready and job.outcome is None and now < begun + SLICE:
                job.work()
                now = self._clock()
            self._spent[job] += now - begun

    def _stack(self, ready: Sequence[Job]) -> list[Job]:
        """Stack the first job and the jobs that fit."""
        leader, *others = ready
        stack = [leader]
        for job in others:
            apart = leader.alone or job.alone or _kind(job) != _kind(leader)
            if not apart and self._fits([*stack, job]):
                stack.append(job)
        return stack

    def _fits(self, stack: Sequence[Job]) -> bool:
        """Check the limits for a stack."""
        adaptations = [_adaptation(job) for job in stack]
        sizes = [adaptation.images for adaptation in adaptations]
        padded = len(sizes) * max(sizes)
        return (
            padded <= self._limits.images
            and sum(sizes) >= (1 - self._limits.padding) * padded
            and footprint(adaptations) <= self._memory
        )

    def _step(self, stack: list[Job]) -> None:
        start = self._clock()
        outcomes = self._advance(stack)
        if outcomes is None:  # too large, or one job makes all fail: step both halves
            self._step(stack[: len(stack) // 2])
            self._step(stack[len(stack) // 2 :])
            return
        seconds = self._clock() - start
        self._memory = min(GROWTH * self._memory, float(self._limits.memory))
        for job, outcome in zip(stack, outcomes, strict=True):
            job.stepped(outcome, seconds)
            self._spent[job] += seconds / len(stack)

    def _advance(self, stack: list[Job]) -> list[Progress | Exception | None] | None:
        """Step a stack; return the outcome of each job, or None if the whole stack failed."""
        adaptations = [_adaptation(job) for job in stack]
        size = footprint(adaptations)
        threads = self.threads if size >= LARGE * len(stack) else 1
        try:
            with _threads(threads):
                return advance(adaptations, memory=self._limits.memory)
        except Exception as error:
            no_memory = out_of_memory(error)
            if len(stack) == 1:
                return [too_large() if no_memory else error]
        # the failed step holds no memory any more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if no_memory:
            self._memory = size // 2
        return None  # one job alone may be the cause


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of torch threads for a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _adaptation(job: Job) -> Adaptation:
    if job.adaptation is None:
        raise ValueError("the job is not ready for a step")
    return job.adaptation


def _kind(job: Job) -> tuple[int, str]:
    """Return all that the jobs of a stack have in common: checkpoint and head."""
    adaptation = _adaptation(job)
    return id(adaptation.checkpoint), adaptation.config.head


def make_all(jobs: Sequence[Job], limits: StackLimits = StackLimits()) -> None:
    """Run jobs until each has its outcome."""
    scheduler = Scheduler(limits)
    for job in jobs:
        scheduler.add(job)
    while scheduler:
        scheduler.advance()


def adapt(
    checkpoint: Source,
    examples: Sequence[Example],
    *,
    classes: Sequence[str] | None = None,
    options: Options = None,
    seed: int = 0,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    on_progress: OnProgress = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> AdaptedModel:
    """Adapt a checkpoint to labelled images and export the model.

    The same arguments on the same machine give the same bytes, with the same number of threads.

    Args:
        checkpoint: a checkpoint, or the universal search space; it is not changed.
        examples: the support set, 2 to `limits.max_ways` classes, unequal shots allowed.
        classes: all class names in the order of the model's outputs; None takes the order of their
            first examples.
        options: all options, or those that differ from the checkpoint's defaults.
        seed: seed of the random views and mini-batches.
        limits: limits on the support set.
        on_progress: called at the start of each stage and after each step.
        should_stop: asked before every turn.

    Raises:
        InvalidInput: a support set that cannot be used, with all its faults.
        Cancelled: `should_stop` returned true.
        Diverged: the loss became NaN or infinite.
        OutOfMemory: the device is too small for this support set.
        ExportMismatch: the exported file computes other logits (a defect of MetaNAS).
    """
    job = Job(
        checkpoint,
        examples,
        classes=classes,
        options=options,
        seed=seed,
        limits=limits,
        on_progress=on_progress,
        should_stop=should_stop,
    )
    make_all([job])
    return job.result()
