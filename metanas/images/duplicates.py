"""Images that several classes share, which no network can classify."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from metanas.errors import Violation


def shared_images(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[str]
) -> Iterator[Violation]:
    """Yield SAME_IMAGE for each example whose image another class has too.

    Blank images of one colour are the same image, whatever their sizes.

    images: the decoded support images, (H, W, C).
    labels: the class of each image.
    """
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        before = first.setdefault(_content(image), index)
        if labels[before] != labels[index]:
            kind = "blank image" if _is_blank(image) else "image"
            message = (
                f"class {labels[index]!r} has the same {kind} here as class {labels[before]!r} in "
                f"examples[{before}]; remove one of the two or correct its class"
            )
            yield Violation(f"examples[{index}].image", "SAME_IMAGE", message)


def _content(image: NDArray[np.uint8]) -> bytes:
    if _is_blank(image):
        return bytes(image[0, 0])
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()


def _is_blank(image: NDArray[np.uint8]) -> bool:
    return bool((image == image[0, 0]).all())
