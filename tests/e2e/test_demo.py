"""The demo as a person runs it: one command, a server of its own, files at the end."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from metanas.testing import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "meta_checkpoints"


def run_demo(checkpoints: Path, out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--out", str(out)]
    command += ["--checkpoints", str(checkpoints), *arguments]
    return subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)


def test_from_images_to_predictions_and_pictures(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoints" / "untrained")
    arguments = ("--checkpoint", "untrained")
    done = run_demo(tmp_path / "checkpoints", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out images" in done.stdout
    onnx.checker.check_model(onnx.load_model(tmp_path / "out" / "model.onnx"), full_check=True)
    assert (tmp_path / "out" / "cells.svg").read_text(encoding="utf-8").startswith("<")
    assert (tmp_path / "out" / "cells.png").read_bytes().startswith(b"\x89PNG")


def test_a_server_that_does_not_start_is_explained(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "nothing-here", tmp_path / "out")
    assert done.returncode == 1
    assert "nothing-here" in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_shipped_checkpoint_reads_the_digits(tmp_path: Path) -> None:
    done = run_demo(SHIPPED, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("held-out images"))
    right, total = (int(word) for word in line.split() if word.isdigit())
    assert right / total > 0.75  # guessing would be 10 %
