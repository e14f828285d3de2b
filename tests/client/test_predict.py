"""`metanas predict`: folders, patterns, bad files among good ones, and the forms of its output."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metanas_client.cli.files import answer_of, classify, image_files
from metanas_client.errors import Violation
from metanas_client.onnx.model_file import MAX_BATCH_PIXELS, ModelFile, Prediction
from tests.client.conftest import ENVIRONMENT, draw
from tests.client.test_cli import metanas


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("b.png", "a.png", "deep/c.png"):
        draw(folder / name, len(name))
    (folder / ".hidden").touch()
    (folder / "Thumbs.db").touch()
    return folder


def test_folders_and_patterns_stand_for_their_files(images: Path) -> None:
    names = [os.path.relpath(path, images) for path in image_files([str(images)])]
    assert names == ["a.png", "b.png", "deep/c.png"]
    pattern = str(images / "**" / "*.png")
    assert [path.name for path in image_files([pattern])] == ["a.png", "b.png", "c.png"]
    # a folder that matches stands for its files, and no file comes twice
    both = [str(images / "*"), str(images), str(images / "a.png")]
    assert [path.name for path in image_files(both)] == ["a.png", "b.png", "c.png"]
    brackets = draw(images / "[x].png", 1)
    assert list(image_files([str(brackets)])) == [brackets]
    for nothing in (str(images / "*.gif"), "x" * 300):  # the longest name has 255 bytes
        assert list(image_files([nothing])) == [Path(nothing)]


def test_links_in_circles_and_pipes_do_not_stop_a_folder(images: Path) -> None:
    (images / "deep" / "up").symlink_to(images)
    (images / "dead.png").symlink_to(images / "nothing.png")
    os.mkfifo(images / "pipe.png")
    names = [path.name for path in image_files([str(images)])]
    assert names == ["a.png", "b.png", "dead.png", "c.png"]


def test_a_bad_file_does_not_cost_the_answers_for_the_good_ones(
    images: Path, model_file: Path
) -> None:
    (images / "bad.png").write_text("no image")
    done = metanas("predict", model_file, images, images / "b.pmg")
    assert done.returncode == 2
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "image",
        *(str(images / name) for name in ("a.png", "b.png", "deep/c.png")),
    ]
    assert "2 of 5 images failed" in done.stderr
    assert f"{images / 'bad.png'}: " in done.stderr
    assert "Did you mean b.png?" in done.stderr
    assert "support" not in done.stderr


def test_foreign_images_have_no_confidence() -> None:
    """The confidence of the nearest class says nothing about an image of none of the classes."""
    one = Prediction(label="a", confidence=0.75, known=0.5, probabilities={"a": 0.75, "b": 0.25})
    assert answer_of(one) == ("a", "75.0 %")
    assert answer_of(replace(one, known=0.49)) == ("none of these (nearest: a)", "–")


def test_a_folder_without_images_is_an_error(model_file: Path, tmp_path: Path) -> None:
    done = metanas("predict", model_file, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"metanas: images: there is no image in {tmp_path}\n"


def test_json_lists_the_failures_with_the_predictions(images: Path, model_file: Path) -> None:
    (images / "bad.png").write_text("no image")
    done = metanas("predict", model_file, images, "--json")
    entries = json.loads(done.stdout)
    assert (done.returncode, done.stderr, len(entries)) == (2, "", 4)
    assert [set(entry) for entry in entries if "error" in entry] == [{"image", "error"}]


def test_csv_has_the_probability_of_every_class(images: Path, model_file: Path) -> None:
    done = metanas("predict", model_file, images, "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 3
    for row in rows:
        assert float(row["confidence"]) == float(row[row["class"]])


def test_csv_rows_come_one_after_the_other(images: Path, model_file: Path) -> None:
    """The row of an image is there while the next one, a pipe, waits to be written."""
    pipe = images.parent / "pipe.png"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "metanas_client", "predict", "--csv"]
    command += map(str, (model_file, images / "a.png", pipe))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("image,class,")
        assert process.stdout.readline().startswith(str(images / "a.png"))
        pipe.write_bytes((images / "b.png").read_bytes())
        assert process.stdout.readline().startswith(str(pipe))
    assert process.returncode == 0


def test_images_are_read_one_at_a_time(model_file: Path, tmp_path: Path) -> None:
    """The second image does not exist until the first has been classified."""
    paths = [tmp_path / f"{index}.png" for index in range(3)]

    def appearing() -> Iterator[Path]:
        for index, path in enumerate(paths):
            draw(path, index)
            yield path
            path.unlink()

    found = list(classify(ModelFile.load(model_file), appearing()))
    assert [name for name, _ in found] == list(map(str, paths))
    assert [one for _, one in found if isinstance(one, Violation)] == []


def test_large_images_are_not_run_as_one_batch(
    model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelFile.load(model_file)
    shapes: list[tuple[int, ...]] = []
    run = model.run

    def spy(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> object:
        shapes.append(images.shape)
        return run(images)

    monkeypatch.setattr(model, "run", spy)
    side = int((MAX_BATCH_PIXELS / 2) ** 0.5) + 1
    model.predict(np.zeros((3, side, side, 1), np.uint8))
    assert [shape[0] for shape in shapes] == [1, 1, 1]
    model.predict(np.zeros((3, 20, 20, 1), np.uint8))
    assert shapes[-1][0] == 3
