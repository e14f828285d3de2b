"""Measure the shipped checkpoint on a GPU.

Measures 5-way 1-shot tasks: seconds for one task alone, seconds for 64 together, and accuracy on
episodes of Omniglot's validation classes, where the data set is available. Without a GPU it
measures nothing and exits with code 1; `--device cpu` runs the same measurement on the CPU.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import torch

from benchmarks._cases import CHECKPOINTS, SHIPPED, Case, data_at_hand, examples_of
from benchmarks._measure import in_turns, spread
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
from metanas.adaptation.job import Job
from metanas.adaptation.scheduler import make_all
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.evaluation.evaluate import evaluate
from metanas.nn.devices import device_of
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.intervals import mean_of

TOPIC = "gpu"
CASE = Case(network="shipped", ways=5, shots=1)
SHAPE = EpisodeShape(ways=5, shots=1, queries=5)
TOGETHER = 64
ALONE, MANY = 0.15, 2.0
"""Goals in seconds, on a GPU of the H200's class: for one task alone, and for 64 together."""


def measure(options: argparse.Namespace) -> list[Row]:
    """One row: seconds of single tasks, seconds of stacks, accuracies."""
    device = device_of(options.device)
    checkpoint = load_checkpoint(CHECKPOINTS / SHIPPED[CASE.network], device=device)
    alone, many = (_seconds(checkpoint, jobs, options) for jobs in (1, options.together))
    return [
        {
            "together": options.together,
            "alone": alone,
            "many": many,
            "accuracies": _accuracies(checkpoint, options.episodes),
        }
    ]


def _seconds(checkpoint: Checkpoint, jobs: int, options: argparse.Namespace) -> list[float]:
    """Seconds of each run, from encoded images to checked files."""
    call = partial(_made, checkpoint, jobs)
    for episode in range(options.warm_up):
        call(-1 - episode)
    return in_turns({TOPIC: call}, options.runs, options.budget)[TOPIC]


def _made(checkpoint: Checkpoint, jobs: int, episode: int) -> float:
    numbers = [abs(episode * jobs + index) for index in range(jobs)]
    made = [Job(checkpoint, examples_of(CASE, number), seed=number) for number in numbers]
    start = perf_counter()
    make_all(made)
    seconds = perf_counter() - start
    for job in made:
        job.result()
    return seconds


def _accuracies(checkpoint: Checkpoint, episodes: int) -> list[float]:
    data = data_at_hand()
    if data is None:
        return []
    found = evaluate(
        checkpoint,
        Sampler(data, SHAPE, 0),
        episodes=range(episodes),
        options=checkpoint.card.defaults,
        together=16,
    )
    return [outcome.accuracy for _, outcome in found]


def tables(results: Results) -> dict[str, str]:
    """The table of one run."""
    many = results.rows[0]["together"]
    header = ["5-way 1-shot", "alone, ms", "25 %", "75 %", f"≤ {1000 * ALONE:g} ms"]
    header += [f"{many} together, s", f"≤ {MANY:g} s", "accuracy, %", "episodes", "runs"]
    lines = []
    for row in results.rows:
        alone, whole = spread(row["alone"]), spread(row["many"])
        times = [
            *map(milliseconds, (alone.median, *alone.quartiles)),
            _reached(alone.median, ALONE),
        ]
        times += [figure(whole.median), _reached(whole.median, MANY)]
        right = _right(row["accuracies"])
        lines.append(["float32", *times, *right, str(alone.runs)])
    return {"gpu": table(header, lines)}


def _reached(value: float, limit: float) -> str:
    return "yes" if value <= limit else "no"


def _right(accuracies: Sequence[float]) -> list[str]:
    """Mean accuracy with its 95 % interval, and the number of episodes."""
    if len(accuracies) < 2:
        return ["not measured", str(len(accuracies))]
    mean = mean_of(list(accuracies))
    return [f"{100 * mean.mean:.2f} ± {100 * mean.interval:.2f}", str(len(accuracies))]


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    made.add_argument("--device", default="cuda", help="cuda, cuda:1 ...; cpu (%(default)s)")
    made.add_argument("--together", type=int, default=TOGETHER, metavar="N", help="%(default)s")
    made.add_argument(
        "--episodes", type=int, default=600, metavar="N", help="for accuracies (%(default)s)"
    )
    made.add_argument(
        "--warm-up", type=int, default=10, metavar="N", help="rounds before (%(default)s)"
    )
    options = made.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("unmeasured: torch finds no CUDA device")
    if options.quick:
        options.runs, options.together, options.episodes, options.warm_up = 1, 2, 2, 0
    finish(TOPIC, options, started(options), measure(options), tables)


if __name__ == "__main__":
    main()
