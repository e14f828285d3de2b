"""Test of a model on held-out images: `Model.test`, `metanas test`, the page and the sheet."""

import io
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import load_checkpoint
from metanas.export.variants import convert
from metanas.spec.examples import Example
from metanas.spec.variant import Variant
from metanas_client import InvalidInput, Model, ModelFileError
from metanas_client.quality.charts import confusion_matrix
from metanas_data.metrics import measure
from tests.client.conftest import draw
from tests.client.test_cli import metanas

LABELS = ("a", "b", "ü")


@pytest.fixture(scope="module")
def model(model_file: Path) -> Model:
    return Model.load(model_file)


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    folder = tmp_path / "held-out"
    for place, label in enumerate(LABELS):
        for image in range(4):
            draw(folder / label / f"{image}.png", 10 * place + image)
    return folder


def test_the_metrics_are_those_of_the_predictions(model: Model, held_out: Path) -> None:
    quality = model.test(held_out)
    paths = [held_out / label / f"{image}.png" for label in LABELS for image in range(4)]
    predicted = model.predict(paths)
    hits = sum(one.label == path.parent.name for one, path in zip(predicted, paths, strict=True))
    assert (quality.metrics.accuracy.hits, quality.metrics.accuracy.count) == (hits, 12)
    assert [one.source for one in quality.answers] == list(map(str, paths))
    assert [one.predicted for one in quality.answers] == [one.label for one in predicted]
    confidences = [one.confidence for one in predicted]
    assert [one.confidence for one in quality.answers] == pytest.approx(confidences, abs=1e-6)
    assert len(quality.wrong) == 12 - hits
    shown = [one.confidence for one in quality.wrong]
    assert shown == sorted(shown, reverse=True)


def test_images_may_be_arrays_and_classes_missing(model: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8)
    quality = model.test({"b": list(images)})
    assert [one.images for one in quality.metrics.classes] == [0, 3, 0]
    assert [one.source for one in quality.answers] == ["images[0]", "images[1]", "images[2]"]


