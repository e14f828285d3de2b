"""Data sets of all three kinds, and the episodes that are drawn from them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metanas_client import DatasetError
from metanas_client.evaluation.datasets import Dataset, read_dataset, with_rotations
from metanas_client.evaluation.sampling import Sampler, Shape
from metanas_client.onnx.images import load_image
from metanas_client.support import RawImage
from tests.client.conftest import class_folders, draw


def made(counts: list[int]) -> Dataset:
    classes = {
        f"class{index}": tuple(f"{index}/{image}".encode() for image in range(count))
        for index, count in enumerate(counts)
    }
    return Dataset(name="made", split=None, classes=classes)


def arrays_file(path: Path) -> Path:
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    names, splits = ["d", "c", "b", "a"], ["train", "val", "train", "val"]
    np.savez(path, images=images, class_name=names, split=splits)
    return path


def pack_file(path: Path, files: list[bytes]) -> Path:
    data = np.frombuffer(b"".join(files), dtype=np.uint8)
    offset = np.cumsum([0, *map(len, files)])
    label = [i % 2 for i in range(len(files))]
    np.savez(path, data=data, offset=offset, label=label, class_name=["x", "y"], split=["val"] * 2)
    return path


def test_arrays_are_split_by_class(tmp_path: Path) -> None:
    path = arrays_file(tmp_path / "set.npz")
    found = read_dataset(path)
    assert (found.split, list(found.classes)) == ("val", ["a", "c"])
    assert found.classes["a"][0] == RawImage((2, 2), False, bytes(range(36, 40)))
    assert list(read_dataset(path, "train").classes) == ["b", "d"]
    assert found.digest != read_dataset(path, "train").digest
    assert found.digest == read_dataset(path, "val").digest


def test_packs_give_the_encoded_files_as_they_are(tmp_path: Path) -> None:
    files = [draw(tmp_path / f"{i}.png", i).read_bytes() for i in range(5)]
    found = read_dataset(pack_file(tmp_path / "set.npz", files))
    assert found.classes == {"x": tuple(files[0::2]), "y": tuple(files[1::2])}


def test_turned_classes_are_classes(tmp_path: Path) -> None:
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    raw = RawImage((2, 3, 3), False, image.tobytes())
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    whole = Dataset(name="made", split=None, classes={"x": (file.getvalue(), raw)})
    turned = with_rotations(whole)
    assert list(turned.classes) == ["0/x", "90/x", "180/x", "270/x"]
    assert turned.classes["0/x"] == whole.classes["x"]
    for turn in range(1, 4):
        for found in turned.classes[f"{90 * turn}/x"]:
            assert np.array_equal(load_image(found, 3), np.rot90(image, turn))
    assert turned.digest != whole.digest
    assert turned.name == "made with rotations"


def test_an_image_that_cannot_be_turned_is_named(tmp_path: Path) -> None:
    file = draw(tmp_path / "0.png", 0).read_bytes()
    damaged = Dataset(name="made", split=None, classes={"x": (file,), "y": (file, file[:40])})
    with pytest.raises(DatasetError, match="image 1 of class 'y'") as caught:
        with_rotations(damaged)
    assert caught.value.reason == "IMAGE_TRUNCATED"


def test_folders_may_have_splits(tmp_path: Path) -> None:
    flat = read_dataset(class_folders(tmp_path / "flat", 2, 3))
    class_folders(tmp_path / "split" / "val", 2, 3)
    class_folders(tmp_path / "split" / "train", 3, 1)
    nested = read_dataset(tmp_path / "split")
    assert (flat.split, nested.split) == (None, "val")
    assert flat.classes == nested.classes
    assert len(read_dataset(tmp_path / "split", "train").classes) == 3


def test_a_split_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    for path in (arrays_file(tmp_path / "set.npz"), class_folders(tmp_path / "folder", 2, 2)):
        with pytest.raises(DatasetError) as caught:
            read_dataset(path, "test")
        assert caught.value.reason == "DATASET_SPLIT"
    with pytest.raises(DatasetError, match="train, val"):
        read_dataset(tmp_path / "set.npz", "test")


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 2, 2, 2)), class_name=["a", "b"])
    np.savez(tmp_path / "twice.npz", images=np.zeros((2, 1, 2, 2), np.uint8), class_name=["a", "a"])
    np.savez(tmp_path / "pickle.npz", class_name=np.array([{}], dtype=object))
    (tmp_path / "empty").mkdir()
    reasons = {
        "text.npz": "DATASET_FORMAT",
        "other.npz": "DATASET_FORMAT",
        "floats.npz": "DATASET_FORMAT",
        "twice.npz": "DATASET_FORMAT",
        "pickle.npz": "DATASET_FORMAT",
        "empty": "DATASET_EMPTY",
        "missing.npz": "DATASET_MISSING",
    }
    for name, reason in reasons.items():
        with pytest.raises(DatasetError) as caught:
            read_dataset(tmp_path / name)
        assert (name, caught.value.reason) == (name, reason)


@given(
    st.lists(st.integers(0, 8), min_size=3, max_size=9),
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2**40),
    st.integers(0, 999),
)
def test_an_episode_is_disjoint_complete_and_always_the_same(
    counts: list[int], ways: int, shots: int, queries: int, seed: int, index: int
) -> None:
    shape = Shape(ways=ways, shots=shots, queries=queries)
    enough = sum(count >= shots + queries for count in counts)
    if enough < ways:
        with pytest.raises(DatasetError) as caught:
            Sampler(made(counts), shape, seed)
        assert caught.value.reason == "DATASET_TOO_SMALL"
        assert f"{len(counts)} classes, {enough} of them" in str(caught.value)
        return
    episode = Sampler(made(counts), shape, seed).episode(index)
    assert len(episode.support) == ways
    assert list(episode.support) == list(episode.queries)
    for label in episode.support:
        images = [*episode.support[label], *episode.queries[label]]
        assert len(set(images)) == len(images) == shots + queries
        assert {image.split(b"/")[0] for image in images if isinstance(image, bytes)} == {
            label[5:].encode()
        }
    assert episode == Sampler(made(counts), shape, seed).episode(index)


def test_other_seeds_and_numbers_give_other_episodes() -> None:
    shape = Shape(ways=3, shots=2, queries=2)
    drawn = [Sampler(made([9] * 9), shape, seed).episode(i) for seed in (0, 1) for i in (0, 1)]
    assert len({str((one.support, one.queries)) for one in drawn}) == 4


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 0, 1), (2, 1, 0)])
def test_an_episode_needs_something_to_learn_and_to_ask(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DatasetError):
        Shape(ways=sizes[0], shots=sizes[1], queries=sizes[2])


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(DatasetError):
        Sampler(made([9] * 9), Shape(ways=2, shots=1, queries=1), -1)
