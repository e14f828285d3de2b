"""The example that adapts in process: a folder in, a model out."""

import subprocess
import sys
from pathlib import Path

import onnx

ROOT = Path(__file__).parents[2]
EXAMPLE, DIGITS = ROOT / "examples" / "in_process.py", ROOT / "examples" / "digits" / "support"


def example(support: Path, model: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, (EXAMPLE, support, model))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_folder_becomes_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    done = example(DIGITS, path)
    assert (done.returncode, done.stderr) == (0, "")
    labels = [folder.name for folder in sorted(DIGITS.iterdir())]
    first, second = done.stdout.splitlines()
    assert first.endswith(f" MB, classes {', '.join(labels)}")
    assert second.startswith("estimated accuracy")
    onnx.checker.check_model(onnx.load(path))
    before = path.read_bytes()
    assert "exists; name another file" in example(DIGITS, path).stderr
    assert path.read_bytes() == before


def test_an_input_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    done = example(tmp_path, tmp_path / "model.onnx")
    assert done.returncode == 2
    assert "make a sub-folder of images for each class" in done.stderr
    assert not (tmp_path / "model.onnx").exists()


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 40
