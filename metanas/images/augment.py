"""Random views of images: affine views, and crops, mirror images and colours for photos."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.nn.devices import upload
from metanas.spec.options import AffineRange, PhotoRange


def affine_views(images: Tensor, ranges: AffineRange, generator: torch.Generator) -> Tensor:
    """Return random views of images `(N, C, H, W)`; pixels from outside an image are 0."""
    (drawn,) = upload([affine_draws(len(images), generator)], images.device)
    return affine(images, ranges, drawn)


def affine_draws(count: int, generator: torch.Generator) -> Tensor:
    """Draw the numbers for random views of N images, `(N, 6)` in 0..1."""
    return torch.rand(6, count, generator=generator).T


def affine(images: Tensor, ranges: AffineRange, drawn: Tensor) -> Tensor:
    """Return the views of images `(N, C, H, W)` for these drawn numbers, `(N, 6)`."""
    draw = drawn.T * 2 - 1
    angle = draw[0] * math.radians(ranges.rotation)
    stretch_x, stretch_y = 1 + ranges.scale * draw[1], 1 + ranges.scale * draw[2]
    cos, sin, shear = angle.cos(), angle.sin(), ranges.shear * draw[3]
    # twice the shift: grid coordinates run from -1 to 1
    shift_x, shift_y = 2 * ranges.shift * draw[4], 2 * ranges.shift * draw[5]
    rows = [
        torch.stack([stretch_x * cos, stretch_x * (shear - sin), shift_x], dim=1),
        torch.stack([stretch_y * sin, stretch_y * (cos + shear), shift_y], dim=1),
    ]
    theta = torch.stack(rows, dim=1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def photo_views(images: Tensor, ranges: PhotoRange, generator: torch.Generator) -> Tensor:
    """Crop, mirror and colour each image `(N, C, H, W)` in 0..1 at random."""
    if ranges == PhotoRange():
        return images
    draw = torch.rand(7, len(images), generator=generator).to(images)
    side = 1 - (1 - ranges.crop) * draw[0]
    mirror = torch.where(draw[1] < 0.5, -1.0, 1.0) if ranges.flip else torch.ones_like(side)
    zero = torch.zeros_like(side)
    # the centre of a crop lies where the whole crop is inside the image
    across, down = (1 - side) * (2 * draw[2] - 1), (1 - side) * (2 * draw[3] - 1)
    rows = [torch.stack([side * mirror, zero, across], 1), torch.stack([zero, side, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    bright, contrast, colour = (
        1 + r * (2 * d - 1) for r, d in zip(ranges.colour, draw[4:], strict=True)
    )
    images = images * bright[:, None, None, None]
    for factor, over in ((contrast, (1, 2, 3)), (colour, (1,))):
        mean = images.mean(over, keepdim=True)
        images = mean + (images - mean) * factor[:, None, None, None]
    return images.clamp(0, 1)
