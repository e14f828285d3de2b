"""The last stages of a request: join the adapted networks under one head, and write the report."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.adaptation.adaptation import Adaptation, Stage
from metanas.adaptation.metrics import (
    Gap,
    meta_features,
    query_macs,
    stream,
    view_accuracy,
    weights_of,
)
from metanas.adaptation.views import head_inputs, pixel_views
from metanas.errors import InvalidInput
from metanas.estimates.estimates import estimates_of
from metanas.estimates.known import known_of
from metanas.estimates.left_out import LeftOut, leave_out
from metanas.export.metadata import Origin
from metanas.export.onnx_model import Classifier, Encoder
from metanas.export.runtime import Image
from metanas.export.variants import convert
from metanas.images.support_set import Task
from metanas.nn.heads import HEADS
from metanas.nn.ops import Op
from metanas.nn.prototypes import membership
from metanas.nn.trunk import Trunk
from metanas.spec.options import AdaptConfig
from metanas.spec.variant import Variant
from metanas.supernet.discrete import features_of
from metanas.util.work import Parts, in_thread
from metanas_data.report import Report

MOST_COMPARED = 32
"""Most support images on which a converted file is compared, with a view of each."""
NO_GAP = Gap(nan, nan, nan)
"""The gap of a network that was not measured."""


@dataclass(frozen=True)
class Branch:
    """A branch of a model: an adaptation that has ended, and the support set as it got it."""

    adaptation: Adaptation
    task: Task
    share: float
    """Share of the joined features; the sum over the branches of a model is 1."""
    pruning: Gap = NO_GAP

    @property
    def ops(self) -> Mapping[str, Op]:
        """The operations of its network, by name."""
        return self.adaptation.checkpoint.ops


@dataclass(frozen=True)
class Joint:
    """The branches of a model, the one with the largest share first."""

    branches: tuple[Branch, ...]
    origin: Origin
    scale: float | None = None
    """Scale of the logits. None takes that of a checkpoint, which is then the only one; its
    features are as they are."""

    @property
    def ops(self) -> Mapping[str, Op]:
        """The operations of all networks, by name."""
        return {name: op for each in self.branches for name, op in each.ops.items()}

    @property
    def task(self) -> Task:
        """The support set with its images as the model takes them, in colour if a branch is."""
        return max((each.task for each in self.branches), key=lambda task: task.images[0].shape[2])

    @property
    def options(self) -> AdaptConfig:
        """The options of all branches."""
        return self.first.adaptation.config

    @property
    def first(self) -> Branch:
        """The branch with the largest share."""
        return self.branches[0]

    def features(self, parts: Sequence[Tensor]) -> Tensor:
        """Join features `(N, D)` of each branch: of length one, times the root of its share."""
        if self.scale is None:
            return parts[0]
        units = [F.normalize(part, dim=1) for part in parts]
        roots = [branch.share**0.5 for branch in self.branches]
        return torch.cat([unit * root for unit, root in zip(units, roots, strict=True)], dim=1)


def joint_of(adaptation: Adaptation, task: Task) -> Joint:
    """Return an adaptation of one checkpoint as the only branch of a model."""
    card = adaptation.checkpoint.card
    return Joint((Branch(adaptation, task, 1.0),), Origin(card.name, card.digest))


def classifier_of(joint: Joint) -> Parts[tuple[Classifier, Tensor]]:
    """Build the classifier on the CPU; also return its logits of the support set."""
    first, options = joint.first, joint.options
    encoders, parts, copies = list[Encoder](), list[Tensor](), dict[int, Trunk]()
    members = membership(first.task.support.labels, first.task.support.ways)
    for branch in joint.branches:
        adaptation, task, shift = branch.adaptation, branch.task, options.shift_pixels
        network, features = yield from adaptation.network()
        inputs, members = head_inputs(task.support, adaptation.checkpoint.card)
        if shift or len(inputs) > len(features):
            features = yield from features_of(network, inputs, shift)
        trunk = adaptation.checkpoint.trunk
        if trunk is not None and adaptation.checkpoint.device.type != "cpu":
            if id(trunk) not in copies:
                copies[id(trunk)] = deepcopy(trunk).cpu()
            trunk = copies[id(trunk)]
        unit = joint.scale is not None and not network.space.unit_features
        encoders.append(Encoder(task.preprocess, network, trunk, shift, unit))
        parts.append(features)
    scale = encoders[0].network.head["log_scale"].exp()
    if joint.scale is not None:
        scale = torch.tensor(joint.scale)
    features = joint.features(parts)
    weight, bias = HEADS[options.head].linear(features, members, scale)
    images = features[: len(first.task.support.labels)]
    logits = images @ weight.T + bias
    known = known_of(images, first.task.support.labels, first.task.support.ways)
    if joint.scale is not None:  # the encoders' features have length one
        lengths = torch.tensor([part.shape[1] for part in parts])
        shares = torch.tensor([branch.share for branch in joint.branches])
        roots = shares.sqrt().repeat_interleave(lengths)
        weight = weight * roots
        known = replace(known, means=known.means * roots * len(parts) ** 0.5)
    return Classifier(tuple(encoders), weight, bias, scale, known), logits


def left_out_of(joint: Joint, scale: Tensor, seed: int) -> Parts[LeftOut | None]:
    """Classify support images by heads without them; None if no class has two images."""
    options, support = joint.options, joint.task.support
    if max(support.shots) < 2:
        return None
    parts = []
    for branch in joint.branches:
        yield
        checkpoint, task = branch.adaptation.checkpoint, branch.task.support
        features = yield from meta_features(checkpoint, task, options)
        parts.append(features)
    sets, head = stream(seed, "report sets"), HEADS[options.head]
    return leave_out(head, joint.features(parts), support, scale, sets)


def calibrated(classifier: Classifier, temperature: float) -> Classifier:
    """Divide the logits of a classifier by a temperature."""
    parts = (classifier.weight, classifier.bias, classifier.scale)
    weight, bias, scale = (part / temperature for part in parts)
    return replace(classifier, weight=weight, bias=bias, scale=scale)


def calibration_images(joint: Joint, seed: int) -> list[Image]:
    """Return up to `MOST_COMPARED` support images of a model, and a view of each."""
    images, card = joint.task.images, joint.first.adaptation.checkpoint.card
    rows = torch.linspace(0, len(images) - 1, MOST_COMPARED).round().int().unique()
    some = [images[row] for row in rows]
    longest = 2 * max(branch.task.preprocess.size for branch in joint.branches)
    generator = torch.Generator().manual_seed(seed)
    return [*some, *pixel_views(some, longest, card.augment, generator)]


def converted(joint: Joint, onnx: bytes, seed: int) -> Parts[bytes]:
    """Convert the file of a model to the precision of its options, in a thread.

    Raises:
        InvalidInput: VARIANT_REFUSED, on the support images and views of them it answers
            differently.
    """
    images = calibration_images(joint, seed)
    variant = Variant(precision=joint.options.precision)
    try:
        return (yield from in_thread(lambda: convert(onnx, variant, images)))
    except InvalidInput as error:
        raise error.within("options") from None


def report_of(
    joint: Joint,
    classifier: Classifier,
    left: LeftOut | None,
    onnx: bytes,
    difference: float,
    seed: int,
) -> Parts[Report]:
    """Measure the finished model and write the report, without the facts that its job knows."""
    first, options, support = joint.first, joint.options, joint.task.support
    tasks = [branch.task.support for branch in joint.branches]
    adaptations = [branch.adaptation for branch in joint.branches]
    ranges = [each.checkpoint.card.augment for each in adaptations]
    accuracy = yield from view_accuracy(classifier, tasks, ranges, seed)
    return Report(
        checkpoint=joint.origin.checkpoint,
        checkpoint_digest=joint.origin.digest,
        prior={},
        over_budget=0.0,
        architecture=joint.origin.architecture,
        support_digest=joint.task.digest,
        seed=seed,
        options=options.to_dict(),
        ways=support.ways,
        shots=support.shots,
        steps=sum(each.taken[Stage.ADAPT] for each in adaptations),
        tuning_steps=sum(each.taken[Stage.TUNE] for each in adaptations),
        steps_saved=sum(each.saved for each in adaptations),
        seconds={},
        parameters=weights_of(classifier),
        macs=query_macs(classifier, tasks),
        onnx_bytes=len(onnx),
        accuracy_soft=first.pruning.soft,
        accuracy_pruned=first.pruning.pruned,
        accuracy=accuracy,
        logit_gap=first.pruning.logits,
        leave_one_out=None if left is None else estimates_of(left),
        temperature=1.0,
        onnx_difference=difference,
        meta_genotype_distance=sum(
            each.decided.distance(each.checkpoint.meta_genotype) for each in adaptations
        ),
        genotype=json.loads(first.adaptation.decided.to_json()),
    )
