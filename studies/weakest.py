"""Check if the class that a report calls the weakest gains most from more images.

    python -m studies.weakest meta_checkpoints --data FOLDER --out FILE.json

Each data set is a kind of images, and a task has five classes of one kind. Each class in turn gets
as many more images as half of its drawn ones, and a new model is made. Half of the tasks have
equally many support images of each class, the other half between two and as many. Models take no
step; see `studies.domains`.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import table
from metanas.adaptation.assemble import left_out_of
from metanas.adaptation.universal import load_source
from metanas.estimates.estimates import estimates_of
from metanas.images.support_set import Image
from metanas.util.work import whole
from metanas_data.datasets.dataset import read_dataset
from metanas_data.datasets.episodes import Episode, Sampler
from metanas_data.intervals import mean_of
from studies.domains import PACKS, Images, Inputs, Made, sampler_of
from studies.evaluations import LOCAL, command, run
from studies.intervals import points
from studies.quality import Studied

TOPIC = "weakest"
EQUAL, UNEQUAL = "equal", "unequal"
SHAPES = ("5x10", "5x6")
"""Classes, and images of a class that are not queries; the first shape that a data set can give."""
LEAST = 2
"""Fewest queries of a class."""

Gains = NDArray[np.float64]
"""Gain of recall: (class that got more images, class whose recall it is)."""


class Task:
    """The images of an episode: half of those of its support set may be given later."""

    def __init__(self, studied: Studied, episode: Episode) -> None:
        self.studied, self.names = studied, tuple(episode.support)
        self.images = [studied.images({name: images}) for name, images in episode.support.items()]
        self.queries = [studied.images({name: images}) for name, images in episode.queries.items()]

    def model(self, counts: Sequence[int], more: int | None = None) -> Made:
        """Make the model of so many images of each class; the class `more` gets its other half."""
        support, labels = list[Image](), list[int]()
        for way, (count, images) in enumerate(zip(counts, self.images, strict=True)):
            given = [*images[:count], *(images[len(images) // 2 :] if way == more else [])]
            support += given
            labels += [way] * len(given)
        return self.studied.make(support, torch.tensor(labels), self.names)

    def recalls(self, made: Made) -> NDArray[np.float64]:
        """Measure the recall of each class on the queries."""
        found = []
        for way, queries in enumerate(self.queries):
            answers = made.classifier.logits(made.inputs_of(queries)).argmax(1)
            found.append(float((answers == way).float().mean()))
        return np.array(found)

    def gains(self, counts: Sequence[int], before: Made) -> Gains:
        """Give more images to each class in turn."""
        recalls = self.recalls(before)
        ways = range(len(self.names))
        return np.array([self.recalls(self.model(counts, way)) - recalls for way in ways])


@torch.no_grad()
def measure_kind(studied: Studied, sampler: Sampler, tasks: int) -> Row:
    """Measure the tasks of a data set, with equal and with unequal numbers of images."""
    columns: dict[str, list[float]] = {}
    for index in range(2 * tasks):
        task, half = Task(studied, sampler.episode(index)), sampler.shape.shots // 2
        draw = np.random.default_rng([sampler.seed, index])
        title = UNEQUAL if index % 2 else EQUAL
        counts = [int(draw.integers(2, half + 1)) if index % 2 else half for _ in task.names]
        for name, value in _figures(task, counts).items():
            columns.setdefault(f"{name}, {title}", []).append(value)
    digest = {"checkpoint": studied.source.name, "checkpoint_digest": studied.source.digest}
    return {**sampler.settings(), **digest, **columns}


def _figures(task: Task, counts: Sequence[int]) -> dict[str, float]:
    made = task.model(counts)
    left = whole(left_out_of(made.joint, made.classifier.scale, seed=0))
    assert left is not None
    weakest, gains = estimates_of(left).weakest, task.gains(counts, made)
    own, overall = gains.diagonal(), gains.mean(1)
    figures = {"named": float(bool(weakest)), "any": float(own.mean())}
    figures["any, all classes"] = float(overall.mean())
    if weakest:
        way = task.names.index(weakest)
        others = np.delete(own, way).mean()
        figures |= {"gain": float(own[way]), "lead": float(own[way] - others)}
        figures["gain, all classes"] = float(overall[way])
    return figures


def tables(results: Results) -> Mapping[str, str]:
    """Make the table of means over kinds."""
    header = ["images of a class", "tasks in which a class is named, %", "gain of its recall"]
    header += ["less that of another class", "kinds in which it leads"]
    header += ["gain of the accuracy", "by any class"]
    return {"gains": table(header, [_line(title, results.rows) for title in (EQUAL, UNEQUAL)])}


def _line(title: str, rows: Sequence[Row]) -> list[str]:
    def means(name: str) -> list[float]:
        columns = (row.get(f"{name}, {title}") for row in rows)
        return [mean_of(column).mean for column in columns if column]

    named, leads = 100 * mean_of(means("named")).mean, means("lead")
    rest = [_points(means(name)) for name in ("gain, all classes", "any, all classes")]
    won = f"{sum(lead > 0 for lead in leads)} of {len(leads)}"
    return [title, f"{named:.0f}", _points(means("gain")), _points(leads), won, *rest]


def _points(values: Sequence[float]) -> str:
    return points(mean_of(values)) if values else ""


def _study(options: argparse.Namespace) -> Iterator[Row]:
    studied = Studied(load_source(options.checkpoint), Inputs(), Images())
    for pack in options.packs:
        dataset = read_dataset(options.data / f"{pack}.npz")
        made = (sampler_of(dataset, each, options.queries, options.seed) for each in options.shapes)
        sampler = next((each for each in made if each and each.shape.queries >= LEAST), None)
        if sampler is not None:
            print(f"measure {dataset.name}", file=sys.stderr, flush=True)
            yield measure_kind(studied, sampler, options.tasks)


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add, count = made.add_argument, partial(made.add_argument, type=int, metavar="N")
    add("checkpoint", type=Path, help="its folder, or that of universal.json")
    add("--data", type=Path, required=True, help="folder of npz files")
    add("--packs", nargs="+", default=PACKS, metavar="NAME", help="files in it (%(default)s)")
    add("--shapes", nargs="+", default=SHAPES, metavar="WAYSxIMAGES", help="of tasks (%(default)s)")
    count("--tasks", default=100, help="of a data set, of each half (%(default)s)")
    count("--queries", default=10, help="the most of a class (%(default)s)")
    count("--seed", default=0, help="seed of the tasks (%(default)s)")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    return run(TOPIC, options.out, lambda: list(_study(options)), tables)


if __name__ == "__main__":
    sys.exit(main())
