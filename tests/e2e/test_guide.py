"""Run the commands and programs of the user guide."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import load_checkpoint
from metanas.spec.examples import Example
from tests.e2e.running import DIGITS, ROOT, running
from tests.e2e.test_readme import ADDRESS, blocks, prepare, run

DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "user-guide.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_everything_in_the_guide_runs(checkpoints: Path, tmp_path: Path) -> None:
    environment = prepare(tmp_path)
    for name, digit in {"chanterelle": "1", "death cap": "4", "puffball": "7"}.items():
        shutil.copytree(DIGITS / "support" / digit, tmp_path / "mushrooms" / name)
        (tmp_path / "held-out" / name).mkdir(parents=True)
        for path in sorted((DIGITS / "query" / digit).iterdir())[:2]:
            Image.open(path).save(tmp_path / "held-out" / name / f"{path.stem}.jpg")
    Image.open(path).save(tmp_path / "new.jpg")
    Image.open(path).save(tmp_path / "mushrooms" / "puffball" / "x.bmp")
    with running(checkpoints, tmp_path / "metanas-data") as server:
        environment["METANAS_SERVER"] = server.address
        small = {
            ADDRESS: server.address,
            "photos": "colour",
            "mushrooms --out": "mushrooms --checkpoint colour --out",
            "--episodes 100": "--episodes 2",
        }
        for language, content in blocks(GUIDE):
            for theirs, ours in small.items():
                content = content.replace(theirs, ours)
            run(language, content, tmp_path, environment)
    assert (tmp_path / "mushrooms.onnx").exists()


@pytest.mark.parametrize("name", ["grey", "colour"])
def test_a_model_is_used_from_python(checkpoints: Path, tmp_path: Path, name: str) -> None:
    support = [
        Example(folder.name, path.read_bytes())
        for folder in sorted((DIGITS / "support").iterdir())
        for path in sorted(folder.iterdir())[:1]
    ]
    model = adapt(load_checkpoint(checkpoints / name), support)
    (tmp_path / "mushrooms.onnx").write_bytes(model.onnx)
    Image.open(next((DIGITS / "query" / "7").iterdir())).save(tmp_path / "new.jpg")
    program = next(content for language, content in blocks(DEPLOY) if language == "python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in model.labels


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_the_browser_converts_pixels_like_pillow(channels: int, mode: str) -> None:
    image = Image.linear_gradient("L").convert("RGBA")
    image.putdata([(x % 256, x // 256, (7 * x) % 256, 255) for x in range(256 * 256)])
    classifier = ROOT / "examples" / "javascript" / "classifier.js"
    program = (
        f"const rgba = {list(image.tobytes())};\n"
        f"const {{ convert }} = await import('{classifier}');\n"
        f"console.log(JSON.stringify([...convert(rgba, {channels})]));"
    )
    command = ["node", "--input-type=module"]
    done = subprocess.run(command, input=program, capture_output=True, text=True, check=True)
    assert bytes(json.loads(done.stdout)) == image.convert(mode).tobytes()
