"""Check the public names of the core."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import metanas
from metanas import _api
from metanas.testing import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "AdaptConfig", "AdaptedModel", "Checkpoint", "EpisodeShape", "Example", "Genotype",
    "InvalidInput", "Limits", "MetanasError", "Report", "Sampler", "UniversalSpace", "Variant",
    "__version__", "adapt", "convert", "evaluate", "load_checkpoint", "load_dataset",
    "load_universal", "read_folder",
]  # fmt: skip


def test_the_public_names_are_frozen() -> None:
    assert metanas.__all__ == NAMES
    assert sorted([*_api.__all__, "__version__"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(metanas, name) is not None


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'adept'"):
        getattr(metanas, "adept")  # noqa: B009 (mypy knows that it is not there)


def test_the_package_loads_without_torch() -> None:
    program = "import sys, metanas; assert not {'torch', 'numpy', 'onnx'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_folder_is_a_support_set(tmp_path: Path) -> None:
    for name in (
        "b/2.png",
        "b/1.png",
        "a/1.png",
        ".git/1.png",
        "a/.hidden",
        "__MACOSX/1",
        "a/Icon\r",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = [(each.label, each.image) for each in metanas.read_folder(tmp_path)]
    assert found == [("a", b"a/1.png"), ("b", b"b/1.png"), ("b", b"b/2.png")]


def test_bad_files_of_a_folder_are_named(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tiny", channels=1)
    for name, level in {"a/1.png": 0, "b/1.png": 255}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), level).save(tmp_path / "set" / name)
    (tmp_path / "set" / "b" / "3.png").write_bytes(b"no image")
    with pytest.raises(metanas.InvalidInput) as caught:
        metanas.adapt(checkpoint, metanas.read_folder(tmp_path / "set"))
    assert str(tmp_path / "set" / "b" / "3.png") in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(metanas.InvalidInput, match="make a sub-folder of images"):
        metanas.read_folder(tmp_path)


def test_a_class_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(metanas.InvalidInput) as caught:
        metanas.read_folder(tmp_path)
    assert [(v.reason, "link to the class 'a'" in v.message) for v in caught.value.violations] == [
        ("FOLDER_LAYOUT", True)
    ]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(metanas.InvalidInput, match="none cannot be read: No such file") as caught:
        metanas.read_folder(tmp_path / "none")
    assert caught.value.reason == "FOLDER_UNREADABLE"
