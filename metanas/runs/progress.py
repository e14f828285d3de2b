"""Progress of long work: a bar at a terminal, plain lines elsewhere. Needs the extra "train"."""

import math
import os
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from metanas.training.trainer import Progress as Iteration
from metanas.util.formatting import duration

WINDOW = 300.0
"""Seconds over which the rate is measured; a few validations fall into them."""
INTERVAL = 60.0
"""Seconds between two plain lines; each validation has a separate line."""


def bar(console: Console | None = None) -> Progress:
    """Make a progress bar, which is drawn at a terminal only.

    Each task needs a field `seen`: the last result in a few words.
    """
    console = console or Console()
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[seen]}", markup=False),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=WINDOW,
    )


class TrainingDisplay:
    """Display of a run: a bar with the validations above it, or plain lines.

    The run goes on inside `with display.bar:`.
    """

    def __init__(
        self, iterations: int, closed: Callable[[], None], console: Console | None = None
    ) -> None:
        """Take the number of iterations, and a call for a closed output, as by `| head`."""
        self.bar = bar(console)
        self._task = self.bar.add_task("train", total=iterations, seen="")
        self._iterations, self._closed = iterations, closed
        self._printed = -math.inf

    def iteration(self, done: Iteration) -> None:
        """Show a meta-iteration after its end."""
        seen = f"loss {done.loss:.3f} · accuracy {done.accuracy:.1%}"
        self.bar.update(self._task, completed=done.iteration, seen=seen)
        line = f"{done.iteration}/{self._iterations} · {seen}"
        validated = not math.isnan(done.pruned)
        if validated:
            line += f" · validation {done.pruned:.1%} pruned, {done.soft:.1%} soft"
        if left := self.bar.tasks[0].time_remaining:
            line += f" · {duration(left)} left"
        self._print(line, due=validated or done.iteration == self._iterations)

    def images(self, done: int, count: int) -> None:
        """Show the number of images that have gone through the trunk."""
        seen = f"trunk: {done} of {count} images"
        self.bar.update(self._task, seen=seen)
        self._print(seen, due=done == count)

    def _print(self, line: str, *, due: bool) -> None:
        now = time.monotonic()
        if due or (self.bar.disable and now - self._printed >= INTERVAL):
            self._printed = now
            try:
                print(line, flush=True)
            except BrokenPipeError:
                discard_output()
                self._closed()


def discard_output() -> None:
    """Discard the standard output; the buffered rest would fail again at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
