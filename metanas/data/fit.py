"""Bringing the images of a data set to one size and one number of channels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metanas.errors import DatasetError
from metanas_data.arrays import with_channels


def fit(images: NDArray[np.uint8], size: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Resize (squashing, not cropping) and convert between grey and RGB.

    images: (N, C, H, W). None leaves the size, or the channels, as they are.

    Returns:
        uint8 (N, channels, size, size).
    """
    same_size = size is None or images.shape[2:] == (size, size)
    same_channels = channels is None or images.shape[1] == channels
    if same_size and same_channels:
        return np.ascontiguousarray(images)
    wanted = channels or images.shape[1]
    fitted = [fit_one(image.transpose(1, 2, 0), size, wanted) for image in images]
    return np.stack(fitted)


def fit_one(image: NDArray[np.uint8], size: int | None, channels: int) -> NDArray[np.uint8]:
    """One image (H, W, C) to (channels, size, size), by an antialiased bilinear filter."""
    converted = with_channels(image, channels)
    if size is None or converted.shape[:2] == (size, size):
        return np.ascontiguousarray(converted).transpose(2, 0, 1)
    picture = Image.fromarray(converted[:, :, 0] if channels == 1 else converted)
    small = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    return small.reshape(size, size, channels).transpose(2, 0, 1)


def images_first(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """A stack of images in any usual order of axes as (N, C, H, W).

    array: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3.

    Raises:
        DatasetError: DATASET_FORMAT, when it is none of them, or two of them at once.
    """
    if array.dtype != np.uint8:
        message = f"{name!r} is {array.dtype}; images are uint8 from 0 to 255"
        raise DatasetError("DATASET_FORMAT", message)
    if array.ndim == 3:
        return array[:, None]
    axes = [axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] in (1, 3)]
    if len(axes) != 1:
        message = f"{name!r} has shape {array.shape}; images are N×C×H×W, N×H×W×C or N×H×W"
        raise DatasetError("DATASET_FORMAT", message)
    return array if axes == [1] else array.transpose(0, 3, 1, 2)
