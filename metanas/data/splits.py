"""Splits of data sets: the classes or images that belong to each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas.errors import DatasetError


def classes_of(splits: NDArray[Any], count: int, split: str | None) -> list[int]:
    """Indices of the entries of `splits` (one for each of `count` things) that are `split`.

    Raises:
        DatasetError: DATASET_FORMAT, DATASET_SPLIT.
    """
    if splits.shape != (count,):
        message = f"`split` has shape {splits.shape}; it needs one entry for each of {count}"
        raise DatasetError("DATASET_FORMAT", message)
    if split is None:
        return list(range(count))
    chosen = [int(index) for index in np.flatnonzero(splits == split)]
    if not chosen:
        raise unknown_split(split, {str(name) for name in splits})
    return chosen


def check_names(names: NDArray[Any]) -> None:
    """Refuse class names that are blank or that two classes have: a mapping would lose one.

    Raises:
        DatasetError: DATASET_FORMAT.
    """
    texts = [str(name) for name in names]
    if any(not text.strip() for text in texts):
        raise DatasetError("DATASET_FORMAT", "a class has no name")
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise DatasetError("DATASET_FORMAT", f"two classes are called {twice!r}")


def unknown_split(split: str, known: set[str]) -> DatasetError:
    """The error for a split that the data set does not have."""
    there = ", ".join(sorted(known)) or "none"
    return DatasetError("DATASET_SPLIT", f"there is no split {split!r}; there are: {there}")
