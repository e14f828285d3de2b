"""The study of estimates: right on images that are easy, and by chance on images of noise."""

import numpy as np
import pytest

from benchmarks.harness.results import Row, load
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from studies import quality
from studies.page import text_of

CLASSES, COUNT = 6, 8


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Row]:
    """Results of two data sets at two numbers of shots."""
    folder = tmp_path_factory.mktemp("quality")
    options = AdaptConfig(steps=0, tuning_steps=0, head="ridge")
    make_checkpoint(folder / "checkpoint", channels=3, size=16, options=options)
    names = np.array(list("abcdef"))
    noise = np.random.default_rng(0).integers(0, 256, (CLASSES, COUNT, 20, 20, 3), dtype=np.uint8)
    colours = np.random.default_rng(1).integers(0, 200, (CLASSES, 1, 1, 1, 3))
    easy = (colours + noise // 8).astype(np.uint8)
    np.savez(folder / "easy.npz", images=easy, class_name=names)
    np.savez(folder / "noise.npz", images=noise, class_name=names)
    given = [folder / "checkpoint", "--data", folder, "--out", folder / "quality.json"]
    given += ["--packs", "easy", "noise", "--shapes", "3x1", "3x4", "--tasks", "12"]
    assert quality.main([str(each) for each in given]) == 0
    for table in ("estimates", "known-1", "known-4"):
        assert "mean over kinds" in text_of("quality", table, [folder])
    found = load(folder / "quality.json").rows
    return {(row["dataset"].removesuffix(".npz"), row["shots"]): row for row in found}


def test_easy_images_are_estimated_and_known(rows: dict[tuple[str, int], Row]) -> None:
    row = rows["easy", 4]
    assert abs(np.mean(row["error"])) < 0.1
    assert np.mean(row["first"]) > 0.9
    assert np.mean(row["auroc, other classes"]) > 0.7
    assert np.mean(row["alarms"]) < 0.2


def test_images_of_noise_are_guessed(rows: dict[tuple[str, int], Row]) -> None:
    row = rows["noise", 4]
    assert 0.35 < np.mean(row["auroc, other classes"]) < 0.65
    assert np.mean(row["first"]) < 0.9
    assert np.mean(row["covered"]) > 0.7


def test_one_image_a_class_has_no_estimate(rows: dict[tuple[str, int], Row]) -> None:
    row = rows["easy", 1]
    assert "error" not in row
    assert len(row["calibration"]) == 1
    assert len(row["alarms"]) == 12
