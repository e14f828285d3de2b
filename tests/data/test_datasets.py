"""Data sets on disk: every kind that is read, and what is said of those that cannot be."""

import os
import struct
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metanas.errors import DatasetError
from metanas.testing import check_dataset
from metanas_data.datasets.faults import Faults
from metanas_data.datasets.stacks import load

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def reason(path: Path, split: str | None = None, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        load(path, split, **options)
    assert str(caught.value)
    return caught.value.reason


def omniglot(folder: Path) -> Path:
    return npz(
        folder / "omniglot.npz",
        {
            "images": pixels(3, 4, 6, 6),
            "class_name": np.array(["a/1", "a/2", "b/1"]),
            "alphabet": np.array(["a", "a", "b"]),
            "split": np.array(["train", "val", "train"]),
        },
    )


def pack_arrays(counts: tuple[int, ...] = (2, 3, 1), size: int = 5) -> dict[str, NDArray[Any]]:
    """A pack whose images are all of one grey value: 10 times the class, plus the member."""
    encoded, label = [], []
    for index, count in enumerate(counts):
        for member in range(count):
            buffer = BytesIO()
            picture = Image.new("RGB", (size, size), (10 * index + member,) * 3)
            picture.save(buffer, "WEBP", lossless=True)
            encoded.append(buffer.getvalue())
            label.append(index)
    return {
        "data": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "offset": np.cumsum([0, *map(len, encoded)]),
        "label": np.array(label, dtype=np.int16),
        "class_name": np.array(["cat", "dog", "fox"]),
        "split": np.array(["train", "val", "train"]),
    }


def class_folder(root: Path, images: dict[str, list[Any]]) -> Path:
    for name, members in images.items():
        (root / name).mkdir(parents=True)
        for index, array in enumerate(members):
            Image.fromarray(array).save(root / name / f"{index}.png")
    return root


@pytest.mark.parametrize("kind", ["class-major", "pack", "arrays", "folder"])
def test_every_kind_keeps_the_contract(tmp_path: Path, kind: str) -> None:
    if kind == "class-major":
        path = omniglot(tmp_path)
    elif kind == "pack":
        path = npz(tmp_path / "pack.npz", pack_arrays())
    elif kind == "arrays":
        path = npz(tmp_path / "a.npz", {"train/cat": pixels(2, 4, 4), "train/dog": pixels(1, 4, 4)})
    else:
        path = tmp_path / "folder"
        class_folder(path / "train", {"cat": [pixels(4, 4)], "dog": [pixels(4, 4, 3)]})
    check_dataset(lambda place: load(place, "train"), path)


@pytest.mark.parametrize("names", [["cat", "cat", "fox"], ["cat", " ", "fox"]])
def test_class_names_are_there_and_distinct(tmp_path: Path, names: list[str]) -> None:
    changed = {"class_name": np.array(names)}
    assert reason(npz(tmp_path / "pack.npz", pack_arrays() | changed)) == "DATASET_FORMAT"
    with np.load(omniglot(tmp_path)) as archive:
        arrays = dict(archive)
    assert reason(npz(tmp_path / "major.npz", arrays | changed)) == "DATASET_FORMAT"


def test_class_major_archives(tmp_path: Path) -> None:
    path = omniglot(tmp_path)
    data = load(path, "train")
    assert list(data) == ["a/1", "b/1"]
    np.testing.assert_array_equal(data["b/1"], pixels(3, 4, 6, 6)[2][:, None])
    assert list(load(path, "val")) == ["a/2"]
    assert len(load(path)) == 3


def test_packs_decode_the_wanted_split(tmp_path: Path) -> None:
    path = npz(tmp_path / "pack.npz", pack_arrays())
    data = load(path, "train")
    assert {name: images.shape for name, images in data.items()} == {
        "cat": (2, 3, 5, 5),
        "fox": (1, 3, 5, 5),
    }
    assert [image.flat[0] for image in load(path, "val")["dog"]] == [10, 11, 12]
    assert load(path, "val", channels=1)["dog"].shape == (3, 1, 5, 5)


def test_packs_decode_nothing_of_other_splits(tmp_path: Path) -> None:
    arrays = pack_arrays()
    start, stop = arrays["offset"][2:4]
    data = arrays["data"].copy()
    data[start:stop] = 0  # the first image of `dog`
    path = npz(tmp_path / "pack.npz", arrays | {"data": data})
    assert len(load(path, "train")) == 2
    assert reason(path, "val") == "DATASET_IMAGE"


def test_images_of_packs_that_cannot_be_decoded(tmp_path: Path) -> None:
    arrays = pack_arrays()
    start, stop = arrays["offset"][2:4]
    data = arrays["data"].copy()
    data[start:stop] = 0  # the first image of `dog`
    data[arrays["offset"][5] :] = 0  # the only one of `fox`
    path = npz(tmp_path / "pack.npz", arrays | {"data": data})
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert caught.value.reason == "DATASET_IMAGE"
    assert str(caught.value) == (
        "2 images cannot be read: image 0 of class 'dog' (not an image that can be read), "
        "image 0 of class 'fox' (not an image that can be read); repair or remove them"
    )
    faults = Faults()
    dogs = load(path, "val", faults=faults)["dog"]
    assert [image.flat[0] for image in dogs] == [11, 12]
    assert faults == {"image 0 of class 'dog'": "not an image that can be read"}
    assert reason(path, faults=Faults()) == "DATASET_EMPTY"


@pytest.mark.parametrize(
    "change",
    [
        {"offset": np.array([0, 5])},
        {"offset": np.array([0, 9, 3, 4, 5, 6, 7])},
        {"label": np.array([0, 0, 1, 1, 1, 9])},
        {"label": np.array([0, 0, 1, 1, 1, -1])},
        {"data": np.zeros(3, dtype=np.uint8)},
        {"split": np.array(["train"])},
    ],
)
def test_packs_that_do_not_fit_together(tmp_path: Path, change: dict[str, NDArray[Any]]) -> None:
    path = npz(tmp_path / "pack.npz", pack_arrays() | change)
    assert reason(path, "train") == "DATASET_FORMAT"


def test_packs_with_an_empty_class(tmp_path: Path) -> None:
    path = npz(tmp_path / "pack.npz", pack_arrays((2, 0, 2)))
    assert reason(path, "val") == "DATASET_EMPTY"


@pytest.mark.parametrize(
    "shape", [(4, 6, 5), (4, 1, 6, 5), (4, 6, 5, 1), (4, 3, 6, 5), (4, 6, 5, 3)]
)
def test_an_array_a_class(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = npz(tmp_path / "plain.npz", {"cat": pixels(*shape), "dog": pixels(*shape)})
    data = load(path)
    channels = 3 if 3 in shape else 1
    assert {name: images.shape for name, images in data.items()} == {
        "cat": (4, channels, 6, 5),
        "dog": (4, channels, 6, 5),
    }


def test_splits_of_plain_arrays_are_prefixes(tmp_path: Path) -> None:
    arrays = {name: pixels(2, 4, 4) for name in ("train/cat", "train/dog", "val/fox", "val/hen")}
    path = npz(tmp_path / "plain.npz", arrays)
    assert list(load(path, "val")) == ["fox", "hen"]
    assert reason(path, "test") == "DATASET_SPLIT"


def test_images_with_labels(tmp_path: Path) -> None:
    images = pixels(5, 4, 4)
    arrays = {"images": images, "labels": np.array([7, 3, 7, 7, 3])}
    data = load(npz(tmp_path / "labelled.npz", arrays))
    assert list(data) == ["3", "7"]
    np.testing.assert_array_equal(data["7"][:, 0], images[[0, 2, 3]])
    assert reason(tmp_path / "labelled.npz", "train") == "DATASET_SPLIT"
    split = {"split": np.array(["train", "train", "val", "val", "val"])}
    path = npz(tmp_path / "split.npz", arrays | split)
    assert {name: len(images) for name, images in load(path, "val").items()} == {"3": 1, "7": 2}


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"cat": np.zeros((2, 4, 4), dtype=np.float32)}, "DATASET_FORMAT"),
        ({"cat": np.zeros((2, 5, 4, 4), dtype=np.uint8)}, "DATASET_FORMAT"),
        ({"cat": np.zeros((2, 3, 4, 3), dtype=np.uint8)}, "DATASET_FORMAT"),
        ({"cat": np.zeros((0, 4, 4), dtype=np.uint8)}, "DATASET_EMPTY"),
        (
            {
                "images": np.zeros((2, 0, 4, 4), dtype=np.uint8),
                "class_name": np.array(["cat", "dog"]),
                "split": np.array(["train", "train"]),
            },
            "DATASET_EMPTY",
        ),
        ({"cat": pixels(2, 4, 4), "dog": pixels(2, 5, 5)}, "DATASET_SIZE"),
        ({"cat": pixels(2, 1, 4, 4), "dog": pixels(2, 3, 4, 4)}, "DATASET_SIZE"),
        ({"images": pixels(3, 4, 4), "labels": np.array([1])}, "DATASET_FORMAT"),
        ({"cat": np.array([{"no": "pickle"}], dtype=object)}, "DATASET_FORMAT"),
        ({}, "DATASET_EMPTY"),
    ],
)
def test_plain_archives_that_are_refused(
    tmp_path: Path, arrays: dict[str, Any], expected: str
) -> None:
    assert reason(npz(tmp_path / "bad.npz", arrays)) == expected


