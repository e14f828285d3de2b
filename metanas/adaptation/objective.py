"""The objective of a step: losses of a stack of tasks and the gradient of each, evaluated together.

Notes:
- The queries are views of the support images. The head of a query leaves its image out if the class
  has another one (`metanas.nn.heads`).
- The host draws the random numbers of each task from the task's generator. One copy brings those
  of all tasks to the device.
- The host waits for the device once, for the candidates that any task runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from metanas.adaptation.optimizer import Moves, TaskOptimizer
from metanas.adaptation.views import stored_views
from metanas.checkpoint import Checkpoint
from metanas.images.augment import affine
from metanas.nn.devices import upload
from metanas.nn.functional import Rows
from metanas.nn.heads import Head
from metanas.spec.options import AffineRange
from metanas.supernet.relaxations import Argmax, PerTask, Relaxation, Softmax

SHARE_THRESHOLD = 0.02
"""Candidates with at most this share of their node are not evaluated in a step."""


@dataclass(frozen=True)
class Update:
    """One forward and backward pass of a task."""

    optimizer: TaskOptimizer
    images: Tensor
    """All support images, on the device `(N, ...)`."""
    stored: Tensor | None
    """Stored views of each image, `(N, V, K)`, behind a trunk."""
    rows: Tensor
    """Indices of the images in the mini-batch, `(n,)`; on the host, as the next two."""
    drawn: Tensor
    """Random numbers of a view of each image (`metanas.adaptation.views.draws`)."""
    members: Tensor
    """Zeros and ones: the class of each image, `(n, ways)`."""
    temperature: float | None
    """Temperature of the relaxation; None once the architecture is decided."""
    generator: torch.Generator
    """Generator of the relaxation's noise."""
    moves: Moves


def evaluate(
    checkpoint: Checkpoint, updates: Sequence[Update], *, head: Head, recompute: int
) -> tuple[Tensor, Tensor]:
    """Evaluate the updates of several tasks together.

    recompute: number of the first cells whose edges the backward pass evaluates again.

    Returns the gradients `(tasks, size)`, and the figures `(tasks, 5)` of each task: loss,
    accuracy, entropy, norm of the gradient of the weights, norm of that of the alphas.

    Raises:
        Diverged: no candidate runs: the shares of all tasks are not finite.
    """
    supernet, layout = checkpoint.supernet, updates[0].optimizer.layout
    images, views, members = _inputs(updates, checkpoint.card.augment)
    thetas = [update.optimizer.theta for update in updates]
    theta = (torch.stack(thetas) if len(thetas) > 1 else thetas[0]).detach().requires_grad_()
    params = layout.views(theta)
    relaxation = _relaxation(checkpoint.relaxation, updates)
    tasks, count, _ = members.shape
    present = members.sum(2)
    sizes = present.sum(1)
    uneven = len({len(update.rows) for update in updates}) > 1
    rows = Rows(count, tasks, present / sizes[:, None] if uneven else None)
    x = torch.cat([images, views], dim=1).flatten(0, 1)
    out: Tensor = functional_call(
        supernet,
        params,
        (x, rows, relaxation, SHARE_THRESHOLD),
        {"recompute": recompute},
        tie_weights=False,
    )
    support, queries = out.unflatten(0, (tasks, -1)).split(count, dim=1)
    scale = params["head.log_scale"].exp().reshape(tasks)
    logits = head.held_out(support, members, queries, scale)
    losses = -torch.where(members > 0, logits.log_softmax(-1), 0.0).sum((1, 2)) / sizes
    (slope,) = torch.autograd.grad(losses.sum(), theta)
    gradients = slope.reshape(tasks, -1)
    accuracies = ((logits.argmax(2) == members.argmax(2)) * present).sum(1) / sizes
    entropies = supernet.entropy(params, _relaxation(Softmax(), updates)).expand_as(losses)
    norms = [torch.linalg.vector_norm(each, dim=1) for each in layout.split(gradients)]
    return gradients, torch.stack([losses.detach(), accuracies, entropies, *norms], dim=1)


def _relaxation(search: Relaxation, updates: Sequence[Update]) -> Relaxation:
    """Return the relaxation of a stack: `search` at each task's temperature, or argmax."""
    temperatures = [update.temperature for update in updates]
    relaxations = tuple(Argmax() if t is None else search.at(t) for t in temperatures)
    return PerTask(relaxations, tuple(update.generator for update in updates))


def _inputs(updates: Sequence[Update], ranges: AffineRange) -> tuple[Tensor, Tensor, Tensor]:
    """Collect images and views `(tasks, n, ...)` and members `(tasks, n, ways)`, zero-padded."""
    rows, drawn = (
        pad_sequence(column, batch_first=True)
        for column in ([u.rows for u in updates], [u.drawn for u in updates])
    )
    count, ways = rows.shape[1], max(update.members.shape[1] for update in updates)
    members = torch.stack(
        [
            F.pad(each, (0, ways - each.shape[1], 0, count - len(each)))
            for each in (update.members for update in updates)
        ]
    )
    rows, drawn, members = upload([rows, drawn, members], updates[0].images.device)
    images = updates[0].images.new_zeros(*rows.shape, *updates[0].images.shape[1:])
    views = torch.zeros_like(images)
    for task, update in enumerate(updates):
        real = slice(len(update.rows))  # the rest is padding
        torch.index_select(update.images, 0, rows[task, real], out=images[task, real])
        if update.stored is not None:
            views[task, real] = stored_views(update.stored, rows[task, real], drawn[task, real])
    if updates[0].stored is None:  # all at once: views of the zero padding are zero
        views = affine(images.flatten(0, 1), ranges, drawn.flatten(0, 1)).view_as(images)
    return images, views, members
