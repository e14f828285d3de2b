"""The study of the weakest class measures each class with more images."""

from pathlib import Path

import numpy as np

from benchmarks.harness.results import load
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from studies import weakest
from studies.page import text_of

CLASSES, COUNT = 3, 10


def test_each_class_gets_more_images_in_turn(tmp_path: Path) -> None:
    options = AdaptConfig(steps=0, tuning_steps=0, head="ridge")
    make_checkpoint(tmp_path / "checkpoint", channels=3, size=16, options=options)
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 40, (CLASSES, COUNT, 20, 20, 3))
    colours = draw.integers(0, 200, (CLASSES, 1, 1, 1, 3))
    names = np.array(list("abc"))
    np.savez(tmp_path / "kind.npz", images=(colours + noise).astype(np.uint8), class_name=names)
    given = [tmp_path / "checkpoint", "--data", tmp_path, "--out", tmp_path / "weakest.json"]
    given += ["--packs", "kind", "--shapes", "3x60", "3x6", "--tasks", "3"]
    assert weakest.main([str(each) for each in given]) == 0
    (row,) = load(tmp_path / "weakest.json").rows
    shown = text_of("weakest", "gains", [tmp_path])
    for title in (weakest.EQUAL, weakest.UNEQUAL):
        assert f"| {title}" in shown
        assert len(row[f"named, {title}"]) == len(row[f"any, {title}"]) == 3
        named = int(sum(row[f"named, {title}"]))
        assert len(row.get(f"lead, {title}", [])) == named
