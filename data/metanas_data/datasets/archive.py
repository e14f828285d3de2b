"""Data sets as npz files: one array for each class, labelled arrays, or packs of encoded images.

Reading an archive unpickles nothing.
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from metanas_data.datasets.faults import no_split
from metanas_data.errors import DatasetError

Archive = Mapping[str, NDArray[Any]]
Stored = tuple[bytes, ...] | tuple[NDArray[np.uint8], ...]
"""The images of a class: encoded files, or arrays (H, W) or (H, W, C)."""


def read(path: Path, split: str | None) -> dict[str, Stored]:
    """Return the images of each class, in the order of the file.

    The names of the arrays determine the layout:

    - `images` uint8 (classes, N, H, W) or (classes, N, H, W, C), and `class_name`;
    - `data`, `offset`, `label` and `class_name`: image i is `data[offset[i]:offset[i + 1]]`, an
      encoded file of class `class_name[label[i]]`;
    - `images` (N, ...) and `labels` (N,);
    - otherwise each array is a class (N, ...), and a split is the start of its name: `train/cat`.

    `split`, if it is there, has one entry for each class, or for each image beside `labels`.

    Raises:
        DatasetError: DATASET_FORMAT, DATASET_SPLIT.
    """
    with _open(path) as archive:
        names = frozenset(archive)
        if {"images", "labels"} <= names:
            return _labelled(archive, split)
        if "class_name" in names:
            return _by_class(archive, split)
        return _one_array_a_class(archive, split)


@contextmanager
def _open(path: Path) -> Iterator[Archive]:
    """Open an archive. Each array is read at its first access.

    Raises:
        DatasetError: DATASET_FORMAT, the file is no npz, is damaged or contains Python objects, or
            the `with` block cannot read an array.
    """
    try:
        # `np.load` leaves a damaged archive open, so the file is opened here
        with path.open("rb") as file:
            _check_kind(path, file)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        why = "it holds Python objects" if "allow_pickle" in str(error) else error
        message = f"{path} cannot be read as an npz archive of plain arrays: {why}"
        raise DatasetError("DATASET_FORMAT", message) from error


def _check_kind(path: Path, file: BinaryIO) -> None:
    """Refuse files that `np.load` would read as something else than an archive."""
    if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
        raise DatasetError("DATASET_FORMAT", f"{path} holds one array, not an archive (np.savez)")
    if not zipfile.is_zipfile(file):
        message = f"{path} is no npz archive, or one whose end is missing; a data set is an npz or "
        raise DatasetError("DATASET_FORMAT", message + "a folder of class folders")
    file.seek(0)


def _by_class(archive: Archive, split: str | None) -> dict[str, Stored]:
    names = [str(name) for name in archive["class_name"]]
    _check_names(names)
    chosen = _of_split(archive, len(names), split)
    if "images" not in archive:
        return _pack(archive, names, chosen)
    images = archive["images"]
    if len(names) != len(images) or images.ndim not in (4, 5):
        message = f"`images` {images.shape} does not fit {len(names)} entries of `class_name`; it "
        message += "must be uint8 (classes, n, H, W) or (classes, n, H, W, C)"
        raise DatasetError("DATASET_FORMAT", message)
    return {names[i]: _images_last(images[i], "images") for i in chosen}


def _pack(archive: Archive, names: Sequence[str], chosen: Sequence[int]) -> dict[str, Stored]:
    if missing := [name for name in ("data", "offset", "label") if name not in archive]:
        message = f"beside `class_name` stand `images`, or `data`, `offset` and `label`; {missing} "
        raise DatasetError("DATASET_FORMAT", message + "are missing")
    data, offset, label = archive["data"], archive["offset"], archive["label"]
    _check_pack(data, offset, label, len(names))
    rows = {i: np.flatnonzero(label == i) for i in chosen}
    return {
        names[i]: tuple(data[offset[row] : offset[row + 1]].tobytes() for row in rows[i])
        for i in chosen
    }


def _check_pack(
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


def _labelled(archive: Archive, split: str | None) -> dict[str, Stored]:
    images, labels = archive["images"], archive["labels"]
    if labels.shape != images.shape[:1]:
        message = f"`labels` has shape {labels.shape}; there are {len(images)} images"
        raise DatasetError("DATASET_FORMAT", message)
    chosen = _of_split(archive, len(images), split)
    images, labels = images[chosen], labels[chosen]
    return {
        _text(label): _images_last(images[labels == label], "images") for label in np.unique(labels)
    }


def _one_array_a_class(archive: Archive, split: str | None) -> dict[str, Stored]:
    prefix = "" if split is None else f"{split}/"
    chosen = sorted(name for name in archive if name.startswith(prefix))
    if split is not None and not chosen:
        no_split(split, {name.partition("/")[0] for name in archive if "/" in name})
    return {name.removeprefix(prefix): _images_last(archive[name], name) for name in chosen}


def _of_split(archive: Archive, count: int, split: str | None) -> list[int]:
    """Return the positions of the entries of `split` that are this split."""
    if "split" not in archive:
        return list(range(count)) if split is None else no_split(split, set())
    splits = archive["split"]
    if splits.shape != (count,):
        message = f"`split` has shape {splits.shape}; it needs one entry for each of {count}"
        raise DatasetError("DATASET_FORMAT", message)
    if split is None:
        return list(range(count))
    chosen = [int(index) for index in np.flatnonzero(splits == split)]
    return chosen or no_split(split, {str(name) for name in splits})


def _check_names(names: Sequence[str]) -> None:
    if any(not name.strip() for name in names):
        raise DatasetError("DATASET_FORMAT", "a class has no name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError("DATASET_FORMAT", f"two classes are called {twice!r}")


def _text(label: Any) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _images_last(array: NDArray[Any], name: str) -> tuple[NDArray[np.uint8], ...]:
    """Return the images of a stack as (H, W) or (H, W, C).

    array: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3.

    Raises:
        DatasetError: DATASET_FORMAT, for other arrays and those that fit two of these.
    """
    if array.dtype != np.uint8:
        message = f"{name!r} is {array.dtype}; images are uint8 from 0 to 255"
        raise DatasetError("DATASET_FORMAT", message)
    if array.ndim == 3:
        return tuple(array)
    axes = [axis for axis in (1, 3) if array.ndim == 4 and array.shape[axis] in (1, 3)]
    if len(axes) != 1:
        message = f"{name!r} has shape {array.shape}; images are N×C×H×W, N×H×W×C or N×H×W"
        raise DatasetError("DATASET_FORMAT", message)
    return tuple(array if axes == [3] else array.transpose(0, 2, 3, 1))
