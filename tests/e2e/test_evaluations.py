"""Both evaluations, in process and through a server: one digest, one sequence of episodes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metanas.evaluation.compare import IDENTITY, compare
from metanas_data.evaluations import StoredEvaluation, read_evaluation
from tests.e2e.running import ENVIRONMENT, ROOT, Running, running

SHAPE = ("--ways", "3", "--shots", "2", "--queries", "2", "--episodes", "4", "--seed", "3")
NAMES = ("class 9", "class 11", "class 7", "class 10", "class 8")
"""Names in no order."""


def arrays(path: Path) -> Path:
    """Write five classes of six grey images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 14, 14), dtype=np.uint8)
    np.savez(path / "set.npz", images=images, class_name=NAMES, split=["val"] * 5)
    return path / "set.npz"


def files() -> Iterator[tuple[str, bytes]]:
    """Yield encoded images of noise: of several sizes, grey, in colour and transparent.

    The last class has too few of them.
    """
    random = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        for number in range(6 if index < 4 else 3):
            height, width = random.integers(12, 40, 2)
            mode = ("L", "RGB", "RGBA")[number % 3]
            pixels = random.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
            file = BytesIO()
            Image.fromarray(pixels.squeeze()).save(file, "PNG")
            yield name, file.getvalue()


def folder(path: Path) -> Path:
    """Write a folder a class."""
    for index, (name, data) in enumerate(files()):
        (path / "set" / name).mkdir(parents=True, exist_ok=True)
        (path / "set" / name / f"{index:02d}.png").write_bytes(data)
    return path / "set"


def pack(path: Path) -> Path:
    """Write the same images into an npz file."""
    label, encoded = zip(*files(), strict=True)
    np.savez(
        path / "set.npz",
        data=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        offset=np.cumsum([0, *map(len, encoded)]),
        label=[NAMES.index(name) for name in label],
        class_name=NAMES,
    )
    return path / "set.npz"


@pytest.fixture(scope="module")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(checkpoints, tmp_path_factory.mktemp("server") / "data", "--threads=1") as server:
        yield server


def evaluate(out: Path, *arguments: object) -> StoredEvaluation:
    command = [sys.executable, "-W", "error", "-m", *map(str, arguments), "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_evaluation(out)


@pytest.mark.parametrize(
    ("data", "more", "classes"),
    [(arrays, (), 5), (arrays, ("--rotations",), 20), (folder, (), 4), (pack, (), 4)],
)
def test_both_evaluations_agree(
    checkpoints: Path,
    server: Running,
    tmp_path: Path,
    data: Callable[[Path], Path],
    more: tuple[str, ...],
    classes: int,
) -> None:
    common = ("--data", data(tmp_path), *SHAPE, *more)
    there = ("--server", server.address, "--checkpoint", "grey")
    mine = evaluate(tmp_path / "a.json", "metanas", "evaluate", checkpoints / "grey", *common)
    theirs = evaluate(tmp_path / "b.json", "metanas_client", "evaluate", *common, *there)
    assert mine.settings["classes"] == classes
    for key in ("dataset", "classes", "checkpoint_digest", "options", *IDENTITY):
        assert mine.settings[key] == theirs.settings[key], key
    for one, other in zip(mine.episodes, theirs.episodes, strict=True):
        assert one["support_digest"] == other["support_digest"]
    assert len(set(mine.column("accuracy"))) > 1  # noise: no model is perfect on it
    assert mine.column("accuracy") == theirs.column("accuracy")
    assert compare(mine, theirs).tied == 4


def test_a_folder_and_a_pack_of_the_same_images_are_the_same_data(
    checkpoints: Path, tmp_path: Path
) -> None:
    one, other = (
        evaluate(
            tmp_path / f"{read.__name__}.json",
            *("metanas", "evaluate", checkpoints / "grey", "--data", read(tmp_path), *SHAPE),
        )
        for read in (folder, pack)
    )
    assert compare(one, other).tied == 4
