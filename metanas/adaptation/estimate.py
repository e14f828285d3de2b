"""Estimate of the accuracy on new images, from the support set alone."""

import torch
from torch import Tensor

from metanas.images.support_set import SupportSet
from metanas.nn.heads import Head
from metanas.nn.prototypes import membership

SETS = 40
"""Fewest sets of images that are left out in turn."""


def leave_one_out(
    head: Head, features: Tensor, task: SupportSet, scale: Tensor, generator: torch.Generator
) -> float:
    """Estimate the accuracy on new images by classifying support images left out, 0 to 1.

    features: `(N, D)` of a network that was not adapted to these images; of one that was, the
        estimate is nearly always 1.

    Sets of one and of two images of each class are left out. The accuracies at n - 1 and n - 2
    shots are continued to n shots as a - b / sqrt(shots). A class of two images keeps its accuracy
    at one shot, which is low. A class of one image takes no part. Classes count alike.
    """
    shots = torch.tensor(task.shots)
    members = membership(task.labels, task.ways)
    state = generator.get_state()
    sets = [held_out_sets(task.labels, n, generator.set_state(state)) for n in (1, 2)]
    all_logits = head.without(features, members, sets, scale)

    def accuracies(rows: Tensor, logits: Tensor) -> Tensor:
        right = (logits.argmax(-1) == task.labels[rows])[..., None].to(members)
        inside = members[rows]
        return (inside * right).sum((0, 1)) / inside.sum((0, 1)).clamp(min=1)

    less_one, less_two = map(accuracies, sets, all_logits)
    now, before, earlier = ((shots.clamp(min=3) - less).rsqrt() for less in range(3))
    gain = (less_one - less_two) * (before - now) / (earlier - before)
    at_all = torch.where(shots > 2, less_one + gain, less_one)
    return float(at_all[shots > 1].mean().clamp(0, 1))


def held_out_sets(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw sets `(T, s)` of `count` images of each class, or of all but one if it has fewer.

    The images of a class take part equally often, in a new order each round.
    """
    shots = torch.bincount(labels).tolist()
    turns = torch.arange(max(shots) * -(-SETS // max(shots)))[:, None]
    columns = []
    for way, number in enumerate(shots):
        rows = torch.nonzero(labels == way)[:, 0]
        rounds = range(-(-len(turns) // number))
        orders = torch.stack([rows[torch.randperm(number, generator=generator)] for _ in rounds])
        places = turns + torch.arange(min(count, number - 1))
        columns.append(orders[turns // number, places % number])
    return torch.cat(columns, dim=1)
