"""Output of the commands: tables for people, JSON for programs, progress bars on a terminal.

Results go to the standard output; errors and progress go to the standard error. At a terminal, with
the extra "cli", tables are drawn; elsewhere a row is a line with tabs between its cells.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TextIO, TypeAlias

from metanas_client.errors import InvalidInput
from metanas_client.text import printable
from metanas_data.errors import MetanasError

Advance: TypeAlias = Callable[[str, int, int], None]
"""Called with a description of the work, the number of finished steps, and that of all steps."""


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The output of one command."""

    as_json: bool
    """Print one JSON document and nothing else."""

    def json(self, value: object) -> None:
        """Print a JSON document in ASCII, which every console can show."""
        print(json.dumps(value, indent=2))

    def text(self, line: str) -> None:
        """Print a line for people."""
        print(printable(line))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
        """Print a table."""
        safe = [[printable(cell) for cell in row] for row in rows]
        if not _drawn(sys.stdout):
            heads = [line for line in ([title], columns) if any(line)]
            print("\n".join("\t".join(line) for line in [*heads, *safe]))
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", show_header=any(columns))
        for index, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=index == 0 and len(columns) > 2)
        for row in safe:
            table.add_row(*map(Text, row))  # as Text, brackets are no markup
        Console().print(table)

    def facts(self, rows: Sequence[tuple[str, str]], title: str = "") -> None:
        """Print names with their values."""
        self.table(("", ""), rows, title)

    def error(self, error: MetanasError) -> None:
        """Print an error to the standard error, as JSON with `as_json`."""
        if not self.as_json:
            self.complaint(str(error))
            return
        violations = error.violations if isinstance(error, InvalidInput) else ()
        document = {
            "reason": error.reason,
            "message": error.message,
            "violations": [asdict(violation) for violation in violations],
        }
        print(json.dumps({"error": document}), file=sys.stderr)

    def complaint(self, text: str) -> None:
        """Print lines to the standard error."""
        lines = "\n".join(printable(line) for line in text.split("\n"))
        print(f"metanas: {lines}", file=sys.stderr)

    @contextmanager
    def progress(self) -> Iterator[Advance]:
        """Show a progress bar while the block runs, at a terminal."""
        if not _drawn(sys.stderr):
            yield lambda what, done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        words = TextColumn("{task.description}", markup=False)
        columns = (words, BarColumn(), MofNCompleteColumn(), Elapsed())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("waiting", total=None)

            def advance(what: str, done: int, total: int) -> None:
                bar.update(task, description=printable(what), completed=done, total=total or None)

            yield advance


def accept_every_character() -> None:
    """Let the consoles escape characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drawn(stream: TextIO) -> bool:
    return stream.isatty() and find_spec("rich") is not None
