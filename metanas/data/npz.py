"""Reading of npz archives without ever unpickling."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
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
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DatasetError("DATASET_FORMAT", f"{path} holds one array, not an archive")
            with loaded as archive:
                yield archive
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(
            "DATASET_FORMAT",
            f"{path} cannot be read as an npz archive of plain arrays: {error}",
        ) from error
