"""One model in the making: labelled images in, a checked ONNX model and its report out.

Each stage is one function of another module; this file only puts them in order and keeps the time.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor

from metanas.adapt import Adaptation, Stage, Step, start_of
from metanas.card import check_options
from metanas.checkpoint import Checkpoint
from metanas.errors import Cancelled, OutOfMemory
from metanas.export import Classifier, check, to_onnx
from metanas.genotype import Genotype
from metanas.head import linear_head, membership, prototypes
from metanas.measure import Gap, gap, leave_one_out, meta_features, view_accuracy
from metanas.metadata import metadata_of
from metanas.network import DiscreteNetwork, features_of
from metanas.options import AdaptConfig
from metanas.reading import Task, read_task
from metanas.report import Report
from metanas.task import Example, Limits


@dataclass(frozen=True)
class Progress:
    """Where an adaptation is; figures that a stage does not have are NaN."""

    stage: str
    step: int
    steps: int
    loss: float = nan
    accuracy: float = nan
    temperature: float = nan
    entropy: float = nan


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class AdaptedModel:
    """What leaves: the ONNX file and all that is to be known of it."""

    onnx: bytes
    sha256: str
    genotype: Genotype
    labels: tuple[str, ...]
    report: Report


class Stopwatch:
    """Seconds of each stage; a step that several jobs took together counts in full for each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """A stage took so much more time."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - start)


def too_large() -> OutOfMemory:
    """What becomes of a job that the device has no memory for."""
    message = "the device has too little memory for this support set; send fewer images"
    return OutOfMemory(message)


def out_of_memory(error: Exception) -> bool:
    """Whether the device, or a library that computes on it, could not have the memory it asked for.

    Only torch's own allocator for devices has an error of its own for that.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = ("ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


