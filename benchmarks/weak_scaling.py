"""Measure weak scaling of meta-training: more workers, and the same number of tasks for each.

Workers of a Ray cluster on this machine, the network and tasks of configs/omniglot.toml, images of
noise. Sending and collecting is timed on its own, with workers that answer at once; waiting for
other workers is no part of it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from benchmarks.harness.machine import ROOT
from benchmarks.harness.results import Results, Row, parser, run
from benchmarks.harness.tables import figure, milliseconds, table
from benchmarks.harness.timing import in_turns, seconds, spread
from metanas.supernet.adam import Moments
from metanas.training.config import RunConfig
from metanas.training.config_file import read_config
from metanas.training.extensions import Extensions, Learn
from metanas.training.ray_pool import Workers, cluster
from metanas.training.task_batch import MetaState, TaskResults
from metanas.training.trainer import MetaTrainer
from metanas.util.provenance import cores
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features

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
    with cluster(Workers(workers=count), tasks, batch) as learner:
        learn = learner(config, data)
        trainer = MetaTrainer(config, data, data, learn=learn)
        unlearned = MetaState(
            iteration=-1,
            params=trainer.params,
            factors=trainer.factors,
            moments=trainer.moments,
            alive={},
        )
        calls = {
            "seconds": lambda _: seconds(trainer.iterate),
            "sent": lambda _: seconds(lambda: learn(unlearned, range(tasks))),
        }
        runs = in_turns(calls, options.runs, options.budget)
    return {"workers": count, "tasks": tasks, "threads": threads, **runs}


def noise(config: RunConfig) -> Classes:
    """Make classes of noise."""
    shape = (IMAGES, config.input.channels, config.input.size, config.input.size)
    random = np.random.default_rng(0)
    return {str(n): random.integers(0, 256, shape, np.uint8) for n in range(CLASSES)}


def batch(config: RunConfig, train: Classes | Features, device: str) -> Learn:
    """Build a worker that learns, but answers at once, with as many bytes, at iteration -1."""
    learn = Extensions().batch(config, train, device)

    def answer(state: MetaState, tasks: range) -> TaskResults:
        if state.iteration >= 0:
            return learn(state, tasks)
        return TaskResults(
            tasks=len(tasks),
            loss=0.0,
            accuracy=0.0,
            gradient=torch.zeros_like(state.params),
            factors=torch.zeros_like(state.factors),
            moments=Moments.zero(state.params, (2,)),
        )

    return answer


def tables(results: Results) -> dict[str, str]:
    """Make the table of iterations by number of workers."""
    header = ["workers, tasks, threads of each", "iteration, ms", "25 %", "75 %", "iterations/s"]
    header += ["efficiency", "sent and collected, ms", "share", "runs"]
    first = median(results.rows[0]["seconds"])
    lines = []
    for row in results.rows:
        whole, sent = spread(row["seconds"]), median(row["sent"])
        lines.append([
            f"{row['workers']}, {row['tasks']}, {row['threads']}",
            *milliseconds(whole.median, *whole.quartiles),
            figure(1 / whole.median),
            f"{first / whole.median:.0%}",
            *milliseconds(sent),
            f"{sent / whole.median:.1%}",
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
