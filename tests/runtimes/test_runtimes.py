"""Runtimes of other projects compute what torch computes; the programs of docs/deploy.md run.

Each runtime has a folder of packages of its own. `results.json` has the results, and is the source
of the table in docs/deploy.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from playwright.sync_api import sync_playwright

from metanas_client import Model
from tests.e2e.running import CHROMIUM, FLAGS, ROOT, serving_files
from tests.e2e.test_readme import blocks, prepare, run
from tests.runtimes.cases import NEW, Case, draw, write_cases
from tests.runtimes.installing import from_npm, from_pypi
from tests.runtimes.table import RESULTS, table

pytestmark = pytest.mark.timeout(900)  # a registry may be slow
HERE = Path(__file__).parent
DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
TOLERANCE = 1e-3
"""Largest difference of a probability."""


@dataclass(frozen=True)
class Runtime:
    """A runtime from PyPI.

    program: its name in `in_python.py`.
    packages: requirements, without their dependencies; numpy is there.
    images: most images of a case; the reference evaluator takes seconds for each.
    """

    name: str
    program: str
    packages: tuple[str, ...] = ()
    images: int = 4


FAST = (
    Runtime("ONNX Runtime 1.17.0", "onnxruntime", ("onnxruntime==1.17.0", "numpy==1.26.4")),
    Runtime("ONNX Runtime 1.32.0", "onnxruntime", ("onnxruntime==1.32.0",)),
    Runtime("OpenCV 4.14.0", "opencv", ("opencv-python-headless==4.14.0.94",)),
)
SLOW = (
    Runtime("OpenVINO 2026.4.1", "openvino", ("openvino==2026.4.1",)),
    Runtime("OpenCV 5.0.0", "opencv", ("opencv-python-headless==5.0.0.93",)),
    Runtime("tract 0.23.9 (Rust)", "tract", ("tract==0.23.9",)),
    Runtime("MNN 3.6.1 (mobile)", "mnn", ("MNN==3.6.1",)),
    Runtime("ONNX reference evaluator", "reference", (), 1),
)
NPM = {"onnxruntime-node": "1.30.0", "onnxruntime-web": "1.30.0", "sharp": "0.35.5"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    """A folder of cases."""
    folder = tmp_path_factory.mktemp("cases")
    return folder, write_cases(folder)


def check(cases: list[Case], found: dict[str, Any], name: str) -> None:
    """Compare the answers of a runtime with torch, and the cases that work with the table."""
    faults = {case.name: _fault(case, found[case.name]) for case in cases}
    forms = dict.fromkeys(case.form for case in cases)
    cells = {form: _cell([case for case in cases if case.form == form], faults) for form in forms}
    assert cells == RESULTS[name], faults


def _cell(cases: list[Case], faults: Mapping[str, str | None]) -> str:
    """The cell of the table for a form."""
    failed = [case.network for case in cases if faults[case.name]]
    if not failed:
        return "yes"
    return "no" if len(failed) == len(cases) else f"not {', '.join(failed)}"


def _fault(case: Case, rows: Any) -> str | None:
    if isinstance(rows, str):
        return rows
    expected = [image.probabilities for image in case.images][: len(rows)]
    most = float(np.abs(np.subtract(rows, expected)).max())
    same = np.array_equal(np.argmax(rows, 1), np.argmax(expected, 1))
    return None if same and most <= TOLERANCE else f"differs by {most}"


@pytest.mark.parametrize(
    "runtime",
    [
        *(pytest.param(each, id=each.name) for each in FAST),
        *(pytest.param(each, id=each.name, marks=pytest.mark.slow) for each in SLOW),
    ],
)
def test_a_runtime_from_pypi(
    runtime: Runtime, cases: tuple[Path, list[Case]], tmp_path: Path
) -> None:
    folder, expected = cases
    if runtime.packages:
        from_pypi(runtime.packages, tmp_path)
    command = [sys.executable, str(HERE / "in_python.py"), runtime.program, str(folder)]
    command.append(str(runtime.images))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(expected, json.loads(done.stdout), runtime.name)


@pytest.fixture(scope="module")
def npm(cases: tuple[Path, list[Case]]) -> Path:
    """The folder of the cases, with the packages from npm and the program."""
    folder, _ = cases
    shutil.copy(HERE / "in_javascript.mjs", folder)
    from_npm([*(f"{name}@{version}" for name, version in NPM.items())], folder)
    return folder


@pytest.mark.slow
def test_node(npm: Path, cases: tuple[Path, list[Case]]) -> None:
    command = ["node", "in_javascript.mjs", "onnxruntime-node", "."]
    done = subprocess.run(command, cwd=npm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(cases[1], json.loads(done.stdout), f"onnxruntime-node {NPM['onnxruntime-node']}")


PAGE = """async () => {
  const ort = await import('/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs');
  const { answers } = await import('/in_javascript.mjs');
  const read = async (file) => new Uint8Array(await (await fetch(`/${file}`)).arrayBuffer());
  ort.env.wasm.numThreads = 1;
  return await answers(ort, await (await fetch('/cases.json')).json(), read);
}"""


def in_chromium(folder: Path, script: str) -> Any:
    """The answer of a function on a page of a folder that is served."""
    with serving_files(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        page = browser.new_page()
        page.goto(f"{address}/cases.json")
        answer = page.evaluate(script)
        browser.close()
    return answer


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_a_browser(npm: Path, cases: tuple[Path, list[Case]]) -> None:
    found = in_chromium(npm, PAGE)
    check(cases[1], found, f"onnxruntime-web {NPM['onnxruntime-web']} (wasm)")


def test_the_table_of_the_documentation_has_these_results() -> None:
    assert table(RESULTS) in DEPLOY, table(RESULTS)


def block(language: str, word: str = "") -> str:
    """The code of the page that contains a word."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", DEPLOY, re.MULTILINE | re.DOTALL)
    (code,) = [each for each in found if word in each]
    return str(code)


