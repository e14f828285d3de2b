"""The study of adaptation: its settings, its tables, and that it resumes."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.results import Results, load
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_data.intervals import Mean
from studies import adaptation
from studies.evaluations import BOTH, NONE, WEIGHTS, overrides_of
from studies.intervals import outcome
from tests.core.small import synthetic

OPTIONS = AdaptConfig(steps=2, tuning_steps=1, alpha_lr=0.5, weight_lr=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a data set."""
    folder = tmp_path_factory.mktemp("study")
    make_checkpoint(folder / "tiny", size=12, options=OPTIONS)
    classes = synthetic(6, 8, size=12)
    np.savez(
        folder / "data.npz",
        images=np.stack([images[:, 0] for images in classes.values()]),
        class_name=np.array(list(classes)),
        split=np.array(["val"] * 6),
    )
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--data", folder / "data.npz", "--checkpoint", folder / "tiny", "--scale", "0.01"]
    given += ["--shapes", "3x1", "--steps", "1", "30"]
    return [*map(str, given), "--work", str(folder / "work"), "--out", str(out), *more]


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    out = folder / "study" / "omniglot.json"
    assert adaptation.main(arguments(folder, out)) == 0
    return load(out)


def test_every_setting_meets_the_same_episodes(results: Results) -> None:
    assert {row["setting"] for row in results.rows} >= {BOTH, WEIGHTS, NONE, "steps-1", "steps-30"}
    for row in results.rows:
        assert len(row["accuracy"]) >= 2
        assert all(0 <= value <= 1 for value in row["accuracy"])
    rows = {row["setting"]: row for row in results.rows}
    assert set(rows[WEIGHTS]["moved"]) == {0}
    assert max(rows[BOTH]["moved"]) > 0
    assert rows[NONE]["options"]["steps"] == 0
    assert rows["steps-30"]["options"] == {**OPTIONS.to_dict(), "steps": 30, "patience": 0}


def test_tables_show_the_stored_settings(results: Results, folder: Path) -> None:
    tables = adaptation.tables(load(folder / "study" / "omniglot.json"))
    assert all(len(text.splitlines()) > 2 for text in tables.values())
    titles = [line.split("|")[1].strip() for line in tables["adaptation"].splitlines()[2:]]
    assert titles == [f"3-way 1-shot: {title}" for title in adaptation.TITLES.values()]
    assert [line.split()[1] for line in tables["steps"].splitlines()[2:]] == ["1", "30"]


def test_it_goes_on_where_it_was_interrupted(results: Results, folder: Path) -> None:
    work = folder / "work"
    journal = work / "tiny-3x1-both.json.journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # killed while writing the last
    times = {path: path.stat().st_mtime_ns for path in work.glob("*.jsonl") if path != journal}
    out = folder / "again.json"
    assert adaptation.main(arguments(folder, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    again = load(out)
    assert [row["accuracy"] for row in again.rows] == [row["accuracy"] for row in results.rows]
    assert [row["genotype"] for row in again.rows] == [row["genotype"] for row in results.rows]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--shapes", "3"], "OPTION_OUT_OF_RANGE"),
        (["--shapes", "3x1", "20x1"], "DATASET_TOO_FEW_CLASSES"),
        (["--checkpoint", "nowhere"], "CHECKPOINT_MISSING"),
        (["--data", "nowhere.npz"], "DATASET_MISSING"),
        (["--seed", "7"], "EVALUATION_SETTINGS"),
    ],
)
def test_bad_input_shows_before_anything_runs(
    results: Results,
    folder: Path,
    more: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "work").iterdir()}
    assert adaptation.main(arguments(folder, folder / "no.json", *more)) == 2
    assert f"[{reason}]" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "work").iterdir()} == before


@pytest.mark.parametrize(
    ("gain", "name"),
    [
        (Mean(0.325, 0.1), "gain"),
        (Mean(-0.31, 0.1), "loss"),
        (Mean(0.001, 0.009), "equivalent"),
        (Mean(0.0, 0.0), "equivalent"),
        (Mean(0.0, 0.1), "inconclusive"),
        (Mean(-0.116, 0.132), "inconclusive"),
    ],
)
def test_an_outcome_follows_from_the_interval(gain: Mean, name: str) -> None:
    assert outcome(gain) == name


def test_weights_alone_keep_the_architecture_and_none_takes_no_step() -> None:
    assert OPTIONS.replace(overrides_of(WEIGHTS, OPTIONS)).alpha_lr == 0
    pruned = OPTIONS.replace(overrides_of("pruned", OPTIONS))
    assert (pruned.steps, pruned.tuning_steps) == (0, 3)


def test_the_stored_study_has_each_genotype_once(results: Results) -> None:
    for row in results.rows:
        texts = [json.dumps(kind) for kind in row["genotypes"]]
        assert len(texts) == len(set(texts))
        assert set(row["genotype"]) == set(range(len(texts)))
