"""The prototype head: class prototypes, written as a linear layer.

The squared Euclidean distance to a prototype c gives logits `s (2 c.x - |c|^2)` up to a term that
is equal for all classes (Snell et al., NeurIPS 2017, arXiv:1703.05175, eq. 8), so the head of a
task with any number of ways is a linear layer that needs no meta-learned rows.

The membership of images in classes is a matrix of zeros and ones, `(..., N, ways)`. The dimensions
before the last two are those of a stack of tasks; a row or a column of zeros is padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def membership(labels: Tensor, ways: int) -> Tensor:
    """Encode labels `(..., N)` as zeros and ones `(..., N, ways)`."""
    return torch.nn.functional.one_hot(labels, ways).to(torch.get_default_dtype())


def prototypes(features: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the features `(..., N, D)` of each class: sums `(..., ways, D)`, counts `(..., ways)`."""
    return members.mT @ features, members.sum(-2)


def linear_head(sums: Tensor, counts: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Write prototypes as a linear layer: weight `(..., ways, D)` and bias `(..., ways)`.

    The bias of a class without images is minus infinity.
    """
    centres = sums / counts.clamp(min=1)[..., None]
    bias = -scale[..., None] * centres.square().sum(-1)
    weight = 2 * scale[..., None, None] * centres
    return weight, bias.masked_fill(counts == 0, -torch.inf)


class PrototypeHead:
    """The prototype head. `scale` has the shape of the dimensions before the last two."""

    def linear(self, support: Tensor, members: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Write the head as a linear layer: weight `(..., ways, D)` and bias `(..., ways)`."""
        return linear_head(*prototypes(support, members), scale)

    def logits(self, support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Compute logits `(..., Q, ways)` of queries `(..., Q, D)`."""
        weight, bias = self.linear(support, members, scale)
        return queries @ weight.mT + bias[..., None, :]

    def held_out(self, support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Compute logits `(..., N, ways)` of queries, where query i is a view of support image i.

        The prototype of its class leaves image i out, unless it is the only image of the class.
        """
        sums, counts = prototypes(support, members)
        weight, bias = linear_head(sums, counts, scale)
        logits = queries @ weight.mT + bias[..., None, :]
        others = (members @ counts[..., None]) - 1
        rest = (members @ sums - support) / others.clamp(min=1)
        left = scale[..., None, None] * (2 * rest * queries - rest.square()).sum(-1, keepdim=True)
        return torch.where((members > 0) & (others > 0), left, logits)

    def without(
        self, support: Tensor, members: Tensor, sets: Sequence[Tensor], scale: Tensor
    ) -> list[Tensor]:
        """Compute logits `(T, s, ways)` of the images of each set, by heads without that set."""
        sums, counts = prototypes(support, members)

        def logits(rows: Tensor) -> Tensor:
            held, held_counts = prototypes(support[rows], members[rows])
            weight, bias = linear_head(sums - held, counts - held_counts, scale)
            return support[rows] @ weight.mT + bias[:, None]

        return [logits(rows) for rows in sets]
