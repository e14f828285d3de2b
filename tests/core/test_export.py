"""The exported file: what it states, computes, promises, and that torch's own exporter agrees."""

from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from metanas.errors import ExportMismatch
from metanas.export.onnx_model import Classifier, Encoder, to_onnx
from metanas.export.runtime import run, session
from metanas.export.verify import TOGETHER, _run_together, check
from metanas.images.support_set import Preprocessing, support_set
from metanas.nn.onnx_graph import IR_VERSION, OPSET
from metanas.nn.ops import OPS
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.spec.search_space import SearchSpace
from metanas.supernet.discrete import freeze_statistics, from_supernet
from metanas.supernet.supernet import genotype_of
from metanas.util.work import whole
from tests.core.small import SPACE, TINY, small_supernet

Image = NDArray[np.uint8]
GREY = Preprocessing(size=12, scale=(-2.0,), shift=(0.7,))
COLOUR = Preprocessing(size=12, scale=(2.0, 1.5, 1.0), shift=(-0.5, 0.1, 0.0))
METADATA = {"metanas.labels": '["b", "a"]', "metanas.version": "0"}


def pixels(count: int, height: int, width: int, channels: int = 1) -> Image:
    random = np.random.default_rng(height + width)
    return random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


@cache
def classifier(
    seed: int = 0, channels: int = 1, space: SearchSpace = SPACE, size: int = 12
) -> Classifier:
    """A random network of a random genotype, frozen on a support set of its own."""
    space = replace(space, input_channels=channels)
    preprocess = replace(GREY if channels == 1 else COLOUR, size=size)
    supernet = small_supernet(space, seed=seed)
    params = {k: v.detach() for k, v in supernet.named_parameters()}
    network = from_supernet(space, params, genotype_of(supernet, params), OPS)
    network.requires_grad_(False)
    images = list(pixels(9, 15, 18, channels))
    task = support_set(images, list("abcabcabc"), preprocess)
    whole(freeze_statistics(network, task.images, 9))
    scale = torch.tensor(1.5)
    weight, bias = PrototypeHead().linear(network(task.images), membership(task.labels, 3), scale)
    return Classifier((Encoder(preprocess, network),), weight, bias, scale)


@cache
def exported(seed: int = 0, channels: int = 1) -> onnx.ModelProto:
    return to_onnx(classifier(seed, channels), OPS, METADATA)


def expected(model: Classifier, images: Image) -> Tensor:
    return model.logits([torch.cat([model.encoders[0].preprocess(image) for image in images])])


def outputs(model: onnx.ModelProto, images: Image) -> tuple[Tensor, Tensor]:
    feed = {"images": images}
    logits, probabilities = session(model.SerializeToString()).run(
        ["logits", "probabilities"], feed
    )
    return torch.from_numpy(logits), torch.from_numpy(probabilities)


def test_the_file_states_what_it_needs() -> None:
    model = exported()
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert (OPSET, model.ir_version) == (17, IR_VERSION) == (17, 8)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    (images,) = model.graph.input
    shape = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert shape == ["N", "H", "W", 1]
    assert [output.name for output in model.graph.output] == ["logits", "probabilities"]
    names = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in names


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_onnx_runtime_agrees_with_torch(seed: int, channels: int) -> None:
    model = classifier(seed, channels)
    for height, width in [(12, 12), (5, 7), (40, 31)]:
        images = pixels(3, height, width, channels)
        logits, probabilities = outputs(exported(seed, channels), images)
        reference = expected(model, images)
        tolerance = 1e-4 * max(1.0, float(reference.abs().max()))
        torch.testing.assert_close(logits, reference, atol=tolerance, rtol=0)
        torch.testing.assert_close(probabilities, torch.softmax(logits, 1))


