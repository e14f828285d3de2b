"""Random views of support images, which a task-optimizer step uses as its queries.

Without a trunk every step draws new affine views. Behind a trunk a view costs a run of the trunk,
so a few views of every image are put through it beforehand, and a step draws among them. Since they
are there, the finished model's prototypes are made of them, too.
"""

from dataclasses import replace

import torch
from torch import Tensor

from metanas.images.augment import affine, affine_draws, affine_views, photo_views
from metanas.images.support_set import Preprocessing, SupportSet
from metanas.nn.prototypes import membership
from metanas.nn.trunk import CHUNK, Trunk
from metanas.nn.upload import upload
from metanas.spec.card import CheckpointCard
from metanas.spec.options import AdaptConfig, AffineRange, PhotoRange
from metanas.util.work import Parts

MOST = 800
"""Views of a support set; large ones need fewer of each image."""


def draw_views(
    images: Tensor, stored: Tensor | None, ranges: AffineRange, generator: torch.Generator
) -> Tensor:
    """A random view of each image `(N, ...)`: among those stored, `(N, V, K)`, if there are any."""
    rows = torch.arange(len(images))
    rows, drawn = upload([rows, draws(len(images), stored, generator)], images.device)
    return affine(images, ranges, drawn) if stored is None else stored_views(stored, rows, drawn)


def draws(count: int, stored: Tensor | None, generator: torch.Generator) -> Tensor:
    """What random views of so many images are made of, on the host: `(N, 6)`, or `(N,)` if stored.

    stored: all the views that there are, `(..., V, K)`.
    """
    if stored is None:
        return affine_draws(count, generator)
    return torch.randint(stored.shape[-2], (count,), generator=generator)


def stored_views(stored: Tensor, rows: Tensor, drawn: Tensor) -> Tensor:
    """Of these images `(n,)`, the views that were drawn, `(n,)`, among those stored `(N, V, K)`."""
    return stored.flatten(0, 1).index_select(0, rows * stored.shape[1] + drawn)


def behind_trunk(
    support: SupportSet,
    preprocess: Preprocessing,
    trunk: Trunk,
    card: CheckpointCard,
    most: int,
    generator: torch.Generator,
) -> Parts[SupportSet]:
    """The support set as the supernet sees it: what the trunk makes of its images and of views.

    most: the most views of an image.
    """
    count = max(1, min(most, MOST // len(support.images)))
    device = next(trunk.parameters()).device
    images, views = [], []
    for part in support.images.split(CHUNK):
        images.append(trunk(part.to(device)).cpu())
        seen = []
        for _ in range(count):
            yield
            view = photo_view(part, preprocess, card.photo, card.augment, generator)
            seen.append(trunk(view.to(device)).cpu())
        views.append(torch.stack(seen, dim=1))
    return replace(support, images=torch.cat(images), views=torch.cat(views))


def of_prototypes(task: SupportSet, options: AdaptConfig) -> tuple[Tensor, Tensor]:
    """What the prototypes of a finished model are made of: the support images, and stored views.

    Returns these `(M, ...)`, images first, and how much each counts in the sum of its class's
    features, `(M, ways)`: an image is one, and all views of a class together are one image more. So
    they say much of a class of one image, and little of one of many.
    """
    members = membership(task.labels, task.ways)
    if task.views is None or options.trunk_only:
        return task.images, members
    count = task.views.shape[1]
    shares = members / (members.sum(0) * count)
    return (
        torch.cat([task.images, task.views.flatten(0, 1)]),
        torch.cat([members, shares.repeat_interleave(count, dim=0)]),
    )


def photo_view(
    images: Tensor,
    preprocess: Preprocessing,
    photo_range: PhotoRange,
    affine_range: AffineRange,
    generator: torch.Generator,
) -> Tensor:
    """A random view of each preprocessed image `(N, C, S, S)`."""
    pixels = photo_views(preprocess.undone(images).clamp(0, 1), photo_range, generator)
    return affine_views(preprocess.scaled(pixels), affine_range, generator)
