"""Updates of several tasks as one evaluation: padded inputs, one upload, a gradient for each.

Notable:
- The host draws the random numbers of each task from the task's generator. One copy brings those
  of all tasks to the device.
- The host waits for the device once, to learn which candidates any task runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from metanas.adaptation.objective import Batch, Form, Found, evaluate
from metanas.adaptation.optimizer import Gradient, Stack, Wanted
from metanas.adaptation.views import stored_views
from metanas.checkpoint import Checkpoint
from metanas.images.augment import affine
from metanas.nn.upload import upload
from metanas.spec.options import AffineRange
from metanas.supernet.alphas import running
from metanas.supernet.relaxations import Argmax, PerTask, Relaxation

SHARE_THRESHOLD = 0.02
"""Candidates with at most this share of their node are not evaluated in a step."""


@dataclass(frozen=True)
class Update:
    """One forward and backward pass of a task."""

    images: Tensor
    """All support images, on the device `(N, ...)`."""
    stored: Tensor | None
    """Views of each to draw from, `(N, V, K)`, if there are any."""
    rows: Tensor
    """Which of the images, `(n,)`; on the host, as what follows."""
    drawn: Tensor
    """Random numbers of a view of each image (`metanas.adaptation.views.draws`)."""
    members: Tensor
    """Which image belongs to which class, `(n, ways)`."""
    temperature: float | None
    """Of the relaxation; None once the architecture is decided."""
    generator: torch.Generator
    """Generator of the relaxation's noise."""
    wanted: Wanted


def evaluate_stack(
    checkpoint: Checkpoint,
    updates: Sequence[Update],
    stack: Stack,
    *,
    recompute: int,
) -> tuple[Found, list[Gradient]]:
    """Evaluate updates together: losses, accuracies and the gradient of each.

    Raises:
        Diverged: the shares of all tasks are not finite.
    """
    wanted = [update.wanted for update in updates]
    asked = stack.asked(wanted)
    images, views, members = _inputs(updates, checkpoint.card.augment)
    alphas = stack.alphas.detach().requires_grad_(asked.alphas)
    relaxation = relaxation_of(checkpoint.relaxation, updates)
    own = stack.alpha_layout.views(alphas)
    supernet = checkpoint.supernet
    lives, shares = running(supernet.shares(own, relaxation, SHARE_THRESHOLD))
    tasks, count, ways = members.shape
    form = Form(
        supernet=supernet,
        layout=stack.layout,
        sizes=(tasks, count, ways),
        uneven=len({len(update.rows) for update in updates}) > 1,
        lives=lives,
        asked=asked,
        recompute=recompute,
    )
    found = evaluate(form, Batch(stack.weights, shares, images, views, members))
    of_alphas = torch.zeros_like(alphas)
    if shares.requires_grad:  # what is decided has no slope
        (of_alphas,) = torch.autograd.grad(shares, alphas, found.of_shares)
    return found, stack.gradients(found.of_weights, of_alphas, wanted)


def relaxation_of(searching: Relaxation, updates: Sequence[Update]) -> Relaxation:
    """Relaxation of a stack: each task at its temperature, or decided."""
    temperatures = [update.temperature for update in updates]
    relaxations = tuple(Argmax() if t is None else searching.at(t) for t in temperatures)
    return PerTask(relaxations, tuple(update.generator for update in updates))


def _inputs(updates: Sequence[Update], ranges: AffineRange) -> tuple[Tensor, Tensor, Tensor]:
    """Collect images and views `(tasks, n, ...)` and members `(tasks, n, ways)`, zero-padded."""
    rows, drawn = (
        pad_sequence(column, batch_first=True)
        for column in ([u.rows for u in updates], [u.drawn for u in updates])
    )
    count, ways = rows.shape[1], max(update.members.shape[1] for update in updates)
    members = torch.stack([_padded(update.members, count, ways) for update in updates])
    rows, drawn, members = upload([rows, drawn, members], updates[0].images.device)
    images = updates[0].images.new_zeros(*rows.shape, *updates[0].images.shape[1:])
    views = torch.zeros_like(images)
    for task, update in enumerate(updates):
        own = slice(len(update.rows))
        torch.index_select(update.images, 0, rows[task, own], out=images[task, own])
        if update.stored is not None:
            views[task, own] = stored_views(update.stored, rows[task, own], drawn[task, own])
    if updates[0].stored is None:  # all at once; of an image of zeros every view is zeros
        views = affine(images.flatten(0, 1), ranges, drawn.flatten(0, 1)).view_as(images)
    return images, views, members


def _padded(members: Tensor, count: int, ways: int) -> Tensor:
    return F.pad(members, (0, ways - members.shape[1], 0, count - len(members)))