@pytest.mark.parametrize("size", [8, 9, 11, 12, 13, 14])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_quarters_of_maps_of_any_side(size: int, stem_stride: int) -> None:
    space = replace(SPACE, grid=2, stem_stride=stem_stride)
    model, images = classifier(space=space, size=size), pixels(3, 17, 10)
    logits, _ = outputs(to_onnx(model, OPS, METADATA), images)
    reference = expected(model, images)
    assert model.weight.shape == (3, 4 * SPACE.features)
    tolerance = 1e-4 * max(1.0, float(reference.abs().max()))
    torch.testing.assert_close(logits, reference, atol=tolerance, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_an_empty_batch_has_no_answers(seed: int, channels: int) -> None:
    for images in (pixels(0, 12, 12, channels), pixels(0, 40, 31, channels)):
        assert [out.shape for out in outputs(exported(seed, channels), images)] == [(0, 3), (0, 3)]


@given(height=st.integers(1, 60), width=st.integers(1, 60))
@settings(max_examples=30)
def test_images_of_any_size(height: int, width: int) -> None:
    images = pixels(1, height, width)
    logits, _ = outputs(exported(), images)
    reference = expected(classifier(), images)
    tolerance = 1e-4 * max(1.0, float(reference.abs().max()))
    torch.testing.assert_close(logits, reference, atol=tolerance, rtol=0)


def test_a_query_gets_the_same_answer_alone_and_in_company() -> None:
    images = pixels(1000, 16, 14)
    model = session(exported().SerializeToString())
    (everything,) = model.run(["logits"], {"images": images})
    (pair,) = model.run(["logits"], {"images": images[[7, 999]]})
    alone = run(model, list(images[[7, 999]]))
    scale = max(1.0, float(np.abs(everything).max()))
    assert np.abs(pair - everything[[7, 999]]).max() <= 1e-5 * scale
    assert np.abs(alone - everything[[7, 999]]).max() <= 1e-5 * scale


def test_the_standard_taken_literally_gives_the_same() -> None:
    images = pixels(2, 17, 13)
    logits, probabilities = ReferenceEvaluator(exported()).run(None, {"images": images})
    mine, shares = outputs(exported(), images)
    torch.testing.assert_close(torch.from_numpy(logits), mine, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(probabilities), shares, atol=1e-3, rtol=1e-4)


def test_the_bytes_are_a_function_of_the_model() -> None:
    def data(metadata: dict[str, str]) -> bytes:
        return to_onnx(classifier(), OPS, metadata).SerializeToString(deterministic=True)

    assert data(METADATA) == data(dict(reversed(METADATA.items())))
    assert data(METADATA) != data({**METADATA, "metanas.version": "1"})


def test_a_file_that_computes_something_else_never_leaves() -> None:
    images = list(pixels(2, 9, 9))
    logits = expected(classifier(), np.stack(images))
    data, difference = whole(check(exported(), images, logits))
    assert difference < 1e-3
    assert onnx.load_model(BytesIO(data)) == exported()
    with pytest.raises(ExportMismatch) as caught:
        whole(check(exported(), images, logits + 1.0))
    assert caught.value.reason == "EXPORT_MISMATCH"
    with pytest.raises(ExportMismatch):
        whole(check(exported(), images, logits * torch.nan))


def test_exploded_logits_hide_no_difference() -> None:
    images = list(pixels(2, 9, 9))
    exploded = replace(classifier(), weight=classifier().weight * 1e6)
    logits = expected(exploded, np.stack(images))
    assert logits.abs().max() > 1e5
    with pytest.raises(ExportMismatch):
        whole(check(to_onnx(exploded, OPS, METADATA), images, logits + 0.5))


class Whole(nn.Module):
    """The classifier as torch's exporter takes it: normalised images in, logits out."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.network, self.weight, self.bias = model.encoders[0].network, model.weight, model.bias

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.network(inputs)
        return features @ self.weight.T + self.bias


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
@pytest.mark.parametrize(("seed", "space"), [(0, SPACE), (1, SPACE), (2, TINY)])
def test_torchs_own_exporter_agrees(seed: int, space: SearchSpace) -> None:
    model = classifier(seed, 1, space)
    images = pixels(4, 21, 17)
    inputs = torch.cat([model.encoders[0].preprocess(image) for image in images])
    program = torch.onnx.export(Whole(model).eval(), (inputs,), dynamo=True, verbose=False)
    assert program is not None
    oracle = session(program.model_proto.SerializeToString())
    (theirs,) = oracle.run(None, {oracle.get_inputs()[0].name: inputs.numpy()})
    mine, _ = outputs(to_onnx(model, OPS, {}), images)
    tolerance = 1e-4 * max(1.0, float(np.abs(theirs).max()))
    torch.testing.assert_close(mine, torch.from_numpy(theirs), atol=tolerance, rtol=0)


def test_large_images_run_one_by_one_and_small_ones_together() -> None:
    batches: list[int] = []

    class Runtime:
        def run(self, names: list[str], feeds: dict[str, NDArray[np.uint8]]) -> list[Any]:
            batches.append(count := len(feeds["images"]))
            return [np.zeros((count, 2), np.float32)]

    large = [np.zeros((1100, 1000, 1), np.uint8)] * 4
    for images in (large, [image[:10, :10] for image in large] * 20):
        assert len(whole(_run_together(Runtime(), images, TOGETHER))) == len(images)
    assert batches == [1, 1, 1, 1, 32, 32, 16]
