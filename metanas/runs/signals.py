"""Signals as wishes that a long loop looks at between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wishes:
    """The requests to a run since it began."""

    stop: signal.Signals | None = None
    """The signal that asks it to snapshot and end."""
    snapshot: bool = False
    """Whether it is to snapshot and go on."""
    begun: bool = False
    """Whether it looks at wishes by now; before, who asks it to stop interrupts it at once."""

    def end(self) -> bool:
        """Return True if the run is to end."""
        return self.stop is not None

    def ask(self, number: signal.Signals) -> None:
        """Ask it to end as this signal does.

        Raises:
            KeyboardInterrupt: it does not look at wishes yet.
        """
        self.stop = number
        if not self.begun:
            raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Wishes]:
    """Turn SIGTERM and SIGINT into a wish to stop, and SIGUSR1 (where there is one) to snapshot.

    What has not begun, and a second SIGINT, interrupts at once (KeyboardInterrupt). The handlers of
    before are put back at the end.
    """
    wishes = Wishes()

    def stop(number: int, frame: FrameType | None) -> None:
        again = wishes.stop is not None and number == signal.SIGINT
        wishes.ask(signal.Signals(number))
        if again:
            raise KeyboardInterrupt

    def snapshot(number: int, frame: FrameType | None) -> None:
        wishes.snapshot = True

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if "SIGUSR1" in signal.Signals.__members__:
        handlers[signal.Signals["SIGUSR1"]] = snapshot
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield wishes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
