"""Random small affine views of images: the queries that a support set cannot spare."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.options import AffineRange


def affine_views(images: Tensor, ranges: AffineRange, generator: torch.Generator) -> Tensor:
    """Random views of images `(N, C, H, W)`; what comes from outside an image is 0."""
    draw = torch.rand(6, len(images), generator=generator).to(images.device) * 2 - 1
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
