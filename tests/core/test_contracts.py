"""Every value of an extension point keeps the contract that `metanas.testing` ships."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metanas.data import load
from metanas.episodes import Classes
from metanas.metalearn import MetaLearner, reptile
from metanas.ops import OPS, Chain, Op, emit_chain
from metanas.optimizer import Params
from metanas.relax import RELAXATIONS, Gumbel, Relaxation, Softmax
from metanas.testing import check_dataset, check_meta_learner, check_op, check_relaxation

MORE: dict[str, Relaxation] = {"noisy": Gumbel(), "a little noisy": Gumbel(noise=0.15)}


@pytest.mark.parametrize("channels", [4, 5])
@pytest.mark.parametrize("name", OPS)
def test_op(name: str, channels: int) -> None:
    check_op(OPS[name], channels=channels)


@pytest.mark.parametrize("name", [*RELAXATIONS, *MORE])
def test_relaxation(name: str) -> None:
    check_relaxation({**RELAXATIONS, **MORE}[name])


@pytest.mark.parametrize("meta_learner", [reptile])
def test_meta_learner(meta_learner: MetaLearner) -> None:
    check_meta_learner(meta_learner)


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
    "in place": (Op(lambda channels, stride: InPlace(), emit_chain), "not written to"),
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


class Unseeded(Gumbel):
    def weights(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().weights(logits, None)


@pytest.mark.parametrize(
    ("relaxation", "what"), [(Sigmoid(), "sum to one"), (Unseeded(), "seeded")]
)
def test_broken_relaxations_are_found(relaxation: Relaxation, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        check_relaxation(relaxation)


def ascent(meta: Params, adapted: Sequence[Params]) -> Params:
    return {name: -value for name, value in reptile(meta, adapted).items()}


def forgetful(meta: Params, adapted: Sequence[Params]) -> Params:
    return {k: v for k, v in reptile(meta, adapted).items() if not k.startswith("alpha.")}


def last_only(meta: Params, adapted: Sequence[Params]) -> Params:
    return reptile(meta, adapted[-1:])


def in_place(meta: Params, adapted: Sequence[Params]) -> Params:
    return {name: value.sub_(adapted[0][name]) for name, value in meta.items()}


@pytest.mark.parametrize(
    ("learner", "what"),
    [
        (ascent, "towards"),
        (forgetful, "keys"),
        (last_only, "towards"),
        (in_place, "not written to"),
    ],
)
def test_broken_meta_learners_are_found(learner: MetaLearner, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        check_meta_learner(learner)


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
