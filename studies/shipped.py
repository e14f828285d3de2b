"""Store the accuracy of a shipped checkpoint's exported models on many episodes.

metanas evaluate --local meta_checkpoints/omniglot --data data/omniglot_28.npz --out 5w1s.json
python -m studies.shipped meta_checkpoints/omniglot 5w1s.json ... --out shipped/omniglot.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.machine import facts
from benchmarks.harness.results import Results, Row, publish
from benchmarks.harness.tables import table
from metanas.errors import MetanasError
from metanas.evaluation.scores import check_scorable
from metanas.spec.card import CheckpointCard, read_card
from metanas_data.evaluations import read_evaluation
from metanas_data.intervals import mean_of
from studies.evaluations import LOCAL, command, refused
from studies.intervals import percent

TOPIC = "shipped"
COLUMNS = {
    "accuracy": "accuracy",
    "pruned": "accuracy_pruned",
    "soft": "accuracy_soft",
    "moved": "meta_genotype_distance",
    "bytes": "bytes",
}
"""Column of a row -> figure of a record."""
TURNED = " with rotations"
"""End of the name of a data set in which turned classes are separate classes."""


def row_of(card: CheckpointCard, path: Path) -> Row:
    """Store an evaluation as a row.

    Raises:
        EvaluationError: it does not fit the checkpoint's card (`metanas.evaluation.scores`).
    """
    stored = read_evaluation(path)
    check_scorable(card, stored, path)
    figures = {name: stored.column(figure) for name, figure in COLUMNS.items()}
    return {**stored.settings, **figures}


def tables(results: Results) -> dict[str, str]:
    """Make the table of accuracies."""
    rows = sorted(results.rows, key=lambda row: (row["dataset"], -row["ways"], row["shots"]))
    return {"accuracy": _accuracies(rows)}


def _title(row: Row) -> str:
    return f"{row['dataset']}, {row['ways']}-way {row['shots']}-shot"


def _accuracies(rows: Sequence[Row]) -> str:
    turned = {_title(row): row for row in rows if row["dataset"].endswith(TURNED)}
    header = ["exported file, validation classes", "accuracy, %", "episodes"]
    header += ["with turned classes, %", "episodes"] * bool(turned) + ["file, KiB"]
    lines = []
    for row in (row for row in rows if not row["dataset"].endswith(TURNED)):
        line = [_title(row), *_accuracy(row)]
        if turned:
            line += _accuracy(turned.get(_title({**row, "dataset": row["dataset"] + TURNED})))
        lines.append([*line, f"{median(row['bytes']) / 1024:,.0f}"])
    return table(header, lines)


def _accuracy(row: Row | None) -> list[str]:
    if row is None:
        return ["not measured", ""]
    return [percent(mean_of(row["accuracy"])), str(len(row["accuracy"]))]


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add = made.add_argument
    add("checkpoint", type=Path, help="its folder")
    add("evaluations", type=Path, nargs="+", metavar="FILE", help="evaluations of it")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    try:
        card = read_card(options.checkpoint)
        rows = [row_of(card, path) for path in options.evaluations]
    except MetanasError as error:
        return refused(error)
    publish(Results(TOPIC, facts(), rows), options.out, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
