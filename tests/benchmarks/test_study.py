"""The study: what it runs, that it goes on, what it says, and that it says what is stored."""

import fcntl
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import page, study
from benchmarks._answers import outcome
from benchmarks._plans import BOTH, NONE, WEIGHTS, overrides_of
from benchmarks._probe import probe
from benchmarks._results import Results, load
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_data.intervals import Mean
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
    assert study.main(arguments(folder, out)) == 0
    return load(out)


def test_every_setting_meets_the_same_episodes(results: Results) -> None:
    assert {row["setting"] for row in results.rows} >= {BOTH, WEIGHTS, NONE, "steps-1", "steps-30"}
    for row in results.rows:
        assert len(row["accuracy"]) >= 2
        assert all(0 <= value <= 1 for value in row["accuracy"])
    found = {row["setting"]: row for row in results.rows}
    assert set(found[WEIGHTS]["moved"]) == {0}
    assert max(found[BOTH]["moved"]) > 0
    assert found[NONE]["options"]["steps"] == 0
    assert found["steps-30"]["options"] == {**OPTIONS.to_dict(), "steps": 30, "patience": 0}


def test_the_page_is_made_of_what_was_stored(
    results: Results, folder: Path, tmp_path: Path
) -> None:
    written = tmp_path / "docs" / "results.md"
    written.parent.mkdir()
    blocks = [f"<!-- study/omniglot {name} -->\n<!-- / -->\n" for name in study.tables(results)]
    written.write_text("\n".join(blocks), encoding="utf-8")
    call = [str(folder / "study" / "omniglot.json"), "--page", str(written)]
    page.main(call)
    page.main([*call, "--check"])
    text = written.read_text(encoding="utf-8")
    for name, content in study.tables(results).items():
        assert content in text, name
    assert not re.search(r"<!-- study/omniglot \S+ -->\n<!-- / -->", text)
    another = text.replace(study.tables(results)["steps"], "| by hand |")
    written.write_text(another, encoding="utf-8")
    with pytest.raises(SystemExit, match="not what the results say"):
        page.main([*call, "--check"])


def test_it_goes_on_where_it_was_interrupted(results: Results, folder: Path) -> None:
    work = folder / "work"
    journal = work / "tiny-3x1-both.json.journal.jsonl"
    kept = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(kept[:-1]) + kept[-1][:20])  # killed while writing the last
    times = {path: path.stat().st_mtime_ns for path in work.glob("*.jsonl") if path != journal}
    out = folder / "again.json"
    assert study.main(arguments(folder, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    again = load(out)
    assert [row["accuracy"] for row in again.rows] == [row["accuracy"] for row in results.rows]
    assert [row["genotype"] for row in again.rows] == [row["genotype"] for row in results.rows]


def test_two_processes_share_the_work(
    results: Results, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "shared.json"
    with (folder / "work" / "tiny-3x1-none.json.journal.jsonl").open("rb") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        assert study.main(arguments(folder, out)) == 3
    assert "another process is at tiny-3x1-none" in capsys.readouterr().out
    assert not out.exists()


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
def test_what_is_wrong_shows_before_anything_is_run(
    results: Results,
    folder: Path,
    more: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "work").iterdir()}
    assert study.main(arguments(folder, folder / "no.json", *more)) == 2
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


def test_the_probe_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression  # slow to import

    random = torch.Generator().manual_seed(0)
    support, queries = torch.randn(12, 6, generator=random), torch.randn(40, 6, generator=random)
    labels = torch.arange(3).repeat(4)
    support += 2 * torch.eye(6)[labels]
    unit = torch.nn.functional.normalize
    reference = LogisticRegression(C=1.0, tol=1e-8).fit(
        unit(support - support.mean(0), dim=1).numpy(), labels.numpy()
    )
    expected = reference.predict(unit(queries - support.mean(0), dim=1).numpy())
    assert probe(support, labels, queries).tolist() == expected.tolist()


def test_the_stored_study_has_each_genotype_once(results: Results) -> None:
    for row in results.rows:
        texts = [json.dumps(kind) for kind in row["genotypes"]]
        assert len(texts) == len(set(texts))
        assert set(row["genotype"]) == set(range(len(texts)))
