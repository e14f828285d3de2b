"""Every value of an extension point keeps the contract that `metanas.testing` ships."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metanas.nn.ops import OPS, Chain, Op, emit_chain
from metanas.nn.partial_channels import on_a_part
from metanas.supernet.relaxations import RELAXATIONS, Gumbel, Noisy, Relaxation, Softmax
from metanas.testing import check_dataset, check_meta_learner, check_op, check_relaxation
from metanas.training.inner_loop import InnerLoop
from metanas.training.meta_learners import META_LEARNERS, Learned, Reptile
from metanas_data.datasets.stacks import Classes, load

MORE: dict[str, Relaxation] = {
    "noisy": Noisy(Softmax(), 1.0),
    "noise on noise": Noisy(Gumbel(), 0.15),
}


@pytest.mark.parametrize("channels", [4, 5])
@pytest.mark.parametrize("name", OPS)
def test_op(name: str, channels: int) -> None:
    check_op(OPS[name], channels=channels)


@pytest.mark.parametrize("name", OPS)
def test_op_on_a_part_of_the_channels(name: str) -> None:
    check_op(on_a_part(OPS[name], 2), channels=4, sizes=(1, 2, 5, 6))


@pytest.mark.parametrize("name", [*RELAXATIONS, *MORE])
def test_relaxation(name: str) -> None:
    check_relaxation({**RELAXATIONS, **MORE}[name])


@pytest.mark.parametrize("name", META_LEARNERS)
def test_meta_learner(name: str) -> None:
    check_meta_learner(META_LEARNERS[name])


def test_dataset(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "data.npz",
        images=np.random.default_rng(0).integers(0, 256, (3, 4, 6, 6), dtype=np.uint8),
        class_name=np.array(["a", "b", "c"]),
        alphabet=np.array(["x", "x", "y"]),
        split=np.array(["train"] * 3),
    )
    check_dataset(load, tmp_path / "data.npz")


# The checks have to bite: each of these breaks one promise.


class BatchNorm(nn.Module):
    def forward(self, x: Tensor, support: int) -> Tensor:
        return x - x.mean(dim=(0, 2, 3), keepdim=True)


class InPlace(nn.Module):
    def forward(self, x: Tensor, support: int) -> Tensor:
        return x.relu_()


class Floor(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, support: int) -> Tensor:
        return x[:, :, self.stride - 1 :: self.stride, self.stride - 1 :: self.stride]


BROKEN_OPS: dict[str, tuple[Op, str]] = {
    "statistics of the whole batch": (
        Op(lambda channels, stride: BatchNorm(), emit_chain),
        "changes no other row",
    ),
    "in place": (Op(lambda channels, stride: InPlace(), emit_chain), "is unchanged"),
    "floor": (Op(lambda channels, stride: Floor(stride), lambda g, m, v: v), "1x1, stride 2"),
    "another emission": (
        Op(lambda channels, stride: Chain([nn.ReLU()]), lambda graph, module, value: value),
        "ONNX Runtime agrees",
    ),
}


@pytest.mark.parametrize("name", BROKEN_OPS)
def test_broken_ops_are_found(name: str) -> None:
    op, what = BROKEN_OPS[name]
    with pytest.raises(AssertionError, match=what):
        check_op(op)


class Sigmoid(Softmax):
    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.sigmoid(logits / self.temperature)


class Unseeded(Softmax):
    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().weights(logits + torch.rand_like(logits))


OWN = torch.Generator().manual_seed(0)


class Private(Gumbel):
    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().weights(logits, OWN)


@pytest.mark.parametrize(
    ("relaxation", "what"),
    [(Sigmoid(), "sum to one"), (Unseeded(), "global generator"), (Private(), "seeded")],
)
def test_broken_relaxations_are_found(relaxation: Relaxation, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        check_relaxation(relaxation)


Change = Callable[[InnerLoop, Learned], Learned]


def ascent(loop: InnerLoop, learned: Learned) -> Learned:
    return replace(learned, gradient=-learned.gradient)


def weights_alone(loop: InnerLoop, learned: Learned) -> Learned:
    return replace(learned, gradient=learned.gradient[:, ~loop.alphas])


def mean(loop: InnerLoop, learned: Learned) -> Learned:
    return replace(learned, gradient=learned.gradient.mean(0).expand_as(learned.gradient))


def restless(loop: InnerLoop, learned: Learned) -> Learned:
    return replace(learned, gradient=learned.gradient - 1)


def in_place(loop: InnerLoop, learned: Learned) -> Learned:
    loop.start.sub_(learned.gradient[0])
    return learned


@dataclass(frozen=True)
class Broken:
    change: Change

    def learn(self, loop: InnerLoop) -> Learned:
        return self.change(loop, Reptile().learn(loop))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (ascent, "towards"),
        (weights_alone, "a row a task"),
        (mean, "alone and in a stack"),
        (restless, "does not move"),
        (in_place, "is unchanged"),
    ],
)
def test_broken_meta_learners_are_found(change: Change, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        check_meta_learner(Broken(change))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({}, "classes"),
        ({"a": np.zeros((1, 1, 2, 2), np.float32)}, "uint8"),
        ({"a": np.zeros((1, 2, 2), np.uint8)}, "N, C, H, W"),
        ({"a": np.zeros((1, 2, 2, 3), np.uint8)}, "1 or 3 channels"),
        (
            {"a": np.zeros((1, 1, 2, 2), np.uint8), "b": np.zeros((1, 1, 3, 3), np.uint8)},
            "one shape",
        ),
    ],
)
def test_broken_datasets_are_found(data: Classes, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        check_dataset(lambda path: data, Path())