def test_an_archive_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (tmp_path / "ran",)

    path = npz(tmp_path / "evil.npz", {"cat": np.array([Evil()], dtype=object)})
    assert reason(path) == "DATASET_FORMAT"
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DatasetError, match="it holds Python objects"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 40])
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert caught.value.reason == "DATASET_FORMAT"
    assert "is no npz archive" in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_a_lone_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "lone.npy", pixels(2, 4, 4))
    assert reason(tmp_path / "lone.npy") == "DATASET_FORMAT"


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = omniglot(tmp_path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("images.npy").header_offset
    name, extra = struct.unpack("<HH", content[start + 26 : start + 30])
    content[start + 30 + name + extra + 200] ^= 1  # a pixel
    path.write_bytes(content)
    assert reason(path) == "DATASET_FORMAT"


def test_nothing_there(tmp_path: Path) -> None:
    assert reason(tmp_path / "nowhere") == "DATASET_MISSING"
    assert reason(tmp_path) == "DATASET_EMPTY"


def test_unknown_splits_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="train, val") as caught:
        load(omniglot(tmp_path), "test")
    assert caught.value.reason == "DATASET_SPLIT"


def test_class_folders(tmp_path: Path) -> None:
    images = {"dog": [pixels(4, 5, 3)], "cat": [pixels(4, 5, 3), pixels(4, 5)]}
    data = load(class_folder(tmp_path, images))
    assert {name: stack.shape for name, stack in data.items()} == {
        "cat": (2, 3, 4, 5),
        "dog": (1, 3, 4, 5),
    }
    assert list(data) == ["cat", "dog"]
    np.testing.assert_array_equal(data["dog"][0], images["dog"][0].transpose(2, 0, 1))


