"""Variants of an exported file: what they state, compute and weigh, and which are refused."""

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from metanas.adaptation.scheduler import adapt
from metanas.errors import ExportMismatch, InvalidInput
from metanas.export.agreement import (
    Agreement,
    Answers,
    answers,
    compare,
    require_close,
    require_equal,
    require_half,
)
from metanas.export.rewrite import LEAST_HALVED, halved
from metanas.export.runtime import session
from metanas.export.variants import KNOWN_TOLERANCE, LEAST_CALIBRATION, VARIANT, convert, fitted
from metanas.spec.options import AdaptConfig
from metanas.spec.variant import Variant
from metanas.testing import make_checkpoint
from tests.core.small import examples

OPSETS = range(13, 22)
TASK = [
    np.asarray(each.image, np.uint8).reshape(*np.shape(each.image)[:2], 1)
    for each in examples((3, 3, 3))
]
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module", params=[{}, {"shift_pixels": 1}], ids=["plain", "copies"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an adaptation."""
    options = AdaptConfig(steps=1, tuning_steps=1).replace(request.param)
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", options=options)
    return adapt(checkpoint, examples((3, 3, 3))).onnx


def pixels(height: int, width: int) -> Pixels:
    random = np.random.default_rng(height + width)
    return random.integers(0, 256, (height, width, 1), dtype=np.uint8)


def metadata(data: bytes) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}


def stated(data: bytes) -> dict[str, object]:
    stated: dict[str, object] = json.loads(metadata(data)[VARIANT])
    return stated


def difference(one: bytes, other: bytes, image: Pixels) -> float:
    first, second = (answers(session(data), [image]) for data in (one, other))
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def dimensions(data: bytes) -> set[int | str]:
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = [value.type.tensor_type.shape.dim for value in values]
    return {d.dim_param or d.dim_value for shape in shapes for d in shape}


@pytest.mark.parametrize("opset", OPSETS)
def test_any_opset_computes_the_same(stored: bytes, opset: int) -> None:
    made = convert(stored, Variant(opset=opset))
    model = onnx.load_from_string(made)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    assert difference(stored, made, pixels(21, 17)) <= 1e-5
    assert stated(made)["opset"] == opset


@pytest.mark.parametrize("size", [(12, 12), (31, 20), (5, 40)])
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_fixed_input_has_no_dynamic_shape(
    stored: bytes, size: tuple[int, int], opset: int
) -> None:
    made = convert(stored, Variant(height=size[0], width=size[1], opset=opset))
    model = onnx.load_from_string(made)
    assert all(isinstance(dimension, int) and dimension > 0 for dimension in dimensions(made))
    assert {node.domain for node in model.graph.node} == {""}
    assert {"Shape", "Range", "Gather"}.isdisjoint(node.op_type for node in model.graph.node)
    assert difference(stored, made, pixels(*size)) <= 1e-4
    assert stated(made)["input"] == f"fixed:{size[0]}x{size[1]}"


def test_half_precision_halves_the_large_weights(stored: bytes) -> None:
    made = convert(stored, Variant(precision="fp16"))
    model = onnx.load_from_string(made)
    sizes: Mapping[int, int] = {
        kind: sum(
            numpy_helper.to_array(each).size
            for each in model.graph.initializer
            if each.data_type == kind
        )
        for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    assert sizes[onnx.TensorProto.FLOAT16] > 0
    largest = max(
        numpy_helper.to_array(each).size
        for each in model.graph.initializer
        if each.data_type == onnx.TensorProto.FLOAT
    )
    assert largest < LEAST_HALVED
    saved = 2 * sizes[onnx.TensorProto.FLOAT16]
    assert len(stored) - len(made) == pytest.approx(saved, abs=1500)  # without casts and metadata
    assert difference(stored, made, pixels(14, 14)) <= 0.1


def test_the_standard_taken_literally_gives_the_same(stored: bytes) -> None:
    made = convert(stored, Variant(precision="fp16", height=9, width=11, opset=21))
    image = pixels(9, 11)
    feed = {"images": image[None]}
    logits, _, _ = ReferenceEvaluator(onnx.load_from_string(made)).run(None, feed)
    np.testing.assert_allclose(
        np.asarray(logits, np.float32), answers(session(made), [image]).logits, atol=1e-3
    )


@pytest.mark.parametrize(
    "variant",
    [Variant(precision="fp16"), Variant(height=20, width=9), Variant(opset=13)],
    ids=["fp16", "fixed", "opset"],
)
def test_the_conformance_vector_is_that_of_the_variant(stored: bytes, variant: Variant) -> None:
    made = convert(stored, variant)
    vector = json.loads(metadata(made)["metanas.conformance"])
    image = np.frombuffer(b64decode(vector["image"]), np.uint8).reshape(vector["shape"])
    found = answers(session(made), [fitted(image, variant.size)])
    np.testing.assert_allclose(found.logits[0], vector["logits"], atol=1e-5)
    np.testing.assert_allclose(found.known[0], vector["known"], atol=1e-5)


def test_the_same_variant_has_the_same_bytes(stored: bytes) -> None:
    variant = Variant(precision="fp16", height=30, width=22, opset=19)
    assert convert(stored, variant) == convert(stored, variant)


def test_other_metadata_stays(stored: bytes) -> None:
    made = metadata(convert(stored, Variant(precision="fp16")))
    before = metadata(stored)
    changed = {key for key in made if made[key] != before.get(key)}
    assert changed == {VARIANT, "metanas.conformance"}
    assert stated(stored_as(made)) == json.loads(made[VARIANT])


def stored_as(properties: Mapping[str, str]) -> bytes:
    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, dict(properties))
    return model.SerializeToString()


