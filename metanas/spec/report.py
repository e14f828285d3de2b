"""Progress of an adaptation while it runs, and the report that goes with its model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

from metanas.spec.options import Option
from metanas.util import dataclass_json as schema


@dataclass(frozen=True)
class Progress:
    """The start of a stage (step 0) or a finished step; NaN where a figure does not apply."""

    stage: str
    step: int
    steps: int
    loss: float = nan
    accuracy: float = nan
    """Accuracy on views of the support images, by heads without these images, 0 to 1."""
    temperature: float = nan
    entropy: float = nan
    """Mean entropy of the step's mixture over an edge's candidates, in nats; 0 is one-hot."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Facts about one adaptation, as plain data."""

    checkpoint: str
    checkpoint_digest: str
    prior: Mapping[str, float]
    """Branch of the universal search space -> its share by the prior; empty for one checkpoint."""
    architecture: Mapping[str, float]
    """Branch of the universal search space -> its share in the model; empty for one checkpoint."""
    support_digest: str
    """SHA-256 over the classes, and over labels and decoded images, in order."""
    seed: int
    options: Mapping[str, Option]
    ways: int
    shots: tuple[int, ...]
    """Support images of each class."""
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
    leave_one_out: float | None
    """Estimate of the accuracy on new images, 0 to 1.

    Heads without some of the images classify these by their features *before* adaptation. The
    accuracies with one and two images of each class left out are continued to all images. With two
    images a class the figure is that of one shot, rather low. None if no class has two images.
    """
    onnx_difference: float
    """Largest difference of a logit between ONNX Runtime and torch, on the support set."""
    meta_genotype_distance: int
    """Edges in which the genotype differs from the meta-genotype."""
    genotype: Mapping[str, Any]
    """As `Genotype.to_json` writes it."""

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(schema.dump(self))

    @staticmethod
    def from_json(text: str) -> "Report":
        """Read what `to_json` wrote."""
        return schema.build(Report, json.loads(text))
