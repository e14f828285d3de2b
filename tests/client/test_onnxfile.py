"""Predictions with, and the self-check of, a model file."""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from metanas.export.variants import convert
from metanas.spec.variant import Variant
from metanas_client import InvalidInput, ModelFileError
from metanas_client.onnx.images import batches, load_image
from metanas_client.onnx.model_file import ModelFile
from metanas_client.support import RawImage
from tests.client.conftest import draw


@pytest.fixture(scope="module")
def model(model_file: Path) -> ModelFile:
    return ModelFile.load(model_file)


def png(pixels: object, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels), mode).save(buffer, "PNG")
    return buffer.getvalue()


def claims(fmt: str, side: int) -> bytes:
    """A small file that says it is larger."""
    buffer = io.BytesIO()
    Image.new("L", (9, 9)).save(buffer, fmt)
    data = bytearray(buffer.getvalue())
    if fmt == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        data[18:26] = struct.pack("<II", side, side)
    return bytes(data)


def changed(path: Path, key: str, value: object) -> bytes:
    file = onnx.load(path)
    for entry in file.metadata_props:
        if entry.key == key:
            entry.value = json.dumps(value)
    return file.SerializeToString()


def test_the_file_tells_about_itself(model: ModelFile) -> None:
    assert model.labels == ("a", "b", "ü")
    assert model.channels == 1
    assert [cell.kind for cell in model.cells] == ["normal", "reduce"]
    assert model.provenance["checkpoint"] == "tiny"
    assert "conformance" not in model.provenance


