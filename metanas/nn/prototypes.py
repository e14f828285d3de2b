"""The prototype head: class prototypes, written as a linear layer.

The squared Euclidean distance to a prototype c gives logits `s (2 c.x - |c|^2)` up to a term that
is equal for all classes (Snell et al., NeurIPS 2017, arXiv:1703.05175, eq. 8), so the head of a
task with any number of ways is a linear layer that needs no meta-learned rows.

Which image belongs to which class is a matrix of zeros and ones, `(..., N, ways)`. The dimensions
before the last two are those of a stack of tasks; a row of zeros is padding, and so is a column.
"""

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


def prototype_logits(support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
    """Compute logits `(..., Q, ways)` of queries `(..., Q, D)` by support features `(..., N, D)`.

    `scale` has the shape of the dimensions before the last two.
    """
    weight, bias = linear_head(*prototypes(support, members), scale)
    return queries @ weight.mT + bias[..., None, :]


def held_out_logits(support: Tensor, members: Tensor, queries: Tensor, scale: Tensor) -> Tensor:
    """Compute logits `(..., N, ways)` of queries, where query i is a view of support image i.

    The prototype of its class leaves image i out. A class with a single image keeps it: there is
    nothing else to make a prototype of.
    """
    sums, counts = prototypes(support, members)
    weight, bias = linear_head(sums, counts, scale)
    logits = queries @ weight.mT + bias[..., None, :]
    others = (members @ counts[..., None]) - 1
    rest = (members @ sums - support) / others.clamp(min=1)
    own = scale[..., None, None] * (2 * rest * queries - rest.square()).sum(-1, keepdim=True)
    return torch.where((members > 0) & (others > 0), own, logits)


def logits_in_turn(
    classes: Tensor, shots: int, scale: Tensor, most: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits where images are support set in turn, and which of them are queries' in each turn.

    classes: features `(tasks, ways, M, D)` of as many images of each class.
    shots: how many of each class are the support set at a time: the first ones, the next ones, and
        so on. All others are its queries, and so are always those that are left at the end.
    scale: `(tasks,)`.
    most: the most turns there are, or 0 for all that `M` images make.

    Returns logits `(tasks, turns, ways * M, ways)` and zeros and ones `(turns, ways * M)`.

    To compare all images of a batch is worth more than one split of it (Laenen and Bertinetto,
    NeurIPS 2021, arXiv:2012.09831).
    """
    ways, images = classes.shape[1:3]
    turns = min(images // shots, most or images)
    groups = classes[:, :, : turns * shots].unflatten(2, (turns, shots))
    sums = groups.sum(3).transpose(1, 2)
    counts = torch.full(sums.shape[:-1], float(shots), device=classes.device)
    weight, bias = linear_head(sums, counts, scale[:, None])
    every = classes.flatten(1, 2)[:, None]
    place = torch.arange(images, device=classes.device).repeat(ways)
    queries = place // shots != torch.arange(turns, device=classes.device)[:, None]
    return every @ weight.mT + bias[..., None, :], queries.to(classes.dtype)
