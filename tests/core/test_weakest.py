"""The class that needs more images most."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.estimates.accuracy import metrics_of
from metanas.estimates.left_out import HeldOut, LeftOut
from metanas.estimates.weakest import weakest_of


def left_out(shots: list[int], wrong: dict[int, float]) -> LeftOut:
    """Images in the order of their classes; `wrong` has the logit of each that is not recognised.

    A wrong image looks like the next class.
    """
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    counts = torch.bincount(labels)
    rows = torch.nonzero(counts[labels] > 1)[:, 0]
    logits = 4.0 * F.one_hot(labels, len(shots)).float()
    for row, logit in wrong.items():
        logits[row, (int(labels[row]) + 1) % len(shots)] = logit
    alone = HeldOut(rows, logits[rows])
    return LeftOut(labels, tuple("abcdef"[: len(shots)]), Tensor(shots).long(), alone, alone, alone)


@pytest.mark.parametrize(
    ("shots", "wrong", "weakest"),
    [
        ([5, 5, 5], {}, ""),
        ([5] * 5, {6: 9.0}, "b"),
        ([5] * 3, {6: 9.0}, ""),  # within a standard error
        ([5, 5, 5], {0: 9.0, 6: 9.0, 12: 9.0}, ""),
        ([5] * 5, {0: 9.0, 6: 9.0, 7: 9.0, 12: 9.0}, "b"),
        ([5] * 5, {0: 9.0, 1: 9.0, 20: 9.5, 21: 9.0}, "e"),  # of two recalls, the lower margin
        ([5] * 5, {0: 9.5, 1: 9.0, 20: 9.0, 21: 9.0}, "a"),
        ([5, 3, 5], {0: 9.0, 1: 9.0}, "b"),  # clearly the fewest images
        ([5, 4, 5], {0: 9.0, 1: 9.0}, "a"),  # about as few
        ([31, 30, 31], {0: 9.0, 1: 9.0, 2: 9.0}, "a"),
        ([5, 1, 5], {}, "b"),
        ([1, 1, 5], {}, ""),
        ([2, 2], {0: 9.0, 1: 9.0}, "a"),
    ],
)
def test_the_class_that_needs_more_images(
    shots: list[int], wrong: dict[int, float], weakest: str
) -> None:
    left = left_out(shots, wrong)
    assert weakest_of(left, metrics_of(left)) == weakest
