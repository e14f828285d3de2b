"""Time, memory and work of an adaptation, stage by stage, beside the textbook's.

The product goes from encoded images to a checked ONNX file; its stages are those of the model's
report. The textbook (tests/core/textbook.py) does the same task-optimizer steps as one would write
them down: a module call for every operation and edge, a step on the alphas and one on the weights.
Both get the same support sets, a new one each round. Behind a trunk there is no textbook.
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from benchmarks._candidates import SEARCHES, Stages, memory_of, product, textbook, textbook_bytes
from benchmarks._cases import Case, checkpoint_of, source_of
from benchmarks._machine import rates
from benchmarks._measure import in_turns, ratio, spread
from benchmarks._profile import PARTS, parts_of
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
from benchmarks._work import work_of
from metanas.checkpoint import Checkpoint
from metanas.spec.options import AdaptConfig

TOPIC = "adapt"
TASKS = ((5, 1), (5, 5), (20, 1), (20, 5))
NETWORKS = (("shipped", 28, 1), ("photos", 128, 3), ("paper", 28, 1), ("paper", 84, 3))
STAGES = ("decode", "adapt", "prune", "tune", "export", "check", "report", "whole")


def cases() -> list[Case]:
    """Every network with every task."""
    return [
        Case(network=network, ways=ways, shots=shots, size=size, channels=channels)
        for network, size, channels in NETWORKS
        for ways, shots in TASKS
    ]


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """A row for every case and number of threads."""
    rows = []
    machine["rates"] = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        machine["rates"][str(threads)] = rates()
        for case in (case for case in cases() if wanted(case.name, options.only)):
            rows.append(_measured(case, threads, options))
            print(f"{case.name}, {threads} threads: done", file=sys.stderr, flush=True)
    return rows


def _measured(case: Case, threads: int, options: argparse.Namespace) -> Row:
    checkpoint = checkpoint_of(case)
    config = checkpoint.card.defaults.replace({"patience": 0})  # the same number of steps for both
    if options.steps is not None:
        config = config.replace({"steps": options.steps})
    candidates = {"product": product(checkpoint, case, config)}
    searches = ["steps"]
    fits = textbook_bytes(checkpoint, case) <= 1e9 * options.textbook_gb
    if fits and checkpoint.trunk is None:  # the textbook has none
        candidates["textbook"] = textbook(checkpoint, case, config)
        searches.append("textbook")
    found = in_turns(candidates, options.runs, options.budget)
    return {
        "case": case.name,
        "title": case.title,
        "images": source_of(case),
        "threads": threads,
        "steps": config.steps,
        "seconds": {name: _by_stage(runs) for name, runs in found.items()},
        "work": {name: _step_work(checkpoint, case, config, name) for name in searches},
        "time": {name: _step_time(checkpoint, case, config, name) for name in searches},
        "memory": {name: memory_of(name, case, config, threads) for name in candidates},
    }


def _by_stage(runs: Sequence[Stages]) -> dict[str, list[float]]:
    return {stage: [run[stage] for run in runs] for stage in runs[0]}


def _step_work(
    checkpoint: Checkpoint, case: Case, config: AdaptConfig, name: str
) -> dict[str, float]:
    """Kernels, FLOP and bytes of a step, the mean over the steps of the search."""
    found = work_of(SEARCHES[name](checkpoint, case, config, 0))
    return {key: value / max(1, config.steps) for key, value in found.items()}


def _step_time(
    checkpoint: Checkpoint, case: Case, config: AdaptConfig, name: str
) -> dict[str, float]:
    """Which part of the time of the search goes where, by the profiler."""
    return parts_of(SEARCHES[name](checkpoint, case, config, 0))


def tables(results: Results) -> dict[str, str]:
    """The tables of one run."""
    return {
        "whole": _whole(results.rows),
        "stages": _stages(results.rows),
        "steps": _steps(results),
        "parts": _parts(results.rows),
        "memory": _memory(results.rows),
    }


def _whole(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        whole = spread(row["seconds"]["product"]["whole"])
        bounds = (whole.least, *whole.quartiles, whole.most)
        figures = [milliseconds(value) for value in (whole.median, *bounds)]
        lines.append([label(row), *figures, str(whole.runs)])
    header = ["whole, milliseconds", "median", "least", "25 %", "75 %", "most", "runs"]
    return table(header, lines)


def _stages(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        runs = row["seconds"]["product"]
        lines.append([label(row), *(milliseconds(median(runs[stage])) for stage in STAGES)])
    return table(["milliseconds, medians", *STAGES], lines)


def _steps(results: Results) -> str:
    header = [
        "one step", "textbook ms", "product ms", "times faster", "95 %",
        "textbook GFLOP", "GFLOP", "GB", "kernels", "limit ms", "limit/product",
    ]  # fmt: skip
    return table(header, [_step(row, results.machine["rates"]) for row in results.rows])


def _step(row: Row, known: Any) -> list[str]:
    steps, work = max(1, row["steps"]), row["work"]["steps"]
    own = row["seconds"]["product"]["adapt"]
    speed = known[str(row["threads"])]
    limit = max(work["flops"] / speed["flops"], work["bytes"] / speed["bytes"])
    slow, other = ["–", "–", "–"], "–"
    if "textbook" in row["seconds"]:
        theirs = row["seconds"]["textbook"]["adapt"]
        found = ratio(theirs, own)
        slow = [milliseconds(median(theirs) / steps), figure(found.value)]
        slow.append(f"{figure(found.low)}–{figure(found.high)}")
        other = figure(row["work"]["textbook"]["flops"] / 1e9)
    return [
        label(row),
        slow[0],
        milliseconds(median(own) / steps),
        *slow[1:],
        other,
        figure(work["flops"] / 1e9),
        figure(work["bytes"] / 1e9),
        f"{work['kernels']:,.0f}",
        milliseconds(limit),
        f"{limit * steps / median(own):.0%}",
    ]


def _parts(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        for name, which in (("textbook", "textbook"), ("steps", "product")):
            if name in row["time"]:
                shares = [f"{row['time'][name][part]:.0%}" for part in PARTS]
                lines.append([f"{label(row)}, {which}", *shares])
    return table(["part of a step's time", *PARTS], lines)


def _memory(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        found = row["memory"]
        more = [
            mebibytes(found[name]["peak"] - found[name]["before"]) if name in found else "–"
            for name in ("textbook", "product")
        ]
        lines.append([label(row), *more, mebibytes(found["product"]["peak"])])
    return table(["MiB", "textbook adds", "product adds", "product, whole process"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    made.add_argument("--steps", type=int, help="task-optimizer steps (the checkpoint's default)")
    made.add_argument(
        "--textbook-gb",
        type=float,
        default=12.0,
        metavar="GB",
        help="leave the textbook out where it needs more memory; 0 for everywhere (%(default)s)",
    )
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.steps, options.threads = 2, 1, [1]
        options.only = options.only or ["shipped-28-5w1s"]
    machine = started(options)
    finish(TOPIC, options, machine, measure(options, machine), tables)


if __name__ == "__main__":
    main()
