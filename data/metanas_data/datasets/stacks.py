"""Data sets for meta-training: one array of decoded images (N, C, H, W) for each class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from metanas_data.arrays import with_channels
from metanas_data.datasets.dataset import Images, pixels, place, read_classes, reason_of
from metanas_data.datasets.faults import Faults, refuse
from metanas_data.errors import DatasetError, ImageError

Classes = Mapping[str, NDArray[np.uint8]]
"""A data set in memory: class name -> images (N, C, H, W)."""


def load(
    path: Path | str,
    split: str | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    faults: Faults | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Read and decode a data set, folder or npz file.

    Args:
        path: see `metanas_data.datasets.dataset.read_dataset`.
        split: its part; None is everything.
        size: side to which every image is resized, antialiased, aspect not kept; None keeps sizes.
        channels: 1 (grey) or 3 (RGB); None leaves arrays as they are and makes files RGB.
        faults: receives the images that cannot be read, which are left out. Without it they are an
            error that names and counts them.

    Returns:
        class name → uint8 (N, C, H, W), all classes of one H, W. The classes of a folder are in the
        order of their names, those of an npz file in its order.

    Raises:
        DatasetError: DATASET_MISSING, DATASET_FORMAT, DATASET_SPLIT, DATASET_EMPTY, DATASET_IMAGE,
            DATASET_SIZE.
    """
    unreadable = Faults() if faults is None else faults
    decoded = {
        name: _decoded(name, images, size, channels, unreadable)
        for name, images in read_classes(Path(path), split, unreadable).items()
    }
    if faults is None:
        refuse(unreadable)
    for name, images in decoded.items():
        if not images:
            raise DatasetError("DATASET_EMPTY", f"class {name!r} has no image")
    _check_one_size(decoded)
    return {name: np.stack(images) for name, images in decoded.items()}


def fit(images: NDArray[np.uint8], size: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Resize images (N, C, H, W), aspect not kept, and convert between grey and RGB.

    None keeps the size or the channels.

    Returns:
        uint8 (N, channels, size, size).
    """
    same_size = size is None or images.shape[2:] == (size, size)
    same_channels = channels is None or images.shape[1] == channels
    if same_size and same_channels:
        return np.ascontiguousarray(images)
    return np.stack([_fit_one(image.transpose(1, 2, 0), size, channels) for image in images])


def _decoded(
    name: str, images: Images, size: int | None, channels: int | None, faults: Faults
) -> list[NDArray[np.uint8]]:
    decoded = []
    for index, image in enumerate(images):
        try:
            decoded.append(_fit_one(pixels(image, channels), size, channels))
        except ImageError as error:
            faults[place(name, index, image)] = reason_of(error)
    return decoded


def _fit_one(image: NDArray[np.uint8], size: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Convert an image (H, W, C) to (channels, size, size), by an antialiased bilinear filter."""
    converted = with_channels(image, channels or image.shape[2])
    if size is None or converted.shape[:2] == (size, size):
        return np.ascontiguousarray(converted).transpose(2, 0, 1)
    count = converted.shape[2]
    picture = Picture.fromarray(converted[:, :, 0] if count == 1 else converted)
    small = np.asarray(picture.resize((size, size), Picture.Resampling.BILINEAR), dtype=np.uint8)
    return small.reshape(size, size, count).transpose(2, 0, 1)


def _check_one_size(decoded: Mapping[str, list[NDArray[np.uint8]]]) -> None:
    shapes = {image.shape: name for name, images in decoded.items() for image in images}
    if len(shapes) > 1:
        some = ", ".join(f"{name!r} {shape}" for shape, name in list(shapes.items())[:3])
        message = f"images differ in (channels, height, width): {some}; give size and channels"
        raise DatasetError("DATASET_SIZE", message)
