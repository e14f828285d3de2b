"""The head: class prototypes, which are a linear layer in disguise.

The squared Euclidean distance to a prototype c gives logits `s (2 c.x - |c|^2)` up to a term that
is equal for all classes (Snell et al., NeurIPS 2017, arXiv:1703.05175, eq. 8), so the head of a
task with any number of ways is a linear layer that needs no meta-learned rows.
"""

import torch
from torch import Tensor


def prototypes(features: Tensor, labels: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """Sums `(ways, D)` of the features `(N, D)` of each class, and their counts `(ways, 1)`."""
    onehot = torch.nn.functional.one_hot(labels, ways).to(features.dtype)
    return onehot.T @ features, onehot.sum(0)[:, None]


def linear_head(sums: Tensor, counts: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `(ways, D)` and bias `(ways,)` of the linear layer that the prototypes amount to."""
    centres = sums / counts
    return 2 * scale * centres, -scale * centres.square().sum(1)


def prototype_logits(
    support: Tensor, labels: Tensor, ways: int, queries: Tensor, scale: Tensor
) -> Tensor:
    """Logits `(Q, ways)` of queries `(Q, D)` against prototypes of support features `(N, D)`."""
    weight, bias = linear_head(*prototypes(support, labels, ways), scale)
    return queries @ weight.T + bias


def held_out_logits(
    support: Tensor, labels: Tensor, ways: int, queries: Tensor, scale: Tensor
) -> Tensor:
    """Logits `(N, ways)` where query i is a view of support image i.

    The prototype of its class leaves image i out. A class with a single image keeps it: there is
    nothing else to make a prototype of.
    """
    sums, counts = prototypes(support, labels, ways)
    logits = prototype_logits(support, labels, ways, queries, scale)
    spare = counts[labels] > 1
    rest = torch.where(spare, (sums[labels] - support) / (counts[labels] - 1).clamp(min=1), 0.0)
    own = scale * (2 * (rest * queries).sum(1) - rest.square().sum(1))
    rows = torch.arange(len(labels), device=labels.device)
    own = torch.where(spare[:, 0], own, logits[rows, labels])
    return logits.index_put((rows, labels), own)