def test_folders_of_splits(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", {"cat": [pixels(4, 4)], "dog": [pixels(4, 4)]})
    class_folder(tmp_path / "val", {"fox": [pixels(4, 4)]})
    assert list(load(tmp_path, "train")) == ["cat", "dog"]
    assert list(load(tmp_path, "val")) == ["fox"]
    assert reason(tmp_path, "test") == "DATASET_SPLIT"
    with pytest.raises(DatasetError, match="if the folders are splits"):
        load(tmp_path)


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    class_folder(tmp_path, {"cat": [pixels(4, 5, 3), pixels(6, 6, 3)], "dog": [pixels(9, 3)]})
    assert reason(tmp_path) == "DATASET_SIZE"
    data = load(tmp_path, size=8, channels=1)
    assert {stack.shape[1:] for stack in data.values()} == {(1, 8, 8)}


def test_files_that_are_no_images_are_refused_by_name_or_skipped(tmp_path: Path) -> None:
    class_folder(tmp_path, {"cat": [pixels(4, 4)], "dog": [pixels(4, 4)]})
    (tmp_path / "cat" / "notes.txt").write_text("nothing to see")
    (tmp_path / "dog" / "half.png").write_bytes((tmp_path / "dog" / "0.png").read_bytes()[:50])
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"\0")
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    assert caught.value.reason == "DATASET_IMAGE"
    assert str(caught.value).startswith("2 images cannot be read")
    assert "notes.txt (not an image that can be read)" in str(caught.value)
    assert "half.png (the PNG file ends too early)" in str(caught.value)

    faults = Faults()
    data = load(tmp_path, faults=faults)
    assert {name: len(stack) for name, stack in data.items()} == {"cat": 1, "dog": 1}
    assert faults == {
        str(tmp_path / "cat" / "notes.txt"): "not an image that can be read",
        str(tmp_path / "dog" / "half.png"): "the PNG file ends too early",
    }


