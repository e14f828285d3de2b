"""The whole job, in process: labelled images in, a checked ONNX model and its report out.

Each stage is one function of another module; this file only puts them in order and keeps the time.
"""

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metanas import __version__
from metanas.adapt import Control, Step, adapt, tune
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput, Violation
from metanas.export import Classifier, check, to_onnx
from metanas.genotype import Genotype
from metanas.head import linear_head, prototypes
from metanas.images import decode, from_array
from metanas.measure import Gap, gap, leave_one_out, macs_of, meta_features, view_accuracy
from metanas.network import DiscreteNetwork, features_of, from_supernet
from metanas.optimizer import Params
from metanas.options import AdaptConfig
from metanas.report import Report
from metanas.supernet import genotype_of
from metanas.support import Image, Preprocessing, SupportSet, preprocessing_for, support_set
from metanas.task import Example, Limits, check_examples

CONFORMANCE_TOLERANCE = 1e-3
"""How far another runtime's logits may be from the conformance vector's."""


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
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


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
        should_stop: asked between two steps.

    Raises:
        InvalidInput: a support set that cannot be adapted to, with all that is wrong with it.
        Cancelled: `should_stop` said so.
        Diverged: the loss became NaN or infinite.
        ExportMismatch: the exported file computes something else (a defect of ours).
    """
    job = Job(checkpoint, options or checkpoint.card.defaults, seed, on_progress, should_stop)
    return job.export(job.adapt(examples, classes, limits))


@dataclass(frozen=True)
class Task:
    """A support set in every form that the stages need it in."""

    images: tuple[Image, ...]
    preprocess: Preprocessing
    support: SupportSet
    digest: str


@dataclass(frozen=True)
class Adapted:
    """What adaptation leaves: the soft supernet's parameters, and the pruned and tuned network."""

    task: Task
    params: Params
    genotype: Genotype
    network: DiscreteNetwork
    gap: Gap


