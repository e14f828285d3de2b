"""The limit of adaptations a minute, for each caller by itself."""

import time
from collections import Counter
from collections.abc import Callable

from metanas_server.errors import Overloaded

MINUTE = 60.0


class Rate:
    """Count the adaptations of each caller in the present minute.

    The minute begins with the first adaptation after the end of the last one. At its end all counts
    are forgotten, so memory is bounded by the callers of a minute.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the most adaptations a minute; 0 sets no limit."""
        self._most = most
        self._clock = clock
        self._counts = Counter[str]()
        self._end = 0.0

    def check(self, caller: str) -> None:
        """Refuse a caller with too many adaptations.

        Raises:
            Overloaded: CALLER_RATE, with the time until the minute ends.
        """
        left = self._end - self._clock()
        if self._most and left > 0 and self._counts[caller] >= self._most:
            message = f"you may start {self._most} adaptations a minute; try again in {left:.0f} s"
            raise Overloaded("CALLER_RATE", message, left)

    def count(self, caller: str) -> None:
        """Count an adaptation."""
        now = self._clock()
        if now >= self._end:
            self._counts.clear()
            self._end = now + MINUTE
        self._counts[caller] += 1
