"""Tasks of meta-training, drawn from decoded images or their features."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metanas_data.datasets.episodes import draw_rows
from metanas_data.datasets.stacks import Classes
from metanas_data.errors import DatasetError

Features = Mapping[str, NDArray[np.float16]]
"""A data set behind a trunk: class name -> features of images and views, (N, 1 + V, K)."""


def with_rotations(data: Classes) -> Classes:
    """Return the data set with each class turned by 90, 180 and 270 degrees as three more classes.

    A turn is the outermost part of a name, so turned classes form separate groups.
    """
    return {
        f"{90 * turn}/{name}": np.rot90(images, turn, axes=(2, 3))
        for name, images in data.items()
        for turn in range(4)
    }


def with_mirrored(data: Classes) -> Classes:
    """Return the data set with each class mirrored left to right as one more class.

    Mirrored classes form separate groups. So a task with few groups seldom has a symmetric
    character and its mirror image as two classes.
    """
    return {**data, **{f"mirrored/{name}": images[..., ::-1] for name, images in data.items()}}


def groups_of(names: Iterable[str]) -> list[NDArray[np.int64]]:
    """Return the positions of the names of each group: names that are equal up to the last slash.

    "Greek/alpha" and "Greek/beta" are one group: classes that look alike, as in many real tasks.
    """
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(name.rpartition("/")[0], []).append(position)
    return [np.array(positions) for positions in groups.values()]


def domains_of(names: Iterable[str], *, several: bool) -> list[list[NDArray[np.int64]]]:
    """Return the groups of each domain.

    several: a domain is a data set, the part of a name up to its first slash; otherwise all names
        are of one domain.
    """
    domains: dict[str, list[NDArray[np.int64]]] = {}
    listed = list(names)
    for group in groups_of(listed):
        domain = listed[group[0]].partition("/")[0] if several else ""
        domains.setdefault(domain, []).append(group)
    return list(domains.values())


def draw_classes(
    domains: Sequence[Sequence[NDArray[np.int64]]],
    ways: int,
    most: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw `ways` classes of one to `most` groups of one domain; of all groups if `most` is 0.

    The domain and the number of groups are drawn uniformly. If these groups have too few classes,
    further groups of the domain are added.
    """
    groups = [group for domain in domains for group in domain]
    if most and len(domains) > 1:
        groups = list(domains[int(random.integers(len(domains)))])
    count = int(random.integers(1, most + 1)) if most else len(groups)
    shuffled = [groups[group] for group in random.permutation(len(groups))]
    enough = int(np.searchsorted(np.cumsum([len(group) for group in shuffled]), ways)) + 1
    pool = np.concatenate(shuffled[: max(count, enough)])
    return random.choice(pool, ways, replace=False)


@dataclass(frozen=True)
class Task:
    """A task of meta-training: labels `(N,)`, ways ascending.

    Its images are those of the data set: uint8 `(N, C, H, W)`, or `Features` `(N, 1 + V, K)`.
    """

    support: NDArray[Any]
    support_labels: NDArray[np.int64]
    query: NDArray[Any]
    query_labels: NDArray[np.int64]
    classes: tuple[str, ...]


def sample_task(
    data: Classes | Features,
    *,
    ways: int,
    shots: int,
    queries: int,
    random: np.random.Generator,
    repeat: bool = False,
) -> Task:
    """Draw `ways` classes and, without replacement, `shots` and `queries` images of each.

    repeat: a class that has too few images for the queries repeats some of them. No image is
        ever both support and query.

    Raises:
        DatasetError: DATASET_TOO_FEW_CLASSES; DATASET_TOO_FEW_IMAGES, for a drawn class.
    """
    if ways > len(data):
        raise DatasetError(
            "DATASET_TOO_FEW_CLASSES",
            f"{ways}-way episodes need {ways} classes, the data set has {len(data)}",
        )
    sizes = {name: len(images) for name, images in data.items()}
    rows = draw_rows(sizes, ways, shots, queries, random)
    distinct = min(queries, 1) if repeat else queries
    for name in rows:
        if shots + distinct > sizes[name]:
            raise DatasetError(
                "DATASET_TOO_FEW_IMAGES",
                f"{shots} shots and {distinct} distinct queries need {shots + distinct} images of "
                f"every class; {name!r} has {sizes[name]}",
            )
    return Task(
        np.concatenate([data[name][support] for name, (support, _) in rows.items()]),
        np.repeat(np.arange(ways), shots),
        np.concatenate([data[name][np.resize(rest, queries)] for name, (_, rest) in rows.items()]),
        np.repeat(np.arange(ways), queries),
        tuple(rows),
    )
