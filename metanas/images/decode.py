"""Images of a support set as (H, W, C) arrays, with errors of the core."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas.errors import InvalidInput
from metanas.spec.examples import Limits
from metanas_data import arrays
from metanas_data import decode as files
from metanas_data.errors import ImageError
from metanas_data.limits import ImageLimits


def decode(
    data: bytes, *, channels: int, limits: Limits, name: str = "an image"
) -> NDArray[np.uint8]:
    """Decode an image file to uint8 (H, W, channels); see `metanas_data.decode.decode`.

    Raises:
        InvalidInput: field `image`, with the reason of the `ImageError`.
    """
    with _as_invalid_input():
        return files.decode(data, channels=channels, limits=_of_one(limits), name=name)


def from_array(array: NDArray[Any], *, channels: int, limits: Limits) -> NDArray[np.uint8]:
    """Check a raw image and convert it to uint8 (H, W, channels).

    Queries come with eight bits, so the support set has no more. See
    `metanas_data.arrays.from_array`.

    Raises:
        InvalidInput: field `image`, with the reason of the `ImageError`.
    """
    with _as_invalid_input():
        return arrays.eight_bits(array, channels=channels, limits=_of_one(limits))


def _of_one(limits: Limits) -> ImageLimits:
    return ImageLimits(
        max_bytes=limits.max_image_bytes, max_pixels=limits.max_pixels, min_side=limits.min_side
    )


@contextmanager
def _as_invalid_input() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise InvalidInput.single("image", error.reason, error.message) from error.__cause__
