"""Samples of the memory of processes during a long test, and their growth."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import linear_regression, median
from threading import Event

from benchmarks.harness.machine import status

MIB = 2**20


def resident(pids: Sequence[int]) -> float:
    """Return the mean memory of processes in MiB, or 0 if all have ended."""
    sizes = []
    for pid in pids:
        with suppress(OSError, KeyError):  # it has ended
            sizes.append(status(pid)["VmRSS"] / MIB)
    return sum(sizes) / len(sizes) if sizes else 0.0


class Samples:
    """Memory of kinds of processes over time: (seconds since the start, MiB of one process)."""

    def __init__(self, pids: Mapping[str, Callable[[], Sequence[int]]]) -> None:
        self._pids = pids
        self._start = time.monotonic()
        self._taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in pids}

    def run(self, every: float, stop: Event) -> None:
        """Take samples until the end."""
        while not stop.wait(every):
            now = time.monotonic() - self._start
            for kind, pids in self._pids.items():
                if size := resident(pids()):
                    self._taken[kind].append((now, size))

    def between(self, first: float, last: float) -> dict[str, list[tuple[float, float]]]:
        """Return the samples of a span, in seconds since the start."""
        return {
            kind: [each for each in taken if first <= each[0] < last]
            for kind, taken in self._taken.items()
        }

    def figures(self, first: float, last: float) -> dict[str, object]:
        """Return the memory in sixths of a span, its ratio of halves, and its slope."""
        found: dict[str, object] = {}
        step = (last - first) / 6
        for kind, taken in self.between(first, last).items():
            spans = [self.between(first + i * step, first + (i + 1) * step)[kind] for i in range(6)]
            sizes = [median(size for _, size in span) for span in spans if span]
            found[f"memory of a {kind}, MiB"] = [round(size) for size in sizes]
            if len(taken) > 1:
                slope = linear_regression(*zip(*taken, strict=True)).slope
                found[f"growth of a {kind}, MiB a minute"] = round(60 * slope, 2)
        return found

    def growth(self, first: float, last: float) -> dict[str, float]:
        """Return the median of the second half of a span by that of the first half."""
        middle = (first + last) / 2
        one, two = self.between(first, middle), self.between(middle, last)
        return {
            kind: median(size for _, size in two[kind]) / median(size for _, size in one[kind])
            for kind in self._pids
            if one[kind] and two[kind]
        }


def log_bytes(folder: Path) -> int:
    """Return the size of all logs below a folder."""
    return sum(os.path.getsize(path) for path in folder.rglob("*.log"))
