"""Few-shot episodes drawn from a data set: every episode depends on its own number alone.

Needs the extra "onnx".
"""

from dataclasses import dataclass

import numpy as np

from metanas_client.errors import DatasetError
from metanas_client.evaluation.datasets import Dataset, Images


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the episodes are."""

    ways: int
    """Classes, at least 2."""
    shots: int
    """Support images of a class, at least 1."""
    queries: int
    """Query images of a class, at least 1."""

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
    support: dict[str, Images]
    """The classes in the order in which they were drawn."""
    queries: dict[str, Images]


class Sampler:
    """Draws the episodes of a data set.

    Raises:
        DatasetError: DATASET_TOO_SMALL, with the numbers, if it cannot give such episodes.
    """

    def __init__(self, dataset: Dataset, shape: Shape, seed: int) -> None:
        self.dataset = dataset
        self._shape = shape
        self._seed = seed
        needed = shape.shots + shape.queries
        self.classes = tuple(
            name for name, images in dataset.classes.items() if len(images) >= needed
        )
        """The classes that have enough images."""
        if seed < 0:
            raise DatasetError("SEED_OUT_OF_RANGE", f"the seed must not be negative: {seed}")
        if len(self.classes) < shape.ways:
            split = f" (split {dataset.split})" if dataset.split else ""
            raise DatasetError(
                "DATASET_TOO_SMALL",
                f"{shape.ways} ways of {shape.shots} shots and {shape.queries} queries need "
                f"{shape.ways} classes with at least {needed} images each; {dataset.name}{split} "
                f"has {len(dataset.classes)} classes, {len(self.classes)} of them with that many",
            )

    def episode(self, index: int) -> Episode:
        """Episode number `index`, the same in every run, whatever else was drawn."""
        # seeded by (seed, index), so that resuming and concurrency change nothing
        random = np.random.default_rng((self._seed, index))
        support: dict[str, Images] = {}
        queries: dict[str, Images] = {}
        for choice in random.choice(len(self.classes), size=self._shape.ways, replace=False):
            name = self.classes[int(choice)]
            images = self.dataset.classes[name]
            order = random.permutation(len(images))[: self._shape.shots + self._shape.queries]
            drawn: Images = tuple(images[int(i)] for i in order)
            support[name] = drawn[: self._shape.shots]
            queries[name] = drawn[self._shape.shots :]
        return Episode(index=index, support=support, queries=queries)
