"""Reading of npz archives without ever unpickling."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from metanas.errors import DatasetError

Archive = Mapping[str, NDArray[Any]]


@contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """The arrays of an archive by name; each is read from disk every time it is asked for.

    Raises:
        DatasetError: DATASET_FORMAT, when it is no npz, is damaged, or holds Python objects. Also
            for what goes wrong while an array is read inside the `with` block.
    """
    try:
        # opened here because np.load leaves the file open when it is a damaged archive
        with path.open("rb") as file:
            _check_kind(path, file)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        why = "it holds Python objects" if "allow_pickle" in str(error) else error
        message = f"{path} cannot be read as an npz archive of plain arrays: {why}"
        raise DatasetError("DATASET_FORMAT", message) from error


def _check_kind(path: Path, file: BinaryIO) -> None:
    """Refuse what numpy would take for something else."""
    if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
        raise DatasetError("DATASET_FORMAT", f"{path} holds one array, not an archive (np.savez)")
    if not zipfile.is_zipfile(file):
        message = f"{path} is no npz archive, or one whose end is missing; a data set is an npz or "
        raise DatasetError("DATASET_FORMAT", message + "a folder of class folders")
    file.seek(0)
