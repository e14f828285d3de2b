"""Few-shot episodes drawn from a data set. Each depends on the seed and its number alone."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from metanas_data.datasets.dataset import Dataset, Images
from metanas_data.errors import DatasetError

NAMED = 5
"""The most classes that a warning names."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EpisodeShape:
    """Size of the episodes: classes, support images and queries of each class."""

    ways: int
    """Classes, at least 2."""
    shots: int
    """Support images of a class, at least 1."""
    queries: int
    """Queries of a class, at least 1."""

    def __post_init__(self) -> None:
        if self.ways < 2 or self.shots < 1 or self.queries < 1:
            raise DatasetError(
                "EPISODE_SHAPE",
                f"an episode needs at least 2 ways, 1 shot and 1 query a class, not {self.ways}, "
                f"{self.shots} and {self.queries}",
            )


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A task: support set and queries of the same classes, with no image in common."""

    index: int
    support: Mapping[str, Images]
    """The classes in the order in which they were drawn."""
    queries: Mapping[str, Images]


class Sampler:
    """Draw the episodes of a data set from the classes that have enough images.

    A warning names the other classes.

    Raises:
        DatasetError: DATASET_TOO_FEW_CLASSES, with the numbers; SEED_OUT_OF_RANGE.
    """

    def __init__(self, dataset: Dataset, shape: EpisodeShape, seed: int) -> None:
        if seed < 0:
            raise DatasetError("SEED_OUT_OF_RANGE", f"the seed must not be negative: {seed}")
        self.dataset, self.shape, self.seed = dataset, shape, seed
        needed = shape.shots + shape.queries
        self.sizes = {
            name: len(images) for name, images in dataset.classes.items() if len(images) >= needed
        }
        """Class that has enough images -> their number."""
        if len(self.sizes) < shape.ways:
            split = f" (split {dataset.split})" if dataset.split else ""
            raise DatasetError(
                "DATASET_TOO_FEW_CLASSES",
                f"{shape.ways} ways of {shape.shots} shots and {shape.queries} queries need "
                f"{shape.ways} classes with at least {needed} images each; {dataset.name}{split} "
                f"has {len(dataset.classes)} classes, {len(self.sizes)} of them with that many",
            )
        if few := [name for name in dataset.classes if name not in self.sizes]:
            log.warning(
                "%d of %d classes have fewer than %d images and are left out: %s",
                len(few),
                len(dataset.classes),
                needed,
                ", ".join(few[:NAMED]) + (" ..." if len(few) > NAMED else ""),
            )

    def settings(self) -> dict[str, str | int | None]:
        """Return the settings that identify the episodes, by their names in stored evaluations."""
        return {
            "dataset": self.dataset.name,
            "dataset_digest": self.dataset.digest,
            "split": self.dataset.split,
            "classes": len(self.sizes),
            **asdict(self.shape),
            "seed": self.seed,
        }

    def episode(self, index: int) -> Episode:
        """Return the episode with this number, independent of other draws."""
        random = np.random.default_rng((self.seed, index))
        rows = draw_rows(self.sizes, self.shape.ways, self.shape.shots, self.shape.queries, random)
        classes = self.dataset.classes
        return Episode(
            index=index,
            support={name: _chosen(classes[name], drawn) for name, (drawn, _) in rows.items()},
            queries={name: _chosen(classes[name], drawn) for name, (_, drawn) in rows.items()},
        )


def draw_rows(
    sizes: Mapping[str, int],
    ways: int,
    shots: int,
    queries: int,
    random: np.random.Generator,
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Draw classes, and without replacement the positions of their images.

    Args:
        sizes: class -> the number of its images.
        ways: the number of classes, at most `len(sizes)`.
        shots: support images of a class.
        queries: queries of a class. A class with fewer images has fewer queries.
        random: the source of the draws.

    Returns:
        class, in the order of the draw -> positions of its support images and of its queries.
    """
    names = list(sizes)
    rows = {}
    for choice in random.choice(len(names), size=ways, replace=False):
        order = random.permutation(sizes[names[choice]])[: shots + queries]
        rows[names[choice]] = order[:shots], order[shots:]
    return rows


def _chosen(images: Images, rows: NDArray[np.int64]) -> Images:
    return tuple(images[int(row)] for row in rows)
