"""Shares of callers in a worker that several of them use."""

import math
import time
from collections import Counter
from collections.abc import Callable

SECONDS = 2.0
"""Time after its last adaptation in which a caller counts as one that sends the next one."""


class Shares:
    """Limit the adaptations of a caller on a worker while other callers have some, too.

    Adaptations on a worker take equal parts of its time. So each caller may have as many on a
    worker as the caller with the fewest, but at least one. A caller that is alone has no limit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = dict[str, float]()

    def ended(self, caller: str) -> None:
        """Note the end of an adaptation."""
        self._ends[caller] = self._clock()

    def most(self, unfinished: Counter[str], workers: int) -> int | None:
        """Return the most adaptations of a caller on a worker; None stands for no limit.

        unfinished: adaptations of each caller that wait or run.
        """
        now = self._clock()
        self._ends = {name: end for name, end in self._ends.items() if now - end < SECONDS}
        counts = {**dict.fromkeys(self._ends, 1), **unfinished}
        if len(counts) < 2:
            return None
        return max(1, math.ceil(min(counts.values()) / max(workers, 1)))
