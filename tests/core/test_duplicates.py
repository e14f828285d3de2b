"""Images that two classes share."""

import numpy as np
import pytest
from numpy.typing import NDArray

from metanas.images.duplicates import shared_images

Pixels = NDArray[np.uint8]


def noise(seed: int, height: int = 6, width: int = 5) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 1), dtype=np.uint8)


def grey(value: int, side: int = 6) -> Pixels:
    return np.full((side, side, 1), value, dtype=np.uint8)


def test_same_image_in_two_classes_is_named() -> None:
    images = [noise(0), noise(1), noise(2), noise(1)]
    (found,) = shared_images(images, ["cat", "cat", "dog", "dog"])
    assert (found.field, found.reason) == ("examples[3].image", "SAME_IMAGE")
    assert "'dog'" in found.message
    assert "'cat' in examples[1]" in found.message


@pytest.mark.parametrize("value", [255, 250])
def test_blank_images_of_any_size_are_the_same(value: int) -> None:
    images = [grey(value), grey(value, 9), grey(value, 7)]
    found = list(shared_images(images, ["cat", "dog", "fox"]))
    assert [each.field for each in found] == ["examples[1].image", "examples[2].image"]
    assert all("blank" in each.message for each in found)


def test_distinct_images_pass() -> None:
    twice = [noise(0), noise(0), noise(1), grey(3), grey(4), noise(0).swapaxes(0, 1)]
    assert not list(shared_images(twice, ["cat", "cat", "dog", "fox", "hen", "hen"]))
