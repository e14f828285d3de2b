"""Logits of support images, by heads that were fitted without these images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metanas.images.support_set import SupportSet
from metanas.nn.heads import Head
from metanas.nn.prototypes import membership

SETS = 40
"""Fewest sets of images that are left out in turn."""
CHUNK = 64
"""Most images that are left out alone in one computation, which bounds its memory."""


@dataclass(frozen=True)
class HeldOut:
    """Images and their logits by heads without them."""

    rows: Tensor
    """Rows of the support set, of any shape."""
    logits: Tensor
    """Logits, of the shape of the rows with the classes as last dimension."""


@dataclass(frozen=True)
class LeftOut:
    """Logits of a support set with images left out in three ways.

    An image that is alone in its class stays in the heads. Only `less_one` and `less_two` contain
    such images, as no rows.
    """

    labels: Tensor
    """Class of each image, `(N,)`."""
    classes: tuple[str, ...]
    shots: Tensor
    """Number of images of each class."""
    alone: HeldOut
    """Each image, left out alone, `(n,)`."""
    less_one: HeldOut
    """Sets of one image of each class, `(T, s)`."""
    less_two: HeldOut
    """Sets of two images of each class, or of all but one."""


def leave_out(
    head: Head, features: Tensor, task: SupportSet, scale: Tensor, generator: torch.Generator
) -> LeftOut:
    """Classify support images by heads without them; a class has two images at least.

    features: `(N, D)` of a network that was not adapted to these images; of one that was, nearly
        all images are classified correctly.
    scale: scale of the logits.
    """
    shots = torch.tensor(task.shots)
    members = membership(task.labels, task.ways)
    state = generator.get_state()
    sets = [held_out_sets(task.labels, n, generator.set_state(state)) for n in (1, 2)]
    rows = torch.nonzero(shots[task.labels] > 1)
    chunks = rows.split(CHUNK)
    one, two, *each = head.without(features, members, [*sets, *chunks], scale)
    alone = HeldOut(rows[:, 0], torch.cat(each)[:, 0])
    less_one, less_two = HeldOut(sets[0], one), HeldOut(sets[1], two)
    return LeftOut(task.labels, task.classes, shots, alone, less_one, less_two)


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
