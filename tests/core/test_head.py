"""Heads: a linear layer, any shots, and predictions without an image."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from metanas.nn.heads import HEADS, Head, logits_in_turn
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.nn.ridge import LONE_PENALTY, MOST_IMAGES, PENALTIES, RidgeHead, choose_penalty, fit
from tests.core.small import noise

SCALE = torch.tensor(0.7)
PROTOTYPE = PrototypeHead()
SHOTS = st.lists(st.integers(1, 4), min_size=2, max_size=6)


def task(shots: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Support features, their labels in mixed order, and a view of each."""
    labels = torch.tensor([label for label, count in enumerate(shots) for _ in range(count)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return noise(len(labels), 5, seed=seed), labels[order], noise(len(labels), 5, seed=seed + 1)


def distances(query: Tensor, centres: Tensor) -> Tensor:
    """Logits from the definition, less the part that is equal for all classes."""
    return SCALE * (query.square().sum() - (centres - query).square().sum(1))


@given(SHOTS)
@settings(max_examples=40)
def test_logits_are_squared_distances_to_class_means(shots: list[int]) -> None:
    support, labels, queries = task(shots)
    centres = torch.stack([support[labels == way].mean(0) for way in range(len(shots))])
    expected = torch.stack([distances(query, centres) for query in queries])
    members = membership(labels, len(shots))
    logits = PROTOTYPE.logits(support, members, queries, SCALE)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    weight, bias = PROTOTYPE.linear(support, members, SCALE)
    torch.testing.assert_close(queries @ weight.T + bias, expected, atol=1e-4, rtol=1e-4)


@given(SHOTS)
@settings(max_examples=40)
def test_held_out_logits_leave_the_image_out_of_its_own_class(shots: list[int]) -> None:
    support, labels, views = task(shots)
    expected = []
    for index, query in enumerate(views):
        centres = []
        for way in range(len(shots)):
            members = [i for i in range(len(labels)) if int(labels[i]) == way]
            if len(members) > 1:
                members = [i for i in members if i != index]
            centres.append(support[members].mean(0))
        expected.append(distances(query, torch.stack(centres)))
    logits = PROTOTYPE.held_out(support, membership(labels, len(shots)), views, SCALE)
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_gradients_are_finite_for_single_shots_too(head: Head) -> None:
    support, labels, views = task([1, 3, 1])
    support.requires_grad_()
    logits = head.held_out(support, membership(labels, 3), views, SCALE)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), support)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any(dim=1).all())


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_stack_with_padding_is_each_task_on_its_own(head: Head) -> None:
    tasks = [task([1, 3]), task([2, 1, 2], seed=5)]
    scales = torch.tensor([0.7, 1.3])
    supports, members, views = torch.zeros(2, 6, 5), torch.zeros(2, 6, 4), torch.zeros(2, 6, 5)
    for index, (support, labels, view) in enumerate(tasks):
        count, ways = len(labels), int(labels.max()) + 1
        supports[index, :count], views[index, :count] = support, view
        members[index, :count, :ways] = membership(labels, ways)
    stacked = head.held_out(supports, members, views, scales)
    for index, (support, labels, view) in enumerate(tasks):
        count, ways = len(labels), int(labels.max()) + 1
        alone = head.held_out(support, membership(labels, ways), view, scales[index])
        torch.testing.assert_close(stacked[index, :count, :ways], alone, atol=1e-4, rtol=1e-4)
        assert bool((stacked[index, :, ways:] == -torch.inf).all())


