"""Install the wheels outside the checkout and make a model of photos there."""

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.e2e.installed import (
    PIP,
    build_wheels,
    has_namespaces,
    image_steps,
    outside,
    pythons,
    read_only,
    run,
    server,
    with_linked_packages,
)

MIB = 2**20
MOST_MIB = 60
"""The download of the client with all that it needs."""
SIDE = 160
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build_wheels(out)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment of this Python with server and client."""
    folder = tmp_path_factory.mktemp("server") / "venv"
    with_linked_packages(folder)
    names = ("metanas-server", "metanas-client[onnx]")
    run(folder, *PIP, "install", "--no-index", f"--find-links={dist}", *names, cwd=dist)
    return folder


def write_photos(folder: Path) -> None:
    """Cut squares out of two photographs: a temple and a flower."""
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        photo = Image.fromarray(pixels)
        for number, left in enumerate(range(0, 480, SIDE)):
            square = photo.crop((left, 120, left + SIDE, 120 + SIDE))
            square.save(folder / name / f"{number}.jpg")


def adapt(folder: Path, address: str, cwd: Path) -> None:
    """Turn photos into a model with the client of a virtual environment, and use it."""
    write_photos(cwd / "photos")
    run(folder, "metanas", "adapt", "photos", "--server", address, "--out", "m.onnx", cwd=cwd)
    run(folder, "metanas", "verify", "m.onnx", cwd=cwd)
    answer = run(folder, "metanas", "predict", "m.onnx", "photos/flower/1.jpg", cwd=cwd)
    assert "flower" in answer.replace("photos/flower", "")


@pytest.mark.slow
def test_the_installed_server_starts_on_the_shipped_checkpoints(
    installed: Path, tmp_path: Path
) -> None:
    where = "import metanas, metanas_checkpoints as c; print(metanas.__file__, c.__file__)"
    assert all(str(installed) in path for path in run_python(installed, where, tmp_path).split())
    with server(installed, tmp_path) as address:
        adapt(installed, address, tmp_path)


def run_python(folder: Path, program: str, cwd: Path) -> str:
    return run(folder, "python", "-c", program, cwd=cwd)


@pytest.mark.slow
def test_the_gpu_extra_excludes_the_default(dist: Path, tmp_path: Path) -> None:
    """pip resolves to one of the two packages, never to both."""
    folder = tmp_path / "venv"
    with_linked_packages(folder)
    site = next((folder / "lib").iterdir()) / "site-packages"
    for path in site.glob("onnxruntime-*.dist-info"):
        path.unlink()
    about = site / "onnxruntime_gpu-1.99.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99\n", encoding="utf-8"
    )
    names = ("metanas-server[gpu]", "metanas-client[onnx]")
    run(folder, *PIP, "install", "--no-index", f"--find-links={dist}", *names, cwd=tmp_path)
    listed = run(folder, *PIP, "list", cwd=tmp_path)
    found = {line.split()[0] for line in listed.splitlines()}
    assert found >= {"onnxruntime-gpu", "metanas-server", "metanas-client"}
    assert "onnxruntime" not in found
    run(folder, *PIP, "check", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not pythons(), reason="needs a newer Python")
def test_the_client_is_light_and_runs_on_the_newest_python(
    installed: Path, dist: Path, tmp_path: Path
) -> None:
    folder, archives = tmp_path / "venv", tmp_path / "archives"
    subprocess.run([str(pythons()[-1]), "-m", "venv", str(folder)], check=True)
    pip = ("python", "-m", "pip", "--quiet")
    constraints = f"--constraint={ROOT / 'constraints.txt'}"
    ours = (f"--find-links={dist}", constraints)
    run(folder, *pip, "download", *ours, f"--dest={archives}", "metanas-client[onnx]", cwd=tmp_path)
    assert sum(path.stat().st_size for path in archives.iterdir()) <= MOST_MIB * MIB
    offline = ("--no-index", f"--find-links={archives}")
    run(folder, *pip, "--isolated", "install", *offline, "metanas-client[onnx]", cwd=tmp_path)
    with server(installed, tmp_path) as address:
        adapt(folder, address, tmp_path)


@pytest.mark.slow
def test_the_steps_of_the_image_install_server_and_client(dist: Path, tmp_path: Path) -> None:
    """Each pip command of the Dockerfile, in an environment that has the third-party packages."""
    folder = tmp_path / "venv"
    with_linked_packages(folder)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    shutil.copytree(dist, tmp_path / "dist")
    arguments = {
        "DEVICE": "cpu",
        "EXTRAS": "",
        "TORCH_CPU": "https://none.invalid",
        "PIP_NO_INDEX": "1",
    }
    for step in image_steps():
        environment = {**outside(folder), **arguments}
        subprocess.run(["sh", "-euc", step], cwd=tmp_path, env=environment, check=True)
    assert run(folder, "metanas-server", "--version", cwd=tmp_path)
    assert run(folder, "metanas", "--version", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not has_namespaces(), reason="needs root and mount namespaces")
def test_the_server_writes_to_its_data_folder_and_tmp_only(installed: Path, tmp_path: Path) -> None:
    """As in a container with a read-only file system and without capabilities."""
    writable = [tmp_path / "data", tmp_path / "tmp"]
    for path in writable:
        path.mkdir()
    with server(installed, tmp_path, prefix=read_only(writable)) as address:
        adapt(installed, address, tmp_path)
    assert list((tmp_path / "data").iterdir())