def test_a_fixed_input_is_tested_on_images_of_any_size(
    model_file: Path, held_out: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fixed.onnx"
    path.write_bytes(convert(model_file.read_bytes(), Variant(height=24, width=30)))
    quality = Model.load(path).test(held_out)
    predicted = Model.load(path).predict([one.source for one in quality.answers])
    assert quality.failed == ()
    assert [one.predicted for one in quality.answers] == [one.label for one in predicted]


def test_a_class_in_another_unicode_form_is_the_same(model: Model, tmp_path: Path) -> None:
    draw(tmp_path / unicodedata.normalize("NFD", "ü") / "1.png", 1)
    assert [one.label for one in model.test(tmp_path).answers] == ["ü"]


def test_unknown_classes_are_named_together(model: Model, held_out: Path) -> None:
    for name in ("A", "zebra"):
        draw(held_out / name / "1.png", 1)
    with pytest.raises(InvalidInput) as caught:
        model.test(held_out)
    assert [one.reason for one in caught.value.violations] == ["CLASS_UNKNOWN"] * 2
    assert "no class 'A'" in str(caught.value)
    assert "Known: a, b, ü." in str(caught.value)


def test_bad_images_are_listed_and_count_nowhere(model: Model, held_out: Path) -> None:
    (held_out / "a" / "bad.jpg").write_text("no image")
    quality = model.test(held_out)
    assert quality.metrics.accuracy.count == 12
    assert [one.source for one in quality.failed] == [str(held_out / "a" / "bad.jpg")]


def test_without_a_single_good_image_there_is_an_error(model: Model, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InvalidInput, match=f"{tmp_path} holds no images") as caught:
        model.test(tmp_path)
    assert caught.value.reason == "NO_IMAGES"
    (tmp_path / "a" / "bad.jpg").write_text("no image")
    with pytest.raises(InvalidInput) as caught:
        model.test(tmp_path)
    assert caught.value.reason == "IMAGE_FORMAT"
    with pytest.raises(InvalidInput) as caught:
        model.test(tmp_path / "b")
    assert "images: " in str(caught.value)
    assert "support" not in str(caught.value)


def test_the_page_is_one_file_that_loads_nothing(
    model: Model, held_out: Path, tmp_path: Path
) -> None:
    draw(held_out / "a" / '<b>"&.png', 5)
    quality = model.test(held_out)
    assert quality.wrong
    text = quality.save_html(tmp_path / "page.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "http" not in text
    assert "url(" not in text
    assert "$" not in text
    assert '<b>"&' not in text
    assert text.count("<img ") >= len(quality.wrong)


def test_the_page_and_the_sheet_show_the_first_mistakes(
    model: Model, held_out: Path, tmp_path: Path
) -> None:
    quality = model.test(held_out)
    first, *_, last = quality.wrong
    text = quality.save_html(tmp_path / "page.html", mistakes=1).read_text("utf-8")
    assert first.source in text
    assert last.source not in text
    assert "The 1 of the highest confidence" in text
    sizes = []
    for mistakes in (0, 1, 100):
        with Image.open(quality.save_sheet(tmp_path / "sheet.png", mistakes=mistakes)) as sheet:
            assert sheet.format == "PNG"
            sizes.append(sheet.height)
    assert sizes[0] < sizes[1] <= sizes[2]


def test_a_sheet_shows_colours_and_large_images(model: Model, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 300), "lime").save(buffer, "JPEG")
    quality = model.test([(label, buffer.getvalue()) for label in LABELS])
    with Image.open(quality.save_sheet(tmp_path / "sheet.png")) as sheet:
        colours = sheet.getcolors(1 << 20)
    assert colours is not None
    green = sum(count for count, (r, g, b) in colours if g > 240 and max(r, b) < 15)  # type: ignore[misc]
    assert green > 2 * 150 * 50
    assert "image/jpeg" in quality.save_html(tmp_path / "page.html").read_text("utf-8")


def test_a_result_shows_itself_in_a_notebook(model: Model, held_out: Path) -> None:
    html = model.test(held_out)._repr_html_()
    assert "accuracy" in html
    assert '<table class="confusion">' in html
    assert '<th scope="col">ü</th>' in html


def test_columns_of_long_labels_have_numbers() -> None:
    html = confusion_matrix(measure(["a", "a long <label>"], [0, 1, 1], [0, 1, 0], [0.5] * 3))
    assert '<th scope="col"><abbr title="a long &lt;label&gt;">2</abbr></th>' in html
    assert "<b>2</b> a long &lt;label&gt;</th>" in html


def test_the_command_prints_tables_and_writes_files(
    model_file: Path, held_out: Path, tmp_path: Path
) -> None:
    page, sheet = tmp_path / "test.html", tmp_path / "test.png"
    done = metanas("test", model_file, held_out, "--html", page, "--sheet", sheet)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("accuracy\t")
    assert "of 12 images" in done.stdout
    assert "true class\ta\tb\tü" in done.stdout
    assert page.stat().st_size > 5_000
    assert sheet.stat().st_size > 500
    again = metanas("test", model_file, held_out, "--html", page)
    assert (again.returncode, "--force" in again.stderr) == (2, True)


def test_many_classes_are_confused_in_a_list(checkpoints: Path, tmp_path: Path) -> None:
    support = [
        Example(f"c{place}", draw(tmp_path / f"c{place}" / "1.png", place).read_bytes())
        for place in range(13)
    ]
    made = adapt(load_checkpoint(checkpoints / "tiny"), support)
    (tmp_path / "c0" / "1.png").replace(tmp_path / "c1" / "2.png")
    model = tmp_path.with_suffix(".onnx")
    model.write_bytes(made.onnx)
    done = metanas("test", model, tmp_path)
    assert done.returncode == 0
    assert "true class" in done.stdout
    assert "most frequent confusions" in done.stdout
    assert "a column for each predicted class" not in done.stdout


def test_the_command_answers_for_the_good_images(model_file: Path, held_out: Path) -> None:
    (held_out / "a" / "bad.jpg").write_text("no image")
    done = metanas("test", model_file, held_out, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, len(document["images"])) == (2, 12)
    assert document["failed"][0]["error"]["reason"] == "IMAGE_FORMAT"
    assert sum(map(sum, document["metrics"]["confusion"])) == 12
    assert document["metrics"]["accuracy"]["count"] == 12
    plain = metanas("test", model_file, held_out)
    assert plain.returncode == 2
    assert "1 of 13 images failed" in plain.stderr


def test_wrong_names_are_refused_before_the_work(model_file: Path, held_out: Path) -> None:
    for flags in (("--sheet", "x.jpg"), ("--mistakes", "-1"), ("--html", "/missing/x.html")):
        done = metanas("test", model_file, held_out, *flags)
        assert (done.returncode, done.stdout) == (2, "")


def test_a_file_becomes_a_model_again(model_file: Path, tmp_path: Path) -> None:
    loaded = Model.load(model_file)
    assert (loaded.labels, loaded.name) == (LABELS, str(model_file))
    assert (loaded.info.checkpoint, loaded.info.report) == ("tiny", None)
    with pytest.raises(ModelFileError) as no_report:
        _ = loaded.report
    assert no_report.value.reason == "REPORT_MISSING"
    assert set(loaded.genotype) >= {"normal", "reduce"}
    assert loaded.save(tmp_path / "copy.onnx").read_bytes() == model_file.read_bytes()
    with pytest.raises(ModelFileError) as caught:
        Model.load(tmp_path / "copi.onnx")
    assert "Did you mean copy.onnx?" in str(caught.value)