def test_a_prediction_does_not_depend_on_the_others(model: ModelFile) -> None:
    random = np.random.default_rng(1)
    images = [random.integers(0, 256, (20 + i % 3, 17, 1), dtype=np.uint8) for i in range(9)]
    together = model.logits(images)
    alone = np.concatenate([model.logits([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_probabilities_follow_the_labels(model: ModelFile) -> None:
    found = model.predict(np.zeros((2, 16, 16, 1), dtype=np.uint8))
    assert len(found) == 2
    assert list(found[0].probabilities) == ["a", "b", "ü"]
    assert found[0].confidence == max(found[0].probabilities.values())
    assert sum(found[0].probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert model.predict([]) == []
    assert [out.shape for out in model.run(np.zeros((0, 9, 9, 1), np.uint8))] == [
        (0, 3),
        (0, 3),
        (0,),
    ]


def test_a_sound_file_passes_its_check(model: ModelFile) -> None:
    checks = model.check()
    assert [check.name for check in checks if not check.passed] == []
    assert {check.name for check in checks} >= {"labels", "conformance", "independence"}


def test_a_file_that_computes_something_else_fails(model: ModelFile, model_file: Path) -> None:
    vector = json.loads(model.metadata["conformance"])
    vector["logits"][0] += 1
    other = ModelFile(changed(model_file, "metanas.conformance", vector))
    assert [check.name for check in other.check() if not check.passed] == ["conformance"]


def test_a_wrong_output_known_fails_also_where_logits_may_differ(
    model: ModelFile, model_file: Path
) -> None:
    """The kernels of an int8 file differ between processors: its tolerance of logits is large."""
    vector = {**json.loads(model.metadata["conformance"]), "tolerance": 5.0}
    for stated in ({}, {"known_tolerance": 0.2}, {"known_tolerance": 3.0}):
        wrong = {**vector, **stated, "known": vector["known"] - 0.3}
        other = ModelFile(changed(model_file, "metanas.conformance", wrong))
        assert [check.name for check in other.check() if not check.passed] == ["known"]
    close = {**vector, "known_tolerance": 0.2, "known": vector["known"] - 0.1}
    other = ModelFile(changed(model_file, "metanas.conformance", close))
    assert [check.name for check in other.check() if not check.passed] == []


def test_a_file_with_other_labels_fails(model_file: Path) -> None:
    other = ModelFile(changed(model_file, "metanas.labels", ["a", "b", "c", "d"]))
    assert "labels" in [check.name for check in other.check() if not check.passed]


@pytest.mark.parametrize(
    "variant",
    [Variant(precision="fp16"), Variant(height=24, width=30), Variant(opset=13)],
    ids=["fp16", "fixed", "opset"],
)
def test_a_variant_passes_its_check(model_file: Path, variant: Variant) -> None:
    file = ModelFile(convert(model_file.read_bytes(), variant))
    checks = {check.name: check for check in file.check()}
    assert [check.name for check in checks.values() if not check.passed] == []
    assert checks["variant"].detail == str(file.variant)
    assert (file.variant.precision == "fp16") == (variant.precision == "fp16")
    assert (file.variant.input, file.variant.opset) == (variant.input, variant.opset)


def test_a_fixed_input_takes_images_of_any_size(model: ModelFile, model_file: Path) -> None:
    fixed = ModelFile(convert(model_file.read_bytes(), Variant(height=24, width=30)))
    random = np.random.default_rng(0)
    exact = [random.integers(0, 256, (24, 30, 1), dtype=np.uint8) for _ in range(3)]
    np.testing.assert_allclose(fixed.logits(exact), model.logits(exact), atol=1e-4)
    assert fixed.run(np.zeros((0, 24, 30, 1), np.uint8)).logits.shape == (0, 3)
    smooth = np.add.outer(np.arange(200), np.arange(300)).astype(np.float32) / 500
    mine, theirs = fixed.predict([smooth])[0], model.predict([smooth])[0]
    assert mine.confidence == pytest.approx(theirs.confidence, abs=0.02)


def test_a_variant_that_states_another_input_fails(model_file: Path) -> None:
    made = convert(model_file.read_bytes(), Variant(height=24, width=30))
    file = onnx.load_from_string(made)
    for entry in file.metadata_props:
        if entry.key == "metanas.variant":
            entry.value = entry.value.replace("24x30", "30x24")
    checks = ModelFile(file.SerializeToString()).check()
    assert [check.name for check in checks if not check.passed] == ["variant"]


def test_files_of_others_are_refused(model_file: Path, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    foreign = helper.make_model(
        helper.make_graph([node], "g", [value], [out]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    cut = model_file.read_bytes()[:500]
    cases = {"MODEL_FOREIGN": foreign.SerializeToString(), "MODEL_UNREADABLE": cut}
    for reason, data in cases.items():
        with pytest.raises(ModelFileError) as caught:
            ModelFile(data, source="x.onnx")
        assert caught.value.reason == reason
        assert "x.onnx" in str(caught.value)
    with pytest.raises(ModelFileError) as caught:
        ModelFile.load(tmp_path / "none.onnx")
    assert caught.value.reason == "MODEL_MISSING"


@pytest.mark.parametrize("key", ["labels", "variant", "conformance", "genotype"])
@pytest.mark.parametrize("value", [7, "text", None, {"top1": "1"}])
def test_damaged_metadata_is_an_error_of_the_file(
    model_file: Path, tmp_path: Path, key: str, value: object
) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(convert(model_file.read_bytes(), Variant(precision="fp16")))
    with pytest.raises(ModelFileError):
        ModelFile(changed(path, f"metanas.{key}", value)).check()


def test_paths_bytes_and_arrays_are_the_same_image(model: ModelFile, tmp_path: Path) -> None:
    path = draw(tmp_path / "x.png", 3)
    pixels = np.asarray(Image.open(path))
    floats = pixels.astype(np.float32) / 255
    rows = model.logits([path, str(path), path.read_bytes(), pixels, pixels[:, :, None], floats])
    for row in rows[1:]:
        np.testing.assert_array_equal(row, rows[0])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "IMAGE_UNREADABLE"),
        (b"GIF89a", "IMAGE_FORMAT"),
        (claims("PNG", 9_500), "IMAGE_TOO_MANY_PIXELS"),  # Pillow warns of more than 89 million
        (claims("PNG", 60_000), "IMAGE_TOO_MANY_PIXELS"),  # and refuses twice as many
        (claims("BMP", 60_000), "IMAGE_TOO_MANY_PIXELS"),
        (png(np.zeros((9, 9), np.uint8))[:40], "IMAGE_TRUNCATED"),
        (np.full((2, 2), np.nan, np.float32), "TENSOR_NOT_FINITE"),
        (np.full((2, 2), 2, np.float32), "TENSOR_RANGE"),
        (np.zeros((2, 2, 2), np.uint8), "TENSOR_CHANNELS"),
        (np.zeros((0, 2), np.uint8), "IMAGE_TOO_SMALL"),
    ],
)
def test_an_unusable_image_is_named_by_its_index(image: object, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(batches([np.zeros((2, 2), np.uint8), image], 1, 99))
    assert (caught.value.reason, caught.value.violations[0].field) == (reason, "images[1]")


def test_all_unusable_images_are_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        list(batches([b"", np.zeros((2, 2), np.uint8), b"GIF89a"], 1, 99))
    assert [(each.field, each.reason) for each in caught.value.violations] == [
        ("images[0]", "IMAGE_UNREADABLE"),
        ("images[2]", "IMAGE_FORMAT"),
    ]


def test_images_are_read_batch_by_batch() -> None:
    read: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        for side in (2, 3, 2, 9, 2):
            read.append(side)
            yield np.full((side, side), 255, np.uint8)

    seen = [([len(image) for image in batch], len(read)) for batch in batches(images(), 1, 13)]
    assert seen == [([2, 3], 3), ([2], 4), ([9], 5), ([2], 5)]


def test_a_missing_file_is_named_beside_other_unusable_images(
    model: ModelFile, tmp_path: Path
) -> None:
    path = draw(tmp_path / "x.png", 3)
    with pytest.raises(InvalidInput) as caught:
        model.predict([path, tmp_path / "none.png", b""])
    assert [(each.field, each.reason) for each in caught.value.violations] == [
        ("images[1]", "FILE_UNREADABLE"),
        ("images[2]", "IMAGE_UNREADABLE"),
    ]


def test_grey_and_colour_become_one_another() -> None:
    grey = load_image(RawImage((2, 2), False, b"\x80" * 4), 3)
    assert grey.tolist() == [[[128, 128, 128]] * 2] * 2
    white = load_image(RawImage((2, 2, 3), False, b"\xff" * 12), 1)
    assert white.tolist() == [[[255]] * 2] * 2