@pytest.mark.parametrize("name", HEADS)
@given(
    tasks=st.integers(1, 2),
    ways=st.integers(2, 4),
    images=st.integers(2, 7),
    shots=st.integers(1, 3),
    most=st.integers(0, 3),
)
@settings(max_examples=40)
def test_turn_by_turn_the_others_are_queries(
    name: str, tasks: int, ways: int, images: int, shots: int, most: int
) -> None:
    shots = min(shots, images - 1)
    classes = noise(tasks, ways, images, 5)
    scale = torch.tensor([0.7, 1.3])[:tasks]
    members = membership(torch.arange(ways).repeat_interleave(shots), ways)
    turns = min(images // shots, most) if most else images // shots
    logits, queries = logits_in_turn(HEADS[name], classes, shots, scale, most)
    assert logits.shape == (tasks, turns, ways * images, ways)
    for turn in range(turns):
        support = [turn * shots + place for place in range(shots)]
        others = [place for place in range(images) if place not in support]
        expected = HEADS[name].logits(
            classes[:, :, support].flatten(1, 2),
            members.expand(tasks, -1, -1),
            classes[:, :, others].flatten(1, 2),
            scale,
        )
        asked = logits[:, turn, queries[turn] > 0]
        torch.testing.assert_close(asked, expected, atol=1e-4, rtol=1e-4)


def least_squares(
    support: Tensor, labels: Tensor, weights: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the ridge head by its normal equations, with an unpenalised bias."""
    ways = int(labels.max()) + 1
    targets = torch.where(labels[:, None] == torch.arange(ways), 1.0, -1 / (ways - 1)).double()
    inputs = torch.cat([support, torch.ones(len(support), 1)], dim=1).double()
    penalties = torch.tensor([penalty] * support.shape[1] + [0.0], dtype=torch.float64)
    system = inputs.T @ (weights[:, None] * inputs) + penalties.diag()
    solution = torch.linalg.solve(system, inputs.T @ (weights[:, None] * targets))
    return solution[:-1].T.float(), solution[-1].float()


def weights_and_penalty(support: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Weights of images, by which classes weigh the same, and the absolute penalty."""
    counts = torch.bincount(labels)
    weights = len(labels) / len(counts) / counts[labels].double()
    shares = (weights / weights.sum())[:, None]
    centred = support.double() - (shares * support).sum(0)
    return weights, penalty * float((shares * centred.square()).sum())


@given(SHOTS, st.sampled_from(PENALTIES))
@settings(max_examples=40)
def test_the_ridge_head_solves_its_normal_equations(shots: list[int], penalty: float) -> None:
    support, labels, _ = task(shots)
    weight, bias = fit(support, membership(labels, len(shots)), penalty).linear()
    expected = least_squares(support, labels, *weights_and_penalty(support, labels, penalty))
    torch.testing.assert_close((weight, bias), expected, atol=1e-3, rtol=1e-3)


@given(SHOTS, st.sampled_from(PENALTIES))
@settings(max_examples=40)
def test_held_out_ridge_predictions_are_those_of_a_refitted_head(
    shots: list[int], penalty: float
) -> None:
    """The trap: without the bias's share of the leverage the estimate is far too good."""
    support, labels, views = task(shots)
    held_out = fit(support, membership(labels, len(shots)), penalty).held_out(views)
    weights, absolute = weights_and_penalty(support, labels, penalty)
    counts = torch.bincount(labels)[labels]
    for index, view in enumerate(views):
        rest = torch.arange(len(labels)) != index
        if counts[index] > 1:
            weight, bias = least_squares(support[rest], labels[rest], weights[rest], absolute)
            expected = weight @ view + bias
            torch.testing.assert_close(held_out[index], expected, atol=1e-3, rtol=1e-3)


@given(SHOTS, st.floats(0.01, 100))
@settings(max_examples=40)
def test_ridge_logits_do_not_depend_on_the_length_of_features(
    shots: list[int], length: float
) -> None:
    support, labels, queries = task(shots)
    members = membership(labels, len(shots))
    logits = RidgeHead().logits(support, members, queries, SCALE)
    longer = RidgeHead().logits(length * support, members, length * queries, SCALE)
    torch.testing.assert_close(longer, logits, atol=1e-3, rtol=1e-3)


def test_the_penalty_follows_the_noise() -> None:
    """Clear classes take the smallest penalty, noise a large one, and single images the default."""
    labels = torch.arange(4).repeat_interleave(5)
    members = membership(labels, 4)
    clear = torch.eye(4)[labels] + 0.01 * noise(20, 4)
    assert choose_penalty(clear, members) == min(PENALTIES)
    assert choose_penalty(noise(20, 30), members) >= 1
    assert choose_penalty(noise(4, 30), torch.eye(4)) == LONE_PENALTY


def test_a_thousand_images_choose_the_penalty_of_more() -> None:
    """The cost is cubic: five thousand images would keep a worker process silent for minutes."""
    labels = torch.arange(MOST_IMAGES + 500) % 3
    support, members = torch.eye(3)[labels] + noise(len(labels), 3), membership(labels, 3)
    sizes = list[int]()

    class Sizes(TorchFunctionMode):
        """Note the sizes of the systems that are solved."""

        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function is torch.linalg.inv:
                sizes.append(len(args[0]))
            return function(*args, **(kwargs or {}))

    with Sizes():
        choose_penalty(support, members)
    assert sizes == [MOST_IMAGES + 1] * len(PENALTIES)


def test_views_of_an_image_do_not_choose_the_penalty() -> None:
    """A view of the image itself would answer for the image that is left out."""
    labels = torch.arange(3).repeat_interleave(4)
    images, members = noise(12, 30), membership(labels, 3)
    shown = torch.cat([images, images + 0.01 * noise(12, 30, seed=1)])
    shares = torch.cat([members, members / 4])
    weight, _ = RidgeHead().linear(shown, shares, SCALE)
    expected, _ = fit(shown, shares, choose_penalty(images, members)).linear()
    torch.testing.assert_close(weight, SCALE * expected)
    assert choose_penalty(images, members) != choose_penalty(shown, shares)
