"""Images for a model: files and arrays as uint8 (H, W, C), decoded as the server does.

Needs the extra "onnx".
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas_client.errors import ClientError, InvalidInput, Violation
from metanas_client.support import Image, RawImage, content, image_list
from metanas_data.arrays import eight_bits
from metanas_data.decode import decode
from metanas_data.errors import ImageError
from metanas_data.limits import ImageLimits

LIMITS = ImageLimits()


def batches(
    images: Iterable[Image], channels: int, most_pixels: int
) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield the images as uint8 (H, W, channels), in lists of at most `most_pixels` pixels.

    Images are read list by list. A larger image is alone in its list.

    Args:
        images: paths, encoded bytes, arrays, or one array (N, H, W, C).
        channels: 1 or 3; colour becomes grey by ITU-R 601-2 luma, grey is repeated.
        most_pixels: limit on the pixels of a list.

    Raises:
        InvalidInput: one violation for each unusable image, with its index and, if there is one,
            its file. The reasons are FILE_UNREADABLE and those of
            `metanas_data.errors.ImageError`. After the first such image no list is yielded.
    """
    batch: list[NDArray[np.uint8]] = []
    bad: list[Violation] = []
    pixels = 0
    for index, image in enumerate(image_list(images, "images")):
        loaded = _load(image, f"images[{index}]", channels, bad)
        if loaded is None or bad:
            batch.clear()
            continue
        area = loaded.shape[0] * loaded.shape[1]
        if batch and pixels + area > most_pixels:
            yield batch
            batch, pixels = [], 0
        batch.append(loaded)
        pixels += area
    if bad:
        raise InvalidInput(bad)
    if batch:
        yield batch


def _load(
    image: bytes | RawImage | Path, field: str, channels: int, bad: list[Violation]
) -> NDArray[np.uint8] | None:
    try:
        name = str(image) if isinstance(image, Path) else field
        return load_image(content(image, field), channels, name)
    except InvalidInput as error:
        bad += error.violations
    except ClientError as error:
        source = str(image) if isinstance(image, Path) else None
        bad.append(Violation(field, error.reason, error.message, source))
    return None


def load_image(image: bytes | RawImage, channels: int, name: str = "an image") -> NDArray[np.uint8]:
    """Read one image as uint8 (H, W, channels); see `batches`.

    name: its file or place, for a warning in the log.

    Raises:
        ClientError: with the reason of the `ImageError`.
    """
    try:
        if isinstance(image, RawImage):
            values = np.frombuffer(image.data, dtype="<f4" if image.is_float else np.uint8)
            pixels = values.reshape(image.shape)
            return eight_bits(pixels, channels=channels, limits=LIMITS)
        return decode(image, channels=channels, limits=LIMITS, name=name)
    except ImageError as error:
        raise ClientError(error.reason, error.message) from error
