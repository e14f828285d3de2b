"""Data sets on disk as class name → uint8 images (N, C, H, W)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metanas.data import arrays, folder, omniglot, packs
from metanas.data.fit import fit
from metanas.data.npz import open_npz
from metanas.errors import DatasetError

__all__ = ["load"]


def load(
    path: Path | str,
    split: str | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    on_unreadable: folder.Unreadable | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """Read a data set; what kind it is shows in what the path holds.

    Args:
        path: a folder of class folders, or an npz: class-major (`omniglot`), a pack of encoded
            images (`packs`), or plain arrays (`arrays`).
        split: which part; None is everything.
        size: side to squash every image to, antialiased; None leaves sizes as they are.
        channels: 1 (grey) or 3 (RGB); None leaves arrays as they are and makes files RGB.
        on_unreadable: for folders: called with each file that is no image and why, which is then
            skipped; without it such files are an error.

    Returns:
        class name → uint8 (N, C, H, W), all classes of one H, W.

    Raises:
        DatasetError: with a reason of its own for each way in which data can be unusable.
    """
    path = Path(path)
    if path.is_dir():
        data = folder.read(path, split, size=size, channels=channels, on_unreadable=on_unreadable)
    elif path.is_file():
        data = _read_npz(path, split, channels)
    else:
        raise DatasetError("DATASET_MISSING", f"there is neither a file nor a folder at {path}")
    if not data:
        raise DatasetError("DATASET_EMPTY", f"{path} has no classes")
    for name, images in data.items():
        if not len(images):
            raise DatasetError("DATASET_EMPTY", f"class {name!r} has no image")
    fitted = {name: fit(images, size, channels) for name, images in data.items()}
    _check_one_size(fitted)
    return fitted


def _read_npz(path: Path, split: str | None, channels: int | None) -> dict[str, NDArray[np.uint8]]:
    with open_npz(path) as archive:
        names = frozenset(archive)
        if packs.matches(names):
            return packs.read(archive, split, channels)
        if omniglot.matches(names):
            return omniglot.read(archive, split)
        return arrays.read(archive, names, split)


def _check_one_size(data: dict[str, NDArray[np.uint8]]) -> None:
    shapes = {images.shape[1:]: name for name, images in data.items()}
    if len(shapes) > 1:
        some = ", ".join(f"{name!r} {shape}" for shape, name in list(shapes.items())[:3])
        message = f"classes differ in (channels, height, width): {some}; give size and channels"
        raise DatasetError("DATASET_SIZE", message)
