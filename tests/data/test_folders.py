"""Folders of classes: litter is skipped, a class that is given twice is refused, on both sides."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metanas.errors import DatasetError
from metanas_client import InvalidInput
from metanas_client.support import read_folder
from metanas_data.datasets.stacks import load


def classes(root: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        pixels = np.full((4, 4), 40 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(root / name / "0.png")
    return root


def in_core(folder: Path) -> list[str]:
    return list(load(folder))


def in_client(folder: Path) -> list[str]:
    return [label.decode() for label in read_folder(folder).classes]


READERS = pytest.mark.parametrize("read", [in_core, in_client])


@READERS
def test_litter_of_operating_systems_is_skipped(
    tmp_path: Path, read: Callable[[Path], list[str]]
) -> None:
    classes(tmp_path, "cat", "dog")
    for name in ("__MACOSX", "@eaDir", "lost+found", ".git", "$RECYCLE.BIN"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "._0.png").touch()
    for place in (tmp_path, tmp_path / "cat"):
        for name in ("Icon\r", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (place / name).touch()
    (tmp_path / "dog" / "@eaDir").mkdir()
    assert read(tmp_path) == ["cat", "dog"]


@READERS
def test_lookalike_names_are_refused(tmp_path: Path, read: Callable[[Path], list[str]]) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    with pytest.raises((DatasetError, InvalidInput), match=r"caf\\xe9.*Unicode form|Unicode form"):
        read(classes(tmp_path, *names))


@READERS
def test_linked_class_is_refused(tmp_path: Path, read: Callable[[Path], list[str]]) -> None:
    (classes(tmp_path, "cat", "dog") / "hen").symlink_to(tmp_path / "cat")
    with pytest.raises((DatasetError, InvalidInput), match="'hen' is a link to the class 'cat'"):
        read(tmp_path)
