"""Mini-batches of a support set, and halves of one."""

from collections.abc import Iterator

import torch
from torch import Tensor


def batches_of(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless mini-batches of row indices, at most `size` long, as even as they can be.

    Even in length, so that none is left with a single image, and in classes.

    A support set that fits into one batch is always taken whole and in order.
    """
    everything = torch.arange(len(labels))
    while True:
        if len(labels) <= size:
            yield everything
            continue
        shuffled = torch.randperm(len(labels), generator=generator)
        # the k-th image of every class before the (k+1)-th of any: each chunk is nearly balanced
        rank = (labels[shuffled][:, None] == labels[shuffled][None, :]).tril().sum(1)
        yield from shuffled[rank.argsort(stable=True)].tensor_split(-(-len(labels) // size))


def halves(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Alternate a batch's images, class by class; a class with a single image is in both halves."""
    own = labels[rows]
    rank = (own[:, None] == own[None, :]).tril(-1).sum(1)
    single = (own[:, None] == own[None, :]).sum(1) == 1
    return rows[single | (rank % 2 == 0)], rows[single | (rank % 2 == 1)]
