"""Data sets on disk as class name → uint8 images (N, C, H, W)."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas.data import arrays, folder, omniglot, packs
from metanas.data.fit import fit
from metanas.data.npz import open_npz
from metanas.data.unreadable import Note, noting
from metanas.errors import DatasetError

__all__ = ["Note", "load", "noting"]


def load(
    path: Path | str,
    split: str | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    on_unreadable: Note | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Read a data set; what kind it is shows in what the path holds.

    Args:
        path: a folder of class folders, or an npz: class-major (`omniglot`), a pack of encoded
            images (`packs`), or plain arrays (`arrays`).
        split: which part; None is everything.
        size: side to squash every image to, antialiased; None leaves sizes as they are.
        channels: 1 (grey) or 3 (RGB); None leaves arrays as they are and makes files RGB.
        on_unreadable: called with each file, or image of a pack, that cannot be read, and why;
            it is then skipped. Without it they are an error that names and counts them.

    Returns:
        class name → uint8 (N, C, H, W), all classes of one H, W.

    Raises:
        DatasetError: with a reason of its own for each way in which data can be unusable.
    """
    path = Path(path)
    with nullcontext(on_unreadable) if on_unreadable else noting("refuse") as note:
        data = _read(path, split, size, channels, note)
    if not data:
        raise DatasetError("DATASET_EMPTY", f"{path} has no classes")
    for name, images in data.items():
        if not len(images):
            raise DatasetError("DATASET_EMPTY", f"class {name!r} has no image")
    fitted = {name: fit(images, size, channels) for name, images in data.items()}
    _check_one_size(fitted)
    return fitted


def _read(
    path: Path, split: str | None, size: int | None, channels: int | None, note: Note
) -> dict[str, NDArray[np.uint8]]:
    if path.is_dir():
        return folder.read(path, split, size=size, channels=channels, note=note)
    if not path.is_file():
        raise DatasetError("DATASET_MISSING", f"there is neither a file nor a folder at {path}")
    with open_npz(path) as archive:
        names = frozenset(archive)
        if packs.matches(names):
            return packs.read(archive, split, channels=channels, note=note)
        if omniglot.matches(names):
            return omniglot.read(archive, split)
        return arrays.read(archive, names, split)


def _check_one_size(data: dict[str, NDArray[np.uint8]]) -> None:
    shapes = {images.shape[1:]: name for name, images in data.items()}
    if len(shapes) > 1:
        some = ", ".join(f"{name!r} {shape}" for shape, name in list(shapes.items())[:3])
        message = f"classes differ in (channels, height, width): {some}; give size and channels"
        raise DatasetError("DATASET_SIZE", message)
