"""Progress of a long run for people at a terminal, or for the file that its output goes to."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import TextColumn

from metanas.runs.screen import bar
from metanas.training.trainer import Progress as Seen
from metanas.util.formatting import duration

WINDOW = 300.0
"""Seconds over which the rate is measured, so that some validations are within."""
QUIET = 60.0
"""Seconds between two lines where there is no terminal; validations are told in any case."""


@dataclass
class Rate:
    """Iterations a second, over the last `WINDOW` seconds of this process.

    Iterations of before a run was resumed do not count.
    """

    clock: Callable[[], float] = time.monotonic
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, iteration: int) -> None:
        """`iteration` is done now."""
        now = self.clock()
        self.seen.append((now, iteration))
        while len(self.seen) > 2 and self.seen[1][0] < now - WINDOW:
            self.seen.popleft()

    @property
    def value(self) -> float | None:
        """Iterations a second; None before two of them are done."""
        if len(self.seen) < 2:
            return None
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began) if ended > began else None


def figures(seen: Seen) -> str:
    """What is said of an iteration beside its number."""
    text = f"loss {seen.loss:.3f} · accuracy {seen.accuracy:.1%}"
    if not math.isnan(seen.pruned):
        text += f" · validation {seen.pruned:.1%} pruned, {seen.soft:.1%} soft"
    return text


def pace(rate: float | None, left: int) -> str:
    """The rate, and how long `left` iterations will take at it."""
    if not rate:
        return ""
    speed = f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"
    return f"{speed} · {duration(left / rate)} left" if left else speed


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What shows a run as it goes on."""

    iteration: Callable[[Seen], None]
    """To be called after every meta-iteration."""
    images: Callable[[int, int], None]
    """To be called with how many images have gone through the trunk, and of how many."""


@contextmanager
def watching(iterations: int, console: Console) -> Iterator[Shown]:
    """Show a run of so many iterations: as a bar, or as lines without a terminal."""
    if not console.is_terminal:
        yield _lines(iterations, console)
        return
    with bar(console, left=TextColumn("{task.fields[pace]}")) as shown:
        task = shown.add_task("train", total=iterations, pace="", seen="")
        rate = Rate()

        def iteration(seen: Seen) -> None:
            rate.add(seen.iteration)
            text = pace(rate.value, iterations - seen.iteration)
            shown.update(task, completed=seen.iteration, pace=text, seen=figures(seen))
            if not math.isnan(seen.pruned):
                shown.console.print(f"{seen.iteration}/{iterations} · {figures(seen)}")

        def images(done: int, count: int) -> None:
            shown.update(task, seen=f"trunk: {done} of {count} images")

        yield Shown(iteration=iteration, images=images)


def _lines(iterations: int, console: Console) -> Shown:
    rate, told = Rate(), -math.inf

    def due(certainly: bool) -> bool:
        nonlocal told
        now = time.monotonic()
        if not certainly and now - told < QUIET:
            return False
        told = now
        return True

    def iteration(seen: Seen) -> None:
        rate.add(seen.iteration)
        left = iterations - seen.iteration
        if due(left == 0 or not math.isnan(seen.pruned)):
            parts = (f"{seen.iteration}/{iterations}", figures(seen), pace(rate.value, left))
            console.print(" · ".join(part for part in parts if part))

    def images(done: int, count: int) -> None:
        if due(done == count):
            console.print(f"trunk: {done} of {count} images")

    return Shown(iteration=iteration, images=images)
