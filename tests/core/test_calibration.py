"""The temperature of the probabilities, from images that are left out."""

import numpy as np
import pytest
import torch

from metanas.estimates.calibration import LARGEST, temperature_of
from metanas.estimates.left_out import leave_out
from metanas.images.support_set import SupportSet
from metanas.nn.heads import HEADS, Head
from metanas.nn.prototypes import membership
from metanas_data.metrics import measure

LABELS = tuple("abcde")


def error_of(head: Head, scale: float, *, calibrate: bool) -> float:
    """Expected calibration error over tasks of normal classes, in one pool of queries."""
    truth, predicted, sure = [], [], []
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        labels, answers = (torch.arange(5).repeat_interleave(count) for count in (5, 15))
        centres = torch.randn(5, 16, generator=draw)
        features = centres[labels] + 2 * torch.randn(25, 16, generator=draw)
        queries = centres[answers] + 2 * torch.randn(75, 16, generator=draw)
        task, size = SupportSet(torch.zeros(25, 1), labels, LABELS), torch.tensor(scale)
        left = leave_out(head, features, task, size, torch.Generator().manual_seed(0))
        temperature = temperature_of(left) if calibrate else 1.0
        weight, bias = head.linear(features, membership(labels, 5), size)
        best = ((queries @ weight.T + bias) / temperature).softmax(1).max(1)
        truth.append(answers.numpy())
        predicted.append(best.indices.numpy())
        sure.append(best.values.numpy())
    every = (np.concatenate(each) for each in (truth, predicted, sure))
    return measure(LABELS, *every).calibration_error


@pytest.mark.parametrize(("head", "scale"), [("ridge", 16.0), ("prototype", 0.2)])
def test_probabilities_become_calibrated(head: str, scale: float) -> None:
    assert error_of(HEADS[head], scale, calibrate=False) > 0.15
    assert error_of(HEADS[head], scale, calibrate=True) < 0.06


def test_few_images_without_mistakes_do_not_give_certainty() -> None:
    features = torch.eye(4).repeat_interleave(2, dim=0)
    labels = torch.arange(4).repeat_interleave(2)
    task = SupportSet(torch.zeros(8, 1), labels, tuple("abcd"))
    head, scale = HEADS["ridge"], torch.tensor(9.0)
    left = leave_out(head, features, task, scale, torch.Generator().manual_seed(0))
    assert 1 / LARGEST < temperature_of(left) < 1
