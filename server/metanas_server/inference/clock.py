"""The phases of a query, their durations, and its time limit."""

import time
from collections import Counter
from enum import StrEnum

from metanas_server.errors import TimedOut


class Phase(StrEnum):
    """A phase of a query."""

    QUEUE = "queue"
    """Waiting for a thread, and for the model to be opened."""
    INPUT = "input"
    """Reading the message and decoding files."""
    INFER = "infer"
    """A run of the model."""
    OUTPUT = "output"
    """Writing the answer."""


class Clock:
    """The clock of one query. Its thread calls `enter` before each part of the work."""

    def __init__(self, seconds: float) -> None:
        """Begin with the phase `QUEUE`.

        seconds: the time limit.
        """
        self.nanoseconds = Counter[Phase]()
        """Durations of the phases."""
        self.runs = 0
        """Runs of the model."""
        self._seconds = seconds
        self._phase = Phase.QUEUE
        self._since = self._start = time.monotonic_ns()
        self._cancelled = False

    @property
    def elapsed(self) -> int:
        """Nanoseconds since the query has arrived."""
        return time.monotonic_ns() - self._start

    def cancel(self) -> None:
        """Let the next `enter` fail: the caller has gone."""
        self._cancelled = True

    def enter(self, phase: Phase) -> None:
        """End the present phase and begin another one.

        Raises:
            TimedOut: QUERY_TIMEOUT.
        """
        self.stop()
        self._phase = phase
        self.runs += phase is Phase.INFER
        if self._cancelled or self.elapsed > self._seconds * 1e9:
            message = (
                f"the query took longer than {self._seconds:g} seconds; send fewer images or try"
                " again later"
            )
            raise TimedOut("QUERY_TIMEOUT", message)

    def stop(self) -> None:
        """End the present phase."""
        now = time.monotonic_ns()
        self.nanoseconds[self._phase] += now - self._since
        self._since = now
