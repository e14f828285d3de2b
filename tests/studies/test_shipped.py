"""Evaluations of a shipped checkpoint become rows and tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.machine import ROOT
from benchmarks.harness.results import Results, load
from metanas.spec.card import read_card
from metanas_data.intervals import mean_of
from studies import shipped
from tests.studies import evaluated

CHECKPOINT = ROOT / "meta_checkpoints" / "omniglot"
CARD = read_card(CHECKPOINT)
SHIPPED = sorted(path.parent for path in ROOT.glob("meta_checkpoints/*/checkpoint.json"))
FIGURES = {
    "accuracy_pruned": 0.5,
    "accuracy_soft": 0.75,
    "bytes": 2048,
    "meta_genotype_distance": 1,
}


def evaluation(
    path: Path,
    accuracies: Sequence[float],
    *,
    steps: int = CARD.defaults.steps,
    **changes: Any,
) -> str:
    """Write an evaluation at the defaults but for these steps; return its path."""
    options = {**CARD.defaults.to_dict(), "steps": steps}
    changes = {"checkpoint_digest": CARD.digest, **changes}
    return evaluated.evaluation(path, accuracies, options, FIGURES, **changes)


def stored(folder: Path, *evaluations: str) -> Results:
    out = folder / "shipped" / "omniglot.json"
    assert shipped.main([str(CHECKPOINT), *evaluations, "--out", str(out)]) == 0
    return load(out)


def cells(text: str) -> list[list[str]]:
    """The rows of a table, without its head."""
    lines = [line.strip("|").split("|") for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


def test_shapes_are_beside_their_like_with_turned_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = "omniglot_28.npz with rotations"
    results = stored(
        tmp_path,
        evaluation(tmp_path / "a", [0.9, 0.7]),
        evaluation(tmp_path / "b", [0.6, 0.6, 0.6], ways=20),
        evaluation(tmp_path / "c", [1.0, 1.0], dataset=turned),
    )
    tables = shipped.tables(results)
    assert cells(tables["accuracy"]) == [
        ["omniglot_28.npz, 20-way 1-shot", "60.00 ± 0.00", "3", "not measured", "", "2"],
        ["omniglot_28.npz, 5-way 1-shot", "80.00 ± 127.06", "2", "100.00 ± 0.00", "2", "2"],
    ]
    assert tables["accuracy"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("accuracies", "changes", "reason"),
    [
        ([0.9, 0.7], {"checkpoint_digest": "other"}, "EVALUATION_SETTINGS"),
        ([0.9, 0.7], {"steps": 99}, "EVALUATION_SETTINGS"),
        ([0.9], {}, "TOO_FEW_EPISODES"),
    ],
)
def test_an_evaluation_that_does_not_fit_the_card_is_refused(
    accuracies: Sequence[float],
    changes: dict[str, Any],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = evaluation(tmp_path / "a", accuracies, **changes), tmp_path / "out.json"
    assert shipped.main([str(CHECKPOINT), path, "--out", str(out)]) == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_scores_of_a_card_are_the_stored_ones(folder: Path) -> None:
    """A server and the pages give the same figures of a checkpoint."""
    rows = load(ROOT / "studies" / "results" / "shipped" / f"{folder.name}.json").rows
    scores = {}
    for row in rows:
        mean = mean_of(row["accuracy"])
        scores[f"{row['ways']}-way {row['shots']}-shot, {row['dataset']} {row['split']}"] = {
            "accuracy": round(100 * mean.mean, 2),
            "interval95": round(100 * mean.interval, 2),
            "episodes": float(len(row["accuracy"])),
        }
    assert read_card(folder).scores == scores
