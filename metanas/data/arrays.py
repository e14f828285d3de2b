"""Plain npz files: one array a class, or `images` with `labels`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas.data.fit import images_first
from metanas.data.npz import Archive
from metanas.data.splits import classes_of, unknown_split
from metanas.errors import DatasetError


def read(
    archive: Archive, names: frozenset[str], split: str | None
) -> dict[str, NDArray[np.uint8]]:
    """Class name → uint8 (N, C, H, W).

    Either `images` (N, ...) with `labels` (N,) and perhaps `split` (N,), or one array a class under
    the class's name. There, a split is a prefix: `train/cat`, `val/dog`.

    Raises:
        DatasetError: DATASET_FORMAT, DATASET_SPLIT.
    """
    if {"images", "labels"} <= names:
        return _labelled(archive, names, split)
    prefix = "" if split is None else f"{split}/"
    chosen = sorted(name for name in names if name.startswith(prefix))
    if split is not None and not chosen:
        raise unknown_split(split, {name.partition("/")[0] for name in names if "/" in name})
    return {name.removeprefix(prefix): images_first(archive[name], name) for name in chosen}


def _labelled(
    archive: Archive, names: frozenset[str], split: str | None
) -> dict[str, NDArray[np.uint8]]:
    images, labels = images_first(archive["images"], "images"), archive["labels"]
    if labels.shape != (len(images),):
        message = f"`labels` has shape {labels.shape}; there are {len(images)} images"
        raise DatasetError("DATASET_FORMAT", message)
    if split is not None and "split" not in names:
        raise unknown_split(split, set())
    if split is not None:
        chosen = classes_of(archive["split"], len(images), split)
        images, labels = images[chosen], labels[chosen]
    return {_name(label): images[labels == label] for label in np.unique(labels)}


def _name(label: Any) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
