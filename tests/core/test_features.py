"""Meta-training behind a trunk: features once, from several data sets, and a checkpoint with it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import load_checkpoint
from metanas.errors import DatasetError
from metanas.images.support_set import Preprocessing
from metanas.nn.pretrained import pretrained_trunk
from metanas.nn.stem import interpolated
from metanas.nn.trunk import Trunk
from metanas.runs.run import run
from metanas.spec.options import AffineRange, PhotoRange
from metanas.spec.search_space import SearchSpace
from metanas.training.config import RunConfig
from metanas.training.dataset import classes_of, trunk_features
from tests.core.small import RUN, examples, run_config, synthetic

STILL = AffineRange(rotation=0.0, shift=0.0, scale=0.0, shear=0.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The tiny run on the first blocks of the trunk, with colour images of two files."""
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("one", "two")):
        classes = synthetic(6, 8, size=20, channels=3, seed=seed)
        np.savez(
            folder / f"{name}.npz",
            images=np.concatenate(list(classes.values())),
            labels=np.repeat(list(classes), 8),
            split=np.repeat(["train"] * 4 + ["val"] * 2, 8),
        )
    base = run_config(iterations=2, warm_up=0, settle=0, validate_every=1)
    return replace(
        base,
        name="behind",
        data=replace(base.data, path=str(folder / "one.npz"), more=(str(folder / "two.npz"),)),
        input=replace(base.input, channels=3, size=16, mean=(0.5,) * 3, std=(0.5,) * 3),
        space=replace(
            RUN.space,
            input_channels=3,
            stem_channels=SearchSpace.stem_channels,
            stem_stride=SearchSpace.stem_stride,
            grid=1,
            trunk="efficientnet-lite0",
            taps=(1, 3),
            reductions=(1,),
        ),
        photo=PhotoRange(flip=True),
        views=2,
        keep=0.25,
    )


def test_features_are_what_an_adaptation_sees(config: RunConfig) -> None:
    trunk = pretrained_trunk(config.space)
    images = synthetic(2, 3, size=20, channels=3)
    seen = list[tuple[int, int]]()
    found = trunk_features(images, trunk, config, 2, lambda *counts: seen.append(counts))
    assert seen[-1] == (6, 6)
    preprocess = Preprocessing(16, (2.0,) * 3, (-1.0,) * 3)
    for name, stack in images.items():
        assert found[name].shape == (3, 3, trunk.maps.length(16))
        expected = trunk(torch.cat([preprocess(image.transpose(1, 2, 0)) for image in stack]))
        torch.testing.assert_close(torch.from_numpy(found[name][:, 0]), expected.half())
    plain = replace(config, photo=PhotoRange(), augment=STILL)
    same = trunk_features(images, trunk, plain, 1, lambda *_: None)
    for each in same.values():
        np.testing.assert_allclose(each[:, 1], each[:, 0], atol=0.02 * float(abs(each).max()))


def test_data_sets_are_one(config: RunConfig) -> None:
    train, val = classes_of(replace(config, space=replace(config.space, trunk="")))
    assert len(train) == 8
    assert len(val) == 4
    assert {name.split("/")[0] for name in train} == {"one", "two"}


def test_data_are_checked_before_the_trunk_sees_them(config: RunConfig) -> None:
    seen = list[int]()
    many = replace(config, task=replace(config.task, ways=(3, 500), images=1000))
    with pytest.raises(DatasetError) as caught:
        classes_of(many, Trunk(many.space), lambda done, images: seen.append(done))
    assert caught.value.reason == "DATASET_TOO_FEW_CLASSES"
    assert not seen


def test_a_run_behind_a_trunk(config: RunConfig, tmp_path: Path) -> None:
    seen = list[int]()
    run(
        config,
        tmp_path / "run",
        resume=False,
        on_progress=lambda progress: None,
        on_images=lambda done, images: seen.append(done),
    )
    assert seen[-1] == 4 * 8  # the validation classes come last
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.card.photo == config.photo
    assert checkpoint.card.views == config.views
    published = pretrained_trunk(config.space)
    assert checkpoint.trunk is not None
    for name, value in published.state_dict().items():
        assert torch.equal(checkpoint.trunk.state_dict()[name], value), name
    assert adapt(checkpoint, examples((2, 2), size=20, channels=3)).onnx


def test_a_run_behind_a_trunk_is_resumed(config: RunConfig, tmp_path: Path) -> None:
    def weights(folder: Path, parts: tuple[int, ...]) -> Mapping[str, torch.Tensor]:
        for iterations in parts:
            train = replace(config.train, iterations=iterations, anneal=False)
            resume = iterations != parts[0]
            run(replace(config, train=train), folder, resume=resume, on_progress=lambda seen: None)
        return load_checkpoint(folder / "checkpoint").params

    whole, stopped = weights(tmp_path / "a", (2,)), weights(tmp_path / "b", (1, 2))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


def test_tempered_is_between_trained_and_frozen() -> None:
    trained = {"embed.project.weight": torch.full((2, 2, 1, 1), 3.0), "other": torch.ones(1)}
    half = interpolated(trained, 0.5)["embed.project.weight"][..., 0, 0]
    assert torch.equal(half, torch.tensor([[2.0, 1.5], [1.5, 2.0]]))
    assert torch.equal(interpolated(trained, 1.0)["embed.project.weight"][..., 0, 0], torch.eye(2))
    assert interpolated(trained, 0.0) == trained
