"""Measure weak scaling of meta-training: more workers, and the same number of tasks for each.

Workers of a Ray cluster on this machine, the network and tasks of configs/omniglot.toml, images of
noise.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks.harness.machine import ROOT
from benchmarks.harness.results import Results, Row, parser, run
from benchmarks.harness.tables import figure, milliseconds, table
from benchmarks.harness.timing import in_turns, seconds, spread
from metanas.training.config import RunConfig
from metanas.training.config_file import read_config
from metanas.training.extensions import Extensions
from metanas.training.ray_pool import Workers, cluster
from metanas.training.trainer import MetaTrainer
from metanas.util.provenance import cores
from metanas_data.datasets.stacks import Classes

TOPIC = "weak_scaling"
CLASSES, IMAGES = 60, 20
QUICK = ("task.ways=[3, 3]", "task.images=12")


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each number of workers."""
    overrides = QUICK if options.quick else ()
    config = read_config(ROOT / "configs" / "omniglot.toml", overrides)
    return [_measured(config, count, options) for count in options.workers]


def _measured(config: RunConfig, count: int, options: argparse.Namespace) -> Row:
    tasks, threads = count * options.tasks, options.threads[0]
    settings = replace(config.train, tasks=tasks, validate_every=10**9, threads=threads)
    config = replace(config, train=settings)
    data = noise(config)
    with cluster(Workers(workers=count), tasks, Extensions().batch) as learner:
        trainer = MetaTrainer(config, data, data, learn=learner(config, data))
        calls = {"seconds": lambda _: seconds(trainer.iterate)}
        runs = in_turns(calls, options.runs, options.budget)
    return {"workers": count, "tasks": tasks, "threads": threads, **runs}


def noise(config: RunConfig) -> Classes:
    """Make classes of noise."""
    shape = (IMAGES, config.input.channels, config.input.size, config.input.size)
    random = np.random.default_rng(0)
    return {str(n): random.integers(0, 256, shape, np.uint8) for n in range(CLASSES)}


def tables(results: Results) -> dict[str, str]:
    """Make the table of iterations by number of workers."""
    header = ["workers, tasks, threads of each", "iteration, ms", "25 %", "75 %", "iterations/s"]
    header += ["efficiency", "runs"]
    first = median(results.rows[0]["seconds"])
    lines = []
    for row in results.rows:
        whole = spread(row["seconds"])
        lines.append([
            f"{row['workers']}, {row['tasks']}, {row['threads']}",
            *milliseconds(whole.median, *whole.quartiles),
            figure(1 / whole.median),
            f"{first / whole.median:.0%}",
            str(whole.runs),
        ])  # fmt: skip
    return {"workers": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    counts = [2**power for power in range(cores().bit_length())]
    made.set_defaults(threads=[1])
    made.add_argument("--workers", type=int, nargs="+", default=counts, metavar="N")
    made.add_argument("--tasks", type=int, default=2, help="of a worker (%(default)s)")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.tasks, options.workers = 1, 1, [1]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
