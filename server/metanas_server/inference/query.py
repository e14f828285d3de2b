"""A query after its checks, and the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = Sequence[bytes] | NDArray[np.uint8]
"""Encoded files, or pixels (N, H, W, C)."""
Outputs = Mapping[str, NDArray[np.float32]]
"""Values (N, ...) of the outputs by name."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a model; a dimension of -1 is variable."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A requested output: all values, or the `classes` largest of each image if it is not 0."""

    name: str
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class Query:
    """The images of a query and its requested outputs."""

    images: Images
    wanted: tuple[Wanted, ...]
