"""Packs: many small encoded images back to back in an npz.

Image `i` is `data[offset[i]:offset[i + 1]]`, of class `class_name[label[i]]`, which belongs to
`split[label[i]]`.
"""

import numpy as np
from numpy.typing import NDArray

from metanas.data.npz import Archive
from metanas.data.splits import check_names, classes_of
from metanas.errors import DatasetError, InvalidInput
from metanas.images import decode
from metanas.task import Limits


def matches(names: frozenset[str]) -> bool:
    """Whether an archive with arrays of these names is of this kind."""
    return {"data", "offset", "label", "class_name", "split"} <= names


def read(archive: Archive, split: str | None, channels: int | None) -> dict[str, NDArray[np.uint8]]:
    """Class name → uint8 (N, channels, H, W); only the images of the wanted split are decoded.

    channels: 1 or 3; None is 3.

    Raises:
        DatasetError: DATASET_FORMAT, DATASET_SPLIT, DATASET_EMPTY, DATASET_SIZE, and DATASET_IMAGE
            with the index of an image that cannot be decoded.
    """
    data, offset, label = archive["data"], archive["offset"], archive["label"]
    names = archive["class_name"]
    _check(data, offset, label, len(names))
    check_names(names)
    result = {}
    for index in classes_of(archive["split"], len(names), split):
        members = np.flatnonzero(label == index)
        name = str(names[index])
        if not len(members):
            raise DatasetError("DATASET_EMPTY", f"class {name!r} has no image")
        images = [_image(data, offset, int(member), channels or 3) for member in members]
        if len({image.shape for image in images}) > 1:
            raise DatasetError("DATASET_SIZE", f"the images of {name!r} are of several sizes")
        result[name] = np.stack(images)
    return result


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


def _image(
    data: NDArray[np.uint8], offset: NDArray[np.int64], index: int, channels: int
) -> NDArray[np.uint8]:
    encoded = data[offset[index] : offset[index + 1]].tobytes()
    try:
        return decode(encoded, channels=channels, limits=Limits()).transpose(2, 0, 1)
    except InvalidInput as error:
        raise DatasetError("DATASET_IMAGE", f"image {index}: {error}") from error
