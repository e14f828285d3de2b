"""The prototype head: a linear layer, any shots, and held-out prototypes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metanas.head import held_out_logits, linear_head, prototype_logits, prototypes
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
@settings(max_examples=40, deadline=None)
def test_logits_are_squared_distances_to_class_means(shots: list[int]) -> None:
    support, labels, queries = task(shots)
    centres = torch.stack([support[labels == way].mean(0) for way in range(len(shots))])
    expected = torch.stack([distances(query, centres) for query in queries])
    logits = prototype_logits(support, labels, len(shots), queries, SCALE)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    weight, bias = linear_head(*prototypes(support, labels, len(shots)), SCALE)
    torch.testing.assert_close(queries @ weight.T + bias, expected, atol=1e-4, rtol=1e-4)


@given(SHOTS)
@settings(max_examples=40, deadline=None)
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
    logits = held_out_logits(support, labels, len(shots), views, SCALE)
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_gradients_are_finite_for_single_shots_too() -> None:
    support, labels, views = task([1, 3, 1])
    support.requires_grad_()
    logits = held_out_logits(support, labels, 3, views, SCALE)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), support)
    assert bool(gradient.isfinite().all())
    assert bool((gradient != 0).any(dim=1).all())
