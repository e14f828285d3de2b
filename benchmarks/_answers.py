"""Tables of the study in docs/results.md, made of stored rows.

The outcome of a paired comparison follows from its 95 % interval alone.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from benchmarks._plans import BOTH, NONE, PROBE, PRUNED, WEIGHTS, steps_of
from benchmarks._results import Results, Row, figure, milliseconds, table
from metanas.evaluation.compare import Comparison, paired
from metanas_data.intervals import Mean, mean_of

TITLES = {
    BOTH: "weights and architecture",
    WEIGHTS: "weights alone, in the mixture",
    PRUNED: "weights alone, in the pruned meta-network",
    NONE: "no step: class prototypes",
    PROBE: "no step: linear probe",
}

Find = Callable[[str, str], Row | None]
"""The row of a shape and a setting."""

MARGIN = 0.01
"""Equivalence margin: an interval within 1 point of zero excludes a larger effect."""
COMPARED = ("won/lost/tied", "outcome")
"""Column titles beside a difference."""


def answers(results: Results) -> Mapping[str, str]:
    """All tables, by their names on the page."""
    shapes = list(dict.fromkeys(row["shape"] for row in results.rows))
    rows = {(row["shape"], row["setting"]): row for row in results.rows}
    stepped = {n: row for row in results.rows if (n := steps_of(row["setting"])) is not None}

    def find(shape: str, setting: str) -> Row | None:
        return rows.get((shape, setting))

    return {
        "what": _what(results.rows[0]),
        "adaptation": _adaptation(shapes, find),
        "steps": _steps(rows[shapes[0], NONE], stepped),
        "gap": _columns(shapes, find, ("soft", "pruned", "accuracy"), ("soft", "accuracy")),
        "transduction": _columns(
            shapes, find, ("accuracy", "transductive"), ("transductive", "accuracy")
        ),
        "size": _size(shapes, find),
    }


def title_of(shape: str) -> str:
    """How a shape is written: "5-way 1-shot"."""
    ways, _, shots = shape.partition("x")
    return f"{ways}-way {shots}-shot"


def _between(one: Row, other: Row) -> Comparison:
    """The accuracies of two settings on the episodes that both have."""
    count = min(len(one["accuracy"]), len(other["accuracy"]))
    return paired(one["accuracy"][:count], other["accuracy"][:count])


def percent(mean: Mean) -> str:
    """A mean with its interval, in percent."""
    return f"{100 * mean.mean:.2f} ± {100 * mean.interval:.2f}"


def points(mean: Mean) -> str:
    """A difference with its interval, in points."""
    return f"{100 * mean.mean:+.2f} ± {100 * mean.interval:.2f}"


def compared(found: Comparison) -> list[str]:
    """A difference, the episodes it won, lost and tied, and its outcome."""
    counts = f"{found.won}/{found.lost}/{found.tied}"
    return [points(found.difference), counts, outcome(found.difference)]


def _what(row: Row) -> str:
    options = row["options"]
    return (
        f"Checkpoint `{row['checkpoint']}` on {row['data']} ({row['classes']} classes), seed "
        f"{row['seed']}, {row['queries']} queries a class; its defaults are {options['steps']} "
        f"steps on weights and architecture and {options['tuning_steps']} on the pruned network's "
        "weights."
    )


def _adaptation(shapes: Sequence[str], find: Find) -> str:
    header = ["", "episodes", "accuracy, %", "architecture's lead, points", *COMPARED]
    lines = []
    for shape in shapes:
        both = find(shape, BOTH)
        for name, title in TITLES.items():
            row = find(shape, name)
            if row is None or both is None:
                continue
            lead = ["", "", ""] if row is both else compared(_between(both, row))
            first = f"{title_of(shape)}: {title}"
            accuracy = percent(mean_of(row["accuracy"]))
            lines.append([first, str(len(row["accuracy"])), accuracy, *lead])
    return table(header, lines)


def outcome(gain: Mean) -> str:
    """Name a difference by its interval: gain, loss, equivalent within `MARGIN`, inconclusive."""
    if gain.sign:
        return "gain" if gain.sign > 0 else "loss"
    return "equivalent" if abs(gain.mean) + gain.interval <= MARGIN else "inconclusive"


def _steps(still: Row, stepped: Mapping[int, Row]) -> str:
    header = [
        f"steps, {title_of(still['shape'])}",
        "episodes",
        "accuracy, %",
        "no step on these, %",
        "difference, points",
        *COMPARED,
        "edges moved",
    ]
    lines = []
    for steps, row in stepped.items():
        count = min(len(row["accuracy"]), len(still["accuracy"]))
        means = [percent(mean_of(each["accuracy"][:count])) for each in (row, still)]
        counts = compared(_between(row, still))
        moved = figure(float(np.mean(row["moved"])))
        lines.append([str(steps), str(count), *means, *counts, moved])
    return table(header, lines)


def _columns(shapes: Sequence[str], find: Find, names: Sequence[str], less: tuple[str, str]) -> str:
    titles = {
        "soft": "soft supernet, %",
        "pruned": "pruned, not tuned, %",
        "accuracy": "exported, %",
        "transductive": "transductive, %",
    }
    one, other = less
    difference = f"{one if one == 'soft' else 'transductive'} less exported, points"
    lines = []
    for shape in shapes:
        if row := find(shape, BOTH):
            means = [percent(mean_of(row[name])) for name in names]
            lead = compared(paired(row[one], row[other]))
            lines.append([title_of(shape), str(len(row["accuracy"])), *means, *lead])
    header = ["", "episodes", *(titles[name] for name in names), difference, *COMPARED]
    return table(header, lines)


def _size(shapes: Sequence[str], find: Find) -> str:
    header = ["", "models", "thousand parameters", "million MACs", "one query, ms"]
    lines = []
    for shape in shapes:
        for name in (BOTH, NONE):
            if row := find(shape, name):
                figures = [
                    ranged([value / scale for value in row[column]])
                    for column, scale in (("parameters", 1e3), ("macs", 1e6))
                ]
                seconds = row["query_seconds"]
                low, high = np.quantile(seconds, (0.25, 0.75))
                wide = f"{milliseconds(float(low))} to {milliseconds(float(high))}"
                latency = f"{milliseconds(median(seconds))} ({wide})"
                title = f"{title_of(shape)}: {TITLES[name]}"
                lines.append([title, str(len(seconds)), *figures, latency])
    return table(header, lines)


def ranged(values: Sequence[float]) -> str:
    """The median, and the extremes where they differ."""
    middle, low, high = map(figure, (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
