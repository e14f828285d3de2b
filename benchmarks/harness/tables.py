"""Tables in Markdown, and the numbers in them."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table in Markdown that also reads well as text; the first column is left-aligned."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    lines = [_line(row, widths) for row in cells]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "| " + " | ".join([row[0].ljust(widths[0]), *rest]) + " |"


def machine_line(machine: Mapping[str, Any]) -> str:
    """Describe the machine of a measurement in one line."""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    revision = f", revision {machine['revision']}" if machine["revision"] else ""
    allocator = f", {machine['allocator']}" if machine.get("allocator") else ""
    return (
        f"{machine['processor']}, {machine['cores']} core{'s' * (machine['cores'] > 1)}{gpu}, "
        f"load {machine['load']} at the start; "
        f"torch {machine['torch']}, ONNX Runtime {machine['onnxruntime']}{allocator}{revision}."
    )


def label(row: Mapping[str, Any]) -> str:
    """Name a row by its title and threads."""
    return f"{row['title']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def milliseconds(*values: float) -> list[str]:
    """Write seconds as milliseconds, in three digits."""
    return [figure(1000 * value) for value in values]


def figure(value: float) -> str:
    """Write a number in three digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 3 - len(str(int(abs(value))))) if abs(value) >= 1 else 2
    return f"{value:,.{digits}f}"


def mebibytes(value: float) -> str:
    """Write bytes as MiB."""
    return f"{value / 2**20:,.0f}"


def ranged(values: Sequence[float]) -> str:
    """Write the median, and the extremes where they differ."""
    middle, low, high = map(figure, (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
