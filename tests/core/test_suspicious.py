"""Suspicious support images: one wrong label is found, and clean support sets raise few alarms."""

import torch
from torch import Tensor

from metanas.estimates.left_out import leave_out
from metanas.estimates.suspicious import MOST, suspicious_of
from metanas.images.support_set import SupportSet
from metanas.nn.ridge import RidgeHead
from metanas_data.report import SuspiciousImage

SCALE = torch.tensor(9.0)


def images(spread: float, seed: int, shots: int = 5) -> tuple[Tensor, Tensor]:
    """Features and labels of five normal classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(5).repeat_interleave(shots)
    centres = torch.randn(5, 32, generator=draw)
    return centres[labels] + spread * torch.randn(len(labels), 32, generator=draw), labels


def found(features: Tensor, labels: Tensor) -> tuple[SuspiciousImage, ...]:
    task = SupportSet(torch.zeros(len(labels), 1), labels, tuple("abcde"))
    head, sets = RidgeHead(), torch.Generator().manual_seed(0)
    return suspicious_of(leave_out(head, features, task, SCALE, sets))


def test_a_wrong_label_is_the_most_suspicious() -> None:
    features, labels = images(0.8, seed=1)
    labels[7] = 4  # it is of class 1
    first = found(features, labels)[0]
    assert (first.index, first.label, first.looks_like) == (7, "e", "b")
    assert first.likely
    assert first.probability < 0.008


def test_wrong_labels_are_found_and_clean_sets_raise_few_alarms() -> None:
    hits, alarms = 0, 0
    for seed in range(60):
        features, labels = images(1.0, seed)
        alarms += sum(each.likely for each in found(features, labels))
        row = seed % len(labels)
        labels[row] = (labels[row] + 1 + seed % 4) % 5
        hits += row in [each.index for each in found(features, labels)[:3]]
    assert hits >= 55
    assert alarms <= 0.3 * 60


def test_images_that_no_head_can_tell_apart_raise_few_alarms() -> None:
    alarms, named = 0, 0
    for seed in range(40):
        suspicious = found(*images(50.0, seed))
        alarms += sum(each.likely for each in suspicious)
        named += len(suspicious)
    assert alarms <= 0.3 * 40
    assert 0 < named <= 40 * MOST


def test_images_that_look_like_their_class_are_not_named() -> None:
    assert found(*images(0.1, seed=0)) == ()


def test_identical_images_give_finite_probabilities() -> None:
    labels = torch.arange(5).repeat_interleave(3)
    for each in found(torch.ones(15, 4), labels):
        assert 0 <= each.probability <= 1
