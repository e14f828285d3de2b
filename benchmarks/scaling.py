"""Measure the growth of time and memory of a step: one size at a time, the others as in the base.

The base is the network of the MetaNAS paper at 28×28 in a 5-way 1-shot task. The growth is the
exponent that fits the medians best: 1 is proportional, 2 is quadratic.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import torch

from benchmarks.adapt import memory_of, product
from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, label, mebibytes, milliseconds, table
from benchmarks.harness.timing import in_turns
from benchmarks.harness.workloads import Workload, checkpoint_of

TOPIC = "scaling"
BASE = Workload(network="paper", ways=5, shots=1, width=28, cells=4)
SIZES: Mapping[str, tuple[int, ...]] = {
    "ways": (2, 5, 10, 20, 40),
    "shots": (1, 2, 5, 10, 20),
    "size": (14, 28, 56, 84),
    "width": (7, 14, 28, 56),
    "cells": (2, 4, 6, 8),
}
STEPS = {"steps": 3, "tuning_steps": 1}


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each number of threads and value of each size."""
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in (name for name in SIZES if selected(name, options.only)):
            for value in SIZES[name][: 2 if options.quick else None]:
                workload = with_size(name, value)
                figures = _measured(workload, threads, options)
                rows.append({"size": name, "value": value, "threads": threads, **figures})
    return rows


def with_size(name: str, value: int) -> Workload:
    """Return the base with one of its sizes changed."""
    changes: dict[str, int] = {name: value}
    return replace(BASE, **changes)  # type: ignore[arg-type]


def _measured(workload: Workload, threads: int, options: argparse.Namespace) -> Row:
    checkpoint = checkpoint_of(workload)
    config = checkpoint.card.defaults.replace(STEPS)
    call = partial(product, checkpoint, workload, config)
    runs = in_turns({"": call}, options.runs, options.budget)[""]
    steps = [each["adapt"] / config.steps for each in runs]
    return {"seconds": steps, "memory": memory_of("product", workload, config, threads)}


def tables(results: Results) -> dict[str, str]:
    """Make the table of all sizes."""
    lines = []
    for threads in dict.fromkeys(row["threads"] for row in results.rows):
        for name in SIZES:
            rows = [row for row in results.rows if row["threads"] == threads]
            lines += _sweep([row for row in rows if row["size"] == name])
    return {"growth": table(["", "ms a step", "growth", "MiB added", "growth"], lines)}


def _sweep(rows: Sequence[Row]) -> list[list[str]]:
    values = [row["value"] for row in rows]
    times = [median(row["seconds"]) for row in rows]
    added = [row["memory"]["peak"] - row["memory"]["before"] for row in rows]
    lines = []
    for row, time, more in zip(rows, times, added, strict=True):
        last = row is rows[-1] and len(rows) > 1
        growth = [figure(_exponent(values, ys)) if last else "" for ys in (times, added)]
        title = label({"title": f"{row['size']} {row['value']}", **row})
        lines.append([title, *milliseconds(time), growth[0], mebibytes(more), growth[1]])
    return lines


def _exponent(values: Sequence[int], measured: Sequence[float]) -> float:
    return float(np.polyfit(np.log(values), np.log(measured), 1)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(TOPIC, __doc__, runs=7).parse_args(arguments)
    if options.quick:
        options.runs, options.threads = 1, [1]
        options.only = options.only or ["ways"]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