def test_what_is_no_file_does_not_vanish(tmp_path: Path) -> None:
    class_folder(tmp_path, {"cat": [pixels(4, 4)], "dog": [pixels(4, 4)]})
    class_folder(tmp_path / "cat", {"kittens": [pixels(4, 4)], ".cache": [pixels(4, 4)]})
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    faults = Faults()
    data = load(tmp_path, faults=faults)
    assert {name: len(stack) for name, stack in data.items()} == {"cat": 1, "dog": 1}
    assert faults == {
        str(tmp_path / "cat" / "kittens"): "a folder inside a class: its images would not be read",
        str(tmp_path / "dog" / "gone.png"): "a link without a target",
        str(tmp_path / "dog" / "pipe.png"): "not a file",
    }
    with pytest.raises(DatasetError, match=r"3 images cannot be read: .*/cat/kittens"):
        load(tmp_path)


def test_a_class_of_unreadable_files_only_is_empty(tmp_path: Path) -> None:
    class_folder(tmp_path, {"cat": [pixels(4, 4)]})
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "x.png").write_bytes(b"x")
    assert reason(tmp_path, faults=Faults()) == "DATASET_EMPTY"


def test_resizing_keeps_flat_colours_and_averages(tmp_path: Path) -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    path = npz(
        tmp_path / "a.npz",
        {"flat": np.full((1, 9, 9), 77, dtype=np.uint8), "board": board[None].astype(np.uint8)},
    )
    data = load(path, size=8)
    assert set(data["flat"].flat) == {77}
    # without the antialiasing filter a fine chequerboard would stay black and white
    assert abs(data["board"].astype(int) - 128).max() < 20


@pytest.mark.parametrize(("split", "shots"), [("support", 5), ("query", 10)])
def test_the_digits(split: str, shots: int) -> None:
    data = load(DIGITS, split, channels=1)
    assert {name: stack.shape for name, stack in data.items()} == {
        str(digit): (shots, 1, 32, 32) for digit in range(10)
    }
    for stack in data.values():
        assert np.all(stack[:, :, 0, :] > 200)  # white paper at the border
        assert stack.min() < 64  # dark ink


def test_no_digit_is_in_both_parts() -> None:
    files = {
        part: {p.name for p in (DIGITS / part).rglob("*.png")} for part in ("support", "query")
    }
    assert len(files["support"]) == 50
    assert len(files["query"]) == 100
    assert not files["support"] & files["query"]
    assert all(p.stat().st_size < 1024 for p in DIGITS.rglob("*.png"))


def test_the_digits_can_be_made_again(tmp_path: Path) -> None:
    script = tmp_path / "make_digits.py"
    script.write_text((DIGITS / "make_digits.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True)
    for part in ("support", "query"):
        shipped, made = load(DIGITS, part), load(tmp_path, part)
        assert {n: s.tobytes() for n, s in shipped.items()} == {
            n: s.tobytes() for n, s in made.items()
        }