@pytest.fixture(scope="module")
def photo(cases: tuple[Path, list[Case]]) -> tuple[Path, str]:
    """The folder of the cases with the files that the page names, and the label of `new.jpg`."""
    folder, _ = cases
    shutil.copy(folder / "photos.onnx", folder / "mushrooms.onnx")
    Picture.fromarray(draw(1, NEW, (240, 320), 3)).save(folder / "new.jpg", quality=95)
    (prediction,) = Model.load(folder / "mushrooms.onnx").predict([folder / "new.jpg"])
    return folder, prediction.label


def output(command: list[str], folder: Path) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def labels(photo: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """`mushrooms.json`, written by the command of the page."""
    environment = prepare(tmp_path_factory.mktemp("programs"))
    for language, content in blocks(DEPLOY):
        if language == "bash":
            run(language, content, photo[0], environment)


@pytest.mark.slow
@pytest.mark.usefixtures("labels")
def test_the_program_for_node(npm: Path, photo: tuple[Path, str]) -> None:
    (npm / "program.mjs").write_text(block("javascript", "sharp"))
    assert output(["node", "program.mjs"], npm).strip() == photo[1]


CLASSIFY = """async () => {
  const { show } = await import('/page.mjs');
  const image = await createImageBitmap(await (await fetch('/new.jpg')).blob());
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext('2d').drawImage(image, 0, 0);
  return await show(canvas);
}"""


@pytest.mark.slow
@pytest.mark.usefixtures("labels")
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_the_program_for_a_browser(npm: Path, photo: tuple[Path, str]) -> None:
    module = "/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs"
    shutil.copy(ROOT / "examples" / "javascript" / "classifier.js", npm)
    (npm / "page.mjs").write_text(block("javascript", "canvas").replace("onnxruntime-web", module))
    assert in_chromium(npm, CLASSIFY) == photo[1]


@pytest.mark.slow
@pytest.mark.skipif(not HEADERS.is_dir(), reason="needs the headers of ONNX Runtime: see .ci/run")
def test_the_program_in_cpp(npm: Path, photo: tuple[Path, str]) -> None:
    source = ROOT / "examples" / "cpp" / "classify.cpp"
    lines = {line.strip() for line in source.read_text(encoding="utf-8").splitlines()}
    assert {line.strip() for line in block("cpp").splitlines()} <= lines
    (library,) = npm.glob("node_modules/onnxruntime-node/bin/*/linux/x64/libonnxruntime.so.1")
    command = ["g++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", str(source)]
    command += ["-isystem", str(HEADERS), str(library), f"-Wl,-rpath,{library.parent}"]
    output([*command, "-o", "classify"], npm)
    Picture.open(npm / "new.jpg").save(npm / "new.ppm")
    printed = output(["./classify", "mushrooms.onnx", "new.ppm"], npm)
    assert printed.split("\t")[:2] == ["new.ppm", photo[1]]
    wrong = subprocess.run(["./classify", "omniglot.onnx", "new.ppm"], cwd=npm, check=False)
    assert wrong.returncode == 2
