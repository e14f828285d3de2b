"""A query after its checks, its time limit, and the answer."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metanas_server.errors import TimedOut

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


class Deadline:
    """The time limit of a query. Its thread checks it before each part of the work."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancelled = False

    def cancel(self) -> None:
        """Let the next check fail: the caller is gone."""
        self._cancelled = True

    def check(self) -> None:
        """Raise an error if the time is over.

        Raises:
            TimedOut: QUERY_TIMEOUT.
        """
        if self._cancelled or time.monotonic() > self._end:
            message = (
                f"the query took longer than {self._seconds:g} seconds; send fewer images or try"
                " again later"
            )
            raise TimedOut("QUERY_TIMEOUT", message)
