"""The estimate of the accuracy on new images, from images that are left out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metanas.estimates.accuracy import accuracy_of, interval_of, metrics_of
from metanas.estimates.left_out import SETS, LeftOut, held_out_sets, leave_out
from metanas.images.support_set import SupportSet
from metanas.nn.heads import HEADS, Head
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.nn.ridge import LONE_PENALTY, RidgeHead, choose_penalty, fit
from tests.core.small import noise

SCALE = torch.tensor(0.7)
SHOTS = st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(lambda shots: max(shots) > 1)
BOTH = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(shots: list[int]) -> Tensor:
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    return labels[torch.randperm(len(labels), generator=generator())]


def left_out(head: Head, features: Tensor, labels: Tensor, seed: int = 0) -> LeftOut:
    classes = tuple(str(way) for way in range(int(labels.max()) + 1))
    task = SupportSet(torch.zeros(len(labels), 1, 8, 8), labels, classes)
    return leave_out(head, features, task, SCALE, generator(seed))


def estimate(head: Head, features: Tensor, labels: Tensor, seed: int = 0) -> float:
    return accuracy_of(left_out(head, features, labels, seed))


def clusters(spread: float, shots: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support features and labels, query features and labels, of four normal classes."""
    labels, queries = (torch.arange(4).repeat_interleave(count) for count in (shots, 40))
    draw = generator(seed)
    centres = torch.randn(4, 12, generator=draw)
    drawn = [
        centres[label] + spread * torch.randn(len(label), 12, generator=draw)
        for label in (labels, queries)
    ]
    return drawn[0], labels, drawn[1], queries


@given(SHOTS, st.integers(1, 3))
@settings(max_examples=40)
def test_each_set_has_as_many_images_of_each_class_and_leaves_one(
    shots: list[int], count: int
) -> None:
    labels = labels_of(shots)
    sets = held_out_sets(labels, count, generator())
    assert len(sets) >= SETS
    times = torch.bincount(sets.flatten(), minlength=len(labels))
    for way, images in enumerate(shots):
        expected = min(count, images - 1)
        assert bool(((labels[sets] == way).sum(1) == expected).all())
        mine = times[labels == way]
        assert int(mine.max() - mine.min()) <= expected
    for row in sets.tolist():
        assert len(set(row)) == len(row)


def test_a_set_of_one_is_part_of_the_set_of_two() -> None:
    """The gain of a shot is a difference on the same images, which is less noisy."""
    labels = labels_of([3, 5, 4])
    ones, twos = (held_out_sets(labels, count, generator(7)).tolist() for count in (1, 2))
    assert all(set(one) < set(two) for one, two in zip(ones, twos, strict=True))


@given(SHOTS, st.integers(1, 2))
@settings(max_examples=30)
def test_prototypes_without_a_set_are_those_of_the_other_images(
    shots: list[int], count: int
) -> None:
    labels, head = labels_of(shots), PrototypeHead()
    support, members = noise(len(labels), 5), membership(labels, len(shots))
    sets = held_out_sets(labels, count, generator())
    (logits,) = head.without(support, members, [sets], SCALE)
    for rows, found in zip(sets[:5], logits, strict=False):
        rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, rows, False)
        expected = head.logits(support[rest], members[rest], support[rows], SCALE)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@given(st.integers(2, 4), st.integers(2, 6), st.integers(1, 2))
@settings(max_examples=30)
def test_a_ridge_head_without_a_set_is_one_that_was_refitted(
    ways: int, shots: int, count: int
) -> None:
    labels = labels_of([shots] * ways)
    support, members = noise(len(labels), 5), membership(labels, ways)
    sets = held_out_sets(labels, min(count, shots - 1), generator())
    (logits,) = RidgeHead().without(support, members, [sets], SCALE)
    absolute = choose_penalty(support, members) * spread(support)
    for rows, found in zip(sets[:5], logits, strict=False):
        rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, rows, False)
        penalty = absolute / spread(support[rest])
        weight, bias = fit(support[rest], members[rest], penalty).linear()
        expected = SCALE * (support[rows] @ weight.T + bias)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def spread(features: Tensor) -> float:
    """Mean squared distance to the mean."""
    return float((features - features.mean(0)).square().sum(1).mean())


