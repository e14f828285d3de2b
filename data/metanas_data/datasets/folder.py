"""Data sets as folders: one folder of image files a class, perhaps below a folder a split."""

from pathlib import Path

from metanas_data.datasets.faults import Faults, no_split
from metanas_data.errors import DatasetError
from metanas_data.folders import repeated_classes, visible


def read(root: Path, split: str | None, faults: Faults) -> dict[str, tuple[Path, ...]]:
    """Return the files of each class, classes and files in the order of their names.

    Args:
        root: the folder. Its sub-folders are the classes, or `root/split/` has them. Files beside
            the class folders are ignored.
        split: the name of the split, or None.
        faults: receives folders, dead links and pipes among the files of a class.

    Raises:
        DatasetError: DATASET_SPLIT, DATASET_EMPTY, DATASET_FORMAT.
    """
    top = _folders(root)
    nested = {folder.name for folder in top if _has_only_folders(folder)}
    if split is not None and split not in nested:
        no_split(split, nested)
    classes = top if split is None else _folders(root / split)
    if split is None and nested:
        some = ", ".join(sorted(nested)[:3])
        message = f"{root} has no images in {some}; if the folders are splits, name one"
        raise DatasetError("DATASET_SPLIT", message)
    if not classes:
        raise DatasetError("DATASET_EMPTY", f"{root} has no class folders")
    if repeated := [message for _, message in repeated_classes(classes)]:
        raise DatasetError("DATASET_FORMAT", f"{root}: {'; '.join(repeated)}")
    return {folder.name: _files(folder, faults) for folder in classes}


def _folders(root: Path) -> list[Path]:
    return [path for path in visible(root) if path.is_dir()]


def _has_only_folders(folder: Path) -> bool:
    entries = visible(folder)
    return bool(entries) and all(path.is_dir() for path in entries)


def _files(folder: Path, faults: Faults) -> tuple[Path, ...]:
    paths = visible(folder)
    faults |= {str(path): _kind(path) for path in paths if not path.is_file()}
    return tuple(path for path in paths if path.is_file())


def _kind(path: Path) -> str:
    """Name an entry that is no file. To open a pipe would block."""
    if path.is_dir():
        return "a folder inside a class: its images would not be read"
    return "a link without a target" if path.is_symlink() else "not a file"
