"""Folders of class folders of image files; splits are folders above the class folders."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas.data.fit import fit_one
from metanas.data.splits import unknown_split
from metanas.data.unreadable import Note, reason_of
from metanas.errors import DatasetError, InvalidInput
from metanas.images.decode import decode
from metanas.spec.examples import Limits
from metanas_data.folders import is_litter, repeated_classes


def read(
    root: Path,
    split: str | None,
    *,
    size: int | None,
    channels: int | None,
    note: Note,
) -> dict[str, NDArray[np.uint8]]:
    """Class name → uint8 (N, channels, H, W), classes and files in the order of their names.

    Args:
        root: the folder; its sub-folders are the classes, or `root/split/` has them.
        split: name of the split's folder, or None.
        size: side that every image is squashed to; without it all must be of one size already.
        channels: 1 or 3; None is 3.
        note: called with each file that is no image, or folder or dead link among a class's files,
            and why; it is then skipped.

    Raises:
        DatasetError: DATASET_SPLIT, DATASET_EMPTY, DATASET_FORMAT, DATASET_SIZE.
    """
    classes = _folders(_split_folder(root, split))
    if not classes:
        raise DatasetError("DATASET_EMPTY", f"{root} has no class folders")
    if repeated := [message for _, message in repeated_classes(classes)]:
        raise DatasetError("DATASET_FORMAT", f"{root}: {'; '.join(repeated)}")

    def note_file(path: Path, why: str) -> None:
        note(str(path.relative_to(root)), why)

    images = {
        folder.name: [fit_one(image, size, channels or 3) for image in _images(folder, note_file)]
        for folder in classes
    }
    return {name: _stack(name, members) for name, members in images.items()}


def _split_folder(root: Path, split: str | None) -> Path:
    if split is None:
        return root
    if not (root / split).is_dir():
        raise unknown_split(split, {folder.name for folder in _folders(root)})
    return root / split


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not is_litter(p.name))


def _images(folder: Path, note: Callable[[Path, str], None]) -> Iterator[NDArray[np.uint8]]:
    paths = sorted(p for p in folder.iterdir() if not is_litter(p.name))
    if all(path.is_dir() for path in paths):  # no class, but perhaps a split
        return
    for path in paths:
        if not path.is_file():  # a pipe would be waited for
            note(path, _instead(path))
            continue
        try:
            yield decode(path.read_bytes(), channels=3, limits=Limits())
        except InvalidInput as error:
            note(path, reason_of(error))
        except OSError as error:
            note(path, error.strerror or type(error).__name__)


def _instead(path: Path) -> str:
    """Name the thing that lies where a file should be."""
    if path.is_dir():
        return "a folder inside a class: its images would not be seen"
    return "a link that leads nowhere" if path.is_symlink() else "not a file"


def _stack(name: str, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if not images:
        message = f"class {name!r} has no image; if the folders are splits, name one"
        raise DatasetError("DATASET_EMPTY", message)
    sizes = {f"{image.shape[2]}×{image.shape[1]}" for image in images}
    if len(sizes) > 1:
        message = f"the images of {name!r} are {' and '.join(sorted(sizes)[:3])}; give a size"
        raise DatasetError("DATASET_SIZE", message)
    return np.stack(images)
