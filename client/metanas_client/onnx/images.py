"""Images for a model on this side: files and arrays as uint8 (H, W, C), as the server reads them.

Needs the extra "onnx".
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from metanas_client.errors import ClientError, InvalidInput, Violation
from metanas_client.support import Image, RawImage, image_list
from metanas_data.arrays import eight_bits
from metanas_data.decode import decode
from metanas_data.errors import ImageError
from metanas_data.limits import ImageLimits

LIMITS = ImageLimits()


def load_images(images: Iterable[Image], channels: int) -> list[NDArray[np.uint8]]:
    """Read every image as uint8 (H, W, channels).

    Args:
        images: paths, encoded bytes, arrays, or one array (N, H, W, C).
        channels: 1 or 3; colour becomes grey by ITU-R 601-2 luma, grey is repeated.

    Raises:
        InvalidInput: one violation for each unusable image, with its index and, if there is one,
            its file. The reasons are those of `metanas_data.errors.ImageError`.
    """
    loaded: list[NDArray[np.uint8]] = []
    bad: list[Violation] = []
    for index, (source, content) in enumerate(image_list(images, "images")):
        try:
            loaded.append(load_image(content, channels))
        except ClientError as error:
            bad.append(Violation(f"images[{index}]", error.reason, error.message, source))
    if bad:
        raise InvalidInput(bad)
    return loaded


def load_image(image: bytes | RawImage, channels: int) -> NDArray[np.uint8]:
    """Read one image as uint8 (H, W, channels); see `load_images`.

    Raises:
        ClientError: with the reason of the `ImageError`.
    """
    try:
        if isinstance(image, RawImage):
            values = np.frombuffer(image.data, dtype="<f4" if image.is_float else np.uint8)
            pixels = values.reshape(image.shape)
            return eight_bits(pixels, channels=channels, limits=LIMITS)
        return decode(image, channels=channels, limits=LIMITS)
    except ImageError as error:
        raise ClientError(error.reason, error.message) from error
