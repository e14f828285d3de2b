"""Store the accuracy of a shipped checkpoint's exported models on many episodes.

    python -m metanas evaluate meta_checkpoints/omniglot --data data/omniglot_28.npz --out 5w1s.json
    python -m studies.shipped meta_checkpoints/omniglot 5w1s.json ... --out shipped/omniglot.json

With `--frozen`, evaluations of class prototypes on the frozen trunk, from the folder --work of
`studies.adaptation`, are compared with those of the whole model on the same episodes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.machine import facts
from benchmarks.harness.results import Results, Row, publish
from benchmarks.harness.tables import table
from metanas.errors import MetanasError
from metanas.evaluation.compare import paired
from metanas.evaluation.scores import check_scorable
from metanas.spec.card import CheckpointCard, read_card
from metanas_data.errors import EvaluationError
from metanas_data.evaluations import read_evaluation
from metanas_data.intervals import mean_of
from studies.evaluations import LOCAL, command, refused
from studies.intervals import COMPARED, compared, percent

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
"""End of a data set's name in which turned classes are classes of their own."""
FROZEN = {"trunk_only": True}
"""Options that mark a row of the frozen trunk."""


def row_of(card: CheckpointCard, path: Path, *, frozen: bool = False) -> Row:
    """Store an evaluation as a row.

    Raises:
        EvaluationError: it does not fit the checkpoint's card (`metanas.evaluation.scores`).
    """
    stored = read_evaluation(path)
    if not frozen:
        check_scorable(card, stored, path)
    figures = {name: stored.column(figure) for name, figure in COLUMNS.items()}
    row = {**stored.settings, **figures}
    if frozen and figures["bytes"]:
        message = f"{path} is of a whole model; name it without --frozen"
        raise EvaluationError("EVALUATION_SETTINGS", message)
    return {**row, "options": FROZEN} if frozen else row


def is_frozen(row: Row) -> bool:
    """Return True for a row of the frozen trunk."""
    return bool(row["options"].get("trunk_only"))


def tables(results: Results) -> dict[str, str]:
    """Make the tables of accuracies, and of the lead over the frozen trunk."""
    rows = [row for row in results.rows if not is_frozen(row)]
    rows.sort(key=lambda row: (row["dataset"], -row["ways"], row["shots"]))
    frozen = [row for row in results.rows if is_frozen(row)]
    made = {"accuracy": _accuracies(rows)}
    return {**made, "frozen": _against_frozen(rows, frozen)} if frozen else made


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


def _against_frozen(rows: Sequence[Row], frozen: Sequence[Row]) -> str:
    """Compare rows with those of the frozen trunk on the same episodes."""
    same = ("dataset_digest", "ways", "shots", "queries", "seed")
    controls = {tuple(row[key] for key in same): row for row in frozen}
    header = ["", "frozen trunk, %", "adapted, %", "difference, points", *COMPARED, "episodes"]
    lines = []
    for row in rows:
        if control := controls.get(tuple(row[key] for key in same)):
            count = min(len(row["accuracy"]), len(control["accuracy"]))
            ours, theirs = row["accuracy"][:count], control["accuracy"][:count]
            means = [percent(mean_of(theirs)), percent(mean_of(ours))]
            lines.append([_title(row), *means, *compared(paired(ours, theirs)), str(count)])
    return table(header, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    made = command(TOPIC, __doc__)
    add = made.add_argument
    add("checkpoint", type=Path, help="its folder")
    add("evaluations", type=Path, nargs="+", metavar="FILE", help="evaluations of it")
    add("--frozen", type=Path, nargs="+", default=[], metavar="FILE", help="of the frozen trunk")
    add("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    try:
        card = read_card(options.checkpoint)
        rows = [row_of(card, path) for path in options.evaluations]
        rows += [row_of(card, path, frozen=True) for path in options.frozen]
    except MetanasError as error:
        return refused(error)
    publish(Results(TOPIC, facts(), rows), options.out, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
