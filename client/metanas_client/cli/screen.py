"""What commands print with: tables for people, JSON for programs, progress bars on a terminal.

Results go to the standard output; errors and progress to the standard error.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TypeAlias

from metanas_client.errors import ClientError, InvalidInput
from metanas_client.extras import needs

Advance: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is in all."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Where a command shows what it has found. Tables need the extra "cli", JSON does not."""

    as_json: bool
    """Print one JSON document and nothing else."""

    def json(self, value: object) -> None:
        """Print a JSON document."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def text(self, line: str) -> None:
        """Print a line for people."""
        print(line)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """Print a table."""
        with needs("cli"):
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        table = Table(title=title or None, title_justify="left", show_header=any(columns))
        for index, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=index == 0 and len(columns) > 2)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # as Text, brackets are no markup
        Console().print(table)

    def facts(self, rows: Sequence[tuple[str, str]], title: str = "") -> None:
        """Print names with their values."""
        self.table(("", ""), rows, title)

    def error(self, error: ClientError) -> None:
        """Print an error to the standard error, as JSON where JSON was asked for."""
        if not self.as_json:
            print(f"metanas: {error}", file=sys.stderr)
            return
        violations = error.violations if isinstance(error, InvalidInput) else ()
        document = {
            "reason": error.reason,
            "message": error.message,
            "violations": [asdict(violation) for violation in violations],
        }
        print(json.dumps({"error": document}, ensure_ascii=False), file=sys.stderr)

    @contextmanager
    def progress(self) -> Iterator[Advance]:
        """A progress bar while the block runs, if somebody is watching."""
        if not sys.stderr.isatty():
            yield lambda what, done, total: None
            return
        with needs("cli"):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeElapsedColumn as Elapsed
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("waiting", total=None)

            def advance(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total or None)

            yield advance


def percent(share: object) -> str:
    """A share from 0 to 1 for people; a dash where there is none."""
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else "–"


def number(value: object, unit: str = "") -> str:
    """A number for people: whole ones with thousands separated, others with three digits."""
    match value:
        case bool() | None:
            return "–"
        case int():
            return f"{value:,}{unit}".replace(",", " ")
        case float():
            return f"{value:.3g}{unit}"
    return str(value)


def size(value: float | None) -> str:
    """A number of bytes for people."""
    return "–" if value is None else f"{value / 1024:.0f} KiB"
