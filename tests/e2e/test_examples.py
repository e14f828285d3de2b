"""Run the examples: a batch through a server, a model in Node and in a web page."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, expect, sync_playwright

import metanas
from metanas_client import Model
from tests.e2e.running import CHROMIUM, DIGITS, FLAGS, ROOT, running, serving_files

BATCH = ROOT / "examples" / "batch.py"
JAVASCRIPT = ROOT / "examples" / "javascript"
QUERIES = tuple(str(next((DIGITS / "query" / digit).iterdir())) for digit in "147")


def batch(address: str, tasks: Path, models: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BATCH), str(tasks), str(models), "--server", address]
    command += ["--checkpoint", "grey"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_batch_makes_a_model_of_each_task(checkpoints: Path, tmp_path: Path) -> None:
    tasks, models = tmp_path / "tasks", tmp_path / "models"
    for name, digits in {"even": "02", "odd": "13", "single": "5"}.items():
        for digit in digits:
            shutil.copytree(DIGITS / "support" / digit, tasks / name / digit)
    with running(checkpoints, tmp_path / "data") as server:
        first, again = (batch(server.address, tasks, models) for _ in range(2))
    written = [str(models / name) for name in ("even.onnx", "odd.onnx")]
    assert (first.returncode, first.stdout.splitlines()) == (1, written)
    assert first.stderr.startswith("single: ")
    assert (again.returncode, again.stdout) == (1, "")
    assert sorted(map(str, models.iterdir())) == written


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example with its packages and a model of digits."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("page") / "javascript"
    shutil.copytree(JAVASCRIPT, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True)
    checkpoint = metanas.load_checkpoint(ROOT / "meta_checkpoints" / "omniglot")
    model = metanas.adapt(checkpoint, metanas.read_folder(DIGITS / "support"), seed=0)
    (folder / "model.onnx").write_bytes(model.onnx)
    show = [sys.executable, "-m", "metanas_client", "show", "model.onnx", "--json"]
    with (folder / "model.json").open("wb") as about:
        subprocess.run(show, cwd=folder, stdout=about, check=True)
    return folder


@pytest.mark.slow
def test_node_answers_as_python_does(page: Path) -> None:
    command = ["node", "classify.js", "model.onnx", "model.json", *QUERIES]
    done = subprocess.run(command, cwd=page, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [path for path, _, _ in rows] == [*QUERIES]
    expected = Model.load(page / "model.onnx").predict(QUERIES)
    for (_, label, probability), prediction in zip(rows, expected, strict=True):
        assert label == prediction.label
        assert float(probability) == pytest.approx(prediction.confidence, abs=0.01)


@pytest.fixture
def address(page: Path) -> Iterator[str]:
    """Serve the folder on a free port."""
    with serving_files(page) as served:
        yield f"{served}/index.html"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_classifies_images_and_the_camera(address: str, page: Path) -> None:
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *camera])
        tab = browser.new_page()
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(address)
        answer = tab.get_by_role("status")
        expect(answer).to_have_text("Choose an image.", timeout=60_000)
        expected = Model.load(page / "model.onnx").predict(QUERIES)
        for path, prediction in zip(QUERIES, expected, strict=True):
            tab.get_by_label("Image").set_input_files(path)
            percent = f"{100 * prediction.confidence:.0f}"
            expect(answer).to_contain_text(f"{prediction.label}: {percent}", timeout=60_000)
        broken: FilePayload = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"}
        tab.get_by_label("Image").set_input_files(broken)
        expect(answer).to_contain_text("cannot be shown")
        tab.get_by_role("button", name="use the camera").click()
        expect(answer).to_contain_text(" ms", timeout=60_000)
        browser.close()
    assert faults == []


def test_the_page_needs_no_other_host() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in JAVASCRIPT.glob("*.*"))
    assert "//" not in text.replace("http://localhost:8000", "").replace("// ", "")
    assert {*json.loads((JAVASCRIPT / "package.json").read_text())["dependencies"]} == {
        "onnxruntime-web",
        "sharp",
    }
