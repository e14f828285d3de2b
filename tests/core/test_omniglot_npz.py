"""The script that makes the data set of configs/omniglot.toml, on archives of a stroke each."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.omniglot_npz import TRAIN, VAL
from metanas_data.datasets import stacks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def archives(tmp_path: Path) -> list[str]:
    """Every alphabet with a character of two drawings, in two folders, and one for tests."""
    drawing = np.full((105, 105), 255, np.uint8)
    drawing[40:60, 20:90] = 0
    for number, alphabet in enumerate([*TRAIN, *VAL, "Tengwar"]):
        folder = tmp_path / ("background", "evaluation")[number % 2] / alphabet / "character01"
        folder.mkdir(parents=True)
        for name in ("0001_01.png", "0001_02.png"):
            Image.fromarray(drawing).convert("1").save(folder / name)
    return [str(tmp_path / "background"), str(tmp_path / "evaluation")]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/omniglot_npz.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_archives_become_a_data_set(archives: list[str], tmp_path: Path) -> None:
    out = tmp_path / "data" / "omniglot_28.npz"
    done = make(*archives, "--out", str(out))
    assert done.returncode == 0, done.stderr
    train, val = (stacks.load(out, split, size=28, channels=1) for split in ("train", "val"))
    assert set(train) == {f"{name}/character01" for name in TRAIN}
    assert set(val) == {f"{name}/character01" for name in VAL}
    for images in val.values():
        assert images.shape == (2, 1, 28, 28)
        assert (images[:, 0, 13, 14] > 250).all(), "ink"
        assert (images[:, 0, 3, 3] < 5).all(), "paper"


def test_half_of_the_alphabets_are_not_enough(archives: list[str], tmp_path: Path) -> None:
    out = tmp_path / "omniglot_28.npz"
    done = make(archives[0], "--out", str(out))
    assert done.returncode == 2
    assert "unpack both archives" in done.stderr
    assert not out.exists()