def test_the_images_of_the_caller_are_compared(stored: bytes) -> None:
    made = convert(stored, Variant(precision="fp16"), [pixels(8, 8), pixels(30, 9), pixels(3, 3)])
    assert stated(made)["images"] == 3
    assert stated(made)["precision"] == "fp16"


def test_a_variant_of_a_variant(stored: bytes) -> None:
    half = convert(stored, Variant(precision="fp16"), [pixels(8, 8)])
    fixed = convert(half, Variant(height=18, width=12, opset=19))
    assert stated(fixed)["precision"] == "fp16"
    assert stated(fixed)["images"] == 1  # the figures of the precision
    assert len(fixed) < len(half) + 20_000  # the weights have not become single precision again
    assert difference(stored, fixed, pixels(18, 12)) <= 0.1
    with pytest.raises(InvalidInput) as caught:
        convert(fixed, Variant(opset=13))
    assert caught.value.reason == "VARIANT_REFUSED"


@pytest.fixture(scope="module")
def int8(stored: bytes) -> bytes:
    return convert(stored, Variant(precision="int8"), TASK)


def test_int8_has_layers_in_eight_bits(stored: bytes, int8: bytes) -> None:
    kinds = {each.data_type for each in onnx.load_from_string(int8).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert (stated(int8)["precision"], stated(int8)["images"]) == ("int8", len(TASK))
    reference, found = (answers(session(data), TASK) for data in (stored, int8))
    agreement = compare(reference, found)
    require_close(agreement)
    assert stated(int8)["logit"] == pytest.approx(agreement.logit, abs=1e-5)
    vector = json.loads(metadata(int8)["metanas.conformance"])
    assert vector["tolerance"] == pytest.approx(max(1e-3, agreement.logit), abs=1e-5)
    allowed = min(max(1e-3, agreement.known), KNOWN_TOLERANCE)
    assert vector["known_tolerance"] == pytest.approx(allowed, abs=1e-5)


@pytest.mark.parametrize("variant", [Variant(height=20, width=24, opset=13), Variant(opset=20)])
def test_a_variant_of_int8_stays_int8(int8: bytes, variant: Variant) -> None:
    made = convert(int8, variant)
    assert stated(made)["precision"] == "int8"
    assert stated(made)["logit"] == stated(int8)["logit"]  # of the precision
    before, after = (json.loads(metadata(each)["metanas.conformance"]) for each in (int8, made))
    assert after["known_tolerance"] == before["known_tolerance"]
    assert difference(int8, made, pixels(20, 24)) <= 0.05
    with pytest.raises(InvalidInput) as caught:
        convert(int8, Variant(precision="fp16"))
    assert caught.value.reason == "VARIANT_REFUSED"


def test_int8_needs_images_of_the_task(stored: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        convert(stored, Variant(precision="int8"))
    assert (caught.value.violations[0].field, caught.value.reason) == (
        "precision",
        "VARIANT_REFUSED",
    )


def test_int8_ends_at_opset_20(stored: bytes, int8: bytes) -> None:
    """ONNX Runtime 1.31 cannot open graphs in 8 bits of opset 21."""
    wanted = [(stored, Variant(precision="int8", opset=21)), (int8, Variant(opset=21))]
    for data, variant in wanted:
        with pytest.raises(InvalidInput) as caught:
            convert(data, variant, TASK)
        assert (caught.value.violations[0].field, caught.value.reason) == (
            "opset",
            "VARIANT_REFUSED",
        )
        assert "choose 20 or lower" in str(caught.value)
        assert "[ONNXRuntimeError]" not in str(caught.value)


def test_int8_is_not_calibrated_on_a_few_images(stored: bytes) -> None:
    few = TASK[: LEAST_CALIBRATION - 1]
    with pytest.raises(InvalidInput, match=r"on 7 images; at least 8 are needed") as caught:
        convert(stored, Variant(precision="int8"), few)
    assert caught.value.reason == "VARIANT_REFUSED"


def test_an_adaptation_to_a_few_images_is_not_made_int8(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny", options=AdaptConfig(precision="int8"))
    with pytest.raises(InvalidInput, match="add images, or choose fp16") as caught:
        adapt(checkpoint, examples((2, 1)), options={"steps": 0, "tuning_steps": 0})
    assert caught.value.violations[0].field == "options.precision"


def test_int8_that_answers_differently_is_refused() -> None:
    close = Agreement(
        images=64,
        top1=0.99,
        probability=0.2,
        logit=1.0,
        noise=0.04,
        relative=0.1,
        known=0.3,
        known_same=0.99,
    )
    require_close(close)
    worse = [replace(close, top1=0.97), replace(close, known_same=0.97)]
    worse += [replace(close, noise=noise) for noise in (0.051, float("nan"))]
    for each in worse:
        with pytest.raises(InvalidInput) as caught:
            require_close(each)
        assert caught.value.reason == "VARIANT_REFUSED"
        assert "choose fp16" in str(caught.value)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_adaptation_chooses_the_precision(precision: str, tmp_path: Path) -> None:
    options = AdaptConfig(steps=1, tuning_steps=1, precision=precision)
    checkpoint = make_checkpoint(tmp_path / "tiny", options=options)
    seen: list[str] = []
    first, second = (
        adapt(checkpoint, examples((3, 3, 3)), on_progress=lambda each: seen.append(each.stage))
        for _ in range(2)
    )
    assert first.onnx == second.onnx
    assert (stated(first.onnx)["precision"], stated(first.onnx)["images"]) == (precision, 18)
    assert first.report.onnx_bytes == len(first.onnx)
    assert first.report.seconds["convert"] > 0
    assert seen.count("convert") == 2


def test_weights_beyond_half_precision_are_refused(stored: bytes) -> None:
    model = onnx.load_from_string(stored)
    large = max(
        (each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT),
        key=lambda each: numpy_helper.to_array(each).size,
    )
    values = numpy_helper.to_array(large).copy()
    values.flat[0] = 1e6
    large.CopyFrom(numpy_helper.from_array(values, large.name))
    with pytest.raises(InvalidInput) as caught:
        convert(model.SerializeToString(), Variant(precision="fp16"))
    assert caught.value.reason == "VARIANT_REFUSED"
    assert "float32" in str(caught.value)


def test_an_operator_without_a_form_in_the_opset_is_refused(stored: bytes) -> None:
    model = onnx.load_from_string(stored)
    flat = next(node for node in model.graph.node if node.op_type == "Relu")
    flat.op_type = "HardSwish"  # since opset 14
    with pytest.raises(InvalidInput) as caught:
        convert(model.SerializeToString(), Variant(opset=13))
    assert (caught.value.violations[0].field, caught.value.reason) == ("opset", "VARIANT_REFUSED")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"precision": "fp8"}, "precision"),
        ({"height": 7}, "height"),
        ({"height": -1, "width": 4}, "height"),
        ({"height": 4, "width": 2049}, "width"),
        ({"opset": 12}, "opset"),
        ({"opset": 22}, "opset"),
    ],
)
def test_variants_that_do_not_exist(given: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Variant(**given)  # type: ignore[arg-type]
    assert field in [each.field for each in caught.value.violations]
    assert caught.value.reason == "OPTION_OUT_OF_RANGE"


def test_agreement_is_measured_on_all_outputs() -> None:
    one = Answers(
        np.array([[2, 0], [0, 1]], np.float32),
        np.array([[0.9, 0.1], [0.3, 0.7]], np.float32),
        np.array([1, 0], np.float32),
    )
    other = one._replace(
        logits=np.array([[2, 0], [1.1, 1]], np.float32),
        probabilities=np.array([[0.9, 0.1], [0.5, 0.5]], np.float32),
    )
    found = compare(one, other)
    assert (found.images, found.top1) == (2, 0.5)
    assert found.probability == pytest.approx(0.2)
    assert found.logit == pytest.approx(1.1)
    assert found.relative == pytest.approx(0.55)
    with pytest.raises(ExportMismatch):
        require_equal(found)
    with pytest.raises(InvalidInput):
        require_half(found)
    for require, error, change in (
        (require_equal, ExportMismatch, 0.02),
        (require_half, InvalidInput, 0.2),
    ):
        changed = compare(one, one._replace(known=one.known - np.float32(change)))
        assert changed.known == pytest.approx(change, abs=1e-6)
        with pytest.raises(error, match="known"):
            require(changed)
    nan = one._replace(logits=np.full_like(one.logits, np.nan))
    with pytest.raises(ExportMismatch):
        require_equal(compare(one, nan))


def test_small_constants_keep_single_precision(stored: bytes) -> None:
    names = {each.name for each in onnx.load_from_string(stored).graph.initializer}
    kept = {each.name for each in halved(onnx.load_from_string(stored)).graph.initializer}
    assert 0 < len(names & kept) < len(names)
