"""How time and memory of a step grow: one size at a time, the others as in the base case.

The base is the network of the MetaNAS paper at 28×28 in a 5-way 1-shot task. The growth is the
exponent that fits the medians best: 1 is in proportion, 2 is with the square.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

import numpy as np
import torch

from benchmarks._candidates import memory_of, product
from benchmarks._cases import Case, checkpoint_of
from benchmarks._measure import in_turns
from benchmarks._results import (
    Results,
    Row,
    figure,
    finish,
    label,
    mebibytes,
    milliseconds,
    parser,
    started,
    table,
    wanted,
)

TOPIC = "scaling"
BASE = Case(network="paper", ways=5, shots=1, width=28, cells=4)
SIZES: Mapping[str, tuple[int, ...]] = {
    "ways": (2, 5, 10, 20, 40),
    "shots": (1, 2, 5, 10, 20),
    "size": (14, 28, 56, 84),
    "width": (7, 14, 28, 56),
    "cells": (2, 4, 6, 8),
}
STEPS = {"steps": 3, "tuning_steps": 1}


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for every value of every size, and number of threads."""
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in (name for name in SIZES if wanted(name, options.only)):
            for value in SIZES[name][: 2 if options.quick else None]:
                case = Case(**{**asdict(BASE), name: value})
                figures = _measured(case, threads, options)
                rows.append({"size": name, "value": value, "threads": threads, **figures})
    return rows


def _measured(case: Case, threads: int, options: argparse.Namespace) -> Row:
    checkpoint = checkpoint_of(case)
    config = checkpoint.card.defaults.replace(STEPS)
    found = in_turns({"": product(checkpoint, case, config)}, options.runs, options.budget)[""]
    steps = [run["adapt"] / config.steps for run in found]
    return {"seconds": steps, "memory": memory_of("product", case, config, threads)}


def tables(results: Results) -> dict[str, str]:
    """The table of one run."""
    counts = dict.fromkeys(row["threads"] for row in results.rows)
    lines = [
        line
        for threads in counts
        for name in SIZES
        for line in _sweep([row for row in results.rows if row["threads"] == threads], name)
    ]
    return {"growth": table(["", "ms a step", "growth", "MiB added", "growth"], lines)}


def _sweep(rows: Sequence[Row], name: str) -> list[list[str]]:
    own = [row for row in rows if row["size"] == name]
    times = [median(row["seconds"]) for row in own]
    added = [row["memory"]["peak"] - row["memory"]["before"] for row in own]
    values = [row["value"] for row in own]
    lines = []
    for row, time, more in zip(own, times, added, strict=True):
        last = row is own[-1] and len(own) > 1
        growth = [figure(_exponent(values, ys)) if last else "" for ys in (times, added)]
        title = label({"title": f"{name} {row['value']}", **row})
        lines.append([title, milliseconds(time), growth[0], mebibytes(more), growth[1]])
    return lines


def _exponent(values: Sequence[int], found: Sequence[float]) -> float:
    return float(np.polyfit(np.log(values), np.log(found), 1)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(TOPIC, __doc__, runs=7).parse_args(arguments)
    if options.quick:
        options.runs, options.threads = 1, [1]
        options.only = options.only or ["ways"]
    finish(TOPIC, options, started(options), measure(options), tables)


if __name__ == "__main__":
    main()
