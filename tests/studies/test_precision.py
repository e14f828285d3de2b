"""The study of precisions: files of a tiny network answer the queries of tasks."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.results import load
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from studies import precision
from studies.page import text_of


@pytest.mark.parametrize(("shape", "refused"), [("3x4", 0.0), ("2x1", 100.0)])
def test_precisions_are_compared_with_the_stored_file(
    shape: str, refused: float, tmp_path: Path
) -> None:
    """Two images and two views are too few for a file in 8 bits."""
    options = AdaptConfig(steps=0, tuning_steps=0)
    make_checkpoint(tmp_path / "tiny", channels=3, size=16, options=options)
    random = np.random.default_rng(0)
    noise = random.integers(0, 40, (4, 9, 20, 20, 3))
    images = (noise + random.integers(0, 215, (4, 1, 1, 1, 3))).astype(np.uint8)
    np.savez(tmp_path / "plain.npz", images=images, class_name=np.array(list("abcd")))
    given = [tmp_path, "--data", tmp_path, "--kinds", "tiny=plain", "--shapes", shape]
    given += ["--episodes", 3, "--queries", 4, "--work", tmp_path / "work"]
    out = tmp_path / "precision.json"
    assert precision.main([*map(str, given), "--out", str(out)]) == 0
    [row] = load(out).rows
    assert len(row["accuracy"]) == len(row["int8"]) == 3
    assert all(each["bytes"] < size for each, size in zip(row["fp16"], row["bytes"], strict=True))
    assert all(abs(each["accuracy"] - 1) <= 0.1 for each in row["fp16"])
    line = text_of("precision", "precision", [tmp_path]).splitlines()[-1]
    assert line.split("|")[5].strip() == f"0.0, {refused:.1f}"
