"""Meta-training with more workers and as many tasks for each: is an iteration as quick as with one?

Workers of a Ray cluster on this machine, the network and tasks of configs/omniglot.toml, images of
noise. What is sent and collected is timed on its own, with workers that answer without having
learned anything; it takes no account of whether workers wait for one another.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from benchmarks._machine import ROOT
from benchmarks._measure import in_turns, seconds, spread
from benchmarks._results import (
    Results,
    Row,
    figure,
    finish,
    milliseconds,
    parser,
    started,
    table,
)
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


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for every number of workers."""
    overrides = QUICK if options.quick else ()
    config = read_config(ROOT / "configs" / "omniglot.toml", overrides)
    return [_measured(config, count, options) for count in options.workers]


def _measured(config: RunConfig, count: int, options: argparse.Namespace) -> Row:
    tasks = count * options.tasks
    threads = options.threads[0]
    settings = replace(config.train, tasks=tasks, validate_every=10**9, threads=threads)
    config = replace(config, train=settings)
    data = classes_of(config)
    with cluster(Workers(workers=count), tasks, batch) as learner:
        team = learner(config, data)
        trainer = MetaTrainer(config, data, data, learn=team)
        idle = MetaState(
            iteration=-1,
            params=trainer.params,
            factors=trainer.factors,
            moments=trainer.moments,
            alive={},
        )
        found = in_turns(
            {
                "seconds": lambda _: seconds(trainer.iterate),
                "sent": lambda _: seconds(lambda: team(idle, range(tasks))),
            },
            options.runs,
            options.budget,
        )
    return {"workers": count, "tasks": tasks, "threads": threads, **found}


def classes_of(config: RunConfig) -> Classes:
    """Classes of noise."""
    shape = (IMAGES, config.input.channels, config.input.size, config.input.size)
    random = np.random.default_rng(0)
    return {str(n): random.integers(0, 256, shape, np.uint8) for n in range(CLASSES)}


def batch(config: RunConfig, train: Classes | Features, device: str) -> Learn:
    """What learns, but before the first iteration answers at once, with as many bytes."""
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
    """The table of one run."""
    header = ["workers, tasks, threads of each", "iteration, ms", "25 %", "75 %", "iterations/s"]
    header += ["efficiency", "sent and collected, ms", "share", "runs"]
    first = median(results.rows[0]["seconds"])
    lines = []
    for row in results.rows:
        whole, sent = spread(row["seconds"]), median(row["sent"])
        lines.append([
            f"{row['workers']}, {row['tasks']}, {row['threads']}",
            *map(milliseconds, [whole.median, *whole.quartiles]),
            figure(1 / whole.median),
            f"{first / whole.median:.0%}",
            milliseconds(sent),
            f"{sent / whole.median:.1%}",
            str(whole.runs),
        ])  # fmt: skip
    return {"workers": table(header, lines)}


def counts(most: int) -> list[int]:
    """1, 2, 4 and so on, up to a number."""
    return [2**power for power in range(most.bit_length())]


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    made.set_defaults(threads=[1])
    made.add_argument("--workers", type=int, nargs="+", default=counts(cores()), metavar="N")
    made.add_argument("--tasks", type=int, default=2, help="of a worker (%(default)s)")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.tasks, options.workers = 1, 1, [1]
    finish(TOPIC, options, started(options), measure(options), tables)


if __name__ == "__main__":
    main()
