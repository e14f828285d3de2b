"""One request from top to bottom: labelled images in, a checked ONNX model and its report out.

`Job._make` lists the stages in order. Each stage is a function of another module.
"""

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from metanas.adaptation.adaptation import Adaptation, Stage
from metanas.adaptation.assemble import (
    Branch,
    Joint,
    calibrated,
    classifier_of,
    converted,
    left_out_of,
    report_of,
)
from metanas.adaptation.budget import Budget
from metanas.adaptation.metrics import Gap, gap
from metanas.adaptation.read_task import read_images, task_of
from metanas.adaptation.universal import Choice, Source, cards_of, channels_of
from metanas.errors import Cancelled, OutOfMemory
from metanas.estimates.calibration import temperature_of
from metanas.export.metadata import metadata_of
from metanas.export.onnx_model import to_onnx
from metanas.export.verify import check
from metanas.images.support_set import Task
from metanas.spec.card import check_options
from metanas.spec.examples import Example, Limits
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig, Option
from metanas.spec.progress import Progress
from metanas_data.report import Report

OnProgress = Callable[[Progress], None]
Result = TypeVar("Result")
Work = Generator[Progress | Adaptation | None, Progress | None, Result]
"""Work that yields progress, the adaptation when it needs a step, and None between two parts."""


GAP_IMAGES = 25
"""Most images that measure the gap of a network without steps, which is the checkpoint's."""
Options = AdaptConfig | Mapping[str, Option] | None
"""All options, or those that differ from the defaults of the checkpoint."""


@dataclass(frozen=True)
class AdaptedModel:
    """The result of a request: the ONNX file, and the facts about it."""

    onnx: bytes
    sha256: str
    genotype: Genotype
    labels: tuple[str, ...]
    report: Report


class Stopwatch:
    """Measure the seconds of each stage; a step of a stack counts in full for each of its jobs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "decode", 0.0

    def add(self, seconds: float) -> None:
        """Count these seconds for the current stage."""
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + seconds

    def start(self) -> None:
        """Start to count time for the current stage."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Count the time since the start."""
        now = time.perf_counter()
        self.add(now - self._since)
        self._since = now

    def turn_to(self, stage: str) -> None:
        """Count the time so far, and from now on for this stage."""
        self.stop()
        self._stage = stage


def too_large() -> OutOfMemory:
    """Make the error of a job that does not fit into the device's memory."""
    return OutOfMemory("the device has too little memory for this support set; send fewer images")


