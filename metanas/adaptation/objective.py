"""The objective of a step: losses of a stack of tasks and their gradients.

Every support image is queried through a view of itself, against prototypes that leave the image out
where its class has another (`metanas.nn.prototypes`). The candidates that run and
all shapes are given (`Form`). The objective draws no random numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from metanas.adaptation.optimizer import Wanted
from metanas.nn.functional import Rows
from metanas.nn.prototypes import held_out_logits
from metanas.supernet.alphas import Live, mixtures
from metanas.supernet.flat_params import Layout
from metanas.supernet.supernet import Supernet


@dataclass(frozen=True, kw_only=True)
class Form:
    """Shapes and settings of a step."""

    supernet: Supernet
    layout: Layout
    """Of the weights."""
    sizes: tuple[int, int, int]
    """Of tasks, images of each, ways; padding included."""
    uneven: bool
    """Some images are padding."""
    lives: tuple[Live, ...]
    """The candidates that run, in the cells of each kind."""
    asked: Wanted
    """Parameters whose gradients are taken."""
    recompute: int
    """Of how many of the first cells the backward pass evaluates edges again."""


class Batch(NamedTuple):
    """Tensors of a step of a stack of tasks; rows of zeros are padding."""

    weights: Tensor
    """Flat, `(tasks, numbers)`, or `(numbers,)` of a single task."""
    shares: Tensor
    """Of the candidates that run, `(tasks, candidates)`."""
    images: Tensor
    """`(tasks, N, ...)`."""
    views: Tensor
    """A view of each image."""
    members: Tensor
    """Which image belongs to which class, `(tasks, N, ways)`."""


class Found(NamedTuple):
    """Losses, accuracies and gradients of a step."""

    losses: Tensor
    """Cross entropy of the views against held-out prototypes, `(tasks,)`."""
    accuracies: Tensor
    """`(tasks,)`."""
    of_weights: Tensor
    """Gradient of the sum of the losses, flat as the weights; zeros if it was not asked for."""
    of_shares: Tensor


def evaluate(form: Form, batch: Batch) -> Found:
    """Compute losses and gradients.

    Raises:
        Diverged: no candidate runs: the shares are not finite.
    """
    weights = batch.weights.detach().requires_grad_(form.asked.weights)
    shares = batch.shares.detach().requires_grad_(form.asked.alphas)
    losses, accuracies = _losses(form, batch._replace(weights=weights, shares=shares))
    leaves = [leaf for leaf in (weights, shares) if leaf.requires_grad]
    found = iter(torch.autograd.grad(losses.sum(), leaves) if leaves else ())
    of = [
        next(found) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in (weights, shares)
    ]
    return Found(losses.detach(), accuracies.detach(), *of)


def _losses(form: Form, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute losses and accuracies `(tasks,)`."""
    tasks, count, _ = form.sizes
    members = batch.members
    present = members.sum(2)
    sizes = present.sum(1)
    rows = Rows(count, tasks, present / sizes[:, None] if form.uneven else None)
    params = form.layout.views(batch.weights)
    out: Tensor = functional_call(
        form.supernet,
        params,
        (
            torch.cat([batch.images, batch.views], dim=1).flatten(0, 1),
            rows,
            mixtures(form.lives, batch.shares),
        ),
        {"recompute": form.recompute},
        tie_weights=False,
    )
    support, views = out.unflatten(0, (tasks, -1)).split(count, dim=1)
    scale = params["head.log_scale"].exp().reshape(tasks)
    logits = held_out_logits(support, members, views, scale)
    chosen = torch.where(members > 0, logits.log_softmax(-1), 0.0)
    right = (logits.argmax(2) == members.argmax(2)) * present
    return -chosen.sum((1, 2)) / sizes, right.sum(1) / sizes
