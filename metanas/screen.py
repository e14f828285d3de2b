"""What a long command shows while it runs: a bar with elapsed and remaining time."""

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
        console=console,
    )
