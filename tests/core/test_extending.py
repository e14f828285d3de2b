"""The examples of extensions do what they say, in few lines and without touching our code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "extending").glob("*.py"))
LINES = 40


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_extension_takes_few_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def test_the_guide_names_every_example() -> None:
    guide = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^python -m examples\.extending\.(\w+)$", guide, re.MULTILINE))
    assert named == {path.stem for path in EXAMPLES} - {"common"}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_extension_trains(path: Path) -> None:
    command = [sys.executable, "-m", f"examples.extending.{path.stem}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("iteration ")]
    assert len(steps) == (0 if path.stem == "common" else 3)
