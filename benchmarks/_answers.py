"""The tables of docs/results.md and the sentences that say what is in them, made of stored rows.

Sentences follow from intervals alone: one setting is better than another where the 95 % interval of
their paired difference lies above zero.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from benchmarks._cells import cells
from benchmarks._plans import BOTH, NONE, PROBE, PRUNED, WEIGHTS, steps_of
from benchmarks._results import Results, Row, figure, milliseconds, table
from metanas.evaluation.compare import Comparison, paired
from metanas.evaluation.evaluate import Mean, mean_of

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
"""Equivalence margin: an interval within so much of zero shows that there is no larger effect."""
WORDS = ("**pays**", "**has no effect above 1 point**", "**is inconclusive**", "**does harm**")


def answers(results: Results) -> Mapping[str, str]:
    """All tables and sentences, by their names on the page."""
    shapes = list(dict.fromkeys(row["shape"] for row in results.rows))
    rows = {(row["shape"], row["setting"]): row for row in results.rows}
    stepped = {n: row for row in results.rows if (n := steps_of(row["setting"])) is not None}

    def find(shape: str, setting: str) -> Row | None:
        return rows.get((shape, setting))

    return {
        "what": _what(results.rows[0]),
        "adaptation": _adaptation(shapes, find),
        "adaptation-verdict": _adaptation_verdict(shapes, find),
        "steps": _steps(rows[shapes[0], NONE], stepped),
        "steps-verdict": _steps_verdict(rows[shapes[0], NONE], stepped),
        "gap": _columns(shapes, find, ("soft", "pruned", "accuracy"), ("soft", "accuracy")),
        "gap-verdict": _gap_verdict(shapes, find),
        "transduction": _columns(
            shapes, find, ("accuracy", "transductive"), ("transductive", "accuracy")
        ),
        "size": _size(shapes, find),
        **cells(shapes[0], find),
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


def _told(found: Comparison) -> tuple[Mean, str]:
    """A difference as `verdict` takes it."""
    return found.difference, f"{found.episodes} episodes"


def _counts(found: Comparison) -> list[str]:
    return [points(found.difference), f"{found.won} / {found.lost} / {found.tied}"]


def _what(row: Row) -> str:
    options = row["options"]
    return (
        f"Checkpoint `{row['checkpoint']}` on {row['data']} ({row['classes']} classes), seed "
        f"{row['seed']}, {row['queries']} queries a class; its defaults are {options['steps']} "
        f"steps on weights and architecture and {options['tuning_steps']} on the pruned network's "
        "weights."
    )


def _adaptation(shapes: Sequence[str], find: Find) -> str:
    header = ["", "episodes", "accuracy, %", "architecture's lead, points", "won / lost / tied"]
    lines = []
    for shape in shapes:
        both = find(shape, BOTH)
        for name, title in TITLES.items():
            row = find(shape, name)
            if row is None or both is None:
                continue
            lead = ["", ""] if row is both else _counts(_between(both, row))
            first = f"{title_of(shape)}: {title}"
            accuracy = percent(mean_of(row["accuracy"]))
            lines.append([first, str(len(row["accuracy"])), accuracy, *lead])
    return table(header, lines)


def _adaptation_verdict(shapes: Sequence[str], find: Find) -> str:
    sentences = []
    for other, what in (
        (WEIGHTS, "Adapting the architecture besides the weights"),
        (NONE, "Adapting weights and architecture instead of nothing"),
        (PROBE, "The same against a linear probe on the frozen network"),
    ):
        found = {}
        for shape in shapes:
            both, row = find(shape, BOTH), find(shape, other)
            if both and row:
                found[title_of(shape)] = _told(_between(both, row))
        sentences.append(verdict(what, found))
    return "\n".join(f"- {sentence}" for sentence in sentences)


def outcome(gain: Mean) -> str:
    """Name a gain by its interval: a gain, a loss, none beyond the margin, or inconclusive."""
    if gain.sign:
        return WORDS[0] if gain.sign > 0 else WORDS[3]
    return WORDS[1] if abs(gain.mean) + gain.interval <= MARGIN else WORDS[2]


def verdict(what: str, found: Mapping[str, tuple[Mean, str]]) -> str:
    """State in a sentence where something pays and where it does not.

    `found` has the gain at each place, and the number of measurements that it is the mean of.
    """
    parts = []
    for word in WORDS:
        where = [
            f"{name} ({points(gain)} points, {count})"
            for name, (gain, count) in found.items()
            if outcome(gain) == word
        ]
        if where:
            parts.append(f"{word} at {listed(where)}")
    return f"{what} {listed(parts)}." if parts else f"{what} was not measured."


def listed(items: Sequence[str]) -> str:
    """Items with commas and, at the end, "and"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _steps(still: Row, stepped: Mapping[int, Row]) -> str:
    header = [
        f"steps, {title_of(still['shape'])}",
        "episodes",
        "accuracy, %",
        "no step on these, %",
        "difference, points",
        "won / lost / tied",
        "edges moved",
    ]
    lines = []
    for steps, row in stepped.items():
        count = min(len(row["accuracy"]), len(still["accuracy"]))
        means = [percent(mean_of(each["accuracy"][:count])) for each in (row, still)]
        counts = _counts(_between(row, still))
        moved = figure(float(np.mean(row["moved"])))
        lines.append([str(steps), str(count), *means, *counts, moved])
    return table(header, lines)


def _steps_verdict(still: Row, stepped: Mapping[int, Row]) -> str:
    found = {f"{n} step{'s' * (n > 1)}": _told(_between(row, still)) for n, row in stepped.items()}
    return verdict("Against no step at all, adapting", found)


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
            lead = _counts(paired(row[one], row[other]))
            lines.append([title_of(shape), str(len(row["accuracy"])), *means, *lead])
    header = ["", "episodes", *(titles[name] for name in names), difference, "won / lost / tied"]
    return table(header, lines)


def _gap_verdict(shapes: Sequence[str], find: Find) -> str:
    rows = {title_of(shape): row for shape in shapes if (row := find(shape, BOTH))}
    pruning = {name: _told(paired(row["pruned"], row["soft"])) for name, row in rows.items()}
    tuning = {name: _told(paired(row["accuracy"], row["pruned"])) for name, row in rows.items()}
    return (
        f"- {verdict('Pruning the supernet', pruning)}\n"
        f"- {verdict('Tuning the weights after it', tuning)}"
    )


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
