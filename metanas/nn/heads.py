"""Heads: linear layers over features, computed in closed form from the support set.

A head is a frozen value. The membership of images in classes is a matrix `(..., N, ways)`: 1 for an
image, less for a view of it, 0 for other classes. The dimensions before the last two are those of a
stack of tasks; a row or a column of zeros is padding. `scale` `(...)` is the meta-learned scale of
the logits.
"""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from metanas.nn.prototypes import PrototypeHead, membership
from metanas.nn.ridge import RidgeHead


class Head(Protocol):
    """The contract of a head."""

    def linear(self, support: Tensor, members: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Write the head of one task as a linear layer: weight `(ways, D)` and bias `(ways,)`."""
        ...

    def logits(self, support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Compute logits `(..., Q, ways)` of queries `(..., Q, D)`."""
        ...

    def held_out(self, support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
        """Compute logits `(..., N, ways)` of queries, query i by a head without image i."""
        ...

    def without(
        self, support: Tensor, members: Tensor, sets: Sequence[Tensor], scale: Tensor
    ) -> list[Tensor]:
        """Compute logits `(T, s, ways)` of the images of each set, by heads without that set.

        support, members: one task, `(N, D)` and `(N, ways)`.
        sets: matrices of rows of the support set, `(T, s)`; each class has an image outside a set.
        """
        ...


HEADS = MappingProxyType[str, Head]({"prototype": PrototypeHead(), "ridge": RidgeHead()})
"""Heads by the name of the option `head`."""


def logits_in_turn(
    head: Head, classes: Tensor, shots: int, scale: Tensor, most: int = 0
) -> tuple[Tensor, Tensor]:
    """Use the images as support set in turn; return logits and a mask of the queries of each turn.

    classes: features `(tasks, ways, M, D)` of `M` images of each class.
    shots: images of each class in the support set of a turn: first the first `shots` images, then
        the next ones. All other images are queries of the turn.
    scale: `(tasks,)`.
    most: limit on the number of turns; 0 takes all that `M` images make.

    Returns logits `(tasks, turns, ways * M, ways)` and zeros and ones `(turns, ways * M)`.

    Comparing all images of a batch gains more than one split of it (Laenen and Bertinetto, NeurIPS
    2021, arXiv:2012.09831).
    """
    ways, images = classes.shape[1:3]
    turns = min(images // shots, most or images)
    groups = classes[:, :, : turns * shots].unflatten(2, (turns, shots))
    support = groups.transpose(1, 2).flatten(2, 3)
    members = membership(torch.arange(ways, device=classes.device).repeat_interleave(shots), ways)
    every = classes.flatten(1, 2)[:, None]
    logits = head.logits(support, members.to(classes), every, scale[:, None])
    place = torch.arange(images, device=classes.device).repeat(ways)
    queries = place // shots != torch.arange(turns, device=classes.device)[:, None]
    return logits, queries.to(classes.dtype)
