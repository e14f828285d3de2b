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

from metanas.adaptation.adaptation import Adaptation, Stage, Step, start_of
from metanas.adaptation.metrics import Gap, gap, leave_one_out, meta_features, view_accuracy
from metanas.adaptation.read_task import read_task
from metanas.adaptation.views import of_prototypes
from metanas.checkpoint import Checkpoint
from metanas.errors import Cancelled, OutOfMemory
from metanas.export.metadata import metadata_of
from metanas.export.onnx_model import Classifier, to_onnx
from metanas.export.verify import check_in_parts
from metanas.images.support_set import Task
from metanas.nn.prototypes import linear_head, prototypes
from metanas.spec.card import check_options
from metanas.spec.examples import Example, Limits
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.report import Report
from metanas.supernet.discrete import DiscreteNetwork, features_in_parts
from metanas.util.work import Parts


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
        self._stage, self._since = "decode", 0.0

    def add(self, stage: str, seconds: float) -> None:
        """A stage took so much more time."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def start(self) -> None:
        """From now on time is that of the stage that it was stopped in."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Up to now it was."""
        now = time.perf_counter()
        self.add(self._stage, now - self._since)
        self._since = now

    def turn_to(self, stage: str) -> None:
        """From now on time is that of this stage."""
        self.stop()
        self._stage = stage


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
    """One model in the making, turn by turn; `metanas.adaptation.scheduler` gives it its turns.

    A turn is either a part of the `work` that a job does on its own (decoding, pruning, making and
    checking the file), or a step of its `adaptation`, for which it is `ready` then. Whatever goes
    wrong in a turn ends the job: `outcome` is then the error, or else the finished model.

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
        self._on_progress, self._should_stop = on_progress, should_stop
        self._time = Stopwatch()
        self._gap: Gap | None = None
        self._work: Parts[None] | None = self._read(examples, classes, limits)

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

    @property
    def ready(self) -> bool:
        """Whether its next turn is a step."""
        return self._work is None and self.outcome is None

    def work(self) -> None:
        """Do a part of what is to be done before the next step, or after the last one."""
        if self._work is None or not self.check():
            return
        self._time.start()
        with self._turn():
            try:
                next(self._work)
            except StopIteration:
                self._work = self._due()
        self._time.stop()

    def decode(self) -> None:
        """Work until the support set is read and the adaptation can begin."""
        while self.adaptation is None and self.outcome is None:
            self.work()

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
            self._work = self._due()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Whatever a turn raises is the outcome of this job, and of no other."""
        try:
            yield
        except Exception as error:
            self.outcome, self._work = too_large() if out_of_memory(error) else error, None

    def _due(self) -> Parts[None] | None:
        """What is to be done now, if it is not a step."""
        assert self.adaptation is not None
        if self.outcome is not None or self.adaptation.stage is Stage.ADAPT:
            return None
        if self._gap is None:
            return self._prune()
        return self._finish() if self.adaptation.stage is Stage.DONE else None

    def _read(
        self, examples: Sequence[Example], classes: Sequence[str] | None, limits: Limits
    ) -> Parts[None]:
        """Read the support set and get ready for the first step."""
        self._begin("decode", len(examples))
        card = self.checkpoint.card
        check_options(self.options, card.input, card.space)
        self.task = yield from read_task(
            examples,
            classes,
            limits,
            checkpoint=self.checkpoint,
            views=1 if self.options.trunk_only else card.views,
            seed=self.seed,
        )
        generator = torch.Generator().manual_seed(self.seed)
        self.adaptation = Adaptation(self.checkpoint, self.task.support, self.options, generator)
        self._announce("adapt", self.options.steps)

    def _prune(self) -> Parts[None]:
        """Measure what deciding has cost."""
        assert self.task is not None
        assert self.adaptation is not None
        self._begin("prune", 1)
        support, soft = self.task.support, self.adaptation.soft
        self._gap = gap(self.checkpoint, soft, support, self.options, self.seed)
        yield
        self._announce("tune", self.options.tuning_steps)

    @torch.no_grad()
    def _finish(self) -> Parts[None]:
        """Build the ONNX file, check it, and report."""
        assert self.task is not None
        assert self.adaptation is not None
        assert self.adaptation.genotype is not None
        task, genotype = self.task, self.adaptation.genotype
        shift = self.options.shift_pixels
        self._begin("export", 1)
        network, features = yield from self.adaptation.network()
        shown, members = of_prototypes(task.support, self.options)
        if shift or len(shown) > len(features):
            features = yield from features_in_parts(network, shown, shift)
        head = linear_head(*prototypes(features, members), network.head["log_scale"].exp())
        classifier = _classifier(network, head, task, self.checkpoint, shift)
        logits = features[: len(task.images)] @ classifier.weight.T + classifier.bias
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
        yield
        self._begin("check", 1)
        data, difference = yield from check_in_parts(proto, task.images, logits, shift)
        self._time.turn_to("report")
        report = yield from self._report(classifier, len(data), difference)
        sha256 = hashlib.sha256(data).hexdigest()
        self.outcome = AdaptedModel(data, sha256, genotype, task.support.classes, report)

    def _begin(self, stage: str, steps: int) -> None:
        """From here on time is that of this stage."""
        self._announce(stage, steps)
        self._time.turn_to(stage)

    def _announce(self, stage: str, steps: int) -> None:
        if not self.check():
            raise Cancelled
        self._on_progress(Progress(stage, 0, steps))

    def _report(self, classifier: Classifier, onnx_bytes: int, difference: float) -> Parts[Report]:
        assert self.task is not None
        assert self.adaptation is not None
        assert self.adaptation.genotype is not None
        assert self._gap is not None
        task, genotype, network = self.task, self.adaptation.genotype, classifier.network
        card, support = self.checkpoint.card, task.support
        weights = sum(p.numel() for k, p in network.named_parameters() if ".log_scale" not in k)
        if classifier.trunk is not None:
            weights += sum(p.numel() for p in classifier.trunk.parameters())
        accuracy, macs = yield from view_accuracy(classifier, support, card.augment, self.seed)
        held_out = None
        if max(support.shots) > 1:
            yield
            start = start_of(self.checkpoint, self.options)
            features = yield from meta_features(self.checkpoint, start, support, self.options)
            held_out = leave_one_out(features, support, classifier.scale)
        self._time.stop()
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
    head: tuple[Tensor, Tensor],
    task: Task,
    checkpoint: Checkpoint,
    shift_pixels: int,
) -> Classifier:
    """The classifier with this head, on the CPU."""
    scale = network.head["log_scale"].exp()
    trunk = checkpoint.trunk
    if trunk is not None and checkpoint.device.type != "cpu":
        trunk = deepcopy(trunk).cpu()
    return Classifier(task.preprocess, network, *head, scale, trunk, shift_pixels)
