"""Compare relaxations, meta-learners or genotypes: small networks, alike except for one choice.

Each is trained with several seeds, and the intervals hold for other trainings of its kind too.

    python -m studies.variants relaxations --data data/omniglot_28.npz
    python -m studies.variants genotypes --data data/omniglot_28.npz
    python -m studies.variants learners --data data/omniglot_28.npz
    python -m studies.page

The first three train and evaluate, and resume after an interruption. The last fills the tables of
docs/results.md.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.machine import ROOT
from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import figure, ranged, table
from metanas.errors import InvalidInput
from metanas.spec.options import AdaptConfig
from metanas.training.config import FIXED
from metanas_data.datasets.dataset import read_dataset
from studies.evaluations import (
    BOTH,
    LOCAL,
    NONE,
    STORED,
    WEIGHTS,
    Setting,
    add_options,
    command,
    measure,
    overrides_of,
    planned,
    run,
    shape_of,
    title_of,
)
from studies.intervals import Figures, outcome, over, percent, points
from studies.training import GROUPS, Variant, train

TOPIC = "variants"
LEAST_TRAININGS = 2
"""Trainings of a variant; every interval needs their spread."""
EPISODES = (200, 60)
"""Episodes of the first shape, and of each further one."""

Rows = Mapping[str, Mapping[tuple[str, str], Sequence[Row]]]
"""Name of a variant -> shape and setting -> a row for each training."""


def tables(results: Results) -> Mapping[str, str]:
    """Make the tables of accuracies and of trainings."""
    rows: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in results.rows:
        of_variant = rows.setdefault(row["checkpoint"], {})
        of_variant.setdefault((row["shape"], row["setting"]), []).append(row)
    shapes = list(dict.fromkeys(row["shape"] for row in results.rows))
    return {"accuracy": _accuracy(rows, shapes), "training": _training(rows, shapes[0])}


def _accuracy(rows: Rows, shapes: Sequence[str]) -> str:
    first, *_ = rows
    header = ["", "trainings × episodes", "accuracy, %", "of each training"]
    header += [f"less {first}, points", "of each training", "outcome"]
    header += ["no step, %", "architecture's lead, points", "edges moved"]
    lines = []
    for shape in shapes:
        for name, of_variant in rows.items():
            both = of_variant[shape, BOTH]
            figures = accuracies(both)
            line = [f"{title_of(shape)}: {name}", " × ".join(map(str, figures.shape))]
            line += [percent(over(figures)), _spread(figures, "")]
            less = figures - accuracies(rows[first][shape, BOTH])
            comparison = [points(over(less)), _spread(less, "+"), outcome(over(less))]
            line += comparison if name != first else [""] * 3
            line.append(percent(over(accuracies(of_variant[shape, NONE]))))
            lead = over(figures - accuracies(of_variant[shape, WEIGHTS]))
            moved = figure(float(np.mean([row["moved"] for row in both])))
            line += [points(lead), moved] if both[0]["searched"] else ["", ""]
            lines.append(line)
    return table(header, lines)


def accuracies(rows: Sequence[Row]) -> Figures:
    """Stack the accuracies of several trainings on the same episodes."""
    return np.array([row["accuracy"] for row in rows])


def _spread(figures: Figures, sign: str) -> str:
    """Write the lowest and the highest mean of a training, in points."""
    means = 100 * figures.mean(axis=1)
    return f"{means.min():{sign}.1f} to {means.max():{sign}.1f}"


def _training(rows: Rows, shape: str) -> str:
    header = ["", "trained with", "processor, s", "thousand parameters", "million MACs"]
    lines = []
    for name, of_variant in rows.items():
        trainings = of_variant[shape, BOTH]
        sizes = [
            ranged([each / unit for row in trainings for each in row[column]])
            for column, unit in (("parameters", 1e3), ("macs", 1e6))
        ]
        seconds = ranged([row["seconds"] for row in trainings])
        changes = ",<br>".join(f"`{each}`" for each in trainings[0]["overrides"])
        lines.append([name, changes or "nothing else", seconds, *sizes])
    return table(header, lines)


def settings_of(shapes: Sequence[str], defaults: AdaptConfig) -> Iterator[Setting]:
    """Return the settings in which each network is evaluated."""
    for index, shape in enumerate(shapes):
        for name in (BOTH, WEIGHTS, NONE):
            overrides, episodes = overrides_of(name, defaults), EPISODES[index > 0]
            yield Setting(name=name, shape=shape, episodes=episodes, overrides=overrides)


def _study(options: argparse.Namespace) -> list[Row]:
    """Train and evaluate all variants of a group."""
    for shape in options.shapes:
        shape_of(shape, options.queries)  # before hours of training
    if options.seeds < LEAST_TRAININGS:
        message = f"{options.seeds} training(s) give no interval; at least {LEAST_TRAININGS} do"
        raise InvalidInput.single("--seeds", "OPTION_OUT_OF_RANGE", message)
    chosen = _chosen(options)
    return [
        {**row, "checkpoint": name}
        for seed in range(options.seeds)
        for name, variant in chosen.items()
        for row in _trial(variant, seed, options)
    ]


def _trial(variant: Variant, seed: int, options: argparse.Namespace) -> list[Row]:
    """Train a variant with one seed and evaluate it."""
    overrides = [f"data.path = {json.dumps(str(options.data))}", *options.set]
    checkpoint, seconds = train(variant, seed, options.config, overrides, options.runs)
    data = read_dataset(options.data, options.split)
    settings = settings_of(options.shapes, checkpoint.card.defaults)
    label = variant.trial(seed)
    evaluations = [planned(label, checkpoint, data, setting, options) for setting in settings]
    facts = {
        "training": seed,
        "searched": checkpoint.card.relaxation != FIXED,
        "overrides": variant.changes,
        "seconds": seconds,
    }
    return [{**row, **facts} for row in measure(evaluations, options.work)]


def _chosen(options: argparse.Namespace) -> dict[str, Variant]:
    group = GROUPS[options.group]
    if unknown := set(options.only) - group.keys():
        message = f"no {', '.join(sorted(unknown))} among {', '.join(group)}"
        raise InvalidInput.single("--only", "OPTION_OUT_OF_RANGE", message)
    return {name: each for name, each in group.items() if not options.only or name in options.only}


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    made.add_argument("group", choices=list(GROUPS), help="the comparison")
    add_options(made, LOCAL / TOPIC)
    add, config = made.add_argument, ROOT / "configs" / "study-omniglot.toml"
    add("--config", type=Path, default=config, help="the common configuration (%(default)s)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    add("--only", nargs="+", default=[], metavar="NAME", help="only these variants of the group")
    add("--seeds", type=int, default=3, help="trainings of each: seeds 0, 1 ... (%(default)s)")
    add("--runs", type=Path, default=ROOT / "runs" / "study", help="trainings (%(default)s)")
    add("--out", type=Path, help=f"JSON file ({STORED}/study/GROUP.json)")
    options = made.parse_args(arguments)
    out = options.out or STORED / "study" / f"{options.group}.json"
    return run(TOPIC, out, lambda: _study(options), tables)


if __name__ == "__main__":
    sys.exit(main())
