"""Data of a run: files, folders, classes of the caller; images that cannot be read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from metanas.errors import DatasetError
from metanas.runs.run import run
from metanas.training.config import DataConfig, RunConfig
from metanas.training.dataset import classes_of
from metanas.training.extensions import Extensions
from metanas.training.trainer import Progress
from metanas_data.datasets.stacks import Classes, load
from tests.core.running import ignore, state, without_data
from tests.core.small import synthetic


def test_classes_may_come_from_the_caller(config: RunConfig, tmp_path: Path) -> None:
    size, path = config.input.size, config.data.path
    train, val = (load(path, split, size=size, channels=1) for split in ("train", "val"))
    seen = list[Progress]()
    run(config, tmp_path / "one", resume=False, on_progress=ignore)
    best = run(
        without_data(config),
        tmp_path / "other",
        resume=False,
        on_progress=seen.append,
        extensions=Extensions(splits=(train, val)),
    )
    assert len(seen) == config.train.iterations
    assert best.iteration > 0
    one, other = state(tmp_path / "one")[1], state(tmp_path / "other")[1]
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(DatasetError, match="both splits"):
        run(
            without_data(config),
            tmp_path / "mixed",
            resume=False,
            on_progress=ignore,
            extensions=Extensions(splits=(train, train)),
        )


def split_in_two(classes: Classes) -> tuple[Classes, Classes]:
    names = sorted(classes)
    return {name: classes[name] for name in names[:7]}, {name: classes[name] for name in names[7:]}


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_of_the_caller_become_what_the_network_takes(
    config: RunConfig, channels: int
) -> None:
    splits = split_in_two(synthetic(12, 8, size=20, channels=channels))
    for found in classes_of(config, splits=splits):
        assert {images.shape for images in found.values()} == {(8, 1, 12, 12)}


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.astype(np.float32) / 255,
        lambda images: images[:, 0],
        lambda images: images.transpose(0, 2, 3, 1),
    ],
)
def test_classes_of_the_caller_that_are_no_images(
    config: RunConfig, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    classes = {name: change(images) for name, images in synthetic(12, 8).items()}
    with pytest.raises(DatasetError, match=r"images are uint8 \(N, C, H, W\)") as caught:
        classes_of(config, splits=split_in_two(classes))
    assert caught.value.reason == "DATASET_FORMAT"


def test_turned_and_mirrored_classes_are_for_training_alone(config: RunConfig) -> None:
    more = replace(config, data=replace(config.data, rotations=True, mirrored=True))
    train, val = classes_of(more, splits=split_in_two(synthetic(12, 8)))
    assert (len(train), len(val)) == (7 * 4 * 2, 5)


def test_training_and_validation_are_apart(config: RunConfig, data: Path, tmp_path: Path) -> None:
    same = replace(config, data=DataConfig(path=str(data), val_split="train"))
    with pytest.raises(DatasetError, match="7 classes are in both splits"):
        run(same, tmp_path / "run", resume=False, on_progress=ignore)


@pytest.fixture
def domains(config: RunConfig, tmp_path: Path) -> RunConfig:
    """Of two data sets: large classes, and small ones of 7 or 8 images."""
    for name, counts in (("large", [8] * 14), ("small", [8, 7] * 7)):
        for index, (label, images) in enumerate(synthetic(14, 8).items()):
            folder = tmp_path / name / ("train" if index < 9 else "val") / label
            folder.mkdir(parents=True)
            for place, image in enumerate(images[: counts[index]]):
                Image.fromarray(image[0]).save(folder / f"{place}.png")
    data = DataConfig(path=str(tmp_path / "large"), more=(str(tmp_path / "small"),))
    return replace(config, data=data, task=replace(config.task, groups=1))


def test_small_classes_are_left_out_and_large_ones_thinned(domains: RunConfig) -> None:
    whole, _ = classes_of(domains)
    bounded = replace(domains, data=replace(domains.data, least_images=8, most_images=7))
    train, _ = classes_of(bounded)
    assert sum(name.startswith("large/") for name in train) == 9
    assert sum(name.startswith("small/") for name in train) == 5
    for name, images in train.items():
        spaced = [0, 1, 2, 3, 4, 5, 7]  # evenly, from the first to the last of eight
        assert np.array_equal(images, whole[name][spaced])


def test_a_data_set_that_has_too_little_is_named(domains: RunConfig, tmp_path: Path) -> None:
    """It must not vanish: the others would be trained on alone."""
    eight = replace(domains, data=replace(domains.data, least_images=8))
    narrow = replace(eight, task=replace(domains.task, ways=(2, 9), images=60))
    with pytest.raises(DatasetError, match=r"fewer are in 'small' \(5\)") as caught:
        classes_of(narrow)
    assert caught.value.reason == "DATASET_TOO_FEW_CLASSES"
    for image in (tmp_path / "small").glob("*/*/7.png"):
        image.unlink()
    with pytest.raises(DatasetError, match="small, split 'train', has 8 images") as caught:
        classes_of(eight)
    assert caught.value.reason == "DATASET_TOO_FEW_IMAGES"


@pytest.fixture
def flawed(config: RunConfig, data: Path, tmp_path: Path) -> RunConfig:
    """Of folders, with a class's file in each split that is no image."""
    with np.load(data) as archive:
        arrays = dict(archive)
    root = tmp_path / "folder"
    for name, split, images in zip(
        *(arrays[k] for k in ("class_name", "split", "images")), strict=True
    ):
        (root / split / name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(root / split / name / f"{index}.png")
    for split in ("train", "val"):
        folder = min((root / split).iterdir())
        (folder / "broken.png").write_bytes(b"no image")
    return replace(config, data=DataConfig(path=str(root)))


def test_unreadable_images_are_refused_together(flawed: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        run(flawed, tmp_path / "run", resume=False, on_progress=ignore)
    assert caught.value.reason == "DATASET_IMAGE"
    assert str(caught.value).startswith("2 images cannot be read: ")
    assert all(f"/folder/{split}/" in str(caught.value) for split in ("train", "val"))
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_left_out(
    flawed: RunConfig,
    config: RunConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lenient = replace(flawed, data=replace(flawed.data, unreadable="skip"))
    run(lenient, tmp_path / "run", resume=False, on_progress=ignore)
    (told,) = [record.getMessage() for record in caplog.records]
    head, *lines = told.splitlines()
    assert head == "2 images cannot be read and left out:"
    assert [line.split("/")[-3] for line in lines] == ["train", "val"]
    assert all(line.endswith("broken.png: not an image that can be read") for line in lines)
    run(config, tmp_path / "whole", resume=False, on_progress=ignore)
    (_, one), (_, other) = state(tmp_path / "run"), state(tmp_path / "whole")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
