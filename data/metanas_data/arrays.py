"""Raw images: checks and conversion of NumPy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas_data.errors import ImageError
from metanas_data.limits import ImageLimits

LUMA = (19595, 38470, 7471)
"""ITU-R 601-2 luma times 65536, as in Pillow's mode "L"."""


def from_array(
    array: NDArray[Any], *, channels: int, limits: ImageLimits
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Check a raw image and convert it to `channels`.

    Args:
        array: uint8, or float32 within 0..1; (H, W, 1), (H, W, 3) in the order RGB, or (H, W).
        channels: 1 or 3. Colour becomes grey by ITU-R 601-2 luma, grey is repeated.
        limits: the limits of the image.

    Returns:
        (H, W, channels) of the same type.

    Raises:
        ImageError: TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CHANNELS, TENSOR_NOT_FINITE, TENSOR_RANGE,
            IMAGE_TOO_LARGE, IMAGE_TOO_SMALL or IMAGE_TOO_MANY_PIXELS.
    """
    if array.dtype not in (np.uint8, np.float32):
        message = f"the array is {array.dtype}; send uint8, or float32 within 0..1"
        raise ImageError("TENSOR_DTYPE", message)
    if array.ndim not in (2, 3):
        message = f"the array has shape {array.shape}; one image is (height, width, 3)"
        raise ImageError("TENSOR_SHAPE", message)
    raw = array[:, :, None] if array.ndim == 2 else array
    if raw.shape[2] not in (1, 3):
        raise ImageError("TENSOR_CHANNELS", _channels_message(raw.shape))
    limits.check_bytes(raw.nbytes)
    limits.check_size(raw.shape[1], raw.shape[0])
    if raw.dtype == np.float32:
        _check_floats(raw)
    elif raw.max() == 1:
        message = "the uint8 array has only 0 and 1, but white is 255; multiply the array by 255"
        raise ImageError("TENSOR_RANGE", message)
    return np.ascontiguousarray(with_channels(raw, channels))


def eight_bits(array: NDArray[Any], *, channels: int, limits: ImageLimits) -> NDArray[np.uint8]:
    """Check a raw image and convert it to uint8 (H, W, channels); see `from_array`."""
    image = from_array(array, channels=channels, limits=limits)
    rounded = image if image.dtype == np.uint8 else np.rint(image * 255)
    return rounded.astype(np.uint8)


def with_channels(raw: NDArray[Any], channels: int) -> NDArray[Any]:
    """Convert (H, W, 1 or 3) to (H, W, channels) without checks."""
    if raw.shape[2] == channels:
        return raw
    if channels == 3:
        return np.repeat(raw, 3, axis=2)
    if (
        raw.dtype == np.uint8
    ):  # the integer arithmetic of Pillow's "L", so that files and arrays agree
        weights = np.array(LUMA, dtype=np.uint32)
        grey = ((raw.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)
    else:
        grey = np.minimum(raw @ np.array([0.299, 0.587, 0.114], dtype=np.float32), np.float32(1))
    return grey[:, :, None]


def _check_floats(raw: NDArray[np.float32]) -> None:
    if not np.isfinite(raw).all():
        raise ImageError("TENSOR_NOT_FINITE", "the array has NaN or infinite values")
    low, high = float(raw.min()), float(raw.max())
    if low < 0 or high > 1:
        message = f"values from {low:g} to {high:g}; float images go from 0 to 1"
        raise ImageError("TENSOR_RANGE", message)


def _channels_message(shape: tuple[int, ...]) -> str:
    hint = "; channels come last, so transpose it" if shape[0] in (1, 3) else ""
    return f"the array has shape {shape}, so {shape[2]} channels; send 1 or 3{hint}"
