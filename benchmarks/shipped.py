"""What the shipped checkpoints come to: their exported models' accuracy on many episodes.

    python -m metanas evaluate meta_checkpoints/omniglot --data data/omniglot_28.npz --out 5w1s.json
    python -m metanas evaluate meta_checkpoints/photos --data ... --out a.json
    python -m benchmarks.shipped meta_checkpoints/photos a.json ... --out shipped/photos.json

The last command keeps the figures of every episode beside those that it kept before of the same
checkpoint. Where one was evaluated with its frozen trunk alone, too, it is compared with that, on
the same episodes.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median

from benchmarks._answers import COMPARED, compared, percent, points
from benchmarks._machine import facts
from benchmarks._results import LOCAL, Results, Row, finish, load, table
from metanas.errors import MetanasError
from metanas.evaluation.compare import paired
from metanas.evaluation.scores import check_scorable
from metanas.spec.card import CheckpointCard, read_card
from metanas_data.evaluations import read_evaluation
from metanas_data.intervals import mean_of

TOPIC = "shipped"
KEPT = (
    "checkpoint",
    "checkpoint_digest",
    "dataset",
    "dataset_digest",
    "split",
    "classes",
    "ways",
    "shots",
    "queries",
    "seed",
    "options",
    "software",
)
"""Settings of an evaluation that go into its row."""
COLUMNS = {
    "accuracy": "accuracy",
    "pruned": "accuracy_pruned",
    "soft": "accuracy_soft",
    "moved": "meta_genotype_distance",
    "bytes": "bytes",
}
"""Column of a row -> figure of a record."""
TURNED = " with rotations"
"""The end of a data set's name where turned classes are classes of their own."""
SAME = ("dataset", "dataset_digest", "split", "ways", "shots", "queries", "seed", "options")
"""What two rows of a checkpoint have in common if one takes the other's place."""


def row_of(card: CheckpointCard, path: Path) -> Row:
    """An evaluation as it is kept.

    Raises:
        EvaluationError: the checkpoint's card would not name it (`metanas.evaluation.scores`).
    """
    stored = read_evaluation(path)
    check_scorable(card, stored, path)
    settings = {key: stored.settings[key] for key in KEPT}
    return {**settings, **{name: stored.column(figure) for name, figure in COLUMNS.items()}}


def beside(rows: Sequence[Row], kept: Sequence[Row]) -> list[Row]:
    """New rows, and those that were kept of the same checkpoint and have not been made anew."""
    digests = {row["checkpoint_digest"] for row in rows}
    places = [{key: row[key] for key in SAME} for row in rows]
    return [
        *rows,
        *(
            row
            for row in kept
            if row["checkpoint_digest"] in digests and {key: row[key] for key in SAME} not in places
        ),
    ]


def tables(results: Results) -> Mapping[str, str]:
    """Accuracies by shape, and where there is a frozen trunk, what is gained on it."""
    whole = [row for row in results.rows if not _frozen(row)]
    whole.sort(key=lambda row: (row["dataset"], -row["ways"], row["shots"]))
    found = {"accuracy": _accuracies(whole), "stages": _stages(whole)}
    if pairs := list(_pairs(whole, results.rows)):
        found["frozen"] = _against_frozen(pairs)
    return found


def _shape(row: Row) -> str:
    return f"{row['ways']}-way {row['shots']}-shot"


def _accuracies(rows: Sequence[Row]) -> str:
    turned = {_place(row): row for row in rows if row["dataset"].endswith(TURNED)}
    header = ["exported file, validation classes", "accuracy, %", "episodes"]
    header += ["with turned classes, %", "episodes"] * bool(turned) + ["file, KiB"]
    lines = []
    for row in (row for row in rows if not row["dataset"].endswith(TURNED)):
        cells = [f"{row['dataset']}, {_shape(row)}", *_accuracy(row)]
        if turned:
            cells += _accuracy(turned.get(_place(row)))
        lines.append([*cells, f"{median(row['bytes']) / 1024:,.0f}"])
    return table(header, lines)


def _place(row: Row) -> tuple[str, int, int]:
    return row["dataset"].removesuffix(TURNED), row["ways"], row["shots"]


def _accuracy(row: Row | None) -> list[str]:
    if row is None:
        return ["not measured", ""]
    return [percent(mean_of(row["accuracy"])), str(len(row["accuracy"]))]


def _stages(rows: Sequence[Row]) -> str:
    header = ["", "soft supernet, %", "pruned, not tuned, %", "exported, %"]
    header += ["soft less exported, points", "gained by tuning, points", "edges moved", "episodes"]
    lines = []
    for row in rows:
        gap = paired(row["soft"], row["accuracy"]).difference
        tuned = paired(row["accuracy"], row["pruned"]).difference
        means = [percent(mean_of(row[name])) for name in ("soft", "pruned", "accuracy")]
        moved, count = f"{mean(row['moved']):.2f}", str(len(row["accuracy"]))
        differences = [points(gap), points(tuned)]
        lines.append([f"{row['dataset']}, {_shape(row)}", *means, *differences, moved, count])
    return table(header, lines)


def _frozen(row: Row) -> bool:
    """Return True for the frozen trunk alone, measured with an option of earlier revisions."""
    return bool(row["options"].get("trunk_only"))


def _pairs(whole: Sequence[Row], rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Rows with their likes of the frozen trunk alone."""
    alike = ("dataset_digest", "ways", "shots", "queries", "seed")
    frozen = {tuple(row[key] for key in alike): row for row in rows if _frozen(row)}
    for row in whole:
        if (key := tuple(row[name] for name in alike)) in frozen:
            yield row, frozen[key]


def _against_frozen(pairs: Sequence[tuple[Row, Row]]) -> str:
    header = ["", "frozen trunk, %", "adapted, %", "difference, points", *COMPARED]
    lines = []
    for row, frozen in pairs:
        count = min(len(row["accuracy"]), len(frozen["accuracy"]))
        one, other = row["accuracy"][:count], frozen["accuracy"][:count]
        found = paired(one, other)
        means = [percent(mean_of(other)), percent(mean_of(one))]
        title = f"{row['dataset']}, {_shape(row)}"
        lines.append([title, *means, *compared(found), str(count)])
    return table([*header, "episodes"], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{TOPIC}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("checkpoint", type=Path, help="its folder")
    made.add_argument("evaluations", type=Path, nargs="+", metavar="FILE", help="of it")
    made.add_argument("--out", type=Path, default=LOCAL / f"{TOPIC}.json", help="%(default)s")
    options = made.parse_args(arguments)
    try:
        card = read_card(options.checkpoint)
        rows = [row_of(card, path) for path in options.evaluations]
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    kept = load(options.out).rows if options.out.exists() else []
    finish(TOPIC, options, facts(), beside(rows, kept), tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
