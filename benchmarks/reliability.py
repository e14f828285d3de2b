"""Long runs against a server that `make soak` and `make fuzz` make: their figures as a table.

A run is a row: its name, date and command, and its figures by their names in the table.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.results import Results, publish
from benchmarks.harness.tables import table

TOPIC = "reliability"


def report(
    path: Path, run: str, command: str, machine: Mapping[str, Any], figures: Mapping[str, Any]
) -> None:
    """Write the results of a run and print its table.

    machine: its facts at the start of the run.
    """
    row = {"run": run, "date": time.strftime("%Y-%m-%d"), "command": command, "figures": figures}
    publish(Results(TOPIC, machine, [row]), path, tables)


def tables(results: Results) -> dict[str, str]:
    """Make the table of the figures of a run."""
    (row,) = results.rows
    lines = [["date", row["date"]], ["command", f"`{row['command']}`"]]
    lines += [[name, _text(value)] for name, value in row["figures"].items()]
    return {"figures": table([row["run"], ""], lines)}


def _text(value: Any) -> str:
    """Write a number, a list or counts by name."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int | float) else str(value)
