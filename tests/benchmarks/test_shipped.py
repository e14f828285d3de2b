"""Evaluations of a shipped checkpoint become rows, tables, and blocks on several pages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, shipped
from benchmarks._machine import ROOT
from benchmarks._results import Results, load, save
from metanas.spec.card import read_card
from metanas_data.intervals import mean_of
from tests.benchmarks import evaluated

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
    frozen: bool = False,
    steps: int = CARD.defaults.steps,
    **changes: Any,
) -> str:
    """Of the frozen trunk alone, or of all; returns its path."""
    options = {**CARD.defaults.to_dict(), "trunk_only": frozen, "steps": steps}
    changes = {"checkpoint_digest": CARD.digest, **changes}
    return evaluated.evaluation(path, accuracies, options, FIGURES, **changes)


def kept(folder: Path, *evaluations: str) -> Results:
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
    results = kept(
        tmp_path,
        evaluation(tmp_path / "a", [0.9, 0.7]),
        evaluation(tmp_path / "b", [0.6, 0.6, 0.6], ways=20),
        evaluation(tmp_path / "c", [1.0, 1.0], dataset=turned),
    )
    found = shipped.tables(results)
    assert cells(found["accuracy"]) == [
        ["omniglot_28.npz, 20-way 1-shot", "60.00 ± 0.00", "3", "not measured", "", "2"],
        ["omniglot_28.npz, 5-way 1-shot", "80.00 ± 127.06", "2", "100.00 ± 0.00", "2", "2"],
    ]
    assert cells(found["stages"])[0] == [
        "omniglot_28.npz, 20-way 1-shot",
        "75.00 ± 0.00",
        "50.00 ± 0.00",
        "60.00 ± 0.00",
        "+15.00 ± 0.00",
        "+10.00 ± 0.00",
        "1.00",
        "3",
    ]
    assert "frozen" not in found
    assert found["accuracy"] in capsys.readouterr().out


def test_what_is_gained_on_the_frozen_trunk_is_paired(tmp_path: Path) -> None:
    results = kept(
        tmp_path,
        evaluation(tmp_path / "a", [0.9, 0.7, 0.1]),
        evaluation(tmp_path / "b", [0.8, 0.6], frozen=True),
        evaluation(tmp_path / "c", [0.8, 0.6], frozen=True, shots=5),
        evaluation(tmp_path / "d", [0.8, 0.6], shots=5, dataset_digest="of other images"),
    )
    found = shipped.tables(results)
    assert cells(found["frozen"]) == [
        [
            "omniglot_28.npz, 5-way 1-shot",
            "70.00 ± 127.06",
            "80.00 ± 127.06",
            "+10.00 ± 0.00",
            "2/0/0",
            "gain",
            "2",
        ]
    ]
    assert len(cells(found["accuracy"])) == 2


def test_every_page_with_a_block_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, evaluation(tmp_path / "a", [0.9, 0.7]))
    block = "<!-- shipped/omniglot accuracy -->\n<!-- / -->\n"
    pages = [tmp_path / name for name in ("one.md", "two.md", "three.md")]
    for path, text in zip(pages, (block, "nothing", block), strict=True):
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(page, "PAGES", {shipped.TOPIC: pages})
    page.main([str(tmp_path / "shipped" / "omniglot.json")])
    assert ["80.00 ± 127.06" in path.read_text(encoding="utf-8") for path in pages] == [
        True,
        False,
        True,
    ]


def test_what_was_kept_stays_until_it_is_made_anew(tmp_path: Path) -> None:
    few = evaluation(tmp_path / "few", [0.5, 0.5])
    more = evaluation(tmp_path / "more", [0.5, 0.5, 0.5])
    other = evaluation(tmp_path / "other", [0.5, 0.5], shots=5)
    kept(tmp_path, few, other)
    results = kept(tmp_path, more)
    assert [(row["shots"], len(row["accuracy"])) for row in results.rows] == [(1, 3), (5, 2)]


def test_of_another_checkpoint_nothing_is_kept(tmp_path: Path) -> None:
    results = kept(tmp_path, evaluation(tmp_path / "a", [0.9, 0.7]))
    foreign = [{**row, "checkpoint_digest": "of one before", "shots": 5} for row in results.rows]
    save(replace(results, rows=foreign), tmp_path / "shipped" / "omniglot.json")
    results = kept(tmp_path, evaluation(tmp_path / "b", [0.9, 0.7]))
    assert [row["shots"] for row in results.rows] == [1]


@pytest.mark.parametrize(
    ("accuracies", "changes", "reason"),
    [
        ([0.9, 0.7], {"checkpoint_digest": "other"}, "EVALUATION_SETTINGS"),
        ([0.9, 0.7], {"steps": 99}, "EVALUATION_SETTINGS"),
        ([0.9], {}, "TOO_FEW_EPISODES"),
    ],
)
def test_what_a_card_would_not_tell_is_refused(
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
def test_a_cards_scores_are_those_that_were_kept(folder: Path) -> None:
    """What a server tells of a checkpoint is what the pages tell."""
    rows = load(ROOT / "benchmarks" / "results" / "shipped" / f"{folder.name}.json").rows
    told = {}
    for row in rows:
        if not row["options"].get("trunk_only"):
            found = mean_of(row["accuracy"])
            told[f"{row['ways']}-way {row['shots']}-shot, {row['dataset']} {row['split']}"] = {
                "accuracy": round(100 * found.mean, 2),
                "interval95": round(100 * found.interval, 2),
                "episodes": float(len(row["accuracy"])),
            }
    assert read_card(folder).scores == told
