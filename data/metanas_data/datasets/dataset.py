"""Data sets for evaluations: images as they are stored, by class."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas_data.arrays import with_channels
from metanas_data.datasets import archive, folder
from metanas_data.datasets.faults import Faults, refuse
from metanas_data.decode import decode
from metanas_data.errors import DatasetError, ImageError
from metanas_data.limits import ImageLimits
from metanas_data.suggest import did_you_mean_file

PREFERRED_SPLIT = "val"

Image = Path | bytes | NDArray[np.uint8]
"""An image file, its content, or an array (H, W) or (H, W, C)."""
Images = tuple[Image, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The classes of one split, in the order of their names."""

    name: str
    split: str | None
    """None where the data set has no splits."""
    classes: Mapping[str, Images]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names, and of the pixels of all images; files are decoded to RGB.

        Raises:
            DatasetError: DATASET_IMAGE, with all images that cannot be read.
        """
        digest, faults = hashlib.sha256(), Faults()
        for name, images in self.classes.items():
            digest.update(f"{name}\0{len(images)}\0".encode("utf-8", "surrogateescape"))
            for index, image in enumerate(images):
                try:
                    digest.update(hashlib.sha256(pixels(image, None).tobytes()).digest())
                except ImageError as error:
                    faults[place(name, index, image)] = reason_of(error)
        refuse(faults)
        return digest.hexdigest()


def read_dataset(path: Path | str, split: str | None = None) -> Dataset:
    """Read a data set without decoding its images.

    Args:
        path: a folder of class folders (see `folder.read`), or an npz file (see `archive.read`).
        split: its part; None is "val" if there is such a split, and else all classes.

    Raises:
        DatasetError: DATASET_MISSING, DATASET_FORMAT, DATASET_SPLIT, DATASET_EMPTY, DATASET_IMAGE.
    """
    path, faults = Path(path), Faults()
    chosen: str | None = split or PREFERRED_SPLIT
    try:
        classes = read_classes(path, chosen, faults)
    except DatasetError as error:
        if split or error.reason != "DATASET_SPLIT":
            raise
        chosen, classes = None, read_classes(path, None, faults)
    refuse(faults)
    return Dataset(name=path.name, split=chosen, classes=dict(sorted(classes.items())))


def read_classes(path: Path, split: str | None, faults: Faults) -> Mapping[str, Images]:
    """Return the images of each class; those of an npz file in its order.

    faults: receives entries of class folders that are no files.

    Raises:
        DatasetError: see `read_dataset`.
    """
    classes: Mapping[str, Images]
    if os.path.isdir(path):  # Path.is_dir fails for a name that is too long
        classes = _read_folder(path, split, faults)
    elif os.path.isfile(path):
        classes = archive.read(path, split)
    else:
        message = f"{path} does not exist; name an npz file or a folder.{did_you_mean_file(path)}"
        raise DatasetError("DATASET_MISSING", message)
    if not classes:
        raise DatasetError("DATASET_EMPTY", f"{path} has no classes")
    return classes


def _read_folder(path: Path, split: str | None, faults: Faults) -> Mapping[str, Images]:
    try:
        return folder.read(path, split, faults)
    except OSError as error:
        message = f"{error.filename} cannot be read: {error.strerror}"
        raise DatasetError("DATASET_FORMAT", message) from error


def with_rotations(dataset: Dataset) -> Dataset:
    """Return the data set with each class turned by 90, 180 and 270 degrees as three more classes.

    Raises:
        DatasetError: DATASET_IMAGE, with all images that cannot be read.
    """
    _ = dataset.digest  # reads all images
    classes = {
        f"{90 * turns}/{name}": tuple(_turned(image, turns) for image in images)
        for name, images in dataset.classes.items()
        for turns in range(4)
    }
    return replace(dataset, name=f"{dataset.name} with rotations", classes=classes)


def pixels(image: Image, channels: int | None) -> NDArray[np.uint8]:
    """Return an image as uint8 (H, W, channels).

    channels: 1 or 3; None leaves arrays as they are and makes files RGB.

    Raises:
        ImageError: the image cannot be decoded, or its file cannot be read.
    """
    stored = content(image)
    if isinstance(stored, bytes):
        name = str(image) if isinstance(image, Path) else "an image"
        return decode(stored, channels=channels or 3, limits=ImageLimits(), name=name)
    whole = stored[:, :, None] if stored.ndim == 2 else stored
    return with_channels(whole, channels or whole.shape[2])


def content(image: Image) -> bytes | NDArray[np.uint8]:
    """Return an image without its path.

    Raises:
        ImageError: IMAGE_UNREADABLE, the file cannot be read.
    """
    if not isinstance(image, Path):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise ImageError("IMAGE_UNREADABLE", error.strerror or str(error)) from error


def place(name: str, index: int, image: Image) -> str:
    """Name an image for an error: its path, or its number and class."""
    return str(image) if isinstance(image, Path) else f"image {index} of class {name!r}"


def reason_of(error: ImageError) -> str:
    """Return the reason why an image cannot be read, without the advice."""
    return error.message.partition(";")[0]


def _turned(image: Image, turns: int) -> Image:
    return image if turns == 0 else np.rot90(pixels(image, None), turns)
