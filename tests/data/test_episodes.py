"""Data sets of all three kinds, and the episodes that are drawn from them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metanas_data.datasets.dataset import Dataset, pixels, read_dataset, with_rotations
from metanas_data.datasets.episodes import EpisodeShape, Sampler, draw_rows
from metanas_data.errors import DatasetError
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
    np.testing.assert_array_equal(pixels(found.classes["a"][0], None).ravel(), range(36, 40))
    assert list(read_dataset(path, "train").classes) == ["b", "d"]
    assert found.digest != read_dataset(path, "train").digest
    assert found.digest == read_dataset(path, "val").digest


def test_packs_give_the_encoded_files_as_they_are(tmp_path: Path) -> None:
    files = [draw(tmp_path / f"{i}.png", i).read_bytes() for i in range(5)]
    found = read_dataset(pack_file(tmp_path / "set.npz", files))
    assert found.classes == {"x": tuple(files[0::2]), "y": tuple(files[1::2])}


def test_turned_classes_are_classes() -> None:
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    whole = Dataset(name="made", split=None, classes={"x": (file.getvalue(), image)})
    turned = with_rotations(whole)
    assert list(turned.classes) == ["0/x", "90/x", "180/x", "270/x"]
    for turn in range(4):
        for one in turned.classes[f"{90 * turn}/x"]:
            assert np.array_equal(pixels(one, 3), np.rot90(image, turn))
    assert turned.digest != whole.digest
    assert turned.name == "made with rotations"


@pytest.mark.parametrize("read", [with_rotations, lambda dataset: dataset.digest])
def test_all_images_that_cannot_be_read_are_named(
    tmp_path: Path, read: Callable[[Dataset], object]
) -> None:
    file, gone = draw(tmp_path / "0.png", 0).read_bytes(), tmp_path / "gone.png"
    damaged = Dataset(name="made", split=None, classes={"x": (file, file[:40]), "y": (file, gone)})
    with pytest.raises(DatasetError) as caught:
        read(damaged)
    assert str(caught.value) == (
        "2 images cannot be read: image 1 of class 'x' (the PNG file ends too early), "
        f"{gone} (No such file or directory); repair or remove them"
    )


def test_a_digest_is_of_pixels(tmp_path: Path) -> None:
    file = draw(tmp_path / "0.png", 0)
    images = (file, file.read_bytes(), pixels(file, 3))
    digests = {Dataset(name="x", split=None, classes={"x": (one,)}).digest for one in images}
    assert len(digests) == 1


def test_classes_with_too_few_images_are_named_and_not_drawn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shape = EpisodeShape(ways=2, shots=2, queries=2)
    sampler = Sampler(made([9, 3, 9, 0]), shape, 0)
    assert caplog.messages == [
        "2 of 4 classes have fewer than 4 images and are left out: class1, class3"
    ]
    assert list(sampler.sizes) == ["class0", "class2"]
    for index in range(9):
        assert set(sampler.episode(index).support) == {"class0", "class2"}


def test_folders_may_have_splits(tmp_path: Path) -> None:
    flat = read_dataset(class_folders(tmp_path / "flat", 2, 3))
    class_folders(tmp_path / "split" / "val", 2, 3)
    class_folders(tmp_path / "split" / "train", 3, 1)
    nested = read_dataset(tmp_path / "split")
    assert (flat.split, nested.split) == (None, "val")
    assert (list(flat.classes), flat.digest) == (list(nested.classes), nested.digest)
    assert len(read_dataset(tmp_path / "split", "train").classes) == 3


def test_a_split_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    for path in (arrays_file(tmp_path / "set.npz"), class_folders(tmp_path / "folder", 2, 2)):
        with pytest.raises(DatasetError) as caught:
            read_dataset(path, "test")
        assert caught.value.reason == "DATASET_SPLIT"
    with pytest.raises(DatasetError, match="train, val"):
        read_dataset(tmp_path / "set.npz", "test")


def test_a_missing_data_set_gets_a_suggestion(tmp_path: Path) -> None:
    arrays_file(tmp_path / "set.npz")
    with pytest.raises(DatasetError, match=r"Did you mean set\.npz\?"):
        read_dataset(tmp_path / "sett.npz")


def test_a_name_that_is_too_long_is_no_data_set() -> None:
    with pytest.raises(DatasetError) as caught:
        read_dataset("x" * 300)
    assert caught.value.reason == "DATASET_MISSING"


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
    shape = EpisodeShape(ways=ways, shots=shots, queries=queries)
    enough = sum(count >= shots + queries for count in counts)
    if enough < ways:
        with pytest.raises(DatasetError) as caught:
            Sampler(made(counts), shape, seed)
        assert caught.value.reason == "DATASET_TOO_FEW_CLASSES"
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
    shape = EpisodeShape(ways=3, shots=2, queries=2)
    drawn = [Sampler(made([9] * 9), shape, seed).episode(i) for seed in (0, 1) for i in (0, 1)]
    assert len({str((one.support, one.queries)) for one in drawn}) == 4


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 0, 1), (2, 1, 0)])
def test_an_episode_needs_something_to_learn_and_to_ask(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DatasetError):
        EpisodeShape(ways=sizes[0], shots=sizes[1], queries=sizes[2])


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(DatasetError):
        Sampler(made([9] * 9), EpisodeShape(ways=2, shots=1, queries=1), -1)


def test_the_draws_of_a_seed_stay_the_same() -> None:
    """Published results are quoted by seed."""
    sizes = {name: 4 + index for index, name in enumerate("abcdefg")}
    drawn = draw_rows(sizes, 3, 1, 2, np.random.default_rng((7, 5)))
    assert {name: [rows.tolist() for rows in pair] for name, pair in drawn.items()} == {
        "g": [[8], [5, 7]],
        "c": [[4], [3, 1]],
        "a": [[2], [1, 0]],
    }
