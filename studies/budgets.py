"""Measure the accuracy of the universal search space within budgets, beside fixed architectures.

    python -m studies.budgets meta_checkpoints --data FOLDER --out FILE.json

All models meet the same episodes. A fixed architecture joins the same branches for all tasks. The
milliseconds are those of this machine, as `metanas profile` measures them. For each budget
--requests further tasks of small synthetic images are adapted in full, and the costs of their files
are compared with the limit.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import log
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import table
from metanas.adaptation.metrics import milliseconds_of
from metanas.adaptation.scheduler import adapt
from metanas.adaptation.universal import UniversalSpace, load_universal
from metanas.evaluation.resume import Plan
from metanas.images.support_set import Image
from metanas.spec.examples import Example
from metanas.spec.options import Option
from metanas.spec.universal import DESCRIPTION, milliseconds_of_branches
from metanas_data.datasets.dataset import Dataset, read_dataset
from metanas_data.evaluations import column
from metanas_data.intervals import mean_of
from metanas_data.report import Report
from studies.domains import Images, Inputs, closed_form, sampler_of
from studies.evaluations import LOCAL, command, run, shape_of, title_of
from studies.intervals import percent

TOPIC = "budgets"
PACKS = (
    "omniglot_28", "glyphs_64", "quickdraw_28", "icons_96", "grocery_224", "caltech101_224",
)  # fmt: skip
MILLION = 1_000_000
LIMITS: tuple[tuple[str, int | float, str], ...] = (
    *(("max_macs", n * MILLION, f"{n} million multiply-adds") for n in (10, 50, 150, 400)),
    *(("max_bytes", n * MILLION, f"{n} MB") for n in (1, 4, 12)),
    *(("max_milliseconds", float(n), f"{n} ms") for n in (2, 10, 40)),
)
"""Option, limit, and title of each budget."""
OPTIONS = tuple(dict.fromkeys(option for option, _, _ in LIMITS))
NONE = 1e-9
"""Share of a branch that a fixed architecture lacks."""


def fixed_architectures(space: UniversalSpace) -> list[tuple[str, ...]]:
    """Return each branch alone, and each two branches of different checkpoints, by their names."""
    branches = space.universal.branches
    own = [name for name, branch in branches.items() if not branch.beside]
    pairs = [
        (one, other)
        for one, other in combinations(own, 2)
        if branches[one].checkpoint != branches[other].checkpoint
    ]
    return [*((name,) for name in own), *pairs]


def fixed_space(space: UniversalSpace, names: Sequence[str]) -> UniversalSpace:
    """Return the space with a prior that gives equal shares to these branches, for any task."""
    universal = space.universal
    bias = tuple(log(1.0 if name in names else NONE) for name in universal.branches)
    weights = ((0.0,) * DESCRIPTION,) * len(universal.branches)
    return replace(space, universal=replace(universal, weights=weights, bias=bias))


def profiled(space: UniversalSpace, runs: int) -> UniversalSpace:
    """Return the space with milliseconds that are measured on this machine."""
    measured = {name: milliseconds_of(each, runs) for name, each in space.branches.items()}
    return replace(space, universal=replace(space.universal, milliseconds=measured))


def synthetic(random: np.random.Generator, side: int = 48) -> Image:
    """Draw coloured patches, or grey ones, of one of four sizes."""
    cells = int(random.choice([3, 6, 12, 24]))
    channels = int(random.choice([1, 3]))
    patches = random.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
    grown = patches.repeat(side // cells, axis=0).repeat(side // cells, axis=1)
    return np.broadcast_to(grown, (*grown.shape[:2], 3)).copy()


def cost_of(space: UniversalSpace, option: str, report: Report) -> float:
    """Return the cost of a model that an option limits; milliseconds are those of the table."""
    if option == "max_macs":
        return report.macs
    if option == "max_bytes":
        return report.onnx_bytes
    return milliseconds_of_branches(space.universal, list(report.architecture))


def reports(
    space: UniversalSpace, count: int, limits: Mapping[str, Option], ways: int = 2
) -> Iterator[Report]:
    """Adapt to tasks of two synthetic images a class; yield the report of each."""
    for index in range(count):
        random = np.random.default_rng(index)
        support = [Example(str(row % ways), synthetic(random)) for row in range(2 * ways)]
        yield adapt(space, support, options=limits).report


class Episodes:
    """The episodes of all data sets in one shape; trunks see each image once."""

    def __init__(self, datasets: Sequence[Dataset], shape: str, options: argparse.Namespace):
        samplers = (sampler_of(each, shape, options.queries, options.seed) for each in datasets)
        self.shape, self.count = shape, options.episodes
        self._samplers = [each for each in samplers if each is not None]
        self._measure = partial(closed_form, Inputs(), Images(), 0)

    def row(self, title: str, space: UniversalSpace, **limits: Option) -> Row:
        """Measure models within these limits: means of accuracies and costs of each data set."""
        means, macs = [], []
        for sampler in self._samplers:
            chosen = space.defaults.replace(limits)
            plan = Plan(checkpoint=space, sampler=sampler, episodes=self.count, options=chosen)
            records = list(self._measure(plan, range(self.count)))
            means.append(mean(column(records, "accuracy")))
            macs.append(mean(column(records, "macs")))
        print(f"{title}: {100 * mean(means):.2f} %", file=sys.stderr, flush=True)
        data = [sampler.dataset.name for sampler in self._samplers]
        return {"title": title, "shape": self.shape, "data": data, "means": means, "macs": macs}


def tables(results: Results) -> Mapping[str, str]:
    """Make a table of all budgets for each shape, with the best fixed architecture within each."""
    shapes = dict.fromkeys(row["shape"] for row in results.rows)
    return {shape: _table(shape, results.rows) for shape in shapes}


def _table(shape: str, rows: Sequence[Row]) -> str:
    some = [row for row in rows if row["shape"] == shape]
    fixed = [row for row in some if "option" not in row]
    header = [f"{title_of(shape)}, within", "accuracy, %", "million MACs", "requests within"]
    header += ["best fixed architecture", "its accuracy, %"]
    lines = []
    for row in (each for each in some if "option" in each):
        met = sum(cost <= row["limit"] for cost in row["costs"])
        line = [row["title"], percent(mean_of(row["means"])), f"{mean(row['macs']) / 1e6:.0f}"]
        fitting = [each for each in fixed if each["sizes"][row["option"]] <= row["limit"]]
        best = max(fitting, key=lambda each: mean(each["means"]), default=None)
        named = ["none", ""] if best is None else [best["title"], percent(mean_of(best["means"]))]
        lines.append([*line, f"{met}/{len(row['costs'])}", *named])
    return table(header, lines)


def _study(options: argparse.Namespace) -> Iterator[Row]:
    space = profiled(load_universal(options.checkpoint), options.runs)
    datasets = [read_dataset(options.data / f"{pack}.npz") for pack in options.packs]
    costs = {
        title: [
            cost_of(space, option, each)
            for each in reports(space, options.requests, {option: limit})
        ]
        for option, limit, title in LIMITS
    }
    for shape in options.shapes:
        episodes = Episodes(datasets, shape, options)
        for option, limit, title in LIMITS:
            row = episodes.row(title, space, **{option: limit})
            yield {**row, "option": option, "limit": limit, "costs": costs[title]}
        for names in fixed_architectures(space):
            one = fixed_space(space, names)
            (report,) = reports(one, 1, {}, shape_of(shape, 1).ways)
            sizes = {option: cost_of(one, option, report) for option in OPTIONS}
            yield {**episodes.row(" + ".join(names), one), "sizes": sizes}


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add, count = made.add_argument, partial(made.add_argument, type=int, metavar="N")
    add("checkpoint", type=Path, help="the folder of universal.json")
    add("--data", type=Path, required=True, help="folder of npz files")
    add("--packs", nargs="+", default=PACKS, metavar="NAME", help="files in it (%(default)s)")
    add("--shapes", nargs="+", default=["5x5"], metavar="WAYSxSHOTS")
    count("--episodes", default=20, help="of a data set and shape (%(default)s)")
    count("--queries", default=5, help="the most of a class (%(default)s)")
    count("--requests", default=100, help="further tasks of each budget (%(default)s)")
    count("--runs", default=20, help="measurements of the time of a branch (%(default)s)")
    count("--seed", default=0, help="seed of the episodes (%(default)s)")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    return run(TOPIC, options.out, lambda: list(_study(options)), tables)


if __name__ == "__main__":
    sys.exit(main())
