"""Relaxations, meta-learners or genotypes side by side: small networks, alike in all else.

Each is trained several times, and what is said of it holds for other trainings of its kind too.

    python -m benchmarks.variants relaxations --data data/omniglot_28.npz
    python -m benchmarks.variants genotypes --data data/omniglot_28.npz
    python -m benchmarks.variants learners --data data/omniglot_28.npz
    python -m benchmarks.page benchmarks/results/study/*.json

The first three train what is not trained yet and evaluate it on the same episodes. They go on where
they were interrupted. The last writes docs/results.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from benchmarks._answers import outcome, percent, points, ranged, title_of
from benchmarks._evaluations import add_options, measure, planned, shape_of
from benchmarks._machine import ROOT, facts
from benchmarks._plans import BOTH, NONE, WEIGHTS, settings_of_variant
from benchmarks._results import LOCAL, Results, Row, figure, load, machine_line, save, table
from benchmarks._trainings import Figures, over
from benchmarks._variants import GROUPS, Variant, trained
from metanas.errors import InvalidInput, MetanasError
from metanas.runs.progress import bar
from metanas.training.config import FIXED
from metanas_data.datasets.dataset import read_dataset

TOPIC = "variants"
LEAST_TRAININGS = 2
"""Of a variant: their spread belongs to every interval."""


Rows = Mapping[str, Mapping[tuple[str, str], Sequence[Row]]]
"""Name of a variant -> shape and setting -> a row for each training."""


def tables(results: Results) -> Mapping[str, str]:
    """All tables, by their names on the page."""
    rows: dict[str, dict[tuple[str, str], list[Row]]] = {}
    for row in results.rows:
        of_variant = rows.setdefault(row["checkpoint"], {})
        of_variant.setdefault((row["shape"], row["setting"]), []).append(row)
    shapes = list(dict.fromkeys(row["shape"] for row in results.rows))
    return {
        "accuracy": _accuracy(rows, shapes),
        "training": _training(rows, shapes[0]),
    }


def _accuracy(rows: Rows, shapes: Sequence[str]) -> str:
    first, *_ = rows
    header = ["", "trainings × episodes", "accuracy, %", "of each training"]
    header += [f"less {first}, points", "of each training", "outcome"]
    header += ["no step, %", "architecture's lead, points", "edges moved"]
    lines = []
    for shape in shapes:
        for name, found in rows.items():
            both, still = found[shape, BOTH], accuracies(found[shape, NONE])
            figures = accuracies(both)
            line = [f"{title_of(shape)}: {name}", " × ".join(map(str, figures.shape))]
            line += [percent(over(figures)), _spread(figures, "")]
            less = figures - accuracies(rows[first][shape, BOTH])
            lead_of = over(less)
            compared = [points(lead_of), _spread(less, "+"), outcome(lead_of)]
            line += compared if name != first else [""] * 3
            line.append(percent(over(still)))
            lead = figures - accuracies(found[shape, WEIGHTS])
            moved = figure(float(np.mean([row["moved"] for row in both])))
            line += [points(over(lead)), moved] if both[0]["searched"] else ["", ""]
            lines.append(line)
    return table(header, lines)


def accuracies(rows: Sequence[Row]) -> Figures:
    """Those of the trainings on the episodes, which all of them met."""
    return np.array([row["accuracy"] for row in rows])


def _spread(figures: Figures, sign: str) -> str:
    """The lowest and the highest of the trainings, in points."""
    means = 100 * figures.mean(axis=1)
    return f"{means.min():{sign}.1f} to {means.max():{sign}.1f}"


def _training(rows: Rows, shape: str) -> str:
    """What each was trained with, what that cost, and how large the adapted networks are."""
    header = ["", "trained with", "processor, s", "thousand parameters", "million MACs"]
    lines = []
    for name, found in rows.items():
        trainings = found[shape, BOTH]
        sizes = [
            ranged([each / unit for row in trainings for each in row[column]])
            for column, unit in (("parameters", 1e3), ("macs", 1e6))
        ]
        seconds = ranged([row["seconds"] for row in trainings])
        overrides = (
            ",<br>".join(f"`{each}`" for each in trainings[0]["overrides"]) or "nothing else"
        )
        lines.append([name, overrides, seconds, *sizes])
    return table(header, lines)


def _rows(options: argparse.Namespace, shown: Progress) -> tuple[list[Row], list[str]]:
    """The rows of all variants of a group, and the evaluations that another process is at."""
    for shape in options.shapes:
        shape_of(shape)  # before hours of training
    if options.seeds < LEAST_TRAININGS:
        message = f"{options.seeds} training(s) tell nothing of chance; at least {LEAST_TRAININGS}"
        raise InvalidInput.single("--seeds", "OPTION_OUT_OF_RANGE", message)
    chosen = _chosen(options)
    rows, busy = [], []
    for seed in range(options.seeds):
        for name, variant in chosen.items():
            measured, others = _trial(variant, seed, options, shown)
            rows += [{**row, "checkpoint": name} for row in measured]
            busy += others
    return rows, busy


def _trial(
    variant: Variant, seed: int, options: argparse.Namespace, shown: Progress
) -> tuple[list[Row], list[str]]:
    """One training and its evaluations."""
    given = [f"data.path = {json.dumps(str(options.data))}", *options.set]
    found = trained(variant, seed, options.config, given, options.runs, shown)
    checkpoint = found.checkpoint
    data = read_dataset(options.data, options.split)
    settings = settings_of_variant(options.shapes, checkpoint.card.defaults)
    label = variant.trial(seed)
    evaluations = [planned(label, checkpoint, data, setting, options) for setting in settings]
    rows, busy = measure(evaluations, options.work, shown)
    facts_of = {
        "training": seed,
        "searched": checkpoint.card.relaxation != FIXED,
        "overrides": variant.told,
        "seconds": found.seconds,
    }
    return [{**row, **facts_of} for row in rows], busy


def _chosen(options: argparse.Namespace) -> dict[str, Variant]:
    group = GROUPS[options.group]
    if unknown := set(options.only) - group.keys():
        message = f"no {', '.join(sorted(unknown))} among {', '.join(group)}"
        raise InvalidInput.single("--only", "OPTION_OUT_OF_RANGE", message)
    return {name: each for name, each in group.items() if not options.only or name in options.only}


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{TOPIC}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("group", choices=list(GROUPS), help="what is compared")
    add_options(made, LOCAL / TOPIC)
    add, config = made.add_argument, ROOT / "configs" / "study-omniglot.toml"
    add("--config", type=Path, default=config, help="what all have in common (%(default)s)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    add("--only", nargs="+", default=[], metavar="NAME", help="some of the group's variants alone")
    add(
        "--seeds", type=int, default=3, help="trainings of each: train.seed 0, 1, ... (%(default)s)"
    )
    add("--runs", type=Path, default=ROOT / "runs" / "study", help="trainings (%(default)s)")
    add("--out", type=Path, help="what the page is made of (benchmarks/results/study/GROUP.json)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    machine = facts()
    try:
        with bar() as shown:
            rows, busy = _rows(options, shown)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    if busy:
        print(f"another process is at {', '.join(busy)}; run this again when it is done")
        return 3
    out = options.out or LOCAL.parent / "study" / f"{options.group}.json"
    save(Results(TOPIC, machine, rows), out)
    results = load(out)
    print("\n\n".join([machine_line(results), *tables(results).values()]))
    print(f"\nevery episode: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