def out_of_memory(error: Exception) -> bool:
    """Return True if the cause of an error is a lack of memory.

    Only torch's allocator for devices has an error class. Texts identify the errors of libraries.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    texts = ("ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


class Job:
    """One request for a model, run in parts by `metanas.adaptation.scheduler`.

    `_make` is the request from top to bottom. It pauses when its `adaptation` needs a step: then
    the job is `ready`, and the scheduler takes the step. All other work, such as decoding, is the
    job's own; `_make` pauses after each part of it. An error ends the job. `outcome` is the
    finished model or the error.

    alone: steps of this job are not stacked with those of other jobs.
    task: the decoded support set, from the start of the search on.
    adaptation: the inner loop, from the start of the search on.
    """

    def __init__(  # noqa: PLR0913 (the arguments of `adapt`, and `alone`)
        self,
        checkpoint: Source,
        examples: Sequence[Example],
        *,
        classes: Sequence[str] | None = None,
        options: Options = None,
        seed: int = 0,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        on_progress: OnProgress = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        alone: bool = False,
    ) -> None:
        """Take the arguments of `adapt`."""
        self.seed, self.alone = seed, alone
        self.outcome: AdaptedModel | Exception | None = None
        self.task: Task | None = None
        self.adaptation: Adaptation | None = None
        self.ready = False
        self._on_progress, self._should_stop = on_progress, should_stop
        self._time = Stopwatch()
        self._run = self._make(checkpoint, examples, classes, options, limits)

    def result(self) -> AdaptedModel:
        """Return the model of a job that has ended.

        Raises:
            Exception: the error that ended the job.
        """
        if isinstance(self.outcome, AdaptedModel):
            return self.outcome
        raise self.outcome or ValueError("the job has not ended; advance its scheduler first")

    def check(self) -> bool:
        """End the job if `should_stop` returns True; return True if the job goes on."""
        with self._turn():
            if self.outcome is None and self._should_stop():
                raise Cancelled
        return self.outcome is None

    def work(self) -> None:
        """Do one part of the job's own work, up to the next step or pause."""
        if self.ready or not self.check():
            return
        self._time.start()
        self._resume(None)
        self._time.stop()

    def decode(self) -> None:
        """Work until the support set is decoded and the search can begin."""
        while self.adaptation is None and self.outcome is None:
            self.work()

    def stepped(self, outcome: Progress | Exception | None, seconds: float) -> None:
        """Take the outcome of an update, as `advance` returns it, and its seconds."""
        self._time.add(seconds)
        self._resume(outcome)

    def _resume(self, outcome: Progress | Exception | None) -> None:
        """Run on to the next step or pause, and pass on progress on the way."""
        self.ready = False
        with self._turn():
            if isinstance(outcome, Exception):
                raise outcome
            try:
                pause = self._run.send(outcome)
                while isinstance(pause, Progress):
                    self._announce(pause)
                    pause = next(self._run)
                self.ready = pause is not None
            except StopIteration as end:
                self.outcome = end.value

    def _announce(self, progress: Progress) -> None:
        if progress.step == 0:
            if self._should_stop():
                raise Cancelled
            self._time.turn_to(progress.stage)
        self._on_progress(progress)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Make any error the outcome of this job, so that it ends no other job."""
        try:
            yield
        except Exception as error:
            self.outcome, self.ready = too_large() if out_of_memory(error) else error, False
            self._run.close()

    @torch.no_grad()
    def _make(
        self,
        source: Source,
        examples: Sequence[Example],
        classes: Sequence[str] | None,
        overrides: Options,
        limits: Limits,
    ) -> Work[AdaptedModel]:
        """Make the model: decode, choose, adapt, prune, tune, export, check, report."""
        seed = self.seed

        yield Progress("decode", 0, len(examples))
        options = options_of(overrides, source)
        budget = Budget(source, options)
        budget.check()
        images = yield from read_images(examples, classes, limits, channels_of(source))
        labels = [example.label for example in examples]
        choice = budget.choose(images, labels)
        yield from _chosen(choice, len(examples))
        tasks = dict[tuple[int, int], Task]()
        for checkpoint, _ in choice.branches:
            if (key := checkpoint.input_key) not in tasks:
                tasks[key] = yield from task_of(
                    images, labels, classes, checkpoint=checkpoint, seed=seed
                )
        self.task = next(iter(tasks.values()))

        branches = list[Branch]()
        for name, (checkpoint, share) in zip(choice.names, choice.branches, strict=True):
            task = tasks[checkpoint.input_key]
            generator = torch.Generator().manual_seed(seed)
            self.adaptation = Adaptation(checkpoint, task.support, options, generator)
            pruning = yield from _adapted(self.adaptation, name, seed)
            branches.append(Branch(self.adaptation, task, share, pruning))
        joint = Joint(tuple(branches), choice.origin, choice.scale)

        yield Progress("export", 0, 1)
        classifier, logits = yield from classifier_of(joint)
        left = yield from left_out_of(joint, classifier.scale, seed)
        temperature = 1.0 if left is None else temperature_of(left)
        classifier, logits = calibrated(classifier, temperature), logits / temperature
        metadata = metadata_of(
            joint.origin, joint.task, classifier, logits, options=options, seed=seed
        )
        proto = to_onnx(classifier, joint.ops, metadata)
        yield None

        yield Progress("check", 0, 1)
        shift = options.shift_pixels
        stored, difference = yield from check(proto, joint.task.images, logits, shift)
        onnx = yield from _in_precision(joint, stored, seed)

        self._time.turn_to("report")
        report = yield from report_of(joint, classifier, left, onnx, difference, seed)
        self._time.stop()
        seconds = {stage: round(value, 6) for stage, value in self._time.seconds.items()}
        report = replace(
            report,
            seconds=seconds,
            prior=choice.prior,
            over_budget=choice.over_budget,
            temperature=temperature,
        )
        budget.check_model(report.macs, report.parameters, report.onnx_bytes)
        genotype, classes = joint.first.adaptation.decided, joint.task.support.classes
        return AdaptedModel(onnx, hashlib.sha256(onnx).hexdigest(), genotype, classes, report)


def options_of(options: Options, source: Source) -> AdaptConfig:
    """Complete options by the defaults of a checkpoint, or of the universal search space.

    Raises:
        InvalidInput: an option that does not exist, that is out of bounds, or that does not suit
            one of the networks.
    """
    given = options or {}
    defaults = source.defaults
    complete = given if isinstance(given, AdaptConfig) else defaults.replace(given)
    for card in cards_of(source):
        check_options(complete, card.input, card.space)
    return complete


def _chosen(choice: Choice, images: int) -> Work[None]:
    """Announce the shares of the branches, at the end of the decoding."""
    if shares := choice.origin.architecture:
        yield Progress("decode", images, images, architecture=shares)


def _adapted(adaptation: Adaptation, name: str, seed: int) -> Work[Gap]:
    """Adapt, prune and tune one network, that of the branch `name`."""
    options = adaptation.config
    yield Progress("adapt", 0, options.steps, branch=name)
    yield from _steps(adaptation, Stage.ADAPT)

    yield Progress("prune", 0, 1, branch=name)
    checkpoint, support = adaptation.checkpoint, adaptation.task
    few = options if options.steps else replace(options, batch_size=GAP_IMAGES)
    pruning = gap(checkpoint, adaptation.soft, support, few, seed)
    yield None

    genotype = adaptation.decided.to_json()
    yield Progress("tune", 0, options.tuning_steps, branch=name, genotype_json=genotype)
    yield from _steps(adaptation, Stage.TUNE)
    return pruning


def _in_precision(joint: Joint, onnx: bytes, seed: int) -> Work[bytes]:
    """Return the file in the precision of the options."""
    if joint.options.precision == "float32":
        return onnx
    yield Progress("convert", 0, 1)
    return (yield from converted(joint, onnx, seed))


def _steps(adaptation: Adaptation, stage: Stage) -> Work[None]:
    """Ask for steps until this stage of the adaptation is over."""
    while adaptation.stage is stage:
        progress = yield adaptation
        if progress is not None:
            yield progress
    yield None  # other jobs may step before the next stage begins
