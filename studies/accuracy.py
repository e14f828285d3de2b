"""Compare the accuracy of a checkpoint's defaults with the 100 steps of the MetaNAS paper.

    metanas evaluate --local FOLDER --data DATA --out few.json
    metanas evaluate --local FOLDER --data DATA --out many.json --set steps=100 --set patience=0
    python -m studies.accuracy few.json many.json

The last command compares any two evaluations of a checkpoint on the same episodes, and stores the
accuracy of each. Run it on the machine and at the revision of the evaluations: it stores both.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.machine import facts
from benchmarks.harness.results import Results, Row, publish
from benchmarks.harness.tables import table
from metanas.errors import MetanasError
from metanas.evaluation.compare import compare, paired
from metanas_data.evaluations import StoredEvaluation, read_evaluation
from metanas_data.intervals import mean_of
from studies.evaluations import LOCAL, command, refused
from studies.intervals import COMPARED, compared, percent

TOPIC = "accuracy"
SETTINGS = ("checkpoint", "checkpoint_digest", "dataset", "split", "classes", "queries", "seed")
"""Settings of the first evaluation that are stored."""


def row_of(one: StoredEvaluation, other: StoredEvaluation) -> Row:
    """Store two evaluations as a row, on the episodes that both have.

    Raises:
        EvaluationError: their episodes are not the same, or fewer than two.
    """
    count = compare(one, other).episodes
    name, ways, shots = (one.settings[key] for key in ("checkpoint", "ways", "shots"))
    return {
        "case": f"{name}-{ways}w{shots}s",
        "title": f"{name}, {ways}-way {shots}-shot",
        **{key: one.settings[key] for key in SETTINGS},
        "options": [each.settings["options"] for each in (one, other)],
        "software": [each.settings["software"] for each in (one, other)],
        "accuracy": [each.column("accuracy")[:count] for each in (one, other)],
    }


def tables(results: Results) -> dict[str, str]:
    """Make the table of all pairs."""
    header = ["", "episodes", "accuracy, %", "the first less this, points", *COMPARED]
    lines = []
    for row in results.rows:
        comparison = paired(*row["accuracy"])
        less = ([""] * 3, compared(comparison))
        for options, accuracies, more in zip(row["options"], row["accuracy"], less, strict=True):
            title = f"{row['title']}, {options['steps']} + {options['tuning_steps']} steps"
            accuracy = percent(mean_of(accuracies))
            lines.append([title, str(comparison.episodes), accuracy, *more])
    return {"accuracy": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    made.add_argument("one", type=Path, metavar="FEW.json", help="a file of `evaluate --out`")
    made.add_argument("other", type=Path, metavar="MANY.json", help="another one")
    made.add_argument("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    try:
        one, other = read_evaluation(options.one), read_evaluation(options.other)
        if one.settings["checkpoint_digest"] != other.settings["checkpoint_digest"]:
            made.error("these are of two checkpoints; evaluate one of them twice")
        row = row_of(one, other)
    except MetanasError as error:
        return refused(error)
    publish(Results(TOPIC, facts(), [row]), options.out, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
