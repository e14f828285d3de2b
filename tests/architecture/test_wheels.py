"""Check the wheels and source archives: reproducible bytes, licences, metadata, versions."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

DISTRIBUTIONS = sorted(
    path.parent
    for pattern in ("pyproject.toml", "*/pyproject.toml", "runtime/*/pyproject.toml")
    for path in ROOT.glob(pattern)
)
CHOICE = "metanas-onnxruntime"
NAMED = ("NAME", "EMAIL")
NAMES = ["LICENSE", "metanas_checkpoints/photos/NOTICE"]
EPOCH = "1700000000"
SOURCES = (
    *("Makefile", "constraints.txt", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"),
    *(".gitignore", "metanas", "meta_checkpoints"),
    *("data", "protos", "checkpoints", "runtime", "server", "client", "deploy"),
)
"""Everything that the archives are made of."""


def build(root: Path, out: Path, *, umask: int, zone: str) -> dict[str, bytes]:
    """Run `make wheels` in a tree; return the archives by name."""
    command = ["make", "--silent", "wheels", f"DIST={out}", f"VENV={sys.prefix}"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "TZ": zone}
    subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, umask=umask)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out, umask=0o022, zone="UTC")
    return out


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(files.read(name))


def project(folder: Path) -> dict[str, object]:
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, object] = tomllib.loads(text)["project"]
    return found


@pytest.mark.slow
def test_the_same_sources_give_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """From a copy with other file times and modes, in another time zone."""
    copy = tmp_path / "copy"
    clone_sources(copy)
    again = build(copy, tmp_path / "dist", umask=0o077, zone="Asia/Tokyo")
    assert again == {path.name: path.read_bytes() for path in dist.iterdir()}
    assert len(again) == 2 * len(DISTRIBUTIONS)


def clone_sources(copy: Path) -> None:
    """Copy contents alone: modes and times are new."""
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(ROOT / name, copy / name)


@pytest.mark.slow
def test_a_source_archive_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    for archive in sorted(dist.glob("*.tar.gz")):
        with tarfile.open(archive) as files:
            files.extractall(tmp_path, filter="data")
        folder = tmp_path / archive.name.removesuffix(".tar.gz")
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    built = {path.name: path.read_bytes() for path in tmp_path.glob("*.whl")}
    assert built == {path.name: path.read_bytes() for path in dist.glob("*.whl")}


def test_wheels_carry_licences_and_metadata(dist: Path) -> None:
    python = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
    for wheel in dist.glob("*.whl"):
        about = metadata(wheel)
        licences = about.get_all("License-File") or []
        assert licences == (NAMES if about["Name"] == "metanas-checkpoints" else NAMES[:1])
        with zipfile.ZipFile(wheel) as files:
            (licence,) = [each for each in files.namelist() if each.endswith("/LICENSE")]
            assert files.read(licence) == (ROOT / "LICENSE").read_bytes()
        assert about["License-Expression"] == "Apache-2.0"
        assert about["Requires-Python"] == ">=3.11"
        assert about.get_all("Project-URL")
        classifiers = about.get_all("Classifier") or []
        assert python <= {*classifiers}
        systems = [name for name in classifiers if name.startswith("Operating System")]
        assert systems == ["Operating System :: MacOS", "Operating System :: POSIX :: Linux"]


def test_the_wheel_of_checkpoints_holds_what_is_shipped(dist: Path) -> None:
    (wheel,) = dist.glob("metanas_checkpoints-*.whl")
    shipped = ROOT / "meta_checkpoints"
    kept = [path for path in shipped.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    with zipfile.ZipFile(wheel) as files:
        inside = {name for name in files.namelist() if name.startswith("metanas_checkpoints/")}
    assert inside == {f"metanas_checkpoints/{path.relative_to(shipped)}" for path in kept}


def test_distributions_share_one_version() -> None:
    """Each of them needs the others of its own version."""
    version = project(ROOT)["version"]
    for folder in DISTRIBUTIONS:
        about = project(folder)
        needs = about.get("dependencies", [])
        assert isinstance(needs, list)
        ours = [need for need in needs if need.startswith("metanas") and need != CHOICE]
        assert all(need.endswith(f"=={version}") for need in ours)
        assert about["version"] == version or about["name"] == CHOICE


def test_one_choice_of_onnx_runtime_excludes_the_other() -> None:
    """Two versions of one distribution: an environment has one of them."""
    found = {
        about["version"]: about["dependencies"]
        for about in map(project, DISTRIBUTIONS)
        if about["name"] == CHOICE
    }
    assert found == {"0": ["onnxruntime-gpu>=1.20"], "1": ["onnxruntime>=1.20"]}


def python_of(wheel: Path) -> bytes:
    """Return the text of all modules of a wheel."""
    with zipfile.ZipFile(wheel) as files:
        return b"".join(files.read(name) for name in files.namelist() if name.endswith(".py"))


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def release(folder: Path, version: str) -> "subprocess.CompletedProcess[str]":
    names = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in NAMED}
    command = ["make", "release", f"VERSION={version}", f"VENV={sys.prefix}"]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **names},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_release_is_one_command(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    clone_sources(copy)
    git(copy, "init", "--quiet")
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "--message", "Begin")
    assert "is no version" in release(copy, "next").stderr
    done = release(copy, "7.8.9")
    assert done.returncode == 0, done.stderr
    assert git(copy, "tag").split() == ["v7.8.9"]
    assert git(copy, "status", "--porcelain") == ""
    assert "## [Unreleased]\n\n## [7.8.9] - 20" in (copy / "CHANGELOG.md").read_text("utf-8")
    for wheel in (copy / "dist").glob("*.whl"):
        about = metadata(wheel)
        ours = [each for each in about.get_all("Requires-Dist") or [] if "metanas" in each]
        pinned = [each for each in ours if CHOICE not in each and "extra" not in each]
        assert all(each.endswith("==7.8.9") for each in pinned)
        assert about["Version"] == "7.8.9" or about["Name"] == CHOICE
        assert f'"{project(ROOT)["version"]}"'.encode() not in python_of(wheel)
    assert "has been released" in release(copy, "7.8.9").stderr
    (copy / "new").touch()
    assert "commit or remove your changes" in release(copy, "8.0.0").stderr
