"""What a long command shows while it runs, and what happens when nobody looks any more.

Notable:
- rich answers a closed pipe with `SystemExit(1)` and not a word; what has to be kept, and said, is
  known to the command alone.
"""

import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Screen(Console):
    """Standard output; silent once it is closed, as by `| head`.

    closed: called when that is noticed; without it, what is being printed ends with a
        `BrokenPipeError`.
    """

    def __init__(self, closed: Callable[[], None] | None = None) -> None:
        super().__init__(highlight=False, soft_wrap=True)
        self._closed = closed

    def on_broken_pipe(self) -> None:
        """Fall silent, and say so."""
        self.quiet = True
        mute()
        if not self._closed:
            raise BrokenPipeError
        self._closed()


def mute() -> None:
    """Let standard output go nowhere: what it still holds would be an error at the very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def bar(console: Console | None = None, *, left: ProgressColumn | None = None) -> Progress:
    """A progress bar whose tasks have a field `seen`: a few words on what came last.

    left: says how long it will take yet, instead of rich's own estimate.
    """
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        left or TimeRemainingColumn(),
        TextColumn("{task.fields[seen]}"),
        console=console or Screen(),
    )
