"""The time of a server: jumps of the clock of its host change nothing that it has promised."""

import time
from collections.abc import Callable


class Clock:
    """Two times that a jump moves apart, in nanoseconds since 1970.

    Both go on by the steady clock of the host. `earliest` follows the jumps back of the other
    clock, and `latest` its jumps forward. A use of a model is noted at the latest time and judged
    at the earliest one, so no jump makes it look older than it is.
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Begin with the time of the host.

        wall: the clock of the host, in nanoseconds since 1970.
        steady: a clock without jumps, in nanoseconds.
        """
        self._wall = wall
        self._steady = steady
        self._follows = False
        self._least = self._most = wall() - steady()

    def earliest(self) -> int:
        """Return the time by the earliest of the clocks since the start."""
        return self._now()[0]

    def latest(self) -> int:
        """Return the time by the latest of the clocks since the start."""
        return self._now()[1]

    def follow(self, now: int) -> None:
        """Use the time of another clock, which several servers share, from now on."""
        offset = now - self._steady()
        if not self._follows:
            self._follows, self._least, self._most = True, offset, offset
        self._see(offset)

    def _now(self) -> tuple[int, int]:
        steady = self._steady()
        if not self._follows:
            self._see(self._wall() - steady)
        return steady + self._least, steady + self._most

    def _see(self, offset: int) -> None:
        self._least, self._most = min(self._least, offset), max(self._most, offset)
