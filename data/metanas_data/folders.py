"""Folders of classes: entries that are no images, and repeated classes.

This module needs neither NumPy nor Pillow.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

LITTER = frozenset(
    {
        "thumbs.db",
        "desktop.ini",
        "icon\r",
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
"""Files and folders that operating systems leave beside images, in lower case."""


def is_litter(name: str) -> bool:
    """Return True if an entry of a folder is hidden, or left by an operating system."""
    return name.startswith(".") or name.lower() in LITTER


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder in the order of their names, without litter.

    Raises:
        OSError: the folder cannot be read.
    """
    entries = [entry for entry in folder.iterdir() if not is_litter(entry.name)]
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def class_files(root: Path) -> tuple[dict[str, list[Path]], list[tuple[Path, str]]]:
    """Return the files of each class folder of a support set, and the faults of its layout.

    Names are in their order. A fault is a path and the end of a sentence about it: a file beside
    the class folders, an entry of a class folder that is no file, or a class that is given twice.

    Raises:
        OSError: a folder cannot be read.
    """
    entries = visible(root)
    folders = [entry for entry in entries if entry.is_dir()]
    inside = {folder.name: visible(folder) for folder in folders}
    beside = "lies beside the class folders; move it into one of them"
    nested = "is no file; a class folder holds only images"
    faults = [(entry, beside) for entry in entries if not entry.is_dir()]
    faults += [(path, nested) for paths in inside.values() for path in paths if not path.is_file()]
    faults += repeated_classes(folders)
    files = {name: [path for path in paths if path.is_file()] for name, paths in inside.items()}
    return files, sorted(faults)


def repeated_classes(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each class folder that repeats an earlier one, with a sentence about the repetition."""
    names: dict[str, Path] = {}
    places: dict[Path, Path] = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)
        place = folder.resolve()
        if name in names:
            first = ascii(names[name].name)
            yield (
                folder,
                f"the class {folder.name!a} looks like the class {first}: the same text in "
                "another Unicode form; move the images into one folder",
            )
        elif place in places:
            yield (
                folder,
                f"the class {folder.name!r} is a link to the class {places[place].name!r}; "
                "remove the link",
            )
        names.setdefault(name, folder)
        places.setdefault(place, folder)
