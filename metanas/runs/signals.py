"""Signals as requests, which a long loop reads between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Requests:
    """The requests to a run since it began."""

    stop: signal.Signals | None = None
    """The signal that asks the run for a snapshot and its end."""
    snapshot: bool = False
    """Take a snapshot and continue."""
    started: bool = False
    """The run reads its requests from now on; before, a request to stop interrupts it at once."""

    def stopping(self) -> bool:
        """Return True if the run is to end."""
        return self.stop is not None

    def end(self, number: signal.Signals) -> None:
        """Ask the run to end as this signal does.

        Raises:
            KeyboardInterrupt: the run does not read its requests yet.
        """
        self.stop = number
        if not self.started:
            raise KeyboardInterrupt


@contextmanager
def handle_signals() -> Iterator[Requests]:
    """Turn SIGTERM and SIGINT into a request to stop, and SIGUSR1 into one for a snapshot.

    A run that has not started, and a second SIGINT, raise KeyboardInterrupt at once. The former
    handlers are put back at the end.
    """
    requests = Requests()

    def stop(number: int, frame: FrameType | None) -> None:
        again = requests.stop is not None and number == signal.SIGINT
        requests.end(signal.Signals(number))
        if again:
            raise KeyboardInterrupt

    def snapshot(number: int, frame: FrameType | None) -> None:
        requests.snapshot = True

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: snapshot}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
