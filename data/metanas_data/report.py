"""Report of one adaptation, as the core writes it and the client reads it.

This module needs the standard library only.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from metanas_data.intervals import Proportion


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Metrics of one class."""

    label: str
    images: int
    """Number of images of the class."""
    recall: Proportion
    """Share of the images of the class that are predicted as it."""
    precision: Proportion
    """Share of the images predicted as the class that are of it."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Mistake that occurs `images` times."""

    label: str
    """True class."""
    predicted: str
    images: int


@dataclass(frozen=True, kw_only=True)
class SuspiciousImage:
    """Support image that looks like another class than its own."""

    index: int
    """Position in the support set, from 0."""
    label: str
    """Class that the support set gives it."""
    looks_like: str
    """Class that a head without the image gives it."""
    probability: float
    """Probability of its label by that head, 0 to 1."""
    likely: bool
    """True if it is probably mislabelled. A clean support set has 0.2 such images in the mean."""


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Estimates by heads that were fitted without the images that they classify.

    The features are those *before* adaptation: after it, the estimate would be nearly 1.
    """

    accuracy: float
    """Estimate of the accuracy on new images, 0 to 1.

    The accuracies with one and two images of each class left out are continued to all images. With
    two images a class the figure is that of one shot, rather low.
    """
    low: float
    """Lower end of the 95 % interval of the accuracy."""
    high: float
    """Upper end."""
    classes: tuple[ClassMetrics, ...]
    """Metrics of each class. Images that are alone in their class are not counted."""
    confusions: tuple[Confusion, ...]
    """Classes that are confused, at most 20 pairs, the most frequent first."""
    suspicious: tuple[SuspiciousImage, ...]
    """Images that look like another class than their own, at most 10, the most suspicious first."""
    weakest: str | None
    """Class that probably needs more images most: the one with clearly the fewest images or, of
    classes with equally few, the lowest recall. Empty if no class is clearly weaker; None if it is
    unknown, in reports of older releases."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts about one adaptation."""

    checkpoint: str
    checkpoint_digest: str
    prior: Mapping[str, float]
    """Branch of the universal search space -> its share by the prior; empty for one checkpoint."""
    architecture: Mapping[str, float]
    """Branch of the universal search space -> its share in the model; empty for one checkpoint."""
    over_budget: float
    """Share of the features without a budget that the budget has left out, 0 to 1."""
    support_digest: str
    """SHA-256 over the classes, and over labels and decoded images, in order."""
    seed: int
    options: Mapping[str, int | float | bool | str]
    ways: int
    shots: tuple[int, ...]
    """Support images of each class."""
    leave_one_out: LeaveOneOut | None
    """Estimates of the quality on new images; None if no class has two images."""
    temperature: float
    """Temperature of the probabilities, from images that are left out. 1 is the scale that
    meta-training has learned, also for one image a class."""
    steps: int
    """Steps on weights and alphas."""
    tuning_steps: int
    """Steps on the pruned network's weights."""
    steps_saved: int
    """Steps of both kinds that early stopping saved."""
    seconds: Mapping[str, float]
    """Stage -> seconds."""
    parameters: int
    """Weights of the exported network, head included."""
    macs: int
    """Multiply-accumulates for one image, its shifted copies included."""
    onnx_bytes: int
    accuracy_soft: float
    """Accuracy of the soft supernet after adaptation, on views of the support images, 0 to 1.

    The views come from a random stream that the search does not use. Behind a trunk they are among
    the stored views, from which the search draws too. This figure and the next ignore
    `shift_pixels`.
    """
    accuracy_pruned: float
    """Accuracy of the pruned network with the same weights, on the same views."""
    accuracy: float
    """Accuracy of the exported network, on the same views."""
    logit_gap: float
    """Mean absolute difference of a logit, soft supernet against pruned network, on the views."""
    onnx_difference: float
    """Largest difference of a logit between ONNX Runtime and torch, on up to 16 support images."""
    meta_genotype_distance: int
    """Edges in which the genotype differs from the meta-genotype."""
    genotype: Mapping[str, Any]
    """Cells by kind: for each node, its two [input index, operation] pairs."""

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(asdict(self))
