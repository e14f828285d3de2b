"""Mini-batches of a support set, and the two halves of a mini-batch."""

from collections.abc import Iterator

import torch
from torch import Tensor


def batches_of(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield mini-batches of row indices without end, at most `size` long.

    The batches have equal lengths and equal shares of each class, as far as possible. So no batch
    has a single image. A support set that fits into one batch is taken whole and in order.
    """
    everything = torch.arange(len(labels))
    while True:
        if len(labels) <= size:
            yield everything
            continue
        shuffled = torch.randperm(len(labels), generator=generator)
        # the k-th image of every class comes before the (k+1)-th of any, so chunks are balanced
        rank = (labels[shuffled][:, None] == labels[shuffled][None, :]).tril().sum(1)
        yield from shuffled[rank.argsort(stable=True)].tensor_split(-(-len(labels) // size))


def halves(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split a batch class by class; an only image of a class is in both halves."""
    labels = labels[rows]
    same = labels[:, None] == labels[None, :]
    rank, single = same.tril(-1).sum(1), same.sum(1) == 1
    return rows[single | (rank % 2 == 0)], rows[single | (rank % 2 == 1)]
