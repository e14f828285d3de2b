"""The output `known`: images of the classes are known, others are not; torch and ONNX agree."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from metanas.estimates.known import known_of
from metanas.export.known import Known
from metanas.nn.onnx_graph import Graph


def task(shots: int, seed: int, spread: float = 0.7) -> tuple[Known, Tensor, Tensor]:
    """The output of a task of five normal classes, new images of them, and of five others."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 32, generator=draw)

    def images(rows: Tensor) -> Tensor:
        return centres[rows] + spread * torch.randn(len(rows), 32, generator=draw)

    labels = torch.arange(5).repeat_interleave(shots)
    known = known_of(images(labels), labels, 5)
    queries = torch.arange(10).repeat_interleave(20)
    return known, *images(queries).split(100)


@pytest.mark.parametrize(("shots", "least"), [(1, 0.4), (2, 0.7), (5, 0.8)])
def test_new_images_of_the_classes_are_known_and_others_are_not(shots: int, least: float) -> None:
    kept, refused = [], []
    for seed in range(20):
        known, same, other = task(shots, seed)
        kept.append(float((known(same) >= 0.5).float().mean()))
        refused.append(float((known(other) < 0.5).float().mean()))
    assert np.mean(kept) > 0.95
    assert np.mean(refused) > least


def test_onnx_gives_the_same() -> None:
    known, same, other = task(3, seed=0)
    graph = Graph()
    features = graph.input("features", TensorProto.FLOAT, ["N", 32])
    graph.output("known", known.emit(graph, features), ["N"])
    session = ort.InferenceSession(graph.build("test", {}).SerializeToString())
    queries = torch.cat([same, other, torch.zeros(1, 32)])
    (actual,) = session.run(["known"], {"features": queries.numpy()})
    np.testing.assert_allclose(actual, known(queries).numpy(), atol=1e-5)


def test_identical_images_give_finite_values() -> None:
    labels = torch.arange(3).repeat_interleave(2)
    known = known_of(torch.ones(6, 4), labels, 3)
    assert known(torch.ones(1, 4)).item() > 0.5
    assert known(-torch.ones(1, 4)).item() < 0.5
