"""The workbench: jobs under way on one device, taken further turn by turn, steps in stacks.

Notable:
- One step of a small task keeps a processor less than busy. Jobs of one checkpoint therefore step
  together, in one evaluation of the supernet (`metanas.adaptation.adaptation.advance`).
- Nobody waits for company. A job that comes joins the next step, whatever the others are at, and
  one that is done leaves at once; with no other job the steps are those of one task.
- Jobs share time, not turns: who has had the least of it leads, and takes along who fits. So a
  small task beside one of long steps waits for one of them, not for as many as it has itself.
- What a job does on its own (decoding, checking the file) may take long too, and is done in parts,
  for at most `SLICE` seconds between two steps.
- All happens in one thread. Decoding and finishing beside the steps gained nothing on two cores:
  they are mostly Python. And a step puts its tasks' weights into the checkpoint's one supernet.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from metanas.adaptation.adaptation import Adaptation, Step, advance, footprint
from metanas.adaptation.job import AdaptedModel, Job, OnProgress, out_of_memory, too_large
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput, Violation
from metanas.spec.examples import Example, Limits
from metanas.spec.options import AdaptConfig

LARGE = 85 * 2**20
"""Bytes of activations of a task from which its steps have all threads. Below they have one: more
have gained nothing, and beside a busy process each of the many small operations waits for them."""
SLICE = 0.25
"""Seconds after which what a job does on its own makes room for others, and for a step."""
EASED = 1.02
"""By how much a stack may be larger again after every step since one was too large: 1.4 times the
memory after 17."""


@dataclass(frozen=True, kw_only=True)
class StackLimits:
    """How large a stack may become."""

    images: int = 512
    """Most support images of a step in all its tasks, padding included; one task may have more."""
    padding: float = 0.2
    """Largest part of a stack that may be padding, 0 to 1: very different sizes go apart."""
    memory: int = 3 * 2**29
    """Bytes of activations up to which a stack may grow. A task that needs more on its own computes
    parts twice instead of keeping them."""

    def __post_init__(self) -> None:
        checks = {
            "images": (self.images >= 1, "must be at least 1"),
            "padding": (0 <= self.padding <= 1, "must lie in 0 to 1"),
            "memory": (self.memory >= 0, "must be at least 0"),
        }
        bad = [
            Violation(f"stack.{name}", "OPTION_OUT_OF_RANGE", f"stack.{name} {what}")
            for name, (ok, what) in checks.items()
            if not ok
        ]
        if bad:
            raise InvalidInput(bad)


class Workbench:
    """Jobs under way on one device.

    threads: of torch for the steps of large tasks; as many as it has now if None. It may be changed
        between two turns.
    clock: seconds, of which jobs have their shares.
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
        self._most = float(limits.memory)
        """Bytes of activations up to which a stack may grow, as far as it is known."""
        self._spent = dict[Job, float]()
        """Seconds that each job has had, counted from those of the first in line when it came."""
        self._put_off = False
        """Whether the step of the last turn was: never twice running, whoever comes and goes."""

    def __len__(self) -> int:
        return len(self._spent)

    def add(self, job: Job) -> None:
        """Have a job made; it joins with the next turn.

        Raises:
            ValueError: it is here already, or has ended.
        """
        if job in self._spent or job.outcome is not None:
            raise ValueError("a job can be added once, before it has ended")
        self._spent[job] = min(self._spent.values(), default=0.0)

    def advance(self) -> list[Job]:
        """One turn: work of jobs on their own, for a while, or a step of a stack.

        Returns the jobs that ended in it: those that are finished do not wait for a step of others.
        What is wrong with a job becomes its outcome and touches no other.
        """
        line = sorted(self._spent, key=self._spent.__getitem__)
        going = [job for job in line if job.check()]
        self._work(going)
        # they are asked again: that may have taken long
        ready = [job for job in going if job.ready and job.check()]
        self._put_off = bool(self._ended()) and not self._put_off
        if ready and not self._put_off:
            self._step(self._stack(ready))
        ended = self._ended()
        for job in ended:
            del self._spent[job]
        if not self._spent:  # whatever else took the device's memory may be gone
            self._most = float(self._limits.memory)
        return ended

    def _ended(self) -> list[Job]:
        return [job for job in self._spent if job.outcome is not None]

    def _work(self, line: Sequence[Job]) -> None:
        """What jobs do on their own, each for a slice of time, unless it is that far ahead.

        So small ones that are done leave together. Their callers then come back together, and a
        stack whose tasks are at the same step runs the fewest operations.
        """
        least = min((self._spent[job] for job in line), default=0.0)
        for job in (job for job in line if self._spent[job] <= least + SLICE):
            begun = now = self._clock()
            while not job.ready and job.outcome is None and now < begun + SLICE:
                job.work()
                now = self._clock()
            self._spent[job] += now - begun

    def _stack(self, ready: Sequence[Job]) -> list[Job]:
        """The first job and those that fit to it, each weighed by its support images."""
        stack, sizes = list(ready[:1]), [_size(job) for job in ready[:1]]
        for job in ready[1:]:
            leader = stack[0]
            if leader.alone or job.alone or job.checkpoint is not leader.checkpoint:
                continue
            grown = [*sizes, _size(job)]
            if self._fits(grown, [*stack, job]):
                stack, sizes = [*stack, job], grown
        return stack

    def _fits(self, sizes: Sequence[int], stack: Sequence[Job]) -> bool:
        """Whether these may step together, of these sizes."""
        largest = max(sizes)
        return (
            len(sizes) * largest <= self._limits.images
            and sum(sizes) >= (1 - self._limits.padding) * len(sizes) * largest
            and footprint([_adaptation(job) for job in stack]) <= self._most
        )

    def _step(self, stack: list[Job]) -> None:
        start = self._clock()
        outcomes = self._advance(stack)
        if outcomes is None:
            return self._apart(stack)
        seconds = self._clock() - start
        self._most = min(EASED * self._most, float(self._limits.memory))
        for job, outcome in zip(stack, outcomes, strict=True):
            job.stepped(outcome, seconds)
            self._spent[job] += seconds / len(stack)
        return None

    def _advance(self, stack: list[Job]) -> list[Step | Exception | None] | None:
        """What a step came to for each of the stack; None if the stack as a whole failed."""
        adaptations = [_adaptation(job) for job in stack]
        size = footprint(adaptations)
        threads = self.threads if size >= LARGE * len(stack) else 1
        try:
            with _threads(threads):
                return advance(adaptations, memory=self._limits.memory)
        except Exception as error:
            lacking = out_of_memory(error)
            if len(stack) == 1:
                return [too_large() if lacking else error]
        # by now what failed holds no memory any more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if lacking:
            self._most = size // 2
        return None  # a defect may be that of a single job

    def _apart(self, stack: list[Job]) -> None:
        """Halve a stack that is too large, or has a job in it that makes the others fail."""
        self._step(stack[: len(stack) // 2])
        self._step(stack[len(stack) // 2 :])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with so many threads of torch."""
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


def _size(job: Job) -> int:
    """Support images of a step of this job."""
    adaptation = _adaptation(job)
    return min(len(adaptation.task.images), adaptation.config.batch_size)


def make_all(jobs: Sequence[Job], limits: StackLimits = StackLimits()) -> None:
    """Give these jobs all their turns; each then has its outcome."""
    bench = Workbench(limits)
    for job in jobs:
        bench.add(job)
    while bench:
        bench.advance()


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