class Job:
    """One model in the making, turn by turn; `metanas.workbench` gives it its turns.

    First `decode`, then steps of `adaptation` until it is done, `prune` as soon as it is `decided`,
    and `finish` at the end. Whatever goes wrong in a turn ends the job: `outcome` is then the
    error, or else the finished model.

    alone: whether its steps must not be stacked with those of other jobs.
    """

    def __init__(  # noqa: PLR0913 (the arguments of make_model, and one)
        self,
        checkpoint: Checkpoint,
        examples: Sequence[Example],
        *,
        classes: Sequence[str] | None = None,
        options: AdaptConfig | None = None,
        seed: int = 0,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        on_progress: OnProgress = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        alone: bool = False,
    ) -> None:
        """Take what `make_model` takes."""
        self.checkpoint, self.seed, self.alone = checkpoint, seed, alone
        self.options = _resolved(options or checkpoint.card.defaults)
        self.outcome: AdaptedModel | Exception | None = None
        self.task: Task | None = None
        self.adaptation: Adaptation | None = None
        self._given = (examples, classes, limits)
        self._on_progress, self._should_stop = on_progress, should_stop
        self._time = Stopwatch()
        self._gap: Gap | None = None

    def result(self) -> AdaptedModel:
        """The model, once the job has ended.

        Raises:
            Exception: what ended the job in its stead.
        """
        assert self.outcome is not None
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def check(self) -> bool:
        """Whether the job goes on; it ends here if it was asked to stop."""
        with self._turn():
            if self.outcome is None and self._should_stop():
                raise Cancelled
        return self.outcome is None

    def decode(self) -> None:
        """Read the support set and get ready for the first step."""
        with self._turn():
            examples, classes, limits = self._given
            with self._stage("decode", len(examples)):
                card = self.checkpoint.card
                check_options(self.options, card.input, card.space)
                self.task = read_task(
                    examples,
                    classes,
                    limits,
                    checkpoint=self.checkpoint,
                    steps=self.options.steps + self.options.tuning_steps,
                    seed=self.seed,
                    should_stop=self._should_stop,
                )
            generator = torch.Generator().manual_seed(self.seed)
            self.adaptation = Adaptation(
                self.checkpoint, self.task.support, self.options, generator
            )
            self._begin("adapt", self.options.steps)

    def stepped(self, outcome: Step | Exception | None, seconds: float) -> None:
        """Take note of what a step of the adaptation came to, and how long it took."""
        with self._turn():
            if isinstance(outcome, Exception):
                raise outcome
            assert self.adaptation is not None
            searching = self._gap is None
            stage = "adapt" if searching else "tune"
            steps = self.options.steps if searching else self.options.tuning_steps
            self._time.add(stage, seconds)
            if outcome is None:  # half a step
                return
            figures = (outcome.loss, outcome.accuracy, outcome.temperature, outcome.entropy)
            self._on_progress(Progress(stage, outcome.step, steps, *figures))

    @property
    def decided(self) -> bool:
        """Whether the search has just ended, so that `prune` is due."""
        found = self.adaptation is not None and self.adaptation.genotype is not None
        return found and self._gap is None

    def prune(self) -> None:
        """Measure what deciding has cost."""
        assert self.task is not None
        assert self.adaptation is not None
        with self._turn():
            with self._stage("prune", 1):
                support, soft = self.task.support, self.adaptation.soft
                self._gap = gap(self.checkpoint, soft, support, self.options, self.seed)
            self._begin("tune", self.options.tuning_steps)

    def finish(self) -> None:
        """Build the ONNX file, check it, and report."""
        with self._turn():
            self.outcome = self._export()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Whatever a turn raises is the outcome of this job, and of no other."""
        try:
            yield
        except Exception as error:
            self.outcome = too_large() if out_of_memory(error) else error

    def _export(self) -> AdaptedModel:
        assert self.task is not None
        assert self.adaptation is not None
        assert self.adaptation.genotype is not None
        task, genotype = self.task, self.adaptation.genotype
        with self._stage("export", 1), torch.no_grad():
            shift = self.options.shift_pixels
            network, features = self.adaptation.network()
            if shift:
                features = features_of(network, task.support.images, shift)
            classifier, logits = _classifier(network, features, task, self.checkpoint, shift)
            metadata = metadata_of(
                self.checkpoint,
                task,
                self.options,
                self.seed,
                genotype=genotype,
                classifier=classifier,
                logits=logits,
            )
            proto = to_onnx(classifier, self.checkpoint.ops, metadata)
        with self._stage("check", 1):
            data, difference = check(proto, task.images, logits, shift)
        report = self._report(classifier, len(data), difference)
        sha256 = hashlib.sha256(data).hexdigest()
        return AdaptedModel(data, sha256, genotype, task.support.classes, report)

    def _begin(self, name: str, steps: int) -> None:
        if not self.check():
            raise Cancelled
        self._on_progress(Progress(name, 0, steps))

    @contextmanager
    def _stage(self, name: str, steps: int) -> Iterator[None]:
        self._begin(name, steps)
        with self._time(name):
            yield

    def _report(self, classifier: Classifier, onnx_bytes: int, difference: float) -> Report:
        assert self.task is not None
        assert self.adaptation is not None
        assert self.adaptation.genotype is not None
        assert self._gap is not None
        task, genotype, network = self.task, self.adaptation.genotype, classifier.network
        card, support = self.checkpoint.card, task.support
        weights = sum(p.numel() for k, p in network.named_parameters() if ".log_scale" not in k)
        if classifier.trunk is not None:
            weights += sum(p.numel() for p in classifier.trunk.parameters())
        with self._time("report"):
            accuracy, macs = view_accuracy(classifier, support, card.augment, self.seed)
            held_out = None
            if max(support.shots) > 1:
                start = start_of(self.checkpoint, self.options)
                features = meta_features(self.checkpoint, start, support, self.options)
                held_out = leave_one_out(features, support, classifier.scale)
        return Report(
            checkpoint=card.name,
            checkpoint_digest=card.digest,
            support_digest=task.digest,
            seed=self.seed,
            options=self.options.to_dict(),
            ways=support.ways,
            shots=support.shots,
            steps=self.adaptation.taken[Stage.ADAPT],
            tuning_steps=self.adaptation.taken[Stage.TUNE],
            steps_saved=self.adaptation.saved,
            seconds={stage: round(value, 6) for stage, value in self._time.seconds.items()},
            parameters=weights + classifier.weight.numel() + classifier.bias.numel(),
            macs=macs,
            onnx_bytes=onnx_bytes,
            accuracy_soft=self._gap.soft,
            accuracy_pruned=self._gap.pruned,
            accuracy=accuracy,
            logit_gap=self._gap.logits,
            leave_one_out=held_out,
            onnx_difference=difference,
            meta_genotype_distance=genotype.distance(self.checkpoint.meta_genotype),
            genotype=json.loads(genotype.to_json()),
        )


def _resolved(options: AdaptConfig) -> AdaptConfig:
    """The options as they take effect."""
    return replace(options, steps=0, tuning_steps=0) if options.trunk_only else options


def _classifier(
    network: DiscreteNetwork,
    features: Tensor,
    task: Task,
    checkpoint: Checkpoint,
    shift_pixels: int,
) -> tuple[Classifier, Tensor]:
    """The classifier with its prototype head, and its logits of the support set."""
    support = task.support
    scale = network.head["log_scale"].exp()
    members = membership(support.labels, support.ways)
    weight, bias = linear_head(*prototypes(features, members), scale)
    trunk = checkpoint.trunk
    if trunk is not None and checkpoint.device.type != "cpu":
        trunk = deepcopy(trunk).cpu()
    classifier = Classifier(task.preprocess, network, weight, bias, scale, trunk, shift_pixels)
    return classifier, features @ weight.T + bias
