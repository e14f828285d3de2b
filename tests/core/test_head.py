"""The prototype head: a linear layer, any shots, and held-out prototypes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metanas.nn.prototypes import (
    held_out_logits,
    linear_head,
    logits_in_turn,
    membership,
    prototype_logits,
    prototypes,
)
from tests.core.small import noise

SCALE = torch.tensor(0.7)
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
    logits = prototype_logits(support, members, queries, SCALE)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    weight, bias = linear_head(*prototypes(support, members), SCALE)
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
    logits = held_out_logits(support, membership(labels, len(shots)), views, SCALE)
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_gradients_are_finite_for_single_shots_too() -> None:
    support, labels, views = task([1, 3, 1])
    support.requires_grad_()
    logits = held_out_logits(support, membership(labels, 3), views, SCALE)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), support)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any(dim=1).all())


def test_a_stack_with_padding_is_each_task_on_its_own() -> None:
    tasks = [task([1, 3]), task([2, 1, 2], seed=5)]
    scales = torch.tensor([0.7, 1.3])
    supports, members, views = torch.zeros(2, 6, 5), torch.zeros(2, 6, 4), torch.zeros(2, 6, 5)
    for index, (support, labels, view) in enumerate(tasks):
        count, ways = len(labels), int(labels.max()) + 1
        supports[index, :count], views[index, :count] = support, view
        members[index, :count, :ways] = membership(labels, ways)
    stacked = held_out_logits(supports, members, views, scales)
    for index, (support, labels, view) in enumerate(tasks):
        count, ways = len(labels), int(labels.max()) + 1
        alone = held_out_logits(support, membership(labels, ways), view, scales[index])
        torch.testing.assert_close(stacked[index, :count, :ways], alone)
        assert bool((stacked[index, :, ways:] == -torch.inf).all())


@given(
    tasks=st.integers(1, 2),
    ways=st.integers(2, 4),
    images=st.integers(2, 7),
    shots=st.integers(1, 3),
    most=st.integers(0, 3),
)
@settings(max_examples=40)
def test_turn_by_turn_the_others_are_queries(
    tasks: int, ways: int, images: int, shots: int, most: int
) -> None:
    shots = min(shots, images - 1)
    classes = noise(tasks, ways, images, 5)
    scale = torch.tensor([0.7, 1.3])[:tasks]
    members = membership(torch.arange(ways).repeat_interleave(shots), ways)
    turns = min(images // shots, most) if most else images // shots
    logits, queries = logits_in_turn(classes, shots, scale, most)
    assert logits.shape == (tasks, turns, ways * images, ways)
    for turn in range(turns):
        support = [turn * shots + place for place in range(shots)]
        others = [place for place in range(images) if place not in support]
        expected = prototype_logits(
            classes[:, :, support].flatten(1, 2),
            members.expand(tasks, -1, -1),
            classes[:, :, others].flatten(1, 2),
            scale,
        )
        asked = logits[:, turn, queries[turn] > 0]
        torch.testing.assert_close(asked, expected, atol=1e-4, rtol=1e-4)
