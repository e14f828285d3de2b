"""Both evaluations, in process and through a server: the same episodes, the same accuracies."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from metanas.evaluation.compare import IDENTITY, compare
from metanas_data.evaluations import read_evaluation
from tests.e2e.running import ENVIRONMENT, ROOT, running

SHAPE = ("--ways", "3", "--shots", "2", "--queries", "2", "--episodes", "4", "--seed", "3")


def evaluate(*arguments: str) -> None:
    command = [sys.executable, "-W", "error", "-m", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr


def test_both_evaluations_agree(checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "set.npz"
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 14, 14), dtype=np.uint8)
    names = [f"class {index}" for index in (9, 11, 7, 10, 8)]  # in no order
    np.savez(data, images=images, class_name=names, split=["val"] * 5)
    common = ("--data", str(data), "--split", "val", *SHAPE)
    with running(checkpoints, tmp_path / "data", "--threads=1") as server:
        where = ("--server", server.address, "--checkpoint", "grey")
        for more, classes in (((), 5), (("--rotations",), 20)):
            here, there = tmp_path / f"here{classes}.json", tmp_path / f"there{classes}.json"
            local = (str(checkpoints / "grey"), *common, *more, "--out", str(here))
            evaluate("metanas", "evaluate", *local)
            evaluate("metanas_client", "evaluate", *common, *more, *where, "--out", str(there))
            mine, theirs = read_evaluation(here), read_evaluation(there)
            assert mine.settings["classes"] == classes
            assert len(set(mine.column("accuracy"))) > 1  # noise: nobody is perfect on it
            assert mine.column("accuracy") == theirs.column("accuracy")
            for key in ("dataset", "classes", "checkpoint_digest", "options", *IDENTITY):
                assert mine.settings[key] == theirs.settings[key], key
            assert compare(mine, theirs).tied == 4
