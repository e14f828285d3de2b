"""What every benchmark shares around the measuring: its command line, its JSON, its tables."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks._machine import ROOT, facts
from metanas.util.provenance import cores

LOCAL = ROOT / "benchmarks" / "results" / "local"

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """All that one run of a benchmark found; its tables are made of this and of nothing else."""

    topic: str
    machine: Mapping[str, Any]
    rows: list[Row]


Tables = Callable[[Results], Mapping[str, str]]
"""The tables of a run, by their names on the page."""


def parser(topic: str, doc: str | None, *, runs: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{topic}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--runs", type=int, default=runs, help="rounds that count (%(default)s)")
    made.add_argument(
        "--budget",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="begin no more rounds of a row after so long (%(default)s)",
    )
    made.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[cores()],
        help="threads to compute with; several are measured one after the other (all cores)",
    )
    made.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="only the rows whose name contains one of these",
    )
    made.add_argument("--quick", action="store_true", help="see whether it works: tiny settings")
    made.add_argument("--out", type=Path, default=LOCAL / f"{topic}.json", help="%(default)s")
    return made


def wanted(name: str, only: Sequence[str]) -> bool:
    """Whether a row of this name was asked for."""
    return not only or any(text in name for text in only)


def finish(
    topic: str, options: argparse.Namespace, machine: Row, rows: list[Row], tables: Tables
) -> None:
    """Write the JSON and print the tables, made of what was written."""
    save(Results(topic, machine, rows), options.out)
    results = load(options.out)
    print("\n\n".join([machine_line(results), *tables(results).values()]))
    print(f"\nevery run: {options.out}")


def started(options: argparse.Namespace) -> Row:
    """Facts of the machine before anything is measured; sets the threads of torch."""
    torch.set_num_threads(options.threads[0])
    return {**facts(), "quick": options.quick}


def save(results: Results, path: Path) -> None:
    """One line a row, so that two files can be compared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join("  " + json.dumps(_rounded(row)) for row in results.rows)
    head = json.dumps({"topic": results.topic, "machine": dict(results.machine)}, indent=1)
    path.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def load(path: Path) -> Results:
    """Read what `save` wrote."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Results(raw["topic"], raw["machine"], raw["rows"])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown that also reads well as text; the first column is left-aligned."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    lines = [_line(row, widths) for row in cells]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "| " + " | ".join([row[0].ljust(widths[0]), *rest]) + " |"


def machine_line(results: Results) -> str:
    """What it was measured on, in a sentence."""
    machine = results.machine
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    revision = f", revision {machine['revision']}" if machine["revision"] else ""
    allocator = f", {machine['allocator']}" if machine.get("allocator") else ""
    return (
        f"{machine['processor']}, {machine['cores']} core{'s' * (machine['cores'] > 1)}{gpu}, "
        f"load {machine['load']} at the start; "
        f"torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}{allocator}{revision}."
    )


def label(row: Row) -> str:
    """The first cell of a row that has a title and threads."""
    return f"{row['title']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def milliseconds(value: float) -> str:
    """Seconds as milliseconds, in three digits."""
    return figure(1000 * value)


def figure(value: float) -> str:
    """A number in three digits, without exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 2
    return f"{value:,.{digits}f}"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:,.0f}"
