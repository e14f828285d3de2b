"""Class-major npz files, as Omniglot comes in: `images`, `class_name`, `alphabet` and `split`.

The source is Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic
program induction", Science 350 (2015); the customary split is that of Vinyals et al. (2016).
"""

import numpy as np
from numpy.typing import NDArray

from metanas.data.fit import images_first
from metanas.data.npz import Archive
from metanas.data.splits import check_names, classes_of
from metanas.errors import DatasetError


def matches(names: frozenset[str]) -> bool:
    """Return True if an archive with arrays of these names is of this kind."""
    return {"images", "class_name", "split"} <= names


def read(archive: Archive, split: str | None) -> dict[str, NDArray[np.uint8]]:
    """Class name → uint8 (N, 1, H, W) of the classes of a split; of all classes without one.

    `images` is uint8 (classes, N, H, W); `class_name` and `split` have an entry a class. Values are
    as in the file: Omniglot's ink is 255 on 0.

    Raises:
        DatasetError: DATASET_FORMAT, DATASET_SPLIT.
    """
    names, images = archive["class_name"], archive["images"]
    if len(names) != len(images) or images.ndim not in (4, 5):
        message = f"`images` {images.shape} does not fit `class_name` {names.shape}"
        raise DatasetError("DATASET_FORMAT", message)
    check_names(names)
    chosen = classes_of(archive["split"], len(names), split)
    return {str(names[index]): images_first(images[index], "images") for index in chosen}
