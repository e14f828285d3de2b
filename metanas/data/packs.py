"""Packs: many small encoded images back to back in an npz.

Image `i` is `data[offset[i]:offset[i + 1]]`, of class `class_name[label[i]]`, which belongs to
`split[label[i]]`.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from metanas.data.npz import Archive
from metanas.data.splits import check_names, classes_of
from metanas.data.unreadable import Note, reason_of
from metanas.errors import DatasetError, InvalidInput
from metanas.images.decode import decode
from metanas.spec.examples import Limits


def matches(names: frozenset[str]) -> bool:
    """Return True if an archive with arrays of these names is of this kind."""
    return {"data", "offset", "label", "class_name", "split"} <= names


def read(
    archive: Archive, split: str | None, *, channels: int | None, note: Note
) -> dict[str, NDArray[np.uint8]]:
    """Class name → uint8 (N, channels, H, W); only the images of the wanted split are decoded.

    channels: 1 or 3; None is 3.
    note: called with each image that cannot be decoded, and why; it is then skipped.

    Raises:
        DatasetError: DATASET_FORMAT, DATASET_SPLIT, DATASET_EMPTY, DATASET_SIZE.
    """
    data, offset, label = archive["data"], archive["offset"], archive["label"]
    names = archive["class_name"]
    _check(data, offset, label, len(names))
    check_names(names)

    def images(name: str, members: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for member in members:
            try:
                encoded = data[offset[member] : offset[member + 1]].tobytes()
                decoded = decode(encoded, channels=channels or 3, limits=Limits())
                yield decoded.transpose(2, 0, 1)
            except InvalidInput as error:
                note(f"image {member} of class {name!r}", reason_of(error))

    chosen = {
        str(names[index]): np.flatnonzero(label == index)
        for index in classes_of(archive["split"], len(names), split)
    }
    found = {name: list(images(name, members)) for name, members in chosen.items()}
    return {name: _stack(name, members) for name, members in found.items()}


def _check(
    data: NDArray[np.uint8], offset: NDArray[np.int64], label: NDArray[np.int64], classes: int
) -> None:
    sound = (
        data.dtype == np.uint8
        and data.ndim == label.ndim == offset.ndim == 1
        and len(offset) == len(label) + 1
        and len(label) > 0
        and bool((np.diff(offset) > 0).all())
        and (offset[0], offset[-1]) == (0, len(data))
        and 0 <= label.min() <= label.max() < classes
    )
    if not sound:
        message = "`data`, `offset`, `label` and `class_name` do not fit together"
        raise DatasetError("DATASET_FORMAT", message)


def _stack(name: str, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if not images:
        raise DatasetError("DATASET_EMPTY", f"class {name!r} has no image")
    if len({image.shape for image in images}) > 1:
        raise DatasetError("DATASET_SIZE", f"the images of {name!r} are of several sizes")
    return np.stack(images)
