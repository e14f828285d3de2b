"""Support sets in every form become the same list of examples; unusable ones are named."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from metanas_client import InvalidInput
from metanas_client.support import (
    RawImage,
    Support,
    image_list,
    raw_images,
    read_contents,
    read_support,
)
from tests.client.conftest import class_folders, draw

SHAPES = arrays.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=5)
IMAGES = arrays.arrays(dtype=np.uint8, shape=SHAPES) | arrays.arrays(
    dtype=st.sampled_from([np.float32, np.float64]),
    shape=SHAPES,
    elements=st.floats(0, 1, width=32),
)
PIXEL = np.zeros((1, 1), dtype=np.uint8)


def as_array(image: RawImage) -> NDArray[np.generic]:
    return np.frombuffer(image.data, "<f4" if image.is_float else np.uint8).reshape(image.shape)


@given(IMAGES)
def test_arrays_keep_their_values(array: NDArray[np.generic]) -> None:
    images = raw_images(array, "x")
    expected = array if array.ndim == 4 else array[None]
    assert len(images) == len(expected)
    for image, wanted in zip(images, expected, strict=True):
        assert image.is_float == (array.dtype != np.uint8)
        np.testing.assert_array_equal(as_array(image), wanted)


@given(arrays.arrays(dtype=np.uint8, shape=(3, 6, 4, 2)))
def test_the_layout_in_memory_does_not_matter(array: NDArray[np.uint8]) -> None:
    for view in (array[:, ::2], array.transpose(0, 2, 1, 3), array[:, ::-1]):
        found = [as_array(image) for image in raw_images(view, "x")]
        np.testing.assert_array_equal(np.stack(found), view)


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 3), min_size=1))
def test_a_mapping_keeps_order_and_classes_without_examples(counts: dict[str, int]) -> None:
    support = {label: [PIXEL] * count for label, count in counts.items()}
    read = read_support(support)
    labels = [label.encode("utf-8", "surrogateescape") for label in counts]
    assert list(read.classes) == labels
    expected = [
        label for label, count in zip(labels, counts.values(), strict=True) for _ in [0] * count
    ]
    assert [example.label for example in read.examples] == expected


def test_stacked_arrays_lists_and_pairs_are_the_same() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    stacked = read_support({"a": images, "b": images[:1]})
    listed = read_support({"a": list(images), "b": [images[0]]})
    paired = read_support([("a", images[0]), ("a", images[1]), ("b", images[0])])
    assert stacked == listed == paired


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/x.png", "a/.hidden", ".git/y.png", "b/Thumbs.db"):
        draw(tmp_path / name if name.endswith(".png") else tmp_path / "z.png", 0)
        (tmp_path / "z.png").unlink(missing_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "empty").mkdir()
    read = read_support(tmp_path)
    assert read.classes == (b"a", b"b", b"empty")
    sources = [os.path.relpath(example.source or "", tmp_path) for example in read.examples]
    assert sources == ["a/x.png", "b/10.png", "b/2.png"]
    assert [example.label for example in read.examples] == [b"a", b"b", b"b"]


def test_paths_and_bytes_are_sent_as_they_lie_on_disk(tmp_path: Path) -> None:
    path = draw(tmp_path / "x.png", 0)
    read = read_support({"a": [path, str(path)], "b": [path.read_bytes()]})
    assert {content for _, content in read_contents(read)} == {path.read_bytes()}
    assert [example.source for example in read.examples] == [str(path), str(path), None]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_name_that_is_no_utf8_reaches_the_server_as_it_is(tmp_path: Path) -> None:
    draw(tmp_path / os.fsdecode(b"\xff\xfe") / "1.png", 0)
    assert read_support(tmp_path).classes == (b"\xff\xfe",)


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, 2, 30)
    for name in ("class0/broken.png", "class1/broken.png"):
        (folder / name).symlink_to(tmp_path / "nowhere.png")
    for index in range(30):
        draw(tmp_path / f"loose{index}.png", 0)
    with pytest.raises(InvalidInput) as caught:
        read_support(tmp_path)
    assert len(caught.value.violations) == 32


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "Icon\r", "$RECYCLE.BIN"])
def test_the_litter_of_operating_systems_is_skipped(tmp_path: Path, name: str) -> None:
    class_folders(tmp_path, 2, 1)
    draw(tmp_path / name / "x.png", 0)
    draw(tmp_path / "class0" / name / "x.png", 0)
    assert len(read_support(tmp_path).examples) == 2


def test_files_in_the_wrong_place_are_all_named(tmp_path: Path) -> None:
    draw(tmp_path / "loose.png", 0)
    draw(tmp_path / "a" / "deep" / "x.png", 0)
    with pytest.raises(InvalidInput) as caught:
        read_support(tmp_path)
    assert [violation.reason for violation in caught.value.violations] == ["FOLDER_LAYOUT"] * 2
    assert [Path(v.source or "").name for v in caught.value.violations] == ["deep", "loose.png"]


@pytest.mark.parametrize("inner", ["", "a"])
def test_a_folder_without_images_is_named(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).mkdir(exist_ok=True)
    with pytest.raises(InvalidInput, match=f"{tmp_path} holds no images") as caught:
        read_support(tmp_path)
    assert caught.value.reason == "NO_EXAMPLES"


@pytest.mark.parametrize(
    ("support", "reason"),
    [
        ("/no/such/folder", "FOLDER_MISSING"),
        (__file__, "FOLDER_MISSING"),
        ("x" * 300, "FOLDER_MISSING"),
        (b"bytes", "SUPPORT_FORM"),
        (7, "SUPPORT_FORM"),
        (["ab"], "SUPPORT_FORM"),
        ([("a", PIXEL, 1)], "SUPPORT_FORM"),
        ({"a": "one.png"}, "SUPPORT_FORM"),
        ({"a": b"one image"}, "SUPPORT_FORM"),
        ({"a": [7]}, "SUPPORT_FORM"),
        ({"a": 7}, "SUPPORT_FORM"),
        ({7: [PIXEL]}, "LABEL_TYPE"),
        ({"a": [np.zeros((2, 2), dtype=np.int64)]}, "TENSOR_FORM"),
        ({"a": [np.zeros((2, 2), dtype=">f4")]}, "TENSOR_FORM"),
        ({"a": [np.zeros(4, dtype=np.uint8)]}, "TENSOR_FORM"),
        ({"a": np.zeros((1, 1, 2, 2, 1), dtype=np.uint8)}, "TENSOR_FORM"),
        ({"a": [np.zeros((2, 2, 2, 1), dtype=np.uint8)]}, "TENSOR_FORM"),
    ],
)
def test_what_is_no_support_set_is_refused_with_a_reason(support: Support, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_support(support)
    assert caught.value.reason == reason
    assert str(caught.value)


def test_images_without_classes_are_read_the_same_way(tmp_path: Path) -> None:
    path = draw(tmp_path / "x.png", 0)
    images = [path, path.read_bytes(), RawImage((1, 1), False, b"\0")]
    assert list(image_list([str(path), path.read_bytes(), PIXEL], "images")) == images


def test_all_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    draw(tmp_path / "x1.png", 0)
    support = read_support({"a": [tmp_path / "x2.png", PIXEL], "b": [tmp_path, "x" * 300]})
    with pytest.raises(InvalidInput) as caught:
        read_contents(support)
    assert [(v.field, v.reason, v.source) for v in caught.value.violations] == [
        ("examples[0].image", "FILE_UNREADABLE", str(tmp_path / "x2.png")),
        ("examples[2].image", "FILE_UNREADABLE", str(tmp_path)),
        ("examples[3].image", "FILE_UNREADABLE", "x" * 300),
    ]
    assert "Did you mean x1.png?" in str(caught.value)
