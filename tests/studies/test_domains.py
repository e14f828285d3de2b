"""A checkpoint against logistic regression on a frozen trunk, over many data sets."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from benchmarks.harness.results import Results, load
from metanas.checkpoint import Checkpoint, save_checkpoint
from metanas.evaluation.resume import Plan
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_data.datasets.dataset import Dataset, Image
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from studies import domains

QUIET = AdaptConfig(steps=0, tuning_steps=0, head="ridge")


def images(classes: int, count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noisy photographs of a few classes, `(classes, count, 20, 20, 3)`."""
    random = np.random.default_rng(seed)
    patterns = random.uniform(0, 155, (classes, 1, 20, 20, 3))
    return (patterns + random.uniform(0, 100, (classes, count, 20, 20, 3))).astype(np.uint8)


def dataset(classes: int, count: int) -> Dataset:
    pictures = enumerate(images(classes, count))
    return Dataset(name="p.npz", split=None, classes={str(n): tuple(each) for n, each in pictures})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packs, one with splits; one of few images; and checkpoints with trunks."""
    folder = tmp_path_factory.mktemp("domains")
    names = np.array(list("abcdefgh"))
    split = np.array(["val"] * 4 + ["train"] * 4)
    np.savez(folder / "one.npz", images=images(8, 5), class_name=names, split=split)
    np.savez(folder / "two.npz", images=images(4, 5, seed=1), class_name=names[:4])
    np.savez(folder / "few.npz", images=images(4, 1), class_name=names[:4])
    pooled(folder / "views")
    checkpoint = pooled(folder / "quiet")
    card = replace(checkpoint.card, views=0)
    net, params, trunk = checkpoint.supernet, checkpoint.params, checkpoint.trunk
    save_checkpoint(folder / "quiet", card, net, params, trunk)
    make_checkpoint(folder / "cells", channels=3, options=QUIET)
    return folder


def pooled(folder: Path) -> Checkpoint:
    pools = ((1, 2), (3, 1))
    return make_checkpoint(folder, channels=3, size=32, trunk=True, pools=pools, options=QUIET)


def study(folder: Path, name: str, *more: str) -> Results:
    """Run the study on a checkpoint; return what it stored."""
    out = folder / "out" / f"{name}.json"
    given = [folder / name, "--data", folder, "--work", folder / "work", "--out", out]
    given += ["--packs", "one", "two", "few", "--shapes", "3x1", "--queries", "2"]
    assert domains.main([*map(str, given), *more]) == 0
    return load(out)


def test_answers_from_stored_outputs_are_those_of_exported_files(folder: Path) -> None:
    results = study(folder, "quiet", "--episodes", "3")
    assert [row["dataset"] for row in results.rows] == ["one.npz", "two.npz"]
    assert [(row["split"], row["classes"]) for row in results.rows] == [("val", 4), (None, 4)]
    for row in results.rows:
        assert len(row["accuracy"]) == len(row["control"]) == 3
        assert row["other"] == [0, 0], "the first two episodes are exported too"
        assert max(row["off"]) < 1e-4


def test_calibrated_files_are_compared_as_well(folder: Path) -> None:
    apart = ["--work", str(folder / "calibrated"), "--episodes", "2"]
    for row in study(folder, "quiet", "--shapes", "3x3", *apart).rows:
        assert row["shots"] == 3
        assert max(row["off"]) < 1e-4


def test_the_evaluations_resume_and_those_of_the_control_serve_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = study(folder, "quiet", "--episodes", "3")
    more = study(folder, "quiet", "--episodes", "4")
    for before, after in zip(few.rows, more.rows, strict=True):
        for name in ("accuracy", "control"):
            assert after[name][:3] == before[name]
            assert len(after[name]) == 4
    journals = {path: path.read_bytes() for path in (folder / "work").glob("frozen*.jsonl")}
    other = study(folder, "cells", "--episodes", "4")
    assert [row["control"] for row in other.rows] == [row["control"] for row in more.rows]
    assert {path: path.read_bytes() for path in journals} == journals
    assert len(journals) == 2
    assert domains.tables(other)["3x1"] in capsys.readouterr().out


def test_a_domain_with_too_few_images_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study(folder, "quiet", "--episodes", "3")
    assert "few.npz has too few images for 3-way 1-shot" in caplog.text


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--packs", "one", "none"], "DATASET_MISSING"),
        (["--shapes", "3x1", "3"], "OPTION_OUT_OF_RANGE"),
    ],
)
def test_bad_input_shows_before_the_first_evaluation(
    folder: Path, more: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder / "quiet"), "--data", str(folder), "--work", str(folder / "bad")]
    given += ["--packs", "one"]
    assert domains.main([*given, *more]) == 2
    assert f"[{reason}]" in capsys.readouterr().err
    assert not list((folder / "bad").glob("*"))


@pytest.mark.parametrize(
    ("classes", "count", "shape", "queries"),
    [(12, 30, "5x5", 15), (12, 8, "5x5", 3), (6, 8, "5x5", 3), (4, 30, "5x5", 0), (9, 5, "5x5", 0)],
)
def test_a_domain_of_few_images_has_fewer_queries(
    classes: int, count: int, shape: str, queries: int
) -> None:
    sampler = domains.sampler_of(dataset(classes, count), shape, 15, 0)
    assert (sampler.shape.queries if sampler else 0) == queries


@pytest.mark.parametrize(
    ("large", "small", "shape", "queries", "classes"),
    [(9, 3, "3x3", 5, 9), (6, 4, "3x3", 1, 10), (9, 3, "10x3", 1, 12), (6, 30, "3x4", 4, 6)],
)
def test_three_quarters_of_the_classes_take_part(
    large: int, small: int, shape: str, queries: int, classes: int
) -> None:
    every = [*images(large, 8), *images(small, 4, seed=1)]
    named = {str(n): tuple(each) for n, each in enumerate(every)}
    sampler = domains.sampler_of(Dataset(name="p.npz", split=None, classes=named), shape, 9, 0)
    assert sampler is not None
    assert (sampler.shape.queries, len(sampler.sizes)) == (queries, classes)


def test_the_control_is_logistic_regression_on_the_mean_of_the_last_block() -> None:
    control = domains.frozen_lite0()
    sampler = Sampler(dataset(3, 4), EpisodeShape(ways=3, shots=2, queries=2), 0)
    plan = Plan(checkpoint=control, sampler=sampler, episodes=1, options=QUIET)
    (record,) = domains.regression(control, domains.Inputs(), domains.Images(), plan, [0])

    def features(classes: dict[str, Sequence[Image]]) -> Any:
        given = np.stack([np.asarray(image) for of in classes.values() for image in of])
        pixels = torch.from_numpy(given).permute(0, 3, 1, 2).float()
        resize = partial(F.interpolate, size=224, mode="bilinear", antialias=True)
        assert control.trunk is not None
        rows = control.trunk((resize(pixels) - 127) / 128)
        assert rows.shape[1] == 320
        return (rows / rows.norm(dim=1, keepdim=True)).numpy()

    episode, labels = sampler.episode(0), [0, 0, 1, 1, 2, 2]
    model = LogisticRegression(C=100, max_iter=1000).fit(features(dict(episode.support)), labels)
    expected = model.score(features(dict(episode.queries)), labels)
    assert record == {"episode": 0, "accuracy": expected}


def test_the_mean_over_domains_has_an_interval_over_domains() -> None:
    rows = [
        {
            "dataset": f"{lead}.npz", "ways": 5, "shots": 1, "checkpoint": "photos",
            "accuracy": [0.5 + lead, 0.7 + lead], "control": [0.5, 0.7],
            "other": [0.0, 1.0], "off": [1e-6, 3e-6], "macs": [1e6, 3e6],
        }
        for lead in (0.02, 0.04, 0.06)
    ]  # fmt: skip
    tables = domains.tables(Results("domains", {}, rows))
    lines = tables["5x1"].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2][0] == "0.02"
    assert [each.strip() for each in tables["files"].splitlines()[2].strip("|").split("|")] == [
        "6", "3", "3e-06",
    ]  # fmt: skip
    mean = ["64.00 ± 4.97", "60.00 ± 0.00", "+4.00 ± 4.97"]  # 4.303 × 2 / √3
    assert cells[-1][:5] == ["mean over domains", "", *mean]
