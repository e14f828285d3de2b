"""Accuracy of a checkpoint's defaults, less that of the 100 steps of the MetaNAS paper.

    python -m metanas evaluate FOLDER --data DATA --out few.json
    python -m metanas evaluate FOLDER --data DATA --out many.json --set steps=100 --set patience=0
    python -m benchmarks.accuracy few.json many.json

The last command compares any two evaluations of a checkpoint on the same episodes, and keeps the
accuracy of each. It wants the machine and the revision that evaluated, for it writes them down.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks._answers import COMPARED, compared, percent
from benchmarks._machine import facts
from benchmarks._results import LOCAL, Results, Row, finish, table
from metanas.errors import MetanasError
from metanas.evaluation.compare import Comparison, compare, paired
from metanas_data.evaluations import StoredEvaluation, read_evaluation
from metanas_data.intervals import mean_of

TOPIC = "accuracy"
KEPT = ("checkpoint", "checkpoint_digest", "dataset", "split", "classes", "queries", "seed")
"""Settings of the first evaluation that go into a row."""


def row_of(one: StoredEvaluation, other: StoredEvaluation) -> Row:
    """Two evaluations as they are stored, on the episodes that both have.

    Raises:
        EvaluationError: they are not of the same episodes, or of fewer than two.
    """
    count = compare(one, other).episodes
    name, ways, shots = (one.settings[key] for key in ("checkpoint", "ways", "shots"))
    return {
        "case": f"{name}-{ways}w{shots}s",
        "title": f"{name}, {ways}-way {shots}-shot",
        **{key: one.settings[key] for key in KEPT},
        "options": [each.settings["options"] for each in (one, other)],
        "software": [each.settings["software"] for each in (one, other)],
        "accuracy": [each.column("accuracy")[:count] for each in (one, other)],
    }


def difference_of(row: Row) -> Comparison:
    """The accuracy of the first less that of the second."""
    one, other = row["accuracy"]
    return paired(one, other)


def tables(results: Results) -> dict[str, str]:
    """The table of all pairs."""
    header = ["", "episodes", "accuracy, %", "the first less this, points", *COMPARED]
    lines = []
    for row in results.rows:
        found = difference_of(row)
        less = ([""] * 3, compared(found))
        for options, accuracies, more in zip(row["options"], row["accuracy"], less, strict=True):
            title = f"{row['title']}, {options['steps']} + {options['tuning_steps']} steps"
            accuracy = percent(mean_of(accuracies))
            lines.append([title, str(found.episodes), accuracy, *more])
    return {"accuracy": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{TOPIC}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("one", type=Path, metavar="FEW.json", help="what `evaluate --out` wrote")
    made.add_argument("other", type=Path, metavar="MANY.json", help="likewise")
    made.add_argument("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    try:
        one, other = read_evaluation(options.one), read_evaluation(options.other)
        if one.settings["checkpoint_digest"] != other.settings["checkpoint_digest"]:
            made.error("these are of two checkpoints; evaluate one of them twice")
        row = row_of(one, other)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    finish(TOPIC, options, facts(), [row], tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
