"""A real server in a process of its own, a real model file, and images for the client's tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import load_checkpoint
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PATHS = [ROOT, ROOT / "protos", ROOT / "server", ROOT / "client", ROOT / "data"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("METANAS_")},
    "PYTHONPATH": os.pathsep.join(map(str, PATHS)),
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}


def draw(path: Path, seed: int, size: tuple[int, int] = (20, 20)) -> Path:
    """Write a random grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(folder: Path, classes: int, images: int) -> Path:
    """Write folders of random images, one a class."""
    for label in range(classes):
        for image in range(images):
            draw(folder / f"class{label}" / f"{image}.png", 100 * label + image)
    return folder


@contextmanager
def running_server(
    checkpoints: Path, data: Path, *flags: object, listen: str = "127.0.0.1:0"
) -> Iterator[str]:
    """Run a server process with one worker and more flags; yield its address."""
    with server_process(checkpoints, data, *flags, listen=listen) as (address, _):
        yield address


@contextmanager
def server_process(
    checkpoints: Path, data: Path, *flags: object, listen: str = "127.0.0.1:0"
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server that waits for no job when it stops; yield its address and the process."""
    command = [sys.executable, "-m", "metanas_server", "--listen", listen, "--devices=cpu"]
    command += ["--grace=0"]
    command += ["--checkpoints", str(checkpoints), "--data", str(data)]
    command += map(str, flags)
    log = data.with_suffix(".log")
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRONMENT
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            words = [word.rstrip(".,;") for word in line.split() if "127.0.0.1:" in word]
            assert words, f"the server says {line!r}\n{log.read_text()}"
            yield words[0], process
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one checkpoint, `tiny`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(folder / "tiny", options=AdaptConfig(steps=2, tuning_steps=1))
    return folder


@pytest.fixture(scope="session")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server on `checkpoints`."""
    with running_server(checkpoints, tmp_path_factory.mktemp("server") / "data") as address:
        yield address


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A support set of three classes with two images each."""
    return class_folders(tmp_path_factory.mktemp("support"), classes=3, images=2)


@pytest.fixture(scope="session")
def model_file(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the core has made in this process."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 20, 20, 1), dtype=np.uint8)
    examples = [Example(label, image) for label, image in zip("aabbüü", images, strict=True)]
    made = adapt(load_checkpoint(checkpoints / "tiny"), examples)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(made.onnx)
    return path
