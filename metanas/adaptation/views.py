"""Random views of support images, the queries of a task-optimizer step.

Without a trunk each step draws new affine views. Behind a trunk each view costs a run of the trunk.
A few views of each image therefore run through the trunk once, and a step draws among these stored
views. The head of the finished model uses the stored views too.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metanas.images.augment import affine, affine_draws, affine_views, photo_views
from metanas.images.support_set import Image, Preprocessing, SupportSet, stacked
from metanas.nn.devices import upload
from metanas.nn.prototypes import membership
from metanas.nn.trunk import CHUNK, Trunk
from metanas.spec.card import CheckpointCard
from metanas.spec.options import AffineRange, PhotoRange
from metanas.util.work import Parts

MOST_VIEWS = 800
"""Most stored views of a support set; a large support set has fewer views of each image."""


def draw_views(
    images: Tensor, stored: Tensor | None, ranges: AffineRange, generator: torch.Generator
) -> Tensor:
    """Draw a view of each image `(N, ...)`, from the stored views `(N, V, K)` if there are any."""
    rows = torch.arange(len(images))
    rows, drawn = upload([rows, draws(len(images), stored, generator)], images.device)
    return affine(images, ranges, drawn) if stored is None else stored_views(stored, rows, drawn)


def draws(count: int, stored: Tensor | None, generator: torch.Generator) -> Tensor:
    """Draw the random numbers of `count` views on the host: `(N, 6)`, or `(N,)` if stored.

    stored: all stored views, `(..., V, K)`.
    """
    if stored is None:
        return affine_draws(count, generator)
    return torch.randint(stored.shape[-2], (count,), generator=generator)


def stored_views(stored: Tensor, rows: Tensor, drawn: Tensor) -> Tensor:
    """Select the drawn views `(n,)` of images `(n,)` from the stored views `(N, V, K)`."""
    return stored.flatten(0, 1).index_select(0, rows * stored.shape[1] + drawn)


def behind_trunk(
    images: Sequence[Image],
    preprocess: Preprocessing,
    trunk: Trunk,
    card: CheckpointCard,
    generator: torch.Generator,
) -> Parts[tuple[Tensor, Tensor]]:
    """Run the images and their views through the trunk; return `(N, K)` and `(N, V, K)`.

    Without views each image is its own view. The preprocessed images, which are much larger than
    their features, are made for a few images at a time.
    """
    count = min(card.views, max(1, MOST_VIEWS // len(images)))
    device = next(trunk.parameters()).device
    features, views = [], []
    for start in range(0, len(images), CHUNK):
        part = stacked(images[start : start + CHUNK], preprocess)
        features.append(trunk(part.to(device)).cpu())
        outputs = []
        for _ in range(count):
            yield
            view = photo_view(part, preprocess, card.photo, card.augment, generator)
            outputs.append(trunk(view.to(device)).cpu())
        views.append(torch.stack(outputs or features[-1:], dim=1))
    return torch.cat(features), torch.cat(views)


def head_inputs(task: SupportSet, card: CheckpointCard) -> tuple[Tensor, Tensor]:
    """Collect the inputs of a model's head: the support images and the stored views.

    Returns these `(M, ...)`, images first, and the weight of each in the sum of its class's
    features, `(M, ways)`: an image has weight 1, and all views of a class together have weight 1.
    So views matter for a class of one image, and little for a class of many.
    """
    members = membership(task.labels, task.ways)
    if task.views is None or card.views == 0:
        return task.images, members
    count = task.views.shape[1]
    shares = members / (members.sum(0) * count)
    return (
        torch.cat([task.images, task.views.flatten(0, 1)]),
        torch.cat([members, shares.repeat_interleave(count, dim=0)]),
    )


def pixel_views(
    images: Sequence[Image], longest: int, ranges: AffineRange, generator: torch.Generator
) -> Iterator[Image]:
    """Yield a random view of each image uint8 (H, W, C), of sides up to about `longest`."""
    for image in images:
        step = max(1, max(image.shape) // longest)
        small = torch.from_numpy(image[::step, ::step].copy()).permute(2, 0, 1)[None]
        view = affine_views(small.float(), ranges, generator)[0].permute(1, 2, 0)
        yield view.round().byte().numpy()


def photo_view(
    images: Tensor,
    preprocess: Preprocessing,
    photo_range: PhotoRange,
    affine_range: AffineRange,
    generator: torch.Generator,
) -> Tensor:
    """Draw a random view of each preprocessed image `(N, C, S, S)`."""
    pixels = photo_views(preprocess.undone(images).clamp(0, 1), photo_range, generator)
    return affine_views(preprocess.scaled(pixels), affine_range, generator)
