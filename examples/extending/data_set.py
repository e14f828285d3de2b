"""A new data set: polygons, drawn by the program.

A data set is a mapping of class name to uint8 images (N, C, H, W) of one size.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.extending.common import small_config, train
from metanas.testing import check_dataset
from metanas.training.extensions import Extensions


def shapes(_: Path) -> dict[str, NDArray[np.uint8]]:
    """Draw polygons of 3 to 9 corners, turned and moved at random; one class for each number."""
    random = np.random.default_rng(0)
    return {
        f"{corners} corners": np.stack([polygon(corners, random) for _ in range(8)])
        for corners in range(3, 10)
    }


def polygon(corners: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one polygon in white on black, (1, 28, 28)."""
    x, y = np.mgrid[-1:1:28j, -1:1:28j] - random.uniform(-0.2, 0.2, (2, 1, 1))
    angle = (np.arctan2(y, x) + random.uniform(0, 7)) % (2 * np.pi / corners) - np.pi / corners
    inside = np.hypot(x, y) * np.cos(angle) < 0.6 * np.cos(np.pi / corners)
    return np.where(inside[None], 255, 0).astype(np.uint8)


if __name__ == "__main__":
    check_dataset(shapes, Path())
    train(small_config(), Extensions(), shapes(Path()))
