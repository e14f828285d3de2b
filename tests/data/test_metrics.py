"""Metrics of a classifier against those of scikit-learn, and calibration by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from metanas_data.metrics import BINS, measure
from metanas_data.report import Confusion

LABELS = ("a", "b", "c", "d")


def test_metrics_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 4, 90), random.integers(0, 4, 90)
    found = measure(LABELS, truth, predicted, random.random(90))
    matrix = reference.confusion_matrix(truth, predicted)
    precision, recall, _, images = reference.precision_recall_fscore_support(truth, predicted)
    assert found.accuracy.share == reference.accuracy_score(truth, predicted)
    assert [list(row) for row in found.confusion] == matrix.tolist()
    assert [one.precision.share for one in found.classes] == pytest.approx(precision.tolist())
    assert [one.recall.share for one in found.classes] == pytest.approx(recall.tolist())
    assert [one.images for one in found.classes] == images.tolist()


def test_a_class_without_images_or_predictions_has_no_share() -> None:
    found = measure(LABELS, [0, 0, 1], [0, 1, 0], [0.9, 0.8, 0.7])
    a, b, c, _ = found.classes
    assert (a.recall.share, a.precision.share) == (0.5, 0.5)
    assert (b.recall.share, b.precision.share) == (0, 0)
    assert (c.images, c.recall.share, c.precision.share) == (0, None, None)


def test_mistakes_are_sorted_by_their_number() -> None:
    found = measure(LABELS, [0, 1, 2, 2, 3], [0, 0, 1, 1, 3], [0.5] * 5)
    assert found.mistakes() == [
        Confusion(label="c", predicted="b", images=2),
        Confusion(label="b", predicted="a", images=1),
    ]


def test_calibration_error_by_hand() -> None:
    """Two images at 0.95, one of them right; two at 0.55, both right."""
    found = measure(LABELS, [0, 0, 0, 0], [0, 1, 0, 0], [0.95, 0.95, 0.55, 0.55])
    assert found.calibration_error == pytest.approx((2 * 0.45 + 2 * 0.45) / 4)
    assert found.confidence == pytest.approx(0.75)
    full = [one for one in found.reliability if one.images]
    assert [(one.images, one.accuracy) for one in full] == [(2, 1.0), (2, 0.5)]
    assert all(one.low < (one.confidence or 0) <= one.high for one in full)


def test_bins_cover_all_confidences() -> None:
    sure = np.linspace(0, 1, BINS + 1)
    zeros = np.zeros(len(sure), dtype=int)
    bins = measure(LABELS, zeros, zeros, sure).reliability
    assert sum(one.images for one in bins) == len(sure)
    assert [one.images for one in bins] == [2] + [1] * (BINS - 1)
