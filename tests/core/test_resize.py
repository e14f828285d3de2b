"""Resizing and preprocessing: against torch, and the graph against both."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from torch.nn import functional as F

from metanas.export.runtime import session
from metanas.images.resize import emit_resize, resize
from metanas.images.support_set import Preprocessing, preprocessing_for, support_set
from metanas.nn.onnx_graph import Graph
from metanas.spec.card import InputSpec

SIDES = st.integers(1, 150)
SIZE = 28


def reference(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def unit(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


@given(height=SIDES, width=SIDES, size=st.integers(1, 64))
@settings(max_examples=150)
def test_resizing_is_that_of_torch(height: int, width: int, size: int) -> None:
    images = unit(2, 3, height, width)
    torch.testing.assert_close(resize(images, size), reference(images, size), atol=2e-5, rtol=0)


def test_the_size_that_is_wanted_already_is_left_alone() -> None:
    images = unit(2, 1, SIZE, SIZE)
    torch.testing.assert_close(resize(images, SIZE), images, atol=1e-6, rtol=0)


def resizing_model(size: int) -> onnx.ModelProto:
    graph = Graph()
    images = graph.input("x", TensorProto.FLOAT, ["N", "W", "C", "H"])
    graph.output("y", emit_resize(graph, images, size), ["N", "C", size, size])
    model = graph.build("resize", {})
    onnx.checker.check_model(model, full_check=True)
    return model


MODEL = resizing_model(SIZE)
SESSION = session(MODEL.SerializeToString())


def turned(images: Tensor) -> NDArray[np.float32]:
    """(N, C, H, W) as the graph takes it."""
    return images.permute(0, 3, 1, 2).numpy()


@given(height=SIDES, width=SIDES, channels=st.sampled_from([1, 3]))
@settings(max_examples=150)
def test_the_graph_resizes_like_torch(height: int, width: int, channels: int) -> None:
    images = unit(2, channels, height, width)
    actual = torch.from_numpy(SESSION.run(["y"], {"x": turned(images)})[0])
    torch.testing.assert_close(actual, resize(images, SIZE), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 999), (1000, 3), (640, 480)])
def test_extreme_sizes(shape: tuple[int, int]) -> None:
    images = unit(1, 1, *shape)
    actual = torch.from_numpy(SESSION.run(["y"], {"x": turned(images)})[0])
    torch.testing.assert_close(actual, resize(images, SIZE), atol=1e-5, rtol=0)
    torch.testing.assert_close(actual, reference(images, SIZE), atol=5e-5, rtol=0)


def test_a_runtime_that_takes_the_standard_literally_resizes_alike() -> None:
    images = unit(2, 1, 13, 40)
    (actual,) = ReferenceEvaluator(MODEL).run(["y"], {"x": turned(images)})
    torch.testing.assert_close(torch.from_numpy(actual), resize(images, SIZE), atol=1e-5, rtol=0)


def spec(channels: int, *, dark: bool = False) -> InputSpec:
    mean, std = (0.2, 0.3, 0.4)[:channels], (0.5, 0.6, 0.7)[:channels]
    return InputSpec(channels=channels, size=12, mean=mean, std=std, dark_background=dark)


def pixels(height: int, width: int, channels: int = 1) -> NDArray[np.uint8]:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_scales_resizes_and_normalises(channels: int) -> None:
    image, given = pixels(20, 31, channels), spec(channels)
    out = preprocessing_for([image], given)(image)
    unit_image = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (given.mean, given.std))
    torch.testing.assert_close(out, (reference(unit_image, 12) - mean) / std, atol=1e-4, rtol=0)


def ink(ground: int, stroke: int, size: int = 10) -> NDArray[np.uint8]:
    image = np.full((size, size, 1), ground, np.uint8)
    image[3:7, 4:6] = stroke
    return image


def test_light_grounds_are_inverted_where_the_network_expects_dark_ones() -> None:
    light, dark = ink(250, 10), ink(5, 245)
    inverted = preprocessing_for([light], spec(1, dark=True))(light)
    upright = preprocessing_for([dark], spec(1, dark=True))(dark)
    torch.testing.assert_close(inverted, upright, atol=1e-5, rtol=0)  # 255 - 250 is 5
    left = preprocessing_for([light], spec(1))(light)
    assert float((left - upright).abs().max()) > 0.5


@pytest.mark.parametrize(("lights", "inverts"), [(0, False), (1, False), (2, True), (3, True)])
def test_the_majority_of_the_support_set_decides(lights: int, inverts: bool) -> None:
    images = [ink(250, 10)] * lights + [ink(5, 245)] * (3 - lights)
    assert (preprocessing_for(images, spec(1, dark=True)).scale[0] < 0) == inverts


def test_preprocessing_takes_arrays_that_cannot_be_written() -> None:
    image = pixels(9, 9)
    image.setflags(write=False)
    assert preprocessing_for([image], spec(1))(image).shape == (1, 1, 12, 12)
    assert preprocessing_for([image], spec(1))(np.rot90(image)).shape == (1, 1, 12, 12)


def test_classes_are_numbered_in_the_order_of_their_first_example() -> None:
    images = [pixels(8, 8), pixels(9, 20), pixels(12, 12), pixels(30, 9)]
    preprocess = Preprocessing(size=12, scale=(1.0,), shift=(0.0,))
    task = support_set(images, ["dog", "cat", "cat", "dog"], preprocess)
    assert task.classes == ("dog", "cat")
    assert task.labels.tolist() == [0, 1, 1, 0]
    assert (task.ways, task.shots) == (2, (2, 2))
    assert task.images.shape == (4, 1, 12, 12)
    torch.testing.assert_close(task.images[1:2], preprocess(images[1]))


def test_nothing_but_the_ratio_of_sides_is_lost_on_constant_images() -> None:
    assert torch.equal(
        resize(torch.ones(1, 1, 7, 90), 12).round(decimals=5), torch.ones(1, 1, 12, 12)
    )
