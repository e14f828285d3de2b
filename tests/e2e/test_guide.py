"""The program of the user guide does what the guide says, with nothing of ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from metanas.checkpoint import load_checkpoint
from metanas.task import Example
from metanas.workbench import make_model
from tests.e2e.running import DIGITS, ROOT

GUIDE = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_a_model_is_used_from_python(checkpoints: Path, tmp_path: Path, name: str) -> None:
    support = [
        Example(folder.name, path.read_bytes())
        for folder in sorted((DIGITS / "support").iterdir())
        for path in sorted(folder.iterdir())[:1]
    ]
    model = make_model(load_checkpoint(checkpoints / name), support)
    (tmp_path / "mushrooms.onnx").write_bytes(model.onnx)
    Image.open(next((DIGITS / "query" / "7").iterdir())).save(tmp_path / "new.jpg")
    [program] = re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in model.labels