def test_sets_of_one_image_agree_with_leave_one_out() -> None:
    labels = labels_of([3, 2])
    support, members = noise(5, 5), membership(labels, 2)
    solved = fit(support, members, LONE_PENALTY)
    residuals = solved.residuals(torch.arange(5)[:, None])[:, 0]
    targets = 2 * members - 1
    expected = targets - solved.held_out(support)
    torch.testing.assert_close(residuals, expected, atol=1e-4, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("shots", [5, 10])
def test_the_estimate_is_the_accuracy_on_queries_in_the_mean(head: Head, shots: int) -> None:
    errors, plain = [], []
    for seed in range(100):
        support, labels, queries, answers = clusters(2.0, shots, seed)
        members = membership(labels, 4)
        weight, bias = head.linear(support, members, SCALE)
        accuracy = float(((queries @ weight.T + bias).argmax(1) == answers).float().mean())
        errors.append(estimate(head, support, labels, seed) - accuracy)
        held_out = head.held_out(support, members, support, SCALE).argmax(1)
        plain.append(float((held_out == labels).float().mean()) - accuracy)
    error, before = math.fsum(errors) / len(errors), math.fsum(plain) / len(plain)
    assert abs(error) < 0.02
    assert before < min(error, 0.0)


@BOTH
def test_classes_of_one_image_take_no_part(head: Head) -> None:
    labels = torch.tensor([0, 1, 1])
    assert estimate(head, torch.tensor([[0.0], [5.0], [6.0]]), labels) == 1.0


def test_two_images_of_a_class_give_the_accuracy_of_one_shot() -> None:
    features = torch.tensor([[0.0], [1.0], [9.0], [100.0]])
    # the prototype of its class is 100 where 9 is left out: only that one is wrong
    assert estimate(PrototypeHead(), features, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.75)


@BOTH
def test_the_estimate_stays_an_accuracy(head: Head) -> None:
    for seed in range(30):
        support, labels, _, _ = clusters(0.6, 3, seed)
        assert 0 <= estimate(head, support, labels) <= 1


@BOTH
def test_the_same_generator_gives_the_same_estimate(head: Head) -> None:
    support, labels, _, _ = clusters(2.0, 4, seed=0)
    assert estimate(head, support, labels, 3) == estimate(head, support, labels, 3)


@BOTH
def test_an_image_that_is_left_out_alone_has_the_logits_of_a_set_of_it(head: Head) -> None:
    labels = labels_of([3, 1, 70])
    support, members = noise(len(labels), 5), membership(labels, 3)
    left = left_out(head, support, labels)
    assert left.alone.rows.tolist() == [row for row, way in enumerate(labels) if way != 1]
    (expected,) = head.without(support, members, [left.alone.rows[:, None]], SCALE)
    torch.testing.assert_close(left.alone.logits, expected[:, 0], atol=1e-4, rtol=1e-4)


def test_the_interval_contains_the_accuracy_on_queries() -> None:
    inside = []
    for seed in range(100):
        support, labels, queries, answers = clusters(2.0, 5, seed)
        weight, bias = RidgeHead().linear(support, membership(labels, 4), SCALE)
        accuracy = float(((queries @ weight.T + bias).argmax(1) == answers).float().mean())
        left = left_out(RidgeHead(), support, labels, seed)
        low, high = interval_of(left, accuracy_of(left))
        inside.append(low <= accuracy <= high)
    assert 0.88 <= sum(inside) / len(inside) <= 0.99


def test_confused_classes_are_counted() -> None:
    features = torch.tensor([[0.0], [1.0], [9.0], [100.0], [101.0]])
    metrics = metrics_of(left_out(PrototypeHead(), features, torch.tensor([0, 0, 1, 1, 1])))
    assert [each.images for each in metrics.classes] == [2, 3]
    (mistake,) = metrics.mistakes()
    assert (mistake.label, mistake.predicted, mistake.images) == ("1", "0", 1)
