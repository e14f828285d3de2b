"""The workbench: jobs under way on one device, taken further turn by turn, steps in stacks.

Notable:
- One step of a small task keeps a processor less than busy. Jobs of one checkpoint therefore step
  together, in one evaluation of the supernet (`metanas.adapt.advance`).
- Nobody waits for company. A job that comes joins the next step, whatever the others are at, and
  one that is done leaves at once; with no other job the steps are those of one task.
- Turns go round: the job whose last turn is the longest ago leads, and takes along who fits.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from metanas.adapt import Adaptation, Stage, advance
from metanas.checkpoint import Checkpoint
from metanas.errors import OutOfMemory
from metanas.options import AdaptConfig
from metanas.pipeline import AdaptedModel, Job, OnProgress
from metanas.task import Example, Limits


@dataclass(frozen=True, kw_only=True)
class StackLimits:
    """How large a stack may become."""

    images: int = 512
    """Most support images of a step in all its tasks, padding included; one task may have more."""
    padding: float = 0.5
    """Largest part of a stack that may be padding, 0 to 1: very different sizes go apart."""
    memory: int = 2**30
    """Bytes of activations beyond which a step computes twice instead of keeping them."""


class Workbench:
    """Jobs under way on one device."""

    def __init__(self, limits: StackLimits = StackLimits()) -> None:
        self._limits = limits
        self._jobs = list[Job]()
        """Those whose last turn is the longest ago come first."""

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Have a job made; it joins with the next turn."""
        self._jobs.insert(0, job)

    def advance(self) -> list[Job]:
        """One turn: decode or finish one job, or one step of a stack. The jobs that ended with it.

        What is wrong with a job becomes its outcome and touches no other.
        """
        for job in self._jobs:
            job.check()
        self._turn()
        ended = [job for job in self._jobs if job.outcome is not None]
        self._jobs = [job for job in self._jobs if job.outcome is None]
        return ended

    def _turn(self) -> None:
        """Newcomers first and then whoever is done: both are quick, and the others gain by it."""
        going = [job for job in self._jobs if job.outcome is None]
        for job in going:
            if job.adaptation is None:
                return job.decode()
        for job in going:
            if job.adaptation is not None and job.adaptation.stage is Stage.DONE:
                return job.finish()
        if going:
            self._step(self._stack(going))
        return None

    def _stack(self, going: Sequence[Job]) -> list[Job]:
        """The first job and those that fit to it, each weighed by its support images."""
        leader, *others = going
        stack, sizes = [leader], [_size(leader)]
        for job in others:
            if leader.alone or job.alone or job.checkpoint is not leader.checkpoint:
                continue
            grown = [*sizes, _size(job)]
            whole = len(grown) * max(grown)
            if whole <= self._limits.images and sum(grown) >= (1 - self._limits.padding) * whole:
                stack, sizes = [*stack, job], grown
        return stack

    def _step(self, stack: list[Job]) -> None:
        start = time.perf_counter()
        try:
            outcomes = advance(list(_adaptations(stack)), memory=self._limits.memory)
        except torch.OutOfMemoryError as error:
            return self._too_large(stack, error)
        except Exception as error:  # a defect that a single job may have caused: find it
            return self._apart(stack, error)
        seconds = time.perf_counter() - start
        for job, outcome in zip(stack, outcomes, strict=True):
            job.stepped(outcome, seconds)
        self._jobs = [job for job in self._jobs if job not in stack] + stack
        return None

    def _too_large(self, stack: list[Job], error: Exception) -> None:
        """Halve the stack until it fits; a job that does not fit alone ends."""
        torch.cuda.empty_cache()
        if len(stack) == 1:
            message = "the device has too little memory for this support set; send fewer images"
            stack[0].outcome = OutOfMemory(message)
            stack[0].outcome.__cause__ = error
            return
        self._step(stack[: len(stack) // 2])
        self._step(stack[len(stack) // 2 :])

    def _apart(self, stack: list[Job], error: Exception) -> None:
        if len(stack) == 1:
            stack[0].outcome = error
            return
        for job in stack:
            self._step([job])


def _adaptations(jobs: Iterable[Job]) -> Iterable[Adaptation]:
    for job in jobs:
        assert job.adaptation is not None
        yield job.adaptation


def _size(job: Job) -> int:
    """Support images of a step of this job."""
    assert job.task is not None
    return min(len(job.task.images), job.options.batch_size)


def make(job: Job, limits: StackLimits = StackLimits()) -> AdaptedModel:
    """Give a job all its turns.

    Raises:
        Exception: what ended it.
    """
    bench = Workbench(limits)
    bench.add(job)
    while bench:
        bench.advance()
    return job.result()


def make_model(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    *,
    classes: Sequence[str] | None = None,
    options: AdaptConfig | None = None,
    seed: int = 0,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    on_progress: OnProgress = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> AdaptedModel:
    """Adapt a checkpoint to labelled images and export what comes out.

    The same arguments on the same machine give the same bytes.

    Args:
        checkpoint: a meta-trained supernet; it is not changed.
        examples: the support set, 2 to `limits.max_ways` classes, unequal shots allowed.
        classes: all class names in the order of the model's outputs; without it they are taken in
            the order of their first examples.
        options: how to adapt; the checkpoint's defaults if None.
        seed: of the random views and mini-batches.
        limits: what is refused.
        on_progress: called at the start of every stage and after every step.
        should_stop: asked before every turn.

    Raises:
        InvalidInput: a support set that cannot be adapted to, with all that is wrong with it.
        Cancelled: `should_stop` said so.
        Diverged: the loss became NaN or infinite.
        OutOfMemory: the device is too small for this support set.
        ExportMismatch: the exported file computes something else (a defect of ours).
    """
    return make(
        Job(
            checkpoint,
            examples,
            classes=classes,
            options=options,
            seed=seed,
            limits=limits,
            on_progress=on_progress,
            should_stop=should_stop,
        )
    )
