"""Sampling of few-shot episodes: which classes and images become support set and queries."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas.errors import DatasetError

Classes = Mapping[str, NDArray[np.uint8]]
"""A data set in memory: class name -> images (N, C, H, W)."""
Features = Mapping[str, NDArray[np.float16]]
"""The same behind a trunk: class name -> what it makes of images and views, (N, 1 + V, K)."""


def with_rotations(data: Classes) -> Classes:
    """The data set with every class turned by 90, 180 and 270 degrees as three more classes.

    A turn is the outermost part of a name, so turned classes are in groups of their own.
    """
    return {
        f"{90 * turn}/{name}": np.rot90(images, turn, axes=(2, 3))
        for name, images in data.items()
        for turn in range(4)
    }


def with_mirrored(data: Classes) -> Classes:
    """The data set with every class seen in an upright mirror as one more class.

    As with turns, mirrored classes are in groups of their own: of a task that takes few groups,
    a symmetric character and its mirror image are seldom two classes.
    """
    return {**data, **{f"mirrored/{name}": images[..., ::-1] for name, images in data.items()}}


def groups_of(names: Iterable[str]) -> list[NDArray[np.int64]]:
    """Positions of the names that are alike up to their last slash, for each such beginning.

    "Greek/alpha" and "Greek/beta" are one group: classes that look alike, as a task's often do.
    """
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name.rpartition("/")[0], []).append(position)
    return [np.array(positions) for positions in found.values()]


def draw_classes(
    groups: Sequence[NDArray[np.int64]], ways: int, most: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """`ways` classes of one to `most` groups, how many being drawn too; of all groups if that is 0.

    Further groups join where those have too few classes.
    """
    count = int(random.integers(1, most + 1)) if most else len(groups)
    shuffled = [groups[group] for group in random.permutation(len(groups))]
    enough = int(np.searchsorted(np.cumsum([len(group) for group in shuffled]), ways)) + 1
    pool = np.concatenate(shuffled[: max(count, enough)])
    return random.choice(pool, ways, replace=False)


@dataclass(frozen=True)
class Episode:
    """A task drawn from a data set: labels `(N,)`, ways ascending.

    Its images are what the data set holds: uint8 `(N, C, H, W)`, or `Features` `(N, 1 + V, K)`.
    """

    support: NDArray[Any]
    support_labels: NDArray[np.int64]
    query: NDArray[Any]
    query_labels: NDArray[np.int64]
    classes: tuple[str, ...]


def sample_episode(
    data: Classes | Features,
    *,
    ways: int,
    shots: int,
    queries: int,
    random: np.random.Generator,
    repeat: bool = False,
) -> Episode:
    """Draw `ways` classes and, without replacement, `shots` and `queries` images of each.

    repeat: whether a class that has too few images for so many queries may repeat some of them; no
        image is ever both support and query.

    Raises:
        DatasetError: fewer classes than ways, or a drawn class with too few images.
    """
    names = list(data)
    if ways > len(names):
        raise DatasetError(
            "DATASET_TOO_FEW_CLASSES",
            f"{ways}-way episodes need {ways} classes, the data set has {len(names)}",
        )
    chosen = [names[i] for i in random.choice(len(names), size=ways, replace=False)]
    support, query = [], []
    for name in chosen:
        images = data[name]
        distinct = min(queries, 1) if repeat else queries
        if shots + distinct > len(images):
            raise DatasetError(
                "DATASET_TOO_FEW_IMAGES",
                f"{shots} shots and {distinct} distinct queries need {shots + distinct} images of "
                f"every class; {name!r} has {len(images)}",
            )
        order = random.permutation(len(images))[: shots + queries]
        support.append(images[order[:shots]])
        query.append(images[np.resize(order[shots:], queries)])
    return Episode(
        np.concatenate(support),
        np.repeat(np.arange(ways), shots),
        np.concatenate(query),
        np.repeat(np.arange(ways), queries),
        tuple(chosen),
    )
