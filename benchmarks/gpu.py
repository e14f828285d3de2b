"""Measure the shipped checkpoint on a GPU, in 5-way 1-shot tasks; less than ten minutes.

Measures the seconds of one task alone and of 64 together. `metanas evaluate --local --device
cuda` measures the accuracy. Without a GPU it measures nothing and exits with code 1;
`--device cpu` runs the same measurement on the CPU.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.harness.results import Results, Row, parser, run
from benchmarks.harness.tables import figure, milliseconds, table
from benchmarks.harness.timing import in_turns, spread
from benchmarks.harness.workloads import CHECKPOINTS, SHIPPED, Workload
from benchmarks.together import stacked
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.nn.devices import device_of

TOPIC = "gpu"
WORKLOAD = Workload(network="shipped", ways=5, shots=1)


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure one row: seconds of single tasks, and seconds of stacks."""
    device = device_of(options.device)
    checkpoint = load_checkpoint(CHECKPOINTS / SHIPPED[WORKLOAD.network], device=device)
    alone, many = (_seconds(checkpoint, jobs, options) for jobs in (1, options.together))
    return [{"together": options.together, "alone": alone, "many": many}]


def _seconds(checkpoint: Checkpoint, jobs: int, options: argparse.Namespace) -> list[float]:
    """Time each run, from encoded images to checked files."""
    call = partial(stacked, checkpoint, [WORKLOAD], jobs)
    return [ends[-1] for ends in in_turns({"": call}, options.runs, options.budget)[""]]


def tables(results: Results) -> dict[str, str]:
    """Make the table of times."""
    (row,) = results.rows
    header = ["5-way 1-shot", "alone, ms", "25 %", "75 %", f"{row['together']} together, s", "runs"]
    alone, many = spread(row["alone"]), spread(row["many"])
    times = [*milliseconds(alone.median, *alone.quartiles), figure(many.median)]
    return {"gpu": table(header, [["float32", *times, str(alone.runs)]])}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    add = made.add_argument
    add("--device", default="cuda", help="cuda, cuda:1 ...; cpu (%(default)s)")
    add("--together", type=int, default=64, metavar="N", help="tasks in a stack (%(default)s)")
    options = made.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("unmeasured: torch finds no CUDA device")
    if options.quick:
        options.runs, options.together = 1, 2
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
