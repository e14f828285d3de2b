"""Compare adaptation of weights and architecture with less, or with none, on the same episodes.

    python -m studies.adaptation --data data/omniglot_28.npz
    python -m studies.page

The first command evaluates, keeps every episode in the folder --work and resumes from it. The
second fills the tables of docs/results.md.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.machine import ROOT
from benchmarks.harness.results import Results, Row
from benchmarks.harness.tables import figure, table
from metanas.checkpoint import load_checkpoint
from metanas.evaluation.compare import Comparison, paired
from metanas.spec.options import AdaptConfig
from metanas_data.datasets.dataset import read_dataset
from metanas_data.intervals import mean_of
from studies.evaluations import (
    BOTH,
    LOCAL,
    NONE,
    PROBE,
    PRUNED,
    STORED,
    WEIGHTS,
    Setting,
    add_options,
    command,
    measure,
    overrides_of,
    planned,
    run,
    title_of,
)
from studies.intervals import COMPARED, compared, percent

TOPIC = "study"
TITLES = {
    BOTH: "weights and architecture",
    WEIGHTS: "weights alone, in the mixture",
    PRUNED: "weights alone, in the pruned meta-network",
    NONE: "no step: class prototypes",
    PROBE: "no step: linear probe",
}
STEPS = (1, 5, 10, 20, 50, 100)
OF_SHAPES = (300, 60, 80)
"""Episodes of each shape in the first table; further shapes have as many as the last."""
OF_STEPS = (80, 30)
"""Episodes of up to `FEW` steps, and of more."""
FEW = 20
STEPPED = "steps-"
"""Beginning of the names of settings with a number of steps."""

Rows = Mapping[tuple[str, str], Row]
"""Shape and setting -> row."""


def settings_of(
    shapes: Sequence[str], steps: Sequence[int], defaults: AdaptConfig
) -> Iterator[Setting]:
    """Return all settings."""
    for index, shape in enumerate(shapes):
        for name in TITLES:
            yield Setting(
                name=name,
                shape=shape,
                episodes=OF_SHAPES[min(index, len(OF_SHAPES) - 1)],
                overrides=overrides_of(name, defaults),
                transductive=name == BOTH,
            )
    for count in steps:
        yield Setting(
            name=f"{STEPPED}{count}",
            shape=shapes[0],
            episodes=OF_STEPS[count > FEW],
            overrides={"steps": count, "patience": 0},
        )


def tables(results: Results) -> Mapping[str, str]:
    """Make all tables, by their names on the page."""
    shapes = list(dict.fromkeys(row["shape"] for row in results.rows))
    rows = {(row["shape"], row["setting"]): row for row in results.rows}
    stepped = {
        row["setting"].removeprefix(STEPPED): row
        for row in results.rows
        if row["setting"].startswith(STEPPED)
    }
    return {
        "adaptation": _adaptation(shapes, rows),
        "steps": _steps(rows[shapes[0], NONE], stepped),
        "stages": _differences(shapes, rows, ("soft", "pruned", "transductive")),
    }


def _between(one: Row, other: Row) -> Comparison:
    """Compare the accuracies of two settings on the episodes that both have."""
    count = min(len(one["accuracy"]), len(other["accuracy"]))
    return paired(one["accuracy"][:count], other["accuracy"][:count])


def _adaptation(shapes: Sequence[str], rows: Rows) -> str:
    header = ["", "episodes", "accuracy, %", "architecture's lead, points", *COMPARED]
    lines = []
    for shape in shapes:
        both = rows.get((shape, BOTH))
        for name, title in TITLES.items():
            row = rows.get((shape, name))
            if row is None or both is None:
                continue
            lead = [""] * 3 if row is both else compared(_between(both, row))
            accuracy = percent(mean_of(row["accuracy"]))
            lines.append(
                [f"{title_of(shape)}: {title}", str(len(row["accuracy"])), accuracy, *lead]
            )
    return table(header, lines)


def _steps(none: Row, stepped: Mapping[str, Row]) -> str:
    header = [f"steps, {title_of(none['shape'])}", "episodes", "accuracy, %"]
    header += ["no step on these, %", "difference, points", *COMPARED, "edges moved"]
    lines = []
    for steps, row in stepped.items():
        count = min(len(row["accuracy"]), len(none["accuracy"]))
        means = [percent(mean_of(each["accuracy"][:count])) for each in (row, none)]
        moved = figure(float(np.mean(row["moved"])))
        lines.append([steps, str(count), *means, *compared(_between(row, none)), moved])
    return table(header, lines)


def _differences(shapes: Sequence[str], rows: Rows, names: Sequence[str]) -> str:
    """Compare columns of the default setting with the accuracy of the exported file."""
    lines = []
    for row in (row for shape in shapes if (row := rows.get((shape, BOTH)))):
        exported = percent(mean_of(row["accuracy"]))
        for name in names:
            title, count = f"{title_of(row['shape'])}: {name}", str(len(row["accuracy"]))
            lead = compared(paired(row[name], row["accuracy"]))
            lines.append([title, count, percent(mean_of(row[name])), exported, *lead])
    return table(["", "episodes", "%", "exported, %", "less exported, points", *COMPARED], lines)


def _study(options: argparse.Namespace) -> list[Row]:
    """Plan all evaluations, so that any bad input shows before the first one; then run them."""
    checkpoint = load_checkpoint(options.checkpoint)
    data = read_dataset(options.data, options.split)
    defaults = checkpoint.card.defaults
    label = options.checkpoint.name
    evaluations = [
        planned(label, checkpoint, data, setting, options)
        for setting in settings_of(options.shapes, options.steps, defaults)
    ]
    return measure(evaluations, options.work)


def main(arguments: Sequence[str] | None = None) -> int:
    made = command("adaptation", __doc__)
    add_options(made, LOCAL / TOPIC)
    add, shipped = made.add_argument, ROOT / "meta_checkpoints" / "omniglot"
    add("--checkpoint", type=Path, default=shipped, help="folder (%(default)s)")
    add("--steps", type=int, nargs="+", default=list(STEPS), metavar="N", help="%(default)s")
    add("--out", type=Path, help=f"JSON file ({STORED / TOPIC}/CHECKPOINT.json)")
    options = made.parse_args(arguments)
    out = options.out or STORED / TOPIC / f"{options.checkpoint.resolve().name}.json"
    return run(TOPIC, out, lambda: _study(options), tables)


if __name__ == "__main__":
    sys.exit(main())