class Job:
    """One call of `make_model`, in its two halves."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: AdaptConfig,
        seed: int,
        on_progress: OnProgress,
        should_stop: Callable[[], bool],
    ) -> None:
        self.checkpoint, self.options, self.seed = checkpoint, options, seed
        self.on_progress, self.should_stop = on_progress, should_stop
        self.time = Stopwatch()
        self.generator = torch.Generator().manual_seed(seed)

    def adapt(
        self, examples: Sequence[Example], classes: Sequence[str] | None, limits: Limits
    ) -> Adapted:
        """Decode, adapt, prune and tune; raises what `make_model` raises."""
        with self._stage("decode", len(examples)):
            check_examples(examples, limits, classes)
            task = self._decode(examples, classes, limits)
        with self._stage("adapt", self.options.steps):
            params = self._adapt(task)
        with self._stage("prune", 1):
            genotype = genotype_of(self.checkpoint.supernet, params)
            network = from_supernet(
                self.checkpoint.card.space, params, genotype, self.checkpoint.ops
            )
            found = self._gap(params, network, task)
        with self._stage("tune", self.options.tuning_steps):
            control = self._control("tune", self.options.tuning_steps)
            tune(network, self.checkpoint, task.support, self.options, self.generator, control)
        return Adapted(task, params, genotype, network, found)

    def export(self, adapted: Adapted) -> AdaptedModel:
        """Build the ONNX file, check it, and report; raises what `make_model` raises."""
        task, genotype = adapted.task, adapted.genotype
        with self._stage("export", 1), torch.no_grad():
            classifier, logits = _classifier(adapted.network, task)
            metadata = self._metadata(task, genotype, classifier)
            proto = to_onnx(classifier, self.checkpoint.ops, metadata)
        with self._stage("check", 1):
            data, difference = check(proto, task.images, logits)
        report = self._report(adapted, classifier, len(data), difference)
        sha256 = hashlib.sha256(data).hexdigest()
        return AdaptedModel(data, sha256, genotype, task.support.classes, report)

    @contextmanager
    def _stage(self, name: str, steps: int) -> Iterator[None]:
        self._control(name, steps).check()
        self.on_progress(Progress(name, 0, steps))
        with self.time(name):
            yield

    def _control(self, stage: str, steps: int) -> Control:
        def on_step(step: Step) -> None:
            figures = (step.loss, step.accuracy, step.temperature, step.entropy)
            self.on_progress(Progress(stage, step.step, steps, *figures))

        return Control(on_step, self.should_stop)

    def _decode(
        self, examples: Sequence[Example], classes: Sequence[str] | None, limits: Limits
    ) -> Task:
        spec = self.checkpoint.card.input
        images: list[Image] = []
        bad: list[Violation] = []
        for index, example in enumerate(examples):
            try:
                images.append(_read(example.image, spec.channels, limits))
            except InvalidInput as error:
                bad.extend(error.within(f"examples[{index}]").violations)
        if bad:
            raise InvalidInput(bad)
        preprocess = preprocessing_for(images, spec)
        labels = [example.label for example in examples]
        support = support_set(images, labels, preprocess, classes)
        digest = _support_digest(images, labels, support.classes)
        return Task(tuple(images), preprocess, support, digest)

    def _adapt(self, task: Task) -> Params:
        control = self._control("adapt", self.options.steps)
        return adapt(self.checkpoint, task.support, self.options, self.generator, control)

    def _gap(self, params: Params, network: DiscreteNetwork, task: Task) -> Gap:
        return gap(self.checkpoint, params, network, task.support, self.options, self.seed)

    def _metadata(self, task: Task, genotype: Genotype, classifier: Classifier) -> dict[str, str]:
        card = self.checkpoint.card
        space = card.space
        return {
            "metanas.version": __version__,
            "metanas.labels": json.dumps(task.support.classes, ensure_ascii=False),
            "metanas.genotype": genotype.to_json(),
            "metanas.checkpoint": card.name,
            "metanas.checkpoint_digest": card.digest,
            "metanas.support_digest": task.digest,
            "metanas.seed": str(self.seed),
            "metanas.input": json.dumps({"channels": card.input.channels, "size": card.input.size}),
            "metanas.options": json.dumps(self.options.to_dict()),
            "metanas.cells": json.dumps({"cells": space.cells, "reductions": space.reductions}),
            "metanas.conformance": _conformance(task.images[0], classifier),
        }

    def _report(
        self, adapted: Adapted, classifier: Classifier, onnx_bytes: int, difference: float
    ) -> Report:
        task, genotype, network = adapted.task, adapted.genotype, adapted.network
        card, support = self.checkpoint.card, adapted.task.support
        weights = sum(p.numel() for k, p in network.named_parameters() if ".log_scale" not in k)
        with self.time("report"):
            macs = macs_of(network, card.input.size)
            accuracy = view_accuracy(classifier, support, card.augment, self.seed)
            features = meta_features(self.checkpoint, support, self.options.batch_size)
            held_out = leave_one_out(features, support, classifier.scale)
        return Report(
            checkpoint=card.name,
            checkpoint_digest=card.digest,
            support_digest=task.digest,
            seed=self.seed,
            options=self.options.to_dict(),
            ways=support.ways,
            shots=support.shots,
            steps=self.options.steps,
            tuning_steps=self.options.tuning_steps,
            seconds={stage: round(value, 6) for stage, value in self.time.seconds.items()},
            parameters=weights + classifier.weight.numel() + classifier.bias.numel(),
            macs=macs,
            onnx_bytes=onnx_bytes,
            accuracy_soft=adapted.gap.soft,
            accuracy_pruned=adapted.gap.pruned,
            accuracy=accuracy,
            logit_gap=adapted.gap.logits,
            leave_one_out=held_out,
            onnx_difference=difference,
            meta_genotype_distance=genotype.distance(self.checkpoint.meta_genotype),
            genotype=json.loads(genotype.to_json()),
        )


def _read(image: bytes | NDArray[Any], channels: int, limits: Limits) -> Image:
    """A decoded image, uint8: queries will come with eight bits, so the support set has no more."""
    if isinstance(image, bytes):
        return decode(image, channels=channels, limits=limits)
    array = from_array(image, channels=channels, limits=limits)
    whole = array if array.dtype == np.uint8 else np.rint(array * 255)
    return whole.astype(np.uint8)


def _classifier(network: DiscreteNetwork, task: Task) -> tuple[Classifier, Tensor]:
    """The classifier with its prototype head, and its logits of the support set."""
    support = task.support
    features = features_of(network, support.images)
    scale = network.head["log_scale"].exp()
    weight, bias = linear_head(*prototypes(features, support.labels, support.ways), scale)
    classifier = Classifier(task.preprocess, network, weight, bias, scale)
    return classifier, features @ weight.T + bias


def _support_digest(images: Sequence[Image], labels: Sequence[str], classes: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for image, label in zip(images, labels, strict=True):
        name = label.encode()
        digest.update(f"{len(name)} {image.shape} {image.dtype}\n".encode() + name)
        digest.update(image.tobytes())
    return digest.hexdigest()


def _conformance(image: Image, classifier: Classifier) -> str:
    """One image and its logits: any runtime can prove itself on it.

    Of a large image every k-th pixel, so that a photo does not make the file several times larger.
    """
    step = max(1, max(image.shape) // (2 * classifier.preprocess.size))
    small = image[::step, ::step]
    logits = classifier.logits(classifier.preprocess(small))[0]
    vector = {
        "image": b64encode(small.tobytes()).decode(),
        "shape": small.shape,
        "logits": [round(value, 6) for value in logits.tolist()],
        "tolerance": CONFORMANCE_TOLERANCE,
    }
    return json.dumps(vector)
