"""The shipped checkpoint on a GPU: in each precision, with and without recorded steps.

Of 5-way 1-shot tasks: how long one takes on its own, and 64 together; and the accuracy on episodes
of Omniglot's validation classes, where the data set is at hand. Without a GPU nothing is measured,
and the exit code is 1; `--device cpu` shows that it works.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from time import perf_counter

import torch

from benchmarks._cases import CHECKPOINTS, SHIPPED, Case, classes_at_hand, examples_of
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
    wanted,
)
from metanas.adaptation.engine import Engine
from metanas.adaptation.job import Job
from metanas.adaptation.recording import CudaGraphs, Plainly, Recordings
from metanas.adaptation.scheduler import make_all
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.evaluation.compare import paired
from metanas.evaluation.evaluate import EpisodeShape, evaluate, mean_of
from metanas.nn.devices import device_of
from metanas.spec.precision import Precision

TOPIC = "gpu"
CASE = Case(network="shipped", ways=5, shots=1)
SHAPE = EpisodeShape(ways=5, shots=1, queries=5)
TOGETHER = 64
GRAPHS = 32
"""Recorded steps that are kept."""
ALONE, MANY = 0.15, 2.0
"""Goals in seconds, on a GPU of the H200's class: of a task on its own, and of 64 together."""


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for each precision, with and without recordings; all in turns, in one process."""
    device = device_of(options.device)
    checkpoint = load_checkpoint(CHECKPOINTS / SHIPPED[CASE.network], device=device)
    engines = {
        (precision, recorded): _engine(precision, recorded, device)
        for precision, recorded in product(Precision, (False, True))
        if wanted(_name(precision, recorded), options.only)
    }
    alone, many = (_seconds(checkpoint, engines, jobs, options) for jobs in (1, options.together))
    return [
        {
            "precision": str(precision),
            "graphs": recorded,
            "together": options.together,
            "alone": alone[_name(precision, recorded)],
            "many": many[_name(precision, recorded)],
            "accuracies": _accuracies(checkpoint, engine, options.episodes),
            "kept": len(engine.recordings) if engine.recordings else 0,
        }
        for (precision, recorded), engine in engines.items()
    ]


def _engine(precision: Precision, recorded: bool, device: torch.device) -> Engine:
    recorder = CudaGraphs(device) if device.type == "cuda" else Plainly()
    return Engine(
        precision=precision, recordings=Recordings(recorder, GRAPHS) if recorded else None
    )


def _name(precision: str, recorded: bool) -> str:
    return f"{precision}, graphs" if recorded else precision


def _seconds(
    checkpoint: Checkpoint,
    engines: Mapping[tuple[Precision, bool], Engine],
    jobs: int,
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Of all models, from encoded images to checked files."""
    calls: dict[str, Callable[[int], float]] = {
        _name(*key): partial(_made, checkpoint, engine, jobs) for key, engine in engines.items()
    }
    for call in calls.values():  # what comes again is recorded, then compared
        for episode in range(options.warm_up):
            call(-1 - episode)
    return in_turns(calls, options.runs, options.budget)


def _made(checkpoint: Checkpoint, engine: Engine, jobs: int, episode: int) -> float:
    numbers = [abs(episode * jobs + index) for index in range(jobs)]
    made = [Job(checkpoint, examples_of(CASE, number), seed=number) for number in numbers]
    start = perf_counter()
    make_all(made, engine=engine)
    seconds = perf_counter() - start
    for job in made:
        job.result()
    return seconds


def _accuracies(checkpoint: Checkpoint, engine: Engine, episodes: int) -> list[float]:
    classes = classes_at_hand()
    if not classes:
        return []
    found = evaluate(
        checkpoint,
        dict(sorted(classes.items())),
        SHAPE,
        episodes=range(episodes),
        seed=0,
        options=checkpoint.card.defaults,
        together=16,
        engine=engine,
    )
    return [outcome.accuracy for _, outcome in found]


def tables(results: Results) -> dict[str, str]:
    """The table of one run."""
    many = results.rows[0]["together"]
    header = ["5-way 1-shot", "alone, ms", "25 %", "75 %", f"≤ {1000 * ALONE:g} ms"]
    header += [f"{many} together, s", f"≤ {MANY:g} s", "graphs kept"]
    header += ["accuracy, %", "against the first, points", "episodes", "runs"]
    lines = []
    for row in results.rows:
        alone, whole = spread(row["alone"]), spread(row["many"])
        times = [
            *map(milliseconds, (alone.median, *alone.quartiles)),
            _reached(alone.median, ALONE),
        ]
        times += [figure(whole.median), _reached(whole.median, MANY), str(row["kept"])]
        right = _right(row["accuracies"], results.rows[0]["accuracies"])
        lines.append([_name(row["precision"], row["graphs"]), *times, *right, str(alone.runs)])
    return {"gpu": table(header, lines)}


def _reached(value: float, limit: float) -> str:
    return "yes" if value <= limit else "no"


def _right(accuracies: Sequence[float], first: Sequence[float]) -> list[str]:
    """Accuracy, its difference from that of the first row, and of how many episodes."""
    if len(accuracies) < 2:
        return ["not measured", "", str(len(accuracies))]
    mean, difference = mean_of(list(accuracies)), paired(accuracies, first).difference
    return [
        f"{100 * mean.mean:.2f} ± {100 * mean.interval:.2f}",
        f"{100 * difference.mean:+.2f} ± {100 * difference.interval:.2f}",
        str(len(accuracies)),
    ]


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
        options.only = options.only or ["bf16"]
    finish(TOPIC, options, started(options), measure(options), tables)


if __name__ == "__main__":
    main()
