"""The classes of a run, and the network's input for their episodes.

Classes come from files or from the caller. They are rotated, mirrored and checked, and run through
the trunk if there is one.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metanas.adaptation.views import draw_views, photo_view
from metanas.errors import DatasetError
from metanas.images.augment import affine_views, photo_views
from metanas.images.support_set import Preprocessing, light_border
from metanas.nn.trunk import CHUNK, Trunk
from metanas.spec.card import InputSpec
from metanas.training.checks import check_data
from metanas.training.config import DataConfig, RunConfig
from metanas_data.datasets.faults import Faults, leave_out, refuse
from metanas_data.datasets.stacks import Classes, fit, load
from metanas_data.datasets.tasks import Features, Task, with_mirrored, with_rotations

OnImages = Callable[[int, int], None]
"""(images done, images in all)."""
Splits = tuple[Classes, Classes]
"""Classes to train on, and classes to validate on."""


def classes_of(
    config: RunConfig,
    trunk: Trunk | None = None,
    on_images: OnImages = lambda done, images: None,
    splits: Splits | None = None,
) -> tuple[Classes | Features, Classes | Features]:
    """Return classes to train on and classes to validate on; features of the trunk if any.

    Raises:
        DatasetError: the classes are unusable, or too few for the tasks of the configuration.
    """
    train, val = _read(config) if splits is None else _converted(config, splits)
    _check_disjoint(train, val)
    if config.data.rotations:
        train = with_rotations(train)
    if config.data.mirrored:
        train = with_mirrored(train)
    check_data(config, train, val)  # now: a trunk takes minutes
    if trunk is None:
        return train, val
    return (
        trunk_features(train, trunk, config, config.views, on_images),
        trunk_features(val, trunk, config, 0, on_images),
    )


def _converted(config: RunConfig, splits: Splits) -> Splits:
    """Convert the caller's classes to the configuration's size and channels.

    Raises:
        DatasetError: DATASET_FORMAT, they are not uint8 (N, C, H, W).
    """
    size = None if config.space.trunk else config.input.size
    for name, images in (item for split in splits for item in split.items()):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            message = f"class {name!r} is {images.dtype} {images.shape}; images are uint8 (N, C, "
            raise DatasetError("DATASET_FORMAT", message + "H, W), where C is 1 or 3")
    train, val = (
        {name: fit(images, size, config.input.channels) for name, images in split.items()}
        for split in splits
    )
    return train, val


def _read(config: RunConfig) -> Splits:
    faults = Faults()
    settle = leave_out if config.data.unreadable == "skip" else refuse
    try:
        train, val = (
            _load(config, split, faults)
            for split in (config.data.train_split, config.data.val_split)
        )
    finally:  # a class may be empty because of them
        settle(faults)
    return train, val


def _load(config: RunConfig, split: str, faults: Faults) -> Classes:
    """Return the classes of all data sets."""
    loaded = dict[str, NDArray[np.uint8]]()
    for path in (config.data.path, *config.data.more):
        if not Path(path).exists():
            key = "path='...'" if path == config.data.path else "more=['...']"
            message = f'there is no file or folder {path}; name the data: --set "data.{key}"'
            raise DatasetError("DATASET_MISSING", message)
        # with a trunk, images of a pack are resized later, by the preprocessing of adaptation
        resize_later = config.space.trunk and not Path(path).is_dir()
        size = None if resize_later else config.input.size
        prefix = f"{Path(path).stem}/" if config.data.more else ""
        classes = load(path, split, size=size, channels=config.input.channels, faults=faults)
        selected = _select(classes, config.data)
        if classes and not selected:
            message = (
                f"no class of {path}, split {split!r}, has {config.data.least_images} images; "
            )
            message += "lower data.least_images, or leave the data set out"
            raise DatasetError("DATASET_TOO_FEW_IMAGES", message)
        loaded |= {prefix + name: images for name, images in selected.items()}
    return loaded


def _select(classes: Classes, data: DataConfig) -> Classes:
    """Apply `least_images` and `most_images`."""
    selected = dict[str, NDArray[np.uint8]]()
    for name, images in classes.items():
        count = min(len(images), data.most_images or len(images))
        if len(images) >= data.least_images:
            selected[name] = images[np.linspace(0, len(images) - 1, count).astype(int)]
    return selected


def _check_disjoint(train: Collection[str], val: Collection[str]) -> None:
    """Refuse to validate on classes of training: validation chooses the best checkpoint."""
    if both := sorted(set(train) & set(val)):
        message = f"{len(both)} classes are in both splits, training and validation, such as "
        message += f"{', '.join(both[:3])}; validate on classes that training has not seen"
        raise DatasetError("DATASET_SPLIT", message)


def trunk_features(
    classes: Classes, trunk: Trunk, config: RunConfig, views: int, on_images: OnImages
) -> Features:
    """Run the images of each class and `views` views of them through the trunk, `(N, 1 + V, K)`.

    The result is computed once and stays in memory, in half precision: the maps of the trunk are a
    hundred times larger than the images.
    """
    generator = torch.Generator().manual_seed(config.train.seed)
    spec = config.input
    preprocess = Preprocessing(
        size=spec.size,
        scale=tuple(1 / std for std in spec.std),
        shift=tuple(-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)),
    )
    total, done = sum(map(len, classes.values())), 0
    features: dict[str, NDArray[np.float16]] = {}
    for name, images in classes.items():
        parts = []
        for part in np.array_split(images, -(-len(images) // CHUNK)):
            x = torch.cat([preprocess(image.transpose(1, 2, 0)) for image in part])
            parts.append(_with_views(x, preprocess, trunk, config, views, generator))
            done += len(part)
            on_images(done, total)
        features[name] = torch.cat(parts).numpy()
    return features


def _with_views(
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


def _stored(episode: Task) -> Tensor:
    """Return the trunk's features of an episode's images and their views, `(N, 1 + V, K)`."""
    return torch.from_numpy(np.concatenate([episode.support, episode.query]))


def network_input(episode: Task, config: RunConfig) -> Tensor:
    """Return the network's input `(N, C, S, S)`, support first; `(N, K)` with a trunk."""
    if config.space.trunk:
        return _stored(episode)[:, 0].to(torch.get_default_dtype())
    return _normalised(_pixels(episode, config.input), config.input)


def network_views(episode: Task, config: RunConfig, generator: torch.Generator) -> Tensor:
    """Return the network's input of a random view of each image."""
    if config.space.trunk:
        stored = _stored(episode)
        views = draw_views(stored[:, 0], stored, config.augment, generator)
        return views.to(torch.get_default_dtype())
    pixels = photo_views(_pixels(episode, config.input), config.photo, generator)
    return affine_views(_normalised(pixels, config.input), config.augment, generator)


def _pixels(episode: Task, spec: InputSpec) -> Tensor:
    """Return the images of an episode, from 0 to 1, inverted as adaptation inverts them."""
    images = torch.from_numpy(np.concatenate([episode.support, episode.query]))
    pixels = images.to(torch.get_default_dtype()) / 255
    support = [image.transpose(1, 2, 0) for image in episode.support]
    return 1 - pixels if spec.dark_background and light_border(support) else pixels


def _normalised(pixels: Tensor, spec: InputSpec) -> Tensor:
    mean, std = (pixels.new_tensor(each).view(1, -1, 1, 1) for each in (spec.mean, spec.std))
    return (pixels - mean) / std
