"""Results of a benchmark: its command line, its JSON file, and the tables that it prints."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.machine import ROOT, facts
from benchmarks.harness.tables import machine_line
from metanas.util.provenance import cores

LOCAL = ROOT / "benchmarks" / "results" / "local"

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All results of one run; its tables are made of them alone."""

    topic: str
    machine: Mapping[str, Any]
    rows: list[Row]


Tables = Callable[[Results], Mapping[str, str]]
"""The tables of a run, by their names on the page."""
Measure = Callable[[argparse.Namespace, Row], list[Row]]
"""From the options and the facts of the machine, which it may add to, to the rows."""


def parser(topic: str, doc: str | None, *, runs: int) -> argparse.ArgumentParser:
    """Make a command line with the options of every benchmark."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{topic}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--runs", type=int, default=runs, help="rounds that count (%(default)s)")
    add("--budget", type=float, default=300.0, metavar="S", help="seconds of a row (%(default)s)")
    add("--threads", type=int, nargs="+", default=[cores()], help="numbers of threads (all cores)")
    add("--only", nargs="+", default=[], metavar="TEXT", help="only rows whose name contains one")
    add("--quick", action="store_true", help="check that it works: tiny settings")
    add("--out", type=Path, default=LOCAL / f"{topic}.json", help="JSON file")
    return made


def selected(name: str, only: Sequence[str]) -> bool:
    """Return True for a row that `--only` selects."""
    return not only or any(text in name for text in only)


def run(topic: str, options: argparse.Namespace, measure: Measure, tables: Tables) -> None:
    """Measure, write the JSON and print the tables."""
    torch.set_num_threads(options.threads[0])
    machine = {**facts(), "quick": options.quick}
    rows = measure(options, machine)
    publish(Results(topic, machine, rows), options.out, tables)


def publish(results: Results, path: Path, tables: Tables) -> None:
    """Write the JSON and print the tables, made of the file."""
    save(results, path)
    stored = load(path)
    print("\n\n".join([machine_line(stored.machine), *tables(stored).values()]))
    print(f"\nevery run: {path}")


def save(results: Results, path: Path) -> None:
    """Write one line a row, so that two files can be compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join("  " + json.dumps(_rounded(row)) for row in results.rows)
    head = json.dumps({"topic": results.topic, "machine": dict(results.machine)}, indent=1)
    path.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def load(path: Path) -> Results:
    """Read a file that `save` wrote."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Results(raw["topic"], raw["machine"], raw["rows"])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
