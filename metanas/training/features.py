"""A data set as a trunk sees it: computed once, before meta-training, and kept in memory."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metanas.adaptation.views import photo_view
from metanas.images.support_set import Preprocessing
from metanas.nn.trunk import CHUNK, Trunk
from metanas.training.config import RunConfig
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features

OnImages = Callable[[int, int], None]
"""(images done, images in all)."""


def trunk_features(
    classes: Classes, trunk: Trunk, config: RunConfig, views: int, on_images: OnImages
) -> Features:
    """Of each class, what the trunk makes of its images and of so many views, `(N, 1 + V, K)`.

    In half precision: the trunk's maps are a hundred times larger than the images they are of.
    """
    generator = torch.Generator().manual_seed(config.train.seed)
    spec = config.input
    preprocess = Preprocessing(
        size=spec.size,
        scale=tuple(1 / std for std in spec.std),
        shift=tuple(-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)),
    )
    total, done = sum(map(len, classes.values())), 0
    found: dict[str, NDArray[np.float16]] = {}
    for name, images in classes.items():
        parts = []
        for part in np.array_split(images, -(-len(images) // CHUNK)):
            x = torch.cat([preprocess(image.transpose(1, 2, 0)) for image in part])
            parts.append(_seen(x, preprocess, trunk, config, views, generator))
            done += len(part)
            on_images(done, total)
        found[name] = torch.cat(parts).numpy()
    return found


def _seen(
    x: Tensor,
    preprocess: Preprocessing,
    trunk: Trunk,
    config: RunConfig,
    views: int,
    generator: torch.Generator,
) -> Tensor:
    ranges = (config.photo, config.augment)
    inputs = [x, *(photo_view(x, preprocess, *ranges, generator) for _ in range(views))]
    return torch.stack([trunk(each).half() for each in inputs], dim=1)
