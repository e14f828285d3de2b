"""Metrics of a classifier on labelled images: accuracy, confusions and calibration.

Indices of classes and confidences enter; frozen dataclasses leave. This module needs NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metanas_data.intervals import Proportion, proportion
from metanas_data.report import ClassMetrics, Confusion

BINS = 15
"""Number of bins of the calibration error, as in Guo et al. (2017)."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Images whose confidence is above `low` and at most `high`."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean confidence; None without images."""
    accuracy: float | None
    """Share of correct predictions; None without images."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of a classifier on labelled images."""

    accuracy: Proportion
    confidence: float
    """Mean confidence; above the accuracy, the model is too sure."""
    calibration_error: float
    """Expected calibration error: mean over all images of |confidence - accuracy| of their bin."""
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Numbers of images: rows are true classes, columns are predicted ones."""
    reliability: tuple[ReliabilityBin, ...]
    """`BINS` bins of equal width from 0 to 1."""

    def mistakes(self) -> list[Confusion]:
        """Return the pairs of classes that are confused, the most frequent first."""
        labels = [each.label for each in self.classes]
        pairs = [
            Confusion(label=labels[row], predicted=labels[column], images=images)
            for row, counts in enumerate(self.confusion)
            for column, images in enumerate(counts)
            if row != column and images
        ]
        return sorted(pairs, key=lambda pair: -pair.images)


def measure(
    labels: Sequence[str],
    truth: Sequence[int] | NDArray[np.integer],
    predicted: Sequence[int] | NDArray[np.integer],
    confidence: Sequence[float] | NDArray[np.floating],
) -> Metrics:
    """Return the metrics of at least one prediction.

    Args:
        labels: the classes.
        truth: (N,), the index of the true class of each image.
        predicted: (N,), the index of the most probable class.
        confidence: (N,), the probability of that class.
    """
    true, guess = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    sure = np.asarray(confidence, dtype=np.float64)
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (true, guess), 1)
    bins = _reliability(true == guess, sure)
    return Metrics(
        accuracy=proportion(int(np.trace(counts)), len(true)),
        confidence=float(sure.mean()),
        calibration_error=sum(map(_gap, bins)) / len(true),
        classes=tuple(_class_metrics(label, counts, index) for index, label in enumerate(labels)),
        confusion=tuple(tuple(map(int, row)) for row in counts),
        reliability=bins,
    )


def _class_metrics(label: str, counts: NDArray[np.int64], index: int) -> ClassMetrics:
    hits = int(counts[index, index])
    images, predicted = int(counts[index].sum()), int(counts[:, index].sum())
    return ClassMetrics(
        label=label,
        images=images,
        recall=proportion(hits, images),
        precision=proportion(hits, predicted),
    )


def _reliability(
    correct: NDArray[np.bool_], confidence: NDArray[np.float64]
) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, BINS + 1)
    places = np.searchsorted(edges[1:-1], confidence, side="left")
    bins: list[ReliabilityBin] = []
    for index in range(BINS):
        inside = places == index
        images = int(inside.sum())
        bins.append(
            ReliabilityBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                images=images,
                confidence=float(confidence[inside].mean()) if images else None,
                accuracy=float(correct[inside].mean()) if images else None,
            )
        )
    return tuple(bins)


def _gap(one: ReliabilityBin) -> float:
    if one.confidence is None or one.accuracy is None:
        return 0.0
    return one.images * abs(one.confidence - one.accuracy)
