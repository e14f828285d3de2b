"""Data sets to evaluate on: arrays in npz, packs of encoded images in npz, and class folders.

Needs the extra "onnx". Pickled arrays are refused.
"""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas_client.errors import ClientError, DatasetError
from metanas_client.onnx.images import load_image
from metanas_client.support import RawImage, read_folder

PREFERRED_SPLIT = "val"

Images = tuple[bytes | RawImage, ...]
"""The images of a class as they are sent: encoded files, or uint8 pixels."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The classes of one split, in the order of their names."""

    name: str
    split: str | None
    """None where the data set has no splits."""
    classes: Mapping[str, Images]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all names and images."""
        digest = hashlib.sha256()
        for name, images in self.classes.items():
            digest.update(f"{name}\0{len(images)}\0".encode())
            for image in images:
                data = image.data if isinstance(image, RawImage) else image
                digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()


def read_dataset(path: Path, split: str | None = None) -> Dataset:
    """Read a data set.

    Args:
        path: an npz file with `images` uint8 (classes, n, H, W) or (classes, n, H, W, C) or with
            `data`, `offset` and `label` (image i is `data[offset[i]:offset[i + 1]]`, of class
            `label[i]`), and in both cases `class_name` and perhaps `split`; or a folder with one
            sub-folder a class, perhaps below one folder a split.
        split: which part; None means "val" if there is one, and else everything.

    Raises:
        DatasetError: DATASET_MISSING, DATASET_FORMAT, DATASET_SPLIT, DATASET_EMPTY.
    """
    if path.is_dir():
        return _read_folder(path, split)
    if not path.is_file():
        raise DatasetError("DATASET_MISSING", f"{path} does not exist: name an .npz or a folder")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DatasetError("DATASET_FORMAT", f"{path} is no readable .npz: {error}") from error
    return _read_arrays(path, arrays, split)


def with_rotations(dataset: Dataset) -> Dataset:
    """The data set with every class turned by 90, 180 and 270 degrees as three more classes.

    Raises:
        DatasetError: IMAGE_UNREADABLE, IMAGE_TOO_MANY_PIXELS, with class and number of the image.
    """
    turned = {
        f"{90 * turn}/{name}": tuple(
            _turned(image, turn, f"image {index} of class {name!r}")
            for index, image in enumerate(images)
        )
        for name, images in dataset.classes.items()
        for turn in range(4)
    }
    return replace(dataset, name=f"{dataset.name} with rotations", classes=turned)


def _turned(image: bytes | RawImage, turns: int, which: str) -> bytes | RawImage:
    if turns == 0:
        return image
    if isinstance(image, RawImage):
        pixels = np.frombuffer(image.data, np.uint8).reshape(image.shape)
    else:
        try:
            pixels = load_image(image, 3)
        except ClientError as error:
            raise DatasetError(error.reason, f"{which}: {error.message}") from error
    found = np.rot90(pixels, turns)
    return RawImage(found.shape, False, found.tobytes())


def _read_arrays(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], split: str | None
) -> Dataset:
    names = [str(name) for name in _array(path, arrays, "class_name")]
    chosen = split
    keep = list(range(len(names)))
    if "split" in arrays:
        splits = [str(entry) for entry in arrays["split"]]
        chosen = _choose(path, split, set(splits))
        keep = [i for i in keep if i < len(splits) and (chosen is None or splits[i] == chosen)]
    elif split is not None:
        raise _no_split(path, split, set())
    if "images" in arrays:
        found = _arrays_by_class(path, arrays["images"], keep)
    else:
        found = _pack_by_class(path, arrays, keep)
    classes = {names[i]: found[i] for i in sorted(keep, key=names.__getitem__)}
    if len(classes) < len(keep):
        raise DatasetError("DATASET_FORMAT", f"{path} has class names that occur twice")
    return _checked(Dataset(name=path.name, split=chosen, classes=classes), path)


def _arrays_by_class(path: Path, images: NDArray[np.generic], keep: list[int]) -> dict[int, Images]:
    if images.dtype != np.uint8 or images.ndim not in {4, 5} or max(keep, default=0) >= len(images):
        raise DatasetError(
            "DATASET_FORMAT",
            f"`images` of {path} is {images.dtype} {images.shape}; "
            "it must be uint8 (classes, n, H, W) or (classes, n, H, W, C)",
        )
    shape = tuple(images.shape[2:])
    return {
        index: tuple(RawImage(shape, False, image.tobytes()) for image in images[index])
        for index in keep
    }


def _pack_by_class(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], keep: list[int]
) -> dict[int, Images]:
    data = _array(path, arrays, "data").astype(np.uint8, copy=False)
    offset = [int(entry) for entry in _array(path, arrays, "offset").tolist()]
    label = [int(entry) for entry in _array(path, arrays, "label").tolist()]
    if len(offset) != len(label) + 1:
        raise DatasetError("DATASET_FORMAT", f"`offset` of {path} must be one longer than `label`")
    found: dict[int, list[bytes]] = {index: [] for index in keep}
    for image, index in enumerate(label):
        if index in found:
            found[index].append(data[offset[image] : offset[image + 1]].tobytes())
    return {index: tuple(images) for index, images in found.items()}


def _read_folder(path: Path, split: str | None) -> Dataset:
    parts = {entry.name for entry in path.iterdir() if entry.is_dir()}
    nested = {name for name in parts if any(e.is_dir() for e in (path / name).iterdir())}
    chosen = _choose(path, split, nested)
    folder = path if chosen is None else path / chosen
    try:
        support = read_folder(folder)
    except ClientError as error:
        raise DatasetError("DATASET_FORMAT", error.message) from error
    classes: dict[str, list[bytes | RawImage]] = {}
    for label in support.classes:
        classes[label.decode("utf-8", "replace")] = []
    for example in support.examples:
        classes[example.label.decode("utf-8", "replace")].append(example.image)
    found = {name: tuple(images) for name, images in classes.items()}
    return _checked(Dataset(name=path.name, split=chosen, classes=found), path)


def _choose(path: Path, split: str | None, known: set[str]) -> str | None:
    if split is None:
        return PREFERRED_SPLIT if PREFERRED_SPLIT in known else None
    if split not in known:
        raise _no_split(path, split, known)
    return split


def _no_split(path: Path, split: str, known: set[str]) -> DatasetError:
    there = f"it has {', '.join(sorted(known))}" if known else "it has none; leave --split out"
    return DatasetError("DATASET_SPLIT", f"{path} has no split {split!r}: {there}")


def _array(path: Path, arrays: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.generic]:
    if name not in arrays or arrays[name].ndim != 1:
        raise DatasetError(
            "DATASET_FORMAT",
            f"{path} needs a one-dimensional array `{name}`; it has {', '.join(sorted(arrays))}",
        )
    return arrays[name]


def _checked(dataset: Dataset, path: Path) -> Dataset:
    if not dataset.classes:
        raise DatasetError("DATASET_EMPTY", f"{path} has no classes")
    return dataset
