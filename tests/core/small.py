"""Small things that the core's tests share: search spaces, supernets, synthetic classes."""

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from metanas.errors import InvalidInput
from metanas.nn.ops import OPS
from metanas.spec.card import InputSpec
from metanas.spec.examples import Example
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.search_space import SearchSpace
from metanas.supernet.alphas import is_alpha
from metanas.supernet.supernet import Supernet, initialise
from metanas.training.config import (
    STEPS_OF,
    DataConfig,
    RunConfig,
    SearchConfig,
    TaskConfig,
    TrainConfig,
)
from metanas_data.datasets.dataset import Dataset
from metanas_data.datasets.stacks import Classes

T = TypeVar("T", TrainConfig, SearchConfig, TaskConfig)

CANDIDATES = tuple(name for name in OPS if name != "zero")
SPACE = SearchSpace(
    input_channels=1,
    ops=CANDIDATES,
    channels=(4, 6, 4),
    reductions=(1,),
    nodes=3,
    stem_channels=(3, 5),
    stem_stride=1,
)
TINY = SearchSpace(
    input_channels=1,
    ops=("max_pool_3x3", "skip_connect", "conv_3x3"),
    channels=(6, 6),
    reductions=(0,),
    nodes=2,
    stem_channels=(8,),
    stem_stride=2,
    grid=2,
)
GENOTYPE = Genotype(
    normal=(((0, "conv_3x3"), (1, "skip_connect")), ((1, "conv_3x3"), (2, "max_pool_3x3"))),
    reduce=(((0, "max_pool_3x3"), (1, "conv_3x3")), ((0, "skip_connect"), (1, "conv_3x3"))),
)
"""One of the tiny search space."""
RUN = RunConfig(
    name="tiny",
    description="A tiny run for tests.",
    data=DataConfig(path="unused"),
    input=InputSpec(channels=1, size=12, mean=(0.0,), std=(1.0,)),
    space=TINY,
    adapt=AdaptConfig(steps=2, tuning_steps=1),
    task=TaskConfig(ways=(3, 5), shots=(1, 2), images=20, steps=2),
    search=SearchConfig(warm_up=2, settle=3),
    train=TrainConfig(
        iterations=6, validate_every=3, validation_episodes=4, log_every=4, threads=1
    ),
)


def small_supernet(space: SearchSpace = SPACE, *, spread: float = 1.0, seed: int = 0) -> Supernet:
    """A supernet with random weights and with alphas that differ by about `spread`."""
    supernet = Supernet(space, OPS)
    generator = torch.Generator().manual_seed(seed)
    initialise(supernet, generator)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if is_alpha(name):
                parameter.normal_(0.0, spread, generator=generator)
    return supernet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def synthetic(
    classes: int, images: int, *, size: int = 12, channels: int = 1, seed: int = 0
) -> Classes:
    """Classes that can be told apart: blurred noise, each image of a class with noise of its own.

    `seed` draws the images; the classes of two seeds have nothing in common.
    """
    random = np.random.default_rng(seed)
    data = {}
    for index in range(classes):
        coarse = random.random((channels, 3, 3))
        pattern = np.kron(coarse, np.ones((-(-size // 3), -(-size // 3))))[:, :size, :size]
        noisy = pattern + 0.08 * random.standard_normal((images, channels, size, size))
        data[f"class {index:03d}"] = (255 * noisy.clip(0, 1)).astype(np.uint8)
    return data


def dataset(classes: Classes) -> Dataset:
    """Make a data set of decoded images."""
    images = {name: tuple(stack.transpose(0, 2, 3, 1)) for name, stack in classes.items()}
    return Dataset(name="set", split="val", classes=images)


def picture(data: Classes, label: str, index: int) -> NDArray[np.uint8]:
    """An image as it comes in: (H, W, C)."""
    return np.ascontiguousarray(data[label][index].transpose(1, 2, 0))


def examples(
    shots: tuple[int, ...], *, size: int = 16, channels: int = 1, seed: int = 0
) -> list[Example]:
    """A support set with this many images of each class."""
    data = synthetic(len(shots), max(shots), size=size, channels=channels, seed=seed)
    return [
        Example(label, picture(data, label, index))
        for label, count in zip(data, shots, strict=True)
        for index in range(count)
    ]


def run_config(**changes: Any) -> RunConfig:
    """The tiny run with other settings of training, search or tasks, whose names are distinct.

    The task optimizer is that of the meta-learner.
    """
    learner = changes.get("meta_learner", "reptile")
    changes.setdefault("task_optimizer", STEPS_OF.get(learner, "adam"))

    def pick(section: T) -> T:
        known = {each.name for each in fields(section)} & changes.keys()
        return replace(section, **{name: changes.pop(name) for name in known})

    train, search, task = pick(RUN.train), pick(RUN.search), pick(RUN.task)
    assert not changes
    return replace(RUN, train=train, search=search, task=task)


def findings(error: pytest.ExceptionInfo[InvalidInput]) -> set[tuple[str, str]]:
    """Field and reason of every violation."""
    return {(violation.field, violation.reason) for violation in error.value.violations}
