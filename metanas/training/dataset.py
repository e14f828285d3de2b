"""The classes of a run: read, or given; turned, mirrored, checked, and sent through the trunk."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas.errors import DatasetError
from metanas.nn.trunk import Trunk
from metanas.training.checks import check_data
from metanas.training.config import RunConfig
from metanas.training.extensions import Splits
from metanas.training.features import OnImages, trunk_features
from metanas_data.datasets.faults import Faults, leave_out, refuse
from metanas_data.datasets.stacks import Classes, fit, load
from metanas_data.datasets.tasks import Features, with_mirrored, with_rotations


def classes_of(
    config: RunConfig,
    trunk: Trunk | None = None,
    on_images: OnImages = lambda done, images: None,
    splits: Splits | None = None,
) -> tuple[Classes | Features, Classes | Features]:
    """Classes to train on and classes to validate on, as the trunk sees them if there is one.

    Raises:
        DatasetError: they cannot be used, or not for the tasks that are asked for.
    """
    train, val = _read(config) if splits is None else _given(config, splits)
    _check_apart(train, val)
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


def _given(config: RunConfig, splits: Splits) -> Splits:
    """The caller's classes as those of a file would be: of the configuration's size and channels.

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
            message = f'there is nothing at {path}; say where the data are: --set "data.{key}"'
            raise DatasetError("DATASET_MISSING", message)
        # before a trunk packs stay as they are: they are resized as an adaptation resizes them
        as_they_are = config.space.trunk and not Path(path).is_dir()
        size = None if as_they_are else config.input.size
        prefix = f"{Path(path).stem}/" if config.data.more else ""
        classes = load(path, split, size=size, channels=config.input.channels, faults=faults)
        loaded |= {prefix + name: images for name, images in classes.items()}
    return loaded


def _check_apart(train: Collection[str], val: Collection[str]) -> None:
    """Refuse to validate on what is trained on: the best checkpoint is chosen by validation."""
    if both := sorted(set(train) & set(val)):
        message = f"{len(both)} classes are in both splits, training and validation, such as "
        message += f"{', '.join(both[:3])}; validate on classes that training has not seen"
        raise DatasetError("DATASET_SPLIT", message)
